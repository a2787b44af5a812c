"""The closer look that `doctor` takes: the kernel, the runners, the ledger, what the owner's files say."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ollama_guard.cli.bounded import is_there_within, why
from ollama_guard.cli.cgroup_facts import PROC
from ollama_guard.cli.glance import Glance
from ollama_guard.cli.kernel_facts import kernel_facts, kernels_root
from ollama_guard.cli.options import Places
from ollama_guard.cli.proxies import proxies
from ollama_guard.cli.survey import environment_of, surveyed
from ollama_guard.cli.written_elsewhere import Unread, drift_of_compose, drift_of_unit
from ollama_guard.core.footprint import Footprint, Ledger
from ollama_guard.core.machine import Drift, Machine, Reloads, Running, Server
from ollama_guard.core.model import Snapshot
from ollama_guard.core.policy import Policy
from ollama_guard.core.protection import ENVIRONMENT_FILE
from ollama_guard.core.runners import Runner, census
from ollama_guard.store.footprints import read_only

# Seconds within which a model must have been used with two contexts for them to be in turn.
IN_TURN_SECONDS = 600.0


def examined(policy: Policy, root: Path, where: Places, status: Mapping[str, Any]) -> Machine:
    """Everything that `doctor` knows of a machine; ``status`` is what the running guard says of itself.

    Raises:
        ServiceUnavailable: the machine's memory can't be read.
    """
    machine, look = surveyed(policy, root)
    unknown = {key: why_not for key, why_not in machine.unknown.items() if key != "neighbours"}
    if look.undecided:
        unknown["processes"] = "not every command line was read in time: a runner may be missing here"
    kernel = kernel_facts(root, unknown)
    runners = _runners(look)
    swap_bytes = sum(swap.bytes for swap in kernel.swaps)
    guards_file = where.state_dir / "env" / ENVIRONMENT_FILE
    return replace(
        machine,
        kernel=kernel,
        swap_bytes=machine.swap_bytes if "/proc/swaps" in unknown else swap_bytes,
        psi=(kernels_root(root) / "proc/pressure/memory").exists(),
        proxies=proxies(machine.url or policy.ollama.url, unknown),
        runners=(*runners, *told_orphans(status, runners, look.snapshot)),
        reloads=_reloads(where.state_dir / "footprints.sqlite", look.snapshot, unknown),
        servers=tuple(
            replace(server, drift=_drift(server, root, guards_file, unknown)) for server in machine.servers
        ),
        unknown=unknown,
    )


def _runners(look: Glance) -> tuple[Running, ...]:
    """Those that are proven to be Ollama's, as this look saw them."""
    runners = census(look.policy, look.state, look.snapshot)
    return tuple(_running(runner, look.snapshot) for runner in runners if runner.reading.proven)


def _running(runner: Runner, snapshot: Snapshot) -> Running:
    reading = runner.reading
    listed = next(
        (m for m in snapshot.api.loaded if reading.blob is not None and m.blob == reading.blob), None
    )
    beside = None
    if listed is not None and listed.size_bytes is not None:
        beside = listed.size_bytes - (listed.vram_bytes or 0)
    name = runner.names[0] if runner.names else ""
    return Running(reading.pid, runner.title, reading.freeable_bytes, beside, runner.is_orphan, name)


def told_orphans(
    status: Mapping[str, Any], seen: tuple[Running, ...], snapshot: Snapshot
) -> Iterator[Running]:
    """Orphans that only the guard knows as Ollama's: it has seen the server that they had.

    A guard in another PID namespace tells other numbers, so the process must run the model that is told.
    """
    known = {runner.pid for runner in seen}
    parents = {server.pid for server in snapshot.servers}
    for model in status.get("models") or ():
        pid, blob = model.get("pid"), str(model.get("blob") or "")
        if not isinstance(pid, int) or pid in known or not _runs(pid, blob):
            continue
        if (parent := _parent(pid)) and parent not in parents:
            held = model.get("resident_bytes")
            yield Running(
                pid, str(model.get("name") or blob), held if isinstance(held, int) else 0, orphan=True
            )


def _runs(pid: int, blob: str) -> bool:
    """Whether the command line of a process names this blob's file."""
    with contextlib.suppress(OSError):
        argv = Path(PROC, str(pid), "cmdline").read_bytes()
        return bool(blob) and blob.replace(":", "-").encode() in argv
    return False


def _parent(pid: int) -> int:
    """The parent of a process, 0 where it is gone."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        stat = Path(PROC, str(pid), "stat").read_bytes()
        return int(stat.rpartition(b")")[2].split()[1])
    return 0


def _reloads(path: Path, snapshot: Snapshot, unknown: dict[str, str]) -> tuple[Reloads, ...]:
    """Models that were used with several contexts lately, by the guard's own ledger."""
    names = {entry.blob: " = ".join(entry.names) for entry in snapshot.catalogue}
    try:
        if not is_there_within(path):
            return ()  # no guard has ever run here, and that is told
    except OSError as error:
        unknown["ledger"] = f"{path}: {why(error)}"
        return ()
    if not os.access(path, os.R_OK):
        unknown["ledger"] = f"{path}: this user may not read it"
        return ()
    return tuple(_in_turn(read_only(path), names, time.time()))


def _in_turn(ledger: Ledger, names: Mapping[str, str], now_wall: float) -> Iterator[Reloads]:
    for blob, rows in ledger.by_blob.items():
        contexts: dict[int, list[Footprint]] = {}
        for row in rows:
            if row.key.context_tokens and now_wall - row.last_used_wall <= IN_TURN_SECONDS:
                slot = row.key.context_tokens // max(1, row.key.parallel)
                contexts.setdefault(slot, []).append(row)
        if len(contexts) > 1:
            yield Reloads(
                names.get(blob, blob[:19]),
                tuple(contexts),
                tuple(sum(row.loads for row in rows) for rows in contexts.values()),
                tuple(sum(row.uses for row in rows) for rows in contexts.values()),
            )


def _drift(server: Server, root: Path, guards_file: Path, unknown: dict[str, str]) -> tuple[Drift, ...]:
    """What its files say otherwise than its process, which alone tells what is in force."""
    running = environment_of(server.pid)
    compose = server.container.compose if server.container else None
    if running is None or (server.unit is None and compose is None):
        return ()
    try:
        if compose is not None:
            return drift_of_compose(compose, running, root, guards_file)
        assert server.unit is not None
        return drift_of_unit(server.unit, running, root, guards_file)
    except Unread as problem:
        unknown["files"] = str(problem)
        return ()
