"""Promise 6: a restarted Ollama is found, and who only looks like it is left alone, on both servers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from pathlib import Path

from beds.decoys import Decoy
from beds.process import alive, argv_of
from beds.yard import GIB, MIB, Told, Yard, facts, unguarded, yard

FOUND_SECONDS = 2.0
# Who was killed is there until its memory is given back, on a busy machine for a second.
DEATH_SECONDS = 15.0
_LISTENING = "0A"


def who_runs(blob: Path, pids: Iterable[int]) -> set[int]:
    """Whom a guard that goes by command lines would take for the runner of this blob."""
    wanted = ["--model", str(blob)]
    said = {pid: argv_of(pid) for pid in pids}
    return {pid for pid, argv in said.items() if wanted in [argv[i : i + 2] for i in range(len(argv))]}


def who_listens(port: int, pids: Iterable[int]) -> set[int]:
    """Whom a guard that goes by the port would take for the server."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    sockets = {
        f"socket:[{row[9]}]"
        for row in rows
        if row[3] == _LISTENING and int(row[1].rpartition(":")[2], 16) == port
    }
    return {pid for pid in pids if sockets & set(open_files(pid))}


def open_files(pid: int) -> list[str]:
    """What the descriptors of a process refer to."""
    found = []
    with contextlib.suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found.append(str(link.readlink()))
    return found


def restarted_among_strangers(kind: str, *, guarded: bool) -> Told:
    """Ollama restarts, a user's own llama-server runs on one of its blobs, a proxy has the port; a hog."""
    with yard(kind, 2 * GIB, guarded=guarded, proxied=True) as place, contextlib.ExitStack() as stack:
        assert place.proxy is not None
        place.server.load("tiny")
        blob = place.server.blob("mid")
        own = Decoy.llama_server(blob, memory_bytes=800 * MIB, launcher=place.cgroup.popen)
        stranger = stack.enter_context(own)
        found_seconds = restart(place)
        place.server.load("mid")
        place.wait_state("mid", "idle")
        mid, pids = place.pid_of("mid"), place.cgroup.pids()
        told = {
            "found seconds": found_seconds,
            "by command line": who_runs(blob, pids) == {mid, stranger.pid},
            "by port": who_listens(place.proxy.port, pids) == {place.proxy.pid},
        }
        hog = stack.enter_context(place.hog())
        hog.grow(900 * MIB, 300 * MIB)
        told["hog finished"] = hog.wait(20)
        deadline = time.monotonic() + DEATH_SECONDS
        while (stranger.alive or guarded) and alive(mid) and time.monotonic() < deadline:
            time.sleep(0.02)
        told |= {
            "oom kills": place.cgroup.oom_kills(),
            "untouched": stranger.alive and place.proxy.alive,
            "listed": place.guard and {model["pid"] for model in place.guard.status()["models"]},
            "strangers": {stranger.pid, place.proxy.pid},
            "mid lives": alive(mid),
            "evidence": place.evidence(),
        }
        return told


def restart(place: Yard) -> float:
    """Stop and start the server; seconds from its first answer until the guard has found the new PID."""
    old = place.server.pid
    place.server.stop()
    if place.guard is not None:
        place.guard.wait_event("ollama.lost", 5, pid=old)
    place.server.start()
    began = time.monotonic()
    if place.guard is not None:
        place.guard.wait_event("ollama.found", 5, pid=place.server.pid)
    return time.monotonic() - began


def test_6_a_restarted_server_is_found_and_strangers_are_left_alone(kind: str) -> None:
    """A new PID is found within 2 s; whom the kernel, the argv or the port would pick is not touched."""
    off = unguarded(restarted_among_strangers, kind)
    assert off["oom kills"] != 0, facts(off)
    assert not off["untouched"], facts(off)  # the kernel takes the largest, which is the user's own server
    told = restarted_among_strangers(kind, guarded=True)
    # A guard that went by either of these would have hit the stranger, or the proxy.
    assert told["by command line"], facts(told)
    assert told["by port"], facts(told)
    assert told["found seconds"] <= FOUND_SECONDS, facts(told)
    assert told["oom kills"] == 0, facts(told)
    assert told["hog finished"], facts(told)
    assert not told["mid lives"], facts(told)
    assert told["untouched"], facts(told)
    assert told["listed"].isdisjoint(told["strangers"]), facts(told)
