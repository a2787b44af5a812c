"""`Sensors`: everything that the sentinel reads by itself, as one `Snapshot`."""

from __future__ import annotations

import os
import select
from collections.abc import Mapping
from dataclasses import dataclass

from ollama_guard.core.model import (
    HOST,
    ApiReading,
    CatalogueEntry,
    DomainReading,
    Level,
    Request,
    RunnerReading,
    ServerReading,
    Snapshot,
)
from ollama_guard.core.pace import Glance
from ollama_guard.core.policy import Policy
from ollama_guard.sentinel.sensors.domains import Domains
from ollama_guard.sentinel.sensors.files import slurp
from ollama_guard.sentinel.sensors.host import Host
from ollama_guard.sentinel.sensors.identity import SCAN_LOST_SECONDS, Identity
from ollama_guard.sentinel.sensors.processes import CLOCK_TICKS, Stat, held_status, parse_status
from ollama_guard.sentinel.sensors.psi import Psi, Trigger
from ollama_guard.sentinel.sensors.restraint import Restraints
from ollama_guard.sentinel.sensors.tracked import Runner, Server
from ollama_guard.sentinel.sensors.watches import OpenPidfd, Watches
from ollama_guard.sentinel.sensors.witness import Witness


@dataclass(frozen=True, slots=True)
class Fact:
    """What can be read here: a short stable name, whether it can, and one sentence."""

    name: str
    ok: bool
    sentence: str


class Sensors:
    """The sentinel's eyes. Nothing here waits, and nothing raises for what is read.

    Roots are parameters so that tests can lay out a /proc and a cgroup tree of their own; ``open_pidfd``
    None means that deaths are noticed by looking alone.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        proc: str = "/proc",
        cgroup_root: str = "/sys/fs/cgroup",
        open_pidfd: OpenPidfd | None = os.pidfd_open,
    ) -> None:
        self._proc = proc
        self._policy = policy
        self._now = 0.0
        self._watches = Watches()
        self._witness = Witness(
            proc,
            on_open=lambda fd: self._watches.add(fd, lambda _: None),
            on_close=self._watches.remove,
        )
        self._host = Host(proc)
        self._trigger = Trigger(self._host.pressure_path)
        self._domains = Domains(proc, cgroup_root, self._watches)
        self._identity = Identity(proc, policy.ollama, self._witness, self._watches, open_pidfd)
        self._restraints = Restraints(self._domains.trees)
        self._tend_trigger(self._now)

    def fds(self) -> dict[int, int]:
        """Descriptors to wait on, with their epoll events: one set of its own, the same one for ever."""
        return {self._watches.fileno(): select.EPOLLIN}

    def on_ready(self, fd: int, events: int) -> None:
        """Serve a descriptor of `fds` that epoll reported, without waiting; a look is due after it."""
        if fd == self._watches.fileno() and events:
            self._watches.serve()

    def births(self, now: float, *, recovering: bool = False) -> bool:
        """The cheap look: True when a server or runner came, went, or was proven since the last look.

        ``recovering``: a playbook is at work, so a server that is away is about to be back.
        """
        self._now = now
        self._identity.recovering = recovering
        return self._identity.look(now, thorough=False)

    @property
    def undecided(self) -> bool:
        """Whether a further look may find more: see `Identity.undecided`."""
        return self._identity.undecided

    def glance(self, now: float) -> Glance:
        """The few numbers that could end a rest."""
        host = self._host.memory()
        available = {HOST: host.available_bytes, **self._domains.glance(host, now)}
        runners = self._identity.runners.items()
        return Glance(available, {key: _cpu_seconds(runner.process.stat()) for key, runner in runners})

    def sense(
        self,
        now: float,
        wall: float,
        api: ApiReading,
        catalogue: tuple[CatalogueEntry, ...] = (),
        requests: tuple[Request, ...] = (),
        hands_alive: bool = True,  # noqa: FBT001, FBT002  a field of the snapshot, passed on
        hands_reason: str = "",
    ) -> Snapshot:
        """One full reading at ``now`` (CLOCK_BOOTTIME seconds); what `hands` know is passed through."""
        self._identity.catalogue_dirs = frozenset(entry.models_dir for entry in catalogue if entry.models_dir)
        self._now = now
        host = self._host.read()
        self._identity.memory_short |= self._is_short(host)
        self._identity.look(now)
        self._tend_trigger(now)
        memberships = [server.membership for server in self._identity.servers.values()]
        memberships += [runner.server.membership for runner in self._identity.runners.values()]
        containers, names = self._domains.read(memberships, host, now)
        self._identity.memory_short = any(self._is_short(domain) for domain in (host, *containers))
        for server in self._identity.servers.values():
            server.misplaced |= server.membership in self._domains.gone
        runners = tuple(
            reading
            for runner in self._identity.runners.values()
            if (reading := _runner_reading(self._proc, runner, names)) is not None
        )
        return Snapshot(
            now=now,
            wall=wall,
            domains=(host, *containers),
            servers=self._server_readings(now),
            runners=runners,
            api=api,
            catalogue=catalogue,
            requests=requests,
            hands_alive=hands_alive,
            hands_reason=hands_reason,
            blind=self._identity.blind(now),
        )

    def fresh(self, last: Snapshot, now: float, wall: float) -> Snapshot:
        """The second look: everything local read again, with what `hands` knew at ``last``."""
        return self.sense(
            now, wall, last.api, last.catalogue, last.requests, last.hands_alive, last.hands_reason
        )

    def still_the_same(self, pid: int, expected: RunnerReading) -> str:
        """After pidfd_open, before a signal: "" if ``pid`` is still that proven runner, else why not."""
        return self._identity.still_the_same(pid, expected)

    def still_the_server(self, pid: int, expected: ServerReading) -> str:
        """The same for a proven server."""
        return self._identity.still_the_server(pid, expected)

    def reconfigure(self, policy: Policy) -> None:
        """Take a reloaded policy: ``[ollama] user`` and ``cgroup`` may mean other servers now."""
        self._policy = policy
        self._identity.reconfigure(policy.ollama)

    def capabilities(self) -> tuple[Fact, ...]:
        """What can and can't be read here, for the start-up self-test."""
        host = self._host.read()
        view = " (a container's view, not the machine's)" if self._host.container_view else ""
        arc = "ZFS' cache counts as available" if self._host.has_arc else "there is no ZFS cache to count"
        pressure = self._host.pressure() != Psi()
        opened = self._trigger.opened
        window = f"pressure wakes the guard, over a window of {opened.window_seconds:g} s"
        kind, notes = self._domains.trees.kind, "; ".join(self._domains.notes())
        children = self._children_readable()
        scan = f"no children files: births are found by a scan every {SCAN_LOST_SECONDS} s"
        return (
            Fact("memory", not host.reason, host.reason or f"the host's memory can be read{view}; {arc}"),
            Fact(
                "psi", pressure, "pressure can be read" if pressure else "this kernel shows no pressure (PSI)"
            ),
            Fact("trigger", opened.fd >= 0, opened.reason or window),
            Fact("cgroup", kind != "none" and not notes, notes or f"memory cgroups can be read: {kind}"),
            Fact("children", children, "births are seen at once in the children files" if children else scan),
            Fact("witness", not self._witness.stalled, self._witness.stalled or "command lines can be read"),
        )

    def close(self) -> None:
        """Give every descriptor back and end the witness."""
        self._identity.close()
        self._restraints.close()
        self._domains.close()
        self._watches.remove(self._trigger.fd)
        self._trigger.close()
        self._witness.close()
        self._host.close()
        self._watches.close()

    def _children_readable(self) -> bool:
        own = f"{self._proc}/self/task/{os.getpid()}/children"
        return self._identity.children_readable and slurp(own) is not None

    def _is_short(self, domain: DomainReading) -> bool:
        """Whether memory is below its soft threshold, or unknown; its grace is no matter here."""
        if domain.available_bytes is None or not domain.capacity_bytes:
            return True
        soft = self._policy.thresholds_of(domain.name).bytes_of(Level.SOFT, domain.capacity_bytes)
        return domain.available_bytes < soft

    def _tend_trigger(self, now: float) -> None:
        if self._trigger.tend(now):
            self._watches.add_trigger(self._trigger, lambda: self._now)

    def _server_readings(self, now: float) -> tuple[ServerReading, ...]:
        self._restraints.keep(frozenset(self._identity.servers))
        return tuple(self._server_reading(server, now) for server in self._identity.servers.values())

    def _server_reading(self, server: Server, now: float) -> ServerReading:
        traced, frozen = self._restraints.look(server, now)
        return ServerReading(
            pid=server.pid,
            start_ticks=server.key[1],
            uid=server.user_id,
            cgroup=self._domains.path_of(server.membership),
            proof=server.proof,
            process_state=server.state,
            traced=traced,
            frozen=frozen,
        )


