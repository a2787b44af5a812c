"""What lies in Ollama's own container, under each shell that one may have: health check and entrypoint."""

import os
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ollama_guard.control.public import write_status
from ollama_guard.core.model import Condition, Level
from ollama_guard.core.runtime import ENVIRONMENT_KEYS
from ollama_guard.core.state import ConditionState
from ollama_guard.core.status import view
from ollama_guard.testing.scenario import World

FOLDER = Path(__file__).parents[2] / "packaging" / "docker"
HEALTH, ENTRYPOINT = FOLDER / "ollama-health", FOLDER / "ollama-guard-entrypoint"
SHELLS = {"dash": ("dash",), "busybox": ("busybox", "sh"), "bash": ("bash", "--posix")}
ANSWERS = '[ "$1" = list ] || exit 9; echo NAME'
LIMIT_SECONDS = 1
"""What `--timeout` is set to here; the file and a busy machine may take a few more."""


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """The command line of one shell."""
    argv: tuple[str, ...] = SHELLS[request.param]
    if shutil.which(argv[0]) is None:
        pytest.skip(f"{argv[0]} is not installed (Debian: apt-get install {request.param})")
    return argv


class Container:
    """Ollama's container as its health check sees it: an `ollama` on the PATH and a mounted status folder."""

    def __init__(self, shell: tuple[str, ...], home: Path) -> None:
        self.shell, self.home, self.public = shell, home, home / "public"
        self.ollama(ANSWERS)

    def ollama(self, script: str) -> None:
        """From now on `ollama` is this script."""
        path = self.home / "ollama"
        path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        path.chmod(0o755)

    def health(self, *arguments: str, path: str = "") -> tuple[int, str]:
        """Exit code and the one line; never a word on standard error."""
        argv = [*self.shell, str(HEALTH), "--timeout", str(LIMIT_SECONDS), *arguments]
        environment = {
            "PATH": path or f"{self.home}:{os.environ['PATH']}",
            "OLLAMA_GUARD_STATUS": str(self.public / "status.json"),
        }
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=20, check=False)
        assert (done.stderr, done.stdout.count("\n")) == ("", 1), done.stdout
        return done.returncode, done.stdout.rstrip("\n")

    def guard_says(
        self, *held: tuple[Condition, bool, str], level: Level = Level.OK, age_seconds: float = 0
    ) -> None:
        """The guard's own status file, of so many seconds ago; a condition may hold now or not any more."""
        world = World()
        world.load("llama", 1024**3)
        world.play(3)
        snapshot = world.snapshot()
        conditions = tuple(
            ConditionState(condition, snapshot.now - 9, snapshot.now - (0 if now else 5), reason)
            for condition, now, reason in held
        )
        state = replace(world.state, conditions=conditions, level=level)
        write_status(self.public, view(world.policy, state, snapshot, {"version": "1.2"}))
        at = time.time() - age_seconds
        os.utime(self.public / "status.json", (at, at))


@pytest.fixture
def container(shell: tuple[str, ...], tmp_path: Path) -> Container:
    """A container whose Ollama answers, without a guard."""
    return Container(shell, tmp_path)


def test_an_ollama_that_answers_is_healthy_without_any_guard(container: Container) -> None:
    code, line = container.health()
    assert (code, line.startswith("healthy: Ollama answers; no news of a guard at ")) == (0, True)


def test_an_ollama_that_says_no_is_unhealthy_with_its_own_first_words(container: Container) -> None:
    container.ollama("echo; echo 'Error: could not connect' >&2; echo 'and more' >&2; exit 1")
    assert container.health() == (1, "unhealthy: `ollama list` failed: Error: could not connect")


def test_an_ollama_that_says_no_without_a_word_is_unhealthy(container: Container) -> None:
    container.ollama("exit 3")
    assert container.health() == (1, "unhealthy: `ollama list` failed: exit code 3")


def test_a_silent_ollama_is_unhealthy_in_time_and_nothing_of_the_check_stays(container: Container) -> None:
    """Also no process, since PID 1 of that container is an Ollama that reaps none."""
    container.ollama(f"echo $$ > {container.home}/pid; exec sleep 77")
    began = time.monotonic()
    assert container.health() == (1, f"unhealthy: Ollama did not answer within {LIMIT_SECONDS} s")
    assert time.monotonic() - began < LIMIT_SECONDS + 5
    pid = int((container.home / "pid").read_text(encoding="utf-8"))
    assert not Path(f"/proc/{pid}").exists()


