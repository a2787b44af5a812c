"""The `hands` process as the sentinel starts it: alive, bounded, and gone when the sentinel is."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from beds.hands import HandsBed
from beds.scripted import answer, scripted, silence
from ollama_guard.core.model import Action, ActionKind, OutcomeKind, Rung
from ollama_guard.core.policy import OllamaPolicy, Policy
from ollama_guard.hands.link import BEAT_SECONDS
from ollama_guard.wire import (
    ActionPosted,
    ApiObserved,
    Beat,
    CatalogueObserved,
    OutcomeReported,
    PolicyPosted,
    PollWanted,
)

VERSION = b'{"version":"0.33.0"}'


def boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def policy(url: str, **changes: float) -> Policy:
    return Policy(ollama=OllamaPolicy(url=url, request_timeout_seconds=changes.get("timeout", 2.0)))


def unload(number: int, seconds: float = 5.0) -> ActionPosted:
    return ActionPosted(Action(number, ActionKind.UNLOAD, Rung.UNLOAD_IDLE, boottime() + seconds, model="m"))


@pytest.fixture
def nobody() -> Iterator[str]:
    """A URL on which nobody listens, kept from others by a bound socket."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_with_nobody_there_they_beat_and_say_so_once(nobody: str, tmp_path: Path) -> None:
    with HandsBed(tmp_path, policy(nobody)) as hands:
        hands.wait_for(Beat, lambda beat: beat.pss_bytes is not None)
        api = hands.wait_for(ApiObserved, lambda m: m.api.loaded_error != "").api
        assert api.answered_at is None
        assert api.error.startswith("refused: ")
        hands.wait_for(ApiObserved, lambda m: (m.api.probed_at or 0) > (api.probed_at or 0) + 1.5)
        told = [event["event"] for event in hands.events()]
        assert [name for name in told if name.startswith("ollama.")] == ["ollama.lost"]


def test_beats_go_on_while_every_call_hangs(tmp_path: Path) -> None:
    with scripted(silence) as url, HandsBed(tmp_path, policy(url)) as hands:
        hands.wait_for(Beat)
        for number in range(8):
            hands.channel.send(unload(number, seconds=2.0))
        hands.forget()
        time.sleep(3.3 * BEAT_SECONDS)
        beats = hands.told(Beat)
        assert len(beats) >= 2
        assert max(b.at - a.at for a, b in itertools.pairwise(beats)) < 2 * BEAT_SECONDS
        hands.wait_for(ApiObserved, lambda m: m.api.loaded_error.startswith("timeout"))
        for number in range(8):
            ended = hands.wait_for(OutcomeReported, lambda m, n=number: m.outcome.action_id == n).outcome  # type: ignore[misc]
            assert ended.kind in (OutcomeKind.FAILED, OutcomeKind.SKIPPED)


def test_a_blocked_ps_is_not_a_dead_server(tmp_path: Path) -> None:
    """Version goes on answering, so `answered_at` moves while the list of models grows old."""
    blocked = threading.Event()

    def ollama(connection: socket.socket, over: threading.Event) -> None:
        if b"/api/ps" in requests[connection] and blocked.is_set():
            silence(connection, over)
        else:
            answer(VERSION)(connection, over)

    requests: dict[socket.socket, bytes] = {}
    with scripted(ollama, requests) as url, HandsBed(tmp_path, policy(url, timeout=8.0)) as hands:
        hands.wait_for(ApiObserved, lambda m: m.api.version == "0.33.0")
        blocked.set()
        hands.channel.send(PollWanted("born"))
        at = boottime()
        hands.wait_for(ApiObserved, lambda m: (m.api.answered_at or 0) > at + 1.0, seconds=8)