def _unread(runner: Runner) -> str:
    return f"child of ollama serve {runner.server.pid}, its command line is not read yet"


def _cpu_seconds(stat: Stat | None) -> float | None:
    return None if stat is None else stat.cpu_ticks / CLOCK_TICKS


def _runner_reading(proc: str, runner: Runner, names: Mapping[bytes, str]) -> RunnerReading | None:
    """One runner now; None once it is gone. The stat that is read last vouches for the status."""
    status = runner.process.status()
    if status.anon_bytes is None:  # its first thread has ended, and others go on
        status = parse_status(held_status(proc, runner.pid))
    stat = runner.process.stat()
    if stat is None or stat.dead or stat.start_ticks != runner.key[1]:
        return None
    container = names.get(runner.server.membership)
    argv = runner.argv
    return RunnerReading(
        pid=runner.pid,
        start_ticks=stat.start_ticks,
        born_at=stat.born_at,
        server_pid=None if runner.orphan else runner.server.pid,
        proven=argv is not None,
        proof=runner.proof or _unread(runner),
        blob=None if argv is None else argv.blob,
        blob_bytes=runner.blob_bytes,
        context_tokens=None if argv is None else argv.context_tokens,
        port=None if argv is None else argv.port,
        weights_mapped=None if argv is None or argv.blob is None else argv.weights_mapped,
        cache_type="" if argv is None else argv.cache_type,
        anon_bytes=status.anon_bytes,
        shmem_bytes=status.shmem_bytes,
        file_bytes=status.file_bytes,
        swap_bytes=status.swap_bytes,
        cpu_seconds=_cpu_seconds(stat),
        major_faults=stat.major_faults,
        process_state=stat.state,
        domains=(HOST,) if container is None else (HOST, container),
        parallel=None if argv is None else argv.parallel,
    )
