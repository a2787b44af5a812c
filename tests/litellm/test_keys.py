"""Each key of the rendered configuration has the effect that it is written for, in the real proxy.

The control of each is the same proxy with another value, which behaves otherwise.
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from beds import BedUnavailable
from beds.litellm_install import LitellmInstallation
from beds.litellm_proxy import Answer
from beds.litellm_yard import LADDER, Yard
from ollama_guard.integrations import keys
from ollama_guard.integrations.config import MODEL_NAMES

MODELS = [model for _, model in LADDER]
SOURCES_SECONDS = 120.0  # it imports LiteLLM and reads 2,000 files: 10 s on an idle machine


def at_once(count: int, ask: Callable[[], Answer]) -> list[Answer]:
    """Ask from so many threads at the same time."""
    answers: list[Answer] = []
    threads = [threading.Thread(target=lambda: answers.append(ask())) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def test_the_proxy_takes_the_rendered_configuration_and_ignores_nothing_in_it(yard: Yard) -> None:
    """It would say so in its log; that it does is seen of a key that it does not know, in the next test."""
    assert "Ignoring this key" not in yard.proxy.log()
    for name in MODEL_NAMES.values():
        assert yard.proxy.chat(name).status == 200


def test_the_keys_that_we_know_are_those_that_this_litellm_reads(
    own_litellm: LitellmInstallation | BedUnavailable, give_up: Callable[[BedUnavailable], NoReturn]
) -> None:
    """Else `litellm check` would call a good key ignored, or miss one: take over what sources.py prints."""
    if isinstance(own_litellm, BedUnavailable):
        give_up(own_litellm)
    program = Path(__file__).with_name("sources.py")
    done = subprocess.run(
        [own_litellm.python, program], capture_output=True, text=True, check=True, timeout=SOURCES_SECONDS,
        env={"LITELLM_LOCAL_MODEL_COST_MAP": "True"},
    )  # fmt: skip
    read = json.loads(done.stdout.splitlines()[-1])
    known = {
        "top": keys.SECTIONS,
        "router_settings": keys.ROUTER_SETTINGS,
        "general_settings": keys.GENERAL_SETTINGS,
        "litellm_settings": keys.LITELLM_SETTINGS,
    }
    for section, ours in known.items():
        assert sorted(ours) == read[section], section
    assert read["version"] == keys.VERSION


def test_two_retries_follow_a_failure(yard: Yard, control: Yard) -> None:
    for here, times in ((yard, 3), (control, 1)):
        here.ollama.moods[MODELS[0]].status = 500
        assert here.proxy.chat("gpt-3.5-turbo-light").status == 500
        assert here.ollama.times_asked(MODELS[0]) == times


def test_a_slow_answer_may_take_longer_than_the_controls_timeout(yard: Yard, control: Yard) -> None:
    """180 s are not waited for: what takes 4 s is cut off where the key says 2."""
    for here, status in ((yard, 200), (control, 408)):
        here.ollama.moods[MODELS[0]].seconds = 4.0
        assert here.proxy.chat("gpt-3.5-turbo-light").status == status


def test_a_model_that_can_not_be_had_is_left_alone_for_two_seconds(yard: Yard, control: Yard) -> None:
    """Not for the 5 s of LiteLLM's default; a model that Ollama does not have (404) cools down at once."""
    for here, again in ((yard, 2), (control, 1)):
        here.ollama.moods[MODELS[1]].status = 404
        here.proxy.chat("gpt-3.5-turbo")
        here.proxy.chat("gpt-3.5-turbo")
        assert here.ollama.times_asked(MODELS[1]) == 1
        time.sleep(3)
        here.proxy.chat("gpt-3.5-turbo")
        assert here.ollama.times_asked(MODELS[1]) == again


def test_a_larger_model_falls_back_to_the_smaller_ones(yard: Yard, control: Yard) -> None:
    for here, status in ((yard, 200), (control, 500)):
        here.ollama.moods[MODELS[3]].status = here.ollama.moods[MODELS[2]].status = 500
        answer = here.proxy.chat("gpt-4-turbo")
        assert answer.status == status
    assert (yard.ollama.times_asked(MODELS[1]), control.ollama.times_asked(MODELS[1])) == (1, 0)


def test_five_requests_at_a_time_reach_one_model(yard: Yard, control: Yard) -> None:
    """The sixth tries twice more within two seconds; then a smaller model serves it, else it is a 429."""
    for here, limit, seconds in ((yard, 5, 4.0), (control, 2, 1.5)):
        here.ollama.moods[MODELS[3]].seconds = seconds
        answers = at_once(8, lambda here=here: here.proxy.chat("gpt-4-turbo"))  # type: ignore[misc]
        assert here.ollama.most_answering[MODELS[3]] == limit
        assert {answer.status for answer in answers} <= {200, 429}
    assert yard.ollama.times_asked(MODELS[2]) > 0


def test_the_less_busy_of_two_servers_is_asked(yard: Yard, control: Yard) -> None:
    """While one of two answers slowly all others go to the other; by chance some would not."""
    shares = []
    for here in (yard, control):
        here.ollama.moods["slow-twin"].seconds = 1.5
        here.ollama.moods["quick-twin"].seconds = 0.05
        slow = 0
        for _ in range(3):
            held = threading.Thread(target=lambda here=here: until_slow(here))  # type: ignore[misc]
            held.start()
            time.sleep(0.3)
            before = here.ollama.times_asked("slow-twin")
            for _ in range(4):
                here.proxy.chat("twins")
            slow += here.ollama.times_asked("slow-twin") - before
            held.join()
        shares.append(slow)
    assert shares[0] == 0
    assert shares[1] > 0


def until_slow(here: Yard) -> None:
    """Ask until the slow one has answered."""
    before = here.ollama.times_asked("slow-twin")
    while here.ollama.times_asked("slow-twin") == before:
        here.proxy.chat("twins")


def test_the_master_key_is_the_one_of_the_environment(yard: Yard) -> None:
    """Of another one LiteLLM says, with a 400, that it has no database to look it up in."""
    answer = yard.proxy.chat("gpt-4", key="sk-another-one-that-is-long-enough-0123456789")
    assert (answer.status, answer.body["error"]["type"]) == (400, "no_db_connection")
    assert yard.ollama.asked == []
    assert yard.proxy.chat("gpt-4").status == 200
