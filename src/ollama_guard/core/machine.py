"""What `init` and `doctor` know of a machine, and the plain questions that it answers. Values only.

What could not be read is None, never a guess. `advice` says what would suit such a machine, `checkup` what is
wrong with it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ollama_guard.core.kernelfacts import Kernel
from ollama_guard.core.runtime import RuntimeKind

# Bytes that mean "no bound" where a bound could be: no machine has so much.
NO_BOUND_BYTES = 2**60

_CONTAINER = re.compile(r"(?:(?:docker|libpod|crio|cri-containerd|nerdctl)-)?([0-9a-f]{64})(?:\.scope)?\Z")


@dataclass(frozen=True, slots=True)
class Installed:
    """One installed model; ``kv_bytes_per_token`` and ``embeds`` as `core.model.CatalogueEntry`."""

    names: tuple[str, ...]
    size_bytes: int
    kv_bytes_per_token: int | None = None
    training_context: int | None = None
    embeds: bool = False

    @property
    def name(self) -> str:
        """The shortest of its names."""
        return min(self.names, key=lambda name: (len(name), name))

    def slots(self, parallel: int) -> int:
        """How many it has of those that OLLAMA_NUM_PARALLEL asks for: an embedding model one (facts 2.5)."""
        return 1 if self.embeds else parallel

    def needs_bytes(self, context_tokens: int, parallel: int = 1, kv_share: float = 1.0) -> int:
        """What it takes when loaded: weights and KV cache of all slots (facts 3.4)."""
        return self.size_bytes + self.cache_bytes(context_tokens, parallel, kv_share)

    def cache_bytes(self, context_tokens: int, parallel: int = 1, kv_share: float = 1.0) -> int:
        """The KV cache of all slots; ``kv_share``: what its type takes of one of f16."""
        context = min(context_tokens, self.training_context or context_tokens)
        return int((self.kv_bytes_per_token or 0) * context * self.slots(parallel) * kv_share)


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Somebody else who holds memory; ``kind`` is ``container``, ``unit`` or ``process``."""

    name: str
    kind: str
    bytes: int


@dataclass(frozen=True, slots=True)
class ComposeFacts:
    """Where the compose project of a container is kept (its ``com.docker.compose.*`` labels)."""

    working_dir: str
    config_files: tuple[str, ...]
    service: str
    version: str = ""
    readable: bool = True
    """Whether those files are on this machine: who keeps stacks in a container of its own, has them there."""

    @property
    def program(self) -> str:
        """How the owner calls it: the first generation is a program of its own."""
        return "docker-compose" if self.version.startswith("1.") else "docker compose"


@dataclass(frozen=True, slots=True)
class ContainerFacts:
    """What ``docker inspect`` says and advice needs.

    ``published`` is where the host publishes Ollama's port, as an OLLAMA_HOST says it (``[::]:11434``).
    ``other_limits``: its processors or the number of its processes are limited.
    """

    id: str
    name: str
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    image: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    memory_limit_bytes: int | None = None
    other_limits: bool = False
    published: tuple[str, ...] = ()
    host_network: bool = False
    auto_remove: bool = False
    authority: bool = False
    models_source: str = ""
    compose: ComposeFacts | None = None


@dataclass(frozen=True, slots=True)
class UnitFacts:
    """What a unit's files say: ``oom_policy`` as written last ("" = the default, which is ``stop``)."""

    name: str
    oom_policy: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    guarded: bool = False
    """Whether it reads the guard's environment file."""
    environment_files: tuple[str, ...] = ()
    overruling: tuple[str, ...] = ()
    """Environment files that are read after the guard's, by drop-ins named later than its own."""


@dataclass(frozen=True, slots=True)
class Drift:
    """One variable that its unit's or compose file says otherwise than the process has it ("" = unset)."""

    key: str
    written: str
    running: str


