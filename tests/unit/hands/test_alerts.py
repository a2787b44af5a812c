"""Alerts reach the webhook once it takes them, outlive hands, and never hold anything up."""

from __future__ import annotations

import json
import select
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ollama_guard.core.policy import NotifyPolicy
from ollama_guard.errors import AlertFailed
from ollama_guard.hands import journal
from ollama_guard.hands.alertdoc import NO_WEBHOOK, event_of
from ollama_guard.hands.alerts import (
    BACKOFF_FIRST_SECONDS,
    BACKOFF_LONGEST_SECONDS,
    GAP_SECONDS,
    GATHER_SECONDS,
    LIMIT,
    Alerts,
)
from ollama_guard.hands.consumers import Consumer
from ollama_guard.hands.spool import Spool
from ollama_guard.hands.weighing import Scales
from ollama_guard.wire import Noticed

SECRET = "https://user:pass@chat.example.org/hooks/s3cret?token=s3cret"  # noqa: S105 - a made-up one
POLICY = NotifyPolicy(SECRET, 2.0)


class Hook:
    """A webhook that fails so many times, then takes everything."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.tried = 0
        self.taken: list[dict[str, Any]] = []

    def __call__(self, url: str, body: bytes, deadline_seconds: float) -> None:
        """One delivery."""
        assert (url, deadline_seconds) == (SECRET, 2.0)
        self.tried += 1
        if self.tried <= self.failures:
            raise AlertFailed("chat.example.org answered with 500")
        self.taken.append(json.loads(body))

    @property
    def events(self) -> list[str]:
        """What was told."""
        return [document["event"] for document in self.taken]


class Bench:
    """Alerts in a folder, with a hook and the main loop of a test."""

    def __init__(self, loop: Any, folder: Path, hook: Callable[[str, bytes, float], None]) -> None:
        self.loop = loop
        self.folder = folder
        self.scales = Scales(loop.mailbox, loop.clock, lambda: (Consumer("db.service", "unit", 3 * 1024**3),))
        self.alerts = Alerts(folder, POLICY, self.scales, loop.mailbox, loop.clock, hook)

    def notice(self, name: str = "blob.condemned", wall: float = 1_700_000_000.0) -> None:
        """Something happened."""
        self.alerts.noticed(Noticed(name, f"{name} happened", wall, {"blob": "sha256:x", "none": None}))

    def until(self, reached: Callable[[], bool]) -> None:
        """Step until it is so, with time standing still; a lane's result, or its next line, is waited for."""
        deadline = time.monotonic() + 20.0
        self.step()
        while not reached():
            assert time.monotonic() < deadline, "it never came to be"
            select.select([self.loop.mailbox], [], [], 0.01)
            self.step()

    def step(self) -> None:
        """What is due now."""
        self.loop.mailbox.run()
        self.scales.step()
        self.alerts.step()

    def files(self) -> list[str]:
        """What is kept."""
        folder = self.folder / "alerts"
        return sorted(path.name for path in folder.glob("[0-9]*.json"))


@pytest.fixture
def start(loop: Any, tmp_path: Path) -> Callable[..., Bench]:
    return lambda hook: Bench(loop, tmp_path, hook)


def test_an_alert_says_what_happened_where_and_who_holds_memory(start: Callable[..., Bench]) -> None:
    hook = Hook()
    bench = start(hook)
    bench.notice()
    bench.until(lambda: bool(hook.taken))
    (document,) = hook.taken
    assert document["event"] == "blob.condemned"
    assert document["time"] == "2023-11-14T22:13:20+00:00"
    assert document["fields"] == {"blob": "sha256:x"}
    assert document["consumers"] == [{"name": "db.service", "kind": "unit", "bytes": 3 * 1024**3}]
    assert document["text"].startswith(f"ollama-guard on {document['host']}: blob.condemned happened")
    assert document["text"].endswith("(most memory is held by db.service 3.0 GiB)")


