"""The whole of hands hides, restores and verifies, against the fake Ollama: offline and by the API."""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from beds import BedUnavailable
from beds.cutting_proxy import CuttingProxy
from beds.disks import full_disk, hanging_disk
from beds.hands import HandsBed
from ollama_guard.core.model import Action, ActionKind, Outcome, OutcomeKind, Rung, ServerReading
from ollama_guard.core.policy import OllamaPolicy, Policy, QuarantineAction, QuarantinePolicy
from ollama_guard.core.quarantined import Hidden, QuarantineEntry, StoreReading
from ollama_guard.hands.lanes import boottime
from ollama_guard.testing.fake import FakeOllama
from ollama_guard.testing.fake.spec import parse_model
from ollama_guard.wire import ActionPosted, CatalogueObserved, OutcomeReported, ServersTold, StoreObserved

MODELS = ("big=20MiB,alias=nick", "other=10MiB")
BLOB = f"sha256:{parse_model(MODELS[0]).digest}"
KEPT = {f"quarantine.registry.ollama.ai/library/{name}:latest" for name in ("big", "nick")}
BIG = ("big:latest", "nick:latest")
ELSEWHERE = "/nonexistent"  # a models_folder where nothing is, so that only the API is left
SECONDS = 20.0
ids = itertools.count(1)


@pytest.fixture
def fake() -> Iterator[FakeOllama]:
    with FakeOllama(MODELS, remotes=("far:cloud",)) as server:
        yield server


@pytest.fixture(params=["offline", "api"])
def way(request: pytest.FixtureRequest) -> str:
    """How hiding is done."""
    return str(request.param)


def policy(fake: FakeOllama, way: str, **changes: Any) -> Policy:
    ollama = OllamaPolicy(
        url=fake.url, poll_seconds=600, request_timeout_seconds=5,
        models_folder=ELSEWHERE if way == "api" else str(fake.models_dir),
    )  # fmt: skip
    return Policy(ollama=ollama, **changes)


def start(folder: Path, wanted: Policy) -> HandsBed:
    return HandsBed(folder, wanted)


def ask(hands: HandsBed, kind: ActionKind, seconds: float = SECONDS, **fields: Any) -> Outcome:
    """Post an action and wait for its outcome."""
    action = Action(next(ids), kind, Rung.PLAYBOOK, boottime() + seconds, **fields)
    hands.channel.send(ActionPosted(action))
    hands.channel.flush()
    ended = hands.wait_for(OutcomeReported, lambda m: m.outcome.action_id == action.id, seconds + 5)
    return ended.outcome


def hide(hands: HandsBed, names: tuple[str, ...] = BIG) -> Outcome:
    return ask(hands, ActionKind.QUARANTINE, blob=BLOB, names=names, needs_bytes=2**30, reason="it can't fit")


def newest(hands: HandsBed) -> StoreReading:
    return hands.told(StoreObserved)[-1].store


def entries(hands: HandsBed) -> dict[str, QuarantineEntry]:
    return {entry.name: entry for entry in newest(hands).entries}


def names(fake: FakeOllama) -> set[str]:
    return {model["name"] for model in fake.get("/api/tags").value["models"]}


def knows_all(hands: HandsBed) -> None:
    hands.wait_for(CatalogueObserved, lambda m: len(m.entries) == 2)