@dataclass(frozen=True, slots=True)
class Server:
    """One ``ollama serve`` and how it is run.

    ``name`` is the unit's or the container's, "" for a bare process. ``environment`` is that of the process,
    else what its unit or container declares; None when none of them could be read. ``limit_bytes`` is the
    smallest memory limit of its cgroup and those above, whatever its size; ``high_bytes`` the smallest of
    their memory.high, ``cgroup_directory`` where its own cgroup's files are ("" = not known).
    """

    pid: int
    kind: RuntimeKind = RuntimeKind.PROCESS
    name: str = ""
    cgroup: str = ""
    user: str = ""
    environment: Mapping[str, str] | None = None
    unit: UnitFacts | None = None
    container: ContainerFacts | None = None
    limit_bytes: int | None = None
    swap_limited: bool | None = None
    """Whether its cgroup counts swap; None when that can't be told."""
    swap_allowed_bytes: int | None = None
    """How much it may swap (`NO_BOUND_BYTES`: as much as there is); None when that can't be told."""
    high_bytes: int | None = None
    cgroup_version: int = 0
    cgroup_directory: str = ""
    limit_seen: bool | None = None
    """Whether Ollama itself can see its limit (facts 3.1); None when that can't be told."""
    gpu: bool = False
    """Whether a GPU is there for it: then Ollama does test memory before it loads (facts 2.4)."""
    own_network: bool = False
    """Whether it has a network of its own: what it listens on there, this machine's addresses don't reach."""
    drift: tuple[Drift, ...] = ()

    @property
    def users_own(self) -> bool:
        """Whether its unit is one of a user's own manager, whose files are not the system's."""
        return self.kind is RuntimeKind.SYSTEMD and "/user@" in self.cgroup

    @property
    def title(self) -> str:
        """What a sentence calls it."""
        match self.kind:
            case RuntimeKind.SYSTEMD:
                return self.name
            case RuntimeKind.DOCKER:
                return f"container {self.container.name if self.container else self.name[:12]}"
            case RuntimeKind.PROCESS:
                return f"process {self.pid}"

    def says(self, key: str) -> str:
        """What its environment says, "" for nothing or for not known."""
        return (self.environment or {}).get(key, "").strip()


@dataclass(frozen=True, slots=True)
class Running:
    """One runner as it was seen; ``listed_bytes`` is what `ollama ps` says of it beside the GPU's memory.

    ``memory_bytes`` is what its end gives back: anonymous, shared and swapped.
    """

    pid: int
    title: str
    memory_bytes: int
    listed_bytes: int | None = None
    orphan: bool = False
    name: str = ""
    """A name to say to Ollama, "" where none is known."""


@dataclass(frozen=True, slots=True)
class Reloads:
    """With which contexts (tokens a slot) one model was used lately, and how often it was ever loaded so.

    ``loads`` and ``uses`` belong to ``contexts`` one by one; a load is a use, each later busy spell another.
    """

    title: str
    contexts: tuple[int, ...]
    loads: tuple[int, ...]
    uses: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Proxy:
    """A LiteLLM proxy that runs here, its configuration, and a sentence for each key that it ignores."""

    pid: int
    path: str
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Machine:
    """One look at the machine. ``unknown`` says of each thing that could not be read why."""

    total_bytes: int
    available_bytes: int | None = None
    swap_bytes: int = 0
    psi: bool = True
    cgroups: str = "v2"
    servers: tuple[Server, ...] = ()
    url: str = ""
    version: str | None = None
    models: tuple[Installed, ...] | None = None
    neighbours: tuple[Neighbour, ...] = ()
    runners: tuple[Running, ...] = ()
    reloads: tuple[Reloads, ...] = ()
    kernel: Kernel = field(default_factory=Kernel)
    proxies: tuple[Proxy, ...] = ()
    unknown: Mapping[str, str] = field(default_factory=dict)

    @property
    def server(self) -> Server | None:
        """The server that advice is about: the only one, or the first."""
        return self.servers[0] if self.servers else None

    @property
    def capacity_bytes(self) -> int:
        """The memory that Ollama lives in: the machine's, or less where its cgroup is limited."""
        limit = self.server.limit_bytes if self.server else None
        return self.total_bytes if limit is None else min(limit, self.total_bytes)

    @property
    def limited(self) -> bool:
        """Whether a limit below the machine's memory holds for Ollama."""
        return self.capacity_bytes < self.total_bytes


def runtime_of(cgroup: str) -> tuple[RuntimeKind, str]:
    """How a process is run by its cgroup's path: the deepest container in it, else its deepest service."""
    parts = [part for part in cgroup.split("/") if part]
    for part in reversed(parts):
        if match := _CONTAINER.match(part):
            return RuntimeKind.DOCKER, match[1]
    for part in reversed(parts):
        if part.endswith(".service") and not part.startswith("user@"):
            return RuntimeKind.SYSTEMD, part
    return RuntimeKind.PROCESS, ""
