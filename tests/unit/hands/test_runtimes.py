"""How servers are run is found once, kept fresh, and known also when the server and the guard were away."""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ollama_guard.core.model import ServerReading
from ollama_guard.core.policy import OllamaPolicy, Policy
from ollama_guard.core.runtime import RuntimeKind, RuntimeReading, RuntimeState
from ollama_guard.errors import RuntimeFailed
from ollama_guard.hands import journal
from ollama_guard.hands.lanes import GRACE_SECONDS
from ollama_guard.hands.remembered import StoppedRuntimes
from ollama_guard.hands.runtimes import (
    CALM_SECONDS,
    GONE_SECONDS,
    LOOK_SECONDS,
    STOPPED_SECONDS,
    Runtimes,
)
from ollama_guard.testing.runtimes import FakeRuntime
from ollama_guard.wire import RuntimesObserved

ID = "ab" * 32
SERVER = ServerReading(77, 5, 0, f"/docker/{ID}", "argv says serve")
CONTAINER = RuntimeReading(
    RuntimeKind.DOCKER, "ollama", RuntimeState.RUNNING, id=ID, server_pid=77, verbs=("stop", "start", "limit")
)
UNIT = replace(CONTAINER, kind=RuntimeKind.SYSTEMD, name="ollama.service", id="", server_pid=88)
UNIT_SERVER = ServerReading(88, 6, 0, "/system.slice/ollama.service", "argv says serve")
BARE = RuntimeReading(RuntimeKind.PROCESS, "99-7", RuntimeState.RUNNING, server_pid=99, cannot="by hand")
BARE_SERVER = ServerReading(99, 7, 0, "/user.slice/session-1.scope", "argv says serve")
HANGING = RuntimeFailed("hanging", "Docker did not answer in time")


class Story:
    """The part under test, with a fake for each kind of runtime, stepped by hand."""

    def __init__(self, loop: Any, folder: Path, **ollama: Any) -> None:
        self.loop = loop
        self.folder = folder
        self.ports = {
            RuntimeKind.DOCKER: FakeRuntime([CONTAINER]),
            RuntimeKind.SYSTEMD: FakeRuntime([UNIT]),
            RuntimeKind.PROCESS: FakeRuntime([BARE]),
        }
        self.made: list[RuntimeKind] = []
        policy = Policy(ollama=OllamaPolicy(**ollama))
        self.runtimes = Runtimes(policy, self._ports_of, folder, loop.mailbox, loop.send, loop.clock)

    @property
    def docker(self) -> FakeRuntime:
        """The fake that most stories are about."""
        return self.ports[RuntimeKind.DOCKER]

    def _ports_of(self, policy: OllamaPolicy) -> Any:
        del policy
        return self._port_of

    def _port_of(self, kind: RuntimeKind) -> FakeRuntime:
        self.made.append(kind)
        return self.ports[kind]

    def look(self) -> list[RuntimeReading]:
        """Take the look that is due; what the sentinel was told after it."""
        count = len(self.loop.sent)
        self.runtimes.step()
        self.loop.run_until(lambda: len(self.loop.sent) > count)
        message = self.loop.sent[-1]
        assert isinstance(message, RuntimesObserved)
        return list(message.runtimes)

    def later(self, seconds: float) -> list[RuntimeReading]:
        """What the look says that is due by then."""
        self.loop.now += seconds
        return self.look()

    def kept(self) -> None:
        """Until what was to be written down is; the file alone may be there a moment earlier."""
        ended: list[object] = []
        self.runtimes._keeping.submit(lambda: None, self.loop.now + 10, ended.append)
        self.loop.run_until(lambda: bool(ended))

    def tell(self, *servers: ServerReading) -> list[RuntimeReading]:
        """The sentinel tells the servers; what it is told in return."""
        self.runtimes.told(servers)
        return self.look()


@pytest.fixture
def story(loop: Any, tmp_path: Path) -> Story:
    return Story(loop, tmp_path)


