"""The proposed configuration: it compiles to the owner's policy, and says why there is so little in it."""

import re
from dataclasses import replace

from ollama_guard.cli.drafts import kept_lines
from ollama_guard.core.advice import advise
from ollama_guard.core.machine import Installed, Machine, Server
from ollama_guard.core.model import Level
from ollama_guard.core.policy import GIB, MIB, Policy
from ollama_guard.core.proposal import proposed_toml
from ollama_guard.core.runtime import RuntimeKind
from ollama_guard.settings.compiler import compile_text

UNIT = Server(100, RuntimeKind.SYSTEMD, "ollama.service", "/system.slice/ollama.service")
MODELS = (
    Installed(("small:1b",), 1300 * MIB, 32 * 1024, 131072),
    Installed(('odd "name" é:1b',), 1400 * MIB, 32 * 1024, 131072),
    Installed(("huge:70b",), 40 * GIB, 320 * 1024, 131072),
)
BOX = Machine(15 * GIB, servers=(UNIT,), url="http://127.0.0.1:11434", version="0.33.0", models=MODELS)
OWNERS = """\
[ollama]
authority = "server"
poll = "20s"
[thresholds.host]
soft = "3GiB"
[cap]
soft_max = 2
[models."small:1b"]
preference = "omit"
protect = "always"
"""


def proposed(machine: Machine, owners: str = "") -> str:
    policy = compile_text(owners, "owners")
    return proposed_toml(machine, policy, advise(machine, policy), kept_lines(policy))


def test_for_an_ordinary_machine_it_says_why_there_is_nothing_to_set() -> None:
    text = proposed(BOX)
    assert compile_text(text, "proposed") == Policy()
    assert "Of the machine's 15.0 GiB: soft below 3.0 GiB, hard below 1.5 GiB, critical below 768 MiB." in (
        text.replace("\n# ", " ")
    )
    assert all(len(line) <= 110 for line in text.splitlines())


def taken(text: str) -> str:
    """The file with every mark taken away that stands before a line of TOML."""
    return re.sub(r"^#(?=[\[a-z])", "", text, flags=re.MULTILINE)


def test_thresholds_and_cap_are_offered_as_lines_that_change_nothing_until_they_are_changed() -> None:
    """With the marks taken away each threshold is the size that it was before, on this machine."""
    text = proposed(BOX)
    policy = compile_text(taken(text), "taken")
    for level in (Level.SOFT, Level.HARD, Level.CRITICAL):
        assert policy.host.bytes_of(level, BOX.total_bytes) == Policy().host.bytes_of(level, BOX.total_bytes)
    assert '#[thresholds.host]\n#soft = "3072MiB"\n#hard = "1536MiB"\n#critical = "768MiB"\n' in text
    assert "#[cap]\n#soft_max = 2\n" in text
    assert policy.cap.soft_max == 2
    assert "thresholds.container" not in text


def test_within_a_limit_its_thresholds_are_offered_too() -> None:
    limited = replace(BOX, servers=(replace(UNIT, limit_bytes=4 * GIB),))
    policy = compile_text(taken(proposed(limited)), "taken")
    for level in (Level.SOFT, Level.HARD, Level.CRITICAL):
        assert (
            abs(policy.container.bytes_of(level, 4 * GIB) - Policy().container.bytes_of(level, 4 * GIB)) < MIB
        )


def test_what_the_owner_wrote_is_not_offered_beside_it() -> None:
    """A table twice would be no TOML."""
    text = proposed(BOX, OWNERS)
    assert "#[thresholds.host]" not in text
    assert "#[cap]" not in text
    compile_text(taken(text), "taken")
    compile_text(taken(proposed(BOX, "[cap]\nhard = false\n")), "taken")


def test_the_authority_is_offered_as_a_comment_that_says_what_it_would_allow() -> None:
    text = proposed(BOX)
    assert '\n#authority = "server"\n' in text
    assert "stop, constrain and restart ollama.service" in text
    server = text.replace('#authority = "server"', 'authority = "server"')
    assert compile_text(server, "taken").ollama.authority == "server"


