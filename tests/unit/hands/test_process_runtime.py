"""A bare process is seen, and nothing is done to it here."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ollama_guard.core.model import ServerReading
from ollama_guard.core.runtime import Limits, RuntimeKind, RuntimeState
from ollama_guard.errors import RuntimeFailed
from ollama_guard.hands.adapters.process import ProcessRuntime


def start_ticks(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def test_it_runs_until_it_ends_and_another_with_its_number_is_not_it() -> None:
    runtime = ProcessRuntime()
    with subprocess.Popen(["sleep", "60"]) as process:
        server = ServerReading(process.pid, start_ticks(process.pid), 0, "/", "argv")
        seen = runtime.find(server, 5)
        another = runtime.read(f"{process.pid}-1", 5)
        process.kill()
    assert seen is not None
    assert (seen.kind, seen.state, seen.server_pid) == (
        RuntimeKind.PROCESS,
        RuntimeState.RUNNING,
        process.pid,
    )
    assert seen.verbs == ()
    assert "nothing here could start it again" in seen.cannot
    assert "systemd" in seen.hint
    assert seen.started_at is not None
    assert another.state is RuntimeState.GONE
    assert runtime.read(seen.name, 5).state is RuntimeState.GONE


def test_every_verb_is_unsupported_and_limits_are_left_out_with_a_sentence() -> None:
    runtime = ProcessRuntime()
    for verb in (runtime.stop, runtime.start):
        with pytest.raises(RuntimeFailed) as caught:
            verb("1-1", 5)
        assert caught.value.kind == "unsupported"
    assert len(runtime.limit("1-1", Limits(1024, 2.0), 5)) == 2
    runtime.unlimit("1-1", 5)
