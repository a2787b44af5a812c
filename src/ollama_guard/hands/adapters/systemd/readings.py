"""What systemd says of a unit, as a `RuntimeReading`, and which live limits it may get; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ollama_guard.core.runtime import ENVIRONMENT_KEYS, Limits, RuntimeKind, RuntimeReading, RuntimeState
from ollama_guard.core.units import bytes_text
from ollama_guard.hands.adapters.foreign import count, listed, text, words

INFINITY = 2**64 - 1
# As in a container: what is free above the use when a limit comes, so that nobody stalls at once.
ABOVE_USE = 1.1
_SECOND_MICROSECONDS = 1_000_000
_VERBS = ("stop", "start", "limit")
_STATES = {
    "active": RuntimeState.RUNNING,
    "inactive": RuntimeState.STOPPED,
    "failed": RuntimeState.STOPPED,
    "activating": RuntimeState.CHANGING,
    "deactivating": RuntimeState.CHANGING,
    "reloading": RuntimeState.CHANGING,
    "refreshing": RuntimeState.CHANGING,
    "maintenance": RuntimeState.CHANGING,
}
_DOWN = (RuntimeState.STOPPED, None)
_LIMITS = ("MemoryMax", "CPUQuotaPerSecUSec")
# By which of its properties a unit names those that a stop job of it stops as well (systemd.unit(5)); a start
# of it starts none of them again.
_STOPPED_TOO = ("RequiredBy", "RequisiteOf", "BoundBy", "ConsistsOf", "PropagatesStopTo")


@dataclass(frozen=True, slots=True)
class Clocks:
    """CLOCK_BOOTTIME and CLOCK_MONOTONIC seconds of one moment; systemd tells the latter."""

    boottime: float
    monotonic: float


def dependents(unit: Mapping[str, Any]) -> list[str]:
    """The units that a stop of this one would stop as well, whether they run or not."""
    return sorted({name for key in _STOPPED_TOO for name in words(unit.get(key))})


def running(answer: Sequence[Any]) -> tuple[str, ...]:
    """The names of the units that run, from systemd's answer with a list of units."""
    units = (listed(unit) for units in answer for unit in listed(units))
    return tuple(text(unit[0]) for unit in units if len(unit) > 3 and _STATES.get(text(unit[3])) not in _DOWN)


def reading_of(
    unit: Mapping[str, Any], environment_file: str, clocks: Clocks, stopped_too: Sequence[str] = ()
) -> RuntimeReading:
    """All that matters of a unit, from the properties of its ``Unit`` and ``Service`` interfaces.

    ``stopped_too`` are the units that run and that a stop of it would take along.
    """
    name = text(unit.get("Id"))
    files = (listed(file)[:1] for file in listed(unit.get("EnvironmentFiles")))
    constrainable = any(environment_file in file for file in files)
    limit = limits_of(unit)["MemoryMax"]
    active_at = (count(unit.get("ActiveEnterTimestampMonotonic")) or 0) / _SECOND_MICROSECONDS
    reading = RuntimeReading(
        kind=RuntimeKind.SYSTEMD,
        name=name,
        state=_state_of(unit),
        read_at=clocks.boottime,
        server_pid=count(unit.get("MainPID")) or None,
        started_at=clocks.boottime - (clocks.monotonic - active_at) if active_at else None,
        verbs=_VERBS,
        hint="" if constrainable else _hint(name, environment_file),
        constrainable=constrainable,
        memory_limit_bytes=limit if 0 < limit < INFINITY else None,
        environment=_environment(words(unit.get("Environment"))),
    )
    if "masked" in (unit.get("LoadState"), str(unit.get("UnitFileState", "")).removesuffix("-runtime")):
        cannot = f"{name} is masked: once stopped it could not be started again"
        return replace(reading, verbs=("limit",), cannot=cannot)
    if reading.state is RuntimeState.PAUSED:
        return replace(reading, verbs=("limit",), cannot=f"{name} is frozen, by somebody who has a reason")
    if stopped_too and reading.state is not RuntimeState.STOPPED:
        cannot = f"{', '.join(stopped_too)} would be stopped with {name}, and not be started again with it"
        return replace(reading, verbs=("limit",), cannot=cannot, shared_by=tuple(stopped_too))
    return reading


def has_job(unit: Mapping[str, Any]) -> bool:
    """Whether something is queued to be done to it; the job's number is 0 otherwise."""
    return any(listed(unit.get("Job"))[:1])


def denied(reading: RuntimeReading) -> RuntimeReading:
    """The reading where polkit lets this user do nothing to the unit."""
    hint = "install the guard's polkit rule, or name this unit in it"
    cannot = f"polkit does not let this user stop, start or limit {reading.name}"
    return replace(reading, verbs=(), cannot=cannot, hint=hint)


def limits_of(unit: Mapping[str, Any]) -> dict[str, int]:
    """The limits that a unit has now, by systemd's names."""
    said = {key: count(unit.get(key)) for key in _LIMITS}
    return {key: INFINITY if value is None else value for key, value in said.items()}


def wanted_limits(
    wanted: Limits, unit: Mapping[str, Any], owner: Mapping[str, int]
) -> tuple[dict[str, int], tuple[str, ...]]:
    """The properties to set, and a sentence for each limit that is left out.

    MemoryMax and never MemoryHigh, which holds every thread in the kernel when it is reached (measured: HTTP
    silent for 60 s). ``owner`` are the limits before the guard's first; they are never loosened.
    """
    now, used = limits_of(unit), count(unit.get("MemoryCurrent"))
    changes, left_out = {}, []
    if wanted.memory_bytes is not None:
        unset = f"no memory limit of {bytes_text(wanted.memory_bytes)}"
        if owner["MemoryMax"] <= wanted.memory_bytes:
            left_out.append(f"{unset}: its owner gave it {bytes_text(owner['MemoryMax'])}")
        elif used is not None and used != INFINITY and wanted.memory_bytes < used * ABOVE_USE:
            left_out.append(f"{unset}: it uses {bytes_text(used)} now")
        else:
            changes["MemoryMax"] = wanted.memory_bytes
    if wanted.cpus is not None:
        quota = round(wanted.cpus * _SECOND_MICROSECONDS)
        given = owner["CPUQuotaPerSecUSec"]
        if given <= quota:
            cpus = given / _SECOND_MICROSECONDS
            left_out.append(f"no limit of {wanted.cpus:g} CPUs: its owner gave it {cpus:g}")
        else:
            changes["CPUQuotaPerSecUSec"] = quota
    return {key: value for key, value in changes.items() if now[key] != value}, tuple(left_out)


def _state_of(unit: Mapping[str, Any]) -> RuntimeState:
    if unit.get("LoadState") in ("not-found", "error") and unit.get("ActiveState") == "inactive":
        return RuntimeState.GONE
    if has_job(unit):
        return RuntimeState.CHANGING
    if unit.get("FreezerState") == "frozen":
        return RuntimeState.PAUSED
    return _STATES.get(str(unit.get("ActiveState")), RuntimeState.UNKNOWN)


def _hint(name: str, environment_file: str) -> str:
    return (
        f"to let it be constrained, add EnvironmentFile=-{environment_file} in a drop-in of {name} "
        "(`ollama-guard init --apply` writes it)"
    )


def _environment(lines: Sequence[str]) -> dict[str, str]:
    """What the guard might set itself; all else can be a secret, and a reading is recorded."""
    pairs = [line.partition("=") for line in lines]
    return {key: value[:200] for key, _, value in pairs if key in ENVIRONMENT_KEYS}
