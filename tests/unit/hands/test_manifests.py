"""Hiding by rename in a models folder: nothing is lost, nothing overwritten, nothing odd is touched."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import tempfile
from pathlib import Path

import pytest

from ollama_guard.core.quarantined import Hidden
from ollama_guard.errors import StoreFailed
from ollama_guard.hands.adapters.manifests import Manifests, entry_of, renaming, tree

BLOB = "sha256:" + "ab" * 32


def manifest(seed: str = "one") -> str:
    layers = [
        {"mediaType": "application/vnd.ollama.image.model", "digest": BLOB, "size": 1000},
        {"mediaType": "application/vnd.ollama.image.license", "digest": f"sha256:{seed}", "size": 20},
    ]
    return json.dumps({"schemaVersion": 2, "config": {"digest": "sha256:c", "size": 3}, "layers": layers})


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A store with two names of one blob and a model of another registry."""
    (tmp_path / "blobs").mkdir()
    for path in (
        "registry.ollama.ai/library/big/7b",
        "registry.ollama.ai/library/big/latest",
        "hf.co/Me/Big/Q4",
    ):
        put(tmp_path, path)
    return tmp_path


def put(models: Path, path: str, text: str = "") -> Path:
    file = models / "manifests" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text or manifest())
    return file


def files(models: Path) -> set[str]:
    top = models / "manifests"
    return {str(path.relative_to(top)) for path in top.rglob("*") if not path.is_dir()}


def test_a_hidden_name_is_another_name_and_comes_back_as_it_was(models: Path) -> None:
    before = files(models)
    store = Manifests(str(models))
    entry = store.hide("big:7b")
    assert entry.alias == "quarantine.registry.ollama.ai/library/big:7b"
    assert (entry.name, entry.blob, entry.how, entry.size_bytes) == ("big:7b", BLOB, Hidden.OFFLINE, 1023)
    assert files(models) == before - {"registry.ollama.ai/library/big/7b"} | {
        "quarantine.registry.ollama.ai/library/big/7b"
    }
    assert store.read(entry.alias).digest == hashlib.sha256(manifest().encode()).hexdigest()
    store.restore("big:7b")
    assert files(models) == before
    assert not (models / "manifests/quarantine.registry.ollama.ai").exists()


def test_repeating_either_changes_nothing(models: Path) -> None:
    store = Manifests(str(models))
    first = store.hide("big:7b")
    assert store.hide("big:7b") == first
    store.restore("big:7b")
    after = files(models)
    store.restore("big:7b")
    assert files(models) == after


def test_mv_undoes_it_by_hand(models: Path) -> None:
    store = Manifests(str(models))
    store.hide("big:7b")
    top = models / "manifests"
    (top / "quarantine.registry.ollama.ai/library/big/7b").rename(top / "registry.ollama.ai/library/big/7b")
    assert [entry_of(m) for m in store.all() if entry_of(m)] == []
    assert store.read("big:7b").blob == BLOB


def test_a_name_is_found_in_whatever_case_it_is_spelled(models: Path) -> None:
    store = Manifests(str(models))
    entry = store.hide("HF.CO/me/bIg:q4")
    assert (entry.name, entry.alias) == ("hf.co/Me/Big:Q4", "quarantine.hf.co/Me/Big:Q4")
    store.restore("Quarantine.hf.co/me/big:q4".lower())
    assert "hf.co/Me/Big/Q4" in files(models)


def test_two_names_that_differ_in_case_only_are_left_alone(models: Path) -> None:
    put(models, "registry.ollama.ai/library/BIG/latest")
    before = files(models)
    store = Manifests(str(models))
    with pytest.raises(StoreFailed, match="differ in case only"):
        store.hide("biG:latest")
    assert files(models) == before


def test_another_model_under_the_alias_is_never_overwritten(models: Path) -> None:
    kept = put(models, "quarantine.registry.ollama.ai/library/big/7b", manifest("another"))
    before = files(models)
    with pytest.raises(StoreFailed, match="another model now than the one kept as quarantine"):
        Manifests(str(models)).hide("big:7b")
    assert files(models) == before
    assert kept.read_text() == manifest("another")


