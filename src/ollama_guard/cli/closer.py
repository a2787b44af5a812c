"""The closer look that `doctor` takes: the kernel, the runners, the ledger, what the owner's files say."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ollama_guard.cli.bounded import argv_holds, in_time, why
from ollama_guard.cli.cgroup_facts import PROC
from ollama_guard.cli.glance import Glance
from ollama_guard.cli.kernel_facts import kernel_facts, kernels_root
from ollama_guard.cli.options import Places
from ollama_guard.cli.proxies import proxies
from ollama_guard.cli.survey import environment_of, surveyed
from ollama_guard.cli.written_elsewhere import Unread, drift_of_compose, drift_of_unit
from ollama_guard.core.codec import from_plain, to_plain
from ollama_guard.core.footprint import Footprint, Ledger
from ollama_guard.core.machine import Drift, Machine, Reloads, Running, Server
from ollama_guard.core.model import LoadedModel, Snapshot
from ollama_guard.core.policy import Policy
from ollama_guard.core.protection import ENVIRONMENT_FILE
from ollama_guard.core.runners import census
from ollama_guard.store.footprints import read_only

# Seconds within which a model must have been used with two contexts for them to be in turn.
IN_TURN_SECONDS = 600.0
# Seconds for the ledger, which SQLite reads: ten times what a large one takes from a card.
LEDGER_SECONDS = 5.0


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
    runners = _runners(look, gpu=any(server.gpu for server in machine.servers))
    told = told_orphans(status, runners, look.snapshot, unknown, undecided=look.undecided)
    swap_bytes = sum(swap.bytes for swap in kernel.swaps)
    guards_file = where.state_dir / "env" / ENVIRONMENT_FILE
    return replace(
        machine,
        kernel=kernel,
        swap_bytes=machine.swap_bytes if "/proc/swaps" in unknown else swap_bytes,
        psi=(kernels_root(root) / "proc/pressure/memory").exists(),
        proxies=proxies(machine.url or policy.ollama.url, unknown),
        runners=(*runners, *told),
        reloads=_reloads(where.state_dir / "footprints.sqlite", look.snapshot, unknown),
        servers=tuple(
            replace(server, drift=_drift(server, root, guards_file, unknown)) for server in machine.servers
        ),
        unknown=unknown,
    )


def _runners(look: Glance, *, gpu: bool) -> tuple[Running, ...]:
    """Those that are proven to be Ollama's, as this look saw them."""
    runners = census(look.policy, look.state, look.snapshot)
    loaded = {model.blob: model for model in look.snapshot.api.loaded if model.blob is not None}
    return tuple(
        Running(
            runner.reading.pid,
            runner.title,
            runner.reading.freeable_bytes,
            beside_gpu(loaded.get(runner.reading.blob or ""), gpu=gpu),
            runner.is_orphan,
            runner.names[0] if runner.names else "",
        )
        for runner in runners
        if runner.reading.proven
    )


def beside_gpu(listed: LoadedModel | None, *, gpu: bool) -> int | None:
    """What Ollama lists of a model beside the GPU's memory; None where it lists nothing.

    Without a GPU that is all of it: where Ollama can't read its runner's log it lists a model that lies in
    the machine's memory as the GPU's (facts 1.3).
    """
    if listed is None or listed.size_bytes is None:
        return None
    return listed.size_bytes - ((listed.vram_bytes or 0) if gpu else 0)


def told_orphans(
    status: Mapping[str, Any],
    seen: tuple[Running, ...],
    snapshot: Snapshot,
    unknown: dict[str, str],
    *,
    undecided: bool = False,
) -> tuple[Running, ...]:
    """Orphans that only the guard knows as Ollama's: it has seen the server that they had.

    A guard in another PID namespace tells other numbers, so the process must run the model that is told. A
    look that is ``undecided`` may have missed the server of each of them, and one of another configuration
    looks for servers elsewhere than the guard: who has an Ollama as its parent is no orphan.
    """
    known = {runner.pid for runner in seen}
    parents = {server.pid for server in snapshot.servers}
    found: list[Running] = []
    for model in () if undecided else status.get("models") or ():
        pid, blob = model.get("pid"), str(model.get("blob") or "")
        if not isinstance(pid, int) or pid in known or not _runs(pid, blob, unknown):
            continue
        parent, _ = _family(pid)
        if parent and parent not in parents and "ollama" not in _family(parent)[1].lower():
            held = model.get("resident_bytes")
            held_bytes = held if isinstance(held, int) else 0
            found.append(Running(pid, str(model.get("name") or blob), held_bytes, orphan=True))
    return tuple(found)


def _runs(pid: int, blob: str, unknown: dict[str, str]) -> bool:
    """Whether the command line of a process names this blob's file."""
    file = blob.replace(":", "-").encode()
    return bool(blob) and argv_holds(Path(PROC, str(pid)), file, unknown, "processes")


def _family(pid: int) -> tuple[int, str]:
    """(its parent, its own name) of a process, 0 and "" where it is gone."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        before, _, after = Path(PROC, str(pid), "stat").read_bytes().rpartition(b")")
        return int(after.split()[1]), before.partition(b"(")[2].decode("utf-8", "replace")
    return 0, ""


def _reloads(path: Path, snapshot: Snapshot, unknown: dict[str, str]) -> tuple[Reloads, ...]:
    """Models that were used with several contexts lately, by the guard's own ledger."""
    names = {entry.blob: " = ".join(entry.names) for entry in snapshot.catalogue}

    def read() -> str:
        if not path.exists():
            return "[]"  # no guard has ever run here, and that is told
        if not os.access(path, os.R_OK):
            raise OSError("this user may not read it")
        return json.dumps(to_plain(tuple(_in_turn(read_only(path), names, time.time()))))

    try:
        rows = json.loads(in_time(read, LEDGER_SECONDS))
    except OSError as error:
        unknown["ledger"] = f"{path}: {why(error)}"
        return ()
    return tuple(from_plain(Reloads, row) for row in rows)


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
    compose = server.container.compose if server.container else None
    if server.unit is None and compose is None:
        return ()
    try:
        environment = environment_of(server.pid)
    except OSError:
        return ()  # and that is told
    try:
        if compose is not None:
            return drift_of_compose(compose, environment, root, guards_file)
        assert server.unit is not None
        return drift_of_unit(server.unit, environment, root, guards_file)
    except Unread as problem:
        unknown["files"] = str(problem)
        return ()
