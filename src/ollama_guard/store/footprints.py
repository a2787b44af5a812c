"""The footprint ledger as a SQLite file: WAL, a schema version, and whatever can't be read is set aside."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ollama_guard.core.codec import CodecError, from_plain
from ollama_guard.core.events import one_line
from ollama_guard.core.footprint import Footprint, FootprintKey, Ledger
from ollama_guard.core.ledger import ROWS_KEPT, is_possible, with_rows
from ollama_guard.errors import LedgerError, NewerLedger

SCHEMA_VERSION = 1
# "OGfp", in the file's header: nobody else's database is taken for the ledger.
APPLICATION_ID = 0x4F476670
# Milliseconds that another program's lock (a person with sqlite3, a backup) is waited for.
BUSY_MILLISECONDS = 2000
# Files set aside that are kept; a disk that corrupts each new one must not fill up with them.
ASIDE_KEPT = 3
_COMPANIONS = ("-wal", "-shm", "-journal")

_KEY = tuple(field.name for field in fields(FootprintKey))
_VALUES = tuple(field.name for field in fields(Footprint) if field.name != "key")
_COLUMNS = ", ".join((*_KEY, *_VALUES))
_SCHEMA = """
CREATE TABLE footprints (
    blob TEXT NOT NULL, context_tokens INTEGER NOT NULL, parallel INTEGER NOT NULL,
    weights_mapped INTEGER NOT NULL,
    anon_bytes INTEGER, shmem_bytes INTEGER, file_bytes INTEGER, vram_bytes INTEGER, peak_bytes INTEGER,
    load_seconds REAL, unload_seconds REAL,
    loads INTEGER NOT NULL, uses INTEGER NOT NULL, answers_cut INTEGER NOT NULL,
    asked REAL NOT NULL, asked_at REAL NOT NULL,
    first_seen_wall REAL NOT NULL, last_used_wall REAL NOT NULL,
    PRIMARY KEY (blob, context_tokens, parallel, weights_mapped)
) WITHOUT ROWID;
CREATE TABLE kept (watched_seconds REAL NOT NULL);
INSERT INTO kept VALUES (0.0);
"""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the file held: the ledger (its ``at`` is 0), and a sentence if a bad file was ``set_aside``."""

    ledger: Ledger
    set_aside: str = ""


