"""The fake's processes are real: command lines, memory, CPU, life and death (facts 2.7, 4.1, 9)."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ollama_guard.testing.fake import FakeOllama
from ollama_guard.testing.fake.calls import call

MIB = 1024 * 1024
MODELS = ("small=20MiB,tps=50", "big=80MiB,load=0.8", "embedder=20MiB,kind=embedding")
SYSTEM_PYTHON = "/usr/bin/python3"


@pytest.fixture
def fake() -> Iterator[FakeOllama]:
    """A fake of the newer dialect."""
    with FakeOllama(MODELS) as running:
        yield running


def alive(pid: int) -> bool:
    """Whether the process lives; a zombie that waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def argv(pid: int) -> list[str]:
    """A process's command line, to the byte."""
    data = Path(f"/proc/{pid}/cmdline").read_bytes()
    assert data.endswith(b"\0")
    return data[:-1].decode().split("\0")


def comm(pid: int) -> str:
    """A process's name."""
    return Path(f"/proc/{pid}/comm").read_text().strip()


def anonymous_bytes(pid: int) -> int:
    """RssAnon of a process."""
    match = re.search(r"^RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert match is not None
    return int(match[1]) * 1024


def cpu_seconds(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_the_runner_of_the_newer_dialect_has_the_command_line_of_llama_server(fake: FakeOllama) -> None:
    """Facts 4.1."""
    fake.load("small")
    runner = fake.runner("small")
    words = argv(runner["pid"])
    blob = f"{fake.models_dir}/blobs/sha256-{fake.blob('small')}"
    assert words[:10] == [
        "/usr/local/lib/ollama/llama-server",
        "--model",
        blob,
        "--port",
        str(runner["port"]),
        "--host",
        "127.0.0.1",
        "--no-webui",
        "--offline",
        "-c",
    ]
    assert words[10:13] == ["4096", "-np", "1"]
    assert comm(runner["pid"]) == "llama-server"


def test_the_runner_of_the_older_dialect_has_the_command_line_of_ollama_runner() -> None:
    """Facts 9."""
    with FakeOllama(MODELS, dialect="old", env={"OLLAMA_NUM_PARALLEL": "2"}) as fake:
        fake.load("small")
        runner = fake.runner("small")
        words = argv(runner["pid"])
        blob = f"{fake.models_dir}/blobs/sha256-{fake.blob('small')}"
        assert words[:6] == ["/usr/local/bin/ollama", "runner", "--model", blob, "--ctx-size", "4096"]
        assert words[words.index("--parallel") + 1] == "2"
        assert words[words.index("--port") + 1] == str(runner["port"])
        assert comm(runner["pid"]) == "ollama"
        assert fake.get("/api/version").value == {"version": "0.5.4"}


def test_the_server_shows_ollama_serve_and_its_runners_are_its_direct_children(fake: FakeOllama) -> None:
    """Facts 4.1; one thread, so that it may fork."""
    fake.load("small")
    assert argv(fake.pid) == ["/usr/local/bin/ollama", "serve"]
    assert comm(fake.pid) == "ollama"
    children = Path(f"/proc/{fake.pid}/task/{fake.pid}/children").read_text().split()
    assert children == [str(fake.runner_pid("small"))]


def test_a_runner_takes_its_memory_as_anonymous_pages_and_gives_it_back(fake: FakeOllama) -> None:
    """Facts 3.2: weights and KV, within an interpreter's overhead."""
    fake.load("small")
    runner = fake.runner("small")
    taken = anonymous_bytes(runner["pid"])
    assert runner["memory_bytes"] == 20 * MIB + 2048 * 4096
    assert runner["memory_bytes"] <= taken <= runner["memory_bytes"] + 24 * MIB


def test_a_load_takes_memory_at_its_configured_pace(fake: FakeOllama) -> None:
    """Half the time, about half the memory."""
    stream = fake.stream("big", tokens=1)
    fake.wait(lambda: fake.runner("big"))
    pid = fake.runner_pid("big")
    base = anonymous_bytes(pid)
    time.sleep(0.4)
    share = (anonymous_bytes(pid) - base) / fake.runner("big")["memory_bytes"]
    stream.join()
    assert 0.25 < share < 0.75
    assert anonymous_bytes(pid) >= 80 * MIB


def test_a_runner_burns_cpu_while_it_answers_and_none_when_idle(fake: FakeOllama) -> None:
    """Busy or idle must show in CPU time; the server itself stays near zero."""
    fake.load("small")
    pid = fake.runner_pid("small")
    before = cpu_seconds(pid), cpu_seconds(fake.pid)
    time.sleep(0.4)
    idle = cpu_seconds(pid) - before[0], cpu_seconds(fake.pid) - before[1]
    stream = fake.stream("small", tokens=1000)
    stream.wait_for_lines(1)
    before_busy = cpu_seconds(pid)
    time.sleep(0.4)
    busy = cpu_seconds(pid) - before_busy
    stream.close()
    assert max(idle) <= 0.02
    assert busy >= 0.06


def test_tokens_come_at_the_configured_rate(fake: FakeOllama) -> None:
    """50 tokens a second."""
    stream = fake.stream("small", tokens=25)
    stream.wait_for_lines(1)
    started = time.monotonic()
    stream.join()
    assert 0.4 < time.monotonic() - started < 1.5


def test_a_runner_answers_health_and_slots_on_its_own_port(fake: FakeOllama) -> None:
    """Facts 4.1: 503 while it loads, then ok; /slots tells who is busy."""
    stream = fake.stream("big", tokens=1000)
    fake.wait(lambda: fake.runner("big"))
    port = fake.runner("big")["port"]
    fake.wait(lambda: call(port, "GET", "/health").status == 503, 1)
    stream.wait_for_lines(1)
    assert call(port, "GET", "/health").value == {"status": "ok"}
    assert [slot["is_processing"] for slot in call(port, "GET", "/slots").value] == [True]
    stream.close()
    fake.wait(lambda: not call(port, "GET", "/slots").value[0]["is_processing"])


def test_an_embedding_model_has_one_slot_whatever_is_configured() -> None:
    """Facts 2.5."""
    with FakeOllama(MODELS, env={"OLLAMA_NUM_PARALLEL": "4"}) as fake:
        fake.post("/api/embed", {"model": "embedder", "input": "Hi"})
        words = argv(fake.runner_pid("embedder"))
        assert words[words.index("-np") + 1] == "1"


def test_parallel_answers_wait_for_a_slot(fake: FakeOllama) -> None:
    """Facts 2.1: requests that wait for a slot count as references."""
    first = fake.stream("small", tokens=10)
    first.wait_for_lines(1)
    second = fake.stream("small", tokens=2)
    fake.wait(lambda: fake.runner("small")["references"] == 2)
    assert second.lines == []
    first.join()
    second.join()
    assert second.finished


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_terminated_server_kills_its_runners_cuts_answers_and_exits_0(
    fake: FakeOllama, number: signal.Signals
) -> None:
    """Facts 2.7."""
    stream = fake.stream("small", tokens=1000)
    stream.wait_for_lines(1)
    started = time.monotonic()
    os.kill(fake.pid, number)
    assert fake.wait_exit() == 0
    assert time.monotonic() - started < 1
    assert fake.orphans() == []
    stream.join()
    assert not stream.finished


def test_sighup_ends_the_server_without_cleaning_up(fake: FakeOllama) -> None:
    """Facts 2.7."""
    fake.load("small")
    os.kill(fake.pid, signal.SIGHUP)
    assert fake.wait_exit() == -signal.SIGHUP
    assert len(fake.orphans()) == 1


def test_a_killed_server_orphans_its_runners_which_keep_their_memory(fake: FakeOllama) -> None:
    """Facts 2.7; a restart finds nothing loaded (facts 8.12), and stop() leaves nothing behind."""
    fake.load("small")
    pid, old_server = fake.runner_pid("small"), fake.pid
    fake.kill()
    assert fake.orphans() == [pid]
    assert anonymous_bytes(pid) >= 20 * MIB
    fake.start()
    assert fake.pid != old_server
    assert fake.loaded() == []
    assert fake.orphans() == [pid]
    fake.stop()
    assert fake.orphans() == []


def test_nothing_lives_on_when_the_process_that_started_the_fake_dies() -> None:
    """A killed test run leaves no server and no runner."""
    script = (
        "import json, os; from ollama_guard.testing.fake import FakeOllama\n"
        "fake = FakeOllama(['small=20MiB']).start(); fake.load('small')\n"
        "print(json.dumps([fake.pid, fake.runner_pid('small'), str(fake.log_path.parent)]), flush=True)\n"
        "os.kill(os.getpid(), 9)"
    )
    output = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=False, timeout=20
    ).stdout
    *pids, folder = json.loads(output)
    deadline = time.monotonic() + 5
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    subprocess.run(["rm", "-r", folder], check=True)
    assert not any(alive(pid) for pid in pids)


def test_it_starts_fast_and_idles(fake: FakeOllama) -> None:
    """About 0.2 s; a busy machine gets some grace."""
    fake.stop()
    started = time.monotonic()
    fake.start()
    assert time.monotonic() - started < 2


def test_it_accepts_at_start_but_serves_later() -> None:
    """Facts 1.1: a connect proves nothing."""
    with FakeOllama(MODELS, start_delay_seconds=0.3) as fake:
        socket.create_connection(("127.0.0.1", fake.port), 1).close()
        with pytest.raises(TimeoutError):
            fake.get("/api/version", timeout_seconds=0.1)
        assert fake.get("/api/version", timeout_seconds=5).status == 200


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
@pytest.mark.skipif(not os.access(SYSTEM_PYTHON, os.X_OK), reason="no system interpreter that others may run")
def test_it_runs_as_an_ordinary_user() -> None:
    """No capability is needed for any of it, the command lines included."""
    with FakeOllama(MODELS, user=65534, python=SYSTEM_PYTHON) as fake:
        fake.load("small")
        pid = fake.runner_pid("small")
        assert Path(f"/proc/{pid}").stat().st_uid == 65534
        assert argv(pid)[0] == "/usr/local/lib/ollama/llama-server"


def test_it_joins_a_cgroup_before_it_takes_memory(tmp_path: Path) -> None:
    """The child writes itself in before exec; shown on a file that stands for cgroup.procs."""
    procs = tmp_path / "cgroup.procs"
    with FakeOllama(MODELS, cgroup_procs=[procs]):
        assert procs.read_text() == "0"


CGROUP_TREES = (  # where a memory cgroup can be made, its limit file and a control file that shows the tree
    (
        Path("/sys/fs/cgroup/memory"),
        "memory.limit_in_bytes",
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
    ),
    (Path("/sys/fs/cgroup"), "memory.max", Path("/sys/fs/cgroup/cgroup.subtree_control")),
)


@pytest.fixture
def small_cgroup() -> Iterator[Path]:
    """A memory cgroup of 120 MiB."""
    found = next(((root, limit) for root, limit, marker in CGROUP_TREES if os.access(marker, os.W_OK)), None)
    if os.getuid() != 0 or found is None:
        pytest.skip("only root can make a memory cgroup")
    group = found[0] / f"fake-ollama-test-{os.getpid()}"
    group.mkdir()
    try:
        if not (group / found[1]).exists():
            pytest.skip("the memory controller is not enabled for cgroups here")
        (group / found[1]).write_text(str(120 * MIB))
        yield group
    finally:
        group.rmdir()


def test_in_a_cgroup_that_is_too_small_the_kernel_kills_the_runner_and_the_server_survives(
    small_cgroup: Path,
) -> None:
    """Facts 1.8 and 2.8 with the real kernel: the memory is counted in the cgroup."""
    with FakeOllama(["small=20MiB", "toobig=400MiB"], cgroup_procs=[small_cgroup / "cgroup.procs"]) as fake:
        assert fake.load("small").status == 200
        answer = fake.load("toobig")
        assert (answer.status, answer.error) == (500, "llama-server process has terminated: signal: killed")
        assert fake.loaded() == ["small:latest"]


def test_the_command_line_refuses_what_it_does_not_know() -> None:
    """A sentence and exit 2, never a traceback."""
    for model in ("small", "small=20XiB", "small=20MiB,colour=red"):
        command = [sys.executable, "-m", "ollama_guard.testing.fake", "--models-dir=.", f"--model={model}"]
        ended = subprocess.run(command, capture_output=True, check=False, text=True, timeout=20)
        assert ended.returncode == 2
        assert "Traceback" not in ended.stderr
        assert "error: " in ended.stderr


def test_connections_are_kept_alive_between_requests(fake: FakeOllama) -> None:
    """As Go does; clients pool them, so an open connection says nothing about busy."""
    connection = http.client.HTTPConnection("127.0.0.1", fake.port, timeout=5)
    answers = []
    for _ in range(3):
        connection.request("GET", "/api/version")
        answers.append(json.loads(connection.getresponse().read()))
    connection.close()
    assert answers == [{"version": "0.33.0"}] * 3