def test_who_holds_memory_is_not_waited_for_without_end(loop: Any, tmp_path: Path) -> None:
    hook, gate = Hook(), threading.Event()
    bench = Bench(loop, tmp_path, hook)
    bench.scales._look = lambda: (gate.wait(30), ())[1]  # type: ignore[func-returns-value]
    bench.notice()
    bench.step()
    assert bench.alerts.due_at() == loop.now + GATHER_SECONDS
    loop.now += GATHER_SECONDS
    bench.until(lambda: bool(hook.taken))
    assert hook.taken[0]["consumers"] is None
    gate.set()


def test_a_delivered_alert_is_no_longer_kept(start: Callable[..., Bench]) -> None:
    hook = Hook()
    bench = start(hook)
    bench.notice()
    bench.until(lambda: bool(hook.taken))
    bench.until(lambda: bench.files() == [])
    assert bench.alerts.due_at() == float("inf")


def test_a_refused_alert_is_tried_again_less_and_less_often_and_in_order(start: Callable[..., Bench]) -> None:
    hook = Hook(failures=9)
    bench = start(hook)
    bench.notice("playbook.started")
    bench.notice("playbook.finished", 1_700_000_001.0)
    bench.until(lambda: len(bench.files()) == 2 and not bench.alerts._keeping)  # a jump of time fails no disk
    waits = []
    for tries in range(1, 10):
        bench.until(lambda: hook.tried == tries and bench.alerts._sending is None)  # noqa: B023 - at once
        waits.append(bench.alerts.due_at() - bench.loop.now)
        bench.loop.now = bench.alerts.due_at()
    assert waits[:3] == [BACKOFF_FIRST_SECONDS, 2 * BACKOFF_FIRST_SECONDS, 4 * BACKOFF_FIRST_SECONDS]
    assert waits[-1] == BACKOFF_LONGEST_SECONDS
    bench.until(lambda: len(hook.taken) == 1 and bench.alerts._sending is None)
    bench.loop.now += GAP_SECONDS
    bench.until(lambda: len(hook.taken) == 2)
    assert hook.events == ["playbook.started", "playbook.finished"]


def test_what_was_not_delivered_comes_again_after_a_death_with_the_same_id(
    start: Callable[..., Bench],
) -> None:
    first = start(Hook(failures=99))
    first.notice()
    first.until(lambda: len(first.files()) == 1)
    (kept,) = first.files()
    hook = Hook()
    second = start(hook)
    second.until(lambda: bool(hook.taken))
    assert hook.events == ["blob.condemned"]
    assert f"{hook.taken[0]['id']}.json" == kept


def test_of_a_flood_the_newest_are_kept_in_memory_and_on_disk(
    start: Callable[..., Bench], tmp_path: Path
) -> None:
    hook = Hook(failures=10_000)
    bench = start(hook)
    for number in range(LIMIT + 50):
        bench.notice(f"flood.number_{number}", 1_700_000_000.0 + number)
        bench.until(lambda: not bench.alerts._gathering)
    bench.until(lambda: not (bench.alerts._keeping or bench.alerts._changed))
    assert len(bench.alerts._waiting) <= LIMIT + 1
    kept = [event_of(body) for _, body in Spool(tmp_path / "alerts", LIMIT).read()]
    assert len(kept) in (LIMIT, LIMIT - 1), "the one on its way may be the oldest"
    assert kept[-1] == f"flood.number_{LIMIT + 49}"


def test_a_disk_that_hangs_costs_no_alert(loop: Any, tmp_path: Path) -> None:
    hook, gate = Hook(), threading.Event()
    bench = Bench(loop, tmp_path, hook)
    bench.alerts._spool.read = lambda: (gate.wait(30), [])[1]  # type: ignore[method-assign, func-returns-value]
    bench.notice()
    bench.until(lambda: bool(hook.taken))
    assert hook.events == ["blob.condemned"]
    gate.set()


