"""`bench` on real models of four sizes: its figures are what Ollama itself says, and what /proc shows."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest

from beds.cgroups import MemoryCgroup
from beds.grow_model import grow_model
from beds.guard import Guard
from beds.ollama_install import Installation
from beds.real_ollama import RealOllama, own_shelf
from beds.tap import Call, Tap
from ollama_guard.core.benchmark import Answer, Bench, Measured, read

GIB = 1024**3
MIB = 1024**2
# Layers: files of 94 to 347 MiB, runners of 190 to 625 MiB.
SIZES = {"tiny": 30, "sixty": 60, "hundred": 100, "mid": 150}
SHELVED = ("tiny", "mid")
TOKENS = 16
# Seconds between two looks at the runners; and by which what is seen from outside may be late.
LOOK_SECONDS = 0.02
LATE_SECONDS = 0.5


@dataclass
class Life:
    """What was seen of one runner: CLOCK_BOOTTIME seconds, and the kernel's own mark of its peak."""

    born_at: float
    peak_bytes: int = 0
    seen_at: float = 0.0


class Onlooker:
    """Looks at the runners of a server all the time, from outside of what is tested."""

    def __init__(self, server: RealOllama) -> None:
        self._server = server
        self.lives: dict[Path, Life] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            for blob, pid in self._server.runners().items():
                with contextlib.suppress(OSError, StopIteration):
                    self._look(blob, pid)

    def _look(self, blob: Path, pid: int) -> None:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
        ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
        life = self.lives.setdefault(blob, Life(ticks / os.sysconf("SC_CLK_TCK")))
        life.peak_bytes, life.seen_at = max(life.peak_bytes, peak), time.clock_gettime(time.CLOCK_BOOTTIME)


@pytest.fixture
def server(
    ollama_installation: Installation, memory_cgroup: Callable[[int], MemoryCgroup], tmp_path: Path
) -> Iterator[tuple[RealOllama, str]]:
    """A real Ollama with models of four sizes, grown from the shipped one, and its cgroup."""
    cgroup = memory_cgroup(2 * GIB)
    models = own_shelf(ollama_installation, tmp_path / "models", only=SHELVED)
    with RealOllama(ollama_installation, models=models, launcher=cgroup.popen) as real:
        for name in SIZES.keys() - set(SHELVED):
            weights = tmp_path / f"{name}.gguf"
            grow_model(ollama_installation.seed, weights, SIZES[name], name)
            real.create(name, weights)
            weights.unlink()
        yield real, f"/{cgroup.name}"


def test_figures_are_what_ollama_says_and_what_proc_shows(
    server: tuple[RealOllama, str], tmp_path: Path
) -> None:
    real, cgroup = server
    with Tap(real.port) as tap, Guard(tap.url, cgroup=cgroup, home=tmp_path) as guard:
        guard.wait_guarding(real.pid)
        guard.wait(
            lambda: len(json.loads(guard.tell("models", "--json").stdout)["models"]) == 4, 30, "models"
        )
        with Onlooker(real) as seen:
            done = guard.tell("bench", "--json", f"--tokens={TOKENS}", timeout=280)
    assert done.returncode == 0, done.stderr
    bench = read(done.stdout)
    assert [model.name for model in bench.models] == [f"{name}:latest" for name in SIZES]
    assert real.runners() == {}
    for model in bench.models:
        blob = real.blob(model.name)
        figures_are_right(model, seen.lives[blob], [c for c in tap.calls if c.asked["model"] == model.name])
    larger_is_dearer(bench)


def figures_are_right(model: Measured, life: Life, calls: list[Call]) -> None:
    """Against the runner's life, and the calls: load, three answers, unload."""
    load, *asked, unload = calls
    (one,) = model.rounds
    assert one.load_seconds == pytest.approx(load.ended_at - load.asked_at, abs=LATE_SECONDS)
    assert one.load_seconds >= load.ended_at - life.born_at - 0.02, "the runner was born within it"
    assert one.unload_seconds == pytest.approx(life.seen_at - unload.asked_at, abs=LATE_SECONDS)
    assert one.runner_peak_bytes == pytest.approx(life.peak_bytes, rel=0.02)
    assert (model.footprint_bytes or 0) <= life.peak_bytes * 1.02
    assert model.footprint_bytes == pytest.approx(life.peak_bytes, rel=0.15), (
        "measured by the guard meanwhile"
    )
    assert model.footprint_measured
    for answer, call in zip(one.answers, asked, strict=True):
        answer_is_right(answer, call)


def answer_is_right(answer: Answer, call: Call) -> None:
    """Ollama's durations are nanoseconds; what a client waits for is a little more than them."""
    last = call.last
    assert (answer.tokens, answer.prompt_tokens) == (last["eval_count"], last["prompt_eval_count"])
    rate = last["eval_count"] / (last["eval_duration"] / 1e9)
    assert answer.tokens_per_second == pytest.approx(rate, rel=0.001)
    assert answer.first_token_seconds is not None
    assert answer.first_token_seconds == pytest.approx(call.first_at - call.asked_at, abs=LATE_SECONDS)
    assert answer.first_token_seconds >= last["prompt_eval_duration"] / 1e9
    assert answer.total_seconds >= last["total_duration"] / 1e9
    assert answer.total_seconds == pytest.approx(last["total_duration"] / 1e9, abs=LATE_SECONDS)


def larger_is_dearer(bench: Bench) -> None:
    """Four sizes: each takes more memory than the one before; the largest is the slowest by far."""
    peaks = [model.figures["runner_peak_bytes"].median for model in bench.models]
    assert peaks == sorted(peaks)
    assert peaks[-1] > 2.5 * peaks[0]
    rates = [model.figures["complex.tokens_per_second"].median for model in bench.models]
    assert rates[0] > 2 * rates[-1]