def test_another_model_under_the_name_is_never_overwritten(models: Path) -> None:
    store = Manifests(str(models))
    store.hide("big:7b")
    put(models, "registry.ollama.ai/library/big/7b", manifest("another"))
    before = files(models)
    with pytest.raises(StoreFailed, match="big:7b is another model now"):
        store.restore("big:7b")
    assert files(models) == before


def test_a_name_that_was_pulled_back_is_hidden_again_and_of_the_two_one_is_left(models: Path) -> None:
    store = Manifests(str(models))
    store.hide("big:7b")
    put(models, "registry.ollama.ai/library/big/7b")
    store.hide("big:7b")
    assert "registry.ollama.ai/library/big/7b" not in files(models)
    assert "quarantine.registry.ollama.ai/library/big/7b" in files(models)


def test_of_a_name_that_was_pulled_back_only_the_alias_goes_at_restore(models: Path) -> None:
    store = Manifests(str(models))
    store.hide("big:7b")
    put(models, "registry.ollama.ai/library/big/7b")
    store.restore("big:7b")
    assert "registry.ollama.ai/library/big/7b" in files(models)
    assert not any(path.startswith("quarantine") for path in files(models))


def test_a_restore_makes_the_folders_that_ollama_swept_away(models: Path) -> None:
    store = Manifests(str(models))
    store.hide("hf.co/Me/Big:Q4")
    for folder in ("hf.co/Me/Big", "hf.co/Me", "hf.co"):
        (models / "manifests" / folder).rmdir()
    store.restore("hf.co/Me/Big:Q4")
    assert "hf.co/Me/Big/Q4" in files(models)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_the_folders_it_makes_belong_to_ollama_too(models: Path) -> None:
    os.chown(models / "manifests", 65534, 65533)
    (models / "manifests").chmod(0o2775)
    Manifests(str(models)).hide("big:7b")
    made = models / "manifests/quarantine.registry.ollama.ai/library/big"
    for folder in (made, *made.parents[:2]):
        status = folder.stat()
        assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (65534, 65533, 0o2775)


@pytest.mark.parametrize("step", ["registry.ollama.ai", "registry.ollama.ai/library/big", ""])
def test_a_link_on_the_way_is_not_followed(
    models: Path, tmp_path_factory: pytest.TempPathFactory, step: str
) -> None:
    aside = tmp_path_factory.mktemp("aside") / "moved"
    folder = models / "manifests" / step
    folder.rename(aside)
    folder.symlink_to(aside)
    with pytest.raises(StoreFailed, match=r"link|directory"):
        Manifests(str(models)).hide("big:7b")
    assert not (models / "manifests/quarantine.registry.ollama.ai/library/big/7b").exists()
    assert any(path.name == "7b" for path in aside.rglob("*")), "what lies behind the link was touched"


def test_a_manifest_that_is_a_link_or_no_file_is_left_alone(models: Path) -> None:
    top = models / "manifests/registry.ollama.ai/library/big"
    (top / "linked").symlink_to(top / "7b")
    os.mkfifo(top / "pipe")
    (top / "folder").mkdir()
    before = files(models)
    for tag in ("linked", "pipe", "folder"):
        with pytest.raises(StoreFailed):
            Manifests(str(models)).hide(f"big:{tag}")
    assert files(models) == before