def test_an_unload_is_on_the_wire_within_a_tenth_of_a_second(tmp_path: Path) -> None:
    times: list[float] = []

    def script(connection: socket.socket, over: threading.Event) -> None:
        if b"/api/generate" in requests[connection]:
            times.append(boottime())
            answer(b'{"done":true,"done_reason":"unload"}')(connection, over)
        else:
            silence(connection, over)

    requests: dict[socket.socket, bytes] = {}
    with scripted(script, requests) as url, HandsBed(tmp_path, policy(url)) as hands:
        hands.wait_for(Beat)
        delays = []
        for number in range(20):
            posted_at = boottime()
            hands.channel.send(unload(number))
            hands.wait_for(OutcomeReported, lambda m, n=number: m.outcome.action_id == n)  # type: ignore[misc]
            delays.append(times[-1] - posted_at)
    # The median: the tail belongs to whatever else runs on the machine, and to the benchmarks.
    assert sorted(delays)[len(delays) // 2] < 0.1


def test_a_new_policy_s_url_is_followed(nobody: str, tmp_path: Path) -> None:
    with scripted(answer(VERSION)) as url, HandsBed(tmp_path, policy(nobody)) as hands:
        hands.wait_for(ApiObserved)
        hands.channel.send(PolicyPosted(policy(url)))
        hands.wait_for(ApiObserved, lambda m: m.api.version == "0.33.0")


@pytest.mark.parametrize("how", ["end of file", "SIGTERM"])
def test_they_end_at_once_and_take_their_sockets_away(nobody: str, tmp_path: Path, how: str) -> None:
    with HandsBed(tmp_path, policy(nobody)) as hands:
        hands.wait_for(Beat)
        assert {entry.name for entry in hands.runtime_dir.iterdir()} == {"status.sock", "control.sock"}
        started = time.monotonic()
        if how == "SIGTERM":
            hands.process.send_signal(signal.SIGTERM)
        else:
            hands.channel.close()
        assert hands.process.wait(5) == 0
        assert time.monotonic() - started < 1.0
        assert list(hands.runtime_dir.iterdir()) == []


def test_they_end_also_while_every_lane_hangs(tmp_path: Path) -> None:
    with scripted(silence) as url, HandsBed(tmp_path, policy(url, timeout=60.0)) as hands:
        hands.wait_for(Beat)
        for number in range(4):
            hands.channel.send(unload(number, seconds=60.0))
        time.sleep(0.3)
        hands.channel.close()
        assert hands.process.wait(2) == 0


def test_they_die_with_a_parent_that_was_killed(nobody: str, tmp_path: Path) -> None:
    """Even when somebody else keeps the channel open."""
    script = (
        "import subprocess, sys, os, time\n"
        "words = [sys.executable, '-I', '-m', 'ollama_guard.hands', *sys.argv[1:]]\n"
        "p = subprocess.Popen(words, close_fds=False)\n"
        "print(p.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    policy_fd = os.memfd_create("policy")
    os.write(policy_fd, b"{}")
    os.lseek(policy_fd, 0, os.SEEK_SET)
    os.set_inheritable(policy_fd, True)  # noqa: FBT003  (the standard library's own signature)
    os.set_inheritable(theirs.fileno(), True)  # noqa: FBT003
    del nobody
    words = ["--fd", str(theirs.fileno()), "--policy-fd", str(policy_fd)]
    folders = ["--runtime-dir", str(tmp_path / "run"), "--state-dir", str(tmp_path / "state")]
    parent = subprocess.Popen(
        [sys.executable, "-c", script, *words, *folders], stdout=subprocess.PIPE, close_fds=False
    )
    assert parent.stdout is not None
    child = os.pidfd_open(int(parent.stdout.readline()))
    assert ours.recv(65536)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    signalled = signal.pidfd_send_signal
    deadline = time.monotonic() + 5
    while True:
        try:
            signalled(child, 0)
        except ProcessLookupError:
            break
        assert time.monotonic() < deadline, "hands outlived their parent"
        time.sleep(0.02)
    for descriptor in (child, policy_fd):
        os.close(descriptor)
    ours.close()
    theirs.close()


def test_they_shed_the_sentinel_s_nice_value_and_blocked_signals(nobody: str, tmp_path: Path) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGHUP})
    try:
        hands = HandsBed(tmp_path, policy(nobody))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    with hands:
        hands.wait_for(Beat)
        status = Path(f"/proc/{hands.process.pid}/status").read_text()
        blocked = next(line for line in status.splitlines() if line.startswith("SigBlk:"))
        assert int(blocked.split()[1], 16) == 0
        assert os.getpriority(os.PRIO_PROCESS, hands.process.pid) == 0
        assert Path(f"/proc/{hands.process.pid}/oom_score_adj").read_text().strip() == "0"


def test_a_policy_that_is_none_is_refused_with_78(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reading, writing = os.pipe()
    os.write(writing, b'{"ollama":{"url":5}}')
    os.close(writing)
    words = ["--fd", str(theirs.fileno()), "--policy-fd", str(reading)]
    folders = ["--runtime-dir", str(tmp_path), "--state-dir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-I", "-m", "ollama_guard.hands", *words, *folders],
        pass_fds=(theirs.fileno(), reading),
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
        env={**os.environ, "OLLAMA_GUARD_LOG": "json"},
    )
    for end in (ours, theirs):
        end.close()
    os.close(reading)
    assert done.returncode == 78
    event = json.loads(done.stderr)
    assert event["event"] == "config.rejected"
    assert "ollama.url" in event["message"]


def test_they_stay_small(tmp_path: Path) -> None:
    """Both processes have 50 MiB; the sentinel takes 16 of them."""
    with (
        scripted(answer(b'{"version":"0.33.0","models":[]}')) as url,
        HandsBed(tmp_path, policy(url)) as hands,
    ):
        hands.wait_for(CatalogueObserved)
        beat = hands.wait_for(Beat, lambda b: b.pss_bytes is not None)
        assert (beat.pss_bytes or 0) < 34 * 1024**2
