"""What the guard may and may not do here, found out at the start by doing it: one sentence each.

The kill path is run on a child of our own, so that its code is resident and its rights are known before
memory is short. Nothing here is fatal.
"""

from __future__ import annotations

import errno
import os
import resource
import select
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ollama_guard.core.events import Event, Priority
from ollama_guard.core.expendable import OOM_SCORE_ADJ
from ollama_guard.core.model import Action, ActionKind, Outcome, OutcomeKind, Rung, RunnerReading
from ollama_guard.core.units import bytes_text
from ollama_guard.sentinel import children, kernel
from ollama_guard.sentinel.clock import boottime
from ollama_guard.sentinel.notify import Notifier
from ollama_guard.sentinel.poller import Poller
from ollama_guard.sentinel.reaper import Reaper
from ollama_guard.sentinel.reflexes import Reflexes

_CAP_DAC_OVERRIDE = 1
CAP_KILL = 5
_CAP_IPC_LOCK = 14
# The trial victim's size; how long its birth and its death may take on a machine in trouble (else a few ms).
_TRIAL_BYTES = 4 * 1024**2
_TRIAL_SECONDS = 2.0
# With FUTURE, a limit that is soon reached would make our own allocations fail: then better not lock.
_LOCK_ROOM = 4
# File systems that never wait for a disk, as far as memory is locked or there is no swap.
_IN_MEMORY = frozenset({"tmpfs", "ramfs"})
# Low enough that the kernel takes anybody else first, short of -1000, which hides us from it altogether.
_OOM_SCORE_ADJ = -900


def say(subject: str, *, may: bool, sentence: str, **fields: float | str) -> Event:
    """One finding as a log event."""
    return Event(
        "guard.tested",
        sentence,
        Priority.INFO if may else Priority.NOTICE,
        {"subject": subject, "may": may, **fields},
    )


def service_manager(notifier: Notifier) -> Event:
    """Whether systemd hears of us; on a terminal nobody is there to hear, which is no fault."""
    if notifier.active:
        return say("sd_notify", may=True, sentence="sd_notify works")
    event = say("sd_notify", may=False, sentence=f"no sd_notify: {notifier.reason}")
    return event if notifier.wanted else replace(event, priority=Priority.INFO)


def lower_oom_score(path: Path = Path("/proc/self/oom_score_adj")) -> Event:
    """Ask the kernel to take somebody else first; children started later inherit it."""
    try:
        now = int(path.read_text())
        if now > _OOM_SCORE_ADJ:
            path.write_text(str(_OOM_SCORE_ADJ))
            now = _OOM_SCORE_ADJ
    except OSError as error:
        return say(
            "oom_score_adj",
            may=False,
            sentence=f"the kernel's OOM killer treats the guard as anybody: {error.strerror}",
        )
    return say(
        "oom_score_adj",
        may=True,
        sentence=f"the kernel's OOM killer takes others first (oom_score_adj {now})",
    )


