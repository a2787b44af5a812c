"""The two WSGI applications: status to read, control to act. Every answer is JSON, also every refusal."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ollama_guard.control.health import guard_ailment, ollama_ailment
from ollama_guard.core.hiding import DEADLINE_SECONDS

# Bytes; a model's name has at most 590 (facts 5.1).
BODY_LIMIT = 16 * 1024
# Characters of a model's name that are passed on.
NAME_LIMIT = 1000
# Seconds to wait for the sentinel; it answers a pause within a tick.
ANSWER_SECONDS = 10.0
# The same for its scene, which it tells at once; those who ask wait for 5 s in all.
SCENE_SECONDS = 3.0
# The same for what hands do themselves: the longest time-out of a webhook, and a little.
OWN_SECONDS = 65.0

# Seconds that a verb may take beyond that: undoing all that was set takes as long as its slowest part.
SECONDS = {"release": 120.0, "quarantine": DEADLINE_SECONDS, "restore": DEADLINE_SECONDS}
# What may be asked for, with the keys that its body may have.
VERBS: Mapping[str, tuple[str, ...]] = {
    "unload": ("model", "all"),
    "pause": ("seconds",),
    "resume": (),
    "playbook": ("name",),
    "release": (),
    "quarantine": ("model",),
    "restore": ("model",),
    "notify": (),
}

_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 409: "Conflict",
            503: "Service Unavailable"}  # fmt: skip

Environ = Mapping[str, Any]
StartResponse = Callable[[str, list[tuple[str, str]]], object]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]


@dataclass(frozen=True, slots=True)
class Answer:
    """The sentinel's answer to a wish; ``ok`` False means refused or failed."""

    ok: bool
    text: str
    detail: Mapping[str, Any] = field(default_factory=dict)


class Board(Protocol):
    """Where the newest status hangs."""

    def document(self) -> dict[str, Any] | None:
        """The contract's status document; None until the first one has come."""

    def look_up(self) -> None:
        """Somebody asks for it: have that looked up which is looked up on demand only."""

    def age_seconds(self) -> float:
        """How old it is."""


class Models(Protocol):
    """Who knows what is installed, what would fit now, which tiers may be used, what a playbook would do."""

    def document(self, deadline_seconds: float) -> dict[str, Any] | None:
        """Wait for it; None when the sentinel did not tell within the deadline."""

    def playbooks(self, deadline_seconds: float) -> dict[str, Any] | None:
        """The same of every playbook."""

    def tiers(self, deadline_seconds: float) -> dict[str, Any] | None:
        """The same of the ladder."""


class Asker(Protocol):
    """Who passes wishes on to the sentinel."""

    def ask(self, verb: str, model: str, seconds: float | None, deadline_seconds: float) -> Answer | None:
        """Wait for the answer; None when none came within the deadline."""


Own = Callable[[float], Answer | None]


class _BadRequest(ValueError):
    """A body that can't be understood; the sentence says which key, and what is allowed."""


