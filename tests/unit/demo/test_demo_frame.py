from dataclasses import replace

import pytest

from ollama_guard.core.policy import MIB
from ollama_guard.demo.stage import CHAT, CODER, GIANT, NEIGHBOUR
from ollama_guard.demo.terminal import frame
from ollama_guard.demo.view import Actor, Told, View
from ollama_guard.drawing.bars import bar, limits_line

BUDGET = 1024 * MIB
LIMITS = (("soft", 205 * MIB), ("hard", 102 * MIB), ("critical", 51 * MIB))
SENTENCE = (
    "host has 234 MiB available, about to cross soft 205 MiB, falling 54 MiB/s: unload coder:3b (idle 8 s)"
)


def view(told: int = 8) -> View:
    """The fullest moment of the show: everybody on stage, more told than there is room."""
    actors = (
        Actor(CHAT, 177 * MIB, "busy", "answering, 288 words"),
        Actor(CODER, 0, "unloaded", "330 MiB came back"),
        Actor(NEIGHBOUR, 661 * MIB, "growing", "56 MiB/s"),
        Actor(GIANT, 0, "condemned", "needs 1.1 GiB, killed at birth"),
    )
    return View(
        at=31.4,
        budget_bytes=BUDGET,
        available_bytes=171 * MIB,
        limits=LIMITS,
        level="soft",
        chapter=4,
        chapters=5,
        title="Too big",
        caption="Somebody asks for giant:70b, which can never fit here, and asks again when it fails.",
        actors=actors,
        guarded=True,
        without_bytes=-159 * MIB,
        out_at=24.0,
        told=tuple(Told(20.0 + i, "decision.made", f"{SENTENCE} {i}") for i in range(told)),
    )


@pytest.mark.parametrize(
    ("width", "height"), [(80, 24), (120, 40), (300, 80), (49, 24), (20, 24), (20, 5), (1, 1)]
)
def test_a_frame_is_never_larger_than_its_terminal(width: int, height: int) -> None:
    lines = frame(view(), width, height)
    assert len(lines) <= height
    assert all(line.cell_len <= width for line in lines), [line.plain for line in lines]


def test_the_frame_of_80_columns_tells_everything() -> None:
    text = "\n".join(line.plain for line in frame(view(), 80, 24))
    for part in ("00:31", "●●●●○ Too big", "soft  171 MiB left of 1.0 GiB", "out of memory since 00:24"):
        assert part in text
    for actor in view().actors:
        assert f"{actor.name:<12}{actor.state}" in text
        assert actor.note in text
    assert f"{SENTENCE.rsplit(maxsplit=1)[-1]} 7" in text, "the newest line of the guard is there, whole"


def test_twenty_columns_still_name_everybody_and_their_state() -> None:
    text = [line.plain for line in frame(view(), 20, 24)]
    for actor in view().actors:
        assert any(f"{actor.name} {actor.state}"[:17] in line for line in text), text
    assert any(line.startswith("soft  171 MiB left") for line in text)
    assert any(line.startswith("without: out of") for line in text)


def test_a_bar_is_as_long_as_it_is_wide_and_as_full_as_memory_is() -> None:
    parts = [(256 * MIB, "green"), (1, "blue"), (256 * MIB, "yellow")]
    line = bar(parts, BUDGET, LIMITS, 80)
    assert line.cell_len == 80
    assert line.plain.count("█") == 40
    assert line.plain.index("┼") == 64, "soft is crossed where 20 % are left"


def test_a_bar_of_more_than_there_is_stays_in_its_line() -> None:
    line = bar([(4 * BUDGET, "red"), (BUDGET, "blue")], BUDGET, LIMITS, 30)
    assert line.plain == "█" * 30


def test_threshold_names_never_run_into_each_other() -> None:
    for width in range(1, 200):
        line = limits_line(BUDGET, LIMITS, width)
        assert line.cell_len <= width
        assert all(word in ("soft", "hard", "crit") for word in line.plain.split())


def test_a_hostile_sentence_stays_text() -> None:
    hostile = Told(1.0, "decision.made", "\x1b[2J[red]x[/red]\n" + "y" * 500)
    shown = frame(replace(view(), told=(hostile,)), 80, 24)
    assert not any("\x1b" in line.plain or "\n" in line.plain for line in shown)
    assert any("[red]x[/red]" in line.plain for line in shown)
