"""Hiding and restoring on the real Ollama: its prune, its clients, its API, and hands that die in between."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from beds.cutting_proxy import CuttingProxy, Moment
from beds.grow_model import grow_model
from beds.hands import HandsBed
from beds.http import HttpFailure, request
from beds.real_ollama import RealOllama
from ollama_guard.core.model import Action, ActionKind, Outcome, OutcomeKind, Rung
from ollama_guard.core.policy import OllamaPolicy, Policy
from ollama_guard.core.quarantined import StoreReading
from ollama_guard.hands.lanes import boottime
from ollama_guard.wire import ActionPosted, CatalogueObserved, OutcomeReported, StoreObserved

BIG = ("big:latest", "nick:latest")
KEPT = {f"quarantine.registry.ollama.ai/library/{name}" for name in BIG}
ELSEWHERE = "/nonexistent"  # a models_folder where nothing is, so that only the API is left
SECONDS = 30.0
MOMENTS = [(number, after) for number in range(1, 6) for after in (False, True)]
ids = itertools.count(1)


@pytest.fixture
def server(real_ollama: Callable[..., RealOllama], tmp_path: Path) -> RealOllama:
    """A server with models of its own, which prunes when it starts: two names of one, and another model."""
    running = real_ollama(models=tmp_path / "models", env={"OLLAMA_NOPRUNE": ""})
    running.create("big", running.installation.seed)
    running.post("/api/copy", {"source": "big", "destination": "nick"})
    create(running, "other", tmp_path)
    running.stop()
    running.start()  # what importing left behind is pruned now
    return running


def create(server: RealOllama, name: str, folder: Path) -> None:
    """A small model with weights of its own."""
    weights = folder / f"{name}.gguf"
    grow_model(server.installation.seed, weights, 30, name)
    server.create(name, weights)


def hands_for(server: RealOllama, folder: Path, *, url: str = "", offline: bool = True) -> HandsBed:
    """Hands that know this server, and its models folder or not."""
    where = str(server.models) if offline else ELSEWHERE
    ollama = OllamaPolicy(url=url or server.url, poll_seconds=600, models_folder=where)
    return HandsBed(folder, Policy(ollama=ollama))


def post(hands: HandsBed, kind: ActionKind, **fields: Any) -> int:
    action = Action(next(ids), kind, Rung.PLAYBOOK, boottime() + SECONDS, **fields)
    hands.channel.send(ActionPosted(action))
    hands.channel.flush()
    return action.id


def ask(hands: HandsBed, kind: ActionKind, **fields: Any) -> Outcome:
    number = post(hands, kind, **fields)
    return hands.wait_for(OutcomeReported, lambda m: m.outcome.action_id == number, SECONDS + 5).outcome


def until(hands: HandsBed, moment: Moment, kind: ActionKind) -> bool:
    """Ask until the moment comes: on a busy machine a call may fail before it, as it may for a playbook."""
    for _ in range(3):
        number = post(hands, kind, names=BIG)
        over = boottime() + SECONDS
        while boottime() < over:
            if moment.reached.wait(0.05):
                return True
            if any(m.outcome.action_id == number for m in hands.told(OutcomeReported)):
                break
    return False


def store(hands: HandsBed) -> StoreReading:
    return hands.told(StoreObserved)[-1].store


def names(server: RealOllama) -> set[str]:
    return {entry["name"] for entry in server.get("/api/tags")["models"]}


def blobs(server: RealOllama) -> dict[str, int]:
    """Every blob's file with its inode: the same ones means that nothing was downloaded or lost."""
    return {path.name: path.stat().st_ino for path in (server.models / "blobs").iterdir()}


def status_of(server: RealOllama, model: str) -> int:
    """The HTTP status that a client gets who asks for a model."""
    try:
        request(server.url, "POST", "/api/generate", {"model": model, "prompt": "Hi", "stream": False,
                "options": {"num_predict": 1}}, timeout=60)  # fmt: skip
    except HttpFailure as failure:
        return failure.status
    return 200


def test_hidden_offline_it_survives_the_prune_of_the_next_start_and_comes_back_without_a_download(
    server: RealOllama, tmp_path: Path
) -> None:
    before, files = names(server), blobs(server)
    server.stop()
    with hands_for(server, tmp_path) as hands:
        hidden = ask(hands, ActionKind.QUARANTINE, names=BIG)
        assert hidden.kind is OutcomeKind.DONE, hidden.detail
        server.start()
        assert names(server) == before - set(BIG) | KEPT
        assert blobs(server) == files
        assert [status_of(server, name) for name in BIG] == [404, 404]
        back = ask(hands, ActionKind.RESTORE, names=BIG)
        assert back.kind is OutcomeKind.DONE, back.detail
    assert names(server) == before
    assert blobs(server) == files
    assert status_of(server, "big") == 200


