"""The disposable reader of command lines: it may hang or die, the sensors may not."""

import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ollama_guard.sentinel.sensors.argv import parse_argv, split_cmdline
from ollama_guard.sentinel.sensors.witness import (
    _ANSWER,
    ANSWER_SECONDS,
    Answer,
    Witness,
    _blob_bytes,
    give_evidence,
)
from unit.sensors.sensor_tree import BLOB, Tree, Watcher, llama_server


def hang(_proc: str, theirs: socket.socket) -> None:
    """A witness stuck in the kernel, as far as anybody can see."""
    theirs.recv(100)
    signal.pause()


def babble(_proc: str, theirs: socket.socket) -> None:
    """A witness that answers garbage."""
    while theirs.recv(100):
        theirs.send(b"?")


Start = Callable[..., Witness]


@pytest.fixture
def start(tree: Tree) -> Iterator[Start]:
    started: list[Witness] = []

    def begin(work: Callable[[str, socket.socket], None] = give_evidence) -> Witness:
        started.append(Witness(str(tree.proc), work=work))
        return started[-1]

    yield begin
    for witness in started:
        witness.close()


def answers(witness: Witness, now: float, wanted: int) -> list[Answer]:
    """Take answers as they come, until there are so many."""
    heard: list[Answer] = []
    while len(heard) < wanted:
        assert select.select([witness.fileno()], [], [], 5)[0]
        heard += witness.take(now)
    return heard


def test_it_tells_the_command_line_and_then_the_size_of_the_blob(
    tree: Tree, start: Start, tmp_path: Path
) -> None:
    models = str(tmp_path / "models")
    blob = tmp_path / "models/blobs" / f"sha256-{BLOB}"
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"x" * 1234)
    argv = llama_server(models=models)
    tree.process(70, "llama-server", argv)
    witness = start()
    witness.ask((70, 1000), 0.0)
    said, size = answers(witness, 0.01, 2)
    assert said == Answer((70, 1000), argv=tuple(argv))
    assert size == Answer((70, 1000), blob_bytes=1234)


def test_it_goes_by_a_name_of_its_own_as_the_other_helpers_do(tree: Tree, start: Start) -> None:
    tree.process(70, "llama-server", llama_server())
    witness = start()
    witness.ask((70, 1000), 0.0)
    answers(witness, 0.01, 1)
    assert witness._child is not None
    assert Path(f"/proc/{witness._child.pid}/comm").read_text() == "guard-witness\n"


def test_a_process_with_another_start_time_is_not_witnessed(tree: Tree, start: Start) -> None:
    tree.process(70, "llama-server", llama_server(), start=1001)
    witness = start()
    witness.ask((70, 1000), 0.0)
    assert answers(witness, 0.01, 1) == [Answer((70, 1000))]


def test_one_that_hangs_is_replaced_and_asked_again_later(tree: Tree, start: Start) -> None:
    tree.process(70, "llama-server", llama_server())
    witness = start(hang)
    stuck = witness.fileno()
    child = witness._child
    assert child is not None
    key = (70, 1000)
    witness.ask(key, 0.0)
    before = time.monotonic()
    assert witness.take(ANSWER_SECONDS / 2) == []
    assert witness.take(ANSWER_SECONDS + 0.01) == []
    assert time.monotonic() - before < 0.25
    assert "no answer about process 70" in witness.stalled
    assert witness.failed(key)
    assert witness._child is not None
    assert witness._child.pid != child.pid
    assert stuck >= 0
    witness.ask(key, ANSWER_SECONDS + 0.02)
    assert witness._asked is None  # the back-off is not over
    witness.ask(key, ANSWER_SECONDS + 1)
    assert witness._asked is not None
    assert child.exited(5)


def test_one_that_dies_is_replaced(tree: Tree, start: Start) -> None:
    tree.process(70, "llama-server", llama_server())
    witness = start()
    assert witness._child is not None
    witness._child.signal(signal.SIGKILL)
    assert witness._child.exited(5)
    witness.take(1.0)
    assert "died" in witness.stalled
    witness.take(2.0)
    witness.ask((70, 1000), 2.0)
    assert answers(witness, 2.01, 1)[0].argv == tuple(llama_server())
    assert witness.stalled == ""


