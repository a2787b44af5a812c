"""Advice for machines from 2 GiB to 64 GiB."""

from dataclasses import replace

import pytest

from ollama_guard.core.advice import Advice, advise
from ollama_guard.core.machine import ContainerFacts, Installed, Machine, Neighbour, Server, UnitFacts
from ollama_guard.core.policy import GIB, MIB, NotifyPolicy, OllamaPolicy, Policy
from ollama_guard.core.runtime import RuntimeKind
from ollama_guard.core.sizing import Fits, cache_mib

UNIT = Server(
    100, RuntimeKind.SYSTEMD, "ollama.service", "/system.slice/ollama.service", "ollama", {},
    UnitFacts("ollama.service"),
)  # fmt: skip
CONTAINER = Server(
    100, RuntimeKind.DOCKER, "a" * 64, f"/docker/{'a' * 64}", "root", {},
    container=ContainerFacts("a" * 64, "ollama"),
)  # fmt: skip
SMALL = Installed(("small:1b",), 1300 * MIB, 32 * 1024, 131072)
MIDDLE = Installed(("middle:3b",), 2000 * MIB, 112 * 1024, 131072)
LARGE = Installed(("large:8b",), 4900 * MIB, 128 * 1024, 131072)
HUGE = Installed(("huge:70b",), 40 * GIB, 320 * 1024, 131072)
MODELS = (LARGE, HUGE, SMALL, MIDDLE)


def machine(gib: float, server: Server = UNIT, models: tuple[Installed, ...] | None = MODELS) -> Machine:
    return Machine(
        int(gib * GIB), servers=(server,), version="0.33.0", models=models, url="http://127.0.0.1:11434"
    )


def lines(advice: Advice) -> dict[str, str]:
    return {line.key: line.value for line in advice.environment}


def why(advice: Advice, key: str) -> str:
    (line,) = [line for line in advice.environment if line.key == key]
    return line.why


def said(server: Server, **environment: str) -> Server:
    return replace(server, environment=environment)


def test_on_15_gib_the_models_are_told_apart_by_how_far_they_fit() -> None:
    advice = advise(machine(15), Policy())
    assert [(tier.model.name, tier.fits) for tier in advice.tiers] == [
        ("small:1b", Fits.TOGETHER),
        ("middle:3b", Fits.TOGETHER),
        ("large:8b", Fits.TOGETHER),
        ("huge:70b", Fits.NEVER),
    ]
    assert advice.room_bytes == 12 * GIB


def test_on_8_gib_the_largest_fits_alone_and_two_at_once_are_one_too_many() -> None:
    advice = advise(machine(8), Policy())
    assert {tier.model.name: tier.fits for tier in advice.tiers}["large:8b"] is Fits.ALONE
    assert lines(advice) == {
        "LLAMA_ARG_CACHE_RAM": "256", "OLLAMA_MAX_LOADED_MODELS": "1", "OLLAMA_NUM_PARALLEL": "1"
    }  # fmt: skip
    assert "large:8b and middle:3b would take 8.2 GiB of the 6.4 GiB" in why(
        advice, "OLLAMA_MAX_LOADED_MODELS"
    )
    assert "448 MiB each" not in why(advice, "OLLAMA_NUM_PARALLEL")
    assert "1.2 GiB each for huge:70b" in why(advice, "OLLAMA_NUM_PARALLEL")


def test_a_model_that_fits_only_below_soft_is_told_so() -> None:
    advice = advise(machine(6.5), Policy())
    assert {tier.model.name: tier.fits for tier in advice.tiers}["large:8b"] is Fits.TIGHT


def test_where_any_three_fit_ollamas_own_number_stays() -> None:
    assert "OLLAMA_MAX_LOADED_MODELS" not in lines(
        advise(machine(64, models=(SMALL, MIDDLE, LARGE)), Policy())
    )


@pytest.mark.parametrize(("gib", "expected"), [(4, "1"), (32, None)])
def test_unknown_models_are_taken_one_at_a_time_on_a_small_machine_only(
    gib: int, expected: str | None
) -> None:
    assert lines(advise(machine(gib, models=None), Policy())).get("OLLAMA_MAX_LOADED_MODELS") == expected


def test_a_shorter_context_is_advised_where_it_lets_a_model_in() -> None:
    chatty = Installed(("chatty:4b",), 2500 * MIB, 512 * 1024, 131072)  # 2 GiB of cache with 4096 tokens
    advice = advise(machine(5, models=(chatty,)), Policy())
    assert lines(advice)["OLLAMA_CONTEXT_LENGTH"] == "2048"
    assert (advice.context_tokens, advice.tiers[0].fits) == (2048, Fits.TOGETHER)
    assert "With 4096 chatty:4b takes" in why(advice, "OLLAMA_CONTEXT_LENGTH")


def test_a_context_that_lets_nobody_in_is_not_advised() -> None:
    assert "OLLAMA_CONTEXT_LENGTH" not in lines(advise(machine(8), Policy()))


def test_the_prompt_cache_is_bounded_by_the_memory_and_only_where_there_is_one() -> None:
    assert [cache_mib(int(gib * GIB)) for gib in (1, 2, 4, 8, 15, 64)] == [64, 64, 128, 256, 448, 1024]
    old = replace(machine(8), version="0.24.0")
    assert "LLAMA_ARG_CACHE_RAM" not in lines(advise(old, Policy()))
    unknown = advise(replace(machine(8), version=None), Policy())
    assert "its version is not known" in why(unknown, "LLAMA_ARG_CACHE_RAM")


