"""The memory test of the older dialect (facts 9)."""

from __future__ import annotations

from pathlib import Path


def available_bytes() -> int:
    """MemAvailable plus SwapFree of the host, as Ollama before v0.13 reads it."""
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return sum(int(lines[key].split()[0]) * 1024 for key in ("MemAvailable", "SwapFree"))


def human(size: int) -> str:
    """Bytes as Ollama writes them in its errors: ``5.6 GiB``."""
    value, unit = float(size), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.1f} {unit}"
