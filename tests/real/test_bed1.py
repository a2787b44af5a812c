"""Bed 1 is what it claims to be: a real server, real runners, real memory."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from beds.cgroups import MemoryCgroup
from beds.clients import RetryClient, StreamingClient
from beds.decoys import Decoy, TcpProxy
from beds.hog import Hog
from beds.http import request
from beds.ollama_install import Installation
from beds.process import alive, argv_of, rss_bytes
from beds.real_ollama import RealOllama, own_shelf

MIB = 1 << 20
GIB = 1 << 30

Servers = Callable[..., RealOllama]
Cgroups = Callable[[int], MemoryCgroup]


def test_a_real_answer_streams_to_its_end(real_ollama: Servers) -> None:
    server = real_ollama()
    with StreamingClient(server.url, "tiny", 40) as client:
        answer = client.wait(60)
    assert answer.finished
    assert answer.done_reason == "length"
    assert answer.chunks >= 30  # some tokens are only part of a character and come together


def test_an_answer_cut_by_the_runners_death_is_not_finished(real_ollama: Servers) -> None:
    server = real_ollama()
    with StreamingClient(server.url, "tiny", 4000) as client:
        assert client.wait_streaming()
        runner = server.runner("tiny")
        assert runner is not None
        os.kill(runner, signal.SIGKILL)
        answer = client.wait(30)
    assert answer.ended is not None
    assert not answer.finished
    assert server.alive


def test_a_runner_holds_the_memory_that_the_shelf_says(real_ollama: Servers) -> None:
    server = real_ollama()
    server.load("mid")
    assert 500 * MIB < server.runner_rss_bytes("mid") < 750 * MIB
    assert list(server.loaded()) == ["mid"]


def test_twins_have_runners_of_their_own_and_an_alias_has_none(real_ollama: Servers) -> None:
    server = real_ollama()
    for model in ("tiny", "tiny2", "tiny-alias"):
        server.load(model)
    assert len(server.runners()) == 2
    assert server.blob("tiny") == server.blob("tiny-alias") != server.blob("tiny2")


def test_a_server_leaves_no_process_behind(real_ollama: Servers) -> None:
    server = real_ollama()
    server.load("tiny")
    pids = [server.pid, *server.runners().values()]
    server.stop()
    assert len(pids) == 2
    assert not any(map(alive, pids))


def test_a_hog_beyond_the_limit_raises_the_cgroups_oom_counter(
    real_ollama: Servers, memory_cgroup: Cgroups
) -> None:
    cgroup = memory_cgroup(1 * GIB)
    server = real_ollama(launcher=cgroup.popen)
    server.load("mid")
    assert cgroup.usage() > 500 * MIB
    assert cgroup.oom_kills() == 0
    with Hog(cgroup.popen) as hog:
        hog.grow(2 * GIB, 4 * GIB)
        assert not hog.wait(30)
    assert cgroup.oom_kills() >= 1


def test_a_removed_cgroup_takes_its_processes_with_it(memory_cgroup: Cgroups) -> None:
    cgroup = memory_cgroup(64 * MIB)
    inside = cgroup.popen(["sleep", "1000"])
    assert cgroup.pids() == [inside.pid]
    cgroup.__exit__()
    assert inside.wait(5) == -signal.SIGKILL
    assert not cgroup.path.exists()


def test_a_hog_keeps_its_speed_and_gives_back_what_it_took() -> None:
    with Hog() as hog:
        began = time.monotonic()
        hog.grow(100 * MIB, 200 * MIB)
        assert hog.wait(20)
        assert time.monotonic() - began >= 0.45
        assert rss_bytes(hog.pid) >= 100 * MIB
        hog.release()
        assert hog.wait(5)
        assert rss_bytes(hog.pid) < 50 * MIB


def test_a_decoy_shows_anothers_name_and_command_line() -> None:
    blob = Path("/srv/models/blobs/sha256-" + "0" * 64)
    with Decoy.llama_server(blob, memory_bytes=32 * MIB) as decoy:
        assert argv_of(decoy.pid) == decoy.argv
        assert decoy.argv[:3] == ["/usr/local/bin/llama-server", "--model", str(blob)]
        assert Path(f"/proc/{decoy.pid}/comm").read_text() == "llama-server\n"
        assert rss_bytes(decoy.pid) > 32 * MIB


def test_a_proxy_holds_the_port_and_passes_answers_on(real_ollama: Servers) -> None:
    server = real_ollama()
    with TcpProxy(server.port) as proxy:
        assert request(proxy.url, "GET", "/api/version") == server.get("/api/version")
        assert proxy.pid != server.pid


def test_a_retrying_client_notes_every_refusal(real_ollama: Servers) -> None:
    server = real_ollama()
    with RetryClient(server.url, "nobody-has-this", interval_seconds=0.1) as client:
        deadline = time.monotonic() + 20
        while len(client.attempts) < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        attempts = client.stop()
    assert len(attempts) >= 3
    assert {attempt.status for attempt in attempts} == {404}


def test_a_shelf_of_its_own_can_be_changed_and_the_shared_one_stays(
    real_ollama: Servers, ollama_installation: Installation, tmp_path: Path
) -> None:
    own = own_shelf(ollama_installation, tmp_path / "models")
    changed = real_ollama(models=own)
    changed.request("DELETE", "/api/delete", {"model": "tiny2"})
    changed.post("/api/copy", {"source": "tiny", "destination": "big"})
    untouched = real_ollama()
    assert {"tiny2", "big"} <= set(untouched.installed())
    assert "tiny2" not in changed.installed()
    assert changed.blob("big") != untouched.blob("big")
    assert untouched.blob("tiny2").exists()
