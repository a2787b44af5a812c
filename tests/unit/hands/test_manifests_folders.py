"""The folders that hiding makes are open to whoever uses the ones above, or there are none.

A folder that Ollama can't read costs the hidden model: its blobs belong to no name that it sees, so its next
start deletes them; and it does not start at all where it can't clean up in one.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from ollama_guard.errors import StoreFailed
from ollama_guard.hands.adapters.manifests import Manifests

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")

OLLAMA = 1
"""A user whose group of the same number is its own (`daemon`, as on every Debian)."""
STRANGERS = 4321
GUARD = 65534
HIDDEN = "quarantine.registry.ollama.ai"
DROP_IN = Path(__file__).parents[3] / "systemd/drop-ins/dac-override.conf"
HIDING = """
import sys
from ollama_guard.hands.adapters.manifests import Manifests
store = Manifests(sys.argv[1])
print(store.unwritable() or store.hide("big:7b").alias)
"""
MANIFEST = '{"layers": [], "config": {"size": 1}}'


@pytest.fixture
def models() -> Iterator[Path]:
    """A store that belongs to Ollama's user, reachable by everyone."""
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        top.chmod(0o755)
        (top / "blobs").mkdir()
        file = top / "manifests/registry.ollama.ai/library/big/7b"
        file.parent.mkdir(parents=True)
        file.write_text(MANIFEST)
        shared(top, OLLAMA, OLLAMA, 0o2775)
        yield top


def shared(models: Path, uid: int, gid: int, mode: int) -> None:
    """Have the whole tree belong to somebody."""
    for path in (models / "manifests", *(models / "manifests").rglob("*")):
        os.chown(path, uid, gid)
        path.chmod(mode if path.is_dir() else 0o644)


def told_as(uid: int, groups: Sequence[int], job: Callable[[], object]) -> str:
    """What a job says, or how it fails, when that user does it with the guard's umask."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setgroups(list(groups))
        os.setresgid(GUARD, GUARD, GUARD)
        os.setresuid(uid, uid, uid)
        os.umask(0o077)
        try:
            text = str(job())
        except StoreFailed as problem:
            text = f"failed: {problem}"
        except OSError as bad:
            text = f"broken: {bad!r}"
        os.write(writing, text.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as told:
        text = told.read().decode()
    os.waitpid(pid, 0)
    return text


def hide(models: Path) -> str:
    return Manifests(str(models)).hide("big:7b").alias


def folders(models: Path) -> set[str]:
    top = models / "manifests"
    return {str(path.relative_to(top)) for path in top.rglob("*") if path.is_dir()}


def seen_by_ollama(models: Path) -> str:
    """What its Glob finds; it skips in silence what it can't read."""
    return told_as(OLLAMA, [OLLAMA], lambda: sorted(p.parts[-4] for p in models.glob("manifests/*/*/*/*")))


