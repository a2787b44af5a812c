"""Images for a Docker engine without a registry: a Debian, on it the real Ollama; and an index for pip.

The Debian has what our Dockerfile asks of its base (Python 3.11, `venv`, a shell), HAProxy, and what the real
Ollama needs. It is made once a machine (half a minute, 160 MB); so are the files of the index.
"""

import contextlib
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from beds import BedUnavailable
from beds.docker import DockerEngine
from beds.locks import cache_directory, locked
from beds.ollama_install import Installation
from beds.packages import require_program

BASE = "debian-python:1"
OLLAMA = "ollama-real:1"
VERSION = 1
"""To be raised whenever what is in the base changes, so that no old one is taken for it."""

PYTHON = "3.11"
"""Of the base, for which the index has wheels."""

BUILD_SECONDS = 900
_PACKAGES = ("python3-venv", "haproxy", "libstdc++6", "libgcc-s1")
_REPOSITORY = Path(__file__).parents[2]
_LOCKS = ("requirements/runtime.lock", "requirements/build.lock")
_SOURCES = ("sdnotify==",)
"""What has no wheel; pip refuses a source where it fetches for another Python than its own."""
_OLLAMA = f"""FROM {BASE}
COPY bin/ /usr/lib/ollama/
RUN ln -s /usr/lib/ollama/ollama-lib /bin/ollama
ENV LD_LIBRARY_PATH=/usr/lib/ollama OLLAMA_HOST=0.0.0.0:11434
ENTRYPOINT ["/bin/ollama"]
CMD ["serve"]
"""
"""As ollama/ollama has it: the program is /bin/ollama, and it listens to its network."""


def import_base(engine: DockerEngine) -> None:
    """Give the engine the image `BASE`, made first if need be.

    Raises:
        BedUnavailable: there are no packages.
    """
    require_program("mmdebstrap", "mmdebstrap")
    made = cache_directory() / f"container-bookworm-{VERSION}.tar"
    with locked(made.with_suffix(".lock")):
        if not made.exists():
            building = made.with_suffix(".building.tar")
            _run(
                "mmdebstrap", "--quiet", "--variant=essential", "--mode=root",
                '--aptopt=Acquire::Check-Valid-Until "false"', "--dpkgopt=force-unsafe-io",
                *(f"--dpkgopt=path-exclude=/usr/share/{each}/*" for each in ("man", "doc", "locale", "info")),
                f"--include={','.join(_PACKAGES)}", "bookworm", str(building),
            )  # fmt: skip
            building.rename(made)
    repository, _, tag = BASE.partition(":")
    with engine.api(BUILD_SECONDS) as api:
        api.import_image_from_file(str(made), repository=repository, tag=tag)


def build_ollama(engine: DockerEngine, installation: Installation) -> None:
    """Give the engine the image `OLLAMA` with the real one, on `BASE`."""
    with tempfile.TemporaryDirectory(prefix="ollama-image-") as name:
        context = Path(name)
        shutil.copytree(installation.libraries, context / "bin")
        (context / "Dockerfile").write_text(_OLLAMA, encoding="utf-8")
        with engine.api(BUILD_SECONDS) as api:
            told = list(api.build(str(context), tag=OLLAMA, rm=True, network_mode="none", decode=True))
    if problem := next((line["error"] for line in told if "error" in line), ""):
        raise BedUnavailable(f"the image of Ollama can't be built: {problem}")


@contextlib.contextmanager
def pip_index() -> Iterator[str]:
    """The address of an index on 127.0.0.1 with just what the guard is built and runs from.

    Raises:
        BedUnavailable: it can't be downloaded.
    """
    handler = partial(_Quiet, directory=str(_index_files()))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


class _Quiet(SimpleHTTPRequestHandler):
    """A folder of folders, which is all that pip asks of an index."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _index_files() -> Path:
    """A folder for each project, with its files."""
    locks = [(_REPOSITORY / name).read_text(encoding="utf-8") for name in _LOCKS]
    digest = hashlib.sha256("".join(locks).encode()).hexdigest()[:16]
    made = cache_directory() / f"pip-index-{digest}"
    with locked(made.with_suffix(".lock")):
        if not made.exists():
            building = made.with_suffix(".building")
            shutil.rmtree(building, ignore_errors=True)
            wanted = [each for lock in locks for each in re.split(r"^(?=\w)", lock, flags=re.MULTILINE)]
            sources = [each for each in wanted if each.startswith(_SOURCES)]
            _download(building, [each for each in wanted if each not in sources], "--only-binary", ":all:",
                      "--python-version", PYTHON)  # fmt: skip
            _download(building, sources)
            for file in list(building.iterdir()):
                project = file.name.partition("-")[0].replace("_", "-").lower()
                (building / project).mkdir(exist_ok=True)
                file.rename(building / project / file.name)
            building.rename(made)
    return made


def _download(into: Path, wanted: list[str], *options: str) -> None:
    """Fetch what these entries of a lock name."""
    with tempfile.NamedTemporaryFile("w", suffix=".lock", encoding="utf-8") as lock:
        lock.write("".join(wanted))
        lock.flush()
        pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes")
        _run(*pip, *options, "-d", str(into), "-r", lock.name)


def _run(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=BUILD_SECONDS)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise BedUnavailable(f"{command[0]} failed: {last}")