@pytest.mark.parametrize(
    ("server", "reading", "asked"),
    [
        (SERVER, CONTAINER, {RuntimeKind.DOCKER}),
        (UNIT_SERVER, UNIT, {RuntimeKind.SYSTEMD}),
        (BARE_SERVER, BARE, {RuntimeKind.PROCESS}),
    ],
)
def test_a_server_s_cgroup_says_whom_to_ask_and_nobody_else_is(
    story: Story, server: ServerReading, reading: RuntimeReading, asked: set[RuntimeKind]
) -> None:
    assert story.tell(server) == [reading]
    assert set(story.made) == asked


def test_a_container_that_docker_does_not_know_is_a_bare_process(story: Story) -> None:
    """Podman's cgroups look alike where somebody named them so."""
    story.docker.readings.clear()
    story.ports[RuntimeKind.PROCESS].readings["77-5"] = replace(BARE, name="77-5", server_pid=77)
    assert [reading.kind for reading in story.tell(SERVER)] == [RuntimeKind.PROCESS]


def test_a_server_is_looked_for_once_and_then_read_by_name_each_quarter_of_a_minute(story: Story) -> None:
    story.tell(SERVER)
    assert story.runtimes.due_at() == story.loop.now + CALM_SECONDS
    story.docker.asked.clear()
    story.later(CALM_SECONDS)
    story.tell(replace(SERVER, traced=True))
    assert story.docker.asked == [("read", "ollama")] * 2


def test_after_an_action_the_next_look_is_due_at_once(story: Story) -> None:
    story.tell(SERVER)
    story.runtimes.acted()
    assert story.runtimes.due_at() <= story.loop.now


def test_a_stopped_server_s_runtime_is_still_known_and_can_be_acted_on(story: Story) -> None:
    story.tell(SERVER)
    story.docker.readings["ollama"] = replace(CONTAINER, state=RuntimeState.STOPPED, server_pid=None)
    assert [reading.state for reading in story.tell()] == [RuntimeState.STOPPED]
    known = story.runtimes.by_name("ollama")
    assert known is not None
    assert known.port() is story.docker
    unnamed = story.runtimes.by_name("")
    assert unnamed is not None
    assert unnamed.reading == known.reading
    assert story.runtimes.by_name("another") is None


def test_a_guard_that_was_killed_knows_a_stopped_ollama_again(story: Story, loop: Any) -> None:
    story.tell(SERVER)
    loop.run_until((story.folder / "runtimes.json").exists)
    again = Story(loop, story.folder)
    again.docker.readings["ollama"] = replace(CONTAINER, state=RuntimeState.STOPPED, server_pid=None)
    assert [(r.name, r.state) for r in again.tell()] == [("ollama", RuntimeState.STOPPED)]


def test_what_is_remembered_survives_a_docker_that_is_away_at_the_start(story: Story, loop: Any) -> None:
    story.tell(SERVER)
    loop.run_until((story.folder / "runtimes.json").exists)
    again = Story(loop, story.folder)
    again.docker.faults["read"] = RuntimeFailed("absent", "no Docker listens")
    (reading,) = again.look()
    assert (reading.name, reading.error) == ("ollama", "absent")
    again.docker.faults.clear()
    assert again.later(2.0)[0].error == ""
    assert json.loads((story.folder / "runtimes.json").read_text()) == [{"kind": "docker", "name": "ollama"}]


def test_a_docker_that_can_t_be_asked_is_named_and_what_was_known_is_kept(story: Story) -> None:
    story.tell(SERVER)
    story.docker.faults["read"] = HANGING
    (reading,) = story.later(CALM_SECONDS)
    assert (reading.state, reading.error, reading.verbs) == (RuntimeState.UNKNOWN, "hanging", CONTAINER.verbs)
    assert "did not answer" in reading.reason
    assert story.runtimes.due_at() < story.loop.now + CALM_SECONDS
    story.docker.faults.clear()
    assert story.later(CALM_SECONDS) == [CONTAINER]


def test_a_server_whose_docker_never_answered_is_told_by_its_short_id_and_looked_for_again(
    story: Story,
) -> None:
    story.docker.faults["find"] = HANGING
    (reading,) = story.tell(SERVER)
    assert (reading.kind, reading.name, reading.error) == (RuntimeKind.DOCKER, ID[:12], "hanging")
    assert reading.server_pid == 77
    story.docker.faults.clear()
    assert story.later(CALM_SECONDS) == [CONTAINER]


