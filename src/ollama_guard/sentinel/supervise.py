"""Starts `hands`, listens to them within bounds, and starts them again when they die, hang or babble."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from ollama_guard.channel import Channel
from ollama_guard.core.codec import to_plain
from ollama_guard.core.policy import Policy
from ollama_guard.sentinel import children
from ollama_guard.sentinel.children import Child
from ollama_guard.sentinel.poller import Poller
from ollama_guard.wire import Beat, Message

DEFAULT_ARGV = (sys.executable, "-I", "-m", "ollama_guard.hands")

# hands beat once a second; ten missed beats are a hang, not a hiccup.
SILENT_SECONDS = 10.0
# Until the first beat: their imports take 0.35 s on a quick machine, twenty times that on an emulated one.
FIRST_BEAT_SECONDS = 30.0
BACKOFF_FIRST_SECONDS = 0.5
BACKOFF_LONGEST_SECONDS = 30.0
# Alive for this long, the next death starts the back-off anew.
_HEALTHY_SECONDS = 60.0
# Our own absence (suspend, SIGSTOP) is not the silence of hands.
_OWN_GAP_SECONDS = 5.0
# Broken packets from one process before it is taken for broken itself.
_GARBAGE_LIMIT = 100
# How long hands may take to end when told to, or after they closed the wire (seconds).
_LAST_CHANCE_SECONDS = 0.5
# A thread that waits for a dead disk outlives SIGKILL, and the process with it: after this long (seconds;
# a kill takes milliseconds, on a thrashing machine a second) it is left behind. More than a few of them
# would only wait for the same disk.
_UNKILLABLE_SECONDS = 5.0
_LEFT_BEHIND_LIMIT = 4


@dataclass(frozen=True, slots=True)
class HandsPlan:
    """How hands are started: the program's first words, and the folders that they are told."""

    runtime_dir: str
    state_dir: str
    argv: Sequence[str] = DEFAULT_ARGV


