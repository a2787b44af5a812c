"""The ladder in the file: what makes one, and what is said of one that doesn't."""

from __future__ import annotations

import pytest

from ollama_guard.core.policy import GIB, MIB
from ollama_guard.core.tiers import EXAMPLE, Tier
from ollama_guard.errors import ConfigError
from ollama_guard.settings.compiler import canonical_json, compile_text
from ollama_guard.settings.ladder import MOST_TIERS

LIGHT = '[[tiers]]\nname = "light"\nmodel = "smollm:135m"\nmemory = "200MB"\n\n'

BAD = [
    (
        LIGHT + '[[tiers]]\nname = "default"\nmodel = "smollm:360m"\nmemory = "100MB"\n',
        ["line 9", 'tiers.default.memory = "100MB"', "out of order", "light before it has 200MB"],
    ),
    (
        LIGHT
        + '[[tiers]]\nname = "middle"\nmodel = "a"\n'
        + '[[tiers]]\nname = "default"\nmodel = "smollm:360m"\nmemory = "100MB"\n',
        ["line 12", "tiers.default.memory", "light before it has 200MB"],
    ),
    (
        LIGHT.replace("memory", 'disk = "2GB"\nmemory')
        + '[[tiers]]\nname = "b"\nmodel = "y"\nmemory = "2GiB"\n'
        + '[[tiers]]\nname = "c"\nmodel = "z"\ndisk = "1GB"\n',
        ["line 14", 'tiers.c.disk = "1GB"', "out of order", "light before it has 2GB"],
    ),
    (
        LIGHT + '[[tiers]]\nname = "light"\nmodel = "b"\n',
        ["line 7", 'tiers.light.name = "light"', "an earlier tier too"],
    ),
    (
        LIGHT + '[[tiers]]\nname = "other"\nmodel = "SmolLM:135M"\n',
        ["line 8", 'tiers.other.model = "SmolLM:135M"', "is the model of light too"],
    ),
    (LIGHT + '[[tiers]]\nname = "x"\n', ["line 6", "tiers.x has no model", 'model = "smollm:135m"']),
    (LIGHT + '[[tiers]]\nmodel = "x"\n', ["line 6", "tiers.2 has no name", 'name = "light", for example']),
    (
        LIGHT + '[[tiers]]\nname = "x"\nmodel = "x"\nmemry = "1GiB"\n',
        ["line 9", "unknown key tiers.x.memry", "did you mean tiers.x.memory?"],
    ),
    (
        LIGHT + '[[tiers]]\nname = "x"\nmodel = "x"\npurpose = "y"\n',
        ["line 9", "unknown key tiers.x.purpose", "allowed here: disk, for, memory, model, name"],
    ),
    ('[[tiers]]\nname = "x"\nmodel = "a b"\n', ['tiers.x.model = "a b" is no model name', "`ollama list`"]),
    ('[[tiers]]\nname = "x"\nmodel = "gpt-oss:cloud"\n', ["runs elsewhere and takes no memory here"]),
    ('[[tiers]]\nname = "x y"\nmodel = "a"\n', ['tiers."x y".name', "is no name for a tier", "letters"]),
    (f'[[tiers]]\nname = "{"x" * 41}"\nmodel = "a"\n', ["is no name for a tier", "at most 40"]),
    ('[[tiers]]\nname = "x"\nmodel = "a"\nfor = "y\\u0007"\n', ["tiers.x.for", "one line of text"]),
    ('[[tiers]]\nname = "x"\nmodel = "a"\nmemory = 200\n', ["tiers.x.memory = 200 is a bare number"]),
    ('[[tiers]]\nname = "x"\nmodel = "a"\ndisk = "0B"\n', ["tiers.x.disk", "out of range", "1MiB to 1TiB"]),
    ('[tiers]\nname = "x"\nmodel = "a"\n', ["line 1", "is no list of tables", "[[tiers]], once for each"]),
    ("tiers = 3\n", ["tiers = 3 is no list of tables"]),
    ("tiers = [1]\n", ["tiers.1 = 1 is not a table"]),
    ('[[tier]]\nname = "x"\n', ["line 1", "unknown table tier", "did you mean tiers?"]),
    (LIGHT + "[tiers.extra]\nx = 1\n", ["line 6", "unknown table tiers.light.extra"]),
    (
        "".join(f'[[tiers]]\nname = "n{n}"\nmodel = "m{n}"\n' for n in range(MOST_TIERS + 1)),
        [f"line {3 * MOST_TIERS + 2}", "one too many", f"allowed: {MOST_TIERS} tiers"],
    ),
]


@pytest.mark.parametrize(("text", "said"), BAD, ids=[said[-1][:40] for _, said in BAD])
def test_a_wrong_ladder_is_one_sentence_with_its_line_and_what_is_allowed(text: str, said: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        compile_text(text, "F")
    (problem,) = caught.value.problems
    assert all(part in problem for part in said), problem


def test_every_key_arrives_and_all_but_name_and_model_may_be_left_out() -> None:
    text = '[[tiers]]\nname = "a"\nmodel = "x:1b"\nfor = "y"\ndisk = "1GiB"\nmemory = "2GiB"\n'
    text += '[[tiers]]\nname = "b"\nmodel = "z"\n'
    first, second = compile_text(text, "F").tiers
    assert first == Tier("a", "x:1b", "y", GIB, 2 * GIB)
    assert second == Tier("b", "z")


def test_where_memory_tells_the_order_disk_does_not() -> None:
    """A long context may cost more than a larger model."""
    text = '[[tiers]]\nname = "a"\nmodel = "x"\ndisk = "2GB"\nmemory = "2GiB"\n'
    text += '[[tiers]]\nname = "b"\nmodel = "y"\ndisk = "1GB"\nmemory = "3GiB"\n'
    assert [tier.name for tier in compile_text(text, "F").tiers] == ["a", "b"]


def test_tiers_of_the_same_memory_and_an_inline_list_are_a_ladder_too() -> None:
    text = (
        'tiers = [{ name = "a", model = "x", memory = "1MiB" }, { name = "b", model = "y", memory = "1MiB" }]'
    )
    assert [tier.memory_bytes for tier in compile_text(text, "F").tiers] == [MIB, MIB]


def test_the_example_is_a_ladder() -> None:
    memory = [tier.memory_bytes or 0 for tier in EXAMPLE]
    assert memory == sorted(memory)
    assert len({tier.name for tier in EXAMPLE}) == len({tier.model for tier in EXAMPLE}) == 4


def test_a_policy_without_a_ladder_has_none() -> None:
    assert compile_text("", "F").tiers == ()
    assert '"tiers":[]' in canonical_json(compile_text("", "F"))
