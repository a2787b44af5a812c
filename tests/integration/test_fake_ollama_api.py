"""The fake's API says what Ollama's says (facts 1)."""

from __future__ import annotations

import hashlib
import http.client
import json
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest

from ollama_guard.testing.fake import FakeOllama
from ollama_guard.testing.fake.calls import call

MODELS = ("small=20MiB,tps=200", "big=40MiB,alias=big2,tps=200,kv=4096", "pinned=20MiB,num_ctx=1024")


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeOllama]:
    """One fake of the newer dialect for tests that leave nothing behind."""
    with FakeOllama(MODELS, remotes=("cloudy:cloud",)) as running:
        yield running


@pytest.fixture
def clean(fake: FakeOllama) -> Iterator[FakeOllama]:
    """The same, with nothing loaded afterwards."""
    yield fake
    for name in ("small", "big", "pinned"):
        fake.unload(name)
    fake.wait(lambda: not fake.loaded())


def test_root_and_version_answer_get_and_head_but_ps_refuses_head(fake: FakeOllama) -> None:
    """Facts 1.1."""
    assert fake.get("/").value == "Ollama is running"
    assert fake.get("/api/version").value == {"version": "0.33.0"}
    heads = {path: call(fake.port, "HEAD", path) for path in ("/", "/api/version", "/api/tags", "/api/ps")}
    assert {path: answer.status for path, answer in heads.items()} == {
        "/": 200,
        "/api/version": 200,
        "/api/tags": 200,
        "/api/ps": 405,
    }
    assert all(answer.value is None for answer in heads.values())


def test_tags_lists_manifests_newest_first_with_the_digest_of_the_manifest_file(fake: FakeOllama) -> None:
    """Facts 1.2 and 5.1."""
    models = fake.get("/api/tags").value["models"]
    manifest = fake.models_dir / "manifests/registry.ollama.ai/library/big/latest"
    big = next(model for model in models if model["name"] == "big:latest")
    assert big["digest"] == hashlib.sha256(manifest.read_bytes()).hexdigest()
    document = json.loads(manifest.read_text())
    assert big["size"] == document["config"]["size"] + sum(layer["size"] for layer in document["layers"])
    stamps = [datetime.fromisoformat(model["modified_at"]) for model in models]
    assert stamps == sorted(stamps, reverse=True)


@pytest.mark.parametrize(
    ("folder", "shown"),
    [
        ("registry.ollama.ai/library/other/latest", "other:latest"),
        ("registry.ollama.ai/mine/other/7b", "mine/other:7b"),
        ("hf.co/user/other/q4", "hf.co/user/other:q4"),
        ("hf.co/library/other/q4", "hf.co/library/other:q4"),
    ],
)
def test_a_name_shows_host_and_namespace_only_where_they_are_not_the_usual_ones(
    fake: FakeOllama, folder: str, shown: str
) -> None:
    """Facts 1.2: the tag always."""
    manifests = fake.models_dir / "manifests"
    added = manifests / folder
    added.parent.mkdir(parents=True)
    added.write_bytes((manifests / "registry.ollama.ai/library/small/latest").read_bytes())
    names = {model["name"] for model in fake.get("/api/tags").value["models"]}
    assert fake.post("/api/copy", {"source": shown, "destination": "copied"}).status == 200
    for name in (shown, "copied"):
        assert call(fake.port, "DELETE", "/api/delete", {"model": name}).status == 200
    assert shown in names


def test_tags_sees_a_manifest_that_was_added_by_hand(fake: FakeOllama) -> None:
    """Facts 1.2: the listing follows the disk at every call."""
    library = fake.models_dir / "manifests/registry.ollama.ai/library"
    added = library / "byhand" / "7b"
    added.parent.mkdir()
    added.write_bytes((library / "small/latest").read_bytes())
    names = {model["name"] for model in fake.get("/api/tags").value["models"]}
    added.unlink()
    after = {model["name"] for model in fake.get("/api/tags").value["models"]}
    assert "byhand:7b" in names
    assert "byhand:7b" not in after


