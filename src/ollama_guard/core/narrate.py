"""Which log events a tick gives: pure, from the state before and after it.

A held decision or a "would have" is told once, not once a tick: its numbers change, its meaning does not.
"""

from __future__ import annotations

from ollama_guard.core import sane
from ollama_guard.core.events import Event, Priority, Value
from ollama_guard.core.model import Action, ActionKind, Decision, Level, Outcome, OutcomeKind, Rung, Snapshot
from ollama_guard.core.recoveryevents import killed_by_kernel, outlived, playbook, step_done
from ollama_guard.core.state import State
from ollama_guard.core.tierstatus import changed
from ollama_guard.core.units import bytes_text, seconds_text

# A hold that goes on is told again after this long (seconds).
HOLD_AGAIN_SECONDS = 60.0
# One that only moves between two domains, or eases, is told again after this long (seconds).
HOLD_CHANGED_SECONDS = 5.0


def events(before: State, after: State, decision: Decision, snapshot: Snapshot) -> tuple[Event, ...]:
    """What happened between the end of the last tick (``before``) and the end of this one.

    In the order of cause and effect: what was seen, what was decided on it, what follows from that.
    """
    snapshot = sane.snapshot_of(snapshot, after.last_tick_at)
    told = [
        *_stall(after),
        *_servers(before, after, snapshot),
        *_levels(before, after, snapshot),
        *_conditions(before, after),
        *changed(before, after),
        *_pause(before, after, snapshot),
        *killed_by_kernel(after),
        *(
            _finished(action, outcome)
            for action, outcome in after.finished
            if (action, outcome) not in before.finished
        ),
        *outlived(before, after),
        *_convictions(before, after),
        *playbook(before, after),
        *_decision(before, decision),
        *_cap(before, after),
    ]
    return tuple(told)


def _stall(after: State) -> list[Event]:
    if not after.stalled_seconds:
        return []
    gap = after.stalled_seconds
    return [
        Event(
            "guard.stalled",
            f"the guard itself stood still for {seconds_text(gap)} (suspend, or a starved machine): "
            "all durations start anew",
            Priority.WARNING,
            {"gap_seconds": round(gap, 3)},
        )
    ]


def _servers(before: State, after: State, snapshot: Snapshot) -> list[Event]:
    found = [s for s in snapshot.servers if (s.pid, s.start_ticks) not in before.servers]
    lost = [key for key in before.servers if key not in after.servers]
    return [
        *(
            Event("ollama.lost", f"Ollama's server process {pid} is gone", Priority.WARNING, {"pid": pid})
            for pid, _ in lost
        ),
        *(
            Event(
                "ollama.found", f"guarding Ollama's server, pid {s.pid}: {s.proof}", Priority.NOTICE,
                {"pid": s.pid, "cgroup": s.cgroup},
            )
            for s in found
        ),
    ]  # fmt: skip


def _levels(before: State, after: State, snapshot: Snapshot) -> list[Event]:
    told = []
    readings = {d.name: d for d in snapshot.domains}
    for name, domain in after.domains.items():
        old = before.domains[name].level if name in before.domains else Level.OK
        reading = readings.get(name)
        if domain.level == old or reading is None:
            continue
        available = reading.available_bytes
        told.append(
            Event(
                "level.changed",
                f"{name}: {old.word} -> {domain.level.word}, "
                f"{bytes_text(available or 0)} of {bytes_text(reading.capacity_bytes or 0)} available",
                Priority.WARNING if domain.level > max(old, Level.SOFT) else Priority.NOTICE,
                {
                    "domain": name, "level": domain.level.word, "from": old.word,
                    "available_bytes": available, "capacity_bytes": reading.capacity_bytes,
                },
            )
        )  # fmt: skip
    return told


def _conditions(before: State, after: State) -> list[Event]:
    old = {c.condition: c for c in before.conditions}
    new = {c.condition: c for c in after.conditions}
    begun = [c for key, c in new.items() if key not in old]
    ended = [c for key, c in old.items() if key not in new]
    return [
        *(
            Event(
                "condition.changed", f"{c.condition}: {c.reason}", Priority.WARNING,
                {"condition": str(c.condition), "holds": True},
            )
            for c in begun
        ),
        *(
            Event(
                "condition.changed", f"{c.condition} no longer holds", Priority.NOTICE,
                {"condition": str(c.condition), "holds": False},
            )
            for c in ended
        ),
    ]  # fmt: skip


def _pause(before: State, after: State, snapshot: Snapshot) -> list[Event]:
    old, new = before.durable.pause_until_at, after.durable.pause_until_at
    if new is not None and new != old:
        left = new - snapshot.now
        text = f"paused for {seconds_text(left)}: deciding and logging, doing nothing"
        return [Event("pause.started", text, Priority.WARNING, {"seconds": round(left, 1)})]
    if old is not None and new is None:
        return [Event("pause.ended", "no longer paused", Priority.NOTICE)]
    return []


