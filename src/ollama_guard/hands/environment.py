"""The environment file by which a server is constrained: systemd reads it, or a container's entrypoint does.

Its lines mean the same to both: ``KEY=value`` with values that need no quotes, neither in a unit's
``EnvironmentFile=`` nor in a POSIX shell that sources it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from ollama_guard.core.runtime import ENVIRONMENT_KEYS
from ollama_guard.errors import RuntimeFailed
from ollama_guard.hands.files import replace_file
from ollama_guard.hands.remembered import this_boot

# In the state directory; the folder, not the file, is what a container mounts (a mounted file goes stale).
FOLDER, NAME = "env", "ollama.env"
# What neither systemd nor a shell gives a meaning to; no value that the keys take needs anything else.
_PLAIN = re.compile(r"[A-Za-z0-9_.:/,+-]{1,200}")
_HEADER = """\
# Written by ollama-guard, read by Ollama's service or container when it starts.
# Changes made here are lost; `ollama-guard release` empties it.
"""
_BOOT = "# Boot: "


class EnvironmentFile:
    """``STATE/env/ollama.env``; what is written is exactly what stands in it."""

    def __init__(self, state_dir: Path, boot_id: str = "") -> None:
        self.path = state_dir / FOLDER / NAME
        self._boot = f"{_BOOT}{boot_id or this_boot()}\n"

    def write(self, lines: Iterable[tuple[str, str]]) -> None:
        """Have the file hold exactly these lines, on the disk when this returns.

        Raises:
            RuntimeFailed: ``refused`` for a key or value that may not stand there, ``denied`` when the file
                can't be written; either way the old file stands.
        """
        text = _HEADER + self._boot + "".join(f"{key}={_checked(key, value)}\n" for key, value in lines)
        try:
            replace_file(self.path, text.encode("ascii"), 0o644)
            self.path.parent.chmod(0o755)
        except OSError as problem:
            raise RuntimeFailed("denied", f"{self.path} can't be written: {problem.strerror}") from problem

    def empty(self) -> bool:
        """Take every line back; False where there was none. Raises as `write` does."""
        if not self.read():
            return False
        self.write(())
        return True

    def read(self) -> dict[str, str]:
        """The lines as they stand; none where there is no file, or none that can be read."""
        return _lines(self._text())

    def left(self) -> dict[str, str]:
        """The lines, if an earlier boot's guard wrote them: this one's sentinel does not know of them."""
        text = self._text()
        return {} if self._boot in text else _lines(text)

    def _text(self) -> str:
        try:
            return self.path.read_text(encoding="ascii", errors="replace")
        except OSError:
            return ""


def _lines(text: str) -> dict[str, str]:
    lines = (line.partition("=") for line in text.splitlines() if not line.startswith("#"))
    return {key: value for key, sign, value in lines if sign}


def _checked(key: str, value: str) -> str:
    if key not in ENVIRONMENT_KEYS:
        raise RuntimeFailed("refused", f"{key!r} may not stand in the environment file")
    if not _PLAIN.fullmatch(value):
        raise RuntimeFailed("refused", f"{value!r} can't stand in the environment file as {key}")
    return value
