"""The proxies of this tier: each starts once, since it takes ten seconds and 400 MB."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import NoReturn

import pytest

from beds import BedUnavailable
from beds.litellm_install import LitellmInstallation, install
from beds.litellm_proxy import LitellmProxy
from beds.litellm_world import StubOllama
from beds.litellm_yard import TIERS, Yard
from ollama_guard.integrations.config import render

# Two servers for one name: which of them is asked is what a routing strategy is about. A tier that another
# machine serves too, a model of that machine alone, and two on one that refuses connections.
MORE = """\
  - model_name: "twins"
    litellm_params: {model: "ollama_chat/slow-twin", api_base: "HERE"}
  - model_name: "twins"
    litellm_params: {model: "ollama_chat/quick-twin", api_base: "HERE"}
  - model_name: "shared"
    litellm_params: {model: "ollama_chat/tinyllama:1.1b", api_base: "HERE"}
  - model_name: "shared"
    litellm_params: {model: "ollama_chat/tinyllama:1.1b", api_base: "ELSEWHERE"}
  - model_name: "hosted"
    litellm_params: {model: "ollama_chat/hosted-model", api_base: "ELSEWHERE"}
  - model_name: "gone-small"
    litellm_params: {model: "ollama_chat/gone:1b", api_base: "NOWHERE"}
  - model_name: "gone-large"
    litellm_params: {model: "ollama_chat/gone:3b", api_base: "NOWHERE"}

router_settings:
"""
NOWHERE = "http://127.0.0.1:9"
LAST_FALLBACK = '"gpt-4-turbo": ["gpt-4", "gpt-3.5-turbo", "gpt-3.5-turbo-light"'
# What a LiteLLM with a database keeps of a key: this one may ask for one model.
LIMITED = """\
from litellm.proxy._types import UserAPIKeyAuth

async def check(request, api_key):
    return UserAPIKeyAuth(api_key=api_key, models=["gpt-4-turbo"])
"""

Start = Callable[[Callable[[str], str]], Yard | BedUnavailable]


@pytest.fixture(scope="session")
def own_litellm() -> LitellmInstallation | BedUnavailable:
    """The installation, or why there is none."""
    try:
        return install()
    except BedUnavailable as problem:
        return problem


@pytest.fixture(scope="session")
def started(
    own_litellm: LitellmInstallation | BedUnavailable, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Start]:
    """Starts proxies with the rendered configuration, changed by a function; they end with the session."""
    with ExitStack() as stack:

        def start(change: Callable[[str], str]) -> Yard | BedUnavailable:
            if isinstance(own_litellm, BedUnavailable):
                return own_litellm
            folder = tmp_path_factory.mktemp("litellm")
            (folder / "limited.py").write_text(LIMITED)
            ollama, elsewhere = stack.enter_context(StubOllama()), stack.enter_context(StubOllama())
            text = change(extended(render(TIERS, ollama.url), ollama.url, elsewhere.url))
            status = folder / "status.sock"
            env = {"OLLAMA_GUARD_API_BASE": f"{ollama.url},{NOWHERE}"}
            try:
                proxy = stack.enter_context(LitellmProxy(own_litellm, text, folder, status, env))
            except BedUnavailable as problem:
                return problem
            return Yard(proxy, ollama, elsewhere, status)

        yield start


def extended(text: str, here: str, elsewhere: str) -> str:
    """What an owner adds to the rendered file: further models, and one of them to fall back to."""
    assert LAST_FALLBACK in text
    more = MORE.replace("ELSEWHERE", elsewhere).replace("NOWHERE", NOWHERE).replace("HERE", here)
    text = text.replace("\nrouter_settings:\n", more)
    return text.replace(LAST_FALLBACK, f'{LAST_FALLBACK}, "hosted"')


@pytest.fixture(scope="session")
def rendered_yard(started: Start) -> Yard | BedUnavailable:
    """With the configuration as it is rendered, and an owner's additions."""
    return started(lambda text: text)


@pytest.fixture(scope="session")
def other_yard(started: Start) -> Yard | BedUnavailable:
    """The control: the same with other values, no fallbacks and no callback."""
    return started(changed)


@pytest.fixture(scope="session")
def limited_yard(started: Start) -> Yard | BedUnavailable:
    """As it is rendered, for clients whose key is good for gpt-4-turbo alone."""
    return started(
        lambda text: text.replace("general_settings:", "general_settings:\n  custom_auth: limited.check")
    )


def changed(text: str) -> str:
    """Each value another one."""
    for ours, other in {
        'routing_strategy: "least-busy"': 'routing_strategy: "simple-shuffle"',
        "num_retries: 2": "num_retries: 0",
        "timeout: 180": "timeout: 2",
        "cooldown_time: 2": "cooldown_time: 30",
        "default_max_parallel_requests: 5": "default_max_parallel_requests: 2",
    }.items():
        assert ours in text
        text = text.replace(ours, other)
    head, _, tail = text.partition("  fallbacks:\n")
    return (
        head + "\ngeneral_settings:" + tail.partition("general_settings:")[2].partition("\n# Each")[0] + "\n"
    )


@pytest.fixture
def yard(rendered_yard: Yard | BedUnavailable, give_up: Callable[[BedUnavailable], NoReturn]) -> Yard:
    """The rendered proxy; every model is well."""
    return _fresh(rendered_yard, give_up)


@pytest.fixture
def control(other_yard: Yard | BedUnavailable, give_up: Callable[[BedUnavailable], NoReturn]) -> Yard:
    """The one with other values; every model is well."""
    return _fresh(other_yard, give_up)


@pytest.fixture
def limited(limited_yard: Yard | BedUnavailable, give_up: Callable[[BedUnavailable], NoReturn]) -> Yard:
    """The one with limited keys; every model is well."""
    return _fresh(limited_yard, give_up)


def _fresh(yard: Yard | BedUnavailable, give_up: Callable[[BedUnavailable], NoReturn]) -> Yard:
    if isinstance(yard, BedUnavailable):
        give_up(yard)
    yard.ollama.forget()
    yard.elsewhere.forget()
    return yard
