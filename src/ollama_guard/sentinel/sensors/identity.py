"""Whose a process is: servers by their own argv, runners by parentage, orphans by what they left with.

Never by who listens on a port (that can be a proxy). What can't be proven is listed as not proven, or not at
all; nobody may signal it.
"""

from __future__ import annotations

from ollama_guard.core.model import RunnerReading
from ollama_guard.core.policy import OllamaPolicy
from ollama_guard.sentinel.sensors.argv import RunnerArgv, ServerArgv, parse_argv
from ollama_guard.sentinel.sensors.processes import Children, Process, Stat, read_stat
from ollama_guard.sentinel.sensors.scan import Scan
from ollama_guard.sentinel.sensors.tracked import (
    Key,
    Runner,
    Server,
    is_meant,
    orphan_of,
    suspect_of,
    why_another,
)
from ollama_guard.sentinel.sensors.verdicts import Verdicts
from ollama_guard.sentinel.sensors.watches import OpenPidfd, Pidfd, Watches
from ollama_guard.sentinel.sensors.witness import Answer, Witness

# Seconds between two scans of all processes (3 ms each): often while there is no server, since a restarted
# one must be found within 2 s; rarely once there is one, for a second server.
SCAN_LOST_SECONDS = 0.5
SCAN_FOUND_SECONDS = 10.0
# Bounds on what is remembered.
_SERVERS_LIMIT = 16
_DEPARTED_LIMIT = 4
_RUNNERS_LIMIT = 256
# Seconds after which a child whose argv is still unread makes us blind: two overdue answers.
_UNREAD_SECONDS = 2.0


