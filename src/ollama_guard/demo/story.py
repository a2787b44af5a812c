"""The story, chapter by chapter. Times are for watchers; what has to come about is waited for."""

from __future__ import annotations

from ollama_guard.core.model import Level
from ollama_guard.core.policy import MIB
from ollama_guard.core.units import count_text
from ollama_guard.demo.show import Show
from ollama_guard.demo.stage import CHAT, CODER, GIANT
from ollama_guard.errors import GuardError
from ollama_guard.testing.fake import Stream

# Where the neighbour's growth ends with the guard: available as a share of the budget and the bytes of one
# more runner's interpreter, but never more than the most. That is between soft (20 %) and hard (10 %), with
# room for the first half second of the giant's load.
END_SHARE, END_BYTES, END_MOST_SHARE = 0.17, 13 * MIB, 0.19
# The neighbour grows by this share of the budget each second.
GROWTH_SHARE = 0.055
# Seconds that something may take that takes one or two on an idle machine.
PATIENCE_SECONDS = 20.0
TRIES = 3


def tell(show: Show) -> None:
    """The whole story, with the guard.

    Raises:
        GuardError: something did not come about as it should.
    """
    show.chapters = 5
    _load(show)
    _calm(show)
    _chat(show)
    _neighbour(show)
    unloaded = _relief(show)
    _giant(show)
    _room_again(show, unloaded)
    if show.chat.cut:
        raise GuardError(
            f"{CHAT} lost {count_text(show.chat.cut, 'answer')}, which the guard should have spared"
        )


def tell_without(show: Show) -> None:
    """The same without the guard, up to the moment when memory is gone."""
    show.chapters = 3
    _load(show)
    _calm(show)
    _chat(show)
    _neighbour(show)
    show.until(lambda: show.without.out_at is not None, 60.0, "the end of memory")
    show.stage.send_neighbour_away()  # here a real machine is past help; this one is played with
    show.say(
        f"Out of memory, with {CODER} idle all the while. Here a real machine freezes, or kills somebody."
    )
    show.watch(4)


def _load(show: Show) -> None:
    """Both models answer once; the guard takes a while to prove that one does nothing any more."""
    show.say("A small machine, on which Ollama loads two models.")
    for model in (CHAT, CODER):
        question = show.stage.fake.stream(model, 8)
        show.until(lambda asked=question: not asked.running, PATIENCE_SECONDS, f"an answer of {model}")  # type: ignore[misc]
        if not question.finished:
            raise GuardError(f"{model} did not answer: {question.error or question.failure}")
    if show.stage.guard is not None:
        both = (CHAT, CODER)
        show.until(lambda: all(show.model_state(m) == "idle" for m in both), PATIENCE_SECONDS, "both idle")


def _calm(show: Show) -> None:
    show.open_chapter(1, "Calm", "Both models have answered and are idle, and there is room to spare.")
    show.watch(3.5)


def _chat(show: Show) -> None:
    show.open_chapter(2, "A chat", f"Somebody chats with {CHAT}. {CODER} stays idle.")
    show.chat.begin()
    show.watch(4)


def _neighbour(show: Show) -> None:
    show.open_chapter(3, "A neighbour", "A job beside Ollama takes more and more memory.")
    budget, latest = show.stage.budget_bytes, show.stage.world.latest
    end = min(END_SHARE * budget + END_BYTES, END_MOST_SHARE * budget)
    target = int(latest.available_bytes + latest.held[CODER] - end)
    show.stage.bring_neighbour().grow(target, int(GROWTH_SHARE * budget * show.pace))


def _relief(show: Show) -> float:
    """The guard makes room; returns when."""
    show.until(lambda: show.happened("model.unloaded", CODER), 40.0, f"the unload of {CODER}")
    event = show.happened("model.unloaded", CODER)
    assert event is not None
    show.say(f"{CODER} was idle, so it went, before memory was short. {CHAT} answers on; so does the job.")
    show.until(lambda: not show.neighbour_grows(), 40.0, "the end of the neighbour's growth")
    show.watch(3)
    return float(event["at"])


def _giant(show: Show) -> None:
    show.open_chapter(
        4, "Too big", f"Somebody asks for {GIANT}, which can never fit here, and asks again when it fails."
    )
    for _ in range(TRIES):
        asked = show.now
        show.asked_at.setdefault(GIANT, asked)
        request = show.stage.fake.stream(GIANT, 8)
        show.until(lambda at=asked: show.happened("load.aborted", GIANT, at), PATIENCE_SECONDS, "the abort")  # type: ignore[misc]
        show.until(lambda sent=request: not sent.running, PATIENCE_SECONDS, "the server's refusal")  # type: ignore[misc]
        show.watch(2.5)
    show.until(lambda: show.happened("blob.condemned"), PATIENCE_SECONDS, "the condemnation")


def _room_again(show: Show, unloaded_at: float) -> None:
    show.open_chapter(5, "Room again", "The job is done. The guard waits a little before it trusts the calm.")
    show.stage.send_neighbour_away()
    show.until(lambda: _is_ok(show), PATIENCE_SECONDS, "the level ok")
    show.until(lambda: _may_hold_two(show, unloaded_at), PATIENCE_SECONDS, "a soft cap of two models")
    show.say(f"Memory is back: {CODER} returns as soon as it is asked for. Nothing was lost.")
    question: Stream = show.stage.fake.stream(CODER, 8)
    show.until(lambda: not question.running, PATIENCE_SECONDS, f"an answer of {CODER}")
    show.chat.end()
    show.until(lambda: not show.chat.answering, PATIENCE_SECONDS, f"the end of {CHAT}'s answer")
    show.watch(2)


def _is_ok(show: Show) -> bool:
    changed = show.happened("level.changed")
    return changed is None or changed["level"] == Level.OK.word


def _may_hold_two(show: Show, since: float) -> bool:
    changed = show.happened("cap.changed", since=since)
    return changed is not None and (changed["soft"] is None or changed["soft"] > 1)
