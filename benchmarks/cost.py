"""What the guard itself costs: memory, CPU when calm, a tick, wake-ups, start; each beside its budget.

Takes about seven minutes (`--seconds 60`). Exits 1 when a budget is missed. With the mechanism off, all of it
is zero: a machine without guard. What can be left out alone is told: flight recorder off, ledger empty.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

from beds.guard import Guard
from beds.process import children
from beds.yard import Yard, yard
from benchmarks.proc import cpu_seconds, smaps
from ollama_guard.core.footprint import Footprint, FootprintKey, Ledger
from ollama_guard.core.ledger import ROWS_KEPT, ROWS_PER_BLOB, WEEK_SECONDS, key_of, with_rows
from ollama_guard.core.model import Mode, Snapshot
from ollama_guard.core.policy import OllamaPolicy, Policy
from ollama_guard.core.state import Durable
from ollama_guard.sentinel.mind import Mind, Told
from ollama_guard.sentinel.sensors.sense import Sensors

MIB = 1 << 20
GIB = 1 << 30
YARD_BYTES = 8 * GIB
SETTLE_SECONDS = 5.0
# After this long without a server the process list is scanned less often.
LONG_LOST_SECONDS = 35.0
STARTS = 5
NOBODY = "http://127.0.0.1:9"
MODELS = 3
WITH_MODELS = f"{MODELS} idle runners"
NO_RECORDER = "[record]\nenabled = false\n"
WARM_TICKS = 20
# (budget as printed, the figure it allows at most); design: "Numbers to design for"
SENTINEL_PSS = ("16 MiB", 16.0)
FAMILY_PSS = ("50 MiB", 50.0)
CALM_CPU = ("0.3 % of a core", 0.3)
TICK_CPU = ("1 ms", 1.0)
START = ("1 s", 1.0)


@dataclass
class Table:
    """Prints rows as they come and remembers whether a budget was missed."""

    missed: bool = False

    def row(self, what: str, figure: float, unit: str, budget: tuple[str, float] | None = None) -> None:
        """One figure; ``budget`` None means that there is none."""
        verdict = "" if budget is None else "met" if figure <= budget[1] else "missed"
        self.missed |= verdict == "missed"
        sys.stdout.write(f"| {what} | {figure:.2f} {unit} | {budget[0] if budget else ''} | {verdict} |\n")
        sys.stdout.flush()


def wakes(pid: int) -> int:
    """How often it went to sleep by itself."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))


def family(pid: int) -> dict[str, int]:
    """Name to PID of the sentinel and all its children."""
    found = {"sentinel": pid}
    for child in children(pid):
        argv = Path(f"/proc/{child}/cmdline").read_bytes()
        name = "hands" if b"ollama_guard.hands" in argv else Path(f"/proc/{child}/comm").read_text().strip()
        found[name if name not in found else f"{name} {child}"] = child
    return found


def calm(table: Table, guard: Guard, what: str, seconds: float) -> None:
    """CPU share and wake-ups over a calm stretch."""
    began, cpu, woke = time.monotonic(), cpu_seconds(guard.pid), wakes(guard.pid)
    hands = _all_threads(guard.hands_pid)
    time.sleep(seconds)
    lasted = time.monotonic() - began
    table.row(f"sentinel, {what}", 100 * (cpu_seconds(guard.pid) - cpu) / lasted, "% of a core", CALM_CPU)
    table.row(f"hands, {what}", 100 * (_all_threads(guard.hands_pid) - hands) / lasted, "% of a core")
    table.row(f"wake-ups of the sentinel, {what}", 60 * (wakes(guard.pid) - woke) / lasted, "a minute")