def test_a_link_where_hidden_models_go_leads_nobody_astray(
    models: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    aside = tmp_path_factory.mktemp("aside")
    (models / "manifests/quarantine.registry.ollama.ai").symlink_to(aside)
    with pytest.raises(StoreFailed):
        Manifests(str(models)).hide("big:7b")
    assert list(aside.iterdir()) == []
    assert "registry.ollama.ai/library/big/7b" in files(models)


@pytest.mark.parametrize(
    "said", ["../../etc:passwd", "a/../b:c", "", "x" * 900, "far:cloud", "near:local", "big:no"]
)
def test_an_odd_or_unknown_name_is_refused_with_a_sentence(models: Path, said: str) -> None:
    before = files(models)
    with pytest.raises(StoreFailed) as caught:
        Manifests(str(models)).hide(said)
    assert "\n" not in str(caught.value)
    assert files(models) == before


def test_a_file_system_without_the_flag_gets_a_link_and_an_unlink(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Old:
        """A kernel before the flag, or NFS."""

        @staticmethod
        def renameat2(*_: object) -> int:
            ctypes.set_errno(errno.EINVAL)
            return -1

    monkeypatch.setattr(renaming, "_LIBC", Old)
    store = Manifests(str(models))
    store.hide("big:7b")
    assert "registry.ollama.ai/library/big/7b" not in files(models)
    put(models, "registry.ollama.ai/library/big/7b", manifest("another"))
    before = files(models)
    with pytest.raises(StoreFailed):
        store.restore("big:7b")
    assert files(models) == before


@pytest.mark.parametrize("old", [False, True])
def test_the_rename_itself_never_replaces_what_appears_in_the_last_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, old: bool
) -> None:
    if old:
        monkeypatch.setattr(renaming, "_LIBC", object())
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    with tree.opened(None, str(tmp_path)) as folder, pytest.raises(FileExistsError):
        renaming.rename_new(folder, "a", folder, "b")
    assert (tmp_path / "b").read_text() == "b"
    assert (tmp_path / "a").read_text() == "a"


def test_death_between_link_and_unlink_is_mended_by_a_repeat(models: Path) -> None:
    source = models / "manifests/registry.ollama.ai/library/big/7b"
    target = models / "manifests/quarantine.registry.ollama.ai/library/big/7b"
    target.parent.mkdir(parents=True)
    os.link(source, target)
    Manifests(str(models)).hide("big:7b")
    assert not source.exists()
    assert target.exists()


def test_all_names_of_a_blob_are_told_and_broken_manifests_hide_nobody(models: Path) -> None:
    put(models, "registry.ollama.ai/library/broken/latest", "{")
    put(models, "registry.ollama.ai/library/odd name/latest")
    (models / "manifests/registry.ollama.ai/stray").write_text("x")
    told = {m.name.shown: m.blob for m in Manifests(str(models)).all()}
    assert told == {"big:7b": BLOB, "big:latest": BLOB, "hf.co/Me/Big:Q4": BLOB, "broken:latest": None}


def test_what_is_hidden_is_told_from_the_folders_alone(models: Path) -> None:
    store = Manifests(str(models))
    entry = store.hide("big:7b")
    assert [e for e in map(entry_of, store.all()) if e] == [entry]


def test_a_folder_without_manifests_is_a_failure_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(StoreFailed, match=f"manifests in {tmp_path}: No such file"):
        Manifests(str(tmp_path)).all()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_store_of_another_user_is_not_writable() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        put(Path(folder), "registry.ollama.ai/library/big/7b")
        store = Manifests(folder)
        assert store.unwritable() == ""
        pid = os.fork()
        if pid == 0:
            os.setresuid(65534, 65534, 65534)
            os._exit(0 if "not writable for this user" in store.unwritable() else 1)
        assert os.waitpid(pid, 0)[1] == 0


def test_a_fresh_partial_blob_means_busy_and_an_old_one_does_not(models: Path) -> None:
    store = Manifests(str(models))
    assert store.busy() == ""
    whole = models / "blobs" / BLOB.replace(":", "-")
    whole.touch()
    assert store.busy() == ""
    partial = models / "blobs" / f"{whole.name}-partial-0"
    partial.touch()
    assert "a pull or create wrote" in store.busy()
    os.utime(partial, (0, 0))
    assert store.busy() == ""
    (models / "blobs/sha256-1234567").touch()
    assert "sha256-1234567" in store.busy()
