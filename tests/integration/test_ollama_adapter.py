"""The adapter against a server that answers in every ugly way there is."""

from __future__ import annotations

import json
import socket
import threading
import time

import pytest

from beds.scripted import Script, answer, drip, flood, hang_up, reset, scripted, silence
from ollama_guard.errors import OllamaError
from ollama_guard.hands.adapters.ollama import OllamaAdapter

DEADLINE_SECONDS = 0.6
# On a loaded machine; a deadline that holds per receive only would be passed tenfold.
SLACK_SECONDS = 1.0
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"

UGLY: dict[str, tuple[Script, str]] = {
    "garbage instead of http": (lambda c, _: c.sendall(b"\x00\x16\x03garbage\r\n\r\n"), "bad_answer"),
    "garbage in the body": (answer(b"\xff\xfe{{{"), "bad_answer"),
    "an empty body": (answer(b""), "bad_answer"),
    "html": (answer(b"<html><body>It works!</body></html>"), "bad_answer"),
    "json of another shape": (answer(b'[{"version": 3}]'), "bad_answer"),
    "json nested without end": (answer(b"[" * 500_000), "bad_answer"),
    "a redirect": (answer(b"", "302 Found", "Location: http://127.0.0.1:1/"), "redirect"),
    "a 500 with a reason": (answer(b'{"error":"out of memory"}', "500 Internal Server Error"), "http_error"),
    "a 502 of a proxy": (answer(b"<html>Bad Gateway</html>", "502 Bad Gateway"), "http_error"),
    "a 403 without a body": (answer(b"", "403 Forbidden"), "http_error"),
    "a 404": (answer(b'{"error":"model not found"}', "404 Not Found"), "not_found"),
    "ten megabytes": (flood(10, f"Content-Length: {10 * 1024**2}"), "too_large"),
    "ten megabytes of unsaid length": (flood(10), "too_large"),
    "a body that drips": (drip(HEAD, b" " * 1000), "timeout"),
    "headers that drip": (drip(b"", b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 1000), "timeout"),
    "endless early hints": (drip(b"", b"HTTP/1.1 102 Processing\r\n\r\n" * 50, 0.01), "timeout"),
    "silence": (silence, "timeout"),
    "a reset": (reset, "bad_answer"),
    "a connection closed in the middle": (hang_up, "bad_answer"),
}


@pytest.mark.parametrize("ugly", UGLY)
def test_every_ugly_answer_has_its_name_and_ends_within_the_deadline(ugly: str) -> None:
    script, kind = UGLY[ugly]
    with scripted(script) as url:
        started = time.monotonic()
        with pytest.raises(OllamaError) as caught:
            OllamaAdapter(url).version(DEADLINE_SECONDS)
        took = time.monotonic() - started
    assert caught.value.kind == kind
    assert took < DEADLINE_SECONDS + SLACK_SECONDS
    assert "\n" not in str(caught.value)


def test_a_timeout_is_not_named_before_its_time() -> None:
    with scripted(drip(HEAD, b" " * 1000)) as url:
        started = time.monotonic()
        with pytest.raises(OllamaError, match=r"not answered within 0\.6 s"):
            OllamaAdapter(url).version(DEADLINE_SECONDS)
        assert time.monotonic() - started >= DEADLINE_SECONDS * 0.9


def test_a_port_on_which_nobody_listens_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(OllamaError, match="can't connect") as caught:
        OllamaAdapter(f"http://127.0.0.1:{port}").version(DEADLINE_SECONDS)
    assert caught.value.kind == "refused"


def test_a_backlog_that_is_full_is_a_timeout() -> None:
    """A stopped server's kernel accepts until the backlog is full, then connects hang."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address = full.getsockname()
        others = [socket.socket() for _ in range(4)]
        for other in others:
            other.setblocking(False)  # noqa: FBT003  (the standard library's own signature)
            other.connect_ex(address)
        started = time.monotonic()
        with pytest.raises(OllamaError) as caught:
            OllamaAdapter(f"http://127.0.0.1:{address[1]}").version(DEADLINE_SECONDS)
        assert caught.value.kind == "timeout"
        assert time.monotonic() - started < DEADLINE_SECONDS + SLACK_SECONDS
        for other in others:
            other.close()


def test_the_environment_s_proxy_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    with scripted(answer(b'{"version":"0.33.0"}')) as url:
        assert OllamaAdapter(url).version(DEADLINE_SECONDS) == "0.33.0"


def test_a_request_says_who_asks_and_carries_no_origin() -> None:
    """An Origin header would be refused by Ollama's CORS check."""
    heads: list[bytes] = []

    def script(connection: socket.socket, over: threading.Event) -> None:
        answer(b'{"version":"0.33.0"}')(connection, over)

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                heads.append(connection.recv(65536))
                script(connection, threading.Event())

        thread = threading.Thread(target=serve)
        thread.start()
        OllamaAdapter(f"http://127.0.0.1:{listener.getsockname()[1]}").version(DEADLINE_SECONDS)
        thread.join()
    head = heads[0].lower()
    assert b"user-agent: ollama-guard/" in head
    assert b"origin" not in head


@pytest.mark.parametrize(
    "name",
    ["two words", 'quo"ted', "a/b/c:d", "über-modèl:日本", "line\nbreak\x00\x1b[31m", "\ud800", "x" * 5000],
)
def test_a_hostile_model_name_arrives_whole_and_its_error_stays_one_line(name: str) -> None:
    bodies: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                received = b""
                while not received.endswith(b"}"):
                    received += connection.recv(65536)
                bodies.append(received.partition(b"\r\n\r\n")[2])
                error = json.dumps({"error": f"model '{name}' not found"}).encode()
                answer(error, "404 Not Found")(connection, threading.Event())

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(OllamaError) as caught:
            OllamaAdapter(f"http://127.0.0.1:{listener.getsockname()[1]}").unload(name, DEADLINE_SECONDS)
        thread.join()
    assert json.loads(bodies[0]) == {"model": name, "keep_alive": 0, "stream": False}
    assert caught.value.kind == "not_found"
    assert str(caught.value).isprintable()
