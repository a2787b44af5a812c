"""What a client gets where the guard refuses, by whatever way, and where Ollama does: in the real proxy."""

from __future__ import annotations

import threading
import time

import pytest

from beds.litellm_yard import ASK, LADDER, OTHER_WAYS, Yard

MODELS = [model for _, model in LADDER]

# Seconds until a level change has to be followed, and for a request of which nothing is tried again: it takes
# milliseconds, but the proxy may get little CPU time.
FOLLOWS_SECONDS = 2.0
ANSWERED_SECONDS = 10.0
# Two models, each with two retries and their pauses of up to two seconds.
UNREACHABLE_SECONDS = 30.0


def test_a_request_for_which_no_tier_is_allowed_gets_a_503_that_says_when_to_come_back(yard: Yard) -> None:
    """At once, and no model is touched; the control is the same request a moment later."""
    with yard.guard() as guard:
        guard.allow(-1)
        time.sleep(1)
        yard.ollama.forget()
        answer = yard.proxy.chat("gpt-4")
        assert answer.status == 503
        assert int(answer.headers["retry-after"]) > 0
        assert "no model can be loaded now: memory" in answer.body["error"]["message"]
        assert answer.seconds < ANSWERED_SECONDS
        assert yard.ollama.asked == []
        guard.allow(3)
        time.sleep(FOLLOWS_SECONDS)
        assert yard.proxy.chat("gpt-4").text == f"said by {MODELS[2]}"


@pytest.mark.parametrize(
    ("path", "body"), [("/v1/chat/completions", ASK), *OTHER_WAYS], ids=["chat", "responses", "messages"]
)
def test_what_is_refused_before_it_is_tried_again_gets_the_same_503(
    yard: Yard, path: str, body: dict[str, object]
) -> None:
    """A model fails as memory falls, as one whose runner is ended: no retry, and no 429 of LiteLLM's.

    The errors of its /v1/messages have no headers at all: there the sentence says when to come back.
    """
    with yard.guard() as guard:
        guard.allow(0)
        time.sleep(1)
        assert (
            yard.proxy.post(path, {"model": "gpt-3.5-turbo-light", **body}).status == 200
        )  # all is imported
        yard.ollama.forget()
        yard.ollama.moods[MODELS[0]].status = 500
        yard.ollama.moods[MODELS[0]].seconds = 1.0
        threading.Timer(0.5, guard.allow, [-1]).start()
        answer = yard.proxy.post(path, {"model": "gpt-3.5-turbo-light", **body})
        assert answer.status == 503, answer.body
        assert path == "/v1/messages" or int(answer.headers["retry-after"]) > 0
        assert "no model can be loaded now: memory" in str(answer.body)
        assert "try again in 10 s" in str(answer.body)
        assert answer.seconds < ANSWERED_SECONDS
        assert yard.ollama.times_asked(MODELS[0]) == 1


def test_what_its_owner_falls_back_to_serves_where_no_tier_may(yard: Yard) -> None:
    """By LiteLLM's own fallback; where a tier may, it comes after the tiers. No header calls it a tier."""
    with yard.guard() as guard:
        guard.allow(-1)
        time.sleep(1)
        answer = yard.proxy.chat("gpt-4-turbo")
        assert (answer.status, answer.text) == (200, "said by hosted-model")
        assert answer.served_by == "ollama_chat/hosted-model"
        assert answer.headers["x-ollama-guard-asked"] == "gpt-4-turbo"
        assert "x-ollama-guard-tier" not in answer.headers
        assert answer.headers["x-litellm-attempted-fallbacks"] == "1"
        assert answer.seconds < ANSWERED_SECONDS
        assert yard.ollama.asked == []
        assert yard.proxy.chat("gpt-4-turbo", disable_fallbacks=True).status == 503
        assert yard.proxy.chat("gpt-4", fallbacks=["hosted"]).text == "said by hosted-model"
        guard.allow(1)
        time.sleep(1)
        for model in MODELS[:2]:
            yard.ollama.moods[model].status = 500
        assert yard.proxy.chat("gpt-4-turbo").text == "said by hosted-model"
        assert all(yard.ollama.times_asked(model) == 3 for model in MODELS[:2])


def test_what_another_machine_serves_too_is_served_there_while_it_is_forbidden_here(yard: Yard) -> None:
    """OLLAMA_GUARD_API_BASE says which is the guard's; the control is a tier of its own machine alone."""
    with yard.guard() as guard:
        guard.allow(0)
        time.sleep(1)
        for _ in range(4):
            assert yard.proxy.chat("shared").text == f"said by {MODELS[2]}"
        assert (yard.elsewhere.times_asked(MODELS[2]), yard.ollama.times_asked(MODELS[2])) == (4, 0)
        assert yard.proxy.chat("gpt-4").text == f"said by {MODELS[0]}"
        assert yard.proxy.chat("gpt-4", fallbacks=["shared"]).text == f"said by {MODELS[0]}"
        guard.allow(-1)
        time.sleep(1)
        assert yard.proxy.chat("gpt-4").status == 503
        assert yard.proxy.chat("gpt-4", fallbacks=["shared"]).text == f"said by {MODELS[2]}"
        assert yard.ollama.times_asked(MODELS[2]) == 0


def test_an_ollama_that_refuses_connections_is_a_clear_error_and_no_hang(yard: Yard) -> None:
    """For both of its models; what another server has is served all the while."""
    with yard.guard([("light", "gone:1b"), ("default", "gone:3b")]):
        time.sleep(1)
        answer = yard.proxy.chat("gone-large")
        assert answer.status == 500
        assert "connect" in str(answer.body).lower(), answer.body
        assert answer.seconds < UNREACHABLE_SECONDS
        assert yard.proxy.chat("gpt-4").text == f"said by {MODELS[2]}"


def test_a_key_that_is_good_for_one_model_is_moved_but_does_not_fall_back_further(limited: Yard) -> None:
    """The guard decides which tier serves; LiteLLM's fallbacks are for whoever may ask for them."""
    with limited.guard() as guard:
        guard.allow(1)
        time.sleep(1)
        assert limited.proxy.chat("gpt-4-turbo").text == f"said by {MODELS[1]}"
        limited.ollama.moods[MODELS[1]].status = 500
        assert limited.proxy.chat("gpt-4-turbo").status == 500
        assert limited.ollama.times_asked(MODELS[0]) == 0
        guard.allow(-1)
        time.sleep(1)
        answer = limited.proxy.chat("gpt-4-turbo")
        assert (answer.status, "no model can be loaded now" in str(answer.body)) == (503, True)
        assert limited.elsewhere.asked == []