def test_a_cloud_stub_is_listed_with_its_remote_host(fake: FakeOllama) -> None:
    """Facts 1.2."""
    stub = next(m for m in fake.get("/api/tags").value["models"] if m["name"] == "cloudy:cloud")
    assert stub["remote_host"].startswith("https://")
    assert stub["remote_model"] == "cloudy"


def test_a_cloud_stub_is_proxied_before_the_unload_by_generate_but_not_by_chat(fake: FakeOllama) -> None:
    """Facts 1.5: generate would call out, chat tests for the unload first."""
    before = fake.state()["outbound_calls"]
    assert fake.post("/api/chat", {"model": "cloudy:cloud", "keep_alive": 0}).value["done_reason"] == "unload"
    assert fake.state()["outbound_calls"] == before
    fake.unload("cloudy:cloud")
    assert fake.state()["outbound_calls"] == before + 1


def test_aliases_share_the_blob_but_not_the_manifest(fake: FakeOllama) -> None:
    """Facts 2.2 and 5.1."""
    tags = {model["name"]: model["digest"] for model in fake.get("/api/tags").value["models"]}
    assert tags["big:latest"] != tags["big2:latest"]
    assert fake.blob("big") == fake.blob("big2")


def test_blobs_are_sparse_files_of_the_whole_size(fake: FakeOllama) -> None:
    """Facts 5.1, without the disk space."""
    stat = (fake.models_dir / "blobs" / f"sha256-{fake.blob('big')}").stat()
    assert stat.st_size == 40 * 1024 * 1024
    assert stat.st_blocks == 0


@pytest.mark.parametrize("key", ["model", "name"])
def test_show_gives_the_blob_path_and_keys_that_explain_the_kv_size(fake: FakeOllama, key: str) -> None:
    """Facts 1.7 and 3.4."""
    shown = fake.post("/api/show", {key: "big"}).value
    assert f"\nFROM {fake.models_dir}/blobs/sha256-{fake.blob('big')}\n" in shown["modelfile"]
    info = shown["model_info"]
    arch = info["general.architecture"]
    head_size = info[f"{arch}.embedding_length"] // info[f"{arch}.attention.head_count"]
    per_token = 2 * info[f"{arch}.block_count"] * info[f"{arch}.attention.head_count_kv"] * head_size * 2
    assert per_token == 4096
    assert info[f"{arch}.context_length"] == 32768


def test_show_tells_the_num_ctx_that_a_modelfile_pins(fake: FakeOllama) -> None:
    """Facts 1.7."""
    assert fake.post("/api/show", {"model": "pinned"}).value["parameters"].split() == ["num_ctx", "1024"]


def test_ps_has_every_field_and_a_size_of_weights_and_kv(clean: FakeOllama) -> None:
    """Facts 1.3."""
    clean.load("big")
    (entry,) = clean.ps()
    tags = {model["name"]: model["digest"] for model in clean.get("/api/tags").value["models"]}
    assert entry["name"] == entry["model"] == "big:latest"
    assert entry["digest"] == tags["big:latest"]
    assert entry["size"] == 40 * 1024 * 1024 + 4096 * 4096
    assert entry["size_vram"] == 0
    assert entry["context_length"] == 4096
    assert entry["details"]["parent_model"] == ""
    assert datetime.fromisoformat(entry["expires_at"]).tzinfo is not None


def test_generate_streams_ndjson_and_ends_with_done(clean: FakeOllama) -> None:
    """One line per token, the last with the figures."""
    stream = clean.stream("small", tokens=5)
    stream.join()
    assert [line["done"] for line in stream.lines] == [False] * 5 + [True]
    assert stream.lines[-1]["eval_count"] == 5
    assert stream.lines[-1]["done_reason"] == "length"