def test_a_disk_that_fails_costs_no_alert(loop: Any, tmp_path: Path) -> None:
    hook = Hook()
    (tmp_path / "alerts").write_text("a file where the folder should be")
    bench = Bench(loop, tmp_path, hook)
    bench.notice()
    bench.until(lambda: bool(hook.taken))


def test_a_hook_that_hangs_is_given_up_and_tried_again_by_another_thread(loop: Any, tmp_path: Path) -> None:
    gate, begun = threading.Event(), threading.Event()

    def post(url: str, body: bytes, seconds: float) -> None:
        del url, body, seconds
        begun.set()
        gate.wait(30)

    bench = Bench(loop, tmp_path, post)
    bench.notice()
    bench.until(begun.is_set)
    loop.now += 10.0
    bench.until(lambda: bench.alerts._sending is None)
    assert bench.alerts.due_at() == loop.now + BACKOFF_FIRST_SECONDS
    loop.now += BACKOFF_FIRST_SECONDS
    bench.step()
    assert bench.alerts.due_at() == loop.now + BACKOFF_LONGEST_SECONDS, "one hanging thread is enough"
    gate.set()
    bench.until(lambda: not bench.alerts._lane.stuck)


def test_without_a_webhook_nothing_is_kept_or_due(start: Callable[..., Bench]) -> None:
    hook = Hook()
    bench = start(hook)
    bench.alerts.follow(NotifyPolicy())
    bench.notice()
    bench.step()
    assert bench.alerts.due_at() == float("inf")
    assert bench.files() == []


def test_another_webhook_is_told_of_what_waits_at_once(start: Callable[..., Bench]) -> None:
    told = []
    bench = start(Hook(failures=99))
    bench.notice()
    bench.until(lambda: bench.alerts._tries == 1)
    bench.alerts._post = lambda url, *_: told.append(url)
    bench.alerts.follow(NotifyPolicy("http://other", 2.0))
    bench.until(lambda: told == ["http://other"])


@pytest.mark.parametrize(
    ("policy", "failures", "ok", "said"),
    [
        (POLICY, 0, True, "delivered to chat.example.org"),
        (POLICY, 1, False, "answered with 500"),
        (NotifyPolicy(), 0, False, NO_WEBHOOK),
    ],
    ids=["taken", "refused", "none"],
)
def test_a_test_by_hand_says_what_became_of_it(
    start: Callable[..., Bench], policy: NotifyPolicy, failures: int, said: str, *, ok: bool
) -> None:
    bench = start(Hook(failures))
    bench.alerts.follow(policy)
    answers: list[Any] = []
    asker = threading.Thread(target=lambda: answers.append(bench.alerts.test(10.0)))
    asker.start()
    bench.until(lambda: not asker.is_alive() or bool(answers))
    asker.join()
    assert answers[0].ok is ok
    assert said in answers[0].text


def test_the_log_shows_the_host_and_no_secret(
    start: Callable[..., Bench], capfd: pytest.CaptureFixture[str]
) -> None:
    journal.configure({"OLLAMA_GUARD_LOG": "json"}, 2)
    bench = start(Hook(failures=1))
    bench.notice()
    bench.until(lambda: bench.alerts._tries == 1)
    bench.loop.now += BACKOFF_FIRST_SECONDS
    bench.until(lambda: bench.alerts._tries == 0)
    said = capfd.readouterr().err
    assert '"alert.failed"' in said
    assert '"alert.sent"' in said
    assert "chat.example.org" in said
    assert "s3cret" not in said
    assert "pass@" not in said


def test_a_killed_writers_half_file_goes_and_files_of_others_stay(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "1700000000000-0001.json").write_text("{broken")
    (tmp_path / ".1700000000000-0002.json.new").write_text("{half")
    assert Spool(tmp_path, 5).read() == [("1700000000000-0001.json", b"{broken")]
    assert event_of(b"{broken") == "unknown"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1700000000000-0001.json", "notes.txt"]
