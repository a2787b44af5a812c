"""``replay``: recorded traces decided again, with their own policy or with another."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from ollama_guard.cli.options import JsonOption, places
from ollama_guard.errors import GuardError

if TYPE_CHECKING:
    from ollama_guard.core.replay import Comparison

EXIT_DIFFERS = 1
# Bytes: a header with a catalogue of a thousand models takes about 1 MiB.
LONGEST_LINE = 16 * 1024 * 1024
PROGRESS_SECONDS = 0.2  # between two updates of the line on a terminal
NewConfigOption = Annotated[
    Path | None,
    typer.Option("--config", parser=Path, metavar="NEW", help="Another configuration file to decide by."),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("replay")(replay)


def replay(
    context: typer.Context,
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE...", help="Traces, or a folder of them; - reads standard input."),
    ],
    as_json: JsonOption = False,
    config: NewConfigOption = None,
) -> None:
    """Decide again on what was recorded; nothing is done.

    \b
      ollama-guard replay /var/lib/ollama-guard/traces     everything that was kept
      ollama-guard replay trace-000042-20260824T031502Z.jsonl
      ollama-guard replay trace-*.jsonl --config new.toml  what would another file have changed?
      zcat incident.gz | ollama-guard replay --json -

    Without --config every decision must come out as it was recorded, word by word: exit code 0, or 1 with
    the first that differs. With --config it shows when another policy would have decided otherwise.
    """
    from ollama_guard.cli import replayed
    from ollama_guard.core.replay import Comparison
    from ollama_guard.settings.compiler import compile_file

    new = places(context, config, None, None).config
    seen = Comparison(None if new is None else compile_file(new))
    _compare(seen, _sources(files), to_the_end=new is not None)
    if as_json:
        typer.echo(json.dumps(replayed.as_document(seen, new), ensure_ascii=False, indent=2))
    else:
        typer.echo(replayed.as_text(seen, new))
    if new is None and seen.first is not None:
        raise typer.Exit(EXIT_DIFFERS)


def _compare(seen: Comparison, sources: list[Source], *, to_the_end: bool) -> None:
    """Replay the sources, to their end or to the first decision that differs."""
    from ollama_guard.core.trace import TraceError
    from ollama_guard.core.units import count_text

    progress = Progress(sum(source.size for source in sources))
    for source in sources:
        try:
            with source.opened() as file:
                for moment in seen.read(source.name, _lines(file, progress)):
                    if moment is seen.first and not to_the_end:
                        return
        except OSError as problem:
            raise GuardError(f"{source.name} can't be read: {problem.strerror}") from None
        except TraceError as problem:
            before = f" (after {count_text(seen.decisions, 'decision')})" if seen.decisions else ""
            raise GuardError(f"{source.name}: {problem}{before}") from None
        finally:
            progress.clear()


@dataclass(frozen=True, slots=True)
class Source:
    """One file to read; ``path`` None is standard input."""

    name: str
    path: Path | None
    size: int = 0

    def opened(self) -> BinaryIO:
        """The file, to be closed by its reader."""
        return sys.stdin.buffer if self.path is None else self.path.open("rb")


def _sources(files: list[str]) -> list[Source]:
    from ollama_guard.hands.traces import trace_files

    found: list[Source] = []
    for name in files:
        if name == "-":
            found.append(Source("standard input", None))
            continue
        path = Path(name)
        try:
            in_folder = path.is_dir()
            paths = trace_files(path) if in_folder else [path]
            sources = [Source(str(one), one, one.stat().st_size) for one in paths]
        except OSError as problem:
            raise GuardError(f"{name} can't be read: {problem.strerror}") from None
        # Of a file that was begun when the power went there may be nothing but its name.
        kept = [source for source in sources if source.size or not in_folder]
        found += kept
        if not kept:
            raise GuardError(f"{name}: there is no trace in this folder")
    return found


def _lines(file: BinaryIO, progress: Progress) -> Iterator[bytes]:
    from ollama_guard.core.trace import TraceError

    while line := file.readline(LONGEST_LINE):
        if len(line) == LONGEST_LINE:
            raise TraceError("it has a line of more than 16 MiB, which no trace has")
        progress.advance(len(line))
        yield line


class Progress:
    """A line on a terminal that says how far it is; nothing anywhere else."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._shown_at = time.monotonic()
        self._shown = False

    def advance(self, count: int) -> None:
        """So many more bytes were read."""
        self._done += count
        now = time.monotonic()
        if now - self._shown_at < PROGRESS_SECONDS or not sys.stderr.isatty():
            return
        self._shown_at, self._shown = now, True
        share = f"{100 * self._done / self._total:.0f} %" if self._total else f"{self._done >> 10} KiB"
        sys.stderr.write(f"\r{share:>12} replayed")
        sys.stderr.flush()

    def clear(self) -> None:
        """Take the line away."""
        if self._shown:
            self._shown = False
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
