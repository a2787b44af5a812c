"""The log's volume is bounded, and the reader still learns that something goes on."""

from __future__ import annotations

from ollama_guard.core.events import Event
from ollama_guard.sentinel.thinning import Thinning


def killed(blob: str) -> Event:
    return Event("load.aborted", f"the load of {blob} was aborted", fields={"blob": blob})


def test_a_blob_killed_each_second_for_five_minutes_gives_a_handful_of_lines() -> None:
    thinning = Thinning()
    told = [event for second in range(300) if (event := thinning.pass_on(killed("sha256:a"), float(second)))]
    assert 8 <= len(told) <= 12
    assert told[0].fields.get("repeated") is None
    assert sum(1 + int(event.fields.get("repeated") or 0) for event in told) <= 300


def test_every_repeat_is_counted_in_some_line() -> None:
    thinning = Thinning()
    told = [event for second in range(300) if (event := thinning.pass_on(killed("sha256:a"), second / 3))]
    told += thinning.rest(100.0)
    assert sum(1 + int(event.fields.get("repeated") or 0) for event in told) == 300


def test_another_blob_is_news() -> None:
    thinning = Thinning()
    assert thinning.pass_on(killed("sha256:a"), 0.0)
    assert thinning.pass_on(killed("sha256:b"), 0.1)
    assert thinning.pass_on(killed("sha256:a"), 0.2) is None


def test_a_harder_step_against_the_same_blob_is_news() -> None:
    thinning = Thinning()
    for rung in ("unload_idle", "kill_runner"):
        event = Event("decision.made", "short", fields={"blob": "sha256:a", "rung": rung})
        assert thinning.pass_on(event, 0.0)


def test_the_last_of_a_burst_is_told_when_its_interval_is_over() -> None:
    thinning = Thinning()
    thinning.pass_on(killed("sha256:a"), 0.0)
    for tenth in range(1, 6):
        assert thinning.pass_on(killed("sha256:a"), tenth / 10) is None
    assert thinning.due(0.9) == []
    (late,) = thinning.due(1.0)
    assert late.fields["repeated"] == 4
    assert thinning.due(500.0) == []


def test_after_a_quiet_time_the_same_thing_is_news_again() -> None:
    thinning = Thinning()
    thinning.pass_on(killed("sha256:a"), 0.0)
    assert thinning.pass_on(killed("sha256:a"), 0.1) is None
    assert thinning.pass_on(killed("sha256:a"), 100.0)


def test_answers_to_people_and_level_changes_are_never_held_back() -> None:
    thinning = Thinning()
    for name in ("guard.reported", "config.rejected", "level.changed"):
        event = Event(name, "the same sentence")
        assert [thinning.pass_on(event, 0.0) for _ in range(5)] == [event] * 5


def test_hostile_names_do_not_grow_the_memory() -> None:
    thinning = Thinning()
    for number in range(5000):
        thinning.pass_on(killed(f"sha256:{number}"), 0.0)
    assert len(thinning._repeats) <= 256
