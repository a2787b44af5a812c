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

# Two servers for one name: which of them is asked is what a routing strategy is about.
TWINS = """\
  - model_name: "twins"
    litellm_params: {model: "ollama_chat/slow-twin", api_base: "URL"}
  - model_name: "twins"
    litellm_params: {model: "ollama_chat/quick-twin", api_base: "URL"}

router_settings:
"""


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
) -> Iterator[Callable[[Callable[[str], str]], Yard | BedUnavailable]]:
    """Starts proxies with the rendered configuration, changed by a function; they end with the session."""
    with ExitStack() as stack:

        def start(change: Callable[[str], str]) -> Yard | BedUnavailable:
            if isinstance(own_litellm, BedUnavailable):
                return own_litellm
            folder = tmp_path_factory.mktemp("litellm")
            ollama = stack.enter_context(StubOllama())
            text = render(TIERS, ollama.url).replace("\nrouter_settings:\n", TWINS.replace("URL", ollama.url))
            try:
                status = folder / "status.sock"
                proxy = stack.enter_context(LitellmProxy(own_litellm, change(text), folder, status))
            except BedUnavailable as problem:
                return problem
            return Yard(proxy, ollama, status)

        yield start


@pytest.fixture(scope="session")
def rendered_yard(started: Callable[[Callable[[str], str]], Yard | BedUnavailable]) -> Yard | BedUnavailable:
    """With the configuration as it is rendered."""
    return started(lambda text: text)


@pytest.fixture(scope="session")
def other_yard(started: Callable[[Callable[[str], str]], Yard | BedUnavailable]) -> Yard | BedUnavailable:
    """The control: the same with other values, no fallbacks and no callback."""
    return started(changed)


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


def _fresh(yard: Yard | BedUnavailable, give_up: Callable[[BedUnavailable], NoReturn]) -> Yard:
    if isinstance(yard, BedUnavailable):
        give_up(yard)
    yard.ollama.forget()
    return yard
