"""Traces: what goes in comes out, a replay decides the same, what is no trace is refused in a sentence."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ollama_guard.core import scribe, trace
from ollama_guard.core.decide import absorb
from ollama_guard.core.model import (
    HOST,
    Action,
    ActionKind,
    Decision,
    DomainReading,
    Level,
    Outcome,
    OutcomeKind,
    Preference,
    Rung,
    Snapshot,
)
from ollama_guard.core.policy import GIB, MIB, CapPolicy, GovernorPolicy, ModelRule, Policy
from ollama_guard.core.replay import Comparison
from ollama_guard.core.scribe import Scribe
from ollama_guard.core.state import State
from ollama_guard.core.trace import FILE, FORMAT, GAP, START, Glanced, Header, Look, Reader, TraceError
from unit.core.flight import Flight
from unit.core.strategies import Tale, enforcing, garbage, happen, tales


def flight(**options: object) -> Flight:
    """A recorded world with an idle and a busy model, three seconds old."""
    world = Flight(**options)  # type: ignore[arg-type]  # the tests' own words
    world.begin()
    world.load("idle", 800 * MIB)
    world.load("busy", 400 * MIB, busy=True)
    world.play(3)
    return world


def compared(*traces: list[str], policy: Policy | None = None) -> Comparison:
    """These traces, replayed to their ends."""
    seen = Comparison(policy)
    for number, lines in enumerate(traces):
        list(seen.read(f"trace {number}", [f"{line}\n".encode() for line in lines]))
    return seen


def snapshots(lines: list[str]) -> list[Snapshot]:
    entries = Reader().read(f"{line}\n".encode() for line in lines)
    return [entry.snapshot for entry in entries if isinstance(entry, Look)]


NOTHING = Decision(0.0, 0.0, Level.OK, Rung.NONE, "nothing to do")


def finite(value: Any) -> Any:
    """The same without numbers that are not finite, which strict JSON can't hold."""
    if isinstance(value, float):
        return value if math.isfinite(value) else 0.5
    if isinstance(value, tuple):
        return tuple(map(finite, value))
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: finite(getattr(value, field.name)) for field in fields(value)})
    return value


@settings(max_examples=25)
@given(st.lists(garbage.map(finite), min_size=1, max_size=4))
def test_any_sequence_of_snapshots_comes_out_as_it_went_in(seen: list[Snapshot]) -> None:
    """Also where readings come, go and change places, and texts are hostile."""
    writer = Scribe()
    lines = [writer.header(Header("1.0", "", 0.0, START, 0, Policy(), State()))]
    lines += [writer.look(snapshot, NOTHING, again=False) for snapshot in seen]
    assert snapshots(lines) == seen


@settings(max_examples=25)
@given(tales(enforcing))
def test_any_tale_replays_the_same(tale: Tale) -> None:
    told = tale.begin()
    world = Flight(**{name: getattr(told, name) for name in ("capacity", "other", "limit", "policy", "now")})
    world.models, world.catalogue, world.state = told.models, told.catalogue, told.state
    world.begin()
    for step in tale.steps:
        happen(world, step)
        for _ in range(step.ticks):
            world.settle()
            world.tick()
            world.pass_time(step.dt if step.dt is not None else world.state.planned_delay_seconds)
    seen = compared(world.lines)
    assert seen.first is None
    assert seen.decisions == sum('"now"' in line[:6] for line in world.lines)


def test_a_rescue_with_its_outcome_and_a_reload_replays_the_same() -> None:
    world = flight()
    world.hog_rate, world.hog_target = 300 * MIB, 1400 * MIB
    world.play(20)
    assert [outcome.kind for _, outcome in world.outcomes] == [OutcomeKind.DONE]
    world.adopt(Policy(cap=CapPolicy(soft_max=1)))
    world.play(5)
    seen = compared(world.lines)
    assert (seen.first, seen.unlike) == (None, 0)
    assert seen.decisions > 20


def test_a_second_look_is_decided_from_the_state_before_the_first() -> None:
    """Decided from the state after it, an action of the first look would be in flight already."""
    world = flight()
    world.hog_rate, world.hog_target = 300 * MIB, 1400 * MIB
    while not world.tick(again=True).actions:
        world.pass_time(0.5)
    assert compared(world.lines).first is None
    seen = compared(
        [world.lines[0], *(json.dumps({**json.loads(line), "again": False}) for line in world.lines[1:])]
    )
    assert seen.first is not None


def without(kind: str, lines: list[str]) -> list[str]:
    """The trace without its records of one kind."""
    kept = [line for line in lines if not line.startswith(f'{{"{kind}"')]
    assert len(kept) < len(lines)
    return kept


