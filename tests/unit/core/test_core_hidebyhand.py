"""Hiding and restoring by hand: an action, or a sentence that says why there is none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ollama_guard.core.decide import absorb, decide
from ollama_guard.core.model import (
    Action,
    ActionKind,
    CatalogueEntry,
    Decision,
    Mode,
    Outcome,
    OutcomeKind,
    Reply,
    Request,
    Snapshot,
)
from ollama_guard.core.narrate import events
from ollama_guard.core.policy import GIB, Authority, OllamaPolicy, Policy
from ollama_guard.core.quarantined import Hidden, QuarantineEntry, StoreReading
from ollama_guard.core.state import State
from ollama_guard.core.status import view
from ollama_guard.testing.scenario import World, blob_of

KEPT = "quarantine.registry.ollama.ai/library/big:7b"
BIG = CatalogueEntry(blob_of("big"), ("big:7b", "nick:latest"), 3 * GIB)
HIDDEN = QuarantineEntry(
    "big:7b", KEPT, blob_of("big"), Hidden.OFFLINE, 1.7e9, 3 * GIB, 4 * GIB, "it can't fit"
)
NICK = replace(HIDDEN, name="nick:latest", alias=KEPT.replace("big:7b", "nick:latest"))


def seen(verb: str = "", model: str = "", *entries: QuarantineEntry, **changes: Any) -> Snapshot:
    store = StoreReading("/models", writable=True, entries=entries, read_at=999.0)
    requests = (Request(7, verb, model),) if verb else ()
    known = {"catalogue": (BIG,), "store": store, "requests": requests}
    return replace(World().snapshot(), **(known | changes))


def decided(snapshot: Snapshot, policy: Policy | None = None) -> Decision:
    return decide(policy or Policy(), State(), snapshot)[1]


def action(snapshot: Snapshot, policy: Policy | None = None) -> Action:
    decision = decided(snapshot, policy)
    assert not decision.would
    (action,) = decision.actions
    return action


def reply(snapshot: Snapshot) -> Reply:
    decision = decided(snapshot)
    assert not decision.actions
    (reply,) = decision.replies
    return reply


@pytest.mark.parametrize("mode", [Mode.ENFORCE, Mode.OBSERVE])
@pytest.mark.parametrize("authority", Authority)
@pytest.mark.parametrize("said", ["big:7b", "BIG:7B", "nick"])
def test_a_person_hides_a_model_under_all_its_names_in_every_mode(
    said: str, mode: Mode, authority: Authority
) -> None:
    policy = Policy(ollama=OllamaPolicy(mode=mode, authority=authority))
    wanted = action(seen("quarantine", said), policy)
    assert (wanted.kind, wanted.names, wanted.blob, wanted.request_id) == (
        ActionKind.QUARANTINE, ("big:7b", "nick:latest"), blob_of("big"), 7,
    )  # fmt: skip
    assert wanted.needs_bytes >= 3 * GIB
    assert wanted.reason == "asked for by hand: hide big:7b = nick:latest"
    assert wanted.deadline_at > 1000.0


@pytest.mark.parametrize("said", ["big:7b", KEPT, "nick"])
def test_a_person_gives_a_model_back_under_all_its_names(said: str) -> None:
    other = replace(HIDDEN, name="other:7b", alias="quarantine.x/library/other:7b", blob=blob_of("other"))
    wanted = action(seen("restore", said, HIDDEN, NICK, other))
    assert (wanted.kind, wanted.names) == (ActionKind.RESTORE, ("big:7b", "nick:latest"))
    assert wanted.request_id == 7


@pytest.mark.parametrize(
    ("verb", "said", "entries", "ok", "text"),
    [
        ("quarantine", "bigg", (), False, "no model named 'bigg' is installed"),
        ("quarantine", "far:cloud", (), False, "runs elsewhere"),
        ("quarantine", "big:7b", (HIDDEN,), True, "big:7b is hidden already, as quarantine."),
        ("restore", "big:7b", (), True, "big:7b is not hidden"),
        ("restore", "gone", (HIDDEN, NICK), False, "hidden are big:7b, nick:latest"),
        ("restore", "gone", (), False, "no model is hidden"),
        ("restore", "big:7b", (replace(HIDDEN, how=Hidden.DELETED),), False, "`ollama pull big:7b`"),
        ("quarantine", "x\ny", (), False, "no model named 'x\\ny' is installed"),
    ],
)
def test_what_can_t_be_done_or_is_so_already_is_said(
    *, verb: str, said: str, entries: tuple[QuarantineEntry, ...], ok: bool, text: str
) -> None:
    answer = reply(seen(verb, said, *entries))
    assert answer.ok is ok
    assert text in answer.text
    assert answer.text.isprintable()


def test_a_name_that_a_client_brought_back_can_be_hidden_again_and_restored() -> None:
    returned = replace(HIDDEN, returned=True)
    assert action(seen("quarantine", "big:7b", returned)).kind is ActionKind.QUARANTINE
    assert action(seen("restore", "big:7b", returned)).kind is ActionKind.RESTORE


def test_without_a_way_to_hide_it_the_reason_is_told() -> None:
    silent = seen("quarantine", "big:7b")
    unwritable = replace(silent.store, writable=False, error="/models/manifests is not writable")
    told = reply(replace(silent, api=replace(silent.api, answered_at=None), store=unwritable))
    assert told.text.endswith("does not answer, and /models/manifests is not writable")
    assert action(replace(silent, store=unwritable)).kind is ActionKind.QUARANTINE, "the API is left"


def test_what_a_hidden_model_is_kept_as_is_no_name_to_hide() -> None:
    entry = replace(BIG, names=("big:7b", KEPT))
    snapshot = seen("quarantine", "big:7b", replace(HIDDEN, returned=True), catalogue=(entry,))
    assert action(snapshot).names == ("big:7b",)


def test_the_same_model_is_not_hidden_and_brought_back_at_the_same_time() -> None:
    snapshot = seen("quarantine", "big:7b")
    state, _ = decide(Policy(), State(), snapshot)
    _, decision = decide(Policy(), state, replace(snapshot, now=snapshot.now + 0.1))
    assert "at this moment: ask again" in decision.replies[0].text


@pytest.mark.parametrize(
    ("verb", "entries", "name"),
    [("quarantine", (), "model.quarantined"), ("restore", (HIDDEN,), "model.restored")],
)
def test_its_end_is_an_event(verb: str, entries: tuple[QuarantineEntry, ...], name: str) -> None:
    snapshot = seen(verb, "big:7b", *entries)
    before, decision = decide(Policy(), State(), snapshot)
    outcome = Outcome(decision.actions[0].id, OutcomeKind.DONE, snapshot.now + 1, detail="by renaming")
    after = absorb(Policy(), before, outcome)
    told = {event.name: event for event in events(before, after, decision, snapshot)}
    assert "by renaming" in told[name].message
    assert told[name].fields["names"] == ", ".join(decision.actions[0].names)


def test_the_status_lists_what_is_hidden_and_says_when_it_is_not_known() -> None:
    document = view(Policy(), State(), seen("", "", HIDDEN, NICK), {})
    assert [row["name"] for row in document["quarantine"]] == ["big:7b", "nick:latest"]
    assert document["quarantine"][0] == {
        "name": "big:7b", "alias": KEPT, "blob": blob_of("big"), "how": "offline", "since": 1.7e9,
        "size_bytes": 3 * GIB, "needs_bytes": 4 * GIB, "reason": "it can't fit", "returned": False,
    }  # fmt: skip
    unknown = view(Policy(), State(), seen(store=StoreReading()), {})
    assert unknown["quarantine"] is None
    assert unknown["unknown"]["quarantine"]