class Identity:
    """Every proven server and runner, kept up to date by `look`."""

    def __init__(
        self,
        proc: str,
        policy: OllamaPolicy,
        witness: Witness,
        watches: Watches,
        open_pidfd: OpenPidfd | None,
    ) -> None:
        self._proc = proc
        self._policy = policy
        self._witness = witness
        self._watches = watches
        self._open_pidfd = open_pidfd
        self._scan = Scan(proc)
        self._verdicts = Verdicts()
        self._candidates: dict[Key, Stat] = {}
        self._departed: list[Server] = []
        self.servers: dict[Key, Server] = {}
        self.runners: dict[Key, Runner] = {}
        self.catalogue_dirs: frozenset[str] = frozenset()
        self.children_readable = True

    def look(self, now: float) -> bool:
        """The cheap look: True when a server or runner came, went, or was proven since the last."""
        changed = False
        for answer in self._witness.take(now):
            changed = self._hear(answer, now) or changed
        for server in list(self.servers.values()):
            changed = self._tend(server, now) or changed
        for runner in list(self.runners.values()):
            changed = self._follow(runner, now) or changed
        changed = self._scan_on(now) or changed
        for runner in self.runners.values():
            if runner.argv is None:
                self._witness.ask(runner.key, now)
        for key in self._candidates:
            self._witness.ask(key, now)
        return changed

    def reconfigure(self, policy: OllamaPolicy) -> None:
        """Take a new policy: servers that it doesn't mean are forgotten, others are looked for at once."""
        self._policy = policy
        for server in list(self.servers.values()):
            if not is_meant(policy, server.user_id, server.membership):
                self._forget(server)
        for runner in list(self.runners.values()):  # those whose server is gone already
            if not is_meant(policy, runner.server.user_id, runner.server.membership):
                self._drop(runner)
        self._departed.clear()
        self._verdicts.clear()
        self._scan.start_over()

    def blind(self, now: float) -> tuple[str, ...]:
        """Why it can't be told whose a process is, one sentence each; () while all is known."""
        sentences = [
            f"the command line of process {runner.pid}, a child of {runner.server.pid}, can't be read"
            for runner in self.runners.values()
            if runner.argv is None and now - runner.first_seen_at > _UNREAD_SECONDS
        ]
        if not self.servers:
            sentences += [
                f"whether process {key[0]} ({stat.comm}) is an Ollama server can't be read"
                for key, stat in self._candidates.items()
                if self._witness.failed(key)
            ]
        return tuple(sentences)

    def still_the_same(self, pid: int, expected: RunnerReading) -> str:
        """Why ``pid`` is not the proven runner of that reading any more, or ""; for use after pidfd_open."""
        return why_another(read_stat(self._proc, pid), pid, expected, self.runners.get(expected.key))

    def close(self) -> None:
        """Give every descriptor back."""
        for server in self.servers.values():
            server.close()
        for runner in self.runners.values():
            runner.close()
        self.servers.clear()
        self.runners.clear()

    # --- what the witness says -------------------------------------------------------------------

    def _hear(self, answer: Answer, now: float) -> bool:
        key = answer.key
        runner = self.runners.get(key)
        if answer.blob_bytes is not None:
            if runner is not None:
                runner.blob_bytes = answer.blob_bytes
            return runner is not None
        candidate = self._candidates.pop(key, None)
        stat = read_stat(self._proc, key[0])
        if answer.argv is None or stat is None or stat.start_ticks != key[1]:
            return False
        said = parse_argv(answer.argv)
        if runner is not None:
            return self._judge_child(runner, said, stat, now)
        if candidate is None:
            return False
        parents = {server.pid for server in self.servers.values()}
        if isinstance(said, ServerArgv) and stat.parent not in parents:
            return self._adopt_server(stat, said, now)
        if isinstance(said, RunnerArgv) and self._adopt_orphan(stat, said, now):
            return True
        self._verdicts.no(stat, now)
        return False

    def _judge_child(
        self, runner: Runner, said: RunnerArgv | ServerArgv | None, stat: Stat, now: float
    ) -> bool:
        """A child's argv: a runner, or GPU discovery, or still the server's own before its exec."""
        if not isinstance(said, RunnerArgv):
            self._verdicts.no(stat, now)
            self._drop(runner)
            return True
        runner.argv = said
        runner.comm = stat.comm
        runner.proof = f"child of ollama serve {runner.server.pid}, runs {said.blob or said.model}"
        if runner.orphan:
            runner.proof = f"was, while that lived, a {runner.proof}"
        impostor = self.servers.get(runner.key)  # read between its fork and its exec
        if impostor is not None:
            self._forget(impostor)
        if said.models_dir:
            runner.server.models_dirs.add(said.models_dir)
        return True

    def _adopt_server(self, stat: Stat, said: ServerArgv, now: float) -> bool:
        process = Process(self._proc, stat.pid)
        user_id, membership = process.status().user_id, process.cgroup() or b""
        if not is_meant(self._policy, user_id, membership) or len(self.servers) >= _SERVERS_LIMIT:
            process.close()
            self._verdicts.no(stat, now)
            return False
        key = (stat.pid, stat.start_ticks)
        proof = f"its own command line says {said.words!r}"
        pidfd = Pidfd(stat.pid, self._watches, self._open_pidfd)
        offspring = Children(self._proc, stat.pid)
        server = Server(key, stat.comm, stat.state, user_id, membership, proof, process, offspring, pidfd)
        self.servers[key] = server
        self._tend(server, now)
        self._scan.start_over()  # its orphans of an earlier life can be told now
        return True

    def _adopt_orphan(self, stat: Stat, argv: RunnerArgv, now: float) -> bool:
        process = Process(self._proc, stat.pid)
        suspect = suspect_of(self._proc, process, stat, argv)
        found = orphan_of(suspect, (*self.servers.values(), *self._departed), self.catalogue_dirs)
        if found is None or len(self.runners) >= _RUNNERS_LIMIT:
            process.close()
            return False
        server, proof = found
        key = (stat.pid, stat.start_ticks)
        pidfd = Pidfd(stat.pid, self._watches, self._open_pidfd)
        self.runners[key] = Runner(
            key, stat.comm, stat.parent, server, process, pidfd, now, argv, None, proof, orphan=True
        )
        return True

    # --- what the process list says --------------------------------------------------------------

    def _tend(self, server: Server, now: float) -> bool:
        """Look after one server: its end, its cgroup, its newborn children."""
        stat = server.process.stat()
        if stat is None or stat.dead or stat.start_ticks != server.key[1] or stat.comm != server.comm:
            self._depart(server)
            return True
        server.state = stat.state
        server.membership = server.process.cgroup() or server.membership
        children = server.offspring.read()
        self.children_readable = children is not None
        if children is None:
            self._scan.hasten(now + SCAN_LOST_SECONDS)
            return False
        changed = children != server.children
        self._verdicts.forget(server.children - children)
        server.children = children
        known = {runner.pid for runner in self.runners.values()}
        for pid in children - known:
            stat = read_stat(self._proc, pid) if self._verdicts.due(pid, now) else None
            if stat is not None and stat.parent == server.pid:
                self._born(server, stat, now)
                changed = True
        return changed

    def _born(self, server: Server, stat: Stat, now: float) -> None:
        if stat.dead or len(self.runners) >= _RUNNERS_LIMIT:
            self._verdicts.no(stat, now)
            return
        key = (stat.pid, stat.start_ticks)
        process, pidfd = Process(self._proc, stat.pid), Pidfd(stat.pid, self._watches, self._open_pidfd)
        self.runners[key] = Runner(key, stat.comm, stat.parent, server, process, pidfd, now)

    def _follow(self, runner: Runner, now: float) -> bool:
        """Notice a runner's end, and that it outlived its server."""
        outlived = not runner.server.alive and not runner.orphan
        if runner.server.alive and not runner.orphan and runner.pid in runner.server.children:
            return False
        stat = runner.process.stat()
        if stat is None or stat.dead:
            if stat is not None:
                self._verdicts.no(stat, now)
            self._drop(runner)
            return True
        if outlived and stat.parent != runner.server.pid:
            runner.orphan = True
            runner.parent = stat.parent
            runner.proof = f"was, while that lived, a {runner.proof}"
            return True
        return False

    def _scan_on(self, now: float) -> bool:
        """One step of a scan of all processes, if one is due; True when a candidate was found."""
        calm = bool(self.servers) and self.children_readable
        known = {key[0] for key in (*self.servers, *self.runners, *self._candidates)}
        parents = {server.pid: server for server in self.servers.values()}
        changed = False
        for stat in self._scan.step(now, known, SCAN_FOUND_SECONDS if calm else SCAN_LOST_SECONDS):
            if not self._verdicts.due(stat.pid, now, stat):
                continue
            if stat.parent in parents:
                self._born(parents[stat.parent], stat, now)
                changed = True
            elif "ollama" in stat.comm or (stat.comm == "llama-server" and (self.servers or self._departed)):
                self._candidates[(stat.pid, stat.start_ticks)] = stat
        if self._scan.finished:
            self._verdicts.prune(now)
            self._witness.forget({*self.runners, *self._candidates})
        return changed

    # --- comings and goings ----------------------------------------------------------------------

    def _depart(self, server: Server) -> None:
        server.alive = False
        server.close()
        del self.servers[server.key]
        self._departed = [*self._departed, server][-_DEPARTED_LIMIT:]
        self._scan.start_over()

    def _forget(self, server: Server) -> None:
        """A server that isn't guarded any more: its runners aren't either."""
        server.close()
        del self.servers[server.key]
        for runner in [runner for runner in self.runners.values() if runner.server is server]:
            self._drop(runner)

    def _drop(self, runner: Runner) -> None:
        runner.close()
        self.runners.pop(runner.key, None)