def test_without_the_right_to_make_setgid_folders_they_are_made_all_the_same(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under RestrictSUIDSGID=, in a tree that is shared by a setgid group."""
    fchmod = os.fchmod

    def restricted(fd: int, mode: int) -> None:
        if mode & (stat.S_ISUID | stat.S_ISGID):
            raise PermissionError(1, "Operation not permitted")
        fchmod(fd, mode)

    monkeypatch.setattr(os, "fchmod", restricted)
    for _ in range(2):
        assert told_as(GUARD, [OLLAMA], lambda: hide(models)) == f"{HIDDEN}/library/big:7b"
    assert seen_by_ollama(models) == f"['{HIDDEN}']"
    assert stat.S_IMODE((models / "manifests" / HIDDEN).stat().st_mode) & 0o777 == 0o775


@pytest.mark.parametrize("call", ["fchmod", "fchown", "rename"])
def test_death_on_the_way_leaves_nothing_that_a_repeat_would_take_for_done(
    models: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    with monkeypatch.context() as dying:
        dying.setattr(os, call, lambda *_, **__: os._exit(9))
        assert told_as(0, [], lambda: hide(models)) == ""
    assert HIDDEN not in folders(models)
    assert told_as(0, [], lambda: hide(models)) == f"{HIDDEN}/library/big:7b"
    assert seen_by_ollama(models) == f"['{HIDDEN}']"
    assert len(folders(models)) == 6, "what was half made is gone"


def test_what_death_left_half_made_is_gone_after_the_next_look(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty folder that Ollama can't open keeps it from starting."""
    before = folders(models)
    with monkeypatch.context() as dying:
        dying.setattr(os, "fchmod", lambda *_: os._exit(9))
        told_as(0, [], lambda: hide(models))
    assert folders(models) != before
    assert told_as(0, [], Manifests(str(models)).unwritable) == ""
    assert folders(models) == before


@pytest.mark.parametrize(
    ("uid", "gid", "mode"),
    [(OLLAMA, OLLAMA, 0o2750), (STRANGERS, OLLAMA, 0o2775), (OLLAMA, STRANGERS, 0o2775)],
    ids=["no right for the group", "its owner is not in the group", "a group that Ollama is not in"],
)
def test_a_folder_that_would_be_shut_to_who_uses_the_one_above_is_not_made(
    models: Path, uid: int, gid: int, mode: int
) -> None:
    shared(models, uid, gid, mode)
    before = folders(models)
    told = told_as(GUARD, [OLLAMA, STRANGERS], lambda: hide(models))
    assert told.startswith("failed: "), told
    assert folders(models) == before
    assert (models / "manifests/registry.ollama.ai/library/big/7b").exists()


def test_it_is_told_beforehand_that_folders_can_t_be_given_to_ollama(models: Path) -> None:
    may = told_as(GUARD, [OLLAMA], Manifests(str(models)).unwritable)
    assert may == "", "shared by a group that Ollama's user is in"
    shared(models, STRANGERS, OLLAMA, 0o2775)
    why = told_as(GUARD, [OLLAMA], Manifests(str(models)).unwritable)
    assert why.startswith(f"a folder made in {models}/manifests can't be given to user {STRANGERS}"), why
    assert told_as(STRANGERS, [OLLAMA], Manifests(str(models)).unwritable) == "", "its owner may"
    assert told_as(0, [], Manifests(str(models)).unwritable) == "", "root may"


def test_a_folder_of_the_guard_s_that_ollama_can_t_read_is_not_used(models: Path) -> None:
    (models / "manifests" / HIDDEN).mkdir(mode=0o700)
    told = told_as(0, [], lambda: hide(models))
    assert told.startswith(f"failed: {HIDDEN} belongs to 0:1 with mode 2700"), told
    assert (models / "manifests/registry.ollama.ai/library/big/7b").exists()


def test_a_folder_that_ollama_made_itself_is_used_whatever_its_rights(models: Path) -> None:
    (models / "manifests" / HIDDEN).mkdir(mode=0o755)
    os.chown(models / "manifests" / HIDDEN, OLLAMA, OLLAMA)
    assert told_as(0, [], lambda: hide(models)) == f"{HIDDEN}/library/big:7b"
    assert seen_by_ollama(models) == f"['{HIDDEN}']"


def test_the_rights_of_the_drop_in_are_enough_in_a_tree_as_the_installer_makes_it(models: Path) -> None:
    """`dac-override.conf` alone: may write everywhere, and give folders away."""
    shared(models, OLLAMA, OLLAMA, 0o755)
    (line,) = (line for line in DROP_IN.read_text().splitlines() if line.startswith("AmbientCapabilities="))
    rights = ",".join(f"+{word.removeprefix('CAP_').lower()}" for word in line.split("=")[1].split())
    argv = ["setpriv", f"--reuid={GUARD}", f"--regid={GUARD}", "--clear-groups"]
    argv += [f"--inh-caps={rights}", f"--ambient-caps={rights}", f"--bounding-set=-all,{rights}"]
    argv += [sys.executable, "-c", HIDING, str(models)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30, umask=0o077)
    assert done.stdout == f"{HIDDEN}/library/big:7b\n", (done.stdout, done.stderr)
    made = (models / "manifests" / HIDDEN).stat()
    assert (made.st_uid, made.st_gid, made.st_mode & 0o7777) == (OLLAMA, OLLAMA, 0o755)