class Hands:
    """One process of `hands` after the other, and the channel to the present one."""

    def __init__(self, poller: Poller, plan: HandsPlan, on_message: Callable[[Message], None]) -> None:
        self._poller = poller
        self._plan = plan
        self._on_message = on_message
        self._child: Child | None = None
        self._channel: Channel | None = None
        self._exited = False
        self._started_at = 0.0
        self._heard_at: float | None = None
        self._kept_at: float | None = None
        self._start_at = 0.0
        self._backoff = BACKOFF_FIRST_SECONDS
        self._killed_because = ""
        self._killed_at = 0.0
        self._left_behind: list[Child] = []
        self._closed_at: float | None = None
        self.pss_bytes: int | None = None
        self._dropped_before = 0
        self.reason = "hands are not started yet"

    @property
    def alive(self) -> bool:
        """Whether hands run and have spoken."""
        lost = self._killed_because or self._closed_at is not None
        return self._child is not None and self._heard_at is not None and not lost

    @property
    def pid(self) -> int | None:
        """The PID of the present hands."""
        return self._child.pid if self._child else None

    @property
    def dropped(self) -> int:
        """Messages to hands that were lost so far."""
        return self._dropped_before + (self._channel.dropped if self._channel else 0)

    def keep(self, now: float, policy: Policy) -> str:
        """One look after them; returns "" or the sentence that tells how they ended just now."""
        if self._kept_at is not None and now - self._kept_at > _OWN_GAP_SECONDS:
            self._started_at = now if self._heard_at is None else self._started_at
            self._heard_at = now if self._heard_at is not None else None
        self._kept_at = now
        self._left_behind = [child for child in self._left_behind if not _buried(child)]
        if self._child is None:
            if now >= self._start_at:
                self._try_to_start(now, policy)
            return ""
        if self._exited:
            return self._bury(now)
        if self._channel is not None:
            self._channel.flush()
        self._kill_if_broken(now)
        if self._killed_because and now - self._killed_at > _UNKILLABLE_SECONDS:
            return self._leave_behind(now)
        return ""

    def next_look_at(self, now: float) -> float:
        """When `keep` should be called again at the latest."""
        if self._child is None:
            return self._start_at
        return now + 1.0

    def send(self, message: Message) -> bool:
        """Queue one message; False when it is lost (no hands, or hands that have stopped reading)."""
        return self._channel is not None and self._channel.send(message)

    def stop(self) -> None:
        """End hands: TERM, then KILL after half a second."""
        if self._child is None:
            return
        self._child.signal(signal.SIGTERM)
        self._child.signal(signal.SIGCONT)
        if not self._child.exited(_LAST_CHANCE_SECONDS):
            self._child.signal(signal.SIGKILL)
            self._child.exited(_LAST_CHANCE_SECONDS / 2)
        self._forget()

    def _try_to_start(self, now: float, policy: Policy) -> None:
        if len(self._left_behind) >= _LEFT_BEHIND_LIMIT:
            self._put_off(now)
            self.reason = f"{_LEFT_BEHIND_LIMIT} hands were killed and can't end; they wait for a disk"
            return
        try:
            self._start(now, policy)
        except OSError as error:
            delay = self._put_off(now)
            self.reason = f"hands can't be started ({error.strerror}); trying again in {delay:.1f} s"

    def _start(self, now: float, policy: Policy) -> None:
        with ExitStack() as stack:
            policy_fd = _memfd(policy)
            stack.callback(os.close, policy_fd)
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            stack.callback(theirs.close)
            argv = (
                *self._plan.argv, "--fd", str(theirs.fileno()), "--policy-fd", str(policy_fd),
                "--runtime-dir", self._plan.runtime_dir, "--state-dir", self._plan.state_dir,
            )  # fmt: skip
            try:
                self._child = children.spawn(argv, (theirs.fileno(), policy_fd))
            except OSError:
                ours.close()
                raise
        self._channel = Channel(ours)
        self._started_at, self._heard_at, self._exited = now, None, False
        self._killed_because, self._closed_at = "", None
        self.reason = "hands are starting"
        self._poller.add(self._child.pidfd, self._on_exit)
        self._poller.add(ours.fileno(), self._on_readable)

    def _on_exit(self, events: int) -> None:
        del events
        self._exited = True
        if self._child is not None:
            self._poller.remove(self._child.pidfd)

    def _on_readable(self, events: int) -> None:
        del events
        if self._channel is None:
            return
        for message in self._channel.receive():
            if isinstance(message, Beat):
                self._heard_at = self._kept_at
                self.pss_bytes = message.pss_bytes
                self.reason = ""
            self._on_message(message)
        if self._channel.closed:
            self._closed_at = self._kept_at
            self._poller.remove(self._channel.fileno())

    def _kill_if_broken(self, now: float) -> None:
        heard = self._heard_at
        quiet = now - (self._started_at if heard is None else heard)
        if quiet > (FIRST_BEAT_SECONDS if heard is None else SILENT_SECONDS):
            self._kill(f"silent for {quiet:.0f} s", now)
        elif self._channel is not None and self._channel.broken > _GARBAGE_LIMIT:
            self._kill(f"{self._channel.broken} broken packets, the last: {self._channel.last_problem}", now)
        elif self._closed_at is not None and now - self._closed_at > _LAST_CHANCE_SECONDS:
            self._kill("they closed their end of the wire", now)

    def _kill(self, why: str, now: float) -> None:
        if self._child is not None and not self._killed_because:
            self._killed_because, self._killed_at = why, now
            self.reason = f"hands are being killed ({why})"
            self._child.signal(signal.SIGKILL)

    def _bury(self, now: float) -> str:
        assert self._child is not None
        ended = self._killed_because
        if now - self._started_at >= _HEALTHY_SECONDS:
            self._backoff = BACKOFF_FIRST_SECONDS
        how = self._forget()
        delay = self._put_off(now)
        self.reason = f"hands died ({ended or how})"
        return f"hands ended: {ended or how}; starting them again in {delay:.1f} s"

    def _leave_behind(self, now: float) -> str:
        assert self._child is not None
        child, self._child = self._child, None
        self._poller.remove(child.pidfd)
        self._left_behind.append(child)
        self._forget()
        delay = self._put_off(now)
        self.reason = f"hands were lost ({self._killed_because})"
        return (
            f"hands ended: {self._killed_because}; they were killed and can't end, as if they waited for a "
            f"disk; starting others in {delay:.1f} s"
        )

    def _put_off(self, now: float) -> float:
        delay = self._backoff
        self._start_at = now + delay
        self._backoff = min(self._backoff * 2, BACKOFF_LONGEST_SECONDS)
        return delay

    def _forget(self) -> str:
        how = ""
        if self._channel is not None:
            self._dropped_before += self._channel.dropped
            self._poller.remove(self._channel.fileno())
            self._channel.close()
        if self._child is not None:
            self._poller.remove(self._child.pidfd)
            how = self._child.reap()
        self._channel = self._child = None
        self._heard_at = None
        return how


def _buried(child: Child) -> bool:
    if not child.exited():
        return False
    child.reap()
    return True


def _memfd(policy: Policy) -> int:
    """The policy as JSON in an anonymous file, at its start."""
    fd = os.memfd_create("ollama-guard-policy", os.MFD_CLOEXEC)
    os.write(fd, json.dumps(to_plain(policy)).encode())
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
