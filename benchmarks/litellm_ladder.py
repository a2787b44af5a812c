"""The ladder behind LiteLLM: who answers while memory falls and comes back, with the guard and without it.

A 4 GiB machine without swap (as in `small_host`), a real Ollama with three models on it, and a real LiteLLM
proxy beside it with the configuration that `ollama-guard litellm render` makes. Clients ask for the largest
of the three, one answer after the other; a job takes most of the memory, keeps it for half a minute, and
gives it back. Takes eight minutes and needs root. `--seconds` prints the seconds of the run with the guard in
which somebody else answers than before, and each fifteenth; `--out FILE` keeps every request and sample.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from beds.guard import Guard
from beds.hog import Hog
from beds.litellm_install import LitellmInstallation
from beds.litellm_install import install as install_litellm
from beds.litellm_proxy import LitellmProxy
from beds.ollama_install import Installation
from beds.real_ollama import install_with_models
from beds.server import RealServer
from beds.smallhost import SmallHost
from benchmarks.crossing import quantile
from benchmarks.watcher import Watcher
from ollama_guard.core.tiers import Tier
from ollama_guard.integrations.config import MODEL_NAMES, render

MIB = 1 << 20
GIB = 1 << 30
MEMORY = 4 * GIB
TIERS = (Tier("light", "tiny"), Tier("default", "mid"), Tier("reasoning", "big"))
ASKED = MODEL_NAMES["reasoning"]
BY_GROUP = {MODEL_NAMES[tier.name]: tier.name for tier in TIERS}
# Beside 2.8 GiB the large model (1.5 GiB) does not fit at all, nor the middle one (0.7 GiB) above soft, which
# is 20 % here; the small one does.
JOB = 2900 * MIB
JOB_BYTES_PER_SECOND = 100 * MIB
# Seconds: calm at first, then the job (which takes 29 s to get there), then as long as the ladder needs to go
# up again, a minute of quiet for each step included. And every how many of them the table has at least.
CALM_SECONDS = 20
HELD_SECONDS = 30
AFTER_SECONDS = 150
EACH_SECONDS = 15
CLIENTS = 2
TOKENS = 12  # of an answer: one of the large model takes a second or two
PATIENCE_SECONDS = 600.0  # LiteLLM's own limits are shorter, so whoever waits longer hangs


@dataclass(frozen=True, slots=True)
class Request:
    """One request: when it was asked (seconds since the start), how long it took, and who served it."""

    at: float
    seconds: float
    status: int
    tier: str


@dataclass(frozen=True, slots=True)
class Run:
    """One run; ``samples`` are (seconds since the start, available bytes)."""

    guarded: bool
    requests: list[Request]
    samples: list[tuple[float, int]]
    oom_kills: int
    job_finished: bool
    hanging: int

    def served(self) -> list[Request]:
        """Those that were answered by a model."""
        return [request for request in self.requests if request.status == 200]

    def lowest(self) -> int:
        """The least that was available, in bytes."""
        return min(available for _, available in self.samples)


class Clients:
    """They ask, one request after the other, until they are told to stop."""

    def __init__(self, proxy: LitellmProxy, began: float) -> None:
        self.requests: list[Request] = []
        self._proxy, self._began, self._over = proxy, began, threading.Event()
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def stop(self, seconds: float) -> int:
        """Let each finish its last request; how many had not after so long."""
        self._over.set()
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return sum(thread.is_alive() for thread in self._threads)

    def _ask(self) -> None:
        while not self._over.is_set():
            at = time.monotonic()
            try:
                answer = self._proxy.chat(ASKED, max_tokens=TOKENS, timeout=PATIENCE_SECONDS)
                status, group = answer.status, answer.headers.get("x-litellm-model-group", "")
            except OSError:
                status, group = 0, ""
            tier = BY_GROUP.get(group, "") if status == 200 else ""
            self.requests.append(Request(at - self._began, time.monotonic() - at, status, tier))
            if status != 200:
                self._over.wait(1.0)  # as a client would that is told to come back, only sooner


def guard_config() -> str:
    """The tiers, for the guard's file."""
    return "\n".join(f'[[tiers]]\nname = "{tier.name}"\nmodel = "{tier.model}"' for tier in TIERS)


