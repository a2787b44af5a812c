"""The user's ladder beside a real Ollama: it steps down with the level, and climbs back after quiet."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from beds.guard import Guard
from beds.http import request
from beds.yard import GIB, MIB, yard

LIMIT_BYTES = 1 * GIB
# Below it a container of 1 GiB is at soft, below the other at hard.
SOFT_BYTES, HARD_BYTES = 256 * MIB, 128 * MIB
# A level change and the position may be this far apart (seconds): what programs in front of Ollama rely on.
STEP_SECONDS = 2.0
QUIET_SECONDS = 6.0
LADDER = f"""\
[policy]
transition = "{QUIET_SECONDS:.0f}s"
[thresholds.container]
grace = "1s"
[[tiers]]
name = "light"
model = "tiny"
memory = "64MiB"
[[tiers]]
name = "heavy"
model = "mid"
[[tiers]]
name = "absent"
model = "midd:7b"
"""


def position(guard: Guard) -> Any:
    """The largest tier allowed, as a program asks for it."""
    return guard.status()["largest_allowed"]


def told_at(event: dict[str, Any]) -> float:
    """When an event was logged, in seconds."""
    return datetime.fromisoformat(event["time"]).timestamp()


def test_the_position_steps_down_with_the_level_and_climbs_back_after_quiet(kind: str) -> None:
    """A hog beside the loaded larger tier: within two seconds of the level, and back when it has gone."""
    with yard(kind, LIMIT_BYTES, guarded=True, config=LADDER) as place:
        guard = place.guard
        assert guard is not None
        guard.wait(lambda: position(guard) == "heavy", 20, "the whole ladder is allowed")
        place.server.load("mid")
        place.wait_state("mid", "idle")
        assert position(guard) == "heavy"

        with place.hog() as hog:
            hog.grow(place.cgroup.available() - (SOFT_BYTES + HARD_BYTES) // 2, 300 * MIB)
            assert hog.wait(20)
            level = guard.wait_event("level.changed", 20, domain="container")
            fell = guard.wait_event("tier.changed", 10, largest="light")
            assert told_at(fell) - told_at(level) < STEP_SECONDS
            guard.wait(lambda: position(guard) == "light", STEP_SECONDS, "the status tells it")
            public = json.loads((guard.state / "public" / "status.json").read_text())
            guard.wait(lambda: published(guard) == "light", 5, f"the public file tells it, not {public}")
            assert guard.wait_event("model.unloaded", 15)

        rose = guard.wait_event("tier.changed", QUIET_SECONDS + 20, largest="heavy", **{"from": "light"})
        assert told_at(rose) - told_at(fell) >= QUIET_SECONDS
        assert position(guard) == "heavy"


def published(guard: Guard) -> Any:
    """The largest tier allowed, as who can only read files sees it."""
    return json.loads((guard.state / "public" / "status.json").read_text())["largest_allowed"]


def test_a_measured_footprint_takes_the_place_of_what_was_expected(kind: str) -> None:
    with yard(kind, LIMIT_BYTES, guarded=True, config=LADDER) as place:
        guard = place.guard
        assert guard is not None
        before = rows(guard)["light"]
        assert (before["installed"], before["footprint_measured"]) == (True, False)
        short = {"model": "tiny", "prompt": "hi", "stream": False, "options": {"num_predict": 8}}
        request(place.server.url, "POST", "/api/generate", short)
        guard.wait(lambda: rows(guard)["light"]["footprint_measured"], 30, "tiny is measured")
        assert rows(guard)["light"]["footprint_bytes"] != before["footprint_bytes"]
        shown = guard.tell("tiers").stdout.splitlines()
        assert shown[0].split()[:2] == ["TIER", "MODEL"]
        (missing,) = [line for line in shown if line.startswith("absent: ")]
        assert missing.startswith("absent: midd:7b is not installed; did you mean mid")


def rows(guard: Guard) -> dict[str, Any]:
    """The ladder by name, from the command."""
    return {row["name"]: row for row in json.loads(guard.tell("tiers", "--json").stdout)["tiers"]}
