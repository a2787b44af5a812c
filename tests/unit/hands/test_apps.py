"""The two applications, called as a server calls them: every request gets JSON, none a traceback."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_guard.control.apps import Answer, Application, control_app, status_app
from ollama_guard.control.health import STALE_SECONDS


class HungUp:
    """A board with a given status of a given age."""

    def __init__(self, status: dict[str, Any] | None, age: float = 1.0) -> None:
        self.status, self.age = status, age
        self.looked_up = 0

    def document(self) -> dict[str, Any] | None:
        """As given."""
        return self.status

    def look_up(self) -> None:
        """Count it."""
        self.looked_up += 1

    def age_seconds(self) -> float:
        """As given."""
        return self.age


class Shelf:
    """Tells of the given models, or nothing."""

    def __init__(self, models: dict[str, Any] | None = None) -> None:
        self.models = models

    def document(self, deadline_seconds: float) -> dict[str, Any] | None:
        """As given."""
        assert deadline_seconds > 0
        return self.models

    tiers = document


class Sentinel:
    """Answers every wish alike, and remembers them."""

    def __init__(self, answer: Answer | None) -> None:
        self.answer = answer
        self.asked: list[tuple[str, str, float | None]] = []

    def ask(self, verb: str, model: str, seconds: float | None, deadline_seconds: float) -> Answer | None:
        """The given answer."""
        assert deadline_seconds > 0
        self.asked.append((verb, model, seconds))
        return self.answer


def call(app: Application, method: str, path: str, body: bytes = b"") -> tuple[int, Any, dict[str, str]]:
    started: list[tuple[str, dict[str, str]]] = []
    path, _, query = path.partition("?")
    environ = {
        "REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": query, "wsgi.input": io.BytesIO(body)
    }  # fmt: skip
    content = b"".join(app(environ, lambda status, headers: started.append((status, dict(headers)))))
    (status, headers) = started[0]
    assert int(headers["Content-Length"]) == len(content)
    return int(status.split()[0]), json.loads(content), headers


def control(sentinel: Sentinel) -> Application:
    return control_app(sentinel, lambda: 10.0)


def test_until_the_first_status_comes_the_guard_is_starting() -> None:
    for path in ("/status", "/health"):
        assert call(status_app(HungUp(None), Shelf()), "GET", path)[:2] == (503, {"error": "starting"})


def test_the_status_is_served_as_it_hangs() -> None:
    status = {"level": "ok", "models": [{"name": "über \ud800\n"}]}
    assert call(status_app(HungUp(status), Shelf()), "GET", "/status")[:2] == (200, status)


def test_who_asks_for_a_brief_status_makes_nobody_look_anything_up() -> None:
    """A program that asks twice a second has no use for who holds the memory; a person has."""
    board = HungUp({"level": "ok"})
    app = status_app(board, Shelf())
    assert call(app, "GET", "/status?brief")[:2] == (200, {"level": "ok"})
    assert board.looked_up == 0
    assert call(app, "GET", "/status?other")[0] == call(app, "GET", "/status")[0] == 200
    assert board.looked_up == 2


@pytest.mark.parametrize(
    ("status", "age", "code", "why"),
    [
        ({"level": "ok"}, 1.0, 200, "answer"),
        ({"level": "critical", "conditions": [{"condition": "MemoryPressure"}]}, 1.0, 200, "answer"),
        ({"level": "ok"}, STALE_SECONDS + 1, 503, "no news"),
        ({"conditions": [{"condition": "Blind", "reason": "no meminfo"}]}, 1.0, 503, "Blind: no meminfo"),
        ({"conditions": [{"condition": "OllamaUnresponsive", "reason": "40 s"}]}, 1.0, 503, "40 s"),
        ({"conditions": "nonsense"}, 1.0, 200, "answer"),
    ],
)
def test_health_says_in_one_line_what_ails(status: dict[str, Any], age: float, code: int, why: str) -> None:
    answered, body, _ = call(status_app(HungUp(status, age), Shelf()), "GET", "/health")
    assert answered == code
    assert body["healthy"] is (code == 200)
    assert why in body["why"]


def test_health_tells_the_guard_from_ollama() -> None:
    """What restarts the guard when it is unhealthy must not do so because Ollama is silent."""
    silent = {"conditions": [{"condition": "OllamaUnresponsive", "reason": "40 s"}]}
    code, body, _ = call(status_app(HungUp(silent), Shelf()), "GET", "/health")
    assert (code, body["healthy"], body["guard"]["healthy"]) == (503, False, True)
    blind = {"conditions": [{"condition": "Blind", "reason": "no meminfo"}]}
    _, body, _ = call(status_app(HungUp(blind), Shelf()), "GET", "/health")
    assert body["guard"] == {"healthy": False, "why": "Blind: no meminfo"}


@pytest.mark.parametrize("path", ["/models", "/tiers"])
def test_models_and_tiers_are_told_as_they_come_and_a_silent_sentinel_is_503(path: str) -> None:
    told = {path[1:]: [{"name": "a:latest"}]}
    assert call(status_app(HungUp({}), Shelf(told)), "GET", path)[:2] == (200, told)
    code, body, _ = call(status_app(HungUp({}), Shelf()), "GET", path)
    assert (code, "did not answer within" in body["error"]) == (503, True)


def test_other_paths_and_methods_are_refused_as_json() -> None:
    status, acting = status_app(HungUp({}), Shelf()), control(Sentinel(None))
    assert call(status, "GET", "/unload")[0] == 404
    assert call(status, "POST", "/status")[0] == 405
    assert call(acting, "POST", "/status")[0] == 404
    code, body, headers = call(acting, "GET", "/unload")
    assert (code, body["ok"], headers["Allow"]) == (405, False, "POST")


@pytest.mark.parametrize(
    ("path", "body", "wish"),
    [
        ("/unload", b'{"model":"a b\\n\\"c\\""}', ("unload", 'a b\n"c"', None)),
        ("/unload", b'{"all":true}', ("unload", "*", None)),
        ("/pause", b'{"seconds":60}', ("pause", "", 60.0)),
        ("/resume", b"", ("resume", "", None)),
        ("/resume", b"{}", ("resume", "", None)),
    ],
)
def test_a_wish_is_passed_on_and_answered(
    path: str, body: bytes, wish: tuple[str, str, float | None]
) -> None:
    sentinel = Sentinel(Answer(ok=True, text="done", detail={"freed_bytes": 5}))
    answer = {"ok": True, "text": "done", "detail": {"freed_bytes": 5}}
    assert call(control(sentinel), "POST", path, body)[:2] == (200, answer)
    assert sentinel.asked == [wish]


def test_a_refusal_is_409_and_silence_503() -> None:
    refused = Sentinel(Answer(ok=False, text="no such model"))
    assert call(control(refused), "POST", "/unload", b'{"model":"x"}')[0] == 409
    code, body, _ = call(control(Sentinel(None)), "POST", "/resume")
    assert code == 503
    assert "did not answer within" in body["text"]


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/unload", b"{}", '"model"'),
        ("/unload", b'{"model":"x","all":true}', "either"),
        ("/unload", b'{"model":""}', "1 to"),
        ("/unload", b'{"model":"*"}', '"model"'),
        ("/unload", b'{"model":5}', '"model"'),
        ("/unload", b'{"all":false}', '"all" must be true'),
        ("/unload", b'{"modle":"x"}', "'modle'; allowed: model, all"),
        ("/pause", b"{}", '"seconds"'),
        ("/pause", b'{"seconds":0}', "above 0"),
        ("/pause", b'{"seconds":-5}', "above 0"),
        ("/pause", b'{"seconds":"1h"}', "number"),
        ("/pause", b'{"seconds":true}', "number"),
        ("/pause", b'{"seconds":NaN}', "number"),
        ("/pause", b'{"seconds":1e999}', "number"),
        ("/resume", b'{"now":1}', "allowed: none"),
        ("/resume", b"[]", "object"),
        ("/resume", b"{", "not JSON"),
        ("/resume", b"\xff", "not JSON"),
        ("/resume", b"[" * 16000, "not JSON"),
        ("/resume", b" " * 20000, "longer than"),
    ],
)
def test_a_bad_body_is_400_and_says_which_key_and_what_is_allowed(path: str, body: bytes, said: str) -> None:
    sentinel = Sentinel(None)
    code, answer, _ = call(control(sentinel), "POST", path, body)
    assert code == 400
    assert said in answer["text"]
    assert sentinel.asked == []


@given(st.sampled_from(["/unload", "/pause", "/resume"]), st.binary(max_size=300))
def test_no_body_at_all_makes_a_traceback(path: str, body: bytes) -> None:
    code, _, _ = call(control(Sentinel(Answer(ok=True, text="done"))), "POST", path, body)
    assert code in (200, 400)
