"""Reads the configuration again on HUP: the compiler runs in a child under a deadline, nothing waits.

The compiler prints the policy, closes its output, and only then writes the last good copy, which a broken
disk can hold up; so a policy that is complete is taken even if the compiler does not end.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from ollama_guard.core.codec import CodecError, from_plain
from ollama_guard.core.policy import Policy
from ollama_guard.sentinel import children
from ollama_guard.sentinel.children import Child
from ollama_guard.sentinel.poller import Poller

DEFAULT_ARGV = (sys.executable, "-I", "-m", "ollama_guard.settings", "compile")

# Compiling takes well under a second; ten bound a file on a disk that hangs.
DEADLINE_SECONDS = 10.0
# How long a compiler that has printed its policy may take to end before the policy is taken anyway.
LATE_COPY_SECONDS = 1.0
# Compilers that may wait at a time for a disk that does not answer; each HUP could leave one more.
LATE_LIMIT = 2
# One that was killed and hangs in the kernel is looked at again after this long (seconds).
KILL_AGAIN_SECONDS = 1.0
# A policy is a few KiB; a hundred times that is no policy.
_OUTPUT_LIMIT = 1024**2
_CHUNK = 65_536

# Called once per reload: the new policy and what is to be warned of, or None and why not, in sentences.
Finished = Callable[[Policy | None, list[str]], None]


@dataclass(slots=True)
class _Pipe:
    """What a compiler says on one of its outputs; ``fd`` is None after end-of-file."""

    fd: int | None
    said: bytearray = field(default_factory=bytearray)

    def text(self) -> str:
        return bytes(self.said).decode("utf-8", "replace")


@dataclass(slots=True)
class _Run:
    child: Child
    out: _Pipe
    err: _Pipe
    deadline_at: float
    printed_at: float | None = None


class Reload:
    """At most one compiler at a time; a HUP in the meantime makes another run afterwards."""

    def __init__(self, poller: Poller, argv: Sequence[str], finished: Finished) -> None:
        self._poller = poller
        self._argv = argv
        self._finished = finished
        self._run: _Run | None = None
        self._late: list[tuple[Child, float]] = []
        self._again = False

    def start(self, now: float) -> None:
        """Start the compiler, or remember to start it again after the one at work."""
        if self._run is not None:
            self._again = True
            return
        if len(self._late) >= LATE_LIMIT:
            waiting = f"{len(self._late)} earlier readings still wait for a disk that does not answer"
            self._finished(None, [waiting])
            return
        try:
            self._run = self._start(now)
        except OSError as error:
            self._finished(None, [f"the configuration compiler can't be started: {error.strerror}"])

    def next_look_at(self) -> float | None:
        """When `keep` must be called at the latest."""
        run = self._run
        if run is None:
            return min((kill_at for _, kill_at in self._late), default=None)
        return run.deadline_at if run.printed_at is None else run.printed_at + LATE_COPY_SECONDS

    def keep(self, now: float) -> None:
        """Finish a compiler that has ended, has said all that matters, or has run out of time."""
        self._bury(now)
        run = self._run
        if run is None:
            return
        if run.printed_at is None and run.out.fd is None and run.out.said:
            run.printed_at = now
        if run.out.fd is None and run.err.fd is None and run.child.exited():
            self._conclude(run)
        elif run.printed_at is not None and now >= run.printed_at + LATE_COPY_SECONDS:
            self._leave(run, run.deadline_at)
            policy, problems = _parse(run.out.text())
            self._finished(policy, problems or ["the last good copy is not kept: the disk does not answer"])
        elif now >= run.deadline_at:
            self._leave(run, now)
            self._finished(None, [f"reading the configuration took longer than {DEADLINE_SECONDS:.0f} s"])
        if self._run is None and self._again:
            self._again = False
            self.start(now)

    def stop(self) -> None:
        """Kill every compiler that is at work."""
        if self._run is not None:
            self._leave(self._run, 0.0)
        for child, _ in self._late:
            child.signal(signal.SIGKILL)
            child.exited(0.1)
            child.reap()
        self._late = []

    def _start(self, now: float) -> _Run:
        with ExitStack() as writers, ExitStack() as readers:
            out, err = os.pipe(), os.pipe()
            for read_end, write_end in (out, err):
                readers.callback(os.close, read_end)
                writers.callback(os.close, write_end)
            child = children.spawn(self._argv, stdout=out[1], stderr=err[1])
            readers.pop_all()
        self._poller.add(child.pidfd, lambda _: self._poller.remove(child.pidfd))
        return _Run(child, self._listen(out[0]), self._listen(err[0]), now + DEADLINE_SECONDS)

    def _listen(self, fd: int) -> _Pipe:
        pipe = _Pipe(fd)
        os.set_blocking(fd, False)
        self._poller.add(fd, lambda _: self._on_readable(pipe))
        return pipe

    def _on_readable(self, pipe: _Pipe) -> None:
        if pipe.fd is None:
            return
        try:
            chunk = os.read(pipe.fd, _CHUNK)
        except BlockingIOError:
            return
        if not chunk:
            self._close(pipe)
        elif len(pipe.said) < _OUTPUT_LIMIT:
            pipe.said += chunk

    def _close(self, pipe: _Pipe) -> None:
        if pipe.fd is not None:
            self._poller.remove(pipe.fd)
            os.close(pipe.fd)
            pipe.fd = None

    def _conclude(self, run: _Run) -> None:
        self._run = None
        self._poller.remove(run.child.pidfd)
        ended = run.child.reap()
        lines = [line.strip() for line in run.err.text().splitlines() if line.strip()]
        if ended == "exit status 0":
            policy, problems = _parse(run.out.text())
            self._finished(policy, problems or lines)
            return
        self._finished(None, lines or [f"the configuration compiler ended with {ended}"])

    def _leave(self, run: _Run, kill_at: float) -> None:
        """Stop listening to a compiler that has not ended; it is killed and buried later."""
        self._run = None
        self._close(run.out)
        self._close(run.err)
        self._poller.remove(run.child.pidfd)
        self._late.append((run.child, kill_at))

    def _bury(self, now: float) -> None:
        """Collect the late ones that have ended, and kill those whose time is up, again until that helps."""
        late, self._late = self._late, []
        for child, kill_at in late:
            if child.exited():
                child.reap()
            elif now < kill_at:
                self._late.append((child, kill_at))
            else:
                child.signal(signal.SIGKILL)
                self._late.append((child, now + KILL_AGAIN_SECONDS))


def _parse(text: str) -> tuple[Policy | None, list[str]]:
    try:
        return from_plain(Policy, json.loads(text)), []
    except CodecError as error:
        return None, [f"the compiled configuration is not a policy: {error}"]
    except (ValueError, RecursionError):
        return None, ["the compiled configuration is not JSON"]