def play(ollama: Installation, litellm: LitellmInstallation, *, guarded: bool) -> Run:
    """One run on a machine of its own."""
    with contextlib.ExitStack() as stack:
        host = stack.enter_context(SmallHost(MEMORY))
        server = stack.enter_context(RealServer(ollama, launcher=host.popen))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ladder-")))
        status = folder / "no-guard.sock"
        if guarded:
            guard = stack.enter_context(
                Guard(server.url, cgroup="", launcher=host.popen, config=guard_config())
            )
            guard.wait_guarding(host.inner_pid(server.pid))
            status = guard.runtime / "status.sock"
        proxy = stack.enter_context(LitellmProxy(litellm, render(TIERS, server.url), folder, status))
        job = stack.enter_context(Hog(host.popen))
        server.load("big")
        watcher = stack.enter_context(Watcher(host.cgroup))
        watcher.begin()
        clients = Clients(proxy, time.monotonic())
        time.sleep(CALM_SECONDS)
        job.grow(JOB, JOB_BYTES_PER_SECOND)
        finished = job.wait(JOB / JOB_BYTES_PER_SECOND + HELD_SECONDS)
        time.sleep(HELD_SECONDS)
        if job.exit_code is None:
            job.release()
        time.sleep(AFTER_SECONDS)
        hanging = clients.stop(60.0)
        watcher.end()
        return Run(guarded, clients.requests, watcher.samples, watcher.oom_kills(), finished, hanging)


HEADINGS = (
    "", "answered", "failed", "of them 503", "hanging", "by light · default · reasoning", "p95 s", "longest",
    "the job", "OOM kills", "lowest",
)  # fmt: skip


def row(run: Run) -> str:
    """One line of the table."""
    served = run.served()
    tiers = Counter(request.tier for request in served)
    seconds = [request.seconds for request in served]
    words = (
        "with the guard" if run.guarded else "without",
        str(len(served)),
        str(len(run.requests) - len(served)),
        str(sum(request.status == 503 for request in run.requests)),
        str(run.hanging),
        " · ".join(str(tiers[tier.name]) for tier in TIERS),
        f"{quantile(seconds, 0.95):.1f}",
        f"{quantile([request.seconds for request in run.requests], 1.0):.1f}",
        "finishes" if run.job_finished else "**killed**",
        str(run.oom_kills),
        f"{run.lowest() / MIB:,.0f} MiB",
    )
    return f"| {' | '.join(words)} |"


def seconds_of(run: Run) -> list[str]:
    """Available memory, and who answered what was asked in that second; thinned to changes."""
    lines = ["| second | available | asked and answered by |", "| --- | --- | --- |"]
    before: set[str] = set()
    for second in range(int(run.samples[-1][0])):
        available = [there for at, there in run.samples if second <= at < second + 1]
        asked = Counter(
            request.tier or f"error {request.status}"
            for request in run.requests
            if second <= request.at < second + 1
        )
        if set(asked) <= before and second % EACH_SECONDS:
            continue
        before = set(asked) or before
        told = ", ".join(f"{who} {count}" for who, count in sorted(asked.items()))
        lines.append(f"| {second} | {min(available, default=0) / MIB:,.0f} MiB | {told} |")
    return lines


def main() -> int:
    """Play both and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", action="store_true", help="who answers when, with the guard")
    parser.add_argument("--out", type=Path, help="where to keep every request and sample, as JSON")
    options = parser.parse_args()
    ollama, litellm = install_with_models(), install_litellm()
    sys.stdout.write(f"| {' | '.join(HEADINGS)} |\n{'| --- ' * len(HEADINGS)}|\n")
    runs = []
    for guarded in (False, True):
        runs.append(play(ollama, litellm, guarded=guarded))
        sys.stdout.write(row(runs[-1]) + "\n")
        sys.stdout.flush()
    if options.seconds:
        sys.stdout.write("\n" + "\n".join(seconds_of(runs[-1])) + "\n")
    if options.out:
        options.out.write_text(json.dumps([asdict(run) for run in runs]))
    # With the guard nothing hangs and the kernel kills nobody; without it one of the two is worse.
    guarded_run, control = runs[1], runs[0]
    kept = guarded_run.hanging == 0 and guarded_run.oom_kills == 0 and guarded_run.job_finished
    proves = control.oom_kills > 0 or not control.job_finished or control.hanging > 0
    sys.stdout.write(
        f"promise: {'kept' if kept else 'broken'}; control: {'fails' if proves else 'proves nothing'}\n"
    )
    return int(not (kept and proves))


if __name__ == "__main__":
    sys.exit(main())
