"""``python -m docs.generate``: write the documents, or ``--check`` whether they are as they would be."""

from __future__ import annotations

import difflib
import re
import sys
from datetime import UTC, datetime
from pathlib import Path

from docs.generate import checks, commands, settings
from docs.generate.markup import UNDATED

ROOT = Path(__file__).parents[2]
DOCUMENTS = {
    "config/ollama-guard.toml": settings.shipped_file,
    "docs/configuration-reference.md": settings.reference,
    "docs/man/ollama-guard.toml.5": settings.man_page,
    "docs/man/ollama-guard.8": commands.man_page,
    "docs/doctor.md": checks.document,
}


def dated(text: str, before: str, today: str) -> str:
    """A man page with the date of its last change: the one it has, unless something else changes with it."""
    then = re.search(r"^\.TH \S+ \d (\d{4}-\d\d-\d\d) ", before, re.MULTILINE)
    unchanged = then is not None and text.replace(UNDATED, then[1]) == before
    return before if unchanged else text.replace(UNDATED, today)


def main(arguments: list[str]) -> int:
    """Returns the exit code: 1 if ``--check`` found a difference."""
    drifted = False
    for name, make in DOCUMENTS.items():
        path = ROOT / name
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        text = dated(make(), before, datetime.now(tz=UTC).date().isoformat())
        if "--check" not in arguments:
            path.write_text(text, encoding="utf-8")
            continue
        difference = difflib.unified_diff(
            before.splitlines(), text.splitlines(), name, f"{name} as made from the code", lineterm=""
        )
        for line in difference:
            drifted = True
            sys.stdout.write(f"{line}\n")
    if drifted:
        sys.stdout.write("These documents are made from the code. Write them anew: make docs\n")
    return int(drifted)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
