"""What is installed and would fit, for those who ask the status socket.

The sentinel tells what its last tick saw and knew; the judgement over hundreds of models is made here, in
the thread of the one who asks, so that it costs no tick anything.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from ollama_guard.core import installed, plan, tierstatus
from ollama_guard.core.footprint import Ledger
from ollama_guard.core.model import CatalogueEntry, Snapshot
from ollama_guard.core.policy import Policy
from ollama_guard.core.state import State
from ollama_guard.hands.lanes import Mailbox
from ollama_guard.hands.watch import Send
from ollama_guard.wire import SceneTold, SceneWanted


@dataclass(frozen=True, slots=True)
class Known:
    """What hands know themselves."""

    policy: Policy
    catalogue: tuple[CatalogueEntry, ...]
    footprints: Ledger


@dataclass(slots=True)
class _Wish:
    done: threading.Event = field(default_factory=threading.Event)
    answer: tuple[Policy, State, Snapshot] | None = None


class Models:
    """Asks the sentinel for its scene and answers from it; `document` is called from the socket's threads."""

    def __init__(self, mailbox: Mailbox, send: Send, known: Callable[[], Known]) -> None:
        self._mailbox = mailbox
        self._send = send
        self._known = known
        self._ids = itertools.count(1)
        self._wishes: dict[int, _Wish] = {}

    def document(self, deadline_seconds: float) -> dict[str, Any] | None:
        """Every installed model as `core.installed` tells it; None when the sentinel was silent so long."""
        return self._told(deadline_seconds, installed.view)

    def playbooks(self, deadline_seconds: float) -> dict[str, Any] | None:
        """Every playbook as `core.plan` tells it; None as above."""
        return self._told(deadline_seconds, plan.view)

    def tiers(self, deadline_seconds: float) -> dict[str, Any] | None:
        """The ladder as `core.tierstatus` tells it; None as above."""
        return self._told(deadline_seconds, tierstatus.view)

    def _told(
        self, deadline_seconds: float, view: Callable[[Policy, State, Snapshot], dict[str, Any]]
    ) -> dict[str, Any] | None:
        wish, number = _Wish(), next(self._ids)
        self._wishes[number] = wish
        self._mailbox.put(lambda: self._ask(number))
        wish.done.wait(deadline_seconds)
        self._wishes.pop(number, None)
        return None if wish.answer is None else view(*wish.answer)

    def _ask(self, number: int) -> None:
        self._send(SceneWanted(number))

    def told(self, message: SceneTold) -> None:
        """The sentinel's answer has come (main loop)."""
        wish = self._wishes.get(message.scene_id)
        if wish is None:
            return  # who asked has stopped waiting
        known = self._known()
        seen = replace(message.snapshot, catalogue=known.catalogue, footprints=known.footprints)
        wish.answer = (known.policy, message.state, seen)
        wish.done.set()
