"""Listens to the runtimes that tell what happens to a server, in a thread each; a word brings a look forward.

Nothing depends on it: whatever is told is also seen by the looks, later. Such a thread waits for as long as
its runtime is silent, so it is none of a lane's; it ends by itself when it is no longer wanted.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Iterable
from math import inf

from ollama_guard.core.events import one_line
from ollama_guard.core.runtime import Happening, RuntimeKind, Told
from ollama_guard.errors import RuntimeFailed
from ollama_guard.hands.journal import log
from ollama_guard.hands.lanes import Clock, Mailbox
from ollama_guard.hands.looking import PortOf
from ollama_guard.ports import TellingPort

# Who was seen to tell anything; systemd's units are polled, which takes it some milliseconds.
TELLING = frozenset({RuntimeKind.DOCKER})
# 128 and a signal's number: how shells and Docker tell that a signal ended a program.
_BY_SIGNAL, _KILLED = 128, 137
# What asking again changes nothing about, until another engine is configured.
_FOR_GOOD = frozenset({"denied"})
# What may be otherwise another time, though hardly soon: a no that has no reason, an answer that is none.
_SELDOM = frozenset({"refused", "bad_answer", "unsupported"})
# Seconds until it is tried again after those.
SELDOM_SECONDS = 600.0

Name = tuple[RuntimeKind, str]


class Listening:
    """One thread for each name that is followed; main loop only. ``heard`` is called for each word."""

    def __init__(self, mailbox: Mailbox, heard: Callable[[], None], clock: Clock) -> None:
        self._mailbox = mailbox
        self._heard = heard
        self._clock = clock
        self._heeded: dict[Name, object] = {}
        self._again_at: dict[Name, float] = {}
        self._said: set[tuple[Name, str]] = set()
        self._port_of: PortOf | None = None

    def follow(self, names: Iterable[Name], port_of: PortOf) -> None:
        """Listen to these and to no others; what has ended is tried again, soon, seldom or never."""
        if port_of is not self._port_of:
            self._port_of, self._heeded, self._again_at, self._said = port_of, {}, {}, set()
        wanted = {name for name in names if name[0] in TELLING}
        self._heeded = {name: token for name, token in self._heeded.items() if name in wanted}
        now = self._clock()
        for name in wanted - self._heeded.keys():
            if now < self._again_at.get(name, 0.0):
                continue
            token = self._heeded[name] = object()
            thread = threading.Thread(target=self._listen, args=(name, token, port_of), daemon=True)
            thread.name = "listening"
            thread.start()

    def _listen(self, name: Name, token: object, port_of: PortOf) -> None:
        """In the thread; only ``token`` tells whether anybody still wants to hear it."""
        problem = None
        try:
            port = port_of(name[0])
            if isinstance(port, TellingPort):
                port.listen(
                    name[1],
                    lambda told: self._mailbox.put(lambda: self._on_told(name, token, told)),
                    lambda: self._heeded.get(name) is token,
                )
        except RuntimeFailed as failure:
            problem = failure
        except Exception:  # noqa: BLE001  (as in the lanes: a thread must not end unheard)
            problem = RuntimeFailed("bad_answer", one_line(traceback.format_exc(limit=-1), 500))
        self._mailbox.put(lambda: self._on_ended(name, token, problem))

    def _on_told(self, name: Name, token: object, told: Told) -> None:
        if self._heeded.get(name) is not token:
            return
        kind, called, code = name[0].value, name[1], told.exit_code
        text, what = _sentence(called, told), told.happening
        if what in _CALM:
            log().notice("runtime.told", message=text, kind=kind, name=called, happening=what, exit_code=code)
        else:
            log().warning(
                "runtime.told", message=text, kind=kind, name=called, happening=what, exit_code=code
            )
        self._heard()

    def _on_ended(self, name: Name, token: object, problem: RuntimeFailed | None) -> None:
        if self._heeded.get(name) is not token:
            return
        del self._heeded[name]
        kind = "denied" if problem is None else problem.kind  # None: this runtime tells nothing
        if kind in _FOR_GOOD | _SELDOM:
            self._again_at[name] = inf if kind in _FOR_GOOD else self._clock() + SELDOM_SECONDS
        if problem is not None and kind in _FOR_GOOD | _SELDOM and (name, kind) not in self._said:
            self._said.add((name, kind))
            text = f"what happens to the container {name[1]} is seen by looking alone: {problem}"
            log().notice("guard.warned", message=text)


_CALM = frozenset({Happening.ENDED, Happening.HEALTHY})


def _sentence(name: str, told: Told) -> str:
    match told.happening:
        case Happening.OUT_OF_MEMORY:
            return f"Docker tells: out of memory in the container {name}, where the kernel killed a process"
        case Happening.UNHEALTHY:
            return f"Docker tells: the container {name} fails its health check"
        case Happening.HEALTHY:
            return f"Docker tells: the container {name} passes its health check"
        case Happening.ENDED:
            return f"Docker tells: the container {name} has ended{_how(told.exit_code)}"


def _how(code: int | None) -> str:
    if code is None:
        return ""
    if code == _KILLED:
        return ", killed"
    return f" by signal {code - _BY_SIGNAL}" if code > _BY_SIGNAL else f" with exit code {code}"