def _all_threads(pid: int) -> float:
    """CPU seconds of every thread of a process that lives now."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def full_ledger(snapshot: Snapshot) -> Ledger:
    """As much as is ever kept, a week old: as many rows as a blob may have for each runner, and others."""
    live = [key for reading in snapshot.runners if (key := key_of(reading)) is not None]
    keys = [replace(key, context_tokens=key.context_tokens + n) for key in live for n in range(ROWS_PER_BLOB)]
    keys += [FootprintKey(f"sha256:{number:064x}", 4096, 1) for number in range(ROWS_KEPT - len(keys))]
    rows = [Footprint(key, GIB, 0, 0, 0, GIB, 2.0, 0.2, 9, 9, 0, 9.0, WEEK_SECONDS) for key in keys]
    return with_rows(Ledger(snapshot.now, WEEK_SECONDS), rows)


def ticks(
    table: Table, place: Yard, pause_seconds: float, count: int, what: str, *, ledger: bool = False
) -> None:
    """Median CPU time of sense + decide + narrate + learn, the judging part of a full tick, done in here."""
    policy = Policy(
        ollama=OllamaPolicy(url=place.server.url, cgroup=f"/{place.cgroup.name}", mode=Mode.OBSERVE)
    )
    senses = Sensors(policy)
    mind = Mind(policy, Durable(), senses)
    told = Told()
    spent = []
    for number in range(count + WARM_TICKS):
        time.sleep(pause_seconds if number >= WARM_TICKS else 0.1)  # at first the witness has to answer
        if ledger and number == WARM_TICKS and mind.snapshot is not None:
            told.footprints = full_ledger(mind.snapshot)
        began = time.thread_time()
        decision, _ = mind.think(told, ())
        mind.narrate(decision)
        mind.learn()
        spent.append(time.thread_time() - began)
    seen = len(mind.snapshot.runners) if mind.snapshot else 0
    senses.close()
    if seen != MODELS:
        raise RuntimeError(f"{seen} runners were seen instead of {MODELS}")
    table.row(
        f"a tick, {seen} runners, {what}", statistics.median(spent[WARM_TICKS:]) * 1000, "ms CPU", TICK_CPU
    )


def memory(table: Table, guard: Guard, what: str) -> None:
    """PSS of every member of the family; RSS of the sentinel."""
    pids = family(guard.pid)
    pss = {name: smaps(pid, "Pss") for name, pid in pids.items()}
    table.row(f"PSS of the sentinel, {what}", pss["sentinel"], "MiB", SENTINEL_PSS)
    table.row(f"RSS of the sentinel, {what}", smaps(pids["sentinel"], "Rss"), "MiB")
    for name, size in pss.items():
        if name != "sentinel":
            table.row(f"PSS of {name}, {what}", size, "MiB")
    table.row(f"PSS of all, {what}", sum(pss.values()), "MiB", FAMILY_PSS)


def start(table: Table) -> None:
    """From the program's start to the datagram READY=1, while nothing listens where Ollama should be."""
    spent = []
    for _ in range(STARTS):
        with (
            tempfile.TemporaryDirectory() as folder,
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ears,
        ):
            ears.bind(f"{folder}/notify")
            ears.settimeout(20)
            guard = Guard(NOBODY, cgroup="/nobody", env={"NOTIFY_SOCKET": f"{folder}/notify"})
            began = time.monotonic()
            heard = Listener(ears)
            with guard:
                spent.append(heard.ready_at() - began)
    table.row("start to READY=1, Ollama is dead", statistics.median(spent), "s", START)


class Listener:
    """Waits for READY=1 in a thread, since `Guard` itself waits for a line of the log."""

    def __init__(self, ears: socket.socket) -> None:
        self._ears = ears
        self._at = 0.0
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while b"READY=1" not in self._ears.recv(4096):
            continue
        self._at = time.monotonic()

    def ready_at(self) -> float:
        """When it came."""
        self._thread.join(20)
        return self._at


def load(place: Yard) -> None:
    """Three models, idle for a while."""
    for model in ("tiny", "tiny2", "tiny3"):
        place.server.load(model)
    place.wait_state("tiny3", "idle")
    time.sleep(SETTLE_SECONDS)


def main() -> int:
    """Measure and print; 1 when a budget is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="of each calm stretch")
    seconds = parser.parse_args().seconds
    table = Table()
    sys.stdout.write("| what | figure | budget | |\n| --- | --- | --- | --- |\n")
    start(table)
    with Guard(NOBODY, cgroup="/nobody") as guard:
        time.sleep(LONG_LOST_SECONDS)
        calm(table, guard, "no server", seconds)
    with yard("fake", YARD_BYTES, guarded=True) as place:
        assert place.guard is not None
        time.sleep(SETTLE_SECONDS)
        calm(table, place.guard, "a server without runners", seconds)
        memory(table, place.guard, "no model")
        load(place)
        calm(table, place.guard, WITH_MODELS, seconds)
        memory(table, place.guard, WITH_MODELS)
        ticks(table, place, 0.0, 200, "one after the other")
        ticks(table, place, 0.5, 20, "two a second")
        ticks(table, place, 0.0, 200, "one after the other, a full ledger", ledger=True)
    with yard("fake", YARD_BYTES, guarded=True, config=NO_RECORDER) as place:
        assert place.guard is not None
        load(place)
        calm(table, place.guard, f"{WITH_MODELS}, the flight recorder off", seconds)
        memory(table, place.guard, f"{WITH_MODELS}, the flight recorder off")
    return int(table.missed)


if __name__ == "__main__":
    sys.exit(main())