def test_a_trace_without_its_outcomes_does_not_replay_the_same() -> None:
    """Ollama does not honour the unload; only its outcome says when that is known, and what comes next."""
    world = flight()
    model = world.model("idle")
    assert model is not None
    model.honours_unload = False
    world.hog_rate, world.hog_target = 300 * MIB, 1100 * MIB
    world.play(30)
    assert world.outcomes[0][1].kind is OutcomeKind.FAILED
    assert compared(world.lines).first is None
    assert compared(without("outcome", world.lines)).first is not None


def test_a_trace_without_its_new_policy_does_not_replay_the_same() -> None:
    world = flight()
    world.load("third", 300 * MIB)
    world.adopt(Policy(cap=CapPolicy(soft_max=1)))
    world.play(10)
    assert compared(world.lines).first is None
    seen = compared(without("policy", world.lines))
    assert seen.first is not None
    assert seen.first.recorded.rung is Rung.CAP


def test_a_changed_number_is_found_at_its_line() -> None:
    world = flight()
    place = next(i for i, line in enumerate(world.lines) if '"again"' not in line and i > 3)
    record = json.loads(world.lines[place])
    record["domains"] = {"0": {"available_bytes": 40 * MIB}}
    world.lines[place] = json.dumps(record)
    seen = compared(world.lines)
    assert seen.first is not None
    assert seen.first.line == place + 1
    assert (seen.first.recorded.level, seen.first.replayed.level) == (Level.OK, Level.CRITICAL)


def test_little_is_written_when_little_changes() -> None:
    """Nothing of the catalogue, the API and the runners is told twice."""
    world = flight()
    world.play(5)
    assert len(world.lines[-1]) < 250
    assert "catalogue" not in world.lines[-1]


def test_of_a_mapping_only_the_entries_that_changed_are_told() -> None:
    """Shown on the only mapping that is at hand; null stands for an entry that is gone."""
    stays, goes, comes = ModelRule(), ModelRule(Preference.AVOID), ModelRule(Preference.OMIT)
    old, new = Policy(models={"stays": stays, "goes": goes}), Policy(models={"stays": stays, "comes": comes})
    told = scribe._changes(old, new)
    assert told.keys() == {"models"}
    assert told["models"].keys() == {"goes", "comes"}
    assert trace._amended(old, json.loads(json.dumps(told)), "policy") == new


def test_an_observer_whose_decision_stays_tells_it_once() -> None:
    """Its deadlines move with each tick, and are no news."""
    action = Action(1, ActionKind.UNLOAD, Rung.UNLOAD_IDLE, 10.0, "sha256:1", "m")
    decision = replace(NOTHING, rung=Rung.UNLOAD_IDLE, actions=(action,), would=True)
    later = replace(decision, at=1.0, wall=1.0, actions=(replace(action, deadline_at=11.0),))
    writer = Scribe()
    assert '"decision"' in writer.look(Snapshot(0.0, 0.0), decision, again=False)
    assert '"decision"' not in writer.look(Snapshot(1.0, 1.0), later, again=False)


# ---- several files and gaps


def test_a_file_that_continues_another_must_begin_in_its_last_state() -> None:
    world = flight()
    first, world.lines = world.lines, []
    world.begin(FILE)
    world.play(3)
    assert compared(first, world.lines).first is None
    assert compared(world.lines).first is None, "each file replays alone"
    seen = compared(first[:-1], world.lines)
    assert seen.first is not None
    assert "another state" in seen.first.replayed.reason


def test_after_a_gap_the_replay_goes_on_from_what_was_then() -> None:
    world = flight()
    world.hog_rate, world.hog_target = 300 * MIB, 1400 * MIB
    kept = list(world.lines)
    world.play(5)
    world.lines = kept
    world.begin(GAP, lost=17)
    world.play(5)
    seen = compared(world.lines)
    assert (seen.first, seen.gaps, seen.lost) == (None, 1, 17)


# ---- another policy


def test_another_policy_shows_when_the_level_and_the_actions_would_have_differed() -> None:
    world = flight()
    world.hog_rate, world.hog_target = 300 * MIB, 1400 * MIB
    world.play(20)
    seen = compared(world.lines, policy=replace(Policy(), cap=CapPolicy(soft_max=1)))
    assert seen.acts_wall is not None
    assert seen.spans[0].first.replayed.rung is Rung.CAP
    assert seen.spans[0].first.recorded.rung is Rung.NONE
    assert seen.unlike >= sum(span.count for span in seen.spans[:1])


