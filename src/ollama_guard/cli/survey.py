"""One look at the machine for `init` and `doctor`: what `once` sees, and what only they ask for."""

from __future__ import annotations

import contextlib
import json
import pwd
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ollama_guard.cli.bounded import in_time, why
from ollama_guard.cli.cgroup_facts import CGROUPS, PROC, cgroup_facts, has_gpu, sees_limit
from ollama_guard.cli.glance import ANSWER_SECONDS, Glance, glance
from ollama_guard.cli.options import DEFAULT_STATE_DIR
from ollama_guard.cli.runby import own_network, run_by, with_files
from ollama_guard.cli.unit_facts import unit_facts
from ollama_guard.cli.written_elsewhere import KEYS
from ollama_guard.core.machine import (
    ContainerFacts,
    Installed,
    Machine,
    Neighbour,
    Server,
    UnitFacts,
    runtime_of,
)
from ollama_guard.core.model import LoadedModel, ServerReading, Snapshot
from ollama_guard.core.policy import Policy
from ollama_guard.core.protection import is_guards
from ollama_guard.core.runtime import RuntimeKind
from ollama_guard.core.said import listens_at, open_to_all
from ollama_guard.errors import OllamaError, RuntimeFailed, ServiceUnavailable
from ollama_guard.hands.adapters.ollama import OllamaAdapter
from ollama_guard.hands.consumers import SHORT_ID, TooLong, top
from ollama_guard.hands.remembered import RememberedLimits
from ollama_guard.sentinel.sensors.cgtree import CgroupTrees

# Each asks for at most 32 models that are new, so these tell of more than anybody has.
CATALOGUE_PASSES = 16
# Programs that are Ollama's own, as they are called among the consumers.
_OLLAMAS = frozenset({"ollama", "ollama-lib", "llama-server"})
# What a machine without a limit shows as one is far above any memory.
_NO_SWAP_BYTES = 2**60


def survey(policy: Policy, root: Path) -> Machine:
    """The machine, and where Ollama answered; below ``root`` lie the units.

    Raises:
        ServiceUnavailable: the machine's memory can't be read.
    """
    machine, _ = surveyed(policy, root)
    return machine


def surveyed(policy: Policy, root: Path) -> tuple[Machine, Glance]:
    """As `survey`, with the look that it comes from."""
    look = glance(policy, patient=True)
    unknown: dict[str, str] = {}
    servers = tuple(_server(reading, policy, root, unknown) for reading in look.snapshot.servers)
    elsewhere = _elsewhere(policy, servers) if look.snapshot.api.version is None else ""
    if elsewhere:
        look = glance(replace(policy, ollama=replace(policy.ollama, url=elsewhere)))
    version = look.snapshot.api.version
    servers = tuple(
        replace(
            server,
            limit_seen=sees_limit(server.pid, server.limit_bytes, version),
            gpu=_gpu(server, look.snapshot.api.loaded, unknown),
        )
        for server in servers
    )
    return _machine(look.snapshot, servers, elsewhere or policy.ollama.url, unknown), look


def _machine(seen: Snapshot, servers: tuple[Server, ...], url: str, unknown: dict[str, str]) -> Machine:
    host = seen.domains[0]
    if host.capacity_bytes is None:
        raise ServiceUnavailable(f"the machine's memory can't be read: {host.reason}")
    if not servers:
        unknown["servers"] = "; ".join(seen.blind) or "no `ollama serve` runs here"
    if seen.api.version is None:
        unknown["models"] = f"Ollama does not answer at {url}: {seen.api.error}"
    return Machine(
        total_bytes=host.capacity_bytes,
        available_bytes=host.available_bytes,
        swap_bytes=_swap_bytes(),
        psi=Path(PROC, "pressure/memory").exists(),
        cgroups=CgroupTrees(PROC, CGROUPS).kind,
        servers=servers,
        url=url if seen.api.version is not None else "",
        version=seen.api.version,
        models=_models(url, seen, unknown) if seen.api.version is not None else None,
        neighbours=_neighbours(servers, unknown),
        unknown=unknown,
    )


def _models(url: str, seen: Snapshot, unknown: dict[str, str]) -> tuple[Installed, ...]:
    """All of them, which takes several passes where there are many; one look alone asks for the first."""
    ollama, catalogue = OllamaAdapter(url), seen.catalogue
    with contextlib.suppress(OllamaError):
        for _ in range(CATALOGUE_PASSES):
            catalogue = ollama.catalogue(ANSWER_SECONDS)
            if ollama.catalogue_complete:
                break
    if not ollama.catalogue_complete:
        unknown["models"] = f"Ollama told of {len(catalogue)} models and not of all"
    return tuple(
        Installed(
            entry.names, entry.size_bytes, entry.kv_bytes_per_token, entry.training_context, entry.embeds
        )
        for entry in catalogue
        if entry.size_bytes is not None
    )


