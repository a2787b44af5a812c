"""``healthcheck``: is the guard well? Imports little and never waits for long, since it is run all day."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from ollama_guard.cli.options import ConfigOption, JsonOption, RuntimeDirOption, StateDirOption, places
from ollama_guard.control.health import STALE_SECONDS, guard_ailment, ollama_ailment
from ollama_guard.core.events import one_line
from ollama_guard.settings.deadline import within

# Seconds for the socket, whose answer is in memory, and then for the file, whose disk may hang. Together far
# below the 30 s that Docker gives a health check.
SOCKET_SECONDS = 2.0
FILE_SECONDS = 1.0
# Bytes of an answer or a file; a status with a hundred models is 60 KiB.
LONGEST_ANSWER = 4 * 1024 * 1024


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("healthcheck")(healthcheck)


def healthcheck(
    context: typer.Context,
    ollama: Annotated[
        bool, typer.Option("--ollama", help="Unhealthy too while Ollama does not answer or is frozen.")
    ] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    runtime_dir: RuntimeDirOption = None,
    state_dir: StateDirOption = None,
) -> None:
    """Is the guard well? Exit code 0 yes, 1 no, and one line why.

    \b
      ollama-guard healthcheck
      ollama-guard healthcheck --ollama || echo "look after Ollama"
      HEALTHCHECK CMD ["ollama-guard", "healthcheck"]     in a Dockerfile

    Healthy: it runs, its news is not older than 60 s, and it can see what it guards. Short memory is not
    unhealthy, since to deal with that is the guard's work, and a restart of it would mend nothing; for
    the same reason an Ollama that is silent counts only with --ollama.

    Asks the guard's socket; where that can't be reached (another container, no rights), it reads
    STATE_DIR/public/status.json. Never takes longer than 4 s.
    """
    where = places(context, config, runtime_dir, state_dir)
    health = _by_socket(where.runtime_dir / "status.sock", ollama=ollama)
    if "unreachable" in health:
        health = _by_file(
            where.state_dir / "public" / "status.json", health.pop("unreachable"), ollama=ollama
        )
    if as_json:
        typer.echo(json.dumps(health, ensure_ascii=False))
    else:
        word = "healthy" if health["healthy"] else "unhealthy"
        typer.echo(one_line(f"{word}: {health['why']} ({health['source']})"))
    if not health["healthy"]:
        raise typer.Exit(1)


def _by_socket(path: Path, *, ollama: bool) -> dict[str, Any]:
    """The guard's own answer; ``unreachable`` instead, with the reason, where it can't be asked."""
    try:
        answer = _asked(path, time.monotonic() + SOCKET_SECONDS)
    except OSError as error:  # TimeoutError is one
        return {"unreachable": error.strerror or str(error) or f"no answer within {SOCKET_SECONDS:.0f} s"}
    told = answer if ollama else answer.get("guard")
    if "error" in answer:
        told = {"healthy": False, "why": f"the guard has no status yet ({answer['error']})"}
    if not isinstance(told, dict) or not isinstance(told.get("healthy"), bool):
        told = {"healthy": False, "why": "what listens there is not this guard"}
    level = answer.get("level")
    return {
        "healthy": told["healthy"],
        "why": _with_level(str(told.get("why")), level) if told["healthy"] else str(told.get("why")),
        "level": level,
        "source": str(path),
        "age_seconds": None,
    }


def _asked(path: Path, deadline: float) -> dict[str, Any]:
    """``GET /health``, whatever its code; {} for what is no JSON.

    Raises:
        OSError: nobody there, no rights, or no whole answer until ``deadline`` (monotonic seconds).
    """
    answer = bytearray()
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(SOCKET_SECONDS)
        link.connect(str(path))
        link.sendall(b"GET /health HTTP/1.0\r\n\r\n")
        while len(answer) < LONGEST_ANSWER:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"no whole answer within {SOCKET_SECONDS:.0f} s")
            link.settimeout(left)
            piece = link.recv(65536)
            if not piece:
                break
            answer += piece
    try:
        body = json.loads(bytes(answer).partition(b"\r\n\r\n")[2])
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _by_file(path: Path, unreachable: str, *, ollama: bool) -> dict[str, Any]:
    """What the public file says, with the reason why the socket was not asked."""
    source = f"{path}; the socket: {unreachable}"

    def read() -> str:
        with path.open(encoding="utf-8") as file:
            return f"{time.time() - path.stat().st_mtime}\n{file.read(LONGEST_ANSWER)}"

    try:
        age_text, _, text = within(FILE_SECONDS, read).partition("\n")
        status, age = json.loads(text), abs(float(age_text))  # a clock that was set back proves nothing fresh
    except FileNotFoundError:
        return _unhealthy("no guard is running, or never was: there is no status file", source)
    except TimeoutError:
        return _unhealthy(f"the status file can't be read within {FILE_SECONDS:.0f} s", source)
    except (OSError, ValueError) as error:
        return _unhealthy(f"the status file can't be read: {error}", source)
    if not isinstance(status, dict):
        return _unhealthy("the status file is not the guard's", source)
    if age > STALE_SECONDS:
        return _unhealthy(
            f"the status file is {age:.0f} s old, so the guard is not running or hangs", source, age
        )
    why = guard_ailment(status, age) or (ollama_ailment(status) if ollama else "")
    level = status.get("level")
    return {
        "healthy": not why,
        "why": why or _with_level(f"news of {age:.0f} s ago", level),
        "level": level,
        "source": source,
        "age_seconds": round(age, 1),
    }


def _unhealthy(why: str, source: str, age_seconds: float | None = None) -> dict[str, Any]:
    age = None if age_seconds is None else round(age_seconds, 1)
    return {"healthy": False, "why": why, "level": None, "source": source, "age_seconds": age}


def _with_level(why: str, level: object) -> str:
    return f"{why}, memory is at level {level}"
