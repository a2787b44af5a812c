"""The fake schedules as Ollama does (facts 2 and 1.4)."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ollama_guard.testing.fake import FakeOllama

MODELS = ("small=20MiB,alias=small2,kv=1024,tps=40", "slow=30MiB,load=0.4", "third=20MiB", "fourth=20MiB")


def empty(fake: FakeOllama) -> None:
    """Unload everything and wait for it."""
    fake.wait(lambda: not any(runner["references"] for runner in fake.state()["runners"]))
    for name in ("small", "slow", "third", "fourth"):
        fake.unload(name)
    fake.wait(lambda: not fake.state()["runners"])


@pytest.fixture(scope="module", params=["new", "old"])
def either(request: pytest.FixtureRequest) -> Iterator[FakeOllama]:
    """One server of either dialect for this file."""
    with FakeOllama(MODELS, dialect=request.param) as running:
        yield running


@pytest.fixture
def fake(either: FakeOllama) -> Iterator[FakeOllama]:
    """A fake of either dialect with nothing loaded, before and after."""
    yield either
    empty(either)


@pytest.fixture(scope="module")
def newer() -> Iterator[FakeOllama]:
    """One server of the newer dialect for this file."""
    with FakeOllama(MODELS) as running:
        yield running


@pytest.fixture
def new(newer: FakeOllama) -> Iterator[FakeOllama]:
    """A fake of the newer dialect with nothing loaded, before and after."""
    yield newer
    empty(newer)


def exists(pid: int) -> bool:
    """Whether there is such a process, a zombie included."""
    return Path(f"/proc/{pid}").exists()


def expiry(fake: FakeOllama) -> datetime:
    """``expires_at`` of the only loaded model."""
    (entry,) = fake.ps()
    return datetime.fromisoformat(entry["expires_at"])


def test_two_names_of_a_blob_share_one_runner_under_the_name_that_loaded_it(fake: FakeOllama) -> None:
    """Facts 2.2."""
    fake.load("small")
    pid = fake.runner_pid("small")
    fake.load("small2")
    assert fake.runner_pid("small2") == pid
    assert fake.loaded() == ["small:latest"]
    fake.unload("small2")
    fake.wait(lambda: not fake.loaded())
    assert not exists(pid)


def test_a_model_that_leaves_ps_has_been_reaped(fake: FakeOllama) -> None:
    """Facts 1.5."""
    fake.load("small")
    pid = fake.runner_pid("small")
    assert fake.unload("small").value["done_reason"] == "unload"
    fake.wait(lambda: not fake.loaded())
    assert not exists(pid)


def test_unloading_what_is_not_loaded_is_a_200_and_loads_nothing(fake: FakeOllama) -> None:
    """Facts 1.5."""
    assert fake.unload("small").status == 200
    assert fake.state()["runners"] == []


def test_a_load_in_flight_is_invisible_in_the_newer_dialect_only(fake: FakeOllama) -> None:
    """Facts 1.3 and 9."""
    load = threading.Thread(target=fake.load, args=("slow",))
    load.start()
    fake.wait(lambda: fake.runner("slow"))
    assert fake.loaded() == ([] if fake.dialect == "new" else ["slow:latest"])
    load.join()
    assert fake.loaded() == ["slow:latest"]


def test_unloading_a_model_that_loads_is_a_silent_no_op(new: FakeOllama) -> None:
    """Facts 1.5."""
    load = threading.Thread(target=new.load, args=("slow",))
    load.start()
    new.wait(lambda: new.runner("slow"))
    assert new.unload("slow").value["done_reason"] == "unload"
    load.join()
    assert new.loaded() == ["slow:latest"]


def test_the_older_dialect_holds_an_unload_back_until_the_load_ends_and_then_honours_it() -> None:
    """Seen on a real v0.5.4, where the loading runner is in the map already."""
    with FakeOllama(MODELS, dialect="old") as fake:
        stream = fake.stream("slow", tokens=1)
        fake.wait(lambda: fake.loaded() == ["slow:latest"])
        assert fake.runner("slow")["loading"]
        assert fake.unload("slow").value["done_reason"] == "unload"
        assert not (fake.runner("slow") or {}).get("loading")
        stream.join()
        assert stream.finished
        fake.wait(lambda: not fake.loaded())


def test_loads_run_one_at_a_time_and_loaded_models_bypass_the_queue(new: FakeOllama) -> None:
    """Facts 2.1."""
    new.load("small")
    threads = [threading.Thread(target=new.load, args=(name,)) for name in ("slow", "third")]
    threads[0].start()
    new.wait(lambda: new.runner("slow"))
    threads[1].start()
    started = time.monotonic()
    new.load("small")
    assert time.monotonic() - started < 0.3
    assert new.runner("third") is None
    for thread in threads:
        thread.join()
    assert new.runner("third") is not None


def test_a_client_that_leaves_aborts_the_load(fake: FakeOllama) -> None:
    """Facts 2.1."""
    stream = fake.stream("slow")
    fake.wait(lambda: fake.runner("slow"))
    pid = fake.runner_pid("slow")
    stream.close()
    fake.wait(lambda: not exists(pid))
    assert fake.loaded() == []


def test_a_client_that_leaves_ends_the_answer(fake: FakeOllama) -> None:
    """Facts 2.1: the reference count falls."""
    stream = fake.stream("small", tokens=1000)
    stream.wait_for_lines(1)
    assert fake.runner("small")["references"] == 1
    stream.close()
    fake.wait(lambda: fake.runner("small")["references"] == 0)


def test_a_busy_model_is_unloaded_when_its_answer_ends(fake: FakeOllama) -> None:
    """Facts 1.5: 200 at once, the answer is not cut; facts 1.4: expires_at in the past meanwhile."""
    stream = fake.stream("small", tokens=8)
    stream.wait_for_lines(1)
    assert fake.unload("small").status == 200
    assert fake.loaded() == ["small:latest"]
    assert expiry(fake) <= datetime.now(UTC)
    stream.join()
    assert stream.finished
    fake.wait(lambda: not fake.loaded())


def test_a_later_request_with_keep_alive_cancels_the_unload_of_a_busy_model() -> None:
    """Facts 1.5."""
    with FakeOllama(MODELS, env={"OLLAMA_NUM_PARALLEL": "2"}) as fake:
        stream = fake.stream("small", tokens=6)
        stream.wait_for_lines(1)
        fake.unload("small")
        fake.load("small", keep_alive=300)
        stream.join()
        time.sleep(0.1)
        assert fake.loaded() == ["small:latest"]


def test_the_first_request_in_flight_shows_an_expiry_that_moves(fake: FakeOllama) -> None:
    """Facts 1.4."""
    stream = fake.stream("small", tokens=1000)
    stream.wait_for_lines(1)
    first = expiry(fake)
    time.sleep(0.02)
    assert expiry(fake) > first
    stream.close()


def test_a_later_request_in_flight_keeps_the_old_expiry(fake: FakeOllama) -> None:
    """Facts 1.4: a long answer thus shows an expiry in the past."""
    fake.load("small", keep_alive=0.2)
    before = expiry(fake)
    stream = fake.stream("small", tokens=16)
    stream.wait_for_lines(12)
    assert expiry(fake) == before < datetime.now(UTC)
    stream.join()
    assert expiry(fake) > before
    fake.wait(lambda: not fake.loaded())


def test_keep_alive_is_sticky_per_runner(fake: FakeOllama) -> None:
    """Facts 1.6: a request without it does not go back to the default."""
    fake.load("small", keep_alive=-1)
    fake.load("small")
    assert expiry(fake).year >= 2318


def test_an_empty_prompt_with_another_keep_alive_bounds_a_pinned_model_but_loads_it_once_it_has_gone(
    fake: FakeOllama,
) -> None:
    """Facts 8.3; an unload ends it without that (facts 1.5)."""
    fake.load("small", keep_alive=-1)
    first = fake.runner_pid("small")
    fake.load("small", keep_alive="20s")
    assert fake.runner_pid("small") == first
    assert (expiry(fake) - datetime.now(UTC)).total_seconds() <= 20
    empty(fake)
    fake.load("small", keep_alive="20s")
    assert fake.runner_pid("small") != first


def test_an_empty_prompt_with_another_keep_alive_reloads_a_model_that_runs_with_other_options(
    fake: FakeOllama,
) -> None:
    """Facts 2.2 and 8.3: what is not given is the default, which is another value than the client's."""
    fake.load("small", keep_alive=-1, num_ctx=1024)
    first = fake.runner_pid("small")
    fake.load("small", keep_alive="20s")
    assert fake.runner_pid("small") != first


