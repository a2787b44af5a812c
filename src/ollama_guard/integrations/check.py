"""What LiteLLM ignores in a configuration, and what it would trip over, each with its line."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

import yaml

from ollama_guard.errors import ConfigError
from ollama_guard.integrations import keys

READ_BYTES = 1024 * 1024  # a configuration of a thousand models has 200 kB

_SECTIONS = {
    "router_settings": keys.ROUTER_SETTINGS,
    "general_settings": keys.GENERAL_SETTINGS,
    "litellm_settings": keys.LITELLM_SETTINGS,
}
# Of these a row of model_list makes parameters of the call, which Ollama does not know.
_NOT_FOR_A_MODEL = ("default_max_parallel_requests", "routing_strategy", "allowed_fails", "max_queue_size")

Entries = list[tuple[str, yaml.Node, yaml.Node]]


@dataclass(frozen=True, slots=True)
class Remark:
    """One key, where it stands, and what becomes of it. ``ignored``: LiteLLM does as if it were not there."""

    line: int
    key: str
    ignored: bool
    sentence: str


def decoded(file: BinaryIO, origin: str) -> str:
    """The text of an open file, which is closed.

    Raises:
        ConfigError: it is too long, or no text.
    """
    with file:
        content = file.read(READ_BYTES + 1)
    if len(content) > READ_BYTES:
        raise ConfigError([f"{origin}: it is longer than {READ_BYTES} bytes, which is no configuration"])
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as problem:
        line = content[: problem.start].count(b"\n") + 1
        raise ConfigError([f"{origin}, line {line}: this is no text in UTF-8"]) from problem


def check(text: str, origin: str) -> list[Remark]:
    """Every remark, in the order of the file; nothing is written.

    Raises:
        ConfigError: it is no YAML, or no mapping; the sentence names the line.
    """
    root = _composed(text, origin)
    if root is None:
        raise ConfigError([f"{origin}: there is nothing in it; `ollama-guard litellm render` makes one"])
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(
            [f"{origin}, line {_line(root)}: LiteLLM needs sections such as model_list: and router_settings:"]
        )
    found = list(_sections(root))
    return sorted(found, key=lambda remark: remark.line)


def _composed(text: str, origin: str) -> yaml.Node | None:
    try:
        node: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
        yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{origin}, line {mark.line + 1}" if mark else origin
        context = f" ({error.context})" if error.context else ""
        raise ConfigError([f"{where}: this is no YAML: {error.problem}{context}"]) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        what = f"this is no YAML: {error.reason} (#x{error.character:04x})"
        raise ConfigError([f"{origin}, line {line}: {what}"]) from error
    except yaml.YAMLError as error:
        raise ConfigError([f"{origin}: this is no YAML: {error}"]) from error
    except (RecursionError, ValueError) as error:
        raise ConfigError([f"{origin}: this can't be read as YAML: {error}"]) from error
    return node


def _sections(root: yaml.MappingNode) -> Iterator[Remark]:
    sections = _entries(root)
    yield from _twice(sections)
    for name, key, value in sections:
        if name not in keys.SECTIONS:
            yield _ignored(_line(key), name, "", _where_else(name, keys.SECTIONS))
        elif name in _SECTIONS:
            yield from _settings(name, value)
    rows = next((value for name, _, value in sections if name == "model_list"), None)
    if rows is None and not any(name == "include" for name, _, _ in sections):
        yield Remark(
            1, "model_list", ignored=False, sentence="there is no model_list: no model can be asked for"
        )
    if rows is not None:
        served = set()
        for remark, model_name in _models(rows):
            served.add(model_name)
            if remark:
                yield remark
        yield from _fallbacks(sections, served)


def _settings(section: str, value: yaml.Node) -> Iterator[Remark]:
    if not isinstance(value, yaml.MappingNode):
        if value.tag != "tag:yaml.org,2002:null":
            yield Remark(_line(value), section, ignored=True, sentence=f"{section} holds no keys")
        return
    entries = _entries(value)
    yield from _twice(entries, section)
    for name, key, _ in entries:
        if name not in _SECTIONS[section]:
            yield _ignored(_line(key), name, section, _where_else(name, _SECTIONS[section]))


def _models(rows: yaml.Node) -> Iterator[tuple[Remark | None, str]]:
    """What is wrong with each row, with the name that it is asked for by."""
    if not isinstance(rows, yaml.SequenceNode):
        yield Remark(_line(rows), "model_list", ignored=False, sentence="model_list has to be a list"), ""
        return
    for row in rows.value:
        entries = _entries(row) if isinstance(row, yaml.MappingNode) else []
        by_name = {name: value for name, _, value in entries}
        model_name = _scalar(by_name.get("model_name"))
        parameters = by_name.get("litellm_params")
        yield None, model_name
        if _is_merged(row):
            continue
        if not model_name or not isinstance(parameters, yaml.MappingNode):
            sentence = "a row of model_list needs model_name, and litellm_params with a model"
            yield Remark(_line(row), "model_list", ignored=False, sentence=sentence), model_name
            continue
        for remark in (*_twice(entries), *_row(entries), *_parameters(parameters)):
            yield remark, model_name


def _row(entries: Entries) -> Iterator[Remark]:
    for name, key, _ in entries:
        if name not in keys.MODEL_ROW:
            hint = keys.MISTAKEN.get(name, "a model's own settings stand under its litellm_params")
            yield _ignored(_line(key), name, "model_list", hint)


def _parameters(parameters: yaml.MappingNode) -> Iterator[Remark]:
    entries = _entries(parameters)
    yield from _twice(entries, "litellm_params")
    for name, key, _ in entries:
        if name in _NOT_FOR_A_MODEL:
            yield _ignored(_line(key), name, "litellm_params", _where_else(name, frozenset()))
    if _is_merged(parameters):
        return
    values = {name: _scalar(value) for name, _, value in entries}
    if not values.get("model"):
        yield Remark(_line(parameters), "model", ignored=False, sentence="litellm_params has no model")
    elif values["model"].startswith(("ollama/", "ollama_chat/")) and not values.get("api_base"):
        yield Remark(
            _line(parameters), "api_base", ignored=False,
            sentence=f"{values['model']} has no api_base: LiteLLM starts an `ollama serve` of its own for it",
        )  # fmt: skip


def _fallbacks(sections: Entries, served: set[str]) -> Iterator[Remark]:
    """Names in fallbacks that no model answers to: LiteLLM says nothing until a request falls there."""
    for section, _, settings in sections:
        entries = _entries(settings) if section in ("router_settings", "litellm_settings") else []
        for name, _, value in entries:
            if name != "fallbacks" or any("*" in model_name for model_name in served):
                continue
            for target in _names_in(value):
                if _scalar(target) not in served:
                    sentence = f"fallbacks name {_scalar(target)!r}, which no row of model_list is called"
                    yield Remark(_line(target), "fallbacks", ignored=False, sentence=sentence)


def _names_in(fallbacks: yaml.Node) -> Iterator[yaml.Node]:
    """Both sides of each entry; what is not a name (a model with parameters) is passed over."""
    for entry in fallbacks.value if isinstance(fallbacks, yaml.SequenceNode) else []:
        for key, targets in entry.value if isinstance(entry, yaml.MappingNode) else []:
            named = [key, *(targets.value if isinstance(targets, yaml.SequenceNode) else [])]
            yield from (node for node in named if isinstance(node, yaml.ScalarNode) and node.value != "*")


def _ignored(line: int, key: str, section: str, hint: str) -> Remark:
    where = f" under {section}" if section else ""
    told = f"; {hint}" if hint else ""
    return Remark(line, key, ignored=True, sentence=f"LiteLLM ignores {key!r}{where}{told}")


def _where_else(name: str, here: frozenset[str]) -> str:
    """Where a key would be read, or which key was meant."""
    if name in keys.MISTAKEN:
        return keys.MISTAKEN[name]
    if name in keys.SECTIONS:
        return "it is a section of its own, at the left edge"
    others = [section for section, known in _SECTIONS.items() if name in known]
    if others:
        return f"it is read under {' and '.join(others)}"
    alike = difflib.get_close_matches(name, here, 1)
    return f"did you mean {alike[0]}?" if alike else ""


def _twice(entries: Entries, section: str = "") -> Iterator[Remark]:
    seen: dict[str, int] = {}
    for name, key, _ in entries:
        if name in seen:
            where = f" under {section}" if section else ""
            sentence = f"{name!r}{where} stands here once more (line {_line(key)}), and that one counts"
            yield Remark(seen[name], name, ignored=True, sentence=sentence)
        seen[name] = _line(key)


def _entries(node: yaml.Node) -> Entries:
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return [(_scalar(key), key, value) for key, value in pairs if _scalar(key) != "<<"]


def _is_merged(node: yaml.Node) -> bool:
    """Whether parts of it stand elsewhere, so that what is missing here may be there."""
    return isinstance(node, yaml.MappingNode) and any(_scalar(key) == "<<" for key, _ in node.value)


def _scalar(node: yaml.Node | None) -> str:
    return str(node.value) if isinstance(node, yaml.ScalarNode) else ""


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def as_json(remarks: list[Remark]) -> list[Mapping[str, object]]:
    """For a program."""
    return [
        {"line": each.line, "key": each.key, "ignored": each.ignored, "sentence": each.sentence}
        for each in remarks
    ]
