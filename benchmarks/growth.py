"""Whether the sentinel grows over 10^6 ticks: PSS and RSS at each tenth; exits 1 if by more than 1 MiB.

The real sentinel with real hands, sensors, flight recorder and state map guards a fake Ollama, but never
sleeps between two ticks (`benchmarks/hurried.py`). Every 1.5 s another model is loaded, and since the owner's
cap is three, the guard unloads one: births, decisions, outcomes, lessons and records go on all the time. What
is bounded by time (an hour's budgets, a day's condemnations) is not proven by this: 10^6 ticks pass in a
quarter of an hour here, in eleven days when calm.

`--controls` ticks more are run with the mechanism off: the readings that slopes are taken from are never
forgotten. That must be seen to grow, else this benchmark proves nothing. How busy the machine is does not
matter.
"""

from __future__ import annotations

import argparse
import itertools
import os
import struct
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from beds.cgroups import MemoryCgroup
from beds.fake_server import FakeServer
from beds.guard import Guard
from beds.process import Started, launch
from benchmarks.crossing import row
from benchmarks.proc import smaps
from ollama_guard.settings.compiler import canonical_json, compile_file

GIB = 1 << 30
# More than this from the first tenth (it has warmed up by then) to the last is growth (MiB).
ALLOWED_MIB = 1.0
TENTHS = 10
CONFIG = """
[cap]
soft_max = 3
"""
MODELS = tuple(f"m{number}=24MiB,kv=256,rate=1000" for number in range(8))
LOAD_SECONDS = 1.5
_SCRIPT = Path(__file__).with_name("hurried.py")


class Hurry:
    """A `Launcher` that starts the hurried sentinel where `ollama-guard run --config FILE` was asked for."""

    def __init__(self, ticks_file: Path, *, bounded: bool) -> None:
        self._ticks_file, self._bounded = ticks_file, bounded

    def __call__(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, **kwargs: Any
    ) -> Started:
        """Start it with the same configuration and folders."""
        assert env is not None
        config, runtime, state = argv[-1], Path(env["RUNTIME_DIRECTORY"]), Path(env["STATE_DIRECTORY"])
        for folder in (runtime, state):
            folder.mkdir(exist_ok=True)
        policy = os.memfd_create("policy", 0)
        os.write(policy, canonical_json(compile_file(Path(config))).encode())
        os.lseek(policy, 0, os.SEEK_SET)
        words = [
            str(self._ticks_file),
            str(int(self._bounded)),
            str(policy),
            config,
            str(runtime),
            str(state),
        ]
        try:
            command = [sys.executable, "-I", str(_SCRIPT), *words]
            return launch(command, env=env, pass_fds=[policy], **kwargs)
        finally:
            os.close(policy)


def grown_mib(ticks: int, *, bounded: bool) -> float:
    """Run so many ticks, print each tenth; MiB of PSS that the last one has more than the first."""
    with (
        tempfile.NamedTemporaryFile(prefix="ticks-") as file,
        MemoryCgroup(GIB, "growth") as cgroup,
        FakeServer(cgroup.join_paths, MODELS) as server,
    ):
        file.write(bytes(8))
        file.flush()
        hurry = Hurry(Path(file.name), bounded=bounded)
        began, sizes = time.monotonic(), []
        with Guard(server.url, cgroup=f"/{cgroup.name}", config=CONFIG, launcher=hurry) as guard:
            guard.wait_guarding(server.pid)
            names = itertools.cycle(model.partition("=")[0] for model in MODELS)
            for tenth in range(1, TENTHS + 1):
                while (done := _made(Path(file.name))) < ticks * tenth // TENTHS:
                    server.load(next(names))
                    time.sleep(LOAD_SECONDS)
                pss, rss = smaps(guard.pid, "Pss"), smaps(guard.pid, "Rss")
                sizes.append(pss)
                lasted = f"{time.monotonic() - began:.0f} s"
                row([_label(bounded=bounded), f"{done:,}", f"{pss:.2f}", f"{rss:.2f}", lasted])
            unloads = len(guard.events("model.unloaded"))
    growth = sizes[-1] - sizes[0]
    each = growth * (1 << 20) / (ticks * (TENTHS - 1) / TENTHS)
    sys.stdout.write(
        f"{_label(bounded=bounded)}: {growth:+.2f} MiB PSS from the first tenth to the last, "
        f"{each:+.2f} bytes a tick; {unloads} unloads meanwhile\n"
    )
    return growth


def _label(*, bounded: bool) -> str:
    return "as it is" if bounded else "nothing forgotten"


def _made(file: Path) -> int:
    return int(struct.unpack("=Q", file.read_bytes())[0])


def main() -> int:
    """Run and print; 1 when it grew, or when the control did not."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ticks", type=int, default=1_000_000)
    parser.add_argument("--controls", type=int, default=5_000, help="ticks with the mechanism off; 0: none")
    words = parser.parse_args()
    for cells in (("run", "ticks", "PSS MiB", "RSS MiB", "after"), ["---"] * 5):
        row(cells)
    flat = grown_mib(words.ticks, bounded=True) <= ALLOWED_MIB
    proven = not words.controls or grown_mib(words.controls, bounded=False) > ALLOWED_MIB
    sys.stdout.write(f"budget: at most {ALLOWED_MIB:.0f} MiB more: {'met' if flat else 'missed'}")
    sys.stdout.write("\n" if proven else "; but the control did not grow either: this proves nothing\n")
    return int(not (flat and proven))


if __name__ == "__main__":
    sys.exit(main())
