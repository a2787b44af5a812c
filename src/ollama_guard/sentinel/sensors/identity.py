"""Whose a process is: servers by their own argv, runners by parentage, orphans by what they left with.

Never by who listens on a port (that can be a proxy). What can't be proven is listed as not proven, or not at
all; nobody may signal it.
"""

from __future__ import annotations

import math

from ollama_guard.core.model import RunnerReading, ServerReading
from ollama_guard.core.policy import OllamaPolicy
from ollama_guard.sentinel.sensors.argv import RunnerArgv, ServerArgv, parse_argv
from ollama_guard.sentinel.sensors.processes import Stat, read_stat
from ollama_guard.sentinel.sensors.roll import Roll
from ollama_guard.sentinel.sensors.scan import Scan
from ollama_guard.sentinel.sensors.tracked import Key, Runner, Server, why_another, why_another_server
from ollama_guard.sentinel.sensors.verdicts import Verdicts
from ollama_guard.sentinel.sensors.watches import OpenPidfd, Watches
from ollama_guard.sentinel.sensors.witness import Answer, Witness

# Seconds between two scans of all processes (3 ms each): often while there is no server, since a restarted
# one must be found within 2 s, the answer of the witness included, and at first more often still; rarely once
# there is one, for a second server.
SCAN_LOST_SECONDS = 0.5
SCAN_LONG_LOST_SECONDS = 1.5
# And while a playbook restarts it, when clients may be waiting to ask at once for what is to be hidden: a
# runner may be born 0.1 s after its server, and takes 1.5 GiB/s.
SCAN_RECOVERY_SECONDS = 0.03
SCAN_FOUND_SECONDS = 10.0
# A server that has been away for this long (seconds) is not being restarted just now.
_LONG_LOST_SECONDS = 30.0
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
        self._scan = Scan(proc)
        self._verdicts = Verdicts()
        self._candidates: dict[Key, Stat] = {}
        self._roll = Roll(proc, watches, open_pidfd)
        self.servers = self._roll.servers
        self.runners = self._roll.runners
        self.catalogue_dirs: frozenset[str] = frozenset()
        self.children_readable = True
        self.memory_short = False
        self.recovering = False
        self._served_at: float | None = None
        self._seen_all = self._ever_served = False
        self._departed_at = -math.inf
        self._blind: tuple[str, ...] = ()

    def look(self, now: float, *, thorough: bool = True) -> bool:
        """The cheap look: True when a server or runner came, went, or was proven since the last.

        Also when it can be told again, or no longer, who is who. One that is not ``thorough`` takes a server
        whose children are the known ones for unchanged: that it ended would have woken us.
        """
        changed = False
        for answer in self._witness.take(now):
            changed = self._hear(answer, now) or changed
        for server in list(self.servers.values()):
            if thorough or not self._unchanged(server):
                changed = self._tend(server, now) or changed
        for runner in list(self.runners.values()):
            changed = self._follow(runner, now) or changed
        changed = self._scan_on(now) or changed
        for runner in self.runners.values():
            if runner.argv is None or runner.renamed:
                self._witness.ask(runner.key, now)
        for key in self._candidates:
            self._witness.ask(key, now)
        before, self._blind = self._blind, self.blind(now)
        return changed or self._blind != before

    @property
    def undecided(self) -> bool:
        """Whether a process could be Ollama's whose command line is not read yet."""
        return bool(self._candidates)

    def reconfigure(self, policy: OllamaPolicy) -> None:
        """Take a new policy: servers that it doesn't mean are forgotten, others are looked for at once."""
        self._policy = policy
        self._roll.keep_meant(policy)
        self._verdicts.clear()
        self._scan.start_over()

    def blind(self, now: float) -> tuple[str, ...]:
        """Why it can't be told whose a process is, one sentence each; () while all that matters is known.

        A child whose argv stays unread is never a target, but it blinds only while no other runner is
        proven: one process stuck in the kernel must not keep the guard from relieving the machine.
        """
        sentences: list[str] = []
        if not any(runner.argv is not None for runner in self.runners.values()):
            sentences += [
                f"the command line of process {runner.pid}, a child of {runner.server.pid}, can't be read"
                for runner in self.runners.values()
                if now - runner.first_seen_at > _UNREAD_SECONDS
            ]
        if not (self._ever_served or self._candidates) and self._seen_all and self._hidden():
            sentences.append(
                "the processes of other users are hidden (hidepid, ProtectProc=), and no Ollama server "
                "can be seen: give the guard the group of its gid= option, or the user of Ollama"
            )
        if not self.servers:
            sentences += [
                f"whether process {key[0]} ({stat.comm}) is an Ollama server can't be read"
                for key, stat in self._candidates.items()
                if self._witness.failed(key)
            ]
        return tuple(sentences)

    def still_the_same(self, pid: int, expected: RunnerReading) -> str:
        """Why ``pid`` is not the proven runner of that reading any more, or ""; for use after pidfd_open."""
        stat, known = read_stat(self._proc, pid), self.runners.get(expected.key)
        if known is not None and stat is not None and stat.comm != known.comm:
            known.renamed = True  # it may still be ours: its command line will tell
        return why_another(stat, pid, expected, known)

    def still_the_server(self, pid: int, expected: ServerReading) -> str:
        """Why ``pid`` is not the proven server of that reading any more, or ""; for use after pidfd_open."""
        known = self.servers.get((expected.pid, expected.start_ticks))
        return why_another_server(read_stat(self._proc, pid), pid, expected, known)

    def close(self) -> None:
        """Give every descriptor back."""
        self._roll.close()

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
            return self._adopt_server(stat, said, answer.membership, now)
        if isinstance(said, RunnerArgv) and self._roll.add_orphan(stat, said, self.catalogue_dirs, now):
            return True
        self._verdicts.no(stat, now)
        return False

    def _judge_child(
        self, runner: Runner, said: RunnerArgv | ServerArgv | None, stat: Stat, now: float
    ) -> bool:
        """A child's argv: a runner, or GPU discovery, or still the server's own before its exec."""
        if not isinstance(said, RunnerArgv):
            self._verdicts.no(stat, now)
            self._roll.drop(runner)
            return True
        runner.argv, runner.renamed = said, False
        runner.comm = stat.comm
        runner.proof = f"child of ollama serve {runner.server.pid}, runs {said.blob or said.model}"
        if runner.orphan:
            runner.proof = f"was, while that lived, a {runner.proof}"
        impostor = self.servers.get(runner.key)  # read between its fork and its exec
        if impostor is not None:
            self._roll.forget(impostor)
        if said.models_dir:
            runner.server.models_dirs.add(said.models_dir)
        return True

    def _adopt_server(self, stat: Stat, said: ServerArgv, membership: bytes, now: float) -> bool:
        server = self._roll.add_server(stat, said, membership, self._policy, now)
        if server is None:
            self._verdicts.no(stat, now)
            return False
        self._ever_served = True
        self._verdicts.clear()  # its runners, and its orphans of an earlier life, can be told now
        self._scan.start_over()
        self._tend(server, now)
        return True

    # --- what the process list says --------------------------------------------------------------

    def _unchanged(self, server: Server) -> bool:
        """Whether a server has just the children that it had, all of them runners that we know."""
        if not server.pidfd.watching or server.offspring.read() != server.children:
            return False
        return not server.children or server.children <= {runner.pid for runner in self.runners.values()}

    def _tend(self, server: Server, now: float) -> bool:
        """Look after one server: its end, its cgroup, its newborn children."""
        stat = server.process.stat()
        if stat is None or stat.dead or stat.start_ticks != server.key[1] or stat.comm != server.comm:
            self._roll.depart(server)
            self._departed_at = now
            self._scan.start_over()
            return True
        server.state = stat.state
        server.follow_membership(now, memory_short=self.memory_short)
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
            stat = read_stat(self._proc, pid)  # by which one that has exec'd since is known again at once
            if stat is not None and stat.parent == server.pid and self._verdicts.due(pid, now, stat):
                self._born(server, stat, now)
                changed = True
        return changed

    def _born(self, server: Server, stat: Stat, now: float) -> None:
        if not self._roll.add_child(server, stat, now):
            self._verdicts.no(stat, now)

    def _follow(self, runner: Runner, now: float) -> bool:
        """Notice a runner's end, and that it outlived its server."""
        outlived = not runner.server.alive and not runner.orphan
        if runner.server.alive and not runner.orphan and runner.pid in runner.server.children:
            return False
        stat = runner.process.stat()
        if stat is None or stat.dead:
            if stat is not None:
                self._verdicts.no(stat, now)
            self._roll.drop(runner)
            return True
        if runner.orphan:
            runner.parent = stat.parent  # who adopts it may end as well; it is still the same
        elif outlived and stat.parent != runner.server.pid:
            runner.orphan = True
            runner.parent = stat.parent
            runner.proof = f"was, while that lived, a {runner.proof}"
            return True
        return False

    def _hidden(self) -> bool:
        """Whether we can't even see process 1, which is always there."""
        return read_stat(self._proc, 1) is None

    def _scan_seconds(self, now: float) -> float:
        """How long after this scan the next one is due."""
        if self.servers or self._served_at is None:
            self._served_at = now
        if self.servers and self.children_readable:
            missed = now - self._departed_at <= _LONG_LOST_SECONDS  # of several one that may come back
            return SCAN_LOST_SECONDS if missed else SCAN_FOUND_SECONDS
        if now - self._served_at > _LONG_LOST_SECONDS:
            return SCAN_LONG_LOST_SECONDS
        return SCAN_RECOVERY_SECONDS if self.recovering and not self.servers else SCAN_LOST_SECONDS

    def _scan_on(self, now: float) -> bool:
        """One step of a scan of all processes, if one is due; True when a candidate was found."""
        wait_seconds = self._scan_seconds(now)
        self._scan.hasten(now + wait_seconds)
        known = {key[0] for key in (*self.servers, *self.runners, *self._candidates)}
        parents = {server.pid: server for server in self.servers.values()}
        changed = False
        for stat in self._scan.step(now, known, wait_seconds):
            if not self._verdicts.due(stat.pid, now, stat):
                continue
            if stat.parent in parents:
                self._born(parents[stat.parent], stat, now)
                changed = True
            elif "ollama" in stat.comm.lower() or (
                "llama-server" in stat.comm and (self.servers or self._roll.departed)
            ):
                self._candidates[(stat.pid, stat.start_ticks)] = stat
        if self._scan.finished:
            self._seen_all = True
            self._verdicts.prune(now)
            self._witness.forget({*self.runners, *self._candidates})
        return changed