def _elsewhere(policy: Policy, servers: tuple[Server, ...]) -> str:
    """Where a server says that it listens, if that is another place than the policy's; "" if none says."""
    for server in servers:
        if server.kind is not RuntimeKind.DOCKER and server.says("OLLAMA_HOST"):
            address, port = listens_at(server.says("OLLAMA_HOST"))
            host = "127.0.0.1" if open_to_all(address) else address
            url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            if url != policy.ollama.url:
                return url
    return ""


def _server(reading: ServerReading, policy: Policy, root: Path, unknown: dict[str, str]) -> Server:
    kind, name = run_by(reading)
    if policy.ollama.runtime is not None:
        kind, name = policy.ollama.runtime, policy.ollama.runtime_name or runtime_of(reading.cgroup or "")[1]
    unit = unit_facts(name, reading, root, unknown) if kind is RuntimeKind.SYSTEMD and name else None
    container: ContainerFacts | None = None
    if kind is RuntimeKind.DOCKER:
        from ollama_guard.hands.adapters.docker import DockerRuntime

        docker = DockerRuntime(
            policy.ollama.docker_host, DEFAULT_STATE_DIR, RememberedLimits(DEFAULT_STATE_DIR)
        )
        try:
            container = with_files(docker.facts(name, reading.uid, ANSWER_SECONDS), root)
        except RuntimeFailed as problem:
            unknown["container"] = str(problem)
    try:
        environment: Mapping[str, str] | None = environment_of(reading.pid)
    except OSError as error:
        said = "only root and its own user may" if isinstance(error, PermissionError) else why(error)
        unknown["environment"] = f"the environment of process {reading.pid} can't be read ({said})"
        environment = declared(unit, container)
    held = cgroup_facts(reading.pid)
    return Server(
        pid=reading.pid,
        own_network=own_network(reading.pid),
        kind=kind,
        name=name,
        cgroup=reading.cgroup or "",
        user=_user(reading.uid),
        environment=environment,
        unit=unit,
        container=container,
        limit_bytes=held.limit_bytes,
        swap_limited=held.swap_limited,
        swap_allowed_bytes=held.swap_allowed_bytes,
        high_bytes=held.high_bytes,
        cgroup_version=held.version,
        cgroup_directory=held.directory,
    )


def _gpu(server: Server, loaded: Sequence[LoadedModel], unknown: dict[str, str]) -> bool:
    """Where that can't be told it counts as one: then nothing is said of what fits, and that is."""
    found = has_gpu(server.pid, server.environment, loaded)
    if found is None:
        unknown["gpu"] = (
            "there is /dev/kfd, and no loaded model tells whether it is used: what fits is not judged"
        )
    return found is not False


def environment_of(pid: int, proc: str = PROC) -> dict[str, str]:
    """What of a process' environment is Ollama's.

    Raises:
        OSError: it can't be read, or not in time (TimeoutError).
    """

    def read() -> str:
        raw = Path(proc, str(pid), "environ").read_bytes()
        pairs = (line.decode("utf-8", "backslashreplace").partition("=") for line in raw.split(b"\0"))
        return json.dumps({key: value for key, is_set, value in pairs if is_set and key.startswith(KEYS)})

    return dict(json.loads(in_time(read)))


def declared(unit: UnitFacts | None, container: ContainerFacts | None) -> dict[str, str] | None:
    """What its files say; None where an environment file may say otherwise: that wins over a unit's lines."""
    if unit and not all(map(is_guards, unit.environment_files)):
        return None
    said = unit.environment if unit else container.environment if container else None
    if said is None:
        return None
    return {key: value for key, value in said.items() if key.startswith(KEYS)}


def _swap_bytes() -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path(PROC, "meminfo").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("SwapTotal:"):
                size = int(line.split()[1]) * 1024
                return size if size < _NO_SWAP_BYTES else 0
    return 0


def _neighbours(servers: tuple[Server, ...], unknown: dict[str, str]) -> tuple[Neighbour, ...]:
    """Who else holds memory, the largest first."""
    ours = {server.name for server in servers} | {server.name[:SHORT_ID] for server in servers} | _OLLAMAS
    try:
        consumers = top(ANSWER_SECONDS)
    except TooLong as error:
        unknown["neighbours"] = str(error)
        return ()
    return tuple(Neighbour(c.name, c.kind, c.bytes) for c in consumers if c.name not in ours)


def _user(uid: int | None) -> str:
    if uid is None:
        return ""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
