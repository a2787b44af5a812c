"""The roll of proven servers and of runners: who came, who went. What makes them so is `identity`'s."""

from __future__ import annotations

from ollama_guard.core.policy import OllamaPolicy
from ollama_guard.sentinel.sensors.argv import RunnerArgv, ServerArgv
from ollama_guard.sentinel.sensors.processes import Children, Process, Stat
from ollama_guard.sentinel.sensors.tracked import Key, Runner, Server, is_meant, orphan_of, suspect_of
from ollama_guard.sentinel.sensors.watches import OpenPidfd, Pidfd, Watches

# Bounds on what is remembered; nobody runs that many.
_SERVERS_LIMIT = 16
_DEPARTED_LIMIT = 4
_RUNNERS_LIMIT = 256


class Roll:
    """Servers and runners by (pid, start_ticks); ``departed`` servers are kept to know their orphans by."""

    def __init__(self, proc: str, watches: Watches, open_pidfd: OpenPidfd | None) -> None:
        self._proc = proc
        self._watches = watches
        self._open_pidfd = open_pidfd
        self.servers: dict[Key, Server] = {}
        self.runners: dict[Key, Runner] = {}
        self.departed: list[Server] = []

    def add_server(
        self, stat: Stat, said: ServerArgv, membership: bytes, policy: OllamaPolicy, now: float
    ) -> Server | None:
        """Enter a server, if the owner means it; None otherwise."""
        process = Process(self._proc, stat.pid)
        user_id = process.status().user_id
        if not is_meant(policy, user_id, membership) or len(self.servers) >= _SERVERS_LIMIT:
            process.close()
            return None
        server = Server(
            key=(stat.pid, stat.start_ticks),
            comm=stat.comm,
            state=stat.state,
            user_id=user_id,
            membership=membership,
            proof=f"its own command line says {said.words!r}",
            process=process,
            offspring=Children(self._proc, stat.pid),
            pidfd=Pidfd(stat.pid, self._watches, self._open_pidfd),
            adopted_at=now,
            read_at=now,
        )
        self.servers[server.key] = server
        return server

    def add_child(self, server: Server, stat: Stat, now: float) -> bool:
        """Enter a newborn, not proven before its command line is read; False for a dead or one too many."""
        if stat.dead or len(self.runners) >= _RUNNERS_LIMIT:
            return False
        self._add_runner(stat, server, now)
        return True

    def add_orphan(self, stat: Stat, argv: RunnerArgv, catalogue_dirs: frozenset[str], now: float) -> bool:
        """Enter an orphan, if it is provably that of a server that is or was here."""
        process = Process(self._proc, stat.pid)
        suspect = suspect_of(self._proc, process, stat, argv)
        process.close()
        servers = (*self.servers.values(), *self.departed)
        found = None if suspect is None else orphan_of(suspect, servers, catalogue_dirs)
        if found is None or len(self.runners) >= _RUNNERS_LIMIT:
            return False
        runner = self._add_runner(stat, found[0], now)
        runner.argv, runner.proof, runner.orphan = argv, found[1], True
        return True

    def depart(self, server: Server) -> None:
        """A server has ended; its runners may live on."""
        server.alive = False
        server.close()
        del self.servers[server.key]
        self.departed = [*self.departed, server][-_DEPARTED_LIMIT:]

    def forget(self, server: Server) -> None:
        """A server isn't guarded any more, so its runners aren't either."""
        server.close()
        del self.servers[server.key]
        for runner in [runner for runner in self.runners.values() if runner.server is server]:
            self.drop(runner)

    def keep_meant(self, policy: OllamaPolicy) -> None:
        """Forget everybody whom the owner doesn't mean (any more)."""
        for server in list(self.servers.values()):
            if not is_meant(policy, server.user_id, server.membership):
                self.forget(server)
        for runner in list(self.runners.values()):  # those whose server is gone already
            if not is_meant(policy, runner.server.user_id, runner.server.membership):
                self.drop(runner)
        self.departed.clear()

    def drop(self, runner: Runner) -> None:
        """A runner has ended, or is none."""
        runner.close()
        self.runners.pop(runner.key, None)

    def close(self) -> None:
        """Give every descriptor back."""
        for server in self.servers.values():
            server.close()
        for runner in self.runners.values():
            runner.close()
        self.servers.clear()
        self.runners.clear()

    def _add_runner(self, stat: Stat, server: Server, now: float) -> Runner:
        runner = Runner(
            key=(stat.pid, stat.start_ticks),
            comm=stat.comm,
            parent=stat.parent,
            server=server,
            process=Process(self._proc, stat.pid),
            pidfd=Pidfd(stat.pid, self._watches, self._open_pidfd),
            first_seen_at=now,
        )
        self.runners[runner.key] = runner
        return runner
