"""`bench` against a fake Ollama that takes real memory, with a guard over it and without one."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from beds.cgroups import MemoryCgroup
from beds.fake_server import FakeServer
from beds.guard import PROGRAM, Guard
from beds.guarded import guarded_fake
from beds.hog import Hog
from beds.process import alive
from beds.terminal import OnTerminal
from ollama_guard.core.benchmark import Prompt, read
from ollama_guard.core.ledger import rows_of
from ollama_guard.store.footprints import FootprintStore

MIB = 1024 * 1024
LIMIT_BYTES = 1024 * MIB
FAST = "rate=400,tps=60"
MODELS = (
    f"small=60MiB,{FAST},alias=other-name",
    f"mid=120MiB,{FAST}",
    "slow=60MiB,rate=20,tps=5,cpu=1",
    "emb=20MiB,kind=embedding",
    # Its file and a usual context fit; the context that its Modelfile pins does not.
    "wide=60MiB,kv=64KiB,num_ctx=32768,rate=400",
    "giant=3000MiB",
)


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[tuple[Guard, FakeServer]]:
    """A guard over a cgroup of 1 GiB, 86 MiB of which are below hard."""
    with guarded_fake(LIMIT_BYTES, "bench", MODELS, tmp_path) as both:
        yield both


@pytest.fixture
def alone(
    tmp_path: Path, memory_cgroup: Callable[[int], MemoryCgroup]
) -> Iterator[tuple[Guard, FakeServer, MemoryCgroup]]:
    """The same without a guard: what stands for it is not running, but has a configuration."""
    cgroup = memory_cgroup(LIMIT_BYTES)
    with FakeServer(cgroup.join_paths, MODELS) as server:
        yield Guard(server.url, cgroup=f"/{cgroup.name}", home=tmp_path), server, cgroup


def bench(guard: Guard, *arguments: str) -> subprocess.CompletedProcess[str]:
    return guard.tell("bench", *arguments, timeout=120)


def results(guard: Guard, *arguments: str) -> dict[str, Any]:
    """Every model's result by its name."""
    said = bench(guard, "--json", *arguments).stdout
    return {model["name"]: model for model in json.loads(said)["models"]}


def begun(guard: Guard, *arguments: str, **pipes: Any) -> subprocess.Popen[str]:
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **pipes}
    argv = [str(PROGRAM), "bench", *arguments, f"--config={guard.config}"]
    return subprocess.Popen(argv, env=guard._env, **options)