def test_a_manifest_that_is_moved_out_of_the_folder_loses_its_weights_at_the_next_start(
    server: RealOllama, tmp_path: Path
) -> None:
    """Why hiding renames inside of it: this is what happens to a model that no name is left of."""
    create(server, "lonely", tmp_path)
    weights = server.blob("lonely")
    server.stop()
    (server.models / "manifests/registry.ollama.ai/library/lonely/latest").rename(tmp_path / "aside")
    server.start()
    assert not weights.exists()


def test_by_the_api_clients_that_retry_without_pause_get_nothing_and_the_runner_goes(
    server: RealOllama, tmp_path: Path
) -> None:
    server.load("big")
    over, answers = threading.Event(), {name: [0] for name in (*BIG, "big")}

    def client(name: str) -> None:
        while not over.is_set():
            answers[name].append(status_of(server, name))

    threads = [threading.Thread(target=client, args=(name,)) for name in answers]
    with hands_for(server, tmp_path, offline=False) as hands:
        hands.wait_for(CatalogueObserved, lambda m: bool(m.entries))
        for thread in threads:
            thread.start()
        hidden = ask(hands, ActionKind.QUARANTINE, names=("big:latest",), blob=_blob(server, "big"))
        seen = {name: len(statuses) for name, statuses in answers.items()}
        try:
            assert hidden.kind is OutcomeKind.DONE, hidden.detail
            assert not names(server) & set(BIG)
            _wait(lambda: all(len(answers[name]) > count + 3 for name, count in seen.items()))
            _wait(lambda: not server.runners())
        finally:
            over.set()
            for thread in threads:
                thread.join()
        assert {status for name, count in seen.items() for status in answers[name][count + 1 :]} == {404}
        assert {entry.name for entry in store(hands).entries} == set(BIG)


def test_hands_killed_with_9_at_any_call_reach_the_same_end_when_it_is_repeated(
    server: RealOllama, tmp_path: Path
) -> None:
    before, files = names(server), blobs(server)
    with CuttingProxy(server.port) as proxy:
        for number, after in MOMENTS:
            for kind in (ActionKind.QUARANTINE, ActionKind.RESTORE):
                told = f"{kind} cut {'after' if after else 'before'} call {number}"
                with hands_for(server, tmp_path, url=proxy.url, offline=False) as hands:
                    moment = proxy.cut(number, hands.process.kill, after=after)
                    if kind is ActionKind.QUARANTINE or number < 5:
                        assert until(hands, moment, kind), (told, proxy.calls, hands.told(OutcomeReported))
                        hands.process.wait(SECONDS)
                    else:
                        assert ask(hands, kind, names=BIG).kind is OutcomeKind.DONE, told
                assert blobs(server) == files, told
                proxy.moment = None
                with hands_for(server, tmp_path, url=proxy.url, offline=False) as hands:
                    repeated = ask(hands, kind, names=BIG)
                    assert repeated.kind is OutcomeKind.DONE, (told, repeated.detail)
                hidden = kind is ActionKind.QUARANTINE
                assert names(server) == (before - set(BIG) | KEPT if hidden else before), told
    assert blobs(server) == files


def test_a_name_that_a_client_copied_back_is_noticed(server: RealOllama, tmp_path: Path) -> None:
    with hands_for(server, tmp_path) as hands:
        ask(hands, ActionKind.QUARANTINE, names=BIG)
        kept = "quarantine.registry.ollama.ai/library/big:latest"
        server.post("/api/copy", {"source": kept, "destination": "big"})
        told = hands.wait_for(
            StoreObserved, lambda m: any(e.returned for e in m.store.entries), SECONDS
        ).store
        assert [entry.name for entry in told.entries if entry.returned] == ["big:latest"]
        assert ask(hands, ActionKind.QUARANTINE, names=BIG).kind is OutcomeKind.DONE
        assert not names(server) & set(BIG)
    assert "model.returned" in (tmp_path / "log").read_text()


def test_one_token_proves_that_it_serves(server: RealOllama, tmp_path: Path) -> None:
    with hands_for(server, tmp_path) as hands:
        proven = ask(hands, ActionKind.VERIFY, model="other:latest")
        assert proven.kind is OutcomeKind.DONE, proven.detail
        assert "other:latest gave its first token" in proven.detail


def _blob(server: RealOllama, model: str) -> str:
    return server.blob(model).name.replace("-", ":", 1)


def _wait(check: Callable[[], object]) -> None:
    pause = threading.Event()
    for _ in range(int(SECONDS / 0.05)):
        if check():
            return
        pause.wait(0.05)
    raise AssertionError("not in time")
