"""docs/journal.md tells of every event that the code can write, with its fields."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from ollama_guard.core.events import EVENT_NAMES
from ollama_guard.core.model import ActionKind

ROOT = Path(__file__).parents[2]
SOURCES = [ROOT / "src" / "ollama_guard" / part for part in ("core", "sentinel", "hands")]
ASKING = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "docs" / "man" / "ollama-guard.8"]
ENVIRONMENT = {"LOG", "REQUIRE", "CACHE", "STATUS", "API_BASE"}
PRIORITIES = {"info", "notice", "warning", "error"}

Function = ast.FunctionDef | ast.Module


def written() -> dict[str, set[str]]:
    """Each event that is written somewhere, with the fields it may have beside the sentence."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in (path for folder in SOURCES for path in folder.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for function in [tree, *(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))]:
            for call in own(function):
                if isinstance(call, ast.Call) and (name := event_of(call)) in EVENT_NAMES:
                    found[name] |= fields_of(call, function)
    return dict(found)


def own(function: Function) -> Iterator[ast.AST]:
    """The nodes of a function, without those of the functions in it."""
    for child in ast.iter_child_nodes(function):
        if not isinstance(child, ast.FunctionDef):
            yield child
            yield from own(child)  # type: ignore[arg-type]


def event_of(call: ast.Call) -> str:
    """The event's name, if the call writes one; `sentinel.selftest` has a short form for its findings."""
    name = text(call.args[0]) if call.args else ""
    in_short = isinstance(call.func, ast.Name) and call.func.id == "say" and name not in EVENT_NAMES
    return "guard.tested" if in_short else name


def fields_of(call: ast.Call, function: Function) -> set[str]:
    """Of ``Event(name, sentence, priority, fields)``, or of ``log().warning(name, message=…, **fields)``.

    Where the code chooses between two priorities first, that method is called ``say`` too.
    """
    given_by_word = isinstance(call.func, ast.Name) and call.func.id == "say"
    if given_by_word or (isinstance(call.func, ast.Attribute) and call.func.attr in PRIORITIES):
        return {word.arg for word in call.keywords if word.arg} - {"message", "may", "sentence"}
    given = call.args[3:4] + [word.value for word in call.keywords if word.arg == "fields"]
    return {key for node in given for key in keys_of(node, function)}


def keys_of(node: ast.AST, function: Function) -> Iterator[str]:
    """The keys of a dictionary as it is written down, or of the variable that it was put into."""
    match node:
        case ast.Dict():
            yield from (text(key) for key in node.keys if key is not None)
        case ast.DictComp():
            yield from (text(word) for word in node.generators[0].iter.elts)  # type: ignore[attr-defined]
        case ast.Name():
            for other in own(function):
                targets = getattr(other, "targets", [getattr(other, "target", None)])
                if any(isinstance(target, ast.Name) and target.id == node.id for target in targets):
                    yield from keys_of(other.value, function)  # type: ignore[attr-defined]


def text(node: ast.AST | None) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def told() -> dict[str, set[str]]:
    """The table of the document; a word in `code` in its last column is a field."""
    document = (ROOT / "docs" / "journal.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z]+\.[a-z]+)` \|[^|]*\|([^|]*)\|$", document, re.MULTILINE)
    return {name: set(" ".join(re.findall("`([^`]*)`", fields)).split()) for name, fields in rows}


def asked() -> list[tuple[str, str]]:
    """What people are told to ask the journal for, (field, value): "" where any will do."""
    asking = (path.read_text(encoding="utf-8") for path in ASKING)
    return re.findall(r"OLLAMA_GUARD_([A-Z_]+)\b(?:=([a-z_.]+))?", "\n".join(asking))


def test_what_people_are_told_to_ask_for_is_what_is_written() -> None:
    """Each event, each field, and each step; OLLAMA_GUARD_LOG and the like are no fields."""
    fields = {field.upper() for fields in told().values() for field in fields} | {"EVENT"}
    questions = [(field, value) for field, value in asked() if field not in ENVIRONMENT]
    assert len(questions) > 20
    assert {field for field, _ in questions} <= fields
    assert {value for field, value in questions if field == "EVENT" and value} <= set(told())
    assert {value for field, value in questions if field == "STEP"} <= {kind.value for kind in ActionKind}


def test_the_journal_document_tells_of_every_event_and_its_fields() -> None:
    code, document = written(), told()
    assert len(code) > 20
    assert {n: sorted(f) for n, f in document.items()} == {n: sorted(f) for n, f in code.items()}