def wait(check: Callable[[], object], what: str, seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def test_a_model_is_hidden_under_all_its_names_its_runner_goes_and_it_all_comes_back(
    tmp_path: Path, fake: FakeOllama, way: str
) -> None:
    before = names(fake)
    fake.load("nick", keep_alive=-1)
    with start(tmp_path, policy(fake, way)) as hands:
        knows_all(hands)
        outcome = hide(hands)
        assert outcome.kind is OutcomeKind.DONE, outcome.detail
        assert outcome.detail == ("by the API" if way == "api" else "by renaming")
        assert names(fake) == before - set(BIG) | KEPT
        assert fake.post("/api/generate", {"model": "big"}).status == 404
        fake.wait(lambda: not fake.ps())
        told = entries(hands)
        assert set(told) == set(BIG)
        assert {e.how for e in told.values()} == {Hidden.API if way == "api" else Hidden.OFFLINE}
        assert {(e.needs_bytes, e.reason) for e in told.values()} == {(2**30, "it can't fit")}
        assert not any(e.returned for e in told.values())
        assert newest(hands).writable is (way == "offline")
        again = hide(hands)
        assert again.kind is OutcomeKind.DONE, again.detail
        back = ask(hands, ActionKind.RESTORE, names=BIG)
        assert back.kind is OutcomeKind.DONE, back.detail
        assert back.detail == ("by the API" if way == "api" else "by renaming")
        assert names(fake) == before
        assert entries(hands) == {}
    fake.load("big")


def test_a_name_that_nobody_mentioned_is_hidden_with_the_others(
    tmp_path: Path, fake: FakeOllama, way: str
) -> None:
    with start(tmp_path, policy(fake, way)) as hands:
        knows_all(hands)
        assert "with nick:latest" in hide(hands, ("big:latest",)).detail
        assert not names(fake) & set(BIG)


def test_while_the_server_is_down_hiding_works_where_manifests_can_be_renamed(
    tmp_path: Path, fake: FakeOllama, way: str
) -> None:
    fake.stop()
    with start(tmp_path, policy(fake, way)) as hands:
        outcome = ask(hands, ActionKind.QUARANTINE, blob=BLOB, names=BIG)
        if way == "api":
            assert outcome.kind is OutcomeKind.FAILED
            assert "can't connect" in outcome.detail
            assert ELSEWHERE in outcome.detail
            return
        assert outcome.kind is OutcomeKind.DONE, outcome.detail
        fake.start()
        assert names(fake) == {"other:latest", "far:cloud", *KEPT}
        assert ask(hands, ActionKind.RESTORE, names=BIG).kind is OutcomeKind.DONE
        assert set(BIG) <= names(fake)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("number", range(1, 6))
@pytest.mark.parametrize("kind", [ActionKind.QUARANTINE, ActionKind.RESTORE])
def test_hands_killed_at_any_call_leave_a_state_that_a_repeat_brings_to_the_same_end(
    tmp_path: Path, fake: FakeOllama, number: int, kind: ActionKind, *, after: bool
) -> None:
    """Hiding two names takes two copies, two deletes and an unload; restoring them the first four."""
    before = names(fake)
    with CuttingProxy(fake.port) as proxy:
        wanted = policy(fake, "api")
        wanted = replace(wanted, ollama=replace(wanted.ollama, url=proxy.url))
        if kind is ActionKind.RESTORE:
            with start(tmp_path, wanted) as hands:
                knows_all(hands)
                assert hide(hands).kind is OutcomeKind.DONE
        with start(tmp_path, wanted) as hands:
            knows_all(hands)
            moment = proxy.cut(number, hands.process.kill, after=after)
            action = Action(next(ids), kind, Rung.PLAYBOOK, boottime() + SECONDS, names=BIG)
            hands.channel.send(ActionPosted(action))
            hands.channel.flush()
            if kind is ActionKind.RESTORE and number == 5:
                hands.wait_for(OutcomeReported, lambda m: m.outcome.action_id == action.id)
            else:
                assert moment.reached.wait(SECONDS), proxy.calls
                hands.process.wait(SECONDS)
        manifests = {m["digest"] for m in fake.get("/api/tags").value["models"]}
        assert len(manifests) == 4, "a manifest was lost"
        proxy.moment = None
        with start(tmp_path, wanted) as hands:
            knows_all(hands)
            repeated = ask(hands, kind, names=BIG)
            assert repeated.kind is OutcomeKind.DONE, repeated.detail
            expected = before if kind is ActionKind.RESTORE else before - set(BIG) | KEPT
            assert names(fake) == expected
            assert set(entries(hands)) == (set() if kind is ActionKind.RESTORE else set(BIG))


def test_a_lost_book_loses_reasons_and_nothing_else(tmp_path: Path, fake: FakeOllama, way: str) -> None:
    with start(tmp_path, policy(fake, way)) as hands:
        knows_all(hands)
        hide(hands)
    (tmp_path / "state/quarantine.json").write_text("{ torn")
    with start(tmp_path, policy(fake, way)) as hands:
        told = hands.wait_for(StoreObserved, lambda m: len(m.store.entries) == 2).store.entries
        assert {(e.name, e.alias) for e in told} == set(zip(BIG, sorted(KEPT), strict=True))
        assert {e.blob for e in told} != {None}
        assert (tmp_path / "state/quarantine.json.broken").exists()
        assert ask(hands, ActionKind.RESTORE, names=BIG).kind is OutcomeKind.DONE


def test_a_name_that_a_client_brought_back_is_noticed_and_said(
    tmp_path: Path, fake: FakeOllama, way: str
) -> None:
    with start(tmp_path, policy(fake, way)) as hands:
        knows_all(hands)
        hide(hands)
        kept = "quarantine.registry.ollama.ai/library/big:latest"
        assert fake.post("/api/copy", {"source": kept, "destination": "big:latest"}).status == 200
        if way == "api":
            outcome = ask(hands, ActionKind.QUARANTINE, names=("other:latest",))  # any action looks anew
            assert outcome.kind is OutcomeKind.DONE
        hands.wait_for(StoreObserved, lambda m: any(e.returned for e in m.store.entries), SECONDS)
        wait(lambda: "model.returned" in (tmp_path / "log").read_text(), "no event")
        assert hide(hands).kind is OutcomeKind.DONE
        assert not entries(hands)["big:latest"].returned


def test_another_model_under_the_name_is_never_overwritten(
    tmp_path: Path, fake: FakeOllama, way: str
) -> None:
    with start(tmp_path, policy(fake, way)) as hands:
        knows_all(hands)
        hide(hands)
        assert fake.post("/api/copy", {"source": "other", "destination": "big:latest"}).status == 200
        before = {m["name"]: m["digest"] for m in fake.get("/api/tags").value["models"]}
        outcome = ask(hands, ActionKind.RESTORE, names=("big:latest",))
        assert outcome.kind is OutcomeKind.FAILED
        assert "big:latest is another model now" in outcome.detail
        assert {m["name"]: m["digest"] for m in fake.get("/api/tags").value["models"]} == before


@pytest.mark.parametrize("done", list(QuarantineAction))
def test_a_name_that_means_another_model_by_now_is_left_alone(
    tmp_path: Path, fake: FakeOllama, way: str, done: QuarantineAction
) -> None:
    """Its owner pulled a smaller one under the same name, after the catalogue was read."""
    with start(tmp_path, policy(fake, way, quarantine=QuarantinePolicy(action=done))) as hands:
        knows_all(hands)
        good = {"source": "other", "destination": "big:latest"}
        assert fake.post("/api/copy", good).status == 200
        outcome = hide(hands)
        assert outcome.kind is OutcomeKind.DONE, outcome.detail
        assert "big:latest left alone: not that model any more" in outcome.detail
        assert "big:latest" in names(fake)
        assert "nick:latest" not in names(fake)
        assert fake.post("/api/copy", {"source": "other", "destination": "nick:latest"}).status == 200
        before = names(fake)
        outcome = hide(hands)
        assert outcome.kind is OutcomeKind.FAILED
        assert "big:latest, nick:latest left alone" in outcome.detail
        assert names(fake) == before


def test_deleted_is_only_where_the_owner_wrote_it_and_the_way_back_is_saved(
    tmp_path: Path, fake: FakeOllama, way: str
) -> None:
    digests = {m["name"]: m["digest"] for m in fake.get("/api/tags").value["models"]}
    wanted = policy(fake, way, quarantine=QuarantinePolicy(action=QuarantineAction.DELETE))
    with start(tmp_path, wanted) as hands:
        knows_all(hands)
        outcome = hide(hands)
        assert outcome.kind is OutcomeKind.DONE
        assert "then deleted" in outcome.detail
        assert names(fake) == {"other:latest", "far:cloud"}
        assert {e.how for e in entries(hands).values()} == {Hidden.DELETED}
        book = json.loads((tmp_path / "state/quarantine.json").read_text())
        saved = {w["name"]: w for w in book["ways_back"]}
        assert set(saved) == set(BIG)
        for name in BIG:
            assert saved[name]["digest"] == digests[name]
            assert saved[name]["modelfile"].startswith("# Modelfile")
            assert bool(saved[name]["manifest"]) is (way == "offline")
        refused = ask(hands, ActionKind.RESTORE, names=BIG)
        assert refused.kind is OutcomeKind.FAILED
        assert "`ollama pull big:latest` brings it back" in refused.detail
        assert hide(hands).kind is OutcomeKind.DONE, "a repeat has the same end"


def test_a_person_who_hides_a_model_never_deletes_it(tmp_path: Path, fake: FakeOllama, way: str) -> None:
    wanted = policy(fake, way, quarantine=QuarantinePolicy(action=QuarantineAction.DELETE))
    with start(tmp_path, wanted) as hands:
        knows_all(hands)
        assert ask(hands, ActionKind.QUARANTINE, names=BIG, request_id=1).kind is OutcomeKind.DONE
        assert names(fake) >= KEPT


def test_a_container_s_or_unit_s_server_tells_where_its_models_are(tmp_path: Path, fake: FakeOllama) -> None:
    """Without a configured folder: by the server's process and its own word."""
    wanted = policy(fake, "offline")
    wanted = replace(wanted, ollama=replace(wanted.ollama, models_folder=""))
    with start(tmp_path, wanted) as hands:
        server = ServerReading(fake.pid, 1, 0, "/", "a test's")
        hands.channel.send(ServersTold((server,)))
        hands.channel.flush()
        told = hands.wait_for(StoreObserved, lambda m: bool(m.store.path), SECONDS).store
        assert (told.path, told.writable, told.error) == (str(fake.models_dir), True, "")
    fake.stop()
    with start(tmp_path, wanted) as hands:  # the server is gone, and so is what hands knew
        outcome = ask(hands, ActionKind.QUARANTINE, names=BIG)
        assert outcome.kind is OutcomeKind.DONE, outcome.detail


def test_a_download_under_way_is_told_as_busy(tmp_path: Path, fake: FakeOllama) -> None:
    (fake.models_dir / "blobs" / f"sha256-{'0' * 64}-partial").touch()
    with start(tmp_path, policy(fake, "offline")) as hands:
        store = hands.wait_for(StoreObserved).store
        assert "a pull or create wrote" in store.busy


def test_an_unknown_model_and_the_cloud_s_are_refused_with_a_sentence(
    tmp_path: Path, fake: FakeOllama, way: str
) -> None:
    before = names(fake)
    with start(tmp_path, policy(fake, way)) as hands:
        knows_all(hands)
        for name, said in (("gone:7b", "gone:7b is installed"), ("far:cloud", "can't be hidden")):
            outcome = ask(hands, ActionKind.QUARANTINE, names=(name,))
            assert outcome.kind is OutcomeKind.FAILED
            assert said in outcome.detail
        assert ask(hands, ActionKind.RESTORE, names=("gone:7b",)).kind is OutcomeKind.FAILED
        assert ask(hands, ActionKind.RESTORE, names=("other:latest",)).kind is OutcomeKind.DONE
    assert names(fake) == before


def test_a_server_that_serves_is_verified_and_one_that_does_not_is_not(
    tmp_path: Path, fake: FakeOllama
) -> None:
    with start(tmp_path, policy(fake, "offline")) as hands:
        alive = ask(hands, ActionKind.VERIFY)
        assert (alive.kind, alive.detail) == (OutcomeKind.DONE, "Ollama 0.33.0 answers")
        loaded = ask(hands, ActionKind.VERIFY, model="other:latest")
        assert loaded.kind is OutcomeKind.DONE
        assert "other:latest gave its first token" in loaded.detail
        assert fake.loaded() == ["other:latest"]
        assert ask(hands, ActionKind.VERIFY, model="gone:7b").kind is OutcomeKind.FAILED
        fake.set_fault("hang")
        silent = ask(hands, ActionKind.VERIFY, 3.0)
        assert silent.kind is OutcomeKind.FAILED
        assert "not answered within" in silent.detail
        fake.clear_faults()
        fake.stop()
        assert "can't connect" in ask(hands, ActionKind.VERIFY, 3.0).detail


def test_a_server_that_is_just_starting_is_waited_for(tmp_path: Path, fake: FakeOllama) -> None:
    fake.stop()
    with start(tmp_path, policy(fake, "offline")) as hands:
        action = Action(next(ids), ActionKind.VERIFY, Rung.PLAYBOOK, boottime() + SECONDS)
        hands.channel.send(ActionPosted(action))
        hands.channel.flush()
        fake.start()
        ended = hands.wait_for(OutcomeReported, lambda m: m.outcome.action_id == action.id, SECONDS)
        assert ended.outcome.kind is OutcomeKind.DONE, ended.outcome.detail


def test_a_disk_of_the_guard_s_own_that_is_full_keeps_no_model_from_being_hidden(
    tmp_path: Path, fake: FakeOllama, way: str
) -> None:
    """But nothing is deleted whose way back can't be written down."""
    wanted = policy(fake, way, quarantine=QuarantinePolicy(action=QuarantineAction.DELETE))
    with disk(full_disk(tmp_path / "state")), start(tmp_path, wanted) as hands:
        knows_all(hands)
        outcome = hide(hands)
        assert outcome.kind is OutcomeKind.DONE, outcome.detail
        assert "not deleted: can't write" in outcome.detail
        assert names(fake) == {"other:latest", "far:cloud", *KEPT}
        assert set(entries(hands)) == set(BIG)
        assert ask(hands, ActionKind.RESTORE, names=BIG).kind is OutcomeKind.DONE
    log = (tmp_path / "log").read_text()
    assert log.count("why models are hidden is not kept") == 1


def test_where_the_models_disk_does_not_answer_the_api_is_left(tmp_path: Path, fake: FakeOllama) -> None:
    wanted = policy(fake, "offline")
    folder = tmp_path / "models"
    wanted = replace(wanted, ollama=replace(wanted.ollama, models_folder=str(folder)))
    with start(tmp_path, wanted) as hands, disk(hanging_disk(folder)):
        knows_all(hands)
        given_up = "the lane quarantine had no answer"
        hands.wait_for(StoreObserved, lambda m: given_up in m.store.error, 2 * SECONDS)
        outcome = hide(hands)
        assert (outcome.kind, outcome.detail) == (OutcomeKind.DONE, "by the API")
        assert names(fake) == {"other:latest", "far:cloud", *KEPT}


@contextlib.contextmanager
def disk(made: contextlib.AbstractContextManager[Path]) -> Iterator[Path]:
    """A failing disk, where one can be had."""
    try:
        with made as path:
            yield path
    except BedUnavailable as problem:
        pytest.skip(str(problem))