def test_the_same_policy_given_as_another_makes_no_difference() -> None:
    world = flight()
    world.hog_rate, world.hog_target = 300 * MIB, 1400 * MIB
    world.play(20)
    first, world.lines = world.lines, []
    world.begin(FILE)
    world.play(5)
    seen = compared(first, world.lines, policy=Policy())
    assert (seen.first, seen.unlike, seen.spans, seen.acts_wall) == (None, 0, [], None)


def test_an_outcome_counts_for_the_same_target_whatever_number_its_action_has() -> None:
    """The new policy unloads one model more, before: the numbers of its actions are shifted."""
    world = flight()
    world.load("extra", 100 * MIB)
    world.hog_rate, world.hog_target = 300 * MIB, 1400 * MIB
    world.play(20)
    recorded = [action.model for action, _ in world.outcomes]
    seen = Comparison(Policy(cap=CapPolicy(soft_max=2)))
    list(seen.read("trace", [f"{line}\n".encode() for line in world.lines]))
    finished = seen._replay._state.finished
    assert recorded
    done = {action.model for action, outcome in finished if outcome.kind is OutcomeKind.DONE}
    assert done <= set(recorded)
    assert done, finished


# ---- what is no trace


def read(*lines: bytes) -> Reader:
    reader = Reader()
    list(reader.read(lines))
    return reader


HEADER = Scribe().header(Header("1.0", "boot", 0.0, START, 0, Policy(), State())).encode() + b"\n"
LOOK = Scribe().look(Snapshot(1.0, 1.0), NOTHING, again=False).encode() + b"\n"


def changed(change: Callable[[dict[str, object]], object]) -> bytes:
    """The header, mended."""
    record = json.loads(HEADER)
    change(record)
    return json.dumps(record).encode() + b"\n"


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ((), "it is empty"),
        ((b"root:x:0:0\n", b"more\n"), "no trace of ollama-guard"),
        ((b"\xff\xfe\x00\n",), "no trace of ollama-guard"),
        ((b"[" * 100_000,), "no trace of ollama-guard"),
        ((b'{"trace":"other"}\n',), "no trace of ollama-guard"),
        ((LOOK,), "no trace of ollama-guard"),
        ((changed(lambda r: r.update(format=2, guard="9.9")),), "format 2, written by ollama-guard 9.9"),
        ((changed(lambda r: r["policy"].update(frob=1)),), "policy.frob: unknown key"),  # type: ignore[attr-defined]
        ((changed(lambda r: r["policy"].update(kills_per_hour="x")),), "policy.kills_per_hour: expected int"),  # type: ignore[attr-defined]
        ((changed(lambda r: r.pop("state")),), "line 1 can't be replayed by this version: state: missing"),
        ((HEADER, b"garbage\n", LOOK), "line 2 is broken"),
        ((HEADER, b"[]\n", LOOK), "line 2 is broken"),
        ((HEADER, b"{}\n", LOOK), "line 2 can't be replayed"),
        ((HEADER, LOOK, b'{"now":2.0,"runners":{"4":{}}}\n', LOOK), "runners.4: there are 0 of them"),
        ((HEADER, LOOK, b'{"now":"late"}\n'), "now: expected float"),
        ((HEADER, LOOK, b'{"outcome":{"action_id":1}}\n'), "outcome.kind: missing"),
        ((HEADER, LOOK, b'{"policy":{"models":3}}\n'), "policy.models: expected a table"),
        ((HEADER, LOOK, HEADER.replace(b'"format":1', b'"format":7'), LOOK), "format 7"),
    ],
)
def test_what_can_not_be_replayed_is_refused_in_a_sentence(lines: tuple[bytes, ...], sentence: str) -> None:
    with pytest.raises(TraceError, match=sentence.replace("(", r"\(")) as refused:
        read(*lines)
    assert "\n" not in str(refused.value)


def test_a_policy_of_absurd_numbers_is_refused_in_a_sentence() -> None:
    """No compiler makes such a threshold, but a text editor does."""
    world = flight()
    world.lines[0] = world.lines[0].replace('"ratio":0.2', '"ratio":1e308')
    with pytest.raises(TraceError, match="line 2 can't be decided on: OverflowError"):
        compared(world.lines)


@pytest.mark.parametrize("cut", [1, 7, len(LOOK) - 1])
def test_a_last_line_that_is_cut_off_is_left_out_and_counted(cut: int) -> None:
    """Its writer was killed in the middle, or the power went."""
    assert read(HEADER, LOOK, LOOK[:cut]).cut_off == cut
    assert read(HEADER, LOOK, b"\0" * cut).cut_off == cut
    assert read(HEADER, LOOK).cut_off == 0
    assert read(HEADER[:-cut]).cut_off == len(HEADER) - cut