def test_the_environment_sets_the_default_keep_alive_more_laxly() -> None:
    """Facts 1.6: bare numbers are seconds there."""
    with FakeOllama(MODELS, env={"OLLAMA_KEEP_ALIVE": "-1"}) as fake:
        fake.load("small")
        assert expiry(fake).year >= 2318
    with FakeOllama(MODELS, env={"OLLAMA_KEEP_ALIVE": "1d"}) as fake:
        fake.load("small")
        assert 290 < (expiry(fake) - datetime.now(UTC)).total_seconds() <= 300


def test_the_cap_evicts_the_idle_one_with_the_shortest_session_before_it_loads() -> None:
    """Facts 2.3: neither least recently used nor by size."""
    with FakeOllama(MODELS, env={"OLLAMA_MAX_LOADED_MODELS": "2"}) as fake:
        fake.load("small", keep_alive=600)
        fake.load("third", keep_alive=60)
        fake.load("fourth", keep_alive=300)
        assert sorted(fake.loaded()) == ["fourth:latest", "small:latest"]


def test_a_cap_of_one_waits_for_the_busy_one_and_never_holds_two() -> None:
    """Facts 2.3; 1.4: the evicted one keeps its future expiry meanwhile."""
    with FakeOllama(MODELS, env={"OLLAMA_MAX_LOADED_MODELS": "1"}) as fake:
        stream = fake.stream("small", tokens=8)
        stream.wait_for_lines(1)
        load = threading.Thread(target=fake.load, args=("third",))
        load.start()
        seen = []
        while load.is_alive():
            seen.append({runner["model"] for runner in fake.state()["runners"] if runner["alive"]})
            time.sleep(0.01)
        assert stream.finished
        assert max(len(names) for names in seen) == 1
        assert fake.loaded() == ["third:latest"]