def test_garbage_is_no_testimony(start: Start) -> None:
    witness = start(babble)
    witness.ask((70, 1000), 0.0)
    assert select.select([witness.fileno()], [], [], 5)[0]
    assert witness.take(0.1) == []


def test_children_that_can_not_be_killed_do_not_pile_up(start: Start) -> None:
    witness = start(hang)
    for turn in range(20):
        witness.ask((70, turn), float(turn * 10))
        witness.take(turn * 10 + ANSWER_SECONDS + 0.01)
    assert len(witness._unreaped) <= 5


def test_it_holds_no_descriptor_but_its_own(start: Start) -> None:
    secret = os.open("/dev/null", os.O_RDONLY)
    try:
        witness = start()
        assert witness._child is not None
        deadline = time.monotonic() + 5
        folder = Path(f"/proc/{witness._child.pid}/fd")
        while len(held := [fd.name for fd in folder.iterdir()]) > 4 and time.monotonic() < deadline:
            os.sched_yield()
        assert str(secret) not in held
    finally:
        os.close(secret)


def test_a_child_of_a_server_that_can_not_be_read_makes_blind_and_says_so(
    tree: Tree, watch: Callable[..., Watcher]
) -> None:
    tree.server(50)
    watcher = watch()
    assert watcher.settle().blind == ()
    tree.process(70, "llama-server", llama_server(), parent=50)
    watcher.sensors._witness._work = hang
    watcher.sensors._witness._drop_child()
    early = watcher.look(0.5)
    assert early.blind == ()
    assert [(runner.proven, runner.blob) for runner in early.runners] == [(False, None)]
    watcher.look(1.0)
    (sentence,) = watcher.look(2.0).blind
    assert "process 70" in sentence
    assert "can't be read" in sentence


def test_of_a_server_it_tells_the_cgroup_as_well(tree: Tree, start: Start) -> None:
    tree.server(50, cgroup="0::/one\n")
    tree.process(70, "llama-server", llama_server(), parent=50)
    witness = start()
    witness.ask((50, 900), 0.0)
    (server,) = answers(witness, 0.0, 1)
    assert (server.argv, server.membership) == (("/usr/bin/ollama", "serve"), b"0::/one\n")
    witness.ask((70, 1000), 0.0)
    assert answers(witness, 0.0, 1)[0].membership == b"", "a runner's proof must not wait for it"


WORDS = (
    b"ollama", b"llama-server", b"/usr/bin/ollama", b"runner", b"serve", b"--model", b"-m", b"--port", b"-c",
    b"-np", b"--parallel", b"/", b"/etc/passwd", b"/x/blobs/sha256-" + BLOB.encode(), b"9" * 5000, b"",
    b"\xff\xfe", b"\xed\xa0\x80", b"/" + b"a" * 8000, b"..", b"-1", b"0x10",
)  # fmt: skip
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@PATIENT
@given(words=st.lists(st.sampled_from(WORDS) | st.binary(max_size=20), max_size=8))
def test_a_size_is_looked_for_by_any_command_line_at_all(words: list[bytes]) -> None:
    size = _blob_bytes("/proc", os.getpid(), parse_argv(split_cmdline(b"\0".join(words))))
    assert size is None or size >= 0


def test_any_reply_of_the_witness_is_an_answer_or_none(start: Start) -> None:
    witness = start()

    @PATIENT
    @given(packet=st.binary(max_size=200), kind=st.integers(0, 255), cmdline=st.binary(max_size=200))
    @example(packet=b"", kind=0, cmdline=b"\xff" * 16_384)
    def replies(packet: bytes, kind: int, cmdline: bytes) -> None:
        for said in (packet, _ANSWER.pack(1, 70, 1000, kind, 2**64 - 1) + cmdline):
            answer = witness._understood(said)
            assert answer is None or answer.argv is None or all(isinstance(word, str) for word in answer.argv)

    replies()
