"""The state map survives a death between any two writes, and never believes what is torn."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ollama_guard.core import budgets, condemned, hiding, lines, runs, sane, targets
from ollama_guard.core.recovery import Constrained, Ending, Playbook, Position, Run, Step, Target, Written
from ollama_guard.core.state import Condemned, Durable, Strike
from ollama_guard.sentinel.statemap import _HEADER, _MAGIC, SLOT_BYTES, StateMap, _checksum

BOOT = "6f3f9f5e-26f2-4a57-8f0e-6f1c5d1f7a11"
OTHER_BOOT = "00000000-26f2-4a57-8f0e-6f1c5d1f7a11"


def durable(number: int) -> Durable:
    blob = "sha256:" + f"{number:064x}"
    return Durable(
        pause_until_at=1000.0 + number,
        condemned=(Condemned(blob, ("a:latest",), 1.0, 2.0, 600.0, 1 << 30),),
        strikes=(Strike(blob, 5.0, 7),),
        fruitless_kills=(1.0, 2.5),
        next_action_id=number,
    )


def written(path: Path, *states: Durable) -> bytes:
    """The map's bytes after these states were stored in turn."""
    path.unlink(missing_ok=True)
    statemap = StateMap(path, BOOT)
    for state in states:
        assert statemap.store(state) == ""
    statemap.close()
    return path.read_bytes()


def loaded(path: Path, boot: str = BOOT) -> tuple[Durable | None, str]:
    statemap = StateMap(path, boot)
    try:
        return statemap.load()
    finally:
        statemap.close()


def test_what_was_stored_last_comes_back(tmp_path: Path) -> None:
    written(tmp_path / "state", *(durable(n) for n in range(1, 6)))
    assert loaded(tmp_path / "state") == (durable(5), "")


def test_a_fresh_map_is_empty_without_a_complaint(tmp_path: Path) -> None:
    assert loaded(tmp_path / "state") == (None, "")


def test_its_room_is_taken_at_once(tmp_path: Path) -> None:
    StateMap(tmp_path / "state", BOOT).close()
    found = (tmp_path / "state").stat()
    assert found.st_size == 2 * SLOT_BYTES
    assert found.st_blocks * 512 >= 2 * SLOT_BYTES
    assert found.st_mode & 0o777 == 0o600


def test_another_boot_makes_it_void(tmp_path: Path) -> None:
    written(tmp_path / "state", durable(1))
    state, reason = loaded(tmp_path / "state", OTHER_BOOT)
    assert state is None
    assert "boot" in reason


def test_a_death_after_any_number_of_written_bytes_leaves_the_old_or_the_new_state(tmp_path: Path) -> None:
    """Every prefix of the third write, in the order in which it is written, over the map before it."""
    path = tmp_path / "state"
    before, after = written(path, durable(1), durable(2)), written(path, durable(1), durable(2), durable(3))
    changed = [i for i in range(len(after)) if before[i] != after[i]]
    header = range(SLOT_BYTES, SLOT_BYTES + 64)
    order = [i for i in changed if i not in header] + [i for i in changed if i in header]
    torn = bytearray(before)
    for place in order:
        path.write_bytes(torn)
        assert loaded(path) in ((durable(2), ""), (durable(3), ""))
        torn[place] = after[place]
    path.write_bytes(torn)
    assert loaded(path) == (durable(3), "")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    damage=st.lists(
        st.tuples(st.integers(0, 2 * SLOT_BYTES - 1), st.binary(min_size=1, max_size=300)), max_size=4
    ),
    length=st.integers(0, 2 * SLOT_BYTES),
)
def test_any_damage_gives_a_state_that_was_stored_or_none(
    tmp_path: Path, damage: list[tuple[int, bytes]], length: int
) -> None:
    path = tmp_path / "state"
    content = bytearray(written(path, durable(1), durable(2)))
    for place, junk in damage:
        content[place : place + len(junk)] = junk
    path.write_bytes(content[: 2 * SLOT_BYTES][:length])
    state, reason = loaded(path)
    assert state in (None, durable(1), durable(2))
    assert state is not None or reason or length == 0 or not any(content[:length])


def test_damage_to_the_newest_slot_gives_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "state"
    content = bytearray(written(path, durable(1), durable(2)))
    content[200] ^= 0xFF  # sequence 2 stands in slot 0
    path.write_bytes(content)
    assert loaded(path) == (durable(1), "")