def test_what_the_owner_has_set_is_left_alone_and_what_it_costs_is_said() -> None:
    server = said(UNIT, OLLAMA_NUM_PARALLEL="4", OLLAMA_MAX_LOADED_MODELS="1", LLAMA_ARG_CACHE_RAM="-1")
    advice = advise(machine(8, server), Policy())
    assert lines(advice) == {}
    first, second = advice.notes
    assert first.startswith("LLAMA_ARG_CACHE_RAM=-1 is yours and stays. 256 is advised")
    assert second.startswith("OLLAMA_NUM_PARALLEL=4 is yours and stays. 1 is advised")
    assert advice.tiers[0].needs_bytes == SMALL.needs_bytes(4096, 4)


def test_a_stricter_bound_of_the_owners_needs_no_word() -> None:
    server = said(UNIT, LLAMA_ARG_CACHE_RAM="0", OLLAMA_NUM_PARALLEL="1")
    assert advise(machine(8, server), Policy()).notes == ()


def test_advice_that_was_followed_is_given_again() -> None:
    """After the restart the server has our lines in its environment; they are not taken for the owner's."""
    first = advise(machine(8), Policy())
    after = machine(8, said(UNIT, **lines(first)))
    assert advise(after, Policy(), frozenset(lines(first).items())) == first
    assert advise(after, Policy()) != first


def test_a_container_without_a_limit_gets_one_that_leaves_the_others_their_share() -> None:
    advice = advise(machine(16, CONTAINER), Policy())
    assert advice.memory_limit_bytes is not None
    left = 16 * GIB - advice.memory_limit_bytes
    assert 5 * GIB <= left < 5.3 * GIB
    assert advice.memory_limit_bytes % MIB == 0
    assert advice.room_bytes < advice.memory_limit_bytes
    assert "3.2 GiB stay free and 2.0 GiB are for others" in advice.limit_why


def test_the_same_limit_is_advised_once_it_is_in_force() -> None:
    first = advise(machine(16, CONTAINER), Policy())
    assert first.memory_limit_bytes is not None
    facts = ContainerFacts("a" * 64, "ollama", memory_limit_bytes=first.memory_limit_bytes)
    limited = replace(CONTAINER, container=facts, limit_bytes=first.memory_limit_bytes)
    assert advise(machine(16, limited), Policy()) == first


def test_a_limit_of_the_owners_stays_and_bounds_the_models() -> None:
    facts = ContainerFacts("a" * 64, "ollama", memory_limit_bytes=3 * GIB)
    advice = advise(machine(16, replace(CONTAINER, container=facts, limit_bytes=3 * GIB)), Policy())
    assert (advice.memory_limit_bytes, advice.capacity_bytes) == (None, 3 * GIB)
    assert {tier.model.name: tier.fits for tier in advice.tiers}["large:8b"] is Fits.NEVER


def test_neighbours_who_hold_more_than_the_limit_leaves_them_are_named() -> None:
    crowded = replace(machine(16, CONTAINER), neighbours=(Neighbour("postgres", "container", 7 * GIB),))
    (note,) = advise(crowded, Policy()).notes
    assert "others hold 7.0 GiB now (postgres 7.0 GiB), more than the 5.2 GiB" in note


def test_a_unit_is_told_to_survive_the_kill_of_one_runner() -> None:
    assert "every other model" in advise(machine(8), Policy()).continues
    assert advise(machine(8, CONTAINER), Policy()).continues == ""


def test_a_dead_setting_is_called_dead() -> None:
    (note,) = advise(machine(8, said(UNIT, OLLAMA_MAX_VRAM="2048000000")), Policy()).notes
    assert note.startswith("OLLAMA_MAX_VRAM=2048000000 does nothing")


def test_a_machine_without_ollama_gets_advice_all_the_same() -> None:
    advice = advise(Machine(4 * GIB), Policy())
    assert lines(advice)["OLLAMA_MAX_LOADED_MODELS"] == "1"
    assert advice.tiers == ()


@pytest.mark.parametrize("gib", [0.25, 0.5, 1, 2, 4, 8, 15, 64, 1024])
def test_every_line_says_why_with_numbers_on_machines_of_every_size(gib: float) -> None:
    for server in (UNIT, CONTAINER):
        advice = advise(machine(gib, server), Policy())
        assert advice.room_bytes > 0
        for line in advice.environment:
            assert int(line.value) >= 1
            assert len(line.why) > 40


def test_what_the_guards_unit_keeps_from_it_is_said_with_the_drop_in_that_gives_it() -> None:
    elsewhere = replace(machine(8), url="http://192.168.0.5:11434")
    hook = Policy(notify=NotifyPolicy("https://chat.example.org/hooks/s3cret"))
    silent = Policy(ollama=OllamaPolicy(url="http://192.168.0.5:11434"))
    unanswered = replace(machine(8), url="")
    for one, policy, key in (
        (elsewhere, Policy(), "url"), (unanswered, silent, "url"), (machine(8), hook, "webhook"),
    ):  # fmt: skip
        (note,) = [note for note in advise(one, policy).notes if "network.conf" in note]
        assert note.startswith(f"the {key} ")
        assert "s3cret" not in note
    assert not [note for note in advise(machine(8), Policy()).notes if "network.conf" in note]