def test_the_automatic_cap_is_three_on_a_cpu(new: FakeOllama) -> None:
    """Facts 2.5."""
    for name in ("small", "slow", "third", "fourth"):
        new.load(name)
    assert len(new.loaded()) == 3


def test_another_num_ctx_reloads_the_runner_and_takes_other_memory(new: FakeOllama) -> None:
    """Facts 2.2 and 3.4."""
    new.load("small")
    first = new.runner("small")
    new.load("small", num_ctx=8192)
    second = new.runner("small")
    assert first["pid"] != second["pid"]
    assert second["memory_bytes"] - first["memory_bytes"] == 4096 * 1024
    assert new.ps()[0]["context_length"] == 8192


def test_clients_with_and_without_another_num_ctx_reload_it_at_every_switch(new: FakeOllama) -> None:
    """Facts 2.2: the automatic value is an option like any other; the same one said aloud changes nothing."""
    pids = []
    for options in ({}, {"num_ctx": 8192}, {}, {"num_ctx": 4096}):
        new.load("small", **options)
        pids.append(new.runner_pid("small"))
    assert pids[2] == pids[3]
    assert len(set(pids)) == 3


def test_the_environment_sets_the_default_context_and_a_client_may_ask_for_more() -> None:
    """Facts 2.5: it is no bound."""
    with FakeOllama(["small=20MiB"], env={"OLLAMA_CONTEXT_LENGTH": "8192"}) as fake:
        fake.load("small")
        assert fake.ps()[0]["context_length"] == 8192
        fake.load("small", num_ctx=16384)
        assert fake.ps()[0]["context_length"] == 16384


def test_num_ctx_is_clamped_to_the_training_context() -> None:
    """Facts 1.3."""
    with FakeOllama(["small=20MiB,ctx=2048"], env={"OLLAMA_CONTEXT_LENGTH": "8192"}) as fake:
        fake.load("small")
        assert fake.ps()[0]["context_length"] == 2048


def test_parallel_slots_multiply_the_kv_memory_but_not_the_shown_context() -> None:
    """Facts 1.3 and 2.5."""
    with FakeOllama(["small=20MiB,kv=1024"], env={"OLLAMA_NUM_PARALLEL": "2"}) as fake:
        fake.load("small")
        assert fake.ps()[0]["context_length"] == 4096
        assert fake.ps()[0]["size"] == 20 * 1024 * 1024 + 1024 * 4096 * 2


def test_a_full_queue_is_a_503() -> None:
    """Facts 1.8: two spaces."""
    with FakeOllama(
        ["slow=20MiB,load=60", "third=20MiB", "fourth=20MiB"], env={"OLLAMA_MAX_QUEUE": "1"}
    ) as fake:
        streams = [fake.stream("slow")]
        fake.wait(lambda: fake.runner("slow"))
        streams.append(fake.stream("third"))
        fake.wait(lambda: fake.state()["waiting"] == 1)
        answer = fake.load("fourth")
        assert answer.status == 503
        assert answer.error == "server busy, please try again.  maximum pending requests exceeded"
        for stream in streams:
            stream.close()


def test_a_runner_killed_during_its_load_is_a_500_in_the_words_of_the_dialect(fake: FakeOllama) -> None:
    """Facts 1.8 and 9."""
    stream = fake.stream("slow")
    fake.wait(lambda: fake.runner("slow"))
    os.kill(fake.runner_pid("slow"), signal.SIGKILL)
    stream.join()
    name = "llama-server" if fake.dialect == "new" else "llama runner"
    assert (stream.status, stream.error) == (500, f"{name} process has terminated: signal: killed")
    assert fake.loaded() == []


