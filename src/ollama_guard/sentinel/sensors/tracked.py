"""What is known of each server and runner between two looks, and the proof of an orphan."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ollama_guard.core.model import RunnerReading, ServerReading
from ollama_guard.core.policy import OllamaPolicy
from ollama_guard.sentinel.sensors.argv import RunnerArgv
from ollama_guard.sentinel.sensors.cgtree import is_under, parse_membership
from ollama_guard.sentinel.sensors.processes import Children, Process, Stat, Status, read_stat
from ollama_guard.sentinel.sensors.watches import Pidfd

Key = tuple[int, int]

# Seconds between two looks at which cgroup a server is in. Before Linux 6.8 that read takes a lock of all
# cgroups, whose holder may itself be waiting for memory; and servers hardly ever move. One that is put into a
# cgroup just after its start is looked at sooner.
MEMBERSHIP_SECONDS = 10.0
_MEMBERSHIP_FIRST_SECONDS = 1.0


@dataclass(slots=True)
class Server:
    """One process whose own argv says ``serve``; kept a while after its end, to know its orphans by.

    ``membership`` is its /proc/PID/cgroup text as it was at ``read_at``.
    """

    key: Key
    comm: str
    state: str
    user_id: int | None
    membership: bytes
    proof: str
    process: Process
    offspring: Children
    pidfd: Pidfd
    adopted_at: float
    read_at: float
    misplaced: bool = False
    alive: bool = True
    children: frozenset[int] = frozenset()
    models_dirs: set[str] = field(default_factory=set)

    @property
    def pid(self) -> int:
        """Its PID."""
        return self.key[0]

    def follow_membership(self, now: float, *, memory_short: bool) -> None:
        """Read again which cgroup it is in, if that is due: not while memory is short.

        Unless it is ``misplaced``: its cgroup has gone, so it is in another one by now.
        """
        wait = max(_MEMBERSHIP_FIRST_SECONDS, min(self.read_at - self.adopted_at, MEMBERSHIP_SECONDS))
        if self.misplaced:
            wait = _MEMBERSHIP_FIRST_SECONDS
        elif memory_short:
            return
        if now - self.read_at >= wait:
            self.read_at, self.misplaced = now, False
            self.membership = self.process.cgroup() or self.membership

    def close(self) -> None:
        """Give the descriptors back."""
        self.pidfd.close()
        self.process.close()
        self.offspring.close()


@dataclass(slots=True)
class Runner:
    """One child of a server, or an orphan; ``argv`` is None until the witness has read it.

    ``comm`` and ``parent`` are those of the moment when it was proven. One that was ``renamed`` since is not
    touched until its command line has been read again.
    """

    key: Key
    comm: str
    parent: int
    server: Server
    process: Process
    pidfd: Pidfd
    first_seen_at: float
    argv: RunnerArgv | None = None
    blob_bytes: int | None = None
    proof: str = ""
    orphan: bool = False
    renamed: bool = False

    @property
    def pid(self) -> int:
        """Its PID."""
        return self.key[0]

    def close(self) -> None:
        """Give the descriptors back."""
        self.pidfd.close()
        self.process.close()


@dataclass(frozen=True, slots=True)
class Suspect:
    """A process outside of every known server that may be an orphan, as it is now.

    It has Ollama's own kind of command line, a blob, and a parent that adopts orphans.
    """

    stat: Stat
    status: Status
    membership: bytes
    argv: RunnerArgv
    parent_comm: str


def is_meant(policy: OllamaPolicy, user_id: int | None, membership: bytes) -> bool:
    """Whether the owner's ``user`` and ``cgroup`` lines let a process be a guarded server."""
    if policy.user_id is not None and user_id != policy.user_id:
        return False
    paths = parse_membership(membership).values()
    return not policy.cgroup or any(is_under(path, policy.cgroup) for path in paths)


def why_another(stat: Stat | None, pid: int, expected: RunnerReading, known: Runner | None) -> str:
    """Why the process that ``stat`` shows now isn't the proven runner that was expected, or ""."""
    if stat is None or stat.dead:
        return f"process {pid} has exited already"
    if pid != expected.pid or stat.start_ticks != expected.start_ticks:
        return f"process {pid} is another one now: it started at tick {stat.start_ticks}"
    if known is None or known.argv is None or not expected.proven:
        return f"process {pid} is not proven to be Ollama's"
    if stat.comm != known.comm:
        return f"process {pid} is called {stat.comm!r} now, not {known.comm!r}"
    if stat.parent != known.parent:
        return f"the parent of process {pid} is {stat.parent} now, not {known.parent}"
    return ""


def why_another_server(stat: Stat | None, pid: int, expected: ServerReading, known: Server | None) -> str:
    """Why the process that ``stat`` shows now isn't the proven server that was expected, or "".

    Its parent is not asked for: a server that outlives the shell or shim that started it is the same.
    """
    if stat is None or stat.dead:
        return f"process {pid} has exited already"
    if pid != expected.pid or stat.start_ticks != expected.start_ticks:
        return f"process {pid} is another one now: it started at tick {stat.start_ticks}"
    if known is None:
        return f"process {pid} is not proven to be a guarded Ollama server"
    if stat.comm != known.comm:
        return f"process {pid} is called {stat.comm!r} now, not {known.comm!r}"
    return ""


def suspect_of(proc: str, process: Process, stat: Stat, argv: RunnerArgv) -> Suspect | None:
    """Look at a process and at its parent, for `orphan_of`; None where that is enough to say no.

    Which cgroup it is in is read last, and of those alone that all else speaks for: see `MEMBERSHIP_SECONDS`.
    """
    if not argv.signature or argv.blob is None:
        return None
    parent, parent_files = read_stat(proc, stat.parent), Process(proc, stat.parent)
    parent_comm = "" if parent is None else parent.comm
    adopted = parent_files.status().is_init or parent_comm == "systemd"
    parent_files.close()
    status = process.status()
    if not adopted or status.user_id is None:
        return None
    return Suspect(stat, status, process.cgroup() or b"", argv, parent_comm)


def orphan_of(
    suspect: Suspect, servers: Iterable[Server], catalogue_dirs: frozenset[str]
) -> tuple[Server, str] | None:
    """The server that left this process behind, and the sentence that proves it; None if nothing does.

    All must hold: Ollama's own kind of command line, the user and every cgroup of a server that is or was
    here, a blob in a models directory of that server's, and a parent that adopts orphans. A user's own
    llama-server fails at least one: its parent is a shell or its unit's cgroup is another.
    """
    argv = suspect.argv
    for server in servers:
        same_owner = server.user_id == suspect.status.user_id and server.membership == suspect.membership
        if same_owner and argv.models_dir in server.models_dirs | catalogue_dirs:
            return server, (
                f"orphan of ollama serve {server.pid}: its user and cgroup, Ollama's command line, a blob "
                f"under {argv.models_dir}, adopted by process {suspect.stat.parent} ({suspect.parent_comm})"
            )
    return None
