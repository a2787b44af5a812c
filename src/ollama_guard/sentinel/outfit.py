"""Everything that a guard needs around it, made in the right order at the start and let go at the end."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from ollama_guard import __version__
from ollama_guard.core.decide import mode_of
from ollama_guard.core.events import Event, Priority, Value
from ollama_guard.core.model import Mode
from ollama_guard.core.policy import Policy
from ollama_guard.core.state import Durable
from ollama_guard.sentinel import clock, reload, selftest, supervise
from ollama_guard.sentinel.expendables import Expendables
from ollama_guard.sentinel.journal import Journal
from ollama_guard.sentinel.mind import Mind, Senses
from ollama_guard.sentinel.notices import Notices
from ollama_guard.sentinel.notify import Notifier
from ollama_guard.sentinel.poller import Poller, Signals
from ollama_guard.sentinel.reaper import Reaper
from ollama_guard.sentinel.reflexes import Reflexes
from ollama_guard.sentinel.statemap import StateMap
from ollama_guard.sentinel.trials import Trials

# A reaper that died is replaced at most this often (seconds).
_REAPER_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Setup:
    """What the command line said, and which programs are started."""

    policy: Policy
    config: str
    runtime_dir: Path
    state_dir: str
    mode: Mode | None = None
    warnings: tuple[str, ...] = ()
    hands_argv: Sequence[str] = supervise.DEFAULT_ARGV
    compile_argv: Sequence[str] = field(default=reload.DEFAULT_ARGV)


class Outfit:
    """Owns the descriptors and children that are not hands; knows no judgement."""

    def __init__(self, setup: Setup, journal: Journal, make_senses: Callable[[Policy], Senses]) -> None:
        self.setup = setup
        self.config = setup.config
        self.journal = journal
        self.hands_plan = supervise.HandsPlan(str(setup.runtime_dir), setup.state_dir, setup.hands_argv)
        config = ("--config", setup.config) if setup.config else ()
        self.compile_argv = (*setup.compile_argv, *config, "--state-dir", setup.state_dir)
        self.poller = Poller()
        self.signals = Signals()
        self.notifier = Notifier()
        self.notices = Notices()
        self.reaper = Reaper()
        self._reaper_at = 0.0
        oom = selftest.lower_oom_score()
        self._start_reaper()
        policy = self._effective(setup.policy)
        self.senses = make_senses(policy)
        self.reflexes = Reflexes(
            self.poller, self.reaper, self.senses.still_the_same, self.senses.still_the_server
        )
        self.expendables = Expendables(self.senses.still_the_same)
        self.trials = Trials(self.senses.still_the_same, self.senses.still_the_server)
        self._statemap, durable = self._open_statemap()
        self._unkept = ""
        self.mind = Mind(policy, durable, self.senses)
        self._sensor_fds: set[int] = set()
        self._introduce(oom)

    def tell(self, *events: Event) -> None:
        """Log events, now."""
        now, wall = clock.boottime(), clock.wall()
        for event in events:
            self.journal.say(event, now, wall)

    def adopt(self, policy: Policy) -> None:
        """Follow a new policy; a mode from the command line stays in force."""
        self.mind.adopt(self._effective(policy))
        self.senses.reconfigure(self.mind.policy)

    def keep_state(self) -> None:
        """Write what must survive a kill -9, if it changed; say so once if that can't be done."""
        if self._statemap is None:
            return
        problem = self._statemap.store(self.mind.state.durable)
        if problem and problem != self._unkept:
            self.tell(
                Event(
                    "guard.warned",
                    f"pause and condemned models would not survive: {problem}",
                    Priority.WARNING,
                )
            )
        self._unkept = problem

    def follow_sensors(self, on_ready: Callable[[int, int], None]) -> None:
        """Watch the descriptors that the sensors have now; the open files behind the numbers may change."""
        wanted = self.senses.fds()
        for fd in self._sensor_fds - wanted.keys():
            self.poller.remove(fd)
        self._sensor_fds = set(wanted)
        for fd, mask in wanted.items():
            self.poller.ensure(fd, partial(on_ready, fd), mask)

    def dropped(self) -> int:
        """Everything that could not be said or handed over without waiting."""
        return self.journal.dropped + self.notifier.dropped + self.reaper.dropped + self.notices.dropped

    def say_goodbye(self, why: str) -> None:
        """Tell systemd and the log that the guard ends."""
        self.notifier.stopping()
        self.tell(Event("guard.stopping", f"stopping: {why}", Priority.NOTICE, {"dropped": self.dropped()}))

    def close(self) -> None:
        """Let go of everything; takes a fraction of a second at most."""
        self.keep_state()
        self.reflexes.close()
        self.senses.close()
        self.reaper.stop()
        self.notifier.close()
        if self._statemap is not None:
            self._statemap.close()
        self.journal.close(clock.boottime(), clock.wall())
        self.signals.close()
        self.poller.close()

    def _effective(self, policy: Policy) -> Policy:
        mode = self.setup.mode
        return policy if mode is None else replace(policy, ollama=replace(policy.ollama, mode=mode))

    def _start_reaper(self) -> None:
        try:
            self.reaper.start()
        except OSError as error:
            self.tell(Event("guard.warned", f"no reaper: {error.strerror}", Priority.WARNING))
            return
        assert self.reaper.child is not None
        pidfd = self.reaper.child.pidfd
        self.poller.add(pidfd, lambda _: self._replace_reaper(pidfd))

    def _replace_reaper(self, pidfd: int) -> None:
        self.poller.remove(pidfd)
        how = self.reaper.died()
        now = clock.boottime()
        again = now - self._reaper_at >= _REAPER_SECONDS
        self._reaper_at = now
        after = "started again" if again else "not started again, since it dies at once"
        self.tell(Event("guard.warned", f"the reaper died ({how}), {after}", Priority.WARNING))
        if again:
            self._start_reaper()

    def _open_statemap(self) -> tuple[StateMap | None, Durable]:
        path = self.setup.runtime_dir / "state"
        try:
            statemap = StateMap(path, clock.boot_id())
        except OSError as error:
            text = f"pause and condemned models would not survive: {path}: {error.strerror}"
            self.tell(Event("guard.warned", text, Priority.WARNING))
            return None, Durable()
        durable, reason = statemap.load()
        if reason:
            self.tell(Event("guard.warned", f"starting with a fresh state: {reason}", Priority.NOTICE))
        return statemap, durable or Durable()

    def _introduce(self, oom: Event) -> None:
        """Say who starts, what was remembered, and what may be done here."""
        durable, policy = self.mind.state.durable, self.mind.policy
        mode = mode_of(policy, durable, clock.boottime())
        text = f"ollama-guard {__version__} guards Ollama at {policy.ollama.url}, mode {mode}"
        fields: dict[str, Value] = {
            "version": __version__, "pid": os.getpid(), "mode": str(mode),
            "condemned": len(durable.condemned), "config": self.config,
        }  # fmt: skip
        self.tell(Event("guard.started", text, Priority.NOTICE, fields))
        for warning in self.setup.warnings:
            self.tell(Event("guard.warned", warning, Priority.WARNING))
        self.tell(oom, selftest.runtime_dir(self.setup.runtime_dir))
        self.tell(selftest.kill_rights(), selftest.process_view())
        if policy.runners_die_first:
            self.tell(selftest.runners_die_first(self.reaper))
        self.tell(selftest.kill_path(self.reaper, self.senses.still_the_same), selftest.lock_memory())
        for fact in self.senses.capabilities():
            self.tell(selftest.say(fact.name, may=fact.ok, sentence=fact.sentence))
        self.tell(selftest.service_manager(self.notifier))
        self.tell(selftest.say("journal", may=True, sentence=f"events are logged as {self.journal.form}"))