def test_a_known_container_whose_new_server_can_t_be_looked_up_is_told_once(story: Story) -> None:
    story.tell(SERVER)
    story.docker.faults |= {"find": HANGING, "read": HANGING}
    assert [reading.name for reading in story.tell(replace(SERVER, pid=78))] == ["ollama"]


def test_a_call_that_never_ends_is_given_up_and_named(story: Story) -> None:
    story.tell(SERVER)
    gate = story.docker.gates["read"] = threading.Event()
    story.loop.now += CALM_SECONDS
    story.runtimes.step()
    story.loop.now += LOOK_SECONDS + GRACE_SECONDS + 0.1
    count = len(story.loop.sent)
    story.runtimes.step()
    story.loop.run_until(lambda: len(story.loop.sent) > count)
    (reading,) = story.loop.sent[-1].runtimes
    assert (reading.name, reading.error) == ("ollama", "hanging")
    gate.set()


def test_a_runtime_on_its_way_is_looked_at_more_often_and_less_so_with_time(story: Story) -> None:
    story.docker.readings["ollama"] = replace(CONTAINER, state=RuntimeState.CHANGING)
    story.tell(SERVER)
    delays = []
    for _ in range(6):
        delays.append(story.runtimes.due_at() - story.loop.now)
        story.later(delays[-1])
    assert delays == [1.0, 2.0, 4.0, 8.0, 15.0, 15.0]


def test_a_running_container_whose_server_just_ended_is_looked_at_soon(story: Story) -> None:
    """Docker hears of it a moment later than the sentinel."""
    story.tell(SERVER)
    story.tell()
    assert story.runtimes.due_at() - story.loop.now < CALM_SECONDS


def test_the_server_behind_an_init_keeps_its_own_pid(story: Story) -> None:
    """With ``docker run --init`` the container's first process is the one that reaps."""
    main = replace(CONTAINER, server_pid=70)
    story.docker.find = lambda *_: main  # type: ignore[method-assign]
    story.docker.readings["ollama"] = main
    assert story.tell(SERVER)[0].server_pid == 77
    assert story.later(CALM_SECONDS)[0].server_pid == 77
    story.docker.readings["ollama"] = replace(main, server_pid=71)
    assert story.later(CALM_SECONDS)[0].server_pid == 71, "another container run has another server"


def test_a_container_that_went_while_nobody_looked_was_read_as_gone_at_a_time(
    story: Story, loop: Any
) -> None:
    """A recovery tells by the time whether it is gone since then."""
    story.tell(SERVER)
    loop.run_until((story.folder / "runtimes.json").exists)
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    for one in (story, Story(loop, story.folder)):
        one.docker.readings.clear()
        (gone,) = one.tell()
        assert gone.state is RuntimeState.GONE
        assert gone.read_at >= before


def test_what_the_guard_stopped_before_a_boot_is_told_while_it_is_down(story: Story, loop: Any) -> None:
    story.tell(SERVER)
    loop.run_until((story.folder / "runtimes.json").exists)
    book = StoppedRuntimes(story.folder, "the boot before")
    book.stopping("ollama")
    again = Story(loop, story.folder)
    again.docker.readings["ollama"] = replace(CONTAINER, state=RuntimeState.STOPPED, server_pid=None)
    assert [reading.stopped_by_us for reading in again.tell()] == [True]
    again.docker.readings["ollama"] = CONTAINER
    assert [reading.stopped_by_us for reading in again.tell(SERVER)] == [False]
    again.docker.readings["ollama"] = replace(CONTAINER, state=RuntimeState.STOPPED, server_pid=None)
    assert [reading.stopped_by_us for reading in again.tell()] == [False], "somebody had started it"


def test_a_container_that_is_gone_for_long_is_forgotten_also_on_disk(story: Story) -> None:
    story.tell(SERVER)
    story.loop.run_until((story.folder / "runtimes.json").exists)
    story.docker.readings.clear()
    (gone,) = story.tell()
    assert gone.state is RuntimeState.GONE
    assert story.later(GONE_SECONDS - CALM_SECONDS) != []
    assert story.later(2 * CALM_SECONDS) == []
    story.loop.run_until(lambda: json.loads((story.folder / "runtimes.json").read_text()) == [])


