"""``python -m docs.generate``: write the documents, or ``--check`` whether they are as they would be."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path

from docs.generate import commands, settings

ROOT = Path(__file__).parents[2]
DOCUMENTS = {
    "config/ollama-guard.toml": settings.shipped_file,
    "docs/configuration-reference.md": settings.reference,
    "docs/man/ollama-guard.toml.5": settings.man_page,
    "docs/man/ollama-guard.8": commands.man_page,
}


def main(arguments: list[str]) -> int:
    """Returns the exit code: 1 if ``--check`` found a difference."""
    drifted = False
    for name, make in DOCUMENTS.items():
        path, text = ROOT / name, make()
        if "--check" not in arguments:
            path.write_text(text, encoding="utf-8")
            continue
        before = path.read_text(encoding="utf-8") if path.exists() else ""
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
