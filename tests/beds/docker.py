"""Bed 2: a Docker engine of its own on a unix socket, without a bridge and without a registry (root).

Its image is a skeleton: `/usr` is this machine's own, mounted read-only, so any program of this machine runs
in a container at native speed and nothing has to be pulled. Containers share the machine's network, as
`docker run --network host` does. Engine, containers, cgroups and mounts are gone when it is left.
"""

import contextlib
import io
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import psutil
from docker.api import APIClient
from docker.errors import APIError, DockerException

from beds import BedUnavailable
from beds.cgroups import remove_tree
from beds.packages import require_program

START_SECONDS = 60.0
"""It is up in 0.8 s on an idle machine."""

STOP_SECONDS = 20.0
"""dockerd ends its containers first; what then still lives is killed."""

IMAGE = "skeleton:1"
BINDS = ["/usr:/usr:ro"]
_FOLDERS = ("tmp", "etc", "root", "proc", "sys", "dev", "usr", "run", "var")
_LINKS = ("bin", "sbin", "lib", "lib64")


class Container:
    """One container of the bed's engine; read through Docker's own library, not through the guard."""

    def __init__(self, engine: "DockerEngine", identity: str, name: str) -> None:
        self._engine = engine
        self.id = identity
        self.name = name

    def inspect(self) -> dict[str, Any]:
        """All that Docker knows of it."""
        with self._engine.api() as api:
            seen: dict[str, Any] = api.inspect_container(self.id)
        return seen

    @property
    def state(self) -> dict[str, Any]:
        """Docker's State, with its Status, Running and Pid."""
        state: dict[str, Any] = self.inspect()["State"]
        return state

    @property
    def pid(self) -> int:
        """Its first process, as this machine numbers it."""
        return int(self.state["Pid"])

    @property
    def cgroup(self) -> str:
        """Its cgroup in the tree that limits memory, as the guard's sentinel reads it."""
        lines = Path(f"/proc/{self.pid}/cgroup").read_text().splitlines()
        fields = [line.split(":", 2) for line in lines]
        v1 = [path for _, controllers, path in fields if "memory" in controllers.split(",")]
        return (v1 or [path for number, _, path in fields if number == "0"])[0]

    def limits(self) -> dict[str, int]:
        """The limits that Docker holds for it."""
        keys = ("Memory", "MemorySwap", "NanoCpus", "CpuQuota", "CpuPeriod")
        host = self.inspect()["HostConfig"]
        return {key: host[key] for key in keys}

    def act(self, verb: str, *arguments: Any) -> None:
        """`pause`, `unpause`, `kill`, `start` … as a person would by hand."""
        with self._engine.api() as api:
            getattr(api, verb)(self.id, *arguments)


