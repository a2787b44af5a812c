"""`RuntimePort` over systemd's D-Bus interface."""

from __future__ import annotations

import contextlib
import signal
import time
from pathlib import Path
from typing import Any

from ollama_guard.core.model import ServerReading
from ollama_guard.core.runtime import Limits, RuntimeReading, RuntimeState
from ollama_guard.errors import RuntimeFailed
from ollama_guard.hands.adapters.systemd import readings
from ollama_guard.hands.adapters.systemd.bus import Call, calls
from ollama_guard.ports import LimitsBook

# Seconds that a stop may take before SIGKILL: Ollama ends in 0.2 s, systemd itself would wait for 90.
KILL_AFTER_SECONDS = 3.0
# Seconds between two looks at a unit on its way; a look takes 1 ms.
LOOK_SECONDS = 0.1


class SystemdRuntime:
    """The services of this machine's systemd; calls may come from several threads.

    ``boot_id`` names this boot of the machine: runtime properties end with it. ``bus`` is the path of the
    system bus's socket, "" for the usual one.
    """

    def __init__(self, environment_file: Path, book: LimitsBook, boot_id: str, bus: str = "") -> None:
        self._environment_file = str(environment_file)
        self._book = book
        self._boot_id = boot_id
        self._bus = bus

    def find(self, server: ServerReading, deadline_seconds: float) -> RuntimeReading | None:
        """The service whose main process the server is; one that only lives inside a service is not its."""
        with calls(self._bus, deadline_seconds) as call:
            try:
                path = call.path("GetUnitByPID", "u", server.pid)
            except RuntimeFailed as problem:
                if problem.kind == "gone":
                    return None
                raise
            unit = _unit(call, path)
            if not str(unit.get("Id")).endswith(".service") or unit.get("MainPID") != server.pid:
                return None
            reading = self._reading(call, unit)
            return reading if self._may_act(call, reading.name) else readings.denied(reading)

    def read(self, name: str, deadline_seconds: float) -> RuntimeReading:
        """The unit by its name, also while it is stopped."""
        with calls(self._bus, deadline_seconds) as call:
            reading = self._reading(call, _load(call, name))
            return reading if self._may_act(call, reading.name) else readings.denied(reading)

    def stop(self, name: str, deadline_seconds: float) -> None:
        """A stop job (Restart= does not bring it back after one), and SIGKILL where that takes too long."""
        with calls(self._bus, deadline_seconds) as call:
            before = self._reading(call, _load(call, name))
            _may(before, "stop")
            if before.state is RuntimeState.STOPPED:
                return
            call.manager("StopUnit", "ss", before.name, "replace")
            patience = min(KILL_AFTER_SECONDS, call.left_seconds / 2)
            if self._reaches(call, name, RuntimeState.STOPPED, patience):
                return
            with contextlib.suppress(RuntimeFailed):  # it may end at this very moment
                call.manager("KillUnit", "ssi", before.name, "all", int(signal.SIGKILL))
            if not self._reaches(call, name, RuntimeState.STOPPED, call.left_seconds - LOOK_SECONDS):
                raise RuntimeFailed("stuck", f"{name} does not end, though it was stopped and killed")

    def start(self, name: str, deadline_seconds: float) -> None:
        """Start it; one that runs already is left alone."""
        with calls(self._bus, deadline_seconds) as call:
            unit = _load(call, name)
            before = self._reading(call, unit)
            if before.state is RuntimeState.RUNNING:
                return
            _may(before, "start")
            if unit.get("ActiveState") == "failed":
                with contextlib.suppress(
                    RuntimeFailed
                ):  # only its count of failed starts would be in the way
                    call.manager("ResetFailedUnit", "s", before.name)
            call.manager("StartUnit", "ss", before.name, "replace")
            if not self._reaches(call, name, RuntimeState.RUNNING, call.left_seconds - LOOK_SECONDS):
                unit = _load(call, name)
                text = f"{name} is {unit.get('ActiveState')} ({unit.get('SubState')}) after it was started"
                raise RuntimeFailed("refused" if unit.get("ActiveState") == "failed" else "stuck", text)

    def limit(self, name: str, limits: Limits, deadline_seconds: float) -> tuple[str, ...]:
        """Set live limits; returns a sentence for each one that was left out, and why. Never below use."""
        with calls(self._bus, deadline_seconds) as call:
            unit = _load(call, name)
            _may(self._reading(call, unit), "limit")
            now = readings.limits_of(unit)
            changes, left_out = readings.wanted_limits(
                limits, unit, self._book.before(self._key(name)) or now
            )
            if changes:
                self._book.remember(self._key(name), now)
                _set(call, name, changes)
            return left_out

    def unlimit(self, name: str, deadline_seconds: float) -> None:
        """Put the limits back that were there before the first `limit`; a stop alone does not lift them."""
        owner = self._book.before(self._key(name))
        if owner is None:
            return
        with calls(self._bus, deadline_seconds) as call:
            now = readings.limits_of(_load(call, name))
            changes = {key: value for key, value in owner.items() if now.get(key) not in (None, value)}
            if changes:
                _set(call, name, changes)
        self._book.forget(self._key(name))

    def _key(self, name: str) -> str:
        """Runtime properties end with the boot, and so does what was remembered for them."""
        return f"systemd:{name}:{self._boot_id}"

    def _reading(self, call: Call, unit: dict[str, Any]) -> RuntimeReading:
        others = readings.dependents(unit)
        listed = call.manager("ListUnitsByNames", "as", others) if others else ()
        clocks = readings.Clocks(time.clock_gettime(time.CLOCK_BOOTTIME), time.monotonic())
        return readings.reading_of(unit, self._environment_file, clocks, readings.running(listed))

    def _may_act(self, call: Call, name: str) -> bool:
        """Whether polkit lets us: setting no property at all asks it, and changes nothing."""
        try:
            _set(call, name, {})
        except RuntimeFailed as problem:
            return problem.kind != "denied"
        return True

    def _reaches(self, call: Call, name: str, wanted: RuntimeState, seconds: float) -> bool:
        """Wait until a unit is in a state; False when it failed on the way, or the time is over."""
        until = time.monotonic() + seconds
        while True:
            unit = _load(call, name)
            if self._reading(call, unit).state is wanted:
                return True
            failed = wanted is RuntimeState.RUNNING and unit.get("ActiveState") == "failed"
            if (failed and not readings.has_job(unit)) or time.monotonic() >= until:
                return False
            time.sleep(LOOK_SECONDS)


def _load(call: Call, name: str) -> dict[str, Any]:
    """The properties of a unit by its name, also of one that is not in memory."""
    path = call.path("LoadUnit", "s", name)
    unit = _unit(call, path)
    if unit.get("LoadState") == "not-found" and unit.get("ActiveState") == "inactive":
        raise RuntimeFailed("gone", f"there is no unit {name}")
    return unit


def _unit(call: Call, path: str) -> dict[str, Any]:
    unit = call.properties(path, "Unit")
    return unit | (call.properties(path, "Service") if str(unit.get("Id")).endswith(".service") else {})


def _set(call: Call, name: str, changes: dict[str, int]) -> None:
    """Runtime properties of exactly this unit: they are gone with the next boot."""
    call.manager("SetUnitProperties", "sba(sv)", name, True, [(key, ("t", v)) for key, v in changes.items()])  # noqa: FBT003  (D-Bus' own signature)


def _may(reading: RuntimeReading, verb: str) -> None:
    """The last look before the act: what was true when it was decided may have changed."""
    if verb not in reading.verbs:
        raise RuntimeFailed("masked" if "masked" in reading.cannot else "refused", reading.cannot)
