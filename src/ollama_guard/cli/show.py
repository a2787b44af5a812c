"""The status document as a person reads it. Foreign text (model names, errors) stays one line each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from ollama_guard.core.events import one_line
from ollama_guard.core.units import bytes_text, seconds_text

LABEL_WIDTH = 11  # characters: the longest label and two spaces


def status_text(document: Mapping[str, Any]) -> str:
    """The whole document, one fact per line; what is not known says why."""
    unknown: Mapping[str, str] = document.get("unknown") or {}
    lines = [_line("level", f"{document['level']}{_since(document.get('since'))}, mode {document['mode']}")]
    lines += [_line(domain["name"], _domain(domain, unknown)) for domain in document["domains"]]
    lines += _labelled("ollama", [_ollama(document["ollama"], unknown)])
    lines += _labelled("models", [_model(model) for model in document["models"]] or ["none loaded"])
    lines += _labelled("condemned", [_condemned(record) for record in document["condemned"]])
    lines += _labelled("condition", [_condition(held) for held in document["conditions"]])
    lines += _labelled("decision", _decision(document.get("last_decision")))
    lines += _labelled("guard", _guard(document))
    return "\n".join(lines)


def _labelled(label: str, values: list[str]) -> Iterator[str]:
    for position, value in enumerate(values):
        yield _line(label if position == 0 else "", value)


def _line(label: str, value: str) -> str:
    return f"{one_line(label):<{LABEL_WIDTH}}{one_line(value)}"


def _domain(domain: Mapping[str, Any], unknown: Mapping[str, str]) -> str:
    available, capacity = domain["available_bytes"], domain["capacity_bytes"]
    if available is None or not capacity:
        reason = unknown.get(f"domains.{domain['name']}.available_bytes", "no reason given")
        return f"{domain['level']}: available memory is not known ({reason})"
    text = f"{domain['level']}: {bytes_text(available)} of {bytes_text(capacity)} available"
    text += f" ({100 * available / capacity:.0f}%)"
    slope, left = domain["slope_bytes_per_second"], domain["time_to_exhaustion_seconds"]
    if slope is not None and slope < 0 and left is not None:
        text += f", falling {bytes_text(-slope)}/s, {seconds_text(left)} to exhaustion"
    some, full = domain["psi_some_avg10"], domain["psi_full_avg10"]
    if some is not None:
        text += f", pressure some {some:g}%" + ("" if full is None else f" full {full:g}%")
    return text


def _ollama(ollama: Mapping[str, Any], unknown: Mapping[str, str]) -> str:
    if not ollama["alive"]:
        return f"{ollama['url']} does not answer ({unknown.get('ollama.version', 'it did before')})"
    text = f"{ollama['url']} version {ollama['version'] or 'unknown'}"
    if ollama["latency_seconds"] is not None:
        text += f", answered in {1000 * ollama['latency_seconds']:.0f} ms"
    soft = ollama["cap"]["soft"]
    return text if soft is None else f"{text}, soft cap {soft}"


def _model(model: Mapping[str, Any]) -> str:
    text = f"{model['name'] or model['blob'] or 'a model not known yet'}"
    if model["aliases"]:
        text += f" (also {', '.join(model['aliases'])})"
    text += f"  {model['state']}"
    if model["resident_bytes"] is not None:
        text += f"  {bytes_text(model['resident_bytes'])}"
    text += f"  pid {model['pid']}" if model["pid"] is not None else ""
    return text if model["preference"] == "none" else f"{text}  preference {model['preference']}"


def _condemned(record: Mapping[str, Any]) -> str:
    names = ", ".join(record["names"]) or record["blob"]
    needs = bytes_text(record["needs_bytes"])
    return f"{names} until {_clock(record['until'])}: needs {needs}, more than there is"


def _condition(held: Mapping[str, Any]) -> str:
    return f"{held['condition']}{_since(held['since'])}: {held['reason']}"


def _decision(decision: Mapping[str, Any] | None) -> list[str]:
    if decision is None:
        return ["none so far: nothing had to be done"]
    text = f"{_clock(decision['at'])} {decision['action']}: {decision['reason']}"
    if decision["outcome"] is None:
        return [text]
    freed = decision["freed_bytes"]
    return [text, f"{decision['outcome']}" + ("" if freed is None else f", {bytes_text(freed)} came back")]


def _guard(document: Mapping[str, Any]) -> list[str]:
    guard = document["guard"]
    text = f"version {document['version']}"
    text += f", pid {guard['pid']}" if guard["pid"] is not None else ""
    text += f", {bytes_text(guard['pss_bytes'])}" if guard["pss_bytes"] is not None else ""
    return [text]


def _since(wall: float | None) -> str:
    return "" if wall is None else f" since {_clock(wall)}"


def _clock(wall: float | None) -> str:
    """Local time, with the date unless it is today."""
    if wall is None:
        return "an unknown time"
    moment = datetime.fromtimestamp(wall).astimezone()
    today = moment.date() == datetime.now().astimezone().date()
    return moment.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S")
