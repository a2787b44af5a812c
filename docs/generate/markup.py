"""The owner's texts (paragraphs, and `code`) in the three places where they are read, and templates."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import ollama_guard

WIDTH = 110  # characters: as the sources
ROFF_WIDTH = 79  # characters: `mandoc -T lint` warns of lines longer than 80 bytes

UNDATED = "YYYY-MM-DD"
"""Where a man page has the date of its last change, which `docs.generate` puts there when it is written."""

_TEMPLATES = Path(__file__).parent / "templates"


def filled(template: str, parts: dict[str, str]) -> str:
    """A template with each of its ``@NAME@`` replaced; one that is left over, or not there, is an error."""
    text = (_TEMPLATES / template).read_text(encoding="utf-8")
    for name, part in (parts | {"VERSION": ollama_guard.__version__, "DATE": UNDATED}).items():
        if f"@{name}@" not in text and name in parts:
            raise LookupError(f"{template} has no place @{name}@")
        text = text.replace(f"@{name}@", part.rstrip("\n"))
    left = re.search(r"@[A-Z]+@", text)
    if left is not None:
        raise LookupError(f"{template}: nobody fills {left[0]}")
    return text


def paragraphs(text: str) -> list[str]:
    """Each as one line."""
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n", text.strip())]


def comment(text: str) -> str:
    """As a comment of TOML; what has quotes of its own needs no other marks."""
    wrapped = (_wrapped(re.sub(r'`("[^`]*")`', r"\1", part), "# ") for part in paragraphs(text))
    return "\n#\n".join(wrapped)


def _wrapped(paragraph: str, prefix: str) -> str:
    return textwrap.fill(
        paragraph,
        WIDTH,
        initial_indent=prefix,
        subsequent_indent=prefix,
        break_long_words=False,
        break_on_hyphens=False,
    )


def markdown(text: str) -> str:
    """As paragraphs of Markdown."""
    return "\n\n".join(_wrapped(paragraph, "") for paragraph in paragraphs(text))


def cell(text: str) -> str:
    """As one cell of a Markdown table."""
    return "<br>".join(paragraphs(text)).replace("|", "\\|")


def roff(text: str) -> str:
    """As paragraphs of a man page; `code` is bold."""
    return "\n.PP\n".join(inline(paragraph) for paragraph in paragraphs(text))


def inline(text: str) -> str:
    """One paragraph of a man page: each sentence begins a line, and none is longer than mandoc likes."""
    parts = text.split("`")
    marked = "".join(bold(part) if odd % 2 else escaped(part) for odd, part in enumerate(parts))
    sentences = re.split(r"(?<=\.) (?=[A-Z\\])", marked)
    return "\n".join(_guarded(line) for sentence in sentences for line in textwrap.wrap(sentence, ROFF_WIDTH))


def literal(lines: list[str]) -> str:
    """Lines that a man page shows as they are."""
    shown = "\n".join(_guarded(code(line)) for line in textwrap.dedent("\n".join(lines)).splitlines())
    return f".RS 4\n.EX\n{shown}\n.EE\n.RE"


def bold(text: str) -> str:
    """What is typed as it stands."""
    return f"\\fB{code(text)}\\fR"


def italic(text: str) -> str:
    """What is replaced by something of one's own."""
    return f"\\fI{code(text)}\\fR"


def code(text: str) -> str:
    """Text to type: its hyphens and quotes stay what they are when they are copied."""
    return escaped(text).replace("-", "\\-").replace("'", "\\(aq").replace("~", "\\(ti").replace("^", "\\(ha")


def escaped(text: str) -> str:
    """Text whose backslashes and foreign characters every formatter takes."""
    text = text.replace("\\", "\\(rs")
    return "".join(c if c.isascii() else f"\\[u{ord(c):04X}]" for c in text)


def _guarded(line: str) -> str:
    """A line that begins as a request would is none."""
    return f"\\&{line}" if line.startswith((".", "'")) else line
