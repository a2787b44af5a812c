"""A run of `bench` from its first look to its end: which models, who judges them, what ends it."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import typer

import ollama_guard
from ollama_guard.cli.benching import Bencher
from ollama_guard.cli.benchunload import Unloader
from ollama_guard.cli.benchwatch import MemoryShort, Watch
from ollama_guard.cli.benchwork import STEPS_EACH, Plan, told
from ollama_guard.cli.client import NotRunning, get_models, get_status
from ollama_guard.cli.models import looked
from ollama_guard.cli.nearest import unknown_model
from ollama_guard.cli.options import Places
from ollama_guard.core import naming
from ollama_guard.core.benchmark import Bench, Machine, Measured, Verdict
from ollama_guard.core.model import CatalogueEntry, Rung
from ollama_guard.core.policy import Policy, spelled
from ollama_guard.drawing.interrupts import Interrupted, Interrupts
from ollama_guard.drawing.progress import Bar
from ollama_guard.errors import GuardError, OllamaError, ServiceUnavailable
from ollama_guard.hands.adapters.ollama import OllamaAdapter
from ollama_guard.hands.adapters.ollama.timing import Client
from ollama_guard.settings.compiler import compile_file

EXIT_OK, EXIT_FAILED, EXIT_UNAVAILABLE = 0, 1, 69
EXIT_SIGNAL = 128  # and the signal's number, as shells have it
# Seconds for one question that is no measurement; and for the list of models, each of which costs a call.
ANSWER_SECONDS = 5.0
CATALOGUE_SECONDS = 30.0
# Looks of up to 2.5 s after a first one that could not tell, since Ollama answered too late, say.
LONGER_LOOKS = 2
# Seconds by which the guard's wall clock and ours may differ: both are the machine's.
CLOCK_SECONDS = 1.0

_CLOUD = "runs in the cloud: there is nothing here to measure"
_HIDDEN = "is hidden from clients: `ollama-guard quarantine restore` gives it back"
_HARM = frozenset((Rung.UNLOAD_IDLE, Rung.ABORT_LOAD, Rung.DRAIN_BUSY, Rung.KILL_RUNNER, Rung.PLAYBOOK))


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for; no ``models`` are all of them."""

    models: tuple[str, ...]
    repeat: int
    tokens_most: int
    timeout_seconds: float


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which models are measured, under which name, in this order; and those that are not."""

    models: tuple[tuple[CatalogueEntry, str], ...]
    skipped: tuple[Measured, ...]


def run(where: Places, wish: Wish) -> tuple[Bench, int]:
    """Measure; the results, as far as it came, and the exit code.

    Raises:
        ServiceUnavailable: Ollama does not answer, or the guard's socket is not for this user.
        GuardError: a model that was named is not installed.
    """
    policy = compile_file(where.config)
    ollama = OllamaAdapter(policy.ollama.url)
    version, catalogue = _asked(ollama)
    chosen = choose(catalogue, ollama.remote, wish.models)
    judge = _Judge(where)
    judge.ask()
    begun = Bench(
        version=ollama_guard.__version__,
        at_wall=time.time(),
        machine=_machine(),
        ollama_version=version,
        guarded=judge.guarded,
        repeat=wish.repeat,
        tokens_most=wish.tokens_most,
    )
    measured, end = _measured(policy, ollama, catalogue, chosen, judge, wish)
    ended = "" if end is None else told(end)
    bench = replace(begun, models=measured, ended=ended, guarded=judge.guarded)
    return bench, _code(bench, end, named=bool(wish.models))


def choose(catalogue: Iterable[CatalogueEntry], remote: Iterable[str], wanted: tuple[str, ...]) -> Chosen:
    """Those that were named, in that order, each once; else all, the smallest first.

    Raises:
        GuardError: one is not installed; the sentence has the nearest names.
    """
    entries, cloud = list(catalogue), sorted(remote)
    if not wanted:
        entries.sort(key=lambda entry: (entry.size_bytes or 0, entry.names))
        shown = [(entry, _name(entry)) for entry in entries]
        skipped = [
            Measured(entry.names[0], Verdict.SKIPPED, _HIDDEN) for entry, name in shown if name is None
        ]
        skipped += [Measured(name, Verdict.SKIPPED, _CLOUD) for name in cloud]
        return Chosen(tuple((entry, name) for entry, name in shown if name is not None), tuple(skipped))
    models: dict[str, tuple[CatalogueEntry, str]] = {}
    skipped = []
    for wish in wanted:
        found = [(e, name) for e in entries for name in e.names if spelled(name) == spelled(wish)]
        if found:
            models.setdefault(found[0][0].blob, found[0])
        elif naming.is_cloud(wish) or spelled(wish) in {spelled(name) for name in cloud}:
            skipped.append(Measured(wish, Verdict.SKIPPED, _CLOUD))
        else:
            raise GuardError(unknown_model(wish, [name for entry in entries for name in entry.names]))
    return Chosen(tuple(models.values()), tuple(skipped))


def _name(entry: CatalogueEntry) -> str | None:
    """The shortest name that clients can use."""
    open_ = [name for name in entry.names if not ((parsed := naming.parse(name)) and parsed.hidden)]
    return min(open_, key=lambda name: (len(name), name), default=None)


def _asked(ollama: OllamaAdapter) -> tuple[str, tuple[CatalogueEntry, ...]]:
    end = time.monotonic() + CATALOGUE_SECONDS
    try:
        version = ollama.version(ANSWER_SECONDS)
        catalogue = ollama.catalogue(ANSWER_SECONDS)
        while not ollama.catalogue_complete and (left := end - time.monotonic()) > 0:
            catalogue = ollama.catalogue(min(left, ANSWER_SECONDS))
    except OllamaError as problem:
        raise ServiceUnavailable(f"Ollama at {ollama.url} does not answer as it should: {problem}") from None
    return version, catalogue


class _Judge:
    """Who says whether a model would fit now: the running guard, else one look each time."""

    def __init__(self, where: Places) -> None:
        self._where = where
        self.guarded = True

    def ask(self, blob: str = "") -> dict[str, Any] | None:
        """The row of a blob (`core.installed`), None where there is none."""
        if self.guarded:
            try:
                return _row(get_models(self._where.runtime_dir), blob)
            except NotRunning as problem:
                self.guarded = False
                typer.echo(f"{problem}; each model is judged by one look without it", err=True)
        return self._looked(blob) if blob else None

    def _looked(self, blob: str) -> dict[str, Any] | None:
        """On a busy machine one look may not tell; before minutes of work there is time for longer ones."""
        row = _row(looked(self._where), blob)
        for _ in range(LONGER_LOOKS):
            if row is not None and row["fits"] is not None:
                break
            row = _row(looked(self._where, patient=True), blob)
        return row

    def acted(self, names: tuple[str, ...], since_wall: float) -> str:
        """What the guard has done about a model since then, "" where it did nothing."""
        try:
            last = get_status(self._where.runtime_dir)["last_decision"] if self.guarded else None
        except (ServiceUnavailable, KeyError):
            return ""
        if not isinstance(last, dict) or last.get("action") not in _HARM:
            return ""
        reason, at = str(last.get("reason")), last.get("at") or 0.0
        named = any(name in reason for name in names)
        return reason if named and at >= since_wall - CLOCK_SECONDS else ""


def _row(document: dict[str, Any], blob: str) -> dict[str, Any] | None:
    return next((row for row in document["models"] if row["blob"] == blob), None)


def _measured(
    policy: Policy,
    ollama: OllamaAdapter,
    catalogue: tuple[CatalogueEntry, ...],
    chosen: Chosen,
    judge: _Judge,
    wish: Wish,
) -> tuple[tuple[Measured, ...], Exception | None]:
    """Every model, and what ended the run (None: its end)."""
    found: list[Measured] = []
    end: Exception | None = None
    with (
        Interrupts(sys.stdout.fileno()) as interrupts,
        Bar(len(chosen.models), wish.repeat * STEPS_EACH) as bar,
    ):

        def tick() -> None:
            interrupts.check()
            bar.tick()

        with Watch(policy, catalogue, tick) as watch:
            client = Client(policy.ollama.url, wish.timeout_seconds, watch.step)
            plan = Plan(wish.repeat, wish.tokens_most)
            unloader = Unloader(ollama, watch)
            bencher = Bencher(client, unloader, watch, judge, bar, plan)
            for entry, name in chosen.models:
                if end is not None:
                    found.append(Measured(name, Verdict.SKIPPED, "the run had ended before", blob=entry.blob))
                    continue
                bar.begin(name)
                since = time.time()
                one, end = bencher.measure(entry, name)
                found.append(_blamed(one, judge.acted(entry.names, since)))
    return (*found, *chosen.skipped), end


def _blamed(measured: Measured, acted: str) -> Measured:
    """A failure with what the guard did about this model meanwhile."""
    failed = measured.verdict in (Verdict.FAILED, Verdict.PARTLY)
    return (
        replace(measured, reason=f"{measured.reason}; the guard: {acted}") if acted and failed else measured
    )


def _machine() -> Machine:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Machine(len(os.sched_getaffinity(0)), memory if memory > 0 else None, os.uname().release)


def _code(bench: Bench, end: Exception | None, *, named: bool) -> int:
    match end:
        case Interrupted():
            number = signal.Signals.__members__.get(str(end))
            return EXIT_FAILED if number is None else EXIT_SIGNAL + number
        case MemoryShort():
            return EXIT_FAILED
        case OllamaError():
            return EXIT_UNAVAILABLE
    bad = {Verdict.FAILED, Verdict.PARTLY} | ({Verdict.REFUSED, Verdict.SKIPPED} if named else set())
    measured = any(model.verdict is Verdict.MEASURED for model in bench.models)
    return EXIT_FAILED if not measured or any(m.verdict in bad for m in bench.models) else EXIT_OK
