"""What init writes is written down first, and taken back to the byte."""

import json
import os
from pathlib import Path

import pytest

from ollama_guard.cli.drafts import owners_text
from ollama_guard.cli.undoing import forget, undo_files
from ollama_guard.cli.unhiding import unhide
from ollama_guard.cli.written import RECORD, Record, keep_copy
from ollama_guard.errors import GuardError
from ollama_guard.settings.compiler import compile_file, compile_text

CONF = "/etc/systemd/system/ollama.service.d/ollama-guard.conf"
OURS = "# ours\n[Service]\nEnvironment=A=1\nOOMPolicy=continue\n"


def tree(root: Path) -> dict[str, bytes | None]:
    """Every path below, with its content."""
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
        for path in sorted(root.rglob("*"))
    }


def released(root: Path) -> list[tuple[bool, str]]:
    record = Record.load(root)
    return [(one.ok, one.text) for one in (*undo_files(record), *forget(record))]


def put(root: Path, path: str, text: str) -> Path:
    file = root / path.removeprefix("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def test_an_empty_tree_is_empty_again(tmp_path: Path) -> None:
    record = Record.load(tmp_path)
    record.write(CONF, OURS, "t")
    record.write("/etc/ollama-guard/ollama-guard.toml", "x", "t")
    assert (tmp_path / CONF[1:]).read_text() == OURS
    assert all(ok for ok, _ in released(tmp_path))
    assert tree(tmp_path) == {}


def test_a_file_that_was_there_is_copied_and_comes_back_with_its_mode_and_time(tmp_path: Path) -> None:
    file = put(tmp_path, CONF, "the owner's, broken [")
    file.chmod(0o640)
    os.utime(file, (1, 1))
    before = tree(tmp_path)
    copy = Record.load(tmp_path).write(CONF, OURS, "20260101T000000Z")
    assert copy == f"{CONF}.before-ollama-guard-20260101T000000Z"
    assert (tmp_path / copy[1:]).read_text() == "the owner's, broken ["
    assert (file.stat().st_mode & 0o777) == 0o640
    assert all(ok for ok, _ in released(tmp_path))
    assert tree(tmp_path) == before
    assert (file.stat().st_mode & 0o777, file.stat().st_mtime) == (0o640, 1)


def test_the_record_is_read_by_nobody_who_may_not_read_what_it_holds(tmp_path: Path) -> None:
    """It holds whole files, a webhook's key among them."""
    config = put(
        tmp_path, "/etc/ollama-guard/ollama-guard.toml", 'webhook = "https://chat.example.org/s3cret"'
    )
    config.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(config, 0, 4)
    record = Record.load(tmp_path)
    record.write(CONF, OURS, "t")
    assert (record.file.stat().st_mode & 0o777) == 0o644, "nothing of a file that others may not read"
    record.write("/etc/ollama-guard/ollama-guard.toml", "webhook, and more", "t", basis=config.read_text())
    assert (record.file.stat().st_mode & 0o777) == 0o640
    assert record.file.stat().st_gid == config.stat().st_gid
    config.chmod(0o600)
    record.save()
    assert (record.file.stat().st_mode & 0o777) == 0o600


def test_a_configuration_that_windows_wrote_is_read_as_the_guard_reads_it(tmp_path: Path) -> None:
    """With a byte order mark; what comes back is the file to the byte."""
    path = "/etc/ollama-guard/ollama-guard.toml"
    file = put(tmp_path, path, "\ufeff[cap]\nsoft_max = 1\n")
    before = file.read_bytes()
    record = Record.load(tmp_path)
    basis = owners_text(record, path)
    assert compile_text(basis, path) == compile_file(file)
    record.write(path, "ours", "t", basis)
    assert all(ok for ok, _ in released(tmp_path))
    assert file.read_bytes() == before


def test_our_own_text_is_replaced_without_another_copy(tmp_path: Path) -> None:
    put(tmp_path, CONF, "the owner's")
    record = Record.load(tmp_path)
    assert record.write(CONF, "first", "1")
    assert record.write(CONF, "second", "2") == ""
    released(tmp_path)
    assert (tmp_path / CONF[1:]).read_text() == "the owner's"


def test_of_an_edited_drop_in_only_our_lines_go(tmp_path: Path) -> None:
    Record.load(tmp_path).write(CONF, OURS, "t")
    put(tmp_path, CONF, OURS + "Environment=MINE=1\n")
    ((ok, text), *_) = released(tmp_path)
    assert (ok, text) == (True, f"{CONF}: our lines are gone, yours stay")
    assert (tmp_path / CONF[1:]).read_text() == "[Service]\nEnvironment=MINE=1\n"


def test_a_drop_in_of_which_a_line_was_taken_away_goes_as_a_whole(tmp_path: Path) -> None:
    Record.load(tmp_path).write(CONF, OURS, "t")
    put(tmp_path, CONF, OURS.replace("Environment=A=1\n", ""))
    released(tmp_path)
    assert tree(tmp_path) == {}


def test_an_edited_file_of_another_kind_is_left_and_said(tmp_path: Path) -> None:
    path = "/srv/llm/compose.override.yml"
    Record.load(tmp_path).write(path, "services: {}\n", "t")
    put(tmp_path, path, "services: {mine: {}}\n")
    ((ok, text), *_) = released(tmp_path)
    assert not ok
    assert text.endswith(f"if you don't need it: rm {tmp_path}{path}")
    assert (tmp_path / path[1:]).read_text() == "services: {mine: {}}\n"


def test_an_edited_configuration_stays_and_is_no_failure(tmp_path: Path) -> None:
    path = "/etc/x.toml"
    put(tmp_path, path, "original")
    copy = Record.load(tmp_path).write(path, "ours", "1", basis="original")
    put(tmp_path, path, "ours, edited")
    ((ok, text), *_) = released(tmp_path)
    assert (ok, text) == (
        True,
        f"{path} was edited since init wrote it and stays (before init it was {copy})",
    )
    assert (tmp_path / path[1:]).read_text() == "ours, edited"


def test_what_the_owner_wrote_into_our_file_before_a_second_init_stays(tmp_path: Path) -> None:
    path = "/etc/x.toml"
    put(tmp_path, path, "original")
    record = Record.load(tmp_path)
    record.write(path, "ours", "1", basis="original")
    put(tmp_path, path, "ours, edited")
    assert record.write(path, "ours again", "2", basis="ours, edited")
    released(tmp_path)
    assert (tmp_path / path[1:]).read_text() == "ours, edited"


def test_death_between_the_record_and_the_file_loses_nothing(tmp_path: Path) -> None:
    """The record is there, the file is still the owner's (or not there at all)."""
    put(tmp_path, CONF, "the owner's")
    Record.load(tmp_path).write(CONF, OURS, "t")
    put(tmp_path, CONF, "the owner's")
    assert all(ok for ok, _ in released(tmp_path))
    assert (tmp_path / CONF[1:]).read_text() == "the owner's"
    assert not list((tmp_path / CONF[1:]).parent.glob("*before*"))
    Record.load(tmp_path).write("/etc/new", "x", "t")
    (tmp_path / "etc/new").unlink()
    assert all(ok for ok, _ in released(tmp_path))


def test_folders_with_something_else_in_them_stay(tmp_path: Path) -> None:
    Record.load(tmp_path).write(CONF, OURS, "t")
    other = put(tmp_path, CONF.replace("ollama-guard", "override"), "the owner's")
    released(tmp_path)
    assert other.exists()
    assert not (tmp_path / RECORD.relative_to("/")).exists()


def test_a_record_that_is_not_ours_is_said_and_not_acted_on(tmp_path: Path) -> None:
    for text in ("no json", "[]", json.dumps({"entries": [{"path": 1}], "folders": []})):
        put(tmp_path, str(RECORD), text)
        with pytest.raises(GuardError, match="what init wrote can't be read"):
            Record.load(tmp_path)


def test_a_record_that_others_could_have_written_is_not_believed(tmp_path: Path) -> None:
    victim = put(tmp_path, "/etc/passwd", "root")
    entry = {"path": "/etc/passwd", "written": "root", "copy": "", "basis": ""}
    record = put(tmp_path, str(RECORD), json.dumps({"entries": [entry], "folders": [], "environment": {}}))
    record.chmod(0o666)
    with pytest.raises(GuardError, match="others than root can write it"):
        Record.load(tmp_path)
    assert victim.exists()


def test_a_copy_is_never_written_through_a_link_that_waits_for_it(tmp_path: Path) -> None:
    victim, source = put(tmp_path, "/victim", "precious"), put(tmp_path, "/source", "poison")
    (tmp_path / "copy").symlink_to(victim)
    with pytest.raises(FileExistsError):
        keep_copy(source, tmp_path / "copy")
    assert victim.read_text() == "precious"


def hidden(models: Path, name: str, text: str = "{}") -> Path:
    return put(models, f"/manifests/quarantine.registry.ollama.ai/library/{name}", text)


def test_hidden_models_come_back_and_leave_no_folders(tmp_path: Path) -> None:
    hidden(tmp_path, "big/7b", "big")
    put(tmp_path, "/manifests/registry.ollama.ai/library/small/1b", "small")
    assert [(one.ok, one.text) for one in unhide([tmp_path, tmp_path])] == [(True, "big:7b is back")]
    assert tree(tmp_path / "manifests") == {
        "registry.ollama.ai": None,
        "registry.ollama.ai/library": None,
        "registry.ollama.ai/library/big": None,
        "registry.ollama.ai/library/big/7b": b"big",
        "registry.ollama.ai/library/small": None,
        "registry.ollama.ai/library/small/1b": b"small",
    }


def test_a_name_that_is_another_model_now_is_never_overwritten(tmp_path: Path) -> None:
    alias = hidden(tmp_path, "big/7b", "old")
    now = put(tmp_path, "/manifests/registry.ollama.ai/library/big/7b", "new")
    (one,) = unhide([tmp_path])
    assert not one.ok
    assert one.text.endswith(f"to have it back: mv {alias} {now}")
    assert (alias.read_text(), now.read_text()) == ("old", "new")


def test_a_model_that_was_pulled_back_meanwhile_loses_its_hidden_name(tmp_path: Path) -> None:
    alias = hidden(tmp_path, "big/7b", "same")
    put(tmp_path, "/manifests/registry.ollama.ai/library/big/7b", "same")
    (one,) = unhide([tmp_path])
    assert one.ok
    assert not alias.exists()


def test_a_link_on_the_way_back_leads_nowhere(tmp_path: Path) -> None:
    """Whoever owns the models must not make root write elsewhere."""
    alias = hidden(tmp_path, "big/7b", "poison")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "manifests/registry.ollama.ai/library").mkdir(parents=True)
    (tmp_path / "manifests/registry.ollama.ai/library/big").symlink_to(elsewhere)
    (one,) = unhide([tmp_path])
    assert not one.ok
    assert list(elsewhere.iterdir()) == []
    assert alias.exists()


def test_folders_without_models_and_links_are_passed_over(tmp_path: Path) -> None:
    secret = put(tmp_path, "/secret", "x")
    link = tmp_path / "manifests/quarantine.registry.ollama.ai/library/big/7b"
    link.parent.mkdir(parents=True)
    link.symlink_to(secret)
    assert list(unhide([tmp_path, tmp_path / "nowhere"])) == []
    assert secret.read_text() == "x"
