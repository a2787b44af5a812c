"""The show as it runs: time, what the guard says, what is measured, one frame after the other."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from ollama_guard.core.policy import Policy
from ollama_guard.core.pressure import LEVELS
from ollama_guard.core.units import bytes_text
from ollama_guard.demo.clients import Chat
from ollama_guard.demo.stage import CHAT, CODER, GIANT, NEIGHBOUR, WORDS_PER_SECOND, Stage
from ollama_guard.demo.view import SHOWN, Actor, Told, View
from ollama_guard.demo.without import Without
from ollama_guard.drawing.interrupts import Interrupts
from ollama_guard.errors import GuardError
from ollama_guard.settings.compiler import compile_file

# Seconds between two steps, and between two looks at the guard's status (its numbers come twice a second).
STEP_SECONDS = 0.03
STATUS_SECONDS = 0.25
# One answer of the chat lasts so long (seconds).
ANSWER_SECONDS = 8.0


class Screen(Protocol):
    """Where the show is seen."""

    def draw(self, view: View) -> None:
        """Show this moment, if it is time for a new frame."""

    def tell(self, told: Told) -> None:
        """Show that something happened, now."""

    def close(self) -> None:
        """Give the terminal back."""


class Show:
    """What the story is told with: it lets time pass, and knows what happened meanwhile."""

    def __init__(self, stage: Stage, screen: Screen, interrupts: Interrupts) -> None:
        self.stage, self.screen = stage, screen
        self.pace = stage.pace
        self.policy: Policy = compile_file(stage.folder / "demo.toml")
        self.without = Without(stage.budget_bytes)
        self.chat = Chat(stage.fake, CHAT, round(WORDS_PER_SECOND * ANSWER_SECONDS / stage.pace))
        self.told: list[Told] = []
        self.events: list[dict[str, Any]] = []
        self.asked_at: dict[str, float] = {}
        self.title, self.caption = "The stage is set", "The guard starts, and looks for Ollama."
        self.chapter = self.chapters = 0
        self._interrupts = interrupts
        self._status: dict[str, Any] | None = None
        self._status_at = 0.0
        self._began, self._began_wall = time.monotonic(), time.time()

    @property
    def now(self) -> float:
        """Seconds since the show began."""
        return time.monotonic() - self._began

    def begin(self) -> None:
        """The guard is ready: the show's own time starts here."""
        self._began, self._began_wall = time.monotonic(), time.time()

    def open_chapter(self, number: int, title: str, caption: str) -> None:
        """A new chapter with its caption."""
        self.chapter, self.title = number, title
        self.say(caption)

    def say(self, caption: str) -> None:
        """Another caption in the same chapter."""
        self.caption = caption
        self.screen.tell(Told(self.now, "chapter", f"{self.title}: {caption}"))

    def watch(self, seconds: float) -> None:
        """Let so much time pass, at the show's pace."""
        end = self.now + seconds / self.pace
        while self.now < end:
            self.step()

    def until(self, condition: Callable[[], object], seconds: float, what: str) -> None:
        """Let time pass until it is so; ``seconds`` are real ones, for a machine that is busy otherwise.

        Raises:
            GuardError: it did not come about.
        """
        end = self.now + seconds
        while not condition():
            if self.now > end:
                raise GuardError(f"the show can't go on: {what} did not come about within {seconds:.0f} s")
            self.step()

    def happened(self, name: str, model: str = "", since: float = 0.0) -> dict[str, Any] | None:
        """The last such event of the guard about a model, with ``at``; None if there is none."""
        found = [e for e in self.events if e["event"] == name and e["at"] >= since]
        return next((e for e in reversed(found) if not model or model in str(e.get("names"))), None)

    def step(self) -> None:
        """A moment: look after everybody, take in what happened, draw."""
        self._interrupts.check()
        self.stage.check()
        self.chat.step()
        self._hear()
        reading = self.stage.world.latest
        self.without.sample(self.now, reading.held)
        self.screen.draw(self.view())
        time.sleep(STEP_SECONDS)

    def model_state(self, model: str) -> str:
        """What the guard calls a model's state now; "" when it has no runner."""
        models = (self._status or {}).get("models") or []
        return next((str(m["state"]) for m in models if m.get("name") == model), "")

    def _hear(self) -> None:
        guard = self.stage.guard
        if guard is None:
            return
        for event in guard.events():
            event["at"] = max(0.0, event["wall"] - self._began_wall)
            self.events.append(event)
            self._weigh(event)
            if event["event"] in SHOWN:
                told = Told(event["at"], event["event"], str(event["message"]))
                self.told.append(told)
                self.screen.tell(told)
        if time.monotonic() - self._status_at >= STATUS_SECONDS:
            self._status_at = time.monotonic()
            self._status = guard.status() or self._status

    def _weigh(self, event: dict[str, Any]) -> None:
        """What the guard took back would still be held without it."""
        names, freed = str(event.get("names")), event.get("freed_bytes") or 0
        if event["event"] in ("model.unloaded", "runner.killed"):
            self.without.unloaded(names, int(freed), event["at"])
        elif event["event"] == "load.aborted":
            asked = self.asked_at.get(names, event["at"])
            self.without.aborted(names, self.stage.giant_bytes, asked, self.stage.giant_pace)

    # --- what there is to see --------------------------------------------------------------------

    def view(self) -> View:
        """This moment."""
        budget = self.stage.budget_bytes
        return View(
            at=self.now,
            budget_bytes=budget,
            available_bytes=self.stage.world.latest.available_bytes,
            limits=tuple((level.word, self.policy.host.bytes_of(level, budget)) for level in LEVELS),
            level=self._level(),
            chapter=self.chapter,
            chapters=self.chapters,
            title=self.title,
            caption=self.caption,
            actors=self._actors(),
            guarded=self.stage.guard is not None,
            without_bytes=self.without.available_bytes,
            out_at=self.without.out_at,
            told=tuple(self.told[-20:]),
        )

    def _level(self) -> str:
        if self.stage.guard is None:
            return "unguarded"
        changed = self.happened("level.changed")
        return "ok" if changed is None else str(changed["level"])

    def _actors(self) -> tuple[Actor, ...]:
        held = self.stage.world.latest.held
        actors = [self._model(CHAT, held.get(CHAT, 0)), self._model(CODER, held.get(CODER, 0))]
        hog = self.stage.hog
        if hog is not None:
            taken, growing = held.get(NEIGHBOUR, 0), self.neighbour_grows()
            state = "growing" if growing else "steady"
            note = f"{bytes_text(hog.rate)}/s" if growing else "at work"
            actors.append(Actor(NEIGHBOUR, taken, state, note))
        if GIANT in self.asked_at:
            actors.append(self._giant(held.get(GIANT, 0)))
        return tuple(actors)

    def neighbour_grows(self) -> bool:
        """Whether the neighbour still takes more."""
        hog = self.stage.hog
        taken = self.stage.world.latest.held.get(NEIGHBOUR, 0)
        return hog is not None and taken < hog.target_bytes

    def _model(self, model: str, held_bytes: int) -> Actor:
        state = self.model_state(model)
        if held_bytes == 0:
            event = self.happened("model.unloaded", model)
            note = "" if event is None else f"{bytes_text(event['freed_bytes'])} came back"
            return Actor(model, 0, "unloaded" if event is not None else "not loaded", note)
        note = f"answering, {self.chat.words} words" if model == CHAT and self.chat.answering else ""
        return Actor(model, held_bytes, state or "loaded", note)

    def _giant(self, held_bytes: int) -> Actor:
        needs = f"needs {bytes_text(self.stage.giant_bytes)}"
        if held_bytes:
            return Actor(GIANT, held_bytes, "loading", needs)
        if self.happened("blob.condemned") is not None:
            return Actor(GIANT, 0, "condemned", f"{needs}, killed at birth")
        aborted = self.happened("load.aborted") is not None
        return Actor(GIANT, 0, "aborted" if aborted else "asked for", needs)
