"""``run``: compile the policy, then become the sentinel (same process, nothing of this one stays)."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from ollama_guard.cli.options import ConfigOption, Places, RuntimeDirOption, StateDirOption, places
from ollama_guard.core.events import one_line
from ollama_guard.core.model import Mode
from ollama_guard.errors import ConfigError, GuardError
from ollama_guard.sentinel import lock
from ollama_guard.settings.deadline import within

READ_SECONDS = 5.0  # seconds: a local file takes 0.01 s; longer is a disk that hangs
KEEP_SECONDS = 1.0  # seconds: two small writes with fsync take 0.1 s on a slow card
_STDERR = 2
LONGEST_WARNING = 4000  # characters: room for many problems, far from the limit of an argument (128 KiB)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("run")(run)


def run(
    context: typer.Context,
    mode: Annotated[
        str | None,
        typer.Option(metavar="enforce|observe", help="Override [policy] mode: observe does nothing."),
    ] = None,
    config: ConfigOption = None,
    runtime_dir: RuntimeDirOption = None,
    state_dir: StateDirOption = None,
) -> None:
    """Run the daemon in the foreground.

    \b
      ollama-guard run                     what the service does
      ollama-guard run --mode observe      decide and log, do nothing

    With a bad file it runs on the last good one and says so loudly; 78 only if there is none.
    """
    if mode not in (None, Mode.ENFORCE, Mode.OBSERVE):
        raise typer.BadParameter(f"{mode!r} is no mode; allowed: enforce, observe", param_hint="--mode")
    _open_standard_streams()
    where = places(context, config, runtime_dir, state_dir)
    _make_runtime_dir(where.runtime_dir)
    _refuse_a_second(where.runtime_dir)
    policy_json, warnings = _policy(where)
    arguments = [
        sys.executable, "-I", "-m", "ollama_guard.sentinel",
        "--policy-fd", str(_memfd(policy_json)),
        "--runtime-dir", str(where.runtime_dir),
        "--state-dir", str(where.state_dir),
    ]  # fmt: skip
    if where.config is not None:
        arguments += ["--config", str(where.config)]
    if mode is not None:
        arguments += ["--mode", mode]
    if warnings:
        arguments += ["--warning", one_line("; ".join(warnings), LONGEST_WARNING)]
    try:
        os.execv(sys.executable, arguments)  # noqa: S606 (no shell is the point)
    except OSError as error:
        raise GuardError(
            f"{sys.executable} can't be started ({error.strerror}); is that Python in a folder which "
            "this user may not enter, such as another's home?"
        ) from None


def _policy(where: Places) -> tuple[str, list[str]]:
    """The policy to run with as JSON, and what has to be said about it.

    Raises:
        ConfigError: the file is bad and there is no last good one.
        GuardError: neither was read in time. That may be another thing by the next start, so it is not 78.
    """
    from ollama_guard.settings import compiler, last_good  # noqa: F401 - not on the deadline of the file's disk

    late = False
    try:
        policy_json, *hints = within(READ_SECONDS, lambda: _compiled(where.config)).split("\n")
    except TimeoutError:
        late = True
        problems = [f"the configuration file could not be read within {READ_SECONDS:.0f} s"]
    except ConfigError as error:
        problems = error.problems
    else:
        return policy_json, [*hints, *_kept(where)]
    try:
        kept = within(READ_SECONDS, lambda: _last_good(where.state_dir))
    except OSError as error:  # TimeoutError is one
        problems.append(f"and the last good configuration in {where.state_dir} can't be read: {error}")
        raise _refusal(problems, late=late or isinstance(error, TimeoutError)) from None
    if not kept:
        problems.append(f"and there is no last good configuration in {where.state_dir}")
        raise _refusal(problems, late=late)
    return kept, ["the configuration is bad, so the last good one is in force", *problems]


def _refusal(problems: list[str], *, late: bool) -> GuardError:
    return GuardError("\n".join(problems)) if late else ConfigError(problems)


def _compiled(path: Path | None) -> str:
    """The policy in one line, and a line for each thing that the file says and nobody heeds."""
    from ollama_guard.settings.compiler import DEFAULT_PATH, canonical_json, compile_text, read_text
    from ollama_guard.settings.ignored import hints

    text, origin = read_text(path), str(path or DEFAULT_PATH)
    return "\n".join((canonical_json(compile_text(text, origin)), *hints(text, origin)))


def _kept(where: Places) -> list[str]:
    """Keep the good configuration; a disk that can't is worth a warning, never the start."""

    def keep() -> str:
        from ollama_guard.settings.compiler import compile_text, read_text
        from ollama_guard.settings.last_good import keep_last_good

        where.state_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
        text = read_text(where.config)
        keep_last_good(where.state_dir, text, compile_text(text, str(where.config)))
        return ""

    try:
        within(KEEP_SECONDS, keep)
    except (OSError, ConfigError) as error:
        return [f"the last good configuration can't be kept in {where.state_dir}: {error}"]
    return []


def _last_good(state_dir: Path) -> str:
    from ollama_guard.settings.compiler import canonical_json
    from ollama_guard.settings.last_good import load_last_good

    policy = load_last_good(state_dir)
    return "" if policy is None else canonical_json(policy)


def _make_runtime_dir(path: Path) -> None:
    try:
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise GuardError(
            f"the runtime directory {path} can't be used: it is no directory; name another place "
            "with --runtime-dir"
        ) from None
    except OSError as error:
        raise GuardError(
            f"{path} can't be made ({error.strerror}); run as root or as the service's user, or name another "
            "place, such as --runtime-dir $XDG_RUNTIME_DIR/ollama-guard"
        ) from None


def _refuse_a_second(runtime_dir: Path) -> None:
    """Before anything is written: a second guard's file must not become the first's last good one.

    The descriptor closes at the exec, and the sentinel takes the lock again.
    """
    try:
        lock.take(runtime_dir / "lock")
    except lock.AlreadyRunning as error:
        raise GuardError(str(error)) from None
    except OSError as error:
        raise GuardError(
            f"the runtime directory {runtime_dir} can't be used: {error.strerror}; run as root or as the "
            "service's user"
        ) from None


def _open_standard_streams() -> None:
    """Started with one of 0, 1, 2 closed: else the lock or the policy would get its number, and our log."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        os.set_inheritable(descriptor, True)  # noqa: FBT003 - its only signature
    os.close(descriptor)


def _memfd(text: str) -> int:
    """The text in anonymous memory; the descriptor survives the exec."""
    descriptor = os.memfd_create("ollama-guard-policy", 0)
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(text.encode())
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
