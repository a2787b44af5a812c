"""The events of a recovery: a run begins, each of its steps, its end; a runner that the kernel killed."""

from __future__ import annotations

from ollama_guard.core import lines
from ollama_guard.core.events import Event, Priority, Value
from ollama_guard.core.model import Action, ActionKind, Outcome, Rung
from ollama_guard.core.outcomes import STILL_THERE
from ollama_guard.core.recovery import Ending, Run
from ollama_guard.core.state import State
from ollama_guard.core.units import bytes_text


def killed_by_kernel(after: State) -> list[Event]:
    """One event for each runner that the kernel killed."""
    return [
        Event(
            "runner.lost",
            f"the kernel killed the runner of {' = '.join(death.names) or death.blob[:19]}: it "
            f"held {bytes_text(death.held_bytes)} and needs {bytes_text(death.needs_bytes)} at least",
            Priority.WARNING,
            {"blob": death.blob, "names": ", ".join(death.names) or None, "needs_bytes": death.needs_bytes},
        )
        for death in after.symptoms.killed
    ]


def outlived(before: State, after: State) -> list[Event]:
    """One event for each process that a SIGKILL did not end, however often it is shot at."""
    new = [key for key in after.stuck if key not in before.stuck]
    shots = {a.key: (a, o) for a, o in after.finished if o.detail.startswith(STILL_THERE)}
    return [_outlived(*shots[key]) for key in new if key in shots]


def _outlived(action: Action, outcome: Outcome) -> Event:
    name = " = ".join(action.names) or (action.blob or "")[:19] or action.runtime
    whose = "server" if action.kind is ActionKind.KILL_SERVER else "runner"
    of = f" of {name}" if name else ""
    text = f"the {whose}{of}, pid {action.pid}, outlives SIGKILL and keeps its memory: {outcome.detail}"
    fields: dict[str, Value] = {
        "pid": action.pid,
        "blob": action.blob,
        "names": ", ".join(action.names) or None,
        "runtime": action.runtime or None,
    }
    return Event("runner.stuck", text, Priority.ERROR, fields)


def playbook(before: State, after: State) -> list[Event]:
    """The beginning and the end of a run."""
    position, old = after.durable.playbook, before.durable.playbook
    known = {run.started_at: run for run in before.durable.runs}
    ended = [
        run
        for run in after.durable.runs
        if run.ending is not Ending.RUNNING
        and (run.started_at not in known or known[run.started_at].ending is Ending.RUNNING)
    ]
    told = [_finished(run) for run in ended]
    if position is not None and (old is None or old.started_at != position.started_at):
        hidden = [" = ".join(target.names) for target in position.targets]
        text = f"{position.name.value} begins{f' on {position.runtime}' if position.runtime else ''}: "
        text += position.reason + (f"; to be hidden: {', '.join(hidden)}" if hidden else "")
        fields: dict[str, Value] = {
            "playbook": position.name.value,
            "runtime": position.runtime or None,
            "by_hand": position.by_hand or None,
        }
        told.append(Event("playbook.started", text, Priority.WARNING, fields))
    return told


def _finished(run: Run) -> Event:
    fields: dict[str, Value] = {
        "playbook": run.name.value,
        "outcome": run.ending.value,
        "seconds": None if run.ended_at is None else round(run.ended_at - run.started_at, 1),
    }
    priority = Priority.NOTICE if run.ending is Ending.DONE else Priority.WARNING
    priority = Priority.ERROR if run.ending is Ending.FAILED else priority
    return Event("playbook.finished", f"{run.name.value} {run.ending.value}: {run.text}", priority, fields)


def step_done(action: Action, outcome: Outcome, title: str) -> Event:
    """An action on a server, or on its store, that was done."""
    fields: dict[str, Value] = {
        "action_id": action.id,
        "step": action.kind.value,
        "runtime": action.runtime or None,
        "blob": action.blob,
        "names": ", ".join(action.names) or None,
        "outcome": outcome.kind.value,
    }
    said = f": {outcome.detail}" if outcome.detail else ""
    if action.rung is Rung.CAP:
        hard = dict(action.environment).get(lines.KEY)
        bound = f"at most {hard} loaded" if hard else "no bound of ours"
        text = f"{title} starts the next time with {bound}{said}"
        return Event("cap.changed", text, Priority.NOTICE, {"hard": int(hard) if hard else None})
    match action.kind:
        case ActionKind.QUARANTINE:
            needs = f", which needs {bytes_text(action.needs_bytes)}" if action.needs_bytes else ""
            return Event("model.quarantined", f"{title} is hidden{needs}{said}", Priority.WARNING, fields)
        case ActionKind.RESTORE:
            return Event("model.restored", f"{title} can be asked for again{said}", Priority.NOTICE, fields)
        case _:
            verb = action.kind.value.replace("_", " ")
            return Event("playbook.step", f"{verb} {title}{said or ': done'}", Priority.NOTICE, fields)