def test_models_are_listed_small_to_large_with_how_they_fit() -> None:
    listed = [line for line in proposed(BOX).splitlines() if line.startswith("#   ")]
    assert [line.split()[1] for line in listed] == ["small:1b", "odd", "huge:70b"]
    assert listed[0].endswith("1.4 GiB  fits, with every smaller one beside it")
    assert listed[2].endswith("can never fit")


def test_the_offered_preference_compiles_when_its_marks_are_taken_away() -> None:
    text = proposed(BOX)
    marked = text.replace("#[models.", "[models.").replace("#preference", "preference")
    assert list(compile_text(marked, "taken").models) == ["small:1b"]


def test_another_address_is_written() -> None:
    elsewhere = replace(BOX, url="http://127.0.0.1:12345")
    assert compile_text(proposed(elsewhere), "x").ollama.url == "http://127.0.0.1:12345"
    again = proposed(elsewhere, '[ollama]\nurl = "http://127.0.0.1:1"\n')
    assert compile_text(again, "x").ollama.url == "http://127.0.0.1:12345"


def test_nothing_that_the_owner_wrote_is_lost() -> None:
    text = proposed(BOX, OWNERS)
    assert compile_text(text, "proposed") == compile_text(OWNERS, "owners")
    assert "From the file that was here before." in text
    assert "authority = " not in text.replace('authority = "server"', "", 1), (
        "it is set, so it is not offered"
    )


def test_of_several_servers_each_one_is_offered_to_be_the_only_one() -> None:
    two = replace(BOX, servers=(UNIT, Server(200, cgroup="/user.slice/session-3.scope")))
    text = proposed(two)
    assert '#cgroup = "/system.slice/ollama.service"' in text
    assert '#cgroup = "/user.slice/session-3.scope"' in text
    assert "#cgroup" not in proposed(two, '[ollama]\ncgroup = "/system.slice"\n')


def test_a_machine_without_ollama_and_without_models_gets_a_file_too() -> None:
    assert compile_text(proposed(Machine(GIB)), "x") == Policy()


LADDER = """\
[[tiers]]
name = "light"
model = "small:1b"
memory = "200MB"
[[tiers]]
name = "heavy"
model = "large:7b"
for = "what matters"
"""
SHELF = tuple(Installed((f"m{n}:1b",), n * 500 * MIB, 1024, 131072) for n in range(1, 8))


def test_a_ladder_of_the_models_that_can_answer_and_fit_is_offered() -> None:
    """Small to large, the smallest and the largest that fit among them; none that only embeds."""
    embedder = Installed(("embed:1b",), 100 * MIB, embeds=True)
    machine = replace(BOX, models=(embedder, *SHELF, MODELS[2]))
    text = proposed(machine)
    assert compile_text(text, "proposed").tiers == ()
    tiers = compile_text(taken(text), "taken").tiers
    assert [tier.name for tier in tiers] == ["light", "default", "reasoning", "fallback"]
    assert [tier.model for tier in tiers] == ["m1:1b", "m3:1b", "m5:1b", "m7:1b"]
    assert tiers[0].disk_bytes == 500 * MIB
    assert all(
        tier.memory_bytes and tier.disk_bytes and tier.memory_bytes > tier.disk_bytes for tier in tiers
    )


def test_of_one_model_no_ladder_is_made() -> None:
    assert "[[tiers]]" not in proposed(replace(BOX, models=SHELF[:1]))
    assert "[[tiers]]" in proposed(replace(BOX, models=SHELF[:2]))


def test_the_owners_ladder_is_kept_whole_and_none_is_offered_beside_it() -> None:
    text = proposed(replace(BOX, models=SHELF), LADDER)
    assert compile_text(text, "proposed").tiers == compile_text(LADDER, "owners").tiers
    assert "#[[tiers]]" not in text
