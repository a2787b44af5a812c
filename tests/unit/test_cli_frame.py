"""The frame of the live view: what matters is on 80 x 24, and nothing is ever wider or higher."""

from __future__ import annotations

import time
from copy import deepcopy
from typing import Any

import pytest

from ollama_guard.cli.frame import DECISIONS_KEPT, Watched, frame
from ollama_guard.core.policy import GIB, MIB
from unit.test_cli_show import DOCUMENT


def document(**changes: Any) -> dict[str, Any]:
    """The status of a full and busy machine."""
    told = deepcopy(DOCUMENT) | changes
    told["domains"][0]["thresholds"] = {"soft": GIB, "hard": GIB // 2, "critical": GIB // 4}
    told["models"][0]["expires_at"] = time.time() + 250
    told["consumers"] = [
        {"name": f"{n}.service", "kind": "unit", "bytes": (9 - n) * 100 * MIB} for n in range(8)
    ]
    return told


def lines(watched: Watched, width: int = 80, height: int = 24) -> list[str]:
    return [line.plain for line in frame(watched, width, height)]


def watched(**changes: Any) -> Watched:
    seen = Watched()
    seen.see(document(**changes))
    return seen


def test_everything_that_matters_is_on_eighty_by_twenty_four() -> None:
    shown = lines(watched())
    text = "\n".join(shown)
    for part in (
        "ollama-guard  soft  enforce", "MemoryPressure", "host  soft  512 MiB of 4.0 GiB left",
        "falling 50 MiB/s, gone in 10 s", "█", "soft", "hard", "available memory is not known", "big:8b",
        "busy", "2.0 GiB", "4 min left", "avoid", "a model not known yet", "done    because",
        "900 MiB  0.service unit",
    ):  # fmt: skip
        assert part in text, part
    assert len(shown) <= 24
    assert max(map(len, shown)) <= 80


def test_the_thresholds_are_marked_on_the_bar_where_so_much_is_left() -> None:
    seen = watched()
    seen.document["domains"][0]["available_bytes"] = 3 * GIB  # type: ignore[index]
    bar = lines(seen)[2]
    assert bar.count("┼") == 3
    assert abs(bar.index("┼") - 1 - 0.75 * 78) <= 1


@pytest.mark.parametrize(("width", "height"), [(20, 24), (20, 3), (1, 1), (50, 8), (300, 100)])
def test_any_terminal_is_enough(width: int, height: int) -> None:
    shown = lines(watched(), width, height)
    assert 0 < len(shown) <= height
    assert max(map(len, shown)) <= width


def test_many_models_leave_room_for_decisions_and_consumers() -> None:
    seen = watched(models=DOCUMENT["models"] * 10)
    text = "\n".join(lines(seen))
    assert "and 14 more" in text
    assert "because" in text


def test_decisions_are_kept_as_they_were_seen_each_once_with_its_outcome() -> None:
    seen = Watched()
    for number in range(20):
        for outcome in ("pending", "done"):
            last = {"at": float(number), "action": "x", "reason": f"n{number}", "outcome": outcome,
                    "freed_bytes": None}  # fmt: skip
            seen.see(document(last_decision=last))
    assert [d["reason"] for d in seen.decisions] == [f"n{n}" for n in range(20 - DECISIONS_KEPT, 20)]
    assert {d["outcome"] for d in seen.decisions} == {"done"}


def test_a_guard_that_is_away_is_one_line_of_trouble() -> None:
    assert lines(Watched(trouble="no guard\nis running"))[1].strip() == "no guard\\x0ais running"


def test_hostile_names_stay_in_their_line() -> None:
    models = deepcopy(DOCUMENT["models"])
    models[0]["name"] = "evil\x1b[2J\nname"
    shown = lines(watched(models=models))
    assert not any("\x1b" in line or "\n" in line for line in shown)