def test_a_runner_killed_in_an_answer_ends_the_stream_with_an_error_line(fake: FakeOllama) -> None:
    """Facts 1.8: status 200, the error is the last line; the server survives."""
    stream = fake.stream("small", tokens=1000)
    stream.wait_for_lines(3)
    os.kill(fake.runner_pid("small"), signal.SIGKILL)
    stream.join()
    assert stream.status == 200
    assert stream.error == "an error was encountered while running the model: unexpected EOF"
    assert fake.get("/api/version").status == 200


def test_a_runner_killed_before_its_first_byte_is_a_500() -> None:
    """Facts 1.8."""
    with FakeOllama(["mute=20MiB,tps=0.1"]) as fake:
        stream = fake.stream("mute")
        fake.wait(lambda: (fake.runner("mute") or {}).get("references"))
        os.kill(fake.runner_pid("mute"), signal.SIGKILL)
        stream.join()
        assert stream.status == 500
        assert stream.error.startswith("model runner has unexpectedly stopped, this may be due to resource")


def test_a_dead_runner_stays_listed_until_keep_alive_0_purges_it(fake: FakeOllama) -> None:
    """Facts 2.8: the ghost."""
    fake.load("small")
    os.kill(fake.runner_pid("small"), signal.SIGKILL)
    fake.wait(lambda: not fake.runner("small")["alive"])
    assert fake.loaded() == ["small:latest"]
    fake.unload("small")
    fake.wait(lambda: not fake.loaded())


def test_the_next_request_replaces_a_ghost_by_a_new_runner(fake: FakeOllama) -> None:
    """Facts 2.8."""
    fake.load("small")
    first = fake.runner_pid("small")
    os.kill(first, signal.SIGKILL)
    fake.wait(lambda: not fake.runner("small")["alive"])
    assert fake.load("small").status == 200
    assert fake.runner_pid("small") != first


def test_a_ghost_goes_at_its_expiry(fake: FakeOllama) -> None:
    """Facts 1.3."""
    fake.load("small", keep_alive=0.3)
    os.kill(fake.runner_pid("small"), signal.SIGKILL)
    assert fake.loaded() == ["small:latest"]
    fake.wait(lambda: not fake.loaded(), 2)


def test_ps_of_the_newer_dialect_blocks_while_a_request_pings_a_hung_runner(fake: FakeOllama) -> None:
    """Facts 1.3c; the older dialect takes no locks (facts 9)."""
    fake.load("small")
    pid = fake.runner_pid("small")
    os.kill(pid, signal.SIGSTOP)
    stream = fake.stream("small")
    time.sleep(0.1)
    if fake.dialect == "new":
        with pytest.raises(TimeoutError):
            fake.get("/api/ps", timeout_seconds=0.3)
    else:
        assert fake.get("/api/ps", timeout_seconds=0.3).status == 200
    os.kill(pid, signal.SIGCONT)
    stream.wait_for_lines(1)
    stream.close()


def test_the_older_dialect_refuses_what_is_larger_than_free_memory_and_the_newer_tries() -> None:
    """Facts 2.4 and 9."""
    huge = ["huge=900GiB,load=60"]
    with FakeOllama(huge, dialect="old") as fake:
        answer = fake.load("huge")
        assert answer.status == 500
        assert answer.error.startswith("model requires more system memory (900.0 GiB) than is available (")
        assert fake.orphans() == []
    with FakeOllama(["huge=900GiB,load=900000"]) as fake:
        stream = fake.stream("huge")
        fake.wait(lambda: fake.runner("huge"))
        time.sleep(0.1)
        assert fake.runner("huge")["alive"]
        stream.close()
        fake.wait(lambda: not fake.orphans())


def test_a_load_that_fails_for_memory_evicts_all_others_and_is_tried_once_more(new: FakeOllama) -> None:
    """Facts 2.4."""
    new.load("third")
    new.set_fault("load_failure", model="small:latest", status=1, text="failed to allocate buffer")
    assert new.load("small").status == 200
    assert new.loaded() == ["small:latest"]


def test_a_load_that_is_killed_evicts_nobody_and_is_not_tried_again(new: FakeOllama) -> None:
    """Facts 2.4: the kernel's kill does not speak of memory."""
    new.load("third")
    stream = new.stream("slow")
    new.wait(lambda: new.runner("slow"))
    os.kill(new.runner_pid("slow"), signal.SIGKILL)
    stream.join()
    assert stream.error == "llama-server process has terminated: signal: killed"
    assert new.loaded() == ["third:latest"]
    assert [runner["model"] for runner in new.state()["runners"]] == ["third:latest"]


def test_a_load_that_fails_otherwise_is_a_500_with_the_captured_text(new: FakeOllama) -> None:
    """Facts 1.8."""
    new.load("third")
    new.set_fault("load_failure", model="small:latest", status=3, text="bad magic")
    answer = new.load("small")
    assert answer.status == 500
    assert answer.error == "llama-server process has terminated: exit status 3: bad magic"
    assert new.loaded() == ["third:latest"]
