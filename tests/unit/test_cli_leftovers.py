"""What a person is told to do where the guard can't put things back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ollama_guard.cli.leftovers import limits
from ollama_guard.core.policy import Policy

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