def test_generate_and_chat_answer_whole_without_streaming(clean: FakeOllama) -> None:
    """``stream: false``: one object."""
    body = {"model": "small", "stream": False, "options": {"num_predict": 3}}
    generated = clean.post("/api/generate", body | {"prompt": "hi"})
    chatted = clean.post("/api/chat", body | {"messages": [{"role": "user", "content": "hi"}]})
    assert len(generated.lines) == len(chatted.lines) == 1
    assert generated.value["response"] == chatted.value["message"]["content"] != ""
    assert generated.value["done"] is chatted.value["done"] is True


@pytest.mark.parametrize("path", ["/api/generate", "/api/chat"])
def test_an_empty_request_loads_and_with_keep_alive_0_unloads(clean: FakeOllama, path: str) -> None:
    """Facts 1.5: one object each, also with default streaming."""
    loaded = clean.post(path, {"model": "small"})
    assert (loaded.status, len(loaded.lines), loaded.value["done_reason"]) == (200, 1, "load")
    assert clean.loaded() == ["small:latest"]
    unloaded = clean.post(path, {"model": "small", "keep_alive": 0})
    assert (unloaded.status, len(unloaded.lines), unloaded.value["done_reason"]) == (200, 1, "unload")
    clean.wait(lambda: not clean.loaded())


def test_embed_with_keep_alive_0_loads_and_unloads_after_the_call(clean: FakeOllama) -> None:
    """Facts 1.5: embed has no unload branch."""
    answer = clean.post("/api/embed", {"model": "small", "input": "x", "keep_alive": 0})
    assert len(answer.value["embeddings"]) == 1
    clean.wait(lambda: not clean.loaded())
    assert len(clean.orphans()) == 0


def test_unknown_missing_and_malformed_names_have_ollamas_codes_and_texts(fake: FakeOllama) -> None:
    """Facts 1.5, 1.7 and 1.8."""
    answers = {
        (path, name): fake.post(path, {"model": name})
        for path in ("/api/generate", "/api/chat", "/api/show", "/api/embed")
        for name in ("nope", "", "a b")
    }
    told = {key: (answer.status, answer.error) for key, answer in answers.items()}
    assert told["/api/generate", "nope"] == (404, "model 'nope' not found")
    assert told["/api/generate", ""] == (404, "model '' not found")
    assert told["/api/generate", "a b"] == (400, "invalid model name")
    assert told["/api/chat", ""] == (400, "model is required")
    assert told["/api/show", "nope"] == (404, "model 'nope' not found")
    assert told["/api/embed", "nope"] == (404, 'model "nope" not found, try pulling it first')


@pytest.mark.parametrize(
    ("keep_alive", "seconds"), [(300, 300), (0.5, 0.5), ("10m", 600), ("24h", 86400), ("1h30m", 5400)]
)
def test_keep_alive_takes_numbers_and_go_durations(
    clean: FakeOllama, keep_alive: float | str, seconds: float
) -> None:
    """Facts 1.6."""
    assert clean.load("small", keep_alive=keep_alive).status == 200
    left = datetime.fromisoformat(clean.ps()[0]["expires_at"]) - datetime.now().astimezone()
    assert timedelta(seconds=seconds - 5) < left <= timedelta(seconds=seconds)


@pytest.mark.parametrize("keep_alive", [-1, "-1m", -0.5])
def test_a_negative_keep_alive_lasts_until_the_year_2318(clean: FakeOllama, keep_alive: float | str) -> None:
    """Facts 1.4 and 1.6."""
    clean.load("small", keep_alive=keep_alive)
    assert datetime.fromisoformat(clean.ps()[0]["expires_at"]).year >= 2318


@pytest.mark.parametrize(
    ("keep_alive", "text"),
    [
        ("300", 'time: missing unit in duration "300"'),
        ("-1", 'time: missing unit in duration "-1"'),
        ("1d", 'time: unknown unit "d" in duration "1d"'),
        ("", 'time: invalid duration ""'),
    ],
)
def test_a_bad_keep_alive_is_a_400_with_gos_words(fake: FakeOllama, keep_alive: str, text: str) -> None:
    """Facts 1.6."""
    answer = fake.load("small", keep_alive=keep_alive)
    assert (answer.status, answer.error) == (400, text)


