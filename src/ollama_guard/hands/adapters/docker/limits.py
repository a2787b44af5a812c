"""Which live limits a container may get, and how Docker wants to be asked; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ollama_guard.core.runtime import Limits
from ollama_guard.core.units import bytes_text
from ollama_guard.hands.adapters.foreign import count, table, whole

# Bytes (1 PiB): `docker update` takes 0 for "as it is", so this is how a limit is lifted again.
AS_GOOD_AS_NONE_BYTES = 2**50
# Docker refuses less (bytes).
LEAST_BYTES = 6 * 1024**2
# A limit leaves this much above what is used now: a runner that answers takes some percent more (measured:
# 4 MiB of 190 MiB), and memory that can't be had at once stalls every thread.
ABOVE_USE = 1.1
_PERIOD_MICROSECONDS = 100_000
_KEYS = ("Memory", "MemorySwap", "NanoCpus", "CpuQuota", "CpuPeriod")


@dataclass(frozen=True, slots=True)
class Plan:
    """``changes``: what Docker is asked, limit by limit; ``left_out``: a sentence for each of the others."""

    changes: dict[str, dict[str, int]] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()


def limits_of(inspected: Mapping[str, Any]) -> dict[str, int]:
    """The limits that a container has now, by Docker's names; 0 is none."""
    host = table(inspected.get("HostConfig"))
    return {key: whole(host.get(key)) or 0 for key in _KEYS}


def used_bytes(stats: Mapping[str, Any]) -> int | None:
    """What can't be taken from a container without harm: its use less the cache that nobody reads."""
    memory = table(stats.get("memory_stats"))
    usage, detail = count(memory.get("usage")), table(memory.get("stats"))
    if usage is None:
        return None
    cache = count(detail.get("total_inactive_file", detail.get("inactive_file")))
    return max(0, usage - (cache or 0))


def plan(wanted: Limits, now: Mapping[str, int], owner: Mapping[str, int], used: int | None) -> Plan:
    """``owner`` are the limits before the guard's first; they are never loosened."""
    changes: dict[str, dict[str, int]] = {}
    left_out = []
    if wanted.memory_bytes is not None:
        why = _memory_why_not(wanted.memory_bytes, owner, used)
        memory = _memory(wanted.memory_bytes, owner)
        if why:
            left_out.append(why)
        elif any(now[key] != value for key, value in memory.items()):
            changes["memory"] = memory
    if wanted.cpus is not None:
        cpu = _cpu(wanted.cpus, owner)
        why = _cpu_why_not(wanted.cpus, owner)
        if why:
            left_out.append(why)
        elif any(now[key] != value for key, value in cpu.items()):
            changes["cpus"] = cpu
    return Plan(changes, tuple(left_out))


def undoing(owner: Mapping[str, int]) -> list[dict[str, int]]:
    """The requests that put the owner's limits back."""
    bytes_before, swap_before = owner.get("Memory", 0), owner.get("MemorySwap", 0)
    memory = {
        "Memory": bytes_before or AS_GOOD_AS_NONE_BYTES,
        "MemorySwap": swap_before or AS_GOOD_AS_NONE_BYTES,
    }
    if owner.get("NanoCpus", 0):
        cpu = {"NanoCpus": owner["NanoCpus"]}
    else:
        cpu = {
            "CpuPeriod": owner.get("CpuPeriod") or _PERIOD_MICROSECONDS,
            "CpuQuota": owner.get("CpuQuota") or -1,
        }
    return [memory, cpu]


def _memory(wanted: int, owner: Mapping[str, int]) -> dict[str, int]:
    """As much swap on top as the owner allowed; none where nothing was said, since swapping is the freeze."""
    before, swap = owner["Memory"], owner["MemorySwap"]
    if swap < 0:
        return {"Memory": wanted, "MemorySwap": -1}
    return {"Memory": wanted, "MemorySwap": wanted + (max(0, swap - before) if before else 0)}


def _memory_why_not(wanted: int, owner: Mapping[str, int], used: int | None) -> str:
    if wanted < LEAST_BYTES:
        return f"no memory limit of {bytes_text(wanted)}: Docker takes none below {bytes_text(LEAST_BYTES)}"
    if 0 < owner["Memory"] <= wanted:
        return f"no memory limit of {bytes_text(wanted)}: its owner gave it {bytes_text(owner['Memory'])}"
    if used is not None and wanted < used * ABOVE_USE:
        return f"no memory limit of {bytes_text(wanted)}: it uses {bytes_text(used)} now"
    return ""


def _cpu(wanted: float, owner: Mapping[str, int]) -> dict[str, int]:
    """By the words that the owner used: Docker refuses both at once."""
    if owner["NanoCpus"]:
        return {"NanoCpus": round(wanted * 1e9)}
    period = owner["CpuPeriod"] or _PERIOD_MICROSECONDS
    return {"CpuPeriod": period, "CpuQuota": round(wanted * period)}


def _cpu_why_not(wanted: float, owner: Mapping[str, int]) -> str:
    quota, period = owner["CpuQuota"], owner["CpuPeriod"] or _PERIOD_MICROSECONDS
    given = owner["NanoCpus"] / 1e9 or (quota / period if quota > 0 else 0.0)
    return f"no limit of {wanted:g} CPUs: its owner gave it {given:g}" if 0 < given <= wanted else ""
