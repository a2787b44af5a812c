"""Answers as a client hears them: against the fake, and against a server that answers in ugly ways."""

from __future__ import annotations

import json
import socket
import threading
import time

import pytest

from beds.scripted import Script, answer, drip, hang_up, scripted, silence
from ollama_guard.cli.benchwork import answer_of
from ollama_guard.core.benchmark import End, Prompt
from ollama_guard.errors import OllamaError
from ollama_guard.hands.adapters.ollama.timing import Client
from ollama_guard.testing.fake import FakeOllama

HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
SLACK_SECONDS = 1.0


def lines(*records: object) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


class Stop(Exception):
    """What a meanwhile raises."""


def quiet() -> None:
    """A meanwhile that wants nothing."""


def test_an_answer_of_the_fake_has_ollamas_figures_and_the_clients_times() -> None:
    with FakeOllama(["small=20MiB,tps=50"]) as fake:
        client = Client(fake.url, 20.0, quiet)
        load = client.load("small", embeds=False)
        assert fake.loaded() == ["small:latest"]
        began = time.monotonic()
        spoken = client.answer("small", "hello", 20)
        took = time.monotonic() - began
    assert 0.0 < load < 10
    assert (spoken.tokens, spoken.pieces, spoken.done_reason, spoken.prompt_tokens) == (20, 20, "length", 8)
    assert spoken.first_token_seconds is not None
    assert 0 < spoken.first_token_seconds < spoken.total_seconds <= took
    # On a busy machine the fake is slower than told, and never quicker.
    assert spoken.tokens_per_second is not None
    assert 0 < spoken.tokens_per_second < 55
    assert spoken.pieces_per_second == pytest.approx(spoken.tokens_per_second, rel=0.5)


def test_what_was_loaded_here_leaves_by_itself_and_the_word_of_who_loaded_it_stands() -> None:
    """Keep-alive is sticky: a question without one leaves it as it is (facts 1.6)."""
    with FakeOllama(["small=20MiB"], env={"OLLAMA_KEEP_ALIVE": "-1"}) as fake:
        client = Client(fake.url, 20.0, quiet)
        client.load("small", embeds=False)
        client.answer("small", "hello", 1)
        own = fake.ps()[0]["expires_at"]
        fake.load("small", keep_alive=-1)
        client.answer("small", "hello", 1)
        others = fake.ps()[0]["expires_at"]
    assert int(own[:4]) < 2300 < int(others[:4])


def test_a_model_that_only_embeds_is_loaded_and_timed_by_embedding() -> None:
    with FakeOllama(["emb=20MiB,kind=embedding"]) as fake:
        client = Client(fake.url, 20.0, quiet)
        with pytest.raises(OllamaError, match="does not support generate"):
            client.load("emb", embeds=False)
        assert client.load("emb", embeds=True) > 0
        spoken = client.embed("emb", "hello")
    assert spoken.total_seconds > 0
    assert (spoken.first_token_seconds, spoken.tokens) == (None, None)


def test_an_answer_that_never_ends_is_cut_at_the_deadline_and_counts_as_it_came() -> None:
    with FakeOllama(["small=20MiB,tps=20"]) as fake:
        client = Client(fake.url, 1.5, quiet)
        client.load("small", embeds=False)
        spoken = client.answer("small", "hello", 4096)
        fake.wait(lambda: fake.runner("small")["references"] == 0)  # type: ignore[index]
    assert spoken.done_reason is None
    assert 1.5 <= spoken.total_seconds < 1.5 + SLACK_SECONDS
    assert spoken.tokens is None
    assert spoken.pieces > 1
    assert 0 < (spoken.pieces_per_second or 0.0) < 25


def test_a_fast_stream_that_ignores_the_bound_of_tokens_is_hung_up_on() -> None:
    """By the deadline alone it would go on for minutes, hundreds of thousands of pieces long."""

    def flood(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(HEAD)
        while not over.is_set():
            connection.sendall(lines({"response": "a"}))

    with scripted(flood) as url:
        spoken = Client(url, 60.0, quiet).answer("m", "hello", 50)
    assert (spoken.pieces, spoken.done_reason, spoken.tokens) == (101, "length", None)
    assert spoken.total_seconds < 30
    assert (spoken.pieces_per_second or 0.0) > 0


def test_an_answer_that_ollama_ends_for_repeating_itself_counts_as_it_came() -> None:
    """Then there is no last record: seen of a real Ollama 0.5.4."""
    with scripted(answer(lines(*[{"response": "a"}] * 31))) as url:
        spoken = Client(url, 60.0, quiet).answer("m", "hello", 50)
    assert (spoken.pieces, spoken.done_reason, spoken.tokens) == (31, "repeat", None)
    assert answer_of(Prompt.BASIC, spoken, 50).end is End.REPEAT


UGLY: dict[str, tuple[Script, str]] = {
    "an error instead of an answer": (
        answer(
            b'{"error":"llama-server process has terminated: signal: killed"}', "500 Internal Server Error"
        ),
        "http_error",
    ),
    "an error in the middle": (answer(lines({"response": "a"}, {"error": "unexpected EOF"})), "http_error"),
    "no last record": (answer(lines({"response": "a"}, {"response": "b"})), "bad_answer"),
    "nothing at all": (answer(b""), "bad_answer"),
    "a record that is none": (answer(lines({"response": "a"}, [1])), "bad_answer"),
    "not json": (answer(b"<html>\n"), "bad_answer"),
    "a line without end": (lambda c, _: c.sendall(HEAD + b"x" * 2_000_000), "too_large"),
    "a connection closed in the middle": (hang_up, "bad_answer"),
    "silence": (silence, "timeout"),
    "a first record that drips": (drip(HEAD, b'{"response": ' + b" " * 1000, 0.2), "timeout"),
}


@pytest.mark.parametrize("ugly", UGLY)
def test_every_ugly_answer_has_its_name_and_ends_within_the_deadline(ugly: str) -> None:
    script, kind = UGLY[ugly]
    with scripted(script) as url:
        began = time.monotonic()
        with pytest.raises(OllamaError) as caught:
            Client(url, 0.6, quiet).answer("m", "hello", 5)
        took = time.monotonic() - began
    assert caught.value.kind == kind
    assert took < 0.6 + SLACK_SECONDS


def test_odd_figures_are_not_believed() -> None:
    last = {"done": True, "done_reason": 3, "eval_count": -1, "eval_duration": 0, "prompt_eval_count": "x"}
    with scripted(answer(lines({"response": "a"}, {"thinking": "b"}, last))) as url:
        spoken = Client(url, 5.0, quiet).answer("m", "hello", 5)
    assert (spoken.pieces, spoken.tokens, spoken.tokens_per_second) == (2, None, None)
    assert (spoken.prompt_tokens, spoken.done_reason) == (None, "")


def test_what_the_meanwhile_raises_ends_the_request_at_once_and_hangs_up() -> None:
    gone = threading.Event()

    def wait(connection: socket.socket, _: threading.Event) -> None:
        connection.settimeout(5)
        while connection.recv(65536):
            pass  # what of the request comes late
        gone.set()

    def stop() -> None:
        if time.monotonic() - began > 0.3:
            raise Stop

    with scripted(wait) as url:
        began = time.monotonic()
        with pytest.raises(Stop):
            Client(url, 60.0, stop).answer("m", "hello", 5)
        assert time.monotonic() - began < 0.3 + SLACK_SECONDS
        assert gone.wait(5)