def _convictions(before: State, after: State) -> list[Event]:
    old = {c.blob: c for c in before.durable.condemned}
    new = {c.blob: c for c in after.durable.condemned}
    told = []
    for blob, record in new.items():
        if blob not in old or old[blob].since_at != record.since_at:
            run = after.durable.playbook
            to_be_hidden = run is not None and any(target.blob == blob for target in run.targets)
            why = "is to be hidden" if to_be_hidden else "was aborted or killed again within ten minutes"
            text = (
                f"{' = '.join(record.names) or blob} {why} and "
                f"needs {bytes_text(record.needs_bytes)}: killed at birth for "
                f"{seconds_text(record.term_seconds)}"
            )
            fields: dict[str, Value] = {
                "blob": blob,
                "names": ", ".join(record.names),
                "seconds": record.term_seconds,
                "needs_bytes": record.needs_bytes,
            }
            told.append(Event("blob.condemned", text, Priority.WARNING, fields))
    for blob, record in old.items():
        if blob not in new:
            text = (
                f"{' = '.join(record.names) or blob} is no longer condemned: it fits, or nobody asks for it"
            )
            told.append(Event("blob.pardoned", text, Priority.NOTICE, {"blob": blob}))
    return told


def _cap(before: State, after: State) -> list[Event]:
    if before.soft_cap == after.soft_cap:
        return []
    if after.soft_cap is None:
        text = f"as many models as fit may stay loaded again (before: at most {before.soft_cap})"
    else:
        stay = "model stays" if after.soft_cap == 1 else "models stay"
        was = "no bound" if before.soft_cap is None else str(before.soft_cap)
        text = f"at most {after.soft_cap} {stay} loaded (before: {was})"
    return [Event("cap.changed", text, Priority.NOTICE, {"soft": after.soft_cap, "from": before.soft_cap})]


def _decision(before: State, decision: Decision) -> list[Event]:
    last = before.last_decision
    fields: dict[str, Value] = {
        "rung": str(decision.rung),
        "level": decision.level.word,
        "domain": decision.domain or None,
        "would": decision.would or None,
        "gave_up": (decision.gave_up and not (last and last.gave_up)) or None,
        "blob": ", ".join(a.blob or "?" for a in decision.actions if a.blob or not a.runtime) or None,
        "names": ", ".join(" = ".join(action.names) for action in decision.actions) or None,
    }
    if decision.actions:
        if decision.would and last is not None and _told_already(last, decision):
            return []
        priority = Priority.WARNING if decision.disruptive else Priority.NOTICE
        return [Event("decision.made", decision.reason, priority, fields)]
    return (
        [Event("decision.held", decision.reason, Priority.NOTICE, fields)]
        if tells_hold(before, decision)
        else []
    )


def _told_already(last: Decision, decision: Decision) -> bool:
    """Whether a "would have" only goes on; after a pause it is news again."""
    return decision.same_as(last) and decision.at - last.at < HOLD_AGAIN_SECONDS


def tells_hold(before: State, decision: Decision) -> bool:
    """Whether a hold is news: a new one, or one that has gone on for a while since it was told."""
    if decision.rung is not Rung.HOLD:
        return False
    last = before.last_decision
    if last is None or last.rung is not Rung.HOLD:
        return True
    if decision.level > last.level or decision.gave_up > last.gave_up:
        return True
    silent = decision.at - before.hold_told_at
    changed = (last.level, last.domain) != (decision.level, decision.domain)
    return silent >= (HOLD_CHANGED_SECONDS if changed else HOLD_AGAIN_SECONDS)


def _finished(action: Action, outcome: Outcome) -> Event:
    title = _title(action)
    fields: dict[str, Value] = {
        "action_id": action.id,
        "blob": action.blob,
        "names": ", ".join(action.names) or None,
        "pid": action.pid,
        "freed_bytes": outcome.freed_bytes,
        "outcome": str(outcome.kind),
    }
    if outcome.kind is not OutcomeKind.DONE:
        verb = str(action.kind).replace("_", " ")
        text = f"{verb} of {title} {outcome.kind}: {outcome.detail or 'no reason given'}"
        failed = outcome.kind is OutcomeKind.FAILED
        return Event("action.failed", text, Priority.WARNING if failed else Priority.NOTICE, fields)
    freed = bytes_text(outcome.freed_bytes)
    match action.kind:
        case ActionKind.UNLOAD:
            return Event("model.unloaded", f"{title} unloaded, {freed} came back", Priority.NOTICE, fields)
        case ActionKind.PURGE_GHOST:
            return Event(
                "model.unloaded", f"{title} was a ghost: its entry is cleared", Priority.NOTICE, fields
            )
        case ActionKind.KILL:
            if action.rung in (Rung.ABORT_LOAD, Rung.CAP):
                text = f"the load of {title} was aborted, {freed} came back"
                return Event(
                    "load.aborted",
                    text,
                    Priority.WARNING,
                    fields,
                )
            return Event(
                "runner.killed",
                f"the runner of {title} was killed, {freed} came back",
                Priority.WARNING,
                fields,
            )
        case ActionKind.RECLAIM:
            return Event("memory.reclaimed", f"{freed} of {title} reclaimed", Priority.NOTICE, fields)
        case _:
            return step_done(action, outcome, title)


def _title(action: Action) -> str:
    if action.names:
        return " = ".join(action.names)
    if action.kind is ActionKind.RECLAIM:
        return f"page cache in {action.domain}"
    known = action.blob or (f"pid {action.pid}" if action.pid is not None else "")
    return action.runtime or known[:19] or action.model or "Ollama"