def lock_memory() -> Event:
    """Lock this process' memory, unless a limit would turn that against us."""
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    size = int(Path("/proc/self/statm").read_bytes().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    limited = limit != resource.RLIM_INFINITY and not has_capability(_CAP_IPC_LOCK)
    if limited and limit < _LOCK_ROOM * size:
        sentence = (
            f"memory is not locked: RLIMIT_MEMLOCK is {bytes_text(limit)} (set LimitMEMLOCK=infinity), "
            "so the guard may be paged out when it is needed"
        )
        return say("mlockall", may=False, sentence=sentence)
    refused = kernel.lock_memory()
    if refused:
        return say("mlockall", may=False, sentence=f"memory is not locked: {refused}")
    return say("mlockall", may=True, sentence="memory is locked, so the guard can't be paged out")


def has_capability(number: int) -> bool:
    """Whether a capability is in this process' effective set."""
    for line in Path("/proc/self/status").read_bytes().splitlines():
        if line.startswith(b"CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False


def kill_rights() -> Event:
    """Whether other users' processes may be killed."""
    if has_capability(CAP_KILL):
        sentence = "runners of any user may be killed (CAP_KILL); whether more forbids it is tried on each"
        return say("kill", may=True, sentence=sentence)
    who = f"uid {os.geteuid()}"
    return say(
        "kill",
        may=False,
        sentence=f"only runners of {who} may be killed: there is no CAP_KILL, others are only unloaded",
    )


def runners_die_first(reaper: Reaper) -> Event:
    """Whether the kernel can be told to take runners first; tried on a child of ours, without a change."""
    try:
        if reaper.child is not None:
            path = Path(f"/proc/{reaper.child.pid}/oom_score_adj")
            path.write_text(path.read_text())
    except OSError as error:
        sentence = f"the kernel's OOM killer treats runners as anybody: {error.strerror}"
        return say("runners_die_first", may=False, sentence=sentence)
    may = has_capability(_CAP_DAC_OVERRIDE)
    whose = "of any user" if may else f"of uid {os.geteuid()} alone"
    lacks = "" if may else ": those of others need CAP_DAC_OVERRIDE (the drop-in dac-override.conf)"
    score = f"(oom_score_adj {OOM_SCORE_ADJ})"
    sentence = f"the kernel's OOM killer takes runners {whose} before anybody else {score}{lacks}"
    return say("runners_die_first", may=may, sentence=sentence)


def process_view(stat: Path = Path("/proc/1/stat")) -> Event:
    """Whether other users' processes are visible at all.

    hidepid=1 answers EPERM, for which Path.exists raises up to Python 3.13.
    """
    if os.path.exists(stat):  # noqa: PTH110
        return say("proc", may=True, sentence="all processes are visible under /proc")
    return say(
        "proc", may=False, sentence="/proc is mounted with hidepid: processes of other users are not seen"
    )


def runtime_dir(path: Path, mountinfo: Path = Path("/proc/self/mountinfo")) -> Event:
    """Whether what must survive a kill -9 is written to memory, or to a disk that can hold us up."""
    try:
        device = path.stat().st_dev
        lines = mountinfo.read_bytes().splitlines()
    except OSError as error:
        sentence = f"whether the runtime directory {path} is in memory can't be told: {error.strerror}"
        return say("runtime_dir", may=False, sentence=sentence)
    number = f"{os.major(device)}:{os.minor(device)}".encode()
    mounts = (line.partition(b" - ") for line in lines)
    kinds = {after.split()[0].decode() for before, _, after in mounts if before.split()[2:3] == [number]}
    if kinds & _IN_MEMORY:
        return say("runtime_dir", may=True, sentence=f"the runtime directory {path} is in memory")
    where = f"on a file system of type {kinds.pop()}" if kinds else "on a disk"
    sentence = (
        f"the runtime directory {path} is {where}, so a decision can wait for a disk: put it on a tmpfs "
        "(--runtime-dir, RUNTIME_DIRECTORY; in a container mount the host's /run/ollama-guard there)"
    )
    return say("runtime_dir", may=False, sentence=sentence)


def kill_path(reaper: Reaper, recheck: Callable[[int, RunnerReading], str]) -> Event:
    """Kill a child of our own with everything that a real kill uses, and look at its memory come back."""
    poller = Poller()

    def warm_recheck(pid: int, expected: RunnerReading) -> str:
        recheck(pid, expected)  # run for its pages; a child of ours is no runner, so its answer is not used
        return ""

    try:
        return _trial(poller, Reflexes(poller, reaper, warm_recheck), reaper)
    except OSError as error:
        return say("kill_path", may=False, sentence=f"the kill path can't be tried: {error.strerror}")
    finally:
        poller.close()


def _trial(poller: Poller, reflexes: Reflexes, reaper: Reaper) -> Event:
    reaper.reports()
    child, ready = _victim()
    try:
        select.select([ready], [], [], _TRIAL_SECONDS)
        now = boottime()
        action = Action(
            id=0, kind=ActionKind.KILL, rung=Rung.KILL_RUNNER, deadline_at=now + _TRIAL_SECONDS,
            pid=child.pid, start_ticks=0,
        )  # fmt: skip
        runner = RunnerReading(child.pid, 0, now, os.getpid(), proven=True, proof="a child of our own")
        refused = reflexes.kill(action, runner, now)
        ended = [refused] if refused else []
        while not ended:
            poller.wait(max(0.0, action.deadline_at - boottime()))
            ended = reflexes.collect(boottime())
    finally:
        child.signal(signal.SIGKILL)
        child.exited(_TRIAL_SECONDS)
        child.reap()
        os.close(ready)
        reflexes.close()
    return _verdict(ended[0], boottime() - now, reaper)


def _victim() -> tuple[children.Child, int]:
    """A child that holds some memory, and a pipe that becomes readable when it does."""
    ready, tell = os.pipe()

    def hold() -> None:
        memory = bytearray(_TRIAL_BYTES)
        for offset in range(0, _TRIAL_BYTES, 4096):
            memory[offset] = 1
        os.write(tell, b"!")
        signal.pause()

    try:
        child = children.fork(hold, (tell,), parent_death_signal=signal.SIGKILL)
    finally:
        os.close(tell)
    return child, ready


def _verdict(outcome: Outcome, took: float, reaper: Reaper) -> Event:
    if outcome.kind is not OutcomeKind.DONE:
        return say(
            "kill_path", may=False, sentence=f"the kill path failed on a child of our own: {outcome.detail}"
        )
    deadline, reports = boottime() + _TRIAL_SECONDS, reaper.reports()
    while not reports and reaper.child is not None and boottime() < deadline:
        reaper.child.exited(0.01)
        reports = reaper.reports()
    how = _mrelease_words(reports[-1][1] if reports else errno.ETIME)
    sentence = f"the kill path works: {bytes_text(outcome.freed_bytes)} back in {took * 1000:.0f} ms; {how}"
    return say(
        "kill_path", may=True, sentence=sentence, freed_bytes=outcome.freed_bytes, seconds=round(took, 4)
    )


def _mrelease_words(error: int) -> str:
    # ESRCH and EINVAL: the child's memory was gone before the call.
    if error in (0, errno.ESRCH, errno.EINVAL):
        return "process_mrelease is allowed"
    if error == errno.ETIME:
        return "the reaper did not answer, so killed runners free their memory themselves"
    return (
        f"process_mrelease is refused ({os.strerror(error)}), so killed runners free their memory themselves"
    )