def status_app(board: Board, models: Models) -> Application:
    """``GET /status`` (``?brief``: without a look), ``/health``, ``/models``, ``/tiers``, ``/playbooks``."""

    def app(environ: Environ, start: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path not in ("/status", "/health", "/models", "/tiers", "/playbooks"):
            known = "/status, /health, /models, /tiers and /playbooks"
            return _respond(start, 404, {"error": f"unknown path; there are {known}"})
        if environ.get("REQUEST_METHOD") != "GET":
            return _respond(start, 405, {"error": "only GET"}, allow="GET")
        if path == "/status" and environ.get("QUERY_STRING") != "brief":
            board.look_up()
        document = board.document()
        if document is None:
            return _respond(start, 503, {"error": "starting"})
        match path:
            case "/status":
                return _respond(start, 200, document)
            case "/health":
                health = _health(document, board.age_seconds())
                return _respond(start, 200 if health["healthy"] else 503, health)
            case "/tiers":
                return _listing(start, models.tiers(SCENE_SECONDS))
            case "/playbooks":
                return _listing(start, models.playbooks(SCENE_SECONDS))
            case _:
                return _listing(start, models.document(SCENE_SECONDS))

    return app


def _listing(start: StartResponse, document: dict[str, Any] | None) -> Iterable[bytes]:
    if document is None:
        return _respond(start, 503, {"error": f"the sentinel did not answer within {SCENE_SECONDS:.0f} s"})
    return _respond(start, 200, document)


def control_app(
    asker: Asker, unload_seconds: Callable[[], float], own: Mapping[str, Own] | None = None
) -> Application:
    """``POST`` of each of `VERBS`; ``unload_seconds`` says how long an unload may take.

    ``own`` are the verbs that this process carries out by itself; the others go to the sentinel.
    """
    granted = own or {}

    def app(environ: Environ, start: StartResponse) -> Iterable[bytes]:
        verb = str(environ.get("PATH_INFO", ""))[1:]
        if verb not in VERBS:
            *others, last = (f"/{known}" for known in VERBS)
            return _refuse(start, 404, f"unknown path; there are {', '.join(others)} and {last}")
        if environ.get("REQUEST_METHOD") != "POST":
            return _refuse(start, 405, "only POST", allow="POST")
        try:
            model, seconds = _wish(verb, _body(environ))
        except _BadRequest as problem:
            return _refuse(start, 400, str(problem))
        limit = ANSWER_SECONDS + (unload_seconds() if verb == "unload" else SECONDS.get(verb, 0.0))
        if verb in granted:
            limit, answer = OWN_SECONDS, granted[verb](OWN_SECONDS)
        else:
            answer = asker.ask(verb, model, seconds, limit)
        if answer is None:
            who = "hands" if verb in granted else "the sentinel"
            return _refuse(start, 503, f"{who} did not answer within {limit:.0f} s")
        body = {"ok": answer.ok, "text": answer.text, "detail": dict(answer.detail)}
        return _respond(start, 200 if answer.ok else 409, body)

    return app


def _health(document: Mapping[str, Any], age_seconds: float) -> dict[str, Any]:
    """Both together, and the guard alone: a restart of the guard mends nothing of Ollama's."""
    own = guard_ailment(document, age_seconds)
    why = own or ollama_ailment(document)
    return {
        "healthy": not why,
        "level": document.get("level"),
        "why": why or "the guard and Ollama answer",
        "guard": {"healthy": not own, "why": own or "the guard is at work"},
    }


def _wish(verb: str, body: dict[str, Any]) -> tuple[str, float | None]:
    """(model, seconds) of a request's body; ``*`` is every model."""
    allowed = VERBS[verb]
    unknown = sorted(set(body) - set(allowed))
    if unknown:
        known = ", ".join(allowed) or "none"
        raise _BadRequest(f"unknown key {unknown[0][:60]!r}; allowed: {known}")
    match verb:
        case "unload":
            return _model(body), None
        case "quarantine" | "restore":
            return _name(body.get("model")), None
        case "pause":
            return "", _seconds(body)
        case "playbook":
            return _model({"model": body.get("name")}), None
        case _:
            return "", None


def _model(body: dict[str, Any]) -> str:
    if ("model" in body) == ("all" in body):
        raise _BadRequest('give either "model" (a name) or "all" (true)')
    if "all" in body:
        if body["all"] is not True:
            raise _BadRequest('"all" must be true; leave it out to unload one model')
        return "*"
    return _name(body["model"])


def _name(model: object) -> str:
    if not isinstance(model, str) or not 0 < len(model) <= NAME_LIMIT or model == "*":
        raise _BadRequest(f'"model" must be a model\'s name of 1 to {NAME_LIMIT} characters')
    return model


def _seconds(body: dict[str, Any]) -> float:
    seconds = body.get("seconds")
    number = float("nan")
    if isinstance(seconds, (int, float)) and not isinstance(seconds, bool) and abs(seconds) < 2**62:
        number = float(seconds)
    if not math.isfinite(number) or number <= 0:
        raise _BadRequest('"seconds" must be a number above 0')
    return number


def _body(environ: Environ) -> dict[str, Any]:
    raw = environ["wsgi.input"].read(BODY_LIMIT + 1)
    if len(raw) > BODY_LIMIT:
        raise _BadRequest(f"the body is longer than {BODY_LIMIT} bytes")
    if not raw.strip():
        return {}
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as problem:
        raise _BadRequest(f"the body is not JSON: {problem}") from problem
    if not isinstance(body, dict):
        raise _BadRequest("the body must be a JSON object")
    return body


def _refuse(start: StartResponse, code: int, text: str, allow: str = "") -> Iterable[bytes]:
    return _respond(start, code, {"ok": False, "text": text, "detail": {}}, allow)


def _respond(start: StartResponse, code: int, body: Mapping[str, Any], allow: str = "") -> Iterable[bytes]:
    content = json.dumps(body).encode("ascii") + b"\n"
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(content)))]
    if allow:
        headers.append(("Allow", allow))
    start(f"{code} {_REASONS[code]}", headers)
    return [content]
