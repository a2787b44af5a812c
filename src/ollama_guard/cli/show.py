"""The status document as a person reads it. Foreign text (model names, errors) stays one line each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from ollama_guard.core.events import one_line
from ollama_guard.core.units import bytes_text, seconds_text

LABEL_WIDTH = 11  # characters: the longest label and two spaces
BLOB_WIDTH = 19  # characters: as much of a digest as people compare, as `ollama list` shows of an ID

_STANDS = {
    "constrained": "its constraints hold",
    "lifted": "its constraints are lifted from Ollama's next start on; what runs now was started with them",
}


def status_text(document: Mapping[str, Any]) -> str:
    """The whole document, one fact per line; what is not known says why.

    The document of one look without a daemon has a ``decision`` (see `cli.glance`), and no past to tell of.
    """
    unknown: Mapping[str, str] = document.get("unknown") or {}
    now = document.get("decision")
    lines = [
        _line("level", _level(document) if now is None else f"{document['level']}, one look, nothing is done")
    ]
    lines += [_domain_line(domain, unknown) for domain in document["domains"]]
    lines += _labelled("ollama", [_ollama(document["ollama"], unknown)])
    lines += _labelled("models", [_model(model) for model in document["models"]] or ["none loaded"])
    lines += _labelled("tiers", _ladder(document, unknown))
    lines += _labelled("consumers", consumers_lines(document))
    lines += _labelled("condemned", [_condemned(record) for record in document["condemned"]])
    lines += _labelled("hidden", [_hidden(entry) for entry in document.get("quarantine") or []])
    lines += _labelled("playbook", _playbook(document.get("playbook") or {}))
    lines += _labelled("condition", [_condition(held) for held in document["conditions"]])
    lines += _labelled("decision", _decision(document.get("last_decision")) if now is None else [])
    lines += _labelled("guard", _guard(document))
    lines += _labelled("now", [] if now is None else [_now(now)])
    return "\n".join(lines)


def _labelled(label: str, values: list[str]) -> Iterator[str]:
    for position, value in enumerate(values):
        yield _line(label if position == 0 else "", value)


def _line(label: str, value: str) -> str:
    return f"{one_line(label):<{LABEL_WIDTH}}{one_line(value)}"


def _level(document: Mapping[str, Any]) -> str:
    return f"{document['level']}{_since(document.get('since'))}, mode {document['mode']}"


def _domain_line(domain: Mapping[str, Any], unknown: Mapping[str, str]) -> str:
    """Of several containers each carries its name, which may be long: it goes behind the label."""
    kind, _, name = domain["name"].partition(":")
    return _line(kind, f"{name} {_domain(domain, unknown)}".lstrip())


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
        reason = unknown.get("ollama.version", "it did before")
        return f"{ollama['url']} does not answer ({reason})"
    text = f"{ollama['url']} version {ollama['version'] or 'unknown'}"
    if ollama["latency_seconds"] is not None:
        text += f", answered in {1000 * ollama['latency_seconds']:.0f} ms"
    runtime, caps = ollama["runtime"], ollama["cap"]
    if runtime["name"] is not None:
        text += f", run as {runtime['name']} ({runtime['kind']})"
    text += "".join(f", {kind} cap {caps[kind]}" for kind in ("soft", "hard") if caps[kind] is not None)
    return text if caps["pending"] is None else f"{text}, hard cap {caps['pending']} from its next start on"


def _model(model: Mapping[str, Any]) -> str:
    text = f"{model['name'] or blob_text(model['blob'])}"
    if model["aliases"]:
        text += f" (also {', '.join(model['aliases'])})"
    text += f"  {model['state']}"
    if model["resident_bytes"] is not None:
        text += f"  {bytes_text(model['resident_bytes'])}"
    text += f"  pid {model['pid']}" if model["pid"] is not None else ""
    return text if model["preference"] == "none" else f"{text}  preference {model['preference']}"


def _ladder(document: Mapping[str, Any], unknown: Mapping[str, str]) -> list[str]:
    """The largest tier that may be used, and why not the next one; [] without a ladder."""
    tiers, largest = document.get("tiers") or [], document.get("largest_allowed")
    if not tiers:
        return []
    place = next((place for place, tier in enumerate(tiers) if tier["name"] == largest), None)
    if place is None:
        return [unknown.get("largest_allowed", "none may be used now")]
    text = f"up to {largest} ({tiers[place]['model']})"
    above = tiers[place + 1 : place + 2]
    return [text + "".join(f", not {tier['name']}: {tier['reason']}" for tier in above)]


def blob_text(digest: str | None) -> str:
    """As much of a digest as people compare."""
    return "a model not known yet" if digest is None else digest[:BLOB_WIDTH]


def consumers_lines(document: Mapping[str, Any]) -> list[str]:
    """Who holds most, one a line; [] where nobody looked."""
    found = document.get("consumers") or []
    return [f"{bytes_text(one['bytes']):>8}  {one['name']} ({one['kind']})" for one in found]


def _condemned(record: Mapping[str, Any]) -> str:
    names = ", ".join(record["names"]) or blob_text(record["blob"])
    needs = bytes_text(record["needs_bytes"])
    return f"{names} until {clock_text(record['until'])}: needs {needs}, more than there is"


def _hidden(entry: Mapping[str, Any]) -> str:
    needs = f", needs {bytes_text(entry['needs_bytes'])}" if entry["needs_bytes"] else ""
    back = ", but somebody pulled it back" if entry["returned"] else ""
    return f"{entry['name']}{_since(entry['since'])}{needs}{back}"


def _playbook(playbook: Mapping[str, Any]) -> list[str]:
    """The run that goes on, else how the last one ended and what is left of it; [] where none ever ran."""
    if not playbook:
        return []
    if playbook["step"] is not None:
        return [f"{playbook['name']} is running: {playbook['step'].replace('_', ' ')}"]
    last = playbook["last"]
    ended = f"{clock_text(last['ended_at'])} {last['name']} {last['outcome']}: {last['text']}" if last else ""
    stands = [_STANDS[playbook["state"]]] if playbook["state"] in _STANDS else []
    return [*([ended] if ended else []), *stands]


def _condition(held: Mapping[str, Any]) -> str:
    return f"{held['condition']}{_since(held['since'])}: {held['reason']}"


def _decision(decision: Mapping[str, Any] | None) -> list[str]:
    if decision is None:
        return ["none so far: nothing had to be done"]
    text = f"{clock_text(decision['at'])} {decision['action']}: {decision['reason']}"
    if decision["outcome"] is None:
        return [text]
    freed = decision["freed_bytes"]
    return [text, f"{decision['outcome']}" + ("" if freed is None else f", {bytes_text(freed)} came back")]


def _now(decision: Mapping[str, Any]) -> str:
    rung, reason = decision["rung"], decision["reason"]
    return str(reason) if rung == "none" else f"{rung}: {reason}"


def _guard(document: Mapping[str, Any]) -> list[str]:
    guard = document["guard"]
    text = f"version {document['version']}"
    text += f", pid {guard['pid']}" if guard["pid"] is not None else ""
    text += f", {bytes_text(guard['pss_bytes'])}" if guard["pss_bytes"] is not None else ""
    return [text]


def _since(wall: float | None) -> str:
    return "" if wall is None else f" since {clock_text(wall)}"


def clock_text(wall: float | None) -> str:
    """Local time, with the date unless it is today."""
    if wall is None:
        return "an unknown time"
    moment = datetime.fromtimestamp(wall).astimezone()
    today = moment.date() == datetime.now().astimezone().date()
    return moment.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S")