def test_after_damage_the_next_store_is_newer_than_what_was_left(tmp_path: Path) -> None:
    path = tmp_path / "state"
    content = bytearray(written(path, durable(1), durable(2)))
    content[200] ^= 0xFF
    path.write_bytes(content)
    statemap = StateMap(path, BOOT)
    statemap.load()
    statemap.store(durable(9))
    statemap.close()
    assert loaded(path) == (durable(9), "")


def test_a_map_of_another_version_is_refused_with_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "state"
    statemap = StateMap(path, BOOT)
    payload = b'{"version": 1, "from_the_future": true}'
    boot_id = BOOT.encode()
    header = _HEADER.pack(_MAGIC, 7, len(payload), _checksum(7, boot_id, payload), boot_id)
    statemap._map[: len(header) + len(payload)] = header + payload
    state, reason = statemap.load()
    statemap.close()
    assert state is None
    assert "from_the_future" in reason


def test_only_changes_are_written(tmp_path: Path) -> None:
    statemap = StateMap(tmp_path / "state", BOOT)
    statemap.store(durable(1))
    before = bytes(statemap._map)
    statemap.store(durable(1))
    assert bytes(statemap._map) == before
    statemap.close()


def test_too_much_to_keep_is_said_and_the_old_state_stays(tmp_path: Path) -> None:
    path = tmp_path / "state"
    statemap = StateMap(path, BOOT)
    statemap.store(durable(1))
    assert "more than" in statemap.store(Durable(fruitless_kills=tuple(float(n) for n in range(20_000))))
    statemap.close()
    assert loaded(path) == (durable(1), "")


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("precious")
    (tmp_path / "state").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match=os.strerror(40)):
        StateMap(tmp_path / "state", BOOT)
    assert (tmp_path / "target").read_text() == "precious"


def test_the_most_that_can_ever_be_kept_fits_into_a_slot(tmp_path: Path) -> None:
    """Whoever may create models chooses their names."""
    long = [f"{number:03d}{'x' * (sane.LONGEST_NAME - 3)}" for number in range(hiding.SPARED_KEPT)]
    blob = [f"sha256:{number:064x}" for number in range(condemned.RECORDS_KEPT)]
    at = 1234567.123456789
    full = Durable(next_action_id=2**40, hard_cap=99, pause_until_at=at, spared=tuple(long))
    for each in blob:
        verdict = Strike(each, at, 2**50, 2**31)
        full = condemned.convicted(full, verdict, (long[0][:250], long[1][:250], *long), 86400.0)
    assert len(full.condemned) == condemned.RECORDS_KEPT
    assert all(record.names for record in full.condemned)
    for each in blob:
        full = replace(full, strikes=(*full.strikes, Strike(each[:-1] + "x", at, 2**50, 2**31)))
    text = "y" * runs.TEXT_KEPT
    position = Position(
        Playbook.FREEZE, Step.KILL_SERVER, at, text, "z" * 255, 2**40, 1000, at, failed="y" * 200,
        trouble=text,
        targets=tuple(Target(b, sane.written_names(long), 2**50) for b in blob[: targets.TARGETS_KEPT]),
    )  # fmt: skip
    run = Run(Playbook.MODELS_DONT_LOAD, at, by_hand=True, ending=Ending.PARTLY, ended_at=at, text=text)
    full = replace(
        full, playbook=position, runs=(run,) * runs.RUNS_KEPT, fruitless_kills=(at,) * budgets.KILLS_KEPT,
        constrained=Constrained("z" * 255, at, 2**50),
        written=(Written(at, 2**20, constrains=True),) * lines.WRITTEN_KEPT,
    )  # fmt: skip
    written(tmp_path / "state", full)
    assert loaded(tmp_path / "state") == (full, "")


def test_names_that_are_written_down_are_bounded_by_what_they_take() -> None:
    assert sane.written_names(["a:1", "b:2", "c:3"]) == ("a:1", "b:2")
    assert sane.written_names(["x" * 400, "y" * 400, "b:2"]) == ("x" * 400, "b:2")
    assert sane.written_names(["x" * sane.LONGEST_NAME, "b:2"]) == ("x" * sane.LONGEST_NAME,)
    assert sane.written_names(["\U0001f600" * 100, "b:2"]) == ("b:2",)
