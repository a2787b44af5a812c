"""docs/doctor.md: what `doctor` looks for, as core.checks says it."""

from __future__ import annotations

from docs.generate.markup import cell, filled

from ollama_guard.core.checks import ABOUT, About, Check


def document() -> str:
    """``docs/doctor.md``."""
    rows = "\n".join(_row(check, about) for check, about in ABOUT.items())
    return filled("doctor.md", {"FINDINGS": rows})


def _row(check: Check, about: About) -> str:
    cells = (about.severity, about.finds, about.why, about.mend)
    return f"| `{check}` | {' | '.join(cell(text) for text in cells)} |"
