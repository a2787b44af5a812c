"""The shipped configuration file, its reference, and ollama-guard.toml(5): the same texts three times."""

from __future__ import annotations

from docs.generate.keys import Key, TableOfKeys, intro, tables
from docs.generate.markup import bold, cell, code, comment, filled, inline, literal, markdown, roff

from ollama_guard.core.model import Level
from ollama_guard.core.policy import GIB, MIB, Policy

SIZES = (4 * GIB, 15 * GIB)  # of the machines that the defaults were made for
THRESHOLDS = "thresholds"


def shipped_file() -> str:
    """``config/ollama-guard.toml``: every key, commented out, with its default or an example."""
    told: set[str] = set()
    blocks = [_toml_table(table, told) for table in tables()]
    return filled("ollama-guard.toml", {"INTRO": comment(intro()), "TABLES": "\n\n\n".join(blocks)})


def _toml_table(table: TableOfKeys, told: set[str]) -> str:
    """What was told before (the container's thresholds are the host's keys) is not told again."""
    lines = [comment(table.text)]
    if table.name == THRESHOLDS:
        lines += ["#", *(f"#   {line}".rstrip() for line in amounts())]
    elif table.example:
        lines.append(f"# e.g. [{table.example}]")
    else:
        lines.append(f"[{table.name}]")
    for key in table.keys:
        default = f" Default: {key.default}." if key.example and key.default else ""
        text = f"{key.text} Allowed: {key.allowed}.{default}"
        if text not in told:
            lines += ["", comment(text)] if key is not table.keys[0] else [comment(text)]
        told.add(text)
        lines.append(f"# e.g. {key.name} = {key.example}" if key.example else f"#{key.name} = {key.default}")
    further = [f"{'' if line[0] != '[' else chr(10)}# e.g. {line}" for line in table.more]
    return "\n".join([*lines, *further])


def amounts() -> list[str]:
    """What the default thresholds come to on machines of these sizes."""
    policy = Policy()
    heads = [f"{size // GIB} GiB {kind}" for kind in ("host", "container") for size in SIZES]
    rows = ["what the defaults come to, in MiB", "available below" + "".join(f"{head:>18}" for head in heads)]
    for level in (Level.SOFT, Level.HARD, Level.CRITICAL):
        cells = [domain.bytes_of(level, size) for domain in (policy.host, policy.container) for size in SIZES]
        rows.append(_row(level.word, cells))
    rows.append(
        _row("relief aims above", [policy.min_reclaim_bytes(size) for _ in range(2) for size in SIZES])
    )
    return rows


def _row(name: str, counts: list[int]) -> str:
    first, *others = (str(count // MIB) for count in counts)
    return f"{name}{first:>{33 - len(name)}}" + "".join(f"{other:>18}" for other in others)


def reference() -> str:
    """``docs/configuration-reference.md``."""
    blocks = []
    for table in tables():
        blocks.append(f"## `[{table.name}]`" if table.keys else "## Thresholds")
        blocks.append(markdown(table.text))
        if table.name == THRESHOLDS:
            blocks.append("```text\n" + "\n".join(amounts()) + "\n```")
        if table.keys:
            rows = [_markdown_row(key) for key in table.keys]
            blocks.append("\n".join(["| key | default | allowed | what for |", "|---|---|---|---|", *rows]))
    return filled("configuration-reference.md", {"INTRO": markdown(intro()), "TABLES": "\n\n".join(blocks)})


def _markdown_row(key: Key) -> str:
    default = f"`{key.default}`" if key.default else "needed" if key.needed else "not set"
    shows_none = key.example.startswith('"') and '"' not in key.allowed
    allowed = f"{key.allowed}, such as `{key.example}`" if shows_none else key.allowed
    return f"| `{key.name}` | {default} | {cell(allowed)} | {cell(key.text)} |"


def man_page() -> str:
    """``docs/man/ollama-guard.toml.5``."""
    blocks = []
    for table in tables():
        blocks.append(f".SS {code(f'[{table.name}]')}" if table.keys else ".SS Thresholds")
        blocks.append(roff(table.text))
        if table.name == THRESHOLDS:
            blocks.append(f".PP\n{literal(amounts())}")
        blocks += [_man_key(key) for key in table.keys]
    return filled("ollama-guard.toml.5", {"INTRO": roff(intro()), "TABLES": "\n".join(blocks)})


def _man_key(key: Key) -> str:
    unset = "Needed in each." if key.needed else "Default: not set."
    default = f"Default: {bold(key.default)}." if key.default else unset
    example = f"\nFor example {bold(key.example)}." if key.example else ""
    allowed = f"Allowed: {inline(key.allowed)}."
    return f".TP\n{bold(key.name)}\n{inline(key.text)}\n.br\n{allowed}\n.br\n{default}{example}"