@pytest.mark.parametrize("keep_alive", [True, [1], {"seconds": 1}])
def test_a_keep_alive_of_another_type_is_a_400(fake: FakeOllama, keep_alive: object) -> None:
    """Facts 1.6."""
    assert fake.load("small", keep_alive=keep_alive).status == 400


def test_copy_keeps_the_digest_and_delete_keeps_a_shared_blob(clean: FakeOllama) -> None:
    """Facts 1.7 and 5.2: quarantine by copy and delete, and the way back."""
    digest = {m["name"]: m["digest"] for m in clean.get("/api/tags").value["models"]}["small:latest"]
    assert (
        clean.post("/api/copy", {"source": "small:latest", "destination": "quarantine/small:latest"}).status
        == 200
    )
    assert call(clean.port, "DELETE", "/api/delete", {"model": "small:latest"}).status == 200
    tags = {m["name"]: m["digest"] for m in clean.get("/api/tags").value["models"]}
    assert tags["quarantine/small:latest"] == digest
    assert "small:latest" not in tags
    assert clean.load("small").status == 404
    assert clean.load("quarantine/small").status == 200
    clean.post("/api/copy", {"source": "quarantine/small:latest", "destination": "small:latest"})
    assert call(clean.port, "DELETE", "/api/delete", {"name": "quarantine/small:latest"}).status == 200
    assert not (clean.models_dir / "manifests/registry.ollama.ai/quarantine").exists()


def test_copy_and_delete_have_their_own_errors(fake: FakeOllama) -> None:
    """Facts 1.7."""
    missing = fake.post("/api/copy", {"source": "nope", "destination": "x"})
    invalid = fake.post("/api/copy", {"source": "small", "destination": "a b"})
    gone = call(fake.port, "DELETE", "/api/delete", {"model": "nope"})
    unnamed = call(fake.port, "DELETE", "/api/delete", {})
    assert (missing.status, missing.error) == (404, 'model "nope" not found')
    assert (invalid.status, invalid.error) == (400, 'destination "a b" is invalid')
    assert (gone.status, gone.error) == (404, "model 'nope' not found")
    assert (unnamed.status, unnamed.error) == (400, "model is required")


def test_delete_does_not_unload_and_an_alias_of_the_blob_still_can() -> None:
    """Facts 1.7."""
    with FakeOllama(["twin=20MiB,alias=twin2"]) as other:
        other.load("twin")
        call(other.port, "DELETE", "/api/delete", {"model": "twin"})
        assert other.loaded() == ["twin:latest"]
        assert other.unload("twin").status == 404
        assert other.unload("twin2").status == 200
        other.wait(lambda: not other.loaded())
        blob = other.models_dir / "blobs" / f"sha256-{other.blob('twin2')}"
        call(other.port, "DELETE", "/api/delete", {"model": "twin2"})
        assert not blob.exists()


def test_the_host_header_is_checked_on_loopback(fake: FakeOllama) -> None:
    """Facts 1.1: a foreign name gets 403 with an empty body, local names pass."""
    seen = {}
    for host in ("evil.example.com", "localhost:1", "10.0.0.7", "box.local", "[::1]:80", "8.8.8.8"):
        connection = http.client.HTTPConnection("127.0.0.1", fake.port, timeout=5)
        connection.request("GET", "/api/version", headers={"Host": host})
        response = connection.getresponse()
        seen[host] = (response.status, bool(response.read()))
        connection.close()
    refused = {host for host, (status, body) in seen.items() if status == 403 and not body}
    assert refused == {"evil.example.com", "8.8.8.8"}
    assert {status for status, _ in seen.values()} == {200, 403}


def test_one_line_in_the_log_for_every_request(fake: FakeOllama) -> None:
    """Facts 7: each poll of a guard is a line in the owner's log."""
    before = fake.log().count('"/api/ps"')
    fake.ps()
    fake.ps()
    assert fake.log().count('"/api/ps"') == before + 2
