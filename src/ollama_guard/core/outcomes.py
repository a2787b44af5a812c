"""What an action's end teaches: strikes, budgets, what the API does not honour, how long relief takes."""

from __future__ import annotations

from dataclasses import replace

from ollama_guard.core import budgets, condemned, hardcap, hiding, lines, playbook, reopen, revive, sane
from ollama_guard.core.model import Action, ActionKind, Outcome, OutcomeKind, Rung
from ollama_guard.core.policy import Policy
from ollama_guard.core.scene import expected_seconds
from ollama_guard.core.state import Rates, State

# An unload that was not honoured is not tried again for this long (seconds).
UNHONOURED_SECONDS = 60.0
# One that was not even sent (the runner was not there any more, its time was over) may come soon again.
SKIPPED_SECONDS = 2.0
# Actions without any outcome are given up this long after their deadline (seconds).
FORGOTTEN_SECONDS = 5.0
# Weight of the newest measured relief time against the past ones, and the bounds of the result.
RATE_WEIGHT = 0.3
RATE_BOUNDS = (0.2, 10.0)
# How the outcome of a kill begins whose process outlived its signal: the sentinel's word.
STILL_THERE = "still there"
# Processes that did, remembered so that each is told of once.
STUCK_KEPT = 32
# Endings remembered: for the status, and to spare who was shot at in vain.
FINISHED_KEPT = 32


def absorb(policy: Policy, state: State, outcome: Outcome) -> State:
    """The state after an action ended. An unknown action id changes nothing."""
    action = next((a for a in state.in_flight if a.id == outcome.action_id), None)
    if action is None:
        return state
    outcome = sane.outcome_of(outcome, state.last_tick_at)
    durable = condemned.by_hand(condemned.after(state.durable, action, outcome, policy), action, outcome)
    durable = replace(durable, fruitless_kills=budgets.after(durable.fruitless_kills, action, outcome))
    durable = reopen.after(
        hardcap.after(playbook.after(durable, action, outcome, policy), action, outcome), action, outcome
    )
    durable = revive.after(lines.after(durable, action, outcome), action, outcome)
    durable = replace(durable, spared=hiding.spared_after(durable.spared, action, outcome))
    unhonoured = dict(state.unhonoured)
    if action.kind is ActionKind.UNLOAD and action.blob and outcome.kind is not OutcomeKind.DONE:
        failed = outcome.kind is OutcomeKind.FAILED
        unhonoured[action.blob] = outcome.at + (UNHONOURED_SECONDS if failed else SKIPPED_SECONDS)
    return replace(
        state,
        durable=durable,
        in_flight=tuple(a for a in state.in_flight if a.id != action.id),
        finished=(*state.finished, (action, outcome))[-FINISHED_KEPT:],
        unhonoured=unhonoured,
        rates=_learn(policy, state, action, outcome),
        stuck=_stuck(state.stuck, action, outcome),
    )


def _stuck(
    known: tuple[tuple[int, int], ...], action: Action, outcome: Outcome
) -> tuple[tuple[int, int], ...]:
    """The processes that SIGKILL did not end, the newest last."""
    kills = action.kind in (ActionKind.KILL, ActionKind.KILL_SERVER)
    stays = outcome.kind is OutcomeKind.FAILED and outcome.detail.startswith(STILL_THERE)
    if action.key is None or action.key in known or not (kills and stays):
        return known
    return (*known, action.key)[-STUCK_KEPT:]


def _learn(policy: Policy, state: State, action: Action, outcome: Outcome) -> Rates:
    """Relief times as measured here, against their priors."""
    issued = state.issued_at.get(str(action.id))
    by_hand = action.request_id is not None  # may be busy, so its time says nothing of an idle one's
    if outcome.kind is not OutcomeKind.DONE or action.rung is Rung.DRAIN_BUSY or issued is None or by_hand:
        return state.rates
    prior = expected_seconds(policy, Rates(), replace(action, measured_seconds=None))
    low, high = RATE_BOUNDS
    measured = min(max((outcome.at - issued) / prior, low), high) if prior > 0 else 1.0
    match action.kind:
        case ActionKind.UNLOAD:
            return replace(
                state.rates, unload=state.rates.unload + RATE_WEIGHT * (measured - state.rates.unload)
            )
        case ActionKind.KILL:
            return replace(state.rates, kill=state.rates.kill + RATE_WEIGHT * (measured - state.rates.kill))
        case _:
            return state.rates


def without_forgotten(policy: Policy, state: State, now: float) -> State:
    """Actions whose outcome never came have failed, so that they are not simply tried again."""
    for action in state.in_flight:
        if action.deadline_at + FORGOTTEN_SECONDS <= now:
            lost = Outcome(action.id, OutcomeKind.FAILED, now, detail="its outcome never came")
            state = absorb(policy, state, lost)
    return state
