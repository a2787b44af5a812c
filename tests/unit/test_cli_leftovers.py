"""What a person is told to do where the guard can't put things back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ollama_guard.cli.leftovers import left_stopped, limits
from ollama_guard.core.policy import Policy
from ollama_guard.core.runtime import RuntimeKind
from ollama_guard.hands.remembered import RememberedRuntimes, StoppedRuntimes

INFINITY = 2**64 - 1
BOOT = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


@pytest.mark.parametrize(
    ("before", "properties"),
    [
        ({"MemoryMax": 8 * 1024**3, "CPUQuotaPerSecUSec": 1_500_000}, "MemoryMax=8589934592 CPUQuota=150%"),
        ({"MemoryMax": INFINITY, "CPUQuotaPerSecUSec": INFINITY}, "MemoryMax=infinity CPUQuota="),
    ],
)
def test_a_unit_s_limits_as_they_were_are_told_as_a_command_that_touches_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: dict[str, int], properties: str
) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/no-bus")
    (tmp_path / "limits.json").write_text(json.dumps({f"systemd:ollama.service:{BOOT}": before}))
    (undone,) = limits(Path("/"), tmp_path, Policy())
    assert not undone.ok
    command = f"systemctl set-property --runtime ollama.service {properties}"
    assert undone.text.endswith(f"as root: {command}")
    assert "revert" not in undone.text


def test_of_another_machines_disk_nobody_here_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not this machine's Docker or systemd, which may have an Ollama of the same name."""

    def asked(*_: object) -> None:
        raise AssertionError("a runtime of this machine was asked")

    for verb in ("start", "unlimit"):
        monkeypatch.setattr(f"ollama_guard.hands.adapters.docker.adapter.DockerRuntime.{verb}", asked)
        monkeypatch.setattr(f"ollama_guard.hands.adapters.systemd.adapter.SystemdRuntime.{verb}", asked)
    state = tmp_path / "state"
    state.mkdir()
    before = {"Memory": 8 * 1024**3, "MemorySwap": -1, "NanoCpus": 0}
    known = {f"docker:{'a' * 64}": before, f"systemd:ollama.service:{BOOT}": {"MemoryMax": INFINITY}}
    (state / "limits.json").write_text(json.dumps(known))
    (said,) = limits(tmp_path, Path("/state"), Policy())
    assert not said.ok
    assert said.text.endswith(
        "there: docker update --memory 8589934592 --memory-swap -1 --cpus 0 aaaaaaaaaaaa"
    )
    runtimes = [(RuntimeKind.DOCKER, "ollama"), (RuntimeKind.SYSTEMD, "ollama.service")]
    RememberedRuntimes(state).write(runtimes)
    for _, name in runtimes:
        StoppedRuntimes(state).stopping(name)
    (said,) = left_stopped(tmp_path, Path("/state"), Policy())
    assert not said.ok
    assert said.text.endswith("there, as root: docker start ollama")
