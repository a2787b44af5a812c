"""The systemd adapter against a bus of its own, which answers as systemd 252 does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ollama_guard.core.model import ServerReading
from ollama_guard.core.runtime import Limits, RuntimeKind, RuntimeState
from ollama_guard.errors import RuntimeFailed
from ollama_guard.hands.adapters.systemd import SystemdRuntime, adapter
from ollama_guard.hands.remembered import RememberedLimits
from ollama_guard.testing.systemd import INFINITY, FakeSystemd, FakeUnit

BOOT = "this boot"
NAME = "ollama.service"
PID = 4242
GIB = 1024**3
ENV = "/var/lib/ollama-guard/env/ollama.env"
SERVER = ServerReading(PID, 7, 998, "/system.slice/ollama.service", "argv says serve")


class Bed:
    """One unit on one bus, and the adapter that is tested."""

    def __init__(self, folder: Path, systemd: FakeSystemd) -> None:
        self.systemd = systemd
        self.unit = systemd.units[NAME]
        self.book = RememberedLimits(folder)
        self.runtime = SystemdRuntime(Path(ENV), self.book, BOOT, str(systemd.path))

    def members(self) -> list[str]:
        """What was asked of the manager, without the reading and without the question to polkit."""
        return [
            member
            for member, body in self.systemd.asked
            if member not in ("LoadUnit", "GetUnitByPID")
            and not (member == "SetUnitProperties" and not body[2])
        ]


@pytest.fixture
def bed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bed]:
    monkeypatch.setattr(adapter, "KILL_AFTER_SECONDS", 0.2)
    with FakeSystemd(tmp_path / "bus", FakeUnit(NAME, PID)) as systemd:
        yield Bed(tmp_path, systemd)


def test_a_server_is_found_by_its_unit_s_main_pid(bed: Bed) -> None:
    reading = bed.runtime.find(SERVER, 5)
    assert reading is not None
    assert (reading.kind, reading.name, reading.server_pid) == (RuntimeKind.SYSTEMD, NAME, PID)
    assert reading.state is RuntimeState.RUNNING
    assert reading.verbs == ("stop", "start", "limit")
    assert reading.started_at is not None


def test_a_process_that_only_lives_in_a_service_is_not_its_server(bed: Bed) -> None:
    """An ollama that a user runs lives in user@1000.service: stopping that would end the whole session."""
    bed.systemd.units["user@1000.service"] = FakeUnit("user@1000.service", 900, other_pids=(777,))
    assert bed.runtime.find(ServerReading(777, 1, 1000, "/user.slice", "argv"), 5) is None


def test_a_process_of_no_unit_is_not_found(bed: Bed) -> None:
    assert bed.runtime.find(ServerReading(778, 1, 0, "/", "argv"), 5) is None


def test_a_unit_is_constrainable_when_it_reads_our_file(bed: Bed) -> None:
    before = bed.runtime.read(NAME, 5)
    assert not before.constrainable
    assert f"EnvironmentFile=-{ENV}" in before.hint
    bed.unit.environment_files = ("/etc/default/ollama", ENV)
    after = bed.runtime.read(NAME, 5)
    assert after.constrainable
    assert after.hint == ""


def test_of_its_environment_no_more_is_kept_than_it_is_read_for(bed: Bed) -> None:
    """A reading stands in the traces, which are shown to others."""
    bed.unit.environment = (
        "OLLAMA_API_KEY=secret",
        "OLLAMA_HOST=http://user:word@x",
        "LLAMA_ARG_CACHE_RAM=0",
    )
    assert bed.runtime.read(NAME, 5).environment == {"LLAMA_ARG_CACHE_RAM": "0"}


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"active": "inactive"}, RuntimeState.STOPPED),
        ({"active": "failed"}, RuntimeState.STOPPED),
        ({"active": "activating"}, RuntimeState.CHANGING),
        ({"active": "deactivating"}, RuntimeState.CHANGING),
        ({"job": 12}, RuntimeState.CHANGING),
        ({"freezer": "frozen"}, RuntimeState.PAUSED),
    ],
)
def test_a_unit_s_state_is_told(bed: Bed, changes: dict[str, object], state: RuntimeState) -> None:
    for key, value in changes.items():
        setattr(bed.unit, key, value)
    assert bed.runtime.read(NAME, 5).state is state


def test_a_stop_is_a_stop_job_of_exactly_this_unit(bed: Bed) -> None:
    bed.runtime.stop(NAME, 5)
    assert ("StopUnit", (NAME, "replace")) in bed.systemd.asked
    assert bed.members() == ["StopUnit"]
    assert bed.runtime.read(NAME, 5).state is RuntimeState.STOPPED


def test_stopping_what_is_stopped_does_nothing(bed: Bed) -> None:
    bed.unit.end()
    bed.runtime.stop(NAME, 5)
    assert bed.members() == []


def test_a_unit_that_does_not_obey_is_killed_within_its_stop_job(bed: Bed) -> None:
    """Otherwise systemd would wait for 90 s; a kill without the stop job would be restarted."""
    bed.unit.obeys = "kill"
    bed.runtime.stop(NAME, 5)
    assert bed.members() == ["StopUnit", "KillUnit"]
    assert ("KillUnit", (NAME, "all", 9)) in bed.systemd.asked


def test_a_unit_that_can_t_be_killed_is_stuck_in_time(bed: Bed) -> None:
    bed.unit.obeys = "nothing"
    started = time.monotonic()
    with pytest.raises(RuntimeFailed) as caught:
        bed.runtime.stop(NAME, 1.0)
    assert caught.value.kind == "stuck"
    assert time.monotonic() - started < 2.0


@pytest.mark.parametrize("word", ["RequiredBy", "RequisiteOf", "BoundBy", "ConsistsOf", "PropagatesStopTo"])
def test_a_unit_that_takes_others_along_when_it_stops_is_never_stopped(bed: Bed, word: str) -> None:
    """A start would bring only Ollama back."""
    web = bed.systemd.units["open-webui.service"] = FakeUnit("open-webui.service", 900)
    bed.unit.dependents = {word: (web.name, "not-loaded.service")}
    reading = bed.runtime.find(SERVER, 5)
    assert reading is not None
    assert (reading.verbs, reading.shared_by) == (("limit",), (web.name,))
    with pytest.raises(RuntimeFailed, match=r"open-webui.service would be stopped with ollama.service"):
        bed.runtime.stop(NAME, 5)
    assert web.active == "active"
    assert "StopUnit" not in bed.members()
    bed.unit.end()
    bed.runtime.start(NAME, 5)
    assert bed.unit.active == "active", "who runs without it keeps it from nothing"


def test_units_that_do_not_run_keep_nobody_from_stopping(bed: Bed) -> None:
    bed.systemd.units["open-webui.service"] = FakeUnit("open-webui.service", active="failed")
    bed.unit.dependents = {"RequiredBy": ("open-webui.service",)}
    bed.runtime.stop(NAME, 5)
    assert bed.unit.active == "inactive"


def test_a_start_is_safe_to_repeat(bed: Bed) -> None:
    bed.unit.end()
    bed.runtime.start(NAME, 5)
    bed.runtime.start(NAME, 5)
    assert bed.members() == ["StartUnit"]
    assert bed.unit.main_pid == bed.unit.next_pid


def test_a_failed_unit_is_started_with_a_fresh_count(bed: Bed) -> None:
    bed.unit.active, bed.unit.main_pid = "failed", 0
    bed.runtime.start(NAME, 5)
    assert bed.members() == ["ResetFailedUnit", "StartUnit"]


def test_a_start_that_fails_says_so(bed: Bed) -> None:
    bed.unit.end()
    bed.unit.starts = False
    with pytest.raises(RuntimeFailed, match="is failed") as caught:
        bed.runtime.start(NAME, 5)
    assert caught.value.kind == "refused"


def test_a_masked_unit_is_never_stopped_and_its_start_says_masked(bed: Bed) -> None:
    bed.unit.load = bed.unit.file_state = "masked"
    reading = bed.runtime.read(NAME, 5)
    assert reading.verbs == ("limit",)
    assert "masked" in reading.cannot
    with pytest.raises(RuntimeFailed) as caught:
        bed.runtime.stop(NAME, 5)
    assert caught.value.kind == "masked"
    bed.unit.end()
    with pytest.raises(RuntimeFailed) as caught:
        bed.runtime.start(NAME, 5)
    assert caught.value.kind == "masked"
    assert bed.members() == []


def test_without_polkit_nothing_may_be_done_and_the_reading_says_what_would_help(bed: Bed) -> None:
    bed.systemd.denied = {"SetUnitProperties", "StopUnit", "StartUnit", "KillUnit"}
    reading = bed.runtime.find(SERVER, 5)
    assert reading is not None
    assert reading.verbs == ()
    assert "polkit" in reading.cannot
    assert "polkit rule" in reading.hint
    with pytest.raises(RuntimeFailed) as caught:
        bed.runtime.stop(NAME, 5)
    assert caught.value.kind == "denied"
    assert bed.unit.main_pid == PID


def test_limits_are_runtime_properties_without_a_high(bed: Bed) -> None:
    assert bed.runtime.limit(NAME, Limits(3 * GIB, 2.0), 5) == ()
    assert bed.unit.properties == {
        "MemoryMax": 3 * GIB,
        "MemoryHigh": INFINITY,
        "CPUQuotaPerSecUSec": 2_000_000,
    }
    assert next(
        (member, *body[:2]) for member, body in bed.systemd.asked if member == "SetUnitProperties"
    ) == ("SetUnitProperties", NAME, True)


def test_a_limit_is_never_below_use(bed: Bed) -> None:
    bed.unit.memory_current = 4 * GIB
    (why,) = bed.runtime.limit(NAME, Limits(3 * GIB), 5)
    assert "it uses 4.0 GiB now" in why
    assert bed.unit.properties["MemoryMax"] == INFINITY


def test_the_owner_s_tighter_limits_are_not_loosened(bed: Bed) -> None:
    bed.unit.properties |= {"MemoryMax": 2 * GIB, "CPUQuotaPerSecUSec": 1_000_000}
    memory, cpus = bed.runtime.limit(NAME, Limits(3 * GIB, 2.0), 5)
    assert "its owner gave it 2.0 GiB" in memory
    assert "its owner gave it 1" in cpus
    assert bed.members() == []


def test_unlimit_puts_back_what_was_before_the_first_limit_also_after_a_restart_of_the_guard(
    bed: Bed,
) -> None:
    bed.unit.properties["MemoryMax"] = 8 * GIB
    bed.runtime.limit(NAME, Limits(3 * GIB, 2.0), 5)
    bed.runtime.limit(NAME, Limits(2 * GIB, 1.0), 5)
    again = SystemdRuntime(Path(ENV), bed.book, BOOT, str(bed.systemd.path))
    again.unlimit(NAME, 5)
    assert bed.unit.properties["MemoryMax"] == 8 * GIB
    assert bed.unit.properties["CPUQuotaPerSecUSec"] == INFINITY
    bed.unit.properties["MemoryMax"] = 5 * GIB
    again.unlimit(NAME, 5)
    assert bed.unit.properties["MemoryMax"] == 5 * GIB, "what was put back once is the owner's again"


def test_limits_of_before_the_last_boot_are_not_put_back_since_they_ended_with_it(bed: Bed) -> None:
    bed.runtime.limit(NAME, Limits(3 * GIB, 2.0), 5)
    bed.unit.properties["MemoryMax"] = 5 * GIB
    SystemdRuntime(Path(ENV), bed.book, "the next boot", str(bed.systemd.path)).unlimit(NAME, 5)
    assert bed.unit.properties["MemoryMax"] == 5 * GIB


def test_a_unit_that_is_not_there_is_gone(bed: Bed) -> None:
    with pytest.raises(RuntimeFailed) as caught:
        bed.runtime.read("other.service", 5)
    assert caught.value.kind == "gone"


@pytest.mark.parametrize("silent", ["auth", "Hello", "LoadUnit", "GetAll"])
def test_a_bus_that_does_not_answer_is_hanging_in_time(bed: Bed, silent: str) -> None:
    bed.systemd.silent = {silent}
    started = time.monotonic()
    with pytest.raises(RuntimeFailed) as caught:
        bed.runtime.read(NAME, 0.3)
    assert caught.value.kind == "hanging"
    assert time.monotonic() - started < 1.5


def test_no_bus_is_absent(tmp_path: Path) -> None:
    runtime = SystemdRuntime(Path(ENV), RememberedLimits(tmp_path), BOOT, str(tmp_path / "nobody"))
    with pytest.raises(RuntimeFailed) as caught:
        runtime.read(NAME, 5)
    assert caught.value.kind == "absent"