def test_a_check_that_is_done_leaves_no_process_behind(container: Container) -> None:
    """Each process of the check shows the environment that it was given."""
    container.guard_says()
    assert container.health("--timeout", "60")[0] == 0
    mark = f"OLLAMA_GUARD_STATUS={container.public}".encode()
    left = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in environ.read_bytes():
                left.append(environ)
        except OSError:
            continue
    assert left == []


def test_without_an_ollama_program_the_line_says_so(container: Container, tmp_path: Path) -> None:
    """The PATH holds only the tools that the check uses."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sed", "stat", "date", "sleep"):
        (tools / name).symlink_to(str(shutil.which(name)))
    shell = shutil.which(container.shell[0]) or ""
    container.shell = (shell, *container.shell[1:])
    expected = (1, "unhealthy: there is no program 'ollama' on the PATH")
    assert container.health(path=str(tools)) == expected


def test_a_guard_with_nothing_against_it_is_heard(container: Container) -> None:
    container.guard_says(age_seconds=3)
    code, line = container.health()
    assert code == 0
    assert line.startswith("healthy: Ollama answers; the guard says that memory is at level ok (")


@pytest.mark.parametrize("condition", [Condition.FROZEN, Condition.OLLAMA_UNRESPONSIVE])
def test_an_ollama_that_the_guard_found_frozen_is_unhealthy(
    container: Container, condition: Condition
) -> None:
    container.guard_says((condition, True, "nothing moved for 95 s"))
    code, line = container.health()
    assert code == 1
    assert line.startswith(f"unhealthy: the guard says {condition}: nothing moved for 95 s (")


def test_a_condition_that_is_over_but_still_held_is_no_illness(container: Container) -> None:
    container.guard_says((Condition.FROZEN, False, "nothing moved for 95 s"))
    assert container.health()[0] == 0


def test_a_blind_guard_makes_no_ollama_ill(container: Container) -> None:
    container.guard_says((Condition.BLIND, True, "memory can't be read"))
    assert container.health("--strict")[0] == 0


@pytest.mark.parametrize("level", [Level.SOFT, Level.CRITICAL])
def test_short_memory_is_unhealthy_only_for_who_asks_for_it(container: Container, level: Level) -> None:
    container.guard_says((Condition.MEMORY_PRESSURE, True, f"host is at {level.word}"), level=level)
    code, line = container.health()
    assert (code, f"memory is at level {level.word}" in line) == (0, True)
    code, line = container.health("--strict")
    assert (code, f"MemoryPressure: host is at {level.word}" in line) == (1, True)


def test_old_news_is_no_opinion(container: Container) -> None:
    frozen = (Condition.FROZEN, True, "nothing moved for 95 s")
    container.guard_says(frozen, age_seconds=50)
    assert container.health()[0] == 1
    container.guard_says(frozen, age_seconds=75)
    code, line = container.health()
    assert (code, "so it has no opinion" in line) == (0, True)
    container.guard_says(frozen, age_seconds=-3600)
    assert container.health()[0] == 0, "a file of the future proves nothing fresh"


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\x00\xff" * 9, b'{"level": 3}', b'[{"level": "ok"}]', b'"level": "ok"']
)
def test_a_file_that_is_not_the_guards_is_no_opinion(container: Container, content: bytes) -> None:
    container.public.mkdir()
    (container.public / "status.json").write_bytes(content)
    code, line = container.health("--strict")
    assert (code, "is not the guard's" in line) == (0, True)


def test_words_of_others_inside_the_status_are_no_keys_of_it(container: Container) -> None:
    """A model's name or a reason may hold anything."""
    said = '{"condition": "Frozen", "since": 1, "true_now": true, "reason": "x"}'
    container.guard_says((Condition.BLIND, True, said))
    assert container.health()[0] == 0


def test_a_wrong_option_is_told(container: Container) -> None:
    assert container.health("--loud") == (
        1, "unhealthy: ollama-health does not know '--loud'; it takes --strict and --timeout SECONDS",
    )  # fmt: skip
    assert "whole seconds, not 'soon'" in container.health("--timeout", "soon")[1]


