"""Keys that are accepted and do nothing, since what they would set does nothing in Ollama; that is said."""

from __future__ import annotations

import tomllib
from typing import Any

from ollama_guard.settings.lines import key_lines, line_of

MAX_VRAM = "max_vram"
_PATH = ("playbook", "freeze", MAX_VRAM)


def without_ignored(table: Any) -> Any:
    """What was written into ``[playbook.freeze]``, without what is ignored there."""
    return (
        {key: value for key, value in table.items() if key != MAX_VRAM} if isinstance(table, dict) else table
    )


def hints(text: str, origin: str) -> list[str]:
    """A sentence for each ignored key of a file that is known to be good."""
    found: Any = tomllib.loads(text)
    for part in _PATH:
        if not isinstance(found, dict) or part not in found:
            return []
        found = found[part]
    line = line_of(key_lines(text), _PATH)
    why = "Ollama has not read OLLAMA_MAX_VRAM since 0.2.8"
    return [f"{origin}, line {line}: {'.'.join(_PATH)} is ignored: {why}"]
