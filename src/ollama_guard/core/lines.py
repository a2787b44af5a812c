"""What stands in Ollama's environment file, and what of it the server that runs has read.

Ollama reads the file when it starts, and what a process has read can't be seen without its owner's rights. So
it is told by the times: a server has what was written last before it began, whatever was written since then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ollama_guard.core.model import Action, ActionKind, Outcome, OutcomeKind, Rung
from ollama_guard.core.recovery import Written
from ollama_guard.core.runtime import RuntimeReading
from ollama_guard.core.scene import Scene
from ollama_guard.core.state import Durable
from ollama_guard.core.targets import runtime_here

KEY = "OLLAMA_MAX_LOADED_MODELS"
# Digits of a number of models that can be meant.
LONGEST_DIGITS = 6
# What was written and not read yet, besides what was read, is remembered so often.
WRITTEN_KEPT = 4
NOTHING = Written(at=-1.0)


def bound_of(lines: Mapping[str, str]) -> int | None:
    """The bound that lines of an environment set, None where they set none."""
    text = lines.get(KEY, "")
    return int(text) or None if text.isascii() and text.isdigit() and len(text) <= LONGEST_DIGITS else None


def declared(runtime: RuntimeReading | None) -> int | None:
    """The owner's own bound; what the environment file adds at a start stands in no declaration."""
    return bound_of(runtime.environment) if runtime is not None else None


def written(durable: Durable) -> Written:
    """What stands in the file now."""
    return durable.written[-1] if durable.written else NOTHING


def read_by_server(scene: Scene) -> Written:
    """What stood in the file when the server that runs began; nothing where that is not known."""
    runtime = runtime_here(scene)
    begun_at = runtime.started_at if runtime is not None and runtime.constrainable else None
    read = [one for one in scene.state.durable.written if begun_at is not None and one.at < begun_at]
    return read[-1] if read else NOTHING


def waits(scene: Scene) -> bool:
    """Whether what stands in the file waits for a start of Ollama."""
    runtime = runtime_here(scene)
    will_read = runtime is None or runtime.constrainable
    return will_read and _content(read_by_server(scene)) != _content(written(scene.state.durable))


def is_lifted(scene: Scene) -> bool:
    """Whether the playbook's lines are gone, and the server that runs still has them."""
    return read_by_server(scene).constrains and not written(scene.state.durable).constrains


def reviewed(scene: Scene) -> Durable:
    """The durable state without what was written before that which the server has read."""
    durable, read = scene.state.durable, read_by_server(scene)
    kept = tuple(one for one in durable.written if one.at >= read.at)
    return durable if kept == durable.written else replace(durable, written=kept)


def after(durable: Durable, action: Action, outcome: Outcome) -> Durable:
    """The durable state once something has been written; the same again is no news."""
    if outcome.kind is not OutcomeKind.DONE:
        return durable
    match action.kind:
        case ActionKind.CONSTRAIN:
            bound = bound_of(dict(action.environment)) or 0
            now = Written(outcome.at, bound, action.rung is Rung.PLAYBOOK)
        case ActionKind.RELEASE:
            now = Written(outcome.at)
        case _:
            return durable
    if _content(now) == _content(written(durable)):
        return durable
    # The first may be what the server has read.
    kept = (*durable.written[:1], *durable.written[1:][-(WRITTEN_KEPT - 2) :], now)
    return replace(durable, written=kept)


def _content(one: Written) -> tuple[int, bool]:
    return one.bound, one.constrains