def started(
    shell: tuple[str, ...], home: Path, content: str | None, **more: str
) -> tuple[dict[str, str], str]:
    """The environment and then the arguments that Ollama was started with, and what was said."""
    program, file = home / "ollama", home / "ollama.env"
    program.write_text("#!/bin/sh\nenv\necho ARGUMENTS=$#:$*\n", encoding="utf-8")
    program.chmod(0o755)
    if content is not None:
        file.write_text(content, encoding="utf-8")
    environment = {
        "PATH": os.environ["PATH"],
        "OLLAMA_GUARD_ENV_FILE": str(file),
        "OLLAMA_GUARD_EXEC": str(program),
        **more,
    }
    argv = [*shell, str(ENTRYPOINT), "serve", "two words"]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=20, check=True)
    return dict(line.split("=", 1) for line in done.stdout.splitlines()), done.stderr


def test_ollama_is_started_with_what_the_guard_wrote(shell: tuple[str, ...], tmp_path: Path) -> None:
    content = "# by the guard\n\nOLLAMA_NUM_PARALLEL=1\nOLLAMA_KEEP_ALIVE=30s\nLLAMA_ARG_CACHE_RAM=256"
    env, said = started(shell, tmp_path, content, OLLAMA_NUM_PARALLEL="4", OLLAMA_MAX_QUEUE="9")
    assert env["OLLAMA_NUM_PARALLEL"] == "1"
    assert env["OLLAMA_KEEP_ALIVE"] == "30s"
    assert env["LLAMA_ARG_CACHE_RAM"] == "256", "a last line without its end counts"
    assert env["OLLAMA_MAX_QUEUE"] == "9", "what the file does not say stays"
    assert env["ARGUMENTS"] == "2:serve two words"
    assert "OLLAMA_KEEP_ALIVE=30s" in said


@pytest.mark.parametrize("content", [None, "", "# nothing\n"])
def test_without_a_word_of_the_guard_it_is_started_as_it_is(
    shell: tuple[str, ...], tmp_path: Path, content: str | None
) -> None:
    env, said = started(shell, tmp_path, content, OLLAMA_NUM_PARALLEL="4")
    assert (env["OLLAMA_NUM_PARALLEL"], env["ARGUMENTS"], said) == ("4", "2:serve two words", "")


def test_nothing_in_the_file_is_executed_or_taken_beyond_the_guards_keys(
    shell: tuple[str, ...], tmp_path: Path
) -> None:
    flag = tmp_path / "executed"
    content = (
        f"OLLAMA_KEEP_ALIVE=$(touch {flag})`touch {flag}`\nPATH=/nowhere\nLD_PRELOAD=/evil.so\n"
        f"touch {flag}\nOLLAMA_NOPRUNE;touch {flag}=1\n; touch {flag} #=\nOLLAMA_MAX_QUEUE=a=b c\\n"
    )
    env, said = started(shell, tmp_path, content)
    assert not flag.exists()
    assert env["OLLAMA_KEEP_ALIVE"] == f"$(touch {flag})`touch {flag}`", "data, word by word"
    assert env["OLLAMA_MAX_QUEUE"] == "a=b c\\n"
    assert env["PATH"] == os.environ["PATH"]
    assert "LD_PRELOAD" not in env
    assert "left out PATH" in said
    assert "no KEY=VALUE" in said


def test_a_file_that_can_not_be_read_keeps_no_ollama_from_starting(
    shell: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "ollama.env").mkdir()
    env, said = started(shell, tmp_path, None)
    assert (env["ARGUMENTS"], said) == ("2:serve two words", "")


def test_the_entrypoint_takes_just_the_keys_that_the_guard_may_write(tmp_path: Path) -> None:
    """And the script is the server's own process: its PID is the container's main one."""
    content = "".join(f"{key}=7\n" for key in sorted(ENVIRONMENT_KEYS))
    env, said = started(("sh",), tmp_path, content)
    assert {key for key, value in env.items() if value == "7"} == ENVIRONMENT_KEYS
    assert "left out" not in said
    assert ENTRYPOINT.read_text(encoding="utf-8").rstrip().splitlines()[-1].startswith("exec ")
