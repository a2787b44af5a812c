"""The adapter and the whole of hands against the fake Ollama, in both dialects."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from beds.hands import HandsBed
from ollama_guard.core.model import Action, ActionKind, OutcomeKind, Rung
from ollama_guard.core.policy import OllamaPolicy, Policy
from ollama_guard.errors import OllamaError
from ollama_guard.hands.adapters.ollama import OllamaAdapter
from ollama_guard.testing.fake import FakeOllama
from ollama_guard.wire import ActionPosted, ApiObserved, CatalogueObserved, OutcomeReported, PollWanted

DEADLINE_SECONDS = 10.0


@pytest.fixture(scope="module", params=["new", "old"])
def server(request: pytest.FixtureRequest) -> Iterator[FakeOllama]:
    """One fake per dialect: a model with an alias, another, and a cloud stub."""
    models = ("small=20MiB,kv=23040,alias=nick", "other=10MiB")
    with FakeOllama(models, dialect=request.param, remotes=("far:cloud",)) as fake:
        yield fake


@pytest.fixture
def fake(server: FakeOllama) -> FakeOllama:
    """The fake with nothing loaded and nothing spoilt."""
    server.clear_faults()
    for name in server.loaded():
        server.unload(name)
    server.wait(lambda: not server.ps())
    return server


def test_the_catalogue_groups_aliases_by_blob_and_leaves_the_cloud_out(fake: FakeOllama) -> None:
    adapter = OllamaAdapter(fake.url)
    entries = {entry.names: entry for entry in adapter.catalogue(DEADLINE_SECONDS)}
    assert set(entries) == {("nick:latest", "small:latest"), ("other:latest",)}
    small = entries["nick:latest", "small:latest"]
    assert small.blob == f"sha256:{fake.blob('small').removeprefix('sha256:')}"
    assert small.size_bytes == 20 * 1024**2
    assert small.kv_bytes_per_token == 23040
    assert small.models_dir == str(fake.models_dir)
    assert adapter.catalogue_complete


def test_a_manifest_is_shown_once_however_often_the_catalogue_is_read(fake: FakeOllama) -> None:
    adapter = OllamaAdapter(fake.url)
    adapter.catalogue(DEADLINE_SECONDS)
    before = fake.log().count("/api/show")
    adapter.catalogue(DEADLINE_SECONDS)
    assert fake.log().count("/api/show") == before


def test_a_loaded_alias_is_joined_to_its_blob_and_unloaded_by_another_name(fake: FakeOllama) -> None:
    adapter = OllamaAdapter(fake.url)
    adapter.catalogue(DEADLINE_SECONDS)
    fake.load("nick", keep_alive=-1)
    (model,) = adapter.loaded(DEADLINE_SECONDS)
    assert model.blob == f"sha256:{fake.blob('small').removeprefix('sha256:')}"
    assert (model.expires_in_seconds or 0) > 200 * 365 * 86400
    assert adapter.unload("small", DEADLINE_SECONDS) == "unload"
    fake.wait(lambda: not fake.ps())


def test_unloading_never_loads_and_never_calls_the_cloud(fake: FakeOllama) -> None:
    adapter = OllamaAdapter(fake.url)
    adapter.catalogue(DEADLINE_SECONDS)
    assert adapter.unload("other", DEADLINE_SECONDS) == "unload"
    assert fake.loaded() == []
    before = fake.log().count("/api/generate")
    with pytest.raises(OllamaError, match="cloud"):
        adapter.unload("far:cloud", DEADLINE_SECONDS)
    assert fake.log().count("/api/generate") == before


def test_a_model_that_nobody_has_is_not_found(fake: FakeOllama) -> None:
    with pytest.raises(OllamaError, match="404") as caught:
        OllamaAdapter(fake.url).unload("nobody", DEADLINE_SECONDS)
    assert caught.value.kind == "not_found"


@pytest.mark.parametrize(
    ("fault", "kind"),
    [("hang", "timeout"), ("drip", "timeout"), ("garbage", "bad_answer"), ("huge", "too_large")],
)
def test_each_fault_is_named_within_its_deadline(fake: FakeOllama, fault: str, kind: str) -> None:
    fake.set_fault(fault, path="/api/ps")
    started = time.monotonic()
    with pytest.raises(OllamaError) as caught:
        OllamaAdapter(fake.url).loaded(1.0)
    fake.clear_faults()
    assert caught.value.kind == kind
    assert time.monotonic() - started < 2.5


def test_hands_see_a_load_and_carry_out_its_unload(fake: FakeOllama, tmp_path: Path) -> None:
    with HandsBed(tmp_path, Policy(ollama=OllamaPolicy(url=fake.url))) as hands:
        catalogue = hands.wait_for(CatalogueObserved).entries
        hands.wait_for(ApiObserved, lambda m: m.api.version is not None)
        fake.load("small")
        hands.channel.send(PollWanted("born"))
        seen = hands.wait_for(ApiObserved, lambda m: bool(m.api.loaded)).api.loaded[0]
        assert seen.blob in {entry.blob for entry in catalogue}
        deadline_at = time.clock_gettime(time.CLOCK_BOOTTIME) + 5
        action = Action(1, ActionKind.UNLOAD, Rung.UNLOAD_IDLE, deadline_at, model="nick:latest")
        hands.channel.send(ActionPosted(action))
        assert hands.wait_for(OutcomeReported).outcome.kind is OutcomeKind.DONE
        hands.forget()
        hands.channel.send(PollWanted("died"))
        hands.wait_for(ApiObserved, lambda m: m.api.loaded == () and not m.api.loaded_error)
        found = next(event for event in hands.events() if event["event"] == "ollama.found")
        assert found["dialect"] == ("before 0.30" if fake.dialect == "old" else "0.30 or newer")


def test_a_copy_has_the_digest_of_its_source_and_outlives_it(fake: FakeOllama) -> None:
    adapter = OllamaAdapter(fake.url)
    before = adapter.digests(DEADLINE_SECONDS)
    kept = "quarantine.registry.ollama.ai/library/other:latest"
    adapter.copy("other", kept, DEADLINE_SECONDS)
    adapter.delete("other", DEADLINE_SECONDS)
    after = adapter.digests(DEADLINE_SECONDS)
    assert "other:latest" not in after
    assert after[kept] == before["other:latest"]
    adapter.copy(kept, "other", DEADLINE_SECONDS)
    adapter.delete(kept, DEADLINE_SECONDS)
    assert adapter.digests(DEADLINE_SECONDS) == before


def test_the_cloud_is_not_among_the_digests_and_is_never_copied_or_asked(fake: FakeOllama) -> None:
    adapter = OllamaAdapter(fake.url)
    assert "far:cloud" not in adapter.digests(DEADLINE_SECONDS)
    before = len(fake.log().splitlines())
    for call in (
        lambda: adapter.copy("far:cloud", "near:7b", DEADLINE_SECONDS),
        lambda: adapter.delete("far:cloud", DEADLINE_SECONDS),
        lambda: adapter.generate("far:cloud", DEADLINE_SECONDS),
    ):
        with pytest.raises(OllamaError, match="cloud"):
            call()
    assert len(fake.log().splitlines()) == before


def test_one_token_proves_that_a_model_answers_and_a_missing_one_is_not_pulled(fake: FakeOllama) -> None:
    adapter = OllamaAdapter(fake.url)
    adapter.generate("small", DEADLINE_SECONDS)
    assert fake.loaded() == ["small:latest"]
    with pytest.raises(OllamaError) as caught:
        adapter.generate("gone:7b", DEADLINE_SECONDS)
    assert caught.value.kind == "not_found"


def test_a_model_that_only_embeds_is_proven_by_embedding() -> None:
    with FakeOllama(("letters=10MiB,kind=embedding",)) as fake:
        OllamaAdapter(fake.url).generate("letters", DEADLINE_SECONDS)
        assert fake.loaded() == ["letters:latest"]


def test_the_modelfile_is_told(fake: FakeOllama) -> None:
    assert "FROM /" in OllamaAdapter(fake.url).modelfile("small", DEADLINE_SECONDS)
