"""Faults on demand: each does what docs/fake-ollama.md says, and ends."""

from __future__ import annotations

import http.client
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ollama_guard.testing.fake import FakeOllama

MIB = 1024 * 1024
MODELS = ("small=20MiB", "third=20MiB")


@pytest.fixture(scope="module")
def shared() -> Iterator[FakeOllama]:
    """One fake for the faults that only spoil answers."""
    with FakeOllama(MODELS) as running:
        yield running


@pytest.fixture
def spoilt(shared: FakeOllama) -> Iterator[FakeOllama]:
    """The same, mended afterwards."""
    yield shared
    shared.clear_faults()
    assert shared.get("/api/version", timeout_seconds=2).value == {"version": "0.33.0"}


@pytest.fixture
def fake() -> Iterator[FakeOllama]:
    """A fake of its own."""
    with FakeOllama(MODELS) as running:
        yield running


def exists(pid: int) -> bool:
    """Whether there is such a process, a zombie included."""
    return Path(f"/proc/{pid}").exists()


def anonymous_bytes(pid: int) -> int:
    """RssAnon of a process."""
    match = re.search(r"^RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert match is not None
    return int(match[1]) * 1024


def test_hang_accepts_but_never_answers_until_it_ends(spoilt: FakeOllama) -> None:
    """What hung is answered when the hang is over; the control port works throughout."""
    spoilt.set_fault("hang", seconds=0.4)
    with pytest.raises(TimeoutError):
        spoilt.get("/api/version", timeout_seconds=0.1)
    assert spoilt.state()["pid"] == spoilt.pid
    started = time.monotonic()
    assert spoilt.get("/api/version").status == 200
    assert time.monotonic() - started > 0.1


def test_hang_can_be_limited_to_one_path(spoilt: FakeOllama) -> None:
    """Only /api/ps is silent."""
    spoilt.set_fault("hang", path="/api/ps")
    with pytest.raises(TimeoutError):
        spoilt.get("/api/ps", timeout_seconds=0.1)
    assert spoilt.get("/api/version", timeout_seconds=1).status == 200


def test_drip_sends_one_byte_a_second(spoilt: FakeOllama) -> None:
    """A time-out that starts anew at each byte never fires."""
    spoilt.set_fault("drip")
    with socket.create_connection(("127.0.0.1", spoilt.port), 5) as connection:
        connection.sendall(b"GET /api/version HTTP/1.1\r\nHost: localhost\r\n\r\n")
        first = connection.recv(100)
        started = time.monotonic()
        second = connection.recv(100)
        assert (first, second) == (b"H", b"T")
        assert 0.8 < time.monotonic() - started < 1.5


def test_garbage_is_not_even_http(spoilt: FakeOllama) -> None:
    """A client sees a broken status line."""
    spoilt.set_fault("garbage", path="/api/ps")
    with pytest.raises(http.client.BadStatusLine):
        spoilt.get("/api/ps")


@pytest.mark.parametrize(
    ("kind", "status", "content"),
    [
        ("html", 200, "text/html"),
        ("redirect", 302, "application/json"),
        ("http_500", 500, "application/json"),
    ],
)
def test_wrong_answers_are_what_they_say(spoilt: FakeOllama, kind: str, status: int, content: str) -> None:
    """HTML with 200, a redirect elsewhere, a 500."""
    spoilt.set_fault(kind)
    answer = spoilt.get("/api/tags")
    assert answer.status == status
    assert answer.headers["Content-Type"].startswith(content)
    assert ("Location" in answer.headers) == (kind == "redirect")


def test_huge_is_ten_megabytes(spoilt: FakeOllama) -> None:
    """More than any cap on a body."""
    spoilt.set_fault("huge", path="/api/ps")
    assert int(spoilt.get("/api/ps").headers["Content-Length"]) > 10_000_000


def test_an_unknown_fault_is_refused(spoilt: FakeOllama) -> None:
    """With the kinds that there are."""
    with pytest.raises(ValueError, match="allowed: hang, drip"):
        spoilt.set_fault("gremlins")


def test_block_ps_holds_the_lock_that_unload_wants_too(spoilt: FakeOllama) -> None:
    """Facts 1.3: version and tags still answer."""
    spoilt.set_fault("block_ps", seconds=0.4)
    assert spoilt.get("/api/tags", timeout_seconds=0.2).status == 200
    started = time.monotonic()
    assert spoilt.get("/api/ps").status == 200
    assert time.monotonic() - started > 0.1


def test_ps_can_block_during_an_unload_whose_memory_is_back_at_once(fake: FakeOllama) -> None:
    """Facts 1.3a: the 200 comes at once, /api/ps only after the teardown."""
    fake.set_fault("block_ps_on_unload", seconds=0.6)
    fake.load("small")
    pid = fake.runner_pid("small")
    assert fake.unload("small").status == 200
    fake.wait(lambda: not exists(pid), 0.4)
    with pytest.raises(TimeoutError):
        fake.get("/api/ps", timeout_seconds=0.2)
    assert fake.loaded() == []


def test_slow_teardown_keeps_the_memory_meanwhile(fake: FakeOllama) -> None:
    """A runner that takes its time to die, and /api/ps waits for it (facts 1.3a)."""
    fake.set_fault("slow_teardown", seconds=0.5)
    fake.load("small")
    pid = fake.runner_pid("small")
    fake.unload("small")
    with pytest.raises(TimeoutError):
        fake.get("/api/ps", timeout_seconds=0.2)
    assert anonymous_bytes(pid) >= 20 * MIB
    fake.wait(lambda: not exists(pid), 2)


def test_an_unload_that_is_never_honoured_answers_200_all_the_same(fake: FakeOllama) -> None:
    """It stays until the fault is cleared and it is asked again."""
    fake.set_fault("ignore_unload")
    fake.load("small")
    assert fake.unload("small").value["done_reason"] == "unload"
    time.sleep(0.2)
    assert fake.loaded() == ["small:latest"]
    fake.clear_faults()
    fake.unload("small")
    fake.wait(lambda: not fake.loaded())


def test_a_crashed_server_orphans_its_runners_and_can_start_again(fake: FakeOllama) -> None:
    """Facts 2.7: same port, a new PID, nothing loaded."""
    fake.load("small")
    port = fake.port
    fake.set_fault("crash_server")
    assert len(fake.orphans()) == 1
    fake.start()
    assert fake.port == port
    assert fake.loaded() == []


def test_a_crashed_runner_leaves_a_ghost(fake: FakeOllama) -> None:
    """Facts 2.8; the other runner goes on."""
    fake.load("small")
    fake.load("third")
    fake.set_fault("crash_runner", model="small", signal=int(signal.SIGSEGV))
    fake.wait(lambda: not fake.runner("small")["alive"])
    assert len(fake.loaded()) == 2
    assert fake.runner("third")["alive"]


def test_a_runner_grows_on_demand_up_to_the_prompt_cache_limit() -> None:
    """Facts 3.3: /api/ps does not show it; LLAMA_ARG_CACHE_RAM bounds it."""
    with FakeOllama(MODELS, env={"LLAMA_ARG_CACHE_RAM": "30"}) as fake:
        fake.load("small")
        pid, shown = fake.runner_pid("small"), fake.ps()[0]["size"]
        before = anonymous_bytes(pid)
        fake.set_fault("grow", model="small", bytes=20 * MIB)
        fake.wait(lambda: anonymous_bytes(pid) - before >= 20 * MIB, 2)
        fake.set_fault("grow", model="small", bytes=500 * MIB)
        fake.wait(lambda: anonymous_bytes(pid) - before >= 30 * MIB, 2)
        time.sleep(0.1)
        assert anonymous_bytes(pid) - before < 32 * MIB
        assert fake.ps()[0]["size"] == shown


def test_a_model_can_grow_its_cache_with_each_answer() -> None:
    """Facts 3.3: growth after the load is normal."""
    with FakeOllama(["hungry=20MiB,cache=10MiB,tps=200"]) as fake:
        fake.load("hungry")
        pid = fake.runner_pid("hungry")
        before = anonymous_bytes(pid)
        for _ in range(2):
            fake.stream("hungry", tokens=2).join()
        fake.wait(lambda: anonymous_bytes(pid) - before >= 20 * MIB, 2)


def test_embedding_calls_fill_the_prompt_cache_too() -> None:
    """Facts 3.3."""
    with FakeOllama(["vectors=20MiB,kind=embedding,cache=8MiB"]) as fake:
        fake.post("/api/embed", {"model": "vectors", "input": "x"})
        before = anonymous_bytes(fake.runner_pid("vectors"))
        for _ in range(3):
            fake.post("/api/embed", {"model": "vectors", "input": "x"})
        fake.wait(lambda: anonymous_bytes(fake.runner_pid("vectors")) - before >= 20 * MIB)