class FootprintStore:
    """The file at ``path``. Calls may come from any thread, one at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> Loaded:
        """Every row that can be read, the newest `ROWS_KEPT` of them.

        Raises:
            NewerLedger: a newer version of this program wrote it; it is not touched.
            LedgerError: it can't be read or made now; trying again later may help.
        """
        try:
            return Loaded(self._read())
        except _Unusable as problem:
            set_aside = self._set_aside(one_line(str(problem), 300))
        return Loaded(self._read(), set_aside)

    def save(self, rows: Iterable[Footprint], watched_seconds: float) -> None:
        """Write these rows in place of those of the same keys, all or none; the oldest beyond the bound go.

        Raises:
            LedgerError: nothing was written; a file that is spoilt is for the next `load` to set aside.
        """
        marks = ", ".join("?" * (len(_KEY) + len(_VALUES)))
        try:
            with self._opened() as connection, _transaction(connection):
                connection.executemany(
                    f"INSERT OR REPLACE INTO footprints ({_COLUMNS}) VALUES ({marks})",  # noqa: S608 - our names
                    [_flat(row) for row in rows],
                )
                connection.execute("UPDATE kept SET watched_seconds = ?", (watched_seconds,))
                connection.execute(
                    "DELETE FROM footprints WHERE (blob, context_tokens, parallel, weights_mapped) IN "
                    "(SELECT blob, context_tokens, parallel, weights_mapped FROM footprints "
                    "ORDER BY asked_at DESC LIMIT -1 OFFSET ?)",
                    (ROWS_KEPT,),
                )
        except _Unusable as problem:
            raise LedgerError(f"can't write {self.path}: {one_line(str(problem), 300)}") from problem

    def _read(self) -> Ledger:
        with self._opened() as connection:
            problems = connection.execute("PRAGMA quick_check(1)").fetchall()
            if problems != [("ok",)]:
                raise _Unusable(f"its check fails: {problems[0][0] if problems else 'no answer'}")
            kept = connection.execute("SELECT watched_seconds FROM kept").fetchone()
            found = connection.execute(
                f"SELECT {_COLUMNS} FROM footprints ORDER BY asked_at DESC LIMIT ?",  # noqa: S608 - our names
                (ROWS_KEPT,),
            ).fetchall()
        seconds = kept[0] if kept is not None and isinstance(kept[0], float) else 0.0
        rows = [row for row in map(_row, found) if row is not None]
        return with_rows(Ledger(watched_seconds=max(0.0, seconds)), rows)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """A connection to a ledger of our schema; SQLite's errors become ours."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Its owner's alone, whatever the umask says; SQLite gives its companions the same mode.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
            connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.Error) as problem:
            raise LedgerError(f"can't open {self.path}: {problem}") from problem
        try:
            self._prepare(connection)
            yield connection
        except sqlite3.OperationalError as problem:  # the disk, a lock, or SQL on a schema that is not ours
            if "no such" in str(problem):
                raise _Unusable(f"it is not the ledger: {problem}") from problem
            raise LedgerError(f"can't use {self.path}: {problem}") from problem
        except sqlite3.DatabaseError as problem:
            raise _Unusable(str(problem)) from problem
        finally:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute(f"PRAGMA busy_timeout = {BUSY_MILLISECONDS}")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if application == APPLICATION_ID and version > SCHEMA_VERSION:
            raise NewerLedger(
                f"{self.path} is of schema {version}, this program knows {SCHEMA_VERSION}: it is left alone"
            )
        if tables == 0 and application == 0 and version == 0:
            connection.execute("PRAGMA journal_mode = WAL")
            marked = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION};"
            connection.executescript(f"BEGIN IMMEDIATE;{_SCHEMA}{marked}COMMIT;")
        elif (application, version) != (APPLICATION_ID, SCHEMA_VERSION):
            raise _Unusable("it is another program's database")

    def _set_aside(self, why: str) -> str:
        """Rename the file and its companions, so that a new one can begin; says so in a sentence."""
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        aside = self.path.with_name(f"{self.path.name}.bad-{stamp}-{time.monotonic_ns()}")
        try:
            self.path.rename(aside)
            for ending in _COMPANIONS:
                with contextlib.suppress(FileNotFoundError):
                    Path(f"{self.path}{ending}").rename(f"{aside}{ending}")
            self._forget_old()
        except OSError as problem:
            raise LedgerError(f"can't set {self.path} aside ({why}): {problem}") from problem
        return f"the footprint ledger can't be read ({why}): it is kept as {aside} and a new one begins"

    def _forget_old(self) -> None:
        bad = sorted(
            self.path.parent.glob(f"{self.path.name}.bad-*Z-*"), key=lambda path: path.stat().st_mtime
        )
        mains = [path for path in bad if not path.name.endswith(_COMPANIONS)]
        for old in mains[:-ASIDE_KEPT]:
            for ending in ("", *_COMPANIONS):
                Path(f"{old}{ending}").unlink(missing_ok=True)


def read_only(path: Path) -> Ledger:
    """What the file holds, for one look without a daemon: nothing is made, mended or set aside.

    Empty where it can't be read, be it that it is the guard's alone, or no ledger at all.
    """
    found: list[tuple[Any, ...]] = []
    with contextlib.suppress(sqlite3.Error):
        # Without a guard that writes there is no log to read: then not even SQLite's own files are made.
        how = "mode=ro" if Path(f"{path}-wal").exists() else "immutable=1"
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True)
        try:
            found = connection.execute(f"SELECT {_COLUMNS} FROM footprints LIMIT {ROWS_KEPT}").fetchall()  # noqa: S608 - our names
        finally:
            connection.close()
    return with_rows(Ledger(), [row for row in map(_row, found) if row is not None])


class _Unusable(Exception):
    """The file is not a ledger, or not any more."""


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def _flat(row: Footprint) -> tuple[Any, ...]:
    return (*(getattr(row.key, name) for name in _KEY), *(getattr(row, name) for name in _VALUES))


def _row(values: tuple[Any, ...]) -> Footprint | None:
    """One row, None if it holds what no row can (SQLite stores any type in any column)."""
    key = dict(zip(_KEY, values, strict=False))
    key["weights_mapped"] = key["weights_mapped"] == 1
    plain = {"key": key, **dict(zip(_VALUES, values[len(_KEY) :], strict=True))}
    try:
        row = from_plain(Footprint, plain)
    except CodecError:
        return None
    return row if is_possible(row.key) else None