def test_a_unit_that_stays_stopped_while_a_container_serves_is_forgotten_at_last(story: Story) -> None:
    story.tell(UNIT_SERVER)
    story.ports[RuntimeKind.SYSTEMD].readings["ollama.service"] = replace(
        UNIT, state=RuntimeState.STOPPED, server_pid=None
    )
    assert {reading.name for reading in story.tell(SERVER)} == {"ollama", "ollama.service"}
    assert {reading.name for reading in story.later(STOPPED_SECONDS - CALM_SECONDS)} == {
        "ollama",
        "ollama.service",
    }
    assert {reading.name for reading in story.later(2 * CALM_SECONDS)} == {"ollama"}


def test_the_only_stopped_runtime_is_never_forgotten(story: Story) -> None:
    story.tell(SERVER)
    story.docker.readings["ollama"] = replace(CONTAINER, state=RuntimeState.STOPPED, server_pid=None)
    story.tell()
    assert len(story.later(10 * STOPPED_SECONDS)) == 1


def test_a_bare_process_that_ended_is_nothing_to_remember(story: Story) -> None:
    story.tell(BARE_SERVER)
    story.ports[RuntimeKind.PROCESS].readings["99-7"] = replace(BARE, state=RuntimeState.GONE)
    assert story.tell() == []


def test_the_configured_runtime_is_read_from_the_start_and_asked_for_every_server(
    loop: Any, tmp_path: Path
) -> None:
    story = Story(loop, tmp_path, runtime=RuntimeKind.DOCKER, runtime_name="ollama")
    assert story.look() == [CONTAINER]
    story.docker.find = lambda *_: None  # type: ignore[method-assign]
    assert story.tell(BARE_SERVER) == [replace(CONTAINER, server_pid=99)], "the owner's word"
    story.docker.readings.clear()
    story.tell()
    assert [reading.state for reading in story.later(10 * GONE_SECONDS)] == [RuntimeState.GONE]


def test_another_configured_runtime_has_every_server_looked_for_anew(story: Story) -> None:
    story.tell(SERVER)
    story.docker.asked.clear()
    story.runtimes.follow(Policy(ollama=OllamaPolicy(docker_host="tcp://127.0.0.1:1")))
    story.look()
    assert ("find", "77") in story.docker.asked
    story.docker.asked.clear()
    story.runtimes.follow(Policy(ollama=OllamaPolicy(docker_host="tcp://127.0.0.1:1", poll_seconds=3.0)))
    assert story.runtimes.due_at() > story.loop.now


def test_what_may_be_done_and_what_would_help_is_said_once(
    story: Story, capfd: pytest.CaptureFixture[str]
) -> None:
    journal.configure({"OLLAMA_GUARD_LOG": "json"}, os.dup(2))
    story.docker.readings["ollama"] = replace(CONTAINER, hint="add one line")
    story.tell(SERVER)
    story.kept()
    story.later(CALM_SECONDS)
    story.docker.faults["read"] = HANGING
    story.later(CALM_SECONDS)
    story.later(CALM_SECONDS)
    events = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [event["event"] for event in events] == ["runtime.found", "runtime.failed"]
    assert "Docker, as the container ollama; add one line" in events[0]["message"]
    assert events[1]["error"] == "hanging"


def test_a_disk_that_fails_is_said_once_and_tried_again(
    loop: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    journal.configure({"OLLAMA_GUARD_LOG": "json"}, os.dup(2))
    folder = tmp_path / "state"
    folder.write_text("in the way")
    story = Story(loop, folder)
    story.tell(SERVER)
    for _ in range(2):
        loop.run_until(lambda: not story.runtimes._kept)
        story.later(CALM_SECONDS)
    loop.run_until(lambda: not story.runtimes._kept)
    folder.unlink()
    story.later(CALM_SECONDS)
    loop.run_until((folder / "runtimes.json").exists)
    said = capfd.readouterr().err
    assert said.count("is not remembered") == 1