def refused(lines: list[bytes]) -> None:
    """Nothing but a sentence may come of these lines, if they are not replayed."""
    sentence = ""
    try:
        list(Comparison().read("noise", lines))
    except TraceError as problem:
        sentence = str(problem)
    assert "\n" not in sentence


@given(st.binary(max_size=300), st.integers(0, 2))
def test_no_bytes_at_all_give_anything_but_a_sentence(noise: bytes, after: int) -> None:
    refused([*(HEADER, LOOK)[:after], *noise.splitlines(keepends=True)])


SCALAR = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
FLAT = SCALAR | st.lists(SCALAR, max_size=3) | st.dictionaries(st.sampled_from(["0", "now", "id"]), SCALAR)
PLAIN = FLAT | st.lists(FLAT, max_size=3) | st.dictionaries(st.sampled_from(["0", "1", "ollama"]), FLAT)
NAMES = st.sampled_from(
    ["now", "wall", "domains", "servers", "runners", "api", "catalogue", "requests", "blind", "decision",
     "again", "outcome", "policy", "trace", "format", "state", "x"]
)  # fmt: skip


@given(st.dictionaries(NAMES, PLAIN, max_size=4))
def test_no_record_at_all_gives_anything_but_a_sentence(record: dict[str, object]) -> None:
    line = json.dumps(record).encode() + b"\n"
    refused([HEADER, LOOK, line, LOOK])


def test_the_format_is_told_in_every_header() -> None:
    told = json.loads(HEADER)
    assert (told["trace"], told["format"]) == ("ollama-guard", FORMAT)
    assert {"guard", "boot", "wall", "policy", "state"} <= told.keys()


def test_what_json_can_not_hold_is_refused_before_it_is_told() -> None:
    """The scribe says so by a ValueError, and forgets nothing that it told before."""
    writer = Scribe()
    writer.look(Snapshot(1.0, 1.0), NOTHING, again=False)
    broken = Snapshot(2.0, 2.0, (DomainReading(HOST, GIB, GIB, psi_some_avg10=float("nan")),))
    with pytest.raises(ValueError, match="JSON"):
        writer.look(broken, NOTHING, again=False)
    assert json.loads(writer.look(Snapshot(3.0, 1.0), NOTHING, again=False)) == {"now": 3.0, "wall": 1.0}


def test_an_outcome_survives() -> None:
    outcome = Outcome(7, OutcomeKind.FAILED, 5.5, 0, "line\nbreak")
    state = absorb(Policy(), State(), outcome)
    lines = [Scribe().header(Header("1.0", "", 0.0, START, 0, Policy(), state)), Scribe().ended(outcome)]
    *_, last = Reader().read(f"{line}\n".encode() for line in lines)
    assert getattr(last, "outcome", None) == outcome


def test_glances_are_told_and_decide_nothing() -> None:
    lines = flight().lines
    glance = Scribe().glanced(7.5, {HOST: GIB, "container": None})
    entries = list(Reader().read(f"{line}\n".encode() for line in (*lines, glance)))
    assert entries[-1] == Glanced(7.5, {HOST: GIB, "container": None})
    between = [line for told in lines for line in (told, glance)]
    assert compared(between).first is None
    assert compared(between).decisions == compared(lines).decisions


def test_a_trace_of_a_guard_that_had_no_governor_yet_replays_as_it_was() -> None:
    """What its policy has no word for it did not do, also after a reload; one of today says so itself."""
    off = Policy(governor=GovernorPolicy(enabled=False))
    for policy, old in ((off, True), (Policy(), False)):
        world = flight(capacity=16 * GIB, policy=policy)
        world.load("small", 100 * MIB)
        for model in world.models:
            model.expires_at = 1e10
        world.adopt(policy)
        world.hog_rate, world.hog_target = GIB, 10700 * MIB
        world.play(80)
        lines = [without_governor(line) for line in world.lines] if old else world.lines
        assert any(decision.rung is Rung.KEEP_ALIVE for decision in world.decisions) is not old
        seen = compared(lines)
        assert (seen.unlike, seen.first) == (0, None)


def without_governor(line: str) -> str:
    """A line as a guard wrote it that knew no governor."""
    record = json.loads(line)
    if "policy" in record:
        del record["policy"]["governor"]
    record.get("state", {}).pop("governed", None)
    return json.dumps(record, separators=(",", ":"))
