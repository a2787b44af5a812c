"""The ladder as `tiers` and `status` show it."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

from ollama_guard.cli.show import status_text
from ollama_guard.cli.tiers import lines
from ollama_guard.core import tierstatus
from ollama_guard.core.policy import GIB, MIB, Policy
from ollama_guard.core.status import view
from ollama_guard.core.tiers import EXAMPLE
from ollama_guard.testing.scenario import World


def world() -> World:
    """A calm host of 2.5 GiB with the example's ladder: its largest model is too much, and one is missing."""
    host = World(capacity=5 * GIB // 2, other=GIB // 2, policy=Policy(tiers=EXAMPLE))
    for tier in (*EXAMPLE[:2], EXAMPLE[3]):
        host.install(tier.model, (tier.disk_bytes or 0))
    host.play(4)
    return host


def document() -> dict[str, Any]:
    host = world()
    return tierstatus.view(host.policy, host.state, host.snapshot())


def test_the_table_has_every_tier_and_below_it_the_position_and_why_not_the_others() -> None:
    told = lines(document())
    assert told[0].split() == [
        "TIER", "MODEL", "INSTALLED", "FOOTPRINT", "FITS", "NOW", "ALLOWED", "FOR",
    ]  # fmt: skip
    assert told[1].split(maxsplit=7)[:7] == ["light", "smollm:135m", "yes", "~191", "MiB", "yes", "yes"]
    assert told[3].split(maxsplit=6)[:6] == ["reasoning", "tinyllama:1.1b", "no", "~763", "MiB", "?"]
    assert told[4].endswith("critical tasks, sparingly")
    assert told[5:8] == ["", "largest allowed: default", "reasoning: tinyllama:1.1b is not installed"]
    assert told[8].startswith("fallback: it needs 2.3 GiB (as [[tiers]] expects)")


def test_tiers_whose_models_are_the_other_way_round_are_told() -> None:
    """By what they need, which may be other than their owner expects."""
    host = World(policy=Policy(tiers=tuple(replace(tier, memory_bytes=None) for tier in EXAMPLE)))
    sizes = (90 * MIB, 700 * MIB, 200 * MIB, 300 * MIB)
    for tier, size in zip(EXAMPLE, sizes, strict=True):
        host.install(tier.model, size)
    host.play(4)
    told = tierstatus.view(host.policy, host.state, host.snapshot())
    assert [row["smaller_than"] for row in told["tiers"]] == [None, None, "default", "default"]
    said = "it needs less memory than default before it; tiers go from small to large"
    assert lines(told)[-2:] == [f"reasoning: {said}", f"fallback: {said}"]


def test_names_like_one_that_is_not_installed_are_told() -> None:
    near = document()
    near["tiers"][2]["nearest"] = ["tinyllama:latest", "tinydolphin:1.1b"]
    alike = "did you mean tinyllama:latest or tinydolphin:1.1b?"
    assert f"reasoning: tinyllama:1.1b is not installed; {alike}" in lines(near)


def test_without_any_allowed_tier_it_says_why_instead_of_a_position() -> None:
    none = document()
    for tier in none["tiers"]:
        tier["allowed"] = False
    none |= {"largest_allowed": None, "unknown": {"largest_allowed": "no tier is allowed now; because"}}
    assert "no tier is allowed now; because" in lines(none)


def test_without_a_ladder_it_says_how_to_come_to_one() -> None:
    host = World()
    host.play(2)
    (told,) = lines(tierstatus.view(host.policy, host.state, host.snapshot()))
    assert told == (
        "there is no ladder: the configuration has no [[tiers]]; `ollama-guard init` proposes one of the "
        "installed models"
    )


def test_foreign_text_stays_on_its_line() -> None:
    hostile = document()
    hostile["tiers"][3]["reason"] = "a\n\x1b[31mb"
    assert all(line.isprintable() for line in lines(hostile))


def shown(status: dict[str, Any]) -> list[str]:
    """The lines of the status that tell of the ladder."""
    text = status_text(status).splitlines()
    return [line.removeprefix("tiers").strip() for line in text if line.startswith("tiers")]


def test_the_status_tells_the_position_and_why_not_the_next_tier_in_one_line() -> None:
    host = world()
    status = view(host.policy, host.state, host.snapshot(), {})
    assert shown(status) == ["up to default (smollm:360m), not reasoning: tinyllama:1.1b is not installed"]
    none = deepcopy(status)
    none |= {"largest_allowed": None, "unknown": {"largest_allowed": "no tier is allowed now; because"}}
    assert shown(none) == ["no tier is allowed now; because"]
    without = {key: value for key, value in status.items() if key not in ("tiers", "largest_allowed")}
    assert shown(without) == []


def test_a_whole_ladder_has_nothing_to_explain() -> None:
    host = World(capacity=16 * GIB, policy=Policy(tiers=EXAMPLE[:1]))
    host.install(EXAMPLE[0].model, 91 * MIB)
    host.play(4)
    assert shown(view(host.policy, host.state, host.snapshot(), {})) == ["up to light (smollm:135m)"]
