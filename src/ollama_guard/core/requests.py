"""What people ask for through the control socket: pause, resume, unload, playbook, release, quarantine.

What a person asks for is done in every mode: observe and paused bind the guard's judgement, not its owner.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ollama_guard.core import hidebyhand, playbook, reopen, serving
from ollama_guard.core.events import one_line
from ollama_guard.core.ladder import Draft
from ollama_guard.core.model import Action, ActionKind, Activity, Reply, Request, Rung
from ollama_guard.core.policy import spelled
from ollama_guard.core.recovery import Playbook
from ollama_guard.core.runners import Runner
from ollama_guard.core.scene import Scene
from ollama_guard.core.state import Durable
from ollama_guard.core.targets import runtime_here
from ollama_guard.core.units import seconds_text

# The longest pause that may be asked for (seconds): a week; "for ever" is what `systemctl stop` is for.
LONGEST_PAUSE_SECONDS = 7 * 86400.0


@dataclass(frozen=True, slots=True)
class ByHand:
    """What a person asked for: its draft, or replies that say why there is none."""

    draft: Draft | None = None
    request_id: int | None = None
    replies: tuple[Reply, ...] = ()


def answer(scene: Scene) -> tuple[Durable, tuple[Reply, ...]]:
    """The durable state after pause and resume requests, and their replies."""
    durable, replies = scene.state.durable, []
    if durable.pause_until_at is not None and durable.pause_until_at <= scene.now:
        durable = replace(durable, pause_until_at=None)
    for request in scene.snapshot.requests:
        match request.verb:
            case "pause":
                durable, reply = _pause(durable, request, scene.now)
                replies.append(reply)
            case "resume":
                was = durable.pause_until_at is not None
                durable = replace(durable, pause_until_at=None)
                replies.append(Reply(request.id, ok=True, text="resumed" if was else "was not paused"))
            case "unload" | "release" | "quarantine" | "restore":
                pass
            case "playbook":
                durable, reply = _playbook(scene, durable, request)
                replies.append(reply)
            case _:
                replies.append(Reply(request.id, ok=False, text=f"unknown request {request.verb!r}"))
    later = [request for request in scene.snapshot.requests if request.verb == "unload"][1:]
    replies += [Reply(r.id, ok=False, text="one unload at a time: ask again") for r in later]
    return durable, tuple(replace(reply, text=one_line(reply.text)) for reply in replies)


def _pause(durable: Durable, request: Request, now: float) -> tuple[Durable, Reply]:
    seconds = request.seconds
    if seconds is None or not 0 < seconds <= LONGEST_PAUSE_SECONDS:
        text = f"a pause lasts more than 0 s and at most {seconds_text(LONGEST_PAUSE_SECONDS)}"
        return durable, Reply(request.id, ok=False, text=text)
    reply = Reply(
        request.id, ok=True, text=f"paused for {seconds_text(seconds)}: deciding and logging, doing nothing"
    )
    return replace(durable, pause_until_at=now + seconds), reply


def _playbook(scene: Scene, durable: Durable, request: Request) -> tuple[Durable, Reply]:
    """Begin a playbook by hand. The owner's own order needs no authority and no budget, but no less care."""
    name = next((known for known in Playbook if known.value == request.model), None)
    if name is None:
        text = (
            f"no playbook is named {request.model[:60]!r}; there are {', '.join(p.value for p in Playbook)}"
        )
        return durable, Reply(request.id, ok=False, text=text)
    if durable.playbook is not None:
        return durable, Reply(request.id, ok=False, text=f"{durable.playbook.name.value} is running already")
    why = serving.why_never(scene, runtime_here(scene)) if name is Playbook.FREEZE else ""
    if why:
        return durable, Reply(request.id, ok=False, text=why)
    scene = scene.remembering(durable)
    text = f"{name.value} begins; `ollama-guard playbook show` tells where it stands"
    return playbook.begin(scene, name, "asked for by hand", by_hand=True), Reply(
        request.id, ok=True, text=text
    )


def by_hand(scene: Scene) -> ByHand:
    """What a person's request calls for in this tick."""
    for request in scene.snapshot.requests:
        match request.verb:
            case "release":
                return _release(scene, request)
            case "quarantine":
                return _moved(request, hidebyhand.hide(scene, request))
            case "restore":
                return _moved(request, hidebyhand.restore(scene, request))
    return unloads(scene)


def _moved(request: Request, answer: Action | hidebyhand.Refusal) -> ByHand:
    """A model hidden or given back."""
    if isinstance(answer, hidebyhand.Refusal):
        return ByHand(replies=(Reply(request.id, answer.ok, one_line(answer.text)),))
    draft = Draft(answer.rung, answer.reason, answer.kind, prepared=(answer,))
    return ByHand(draft=draft, request_id=request.id)


def _release(scene: Scene, request: Request) -> ByHand:
    if scene.state.durable.playbook is not None:
        text = f"{scene.state.durable.playbook.name.value} is running: ask again when it is over"
        return ByHand(replies=(Reply(request.id, ok=False, text=text),))
    actions = reopen.everything(scene)
    draft = Draft(Rung.PLAYBOOK, actions[0].reason, ActionKind.RELEASE, prepared=actions, must=True)
    return ByHand(draft=draft, request_id=request.id)


def unloads(scene: Scene) -> ByHand:
    """The first unload asked for this tick (the sentinel passes requests on one at a time)."""
    request = next((r for r in scene.snapshot.requests if r.verb == "unload"), None)
    if request is None:
        return ByHand()
    targets = _targets(scene, request.model)
    if not targets:
        ok, why = _why_none(scene, request.model)
        return ByHand(replies=(Reply(request.id, ok, one_line(why)),))
    if not scene.api_usable():
        return ByHand(
            replies=(Reply(request.id, ok=False, text="Ollama's API does not answer, so it can't be asked"),)
        )
    listed = ", ".join(runner.title for runner in targets)
    draft = Draft(Rung.UNLOAD_IDLE, f"asked for by hand: unload {listed}", ActionKind.UNLOAD, targets, "host")
    return ByHand(draft=draft, request_id=request.id)


def _targets(scene: Scene, model: str) -> tuple[Runner, ...]:
    live = [r for r in scene.runners if r.names and r.activity is not Activity.STOPPING]
    if model == "*":
        return tuple(live)
    return tuple(r for r in live if spelled(model) in {spelled(name) for name in r.names})


def _why_none(scene: Scene, model: str) -> tuple[bool, str]:
    """(ok, text) when no runner is to be unloaded; asking for what is already so is not a failure."""
    if model == "*":
        return True, "no model is loaded"
    stopping = [r for r in scene.runners if spelled(model) in {spelled(name) for name in r.names}]
    if stopping:
        return True, f"{model} is already being unloaded"
    known = {spelled(name) for entry in scene.snapshot.catalogue for name in entry.names}
    if spelled(model) in known:
        return True, f"{model} is not loaded"
    return False, f"no model named {model!r} is installed"