def until(condition: Callable[[], object], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_it_measures_and_unloads_and_a_guard_learns_from_it(guarded: tuple[Guard, FakeServer]) -> None:
    daemon, server = guarded
    done = bench(daemon, "small", "emb", "--tokens", "20", "--repeat", "2", "--json")
    assert done.returncode == 0, done.stderr
    document = read(done.stdout)
    small, emb = document.models
    assert (document.guarded, small.name, small.aliases) == (True, "small:latest", ("other-name:latest",))
    figures = {name: figure.median for name, figure in small.figures.items()}
    assert {figure.count for figure in small.figures.values()} == {2}, small
    # On a busy machine the fake is slower than told, and never quicker.
    assert 0 < figures["basic.tokens_per_second"] < 66
    assert figures["complex.total_seconds"] > 20 / 66
    assert figures["code.first_token_seconds"] < figures["code.total_seconds"]
    assert 60 / 400 < figures["load_seconds"] < 5
    assert 70 * MIB < figures["runner_peak_bytes"] < 110 * MIB
    assert 0 < figures["unload_seconds"] < 5
    assert [answer.tokens for answer in small.rounds[0].answers] == [20, 20, 20]
    assert sorted(emb.figures)[:2] == ["basic.total_seconds", "code.total_seconds"]
    assert emb.rounds[0].answers[0].tokens_per_second is None
    assert server.runner_pids() == {}
    # What the ledger learnt is what was measured here, by the guard's own eyes.
    assert small.footprint_measured
    daemon.stop()
    rows = {
        row.key.blob: row for row in rows_of(FootprintStore(daemon.state / "footprints.sqlite").load().ledger)
    }
    row = rows[str(small.blob)]
    assert (row.loads, row.anon_bytes) == (2, pytest.approx(small.footprint_bytes, rel=0.1))
    assert 0 < (row.load_seconds or 0.0) < figures["load_seconds"] + 2


def test_what_would_not_fit_is_refused_with_the_sentence_of_fit(guarded: tuple[Guard, FakeServer]) -> None:
    daemon, server = guarded
    told = bench(daemon, "giant", "small", "--tokens", "2")
    fit = daemon.tell("fit", "giant").stdout.partition("giant:latest: ")[2]
    assert told.returncode == 1, "it was named"
    (refused,) = [line for line in told.stdout.splitlines() if line.startswith("giant:latest: refused: ")]
    # What is free moves by a MiB from one moment to the next.
    digits = re.compile(r"\d+")
    assert digits.sub("N", refused.partition("refused: ")[2]) == digits.sub("N", fit.strip())
    assert "small:latest" in told.stdout.splitlines()[1]
    asked = server.fake.log().count("/api/generate")
    assert asked == 1 + len(Prompt) + 1, "small's load, its prompts, its unload, and nothing of giant's"


def test_a_load_that_the_guard_aborts_is_told_with_the_guards_own_reason(
    guarded: tuple[Guard, FakeServer],
) -> None:
    """By what is known before its load it fits; what its runner's command line tells does not."""
    daemon, server = guarded
    wide = results(daemon, "wide", "--tokens", "2")["wide:latest"]
    assert wide["verdict"] == "failed"
    assert "terminated: signal: killed; the guard: " in wide["reason"]
    assert daemon.events("load.aborted")
    assert wide["rounds"] == []
    assert server.runner_pids() == {}


def test_a_model_that_is_loaded_and_idle_is_asked_and_stays(guarded: tuple[Guard, FakeServer]) -> None:
    daemon, server = guarded
    server.load("mid", keep_alive=-1)
    pid = server.runner_pids()["mid"]
    daemon.wait(lambda: daemon.model_states().get("mid") == "idle", 15, "mid is idle")
    mid = results(daemon, "mid", "--tokens", "5", "--repeat", "3")["mid:latest"]
    assert (mid["verdict"], len(mid["rounds"])) == ("measured", 1)
    assert "was loaded before by somebody else" in mid["notes"][0]
    assert "load_seconds" not in mid["figures"]
    assert "unload_seconds" not in mid["figures"]
    assert mid["figures"]["basic.tokens_per_second"]["median"] > 0
    assert server.runner_pids() == {"mid": pid}
    assert server.get("/api/ps")["models"][0]["expires_at"].startswith("23"), "still pinned for ever"


def test_a_model_that_somebody_is_using_is_left_alone(guarded: tuple[Guard, FakeServer]) -> None:
    daemon, server = guarded
    with contextlib.closing(server.fake.stream("slow", tokens=400)) as client:
        until(lambda: client.lines)
        daemon.wait(lambda: daemon.model_states().get("slow") == "busy", 15, "slow is busy")
        told = bench(daemon, "slow", "--tokens", "2")
        assert (told.returncode, "slow:latest: refused: it is loaded (busy)" in told.stdout) == (1, True)
        assert client.running
    assert "no model was measured" in told.stdout


def test_a_model_that_somebody_begins_to_use_is_not_unloaded(
    alone: tuple[Guard, FakeServer, MemoryCgroup],
) -> None:
    guard, server, _ = alone
    process = begun(guard, "slow", "--tokens", "10", "--json")
    # Load and prompts are logged as they begin: whoever asks now is next, and has the model for 40 s.
    until(lambda: server.fake.log().count("/api/generate") == 1 + len(Prompt))
    with contextlib.closing(server.fake.stream("slow", tokens=200)) as client:
        said, _ = process.communicate(timeout=120)
        (slow,) = json.loads(said)["models"]
        assert slow["notes"] == ["somebody else uses it by now: not unloaded"]
        assert "unload_seconds" not in slow["figures"]
        assert client.running
        assert process.returncode == 0


def test_without_a_guard_it_judges_by_one_look_and_writes_nothing(
    alone: tuple[Guard, FakeServer, MemoryCgroup],
) -> None:
    guard, server, _ = alone
    done = bench(guard, "small", "giant", "--tokens", "5")
    assert done.returncode == 1
    assert "each model is judged by one look without it" in done.stderr
    assert "giant:latest: refused: it needs" in done.stdout
    assert "no guard was running: what the models take is shown here and kept nowhere" in done.stdout
    assert not guard.state.exists()
    assert server.runner_pids() == {}


def test_without_names_all_are_measured_that_fit(
    tmp_path: Path, memory_cgroup: Callable[[int], MemoryCgroup]
) -> None:
    cgroup = memory_cgroup(LIMIT_BYTES)
    models = (f"b=60MiB,{FAST}", f"a=30MiB,{FAST}", "giant=3000MiB")
    with FakeServer(cgroup.join_paths, models, remotes=["vast:cloud"]) as server:
        guard = Guard(server.url, cgroup=f"/{cgroup.name}", home=tmp_path)
        done = bench(guard, "--tokens", "2", "--markdown")
        assert server.fake.state()["outbound_calls"] == 0
    assert done.returncode == 0, done.stderr
    table = [line.split("|") for line in done.stdout.splitlines() if line.startswith("|")]
    assert [row[1].strip() for row in table] == ["MODEL", "---", "a:latest", "", "", "b:latest", "", ""]
    assert "giant:latest: refused" in done.stderr
    assert "vast:cloud: skipped: runs in the cloud" in done.stderr


def test_a_name_that_is_not_installed_gets_the_nearest_and_nothing_is_loaded(
    alone: tuple[Guard, FakeServer, MemoryCgroup],
) -> None:
    guard, server, _ = alone
    done = bench(guard, "small", "md")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "ollama-guard: no model named 'md' is installed; did you mean mid:latest?\n"
    assert "/api/generate" not in server.fake.log()


def test_ollama_away_is_69_before_and_in_the_middle(alone: tuple[Guard, FakeServer, MemoryCgroup]) -> None:
    guard, server, _ = alone
    process = begun(guard, "small", "slow", "mid", "--tokens", "40")
    until(lambda: (server.fake.runner("slow") or {}).get("references", 0) > 0, 180)
    server.fake.kill()
    said, errors = process.communicate(timeout=120)
    assert process.returncode == 69, errors
    assert said.splitlines()[1].startswith("small:latest")
    assert "slow:latest: " in said
    assert "mid:latest: skipped: the run had ended before" in said
    away = bench(guard, "small")
    assert (away.returncode, away.stdout) == (69, "")
    assert "does not answer as it should" in away.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_it_shows_what_was_measured_and_unloads(
    alone: tuple[Guard, FakeServer, MemoryCgroup], number: signal.Signals, code: int
) -> None:
    """In the middle of an answer that would last for minutes."""
    guard, server, _ = alone
    process = begun(guard, "emb", "slow", "--tokens", "1000")
    until(lambda: (server.fake.runner("slow") or {}).get("references", 0) > 0, 180)
    until(lambda: not server.fake.runner("slow")["loading"])  # type: ignore[index]
    process.send_signal(number)
    said, errors = process.communicate(timeout=120)
    assert process.returncode == code
    assert said.splitlines()[1].startswith("emb:latest")
    assert f"slow:latest: partly: interrupted ({number.name})" in said
    assert "Traceback" not in errors
    assert server.runner_pids() == {}


def test_interrupted_while_somebody_else_uses_the_model_it_is_not_unloaded(
    alone: tuple[Guard, FakeServer, MemoryCgroup],
) -> None:
    guard, server, _ = alone
    process = begun(guard, "slow", "--tokens", "1000", "--json")
    until(lambda: (server.fake.runner("slow") or {}).get("references", 0) > 0, 180)
    until(lambda: not server.fake.runner("slow")["loading"])  # type: ignore[index]
    time.sleep(1.0)  # so that the end of the load's own request is clearly an older one
    with contextlib.closing(server.fake.stream("slow", tokens=200)) as client:
        until(lambda: server.fake.runner("slow")["references"] == 2)  # type: ignore[index]
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        said, _ = process.communicate(timeout=120)
        assert time.monotonic() - began < 20, "nothing is waited for"
        assert client.running
    assert process.returncode == 130
    assert json.loads(said)["models"][0]["notes"] == ["somebody else uses it by now: not unloaded"]


def test_a_guard_that_goes_away_and_leaves_a_broken_file_costs_no_result(
    guarded: tuple[Guard, FakeServer],
) -> None:
    """Each model is judged by one look then, for which the file is read anew."""
    daemon, server = guarded
    process = begun(daemon, "emb", "slow", "small", "--tokens", "10", "--json")
    until(lambda: (server.fake.runner("slow") or {}).get("references", 0) > 0, 180)
    daemon.config.write_text("[ollama]\nurl = 3\n")
    daemon.stop()
    said, errors = process.communicate(timeout=180)
    assert process.returncode == 1, errors
    document = json.loads(said)
    assert [model["verdict"] for model in document["models"]] == ["measured", "measured", "refused"]
    assert document["models"][2]["reason"].startswith("whether it would fit is not known: ")
    assert not document["guarded"]
    assert server.runner_pids() == {}


def test_interrupted_while_it_loads_nothing_stays(alone: tuple[Guard, FakeServer, MemoryCgroup]) -> None:
    guard, server, _ = alone
    process = begun(guard, "slow", "--json")
    until(lambda: (server.fake.runner("slow") or {}).get("loading"))
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    document = json.loads(said)
    assert document["ended"] == "interrupted (SIGINT)"
    assert document["models"][0]["verdict"] == "failed"
    assert server.runner_pids() == {}


def test_an_answer_that_never_ends_is_bounded(alone: tuple[Guard, FakeServer, MemoryCgroup]) -> None:
    """By its tokens, and by its total deadline where it is slow; both count as far as they came."""
    guard, server, _ = alone
    slow = results(guard, "slow", "--tokens", "1000", "--timeout", "5s")["slow:latest"]
    assert [answer["end"] for answer in slow["rounds"][0]["answers"]] == ["deadline"] * 3
    assert 5 <= slow["figures"]["basic.total_seconds"]["median"] < 10
    assert 0 < slow["figures"]["basic.tokens_per_second"]["median"] < 6
    assert server.runner_pids() == {}


def test_a_server_that_drips_cannot_hold_it_up(alone: tuple[Guard, FakeServer, MemoryCgroup]) -> None:
    guard, server, _ = alone
    server.fake.set_fault("drip", path="/api/generate")
    began = time.monotonic()
    done = bench(guard, "small", "--timeout", "2s")
    assert done.returncode == 1
    assert "small:latest: failed: POST /api/generate was not answered within 2.0 s" in done.stdout
    assert time.monotonic() - began < 60


def test_an_unload_that_is_ignored_is_told(alone: tuple[Guard, FakeServer, MemoryCgroup]) -> None:
    guard, server, _ = alone
    server.fake.set_fault("ignore_unload")
    small = results(guard, "small", "--tokens", "2", "--repeat", "2")["small:latest"]
    assert "was still loaded 30 s after it was asked to go" in small["notes"]
    assert len(small["rounds"]) == 1


def test_it_ends_before_memory_gets_short(alone: tuple[Guard, FakeServer, MemoryCgroup]) -> None:
    """Somebody else in the container eats memory while the model answers: no guard, and nobody is killed."""
    guard, server, cgroup = alone
    process = begun(guard, "emb", "slow", "--tokens", "1000", "--json")
    until(lambda: (server.fake.runner("slow") or {}).get("references", 0) > 0, 180)
    until(lambda: not server.fake.runner("slow")["loading"])  # type: ignore[index]
    pid = server.runner_pids()["slow"]
    with Hog(cgroup.popen) as hog:
        hog.grow(cgroup.available() - 60 * MIB, 400 * MIB)
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 1
        assert not alive(pid)
        assert alive(hog.pid)
    document = json.loads(said)
    assert document["ended"].startswith("memory ran short: container has ")
    assert [model["verdict"] for model in document["models"]] == ["measured", "partly"]


def test_compare_tells_ratios_and_a_bad_old_file_costs_no_measurement(
    alone: tuple[Guard, FakeServer, MemoryCgroup], tmp_path: Path
) -> None:
    guard, server, _ = alone
    old = tmp_path / "old.json"
    with old.open("w") as file:
        process = begun(guard, "small", "--tokens", "5", "--json", stdout=file)
        assert process.wait(120) == 0
        process.communicate()
    asked = server.fake.log().count("/api/generate")
    compared = bench(guard, "small", "--tokens", "5", "--compare", str(old))
    assert compared.returncode == 0
    (line,) = [line for line in compared.stdout.splitlines() if "basic tokens/s" in line]
    assert line.split()[-1].startswith("x")
    assert server.fake.log().count("/api/generate") == 2 * asked
    document = json.loads(old.read_text())
    for content, why in (
        (json.dumps(document | {"schema": 99}), "of a newer version"),
        (old.read_text()[:-20], "it is not JSON"),
        ('{"some": "thing"}', "not what `ollama-guard bench --json` prints"),
    ):
        broken = tmp_path / "broken.json"
        broken.write_text(content)
        refused = bench(guard, "small", "--compare", str(broken))
        assert (refused.returncode, refused.stdout) == (1, "")
        assert why in refused.stderr
    missing = bench(guard, "small", "--compare", str(tmp_path / "none.json"))
    assert (missing.returncode, "No such file" in missing.stderr) == (1, True)
    assert server.fake.log().count("/api/generate") == 2 * asked


def test_on_a_narrow_terminal_the_figures_are_lines_and_a_bar_shows_progress(
    alone: tuple[Guard, FakeServer, MemoryCgroup],
) -> None:
    guard, _, _ = alone
    argv = [str(PROGRAM), "bench", "small", "--tokens", "20", f"--config={guard.config}"]
    with OnTerminal(argv, guard._env, columns=40) as shown:
        shown.wait_text("small:latest: basic", 120)
        end = shown.wait_text("small:latest\r\n", 60)
        shown.wait_text("  basic tokens/s: ", after=end)
        assert shown.wait(60) == 0
        assert "FIRST TOKEN" not in shown.text
        assert "\x1b[?25h" in shown.text, "the cursor is there again"
        assert "Traceback" not in shown.text


def test_ctrl_c_on_a_terminal_leaves_it_as_it_was(alone: tuple[Guard, FakeServer, MemoryCgroup]) -> None:
    guard, server, _ = alone
    argv = [str(PROGRAM), "bench", "slow", "--tokens", "1000", f"--config={guard.config}"]
    with OnTerminal(argv, guard._env, columns=120) as shown:
        shown.wait_text("slow:latest: basic", 60)
        shown.press("\x03")
        shown.wait_text("ended early: interrupted (SIGINT)", 30)
        assert shown.wait(60) == 130
        assert shown.modes == shown.modes_before
        assert "Traceback" not in shown.text
    assert server.runner_pids() == {}


def test_when_nobody_reads_any_more_it_ends_and_unloads(
    alone: tuple[Guard, FakeServer, MemoryCgroup],
) -> None:
    guard, server, _ = alone
    process = begun(guard, "slow", "--tokens", "1000")
    until(lambda: (server.fake.runner("slow") or {}).get("references", 0) > 0, 180)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.wait(120) == 1
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()
    assert server.runner_pids() == {}


def test_results_that_cannot_be_written_are_not_lost(alone: tuple[Guard, FakeServer, MemoryCgroup]) -> None:
    guard, _, _ = alone
    with Path("/dev/full").open("w") as full:
        process = begun(guard, "small", "--tokens", "2", "--json", stdout=full)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "the results can't be written (No space left on device): they stand above" in errors
    assert '"kind": "ollama-guard bench"' in errors


@pytest.mark.parametrize(
    "arguments", [("--json", "--markdown"), ("--repeat", "0"), ("--tokens", "-1"), ("--timeout", "0s")]
)
def test_what_makes_no_sense_is_a_usage_error(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    guard = Guard("http://127.0.0.1:9", cgroup="/ollama-guard-nobody-s", home=tmp_path)
    assert bench(guard, *arguments).returncode == 2