class DockerEngine:
    """A running dockerd. Enter it to start it; leaving ends it and all that it made.

    Args:
        options: further ones of dockerd's, instead of the storage that touches least but copies whole images.
    """

    def __init__(self, options: Sequence[str] = ("--storage-driver=vfs",)) -> None:
        self._own_options = tuple(options)
        self.starts = 0
        """How many daemons there have been: each forgets the events of the one before."""
        self._serial = 0
        self._folder = Path()
        self._process: subprocess.Popen[bytes] | None = None
        self.cgroup = f"ollama-guard-bed-docker-{os.getpid()}"

    @property
    def url(self) -> str:
        """For DOCKER_HOST, or the guard's `docker_host`."""
        return f"unix://{self._folder}/docker.sock"

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            raise BedUnavailable("a Docker engine needs root")
        require_program("dockerd", "docker.io")
        require_program("runc", "runc")
        # Short: a socket's path has at most 107 characters.
        self._folder = Path(tempfile.mkdtemp(prefix="dockerbed-", dir="/tmp"))
        try:
            self.start()
            self._import_image()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(DockerException, OSError):
                self.clear()
        self.stop()
        self._kill_left_over()
        for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
            point = line.split()[4]
            if point.startswith(f"{self._folder}/"):
                subprocess.run(["umount", "--lazy", point], check=False)
        for tree in [Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()]:
            remove_tree(tree / self.cgroup)
        shutil.rmtree(self._folder, ignore_errors=True)

    @contextlib.contextmanager
    def api(self, timeout: float = 30.0) -> Iterator[Any]:
        """Docker's own low-level client."""
        with contextlib.closing(APIClient(base_url=self.url, version="1.41", timeout=timeout)) as api:
            yield api

    def start(self) -> None:
        """Start the daemon and wait until it answers; usable again after `stop`.

        Raises:
            BedUnavailable: it ended or stayed silent for `START_SECONDS`.
        """
        folder = self._folder
        log = (folder / "dockerd.log").open("ab")
        # The signal lets it end in order when the test run is killed.
        command = ["setpriv", "--pdeathsig", "TERM", "dockerd", "-H", self.url]
        command += [f"--data-root={folder}/data", f"--exec-root={folder}/exec", f"--pidfile={folder}/pid"]
        command += ["--iptables=false", "--ip6tables=false", "--bridge=none", *self._own_options]
        command += [f"--cgroup-parent=/{self.cgroup}"]
        with log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + START_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(DockerException, OSError):
                self._knock()
                with self.api(5.0) as api:
                    api.ping()
                self.starts += 1
                return
            time.sleep(0.1)
        tail = (folder / "dockerd.log").read_text(errors="replace")[-500:]
        raise BedUnavailable(f"no dockerd runs here: {tail}")

    def _knock(self) -> None:
        """Docker's library leaves a socket open when nobody listens, which pytest takes for an error."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(self.url.removeprefix("unix://"))

    def stop(self) -> None:
        """End the daemon, and with it its containers; safe to call twice."""
        if self._process is None:
            return
        self.thaw()
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def kill(self) -> None:
        """End the daemon at once, and containerd, which it started: its containers live on."""
        assert self._process is not None
        others = psutil.Process(self._process.pid).children()
        self._process.kill()
        self._process.wait()
        self._process = None
        # The next one would wait in vain for a containerd that is still about to end.
        psutil.wait_procs(others, STOP_SECONDS)

    def freeze(self) -> None:
        """Stop the daemon where it stands: its socket takes connections, and nobody answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def run(self, argv: Sequence[str], *, name: str = "", started: bool = True, **options: Any) -> Container:
        """Run a program in a new container.

        ``options``: `restart` (a policy's name), `labels`, `entrypoint`, `healthcheck`, `environment`; others
        are `create_host_config`'s (`binds`, `mem_limit`, `auto_remove`, `network_mode` …).
        """
        self._serial += 1
        name = name or f"bed-{self._serial}"
        own = {
            key: options.pop(key)
            for key in ("labels", "entrypoint", "healthcheck", "environment")
            if key in options
        }
        binds = [*BINDS, *options.pop("binds", [])]
        if "restart" in options:
            options["restart_policy"] = {"Name": options.pop("restart")}
        options.setdefault("network_mode", "host")
        with self.api() as api:
            host = api.create_host_config(binds=binds, **options)
            made = api.create_container(IMAGE, list(argv), name=name, host_config=host, **own)
            if started:
                api.start(made["Id"])
        return Container(self, made["Id"], name)

    def remove(self, container: Container) -> None:
        """Kill and delete one container with its anonymous volumes, if it is still there."""
        with contextlib.suppress(APIError), self.api() as api:
            api.remove_container(container.id, force=True, v=True)

    def clear(self) -> None:
        """Remove every container, and be up and awake for the next test."""
        self.thaw()
        if self._process is None or self._process.poll() is not None:
            self.start()
        with self.api() as api:
            for entry in api.containers(all=True):
                with contextlib.suppress(APIError):
                    api.remove_container(entry["Id"], force=True, v=True)

    def _import_image(self) -> None:
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as archive:
            for name in _FOLDERS:
                entry = tarfile.TarInfo(name)
                entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
                archive.addfile(entry)
            for name in _LINKS:
                entry = tarfile.TarInfo(name)
                entry.type, entry.linkname = tarfile.SYMTYPE, f"usr/{name}"
                archive.addfile(entry)
        repository, _, tag = IMAGE.partition(":")
        with self.api() as api:
            api.import_image_from_data(data.getvalue(), repository=repository, tag=tag)

    def _kill_left_over(self) -> None:
        """What a killed daemon leaves behind names its folder in its command line."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if any(str(self._folder) in word for word in process.cmdline()):
                    process.kill()
                    process.wait(STOP_SECONDS)
