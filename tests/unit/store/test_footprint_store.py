"""The ledger's file: what goes in comes out, and what is spoilt, foreign or newer costs no run."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ollama_guard.core.footprint import Footprint, FootprintKey
from ollama_guard.core.ledger import ROWS_KEPT, ROWS_PER_BLOB, rows_of
from ollama_guard.errors import LedgerError, NewerLedger
from ollama_guard.store.footprints import ASIDE_KEPT, SCHEMA_VERSION, FootprintStore


def row(number: int, context: int = 4096, asked_at: float = 0.0) -> Footprint:
    """A full row."""
    key = FootprintKey(f"sha256:{number:064x}", context, 1, number % 2 == 1)
    return Footprint(
        key, 10 * number, 1, 2, None, 11 * number, 1.5, 0.2, 3, 7, 1, 2.5, asked_at or float(number), 1e9, 2e9
    )


@pytest.fixture
def store(tmp_path: Path) -> FootprintStore:
    """A store whose file is not there yet, and neither is its folder."""
    return FootprintStore(tmp_path / "state" / "footprints.sqlite")


def kept(store: FootprintStore) -> set[Footprint]:
    return set(rows_of(store.load().ledger))


def aside(store: FootprintStore) -> list[Path]:
    """Main files that were set aside."""
    return [p for p in store.path.parent.glob("*.bad-*") if not p.name.endswith(("-wal", "-shm", "-journal"))]


def spoil(store: FootprintStore, what: str) -> None:
    """Write a good ledger, then do something to its file."""
    store.save([row(n) for n in range(200)], 5.0)
    if what == "garbage":
        store.path.write_bytes(b"not a database, " * 1000)
    elif what == "truncated":
        os.truncate(store.path, store.path.stat().st_size // 2)
    elif what == "overwritten":
        with store.path.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * 8192)
    elif what == "foreign":
        store.path.unlink()
        with sqlite3.connect(store.path) as connection:
            connection.execute("CREATE TABLE recipes (cake TEXT)")
        connection.close()
    elif what == "without a table":
        with sqlite3.connect(store.path) as connection:
            connection.execute("DROP TABLE kept")
        connection.close()


def test_what_was_saved_is_loaded_and_the_file_is_its_owners_alone(store: FootprintStore) -> None:
    store.load()
    store.save([row(1), row(2)], 77.5)
    assert kept(store) == {row(1), row(2)}
    loaded = store.load()
    assert (loaded.ledger.watched_seconds, loaded.set_aside) == (77.5, "")
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    assert [path.name for path in store.path.parent.iterdir()] == ["footprints.sqlite"]


def test_a_row_is_replaced_by_the_next_of_its_key_and_stands_beside_another_context(
    store: FootprintStore,
) -> None:
    store.load()
    store.save([row(1), row(1, context=8192)], 1.0)
    store.save([Footprint(row(1).key, anon_bytes=99)], 2.0)
    assert kept(store) == {Footprint(row(1).key, anon_bytes=99), row(1, context=8192)}


def test_it_is_written_ahead_in_a_log_and_says_its_schema(store: FootprintStore) -> None:
    store.load()
    connection = sqlite3.connect(store.path)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    connection.close()


@pytest.mark.parametrize("what", ["garbage", "truncated", "overwritten", "foreign", "without a table"])
def test_a_file_that_is_no_ledger_is_set_aside_and_a_new_one_begins(store: FootprintStore, what: str) -> None:
    spoil(store, what)
    bytes_before = store.path.read_bytes()
    loaded = store.load()
    (old,) = aside(store)
    assert old.read_bytes() == bytes_before
    assert str(old) in loaded.set_aside
    assert "\n" not in loaded.set_aside
    assert not loaded.ledger.by_blob
    store.save([row(1)], 1.0)
    assert kept(store) == {row(1)}
    assert store.load().set_aside == ""


@pytest.mark.parametrize("what", ["garbage", "foreign", "without a table"])
def test_a_save_to_what_is_no_ledger_is_one_clear_error(store: FootprintStore, what: str) -> None:
    spoil(store, what)
    with pytest.raises(LedgerError, match="can't write") as caught:
        store.save([row(1)], 1.0)
    assert str(store.path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("what", ["truncated", "overwritten"])
def test_a_save_to_a_damaged_ledger_does_no_worse_than_fail(store: FootprintStore, what: str) -> None:
    """It may succeed where the damage is elsewhere; the next load begins anew and the next save lasts."""
    spoil(store, what)
    with contextlib.suppress(LedgerError):
        store.save([row(1)], 1.0)
    store.load()
    store.save([row(2)], 1.0)
    assert row(2) in kept(store)


def test_only_the_newest_few_files_are_kept_aside(store: FootprintStore) -> None:
    for _ in range(ASIDE_KEPT + 3):
        spoil(store, "garbage")
        store.load()
    assert len(aside(store)) == ASIDE_KEPT


def test_a_newer_ledger_is_left_as_it_is(store: FootprintStore) -> None:
    store.save([row(1)], 1.0)
    with sqlite3.connect(store.path) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    before = store.path.read_bytes()
    with pytest.raises(NewerLedger, match=f"schema {SCHEMA_VERSION + 1}"):
        store.load()
    with pytest.raises(NewerLedger):
        store.save([row(2)], 1.0)
    assert store.path.read_bytes() == before
    assert not aside(store)


def test_an_empty_file_is_a_new_ledger(store: FootprintStore) -> None:
    store.path.parent.mkdir()
    store.path.touch()
    store.save([row(1)], 1.0)
    assert kept(store) == {row(1)}


@pytest.mark.parametrize("obstacle", ["file for folder", "folder for file", "symlink", "dangling"])
def test_a_path_that_can_not_be_used_is_one_clear_error_and_nothing_is_touched(
    tmp_path: Path, obstacle: str
) -> None:
    path = tmp_path / "state" / "footprints.sqlite"
    if obstacle == "file for folder":
        path.parent.write_text("mine")
    elif obstacle == "folder for file":
        path.mkdir(parents=True)
    else:
        path.parent.mkdir()
        target = tmp_path / "somebody's"
        if obstacle == "symlink":
            target.write_text("precious")
        path.symlink_to(target)
    for call in (FootprintStore(path).load, lambda: FootprintStore(path).save([row(1)], 1.0)):
        with pytest.raises(LedgerError, match="can't open"):
            call()
    assert obstacle != "symlink" or (tmp_path / "somebody's").read_text() == "precious"


def test_somebody_elses_lock_is_an_error_after_a_while_and_nothing_is_set_aside(
    store: FootprintStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ollama_guard.store.footprints.BUSY_MILLISECONDS", 50)
    store.save([row(1)], 1.0)
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(LedgerError, match="locked"):
        store.save([row(2)], 2.0)
    other.close()
    assert kept(store) == {row(1)}
    assert not aside(store)


def test_rows_that_no_row_can_be_are_left_out(store: FootprintStore) -> None:
    """SQLite takes any type in any column; whoever edits the file by hand harms only the row."""
    store.save([row(1), row(2), row(3), row(4)], 1.0)
    with sqlite3.connect(store.path) as connection:
        connection.execute("UPDATE footprints SET anon_bytes = 'many' WHERE blob = ?", (row(1).key.blob,))
        connection.execute(
            "UPDATE footprints SET anon_bytes = -5, asked = 1e300 WHERE blob = ?", (row(2).key.blob,)
        )
        connection.execute(
            "UPDATE OR IGNORE footprints SET blob = ? WHERE blob = ?", ("\n" * 10**6, row(4).key.blob)
        )
        connection.execute("UPDATE kept SET watched_seconds = 'ages'")
    connection.close()
    loaded = store.load()
    found = {found.key: found for found in rows_of(loaded.ledger)}
    assert set(found) == {row(2).key, row(3).key}
    assert (found[row(2).key].anon_bytes, found[row(2).key].asked) == (None, 0.0)
    assert loaded.ledger.watched_seconds == 0.0


def test_of_ten_thousand_rows_the_newest_are_kept(store: FootprintStore) -> None:
    store.save([row(n) for n in range(10_000)], 1.0)
    assert {found.key.blob for found in kept(store)} == {row(n).key.blob for n in range(9000, 10_000)}
    assert len(kept(store)) == ROWS_KEPT
    assert store.path.stat().st_size < 4 * 1024 * 1024


def test_one_blob_has_a_bounded_number_of_rows(store: FootprintStore) -> None:
    store.save([row(1, context=n, asked_at=float(n)) for n in range(1, 100)], 1.0)
    assert {found.key.context_tokens for found in kept(store)} == set(range(100 - ROWS_PER_BLOB, 100))


def test_a_writer_that_is_killed_in_the_middle_leaves_the_rows_before_it(store: FootprintStore) -> None:
    store.save([row(1)], 1.0)
    code = (
        "import sqlite3, os, signal, sys\n"
        "c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('BEGIN IMMEDIATE')\n"
        "c.execute('UPDATE footprints SET anon_bytes = 123456')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(store.path)], check=False)
    assert done.returncode == -9
    assert kept(store) == {row(1)}
    store.save([row(2)], 2.0)
    assert kept(store) == {row(1), row(2)}
