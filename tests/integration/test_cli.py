"""The commands as a person runs them: real processes, real sockets, real exit codes."""

import json
import os
import re
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import ollama_guard
from ollama_guard.cli.app import app
from ollama_guard.control.apps import Answer, control_app, status_app
from ollama_guard.control.sockets import Face
from ollama_guard.core.codec import from_plain
from ollama_guard.core.policy import CapPolicy, Policy

MAIN = "from ollama_guard.cli import main; main()"
NOBODY = 65534

Guard = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def guard(tmp_path: Path) -> Guard:
    """Runs the program with its directories in a temporary place."""

    def run(
        *arguments: str, main: str = MAIN, env: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": os.environ["PATH"],
            "RUNTIME_DIRECTORY": str(tmp_path / "run"),
            "STATE_DIRECTORY": f"{tmp_path / 'state'}:/second",
            **(env or {}),
        }
        return subprocess.run(
            [sys.executable, "-I", "-c", main, *arguments],
            capture_output=True, text=True, timeout=60, check=False, env=environment, **options,
        )  # fmt: skip

    return run


@dataclass
class Shelf:
    """The models of the real applications, without a sentinel behind them."""

    told: dict[str, Any] | None = None

    def document(self, deadline_seconds: float) -> dict[str, Any] | None:
        """As `Models`."""
        assert deadline_seconds > 0
        return self.told


@dataclass
class Desk:
    """Board and asker of the real applications, without a sentinel behind them."""

    answer: Answer | None = None
    status: dict[str, Any] | None = None
    asked: list[tuple[str, str, float | None]] = field(default_factory=list)
    shelf: Shelf = field(default_factory=Shelf)

    def document(self) -> dict[str, Any] | None:
        """As `Board`."""
        return self.status

    def look_up(self) -> None:
        """There is nothing to look up."""

    def age_seconds(self) -> float:
        """As `Board`."""
        return 0.0

    def ask(self, verb: str, model: str, seconds: float | None, deadline_seconds: float) -> Answer | None:
        """As `Asker`; the wish is kept for the test to see."""
        assert deadline_seconds > 0
        self.asked.append((verb, model, seconds))
        return self.answer


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A daemon's two sockets, served by the real applications."""
    desk = Desk()
    faces = [
        Face(tmp_path / "run" / "status.sock", "ollama-guard", status_app(desk, desk.shelf), 1),
        Face(tmp_path / "run" / "control.sock", "ollama-guard-admin", control_app(desk, lambda: 1.0), 1),
    ]
    for face in faces:
        face.serve()
    yield desk
    for face in faces:
        face.remove()


def one_sentence(result: subprocess.CompletedProcess[str]) -> str:
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("ollama-guard: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def commands() -> list[tuple[str, ...]]:
    """Every command of the program by its words, those of a group after it."""
    root = get_command(app).commands  # type: ignore[attr-defined]
    return [
        words
        for name, command in root.items()
        for words in [(name,), *((name, inner) for inner in getattr(command, "commands", ()))]
    ]


def test_the_overview_tells_of_each_command_in_one_whole_sentence(guard: Guard) -> None:
    overview = guard("--help")
    assert overview.returncode == 0
    listed = overview.stdout.partition("Commands:\n")[2]
    for name, *_ in commands():
        (summary,) = re.findall(rf"^  {name} +(.*)$", listed, re.MULTILINE)
        assert summary.endswith((".", "?")), summary
        assert not summary.endswith("..."), summary


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_the_help_of_a_command_teaches_with_an_example(command: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(app, [*command, "--help"])
    assert shown.exit_code == 0
    example = rf"^ +(sudo )?ollama-guard {' '.join(command)}\b"
    assert re.search(example, shown.stdout.partition("Options:")[0], re.MULTILINE), shown.stdout


def test_the_version_is_told(guard: Guard) -> None:
    assert guard("--version").stdout == f"ollama-guard {ollama_guard.__version__}\n"


def test_help_and_run_import_nothing_that_they_do_not_need(guard: Guard) -> None:
    heavy = {"httpx", "pydantic", "rich", "structlog", "waitress", "apscheduler"}
    told = f"print(sorted({heavy!r} & set(sys.modules)), file=sys.stderr)"
    show = f"import sys, atexit; atexit.register(lambda: {told});"
    assert guard("--help", main=show + MAIN).stderr == "[]\n"


@pytest.mark.parametrize(
    "arguments",
    [[], ["frob"], ["unload"], ["unload", "x", "--all"], ["pause"], ["pause", "soon"], ["pause", "0s"],
     ["run", "--mode", "paused"], ["once", "--nope"], ["status", "surplus"]],
)  # fmt: skip
def test_wrong_usage_is_exit_code_2(guard: Guard, arguments: list[str]) -> None:
    result = guard(*arguments)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


# check-config


def test_a_good_file_is_called_good_and_can_be_shown(guard: Guard, tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text('[ollama]\npoll = "5s"\n')
    assert guard("check-config", str(path)).stdout == f"{path}: good\n"
    assert 'poll = "5s"' in guard("check-config", str(path), "--show").stdout
    path.write_text('[playbook.freeze]\nmax_vram = "4GiB"\n')
    hint, good = guard("check-config", str(path)).stdout.splitlines()
    assert hint.startswith(f"{path}, line 2: playbook.freeze.max_vram is ignored")
    assert good == f"{path}: good"


@pytest.mark.parametrize("before", [True, False])
def test_the_config_option_counts_before_and_after_the_command(
    guard: Guard, tmp_path: Path, *, before: bool
) -> None:
    (tmp_path / "my.toml").write_text("[cap]\nsoft_max = 7\n")
    option, command = ["--config", "my.toml"], ["check-config", "--show"]
    result = guard(*(option + command if before else command + option), cwd=tmp_path)
    assert (result.returncode, "soft_max = 7" in result.stdout) == (0, True)


def test_every_problem_of_a_bad_file_is_told_with_exit_code_78(guard: Guard, tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text('[polcy]\n[ollama]\nurl = "nope"\n')
    result = guard("check-config", str(path))
    assert result.returncode == 78
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        f"ollama-guard: {path}, line 1: unknown table polcy; did you mean policy?",
        (
            f'ollama-guard: {path}, line 3: ollama.url = "nope" has no scheme that Ollama speaks; '
            'allowed: http:// or https://, host and port, like "http://127.0.0.1:11434"'
        ),
    ]


def test_a_file_that_is_not_there_is_exit_code_78(guard: Guard) -> None:
    result = guard("check-config", "/nowhere.toml")
    assert result.returncode == 78
    assert "there is no such file" in one_sentence(result)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not read the file")
@pytest.mark.parametrize("arguments", [["check-config", "{}"], ["check-config", "--config", "{}"]])
def test_a_file_that_may_not_be_read_is_exit_code_78(
    guard: Guard, tmp_path: Path, arguments: list[str]
) -> None:
    path = tmp_path / "my.toml"
    path.write_text("")
    path.chmod(0)
    # PR_CAPBSET_DROP (24) of CAP_DAC_OVERRIDE (1) and CAP_DAC_READ_SEARCH (2): root bound by file modes.
    argv = [sys.executable, "-I", "-c", MAIN, *(argument.format(path) for argument in arguments)]
    drop = "".join(f"libc.prctl(24, {capability}, 0, 0, 0);" for capability in (1, 2))
    bound = f"import ctypes, os; libc = ctypes.CDLL(None); {drop} os.execv({sys.executable!r}, {argv!r})"
    result = guard(main=bound)
    assert result.returncode == 78
    assert "Permission denied" in one_sentence(result)


def test_a_reader_that_goes_away_makes_no_noise() -> None:
    command = f"{sys.executable} -I -c '{MAIN}' check-config --show | true; echo ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True)
    assert result.stderr == ""
    assert result.stdout in ("0\n", "1\n")


# run


@pytest.fixture
def run(
    guard: Guard, tmp_path: Path
) -> Callable[..., tuple[subprocess.CompletedProcess[str], dict[str, Any]]]:
    """`run` up to its exec, behind which a program stands that tells what it was given."""
    successor = tmp_path / "python"
    successor.write_text(
        f"#!{sys.executable}\n"
        "import json, os, sys\n"
        "fd = int(sys.argv[sys.argv.index('--policy-fd') + 1])\n"
        "given = {'argv': sys.argv[1:], 'pid': os.getpid(), 'policy': os.read(fd, 10**6).decode()}\n"
        "print(json.dumps(given))\n"
    )
    successor.chmod(0o755)
    main = f"import os, sys; print(os.getpid(), flush=True); sys.executable = {str(successor)!r}; {MAIN}"

    def start(*arguments: str) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
        result = guard("run", *arguments, main=main)
        lines = result.stdout.splitlines()
        given = json.loads(lines[1]) if len(lines) > 1 else {}
        if given:
            given["same_pid"] = given["pid"] == int(lines[0])
        return result, given

    return start


def option(given: Mapping[str, Any], name: str) -> str | None:
    argv = given["argv"]
    return argv[argv.index(name) + 1] if name in argv else None


def test_run_becomes_the_sentinel_with_the_compiled_policy(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text("[cap]\nsoft_max = 2\n")
    result, given = run("--config", str(path), "--mode", "observe")
    assert result.returncode == 0
    assert given["same_pid"]
    assert given["argv"][:3] == ["-I", "-m", "ollama_guard.sentinel"]
    assert from_plain(Policy, json.loads(given["policy"])) == Policy(cap=CapPolicy(2))
    assert option(given, "--config") == str(path)
    assert option(given, "--mode") == "observe"
    assert option(given, "--runtime-dir") == str(tmp_path / "run")
    assert option(given, "--state-dir") == str(tmp_path / "state")
    assert option(given, "--warning") is None
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o755
    assert (tmp_path / "state" / "last-good.toml").read_text() == path.read_text()


def test_run_says_which_keys_of_its_file_do_nothing(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text('[playbook.freeze]\nmax_vram = "4GiB"\n')
    result, given = run("--config", str(path))
    assert result.returncode == 0
    assert str(option(given, "--warning")).startswith(f"{path}, line 2: playbook.freeze.max_vram is ignored")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("wrong type", 'line 2: cap.soft_max = "many"'),
        ("broken", "line 1, column 5: broken TOML"),
        ("missing", "there is no such file"),
        ("unreadable", "Input/output error"),
        ("a directory", "it is a directory"),
    ],
)
def test_run_with_a_bad_file_takes_the_last_good_one_loudly(
    run: Any, tmp_path: Path, kind: str, said: str
) -> None:
    path = tmp_path / "my.toml"
    path.write_text("[cap]\nsoft_max = 2\n")
    run("--config", str(path))
    path.unlink()
    match kind:
        case "wrong type":
            path.write_text("[cap]\nsoft_max = 'many'\n")
        case "broken":
            path.write_text("[cap\n")
        case "unreadable":
            path.symlink_to("/proc/self/mem")  # root may open it, and every read of its start fails
        case "a directory":
            path.mkdir()
    result, given = run("--config", str(path))
    assert result.returncode == 0
    assert json.loads(given["policy"])["cap"]["soft_max"] == 2
    warning = option(given, "--warning")
    assert warning is not None
    assert "the last good one is in force" in warning
    assert str(path) in warning
    assert said in warning


def test_run_with_a_bad_file_and_no_last_good_one_is_exit_code_78(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text("=")
    result, given = run("--config", str(path))
    assert (result.returncode, given) == (78, {})
    assert "broken TOML" in result.stderr
    assert "no last good configuration" in result.stderr


def test_run_without_a_place_for_its_state_warns_and_runs(run: Any, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("in the way")
    result, given = run()
    assert result.returncode == 0
    assert "can't be kept" in str(option(given, "--warning"))


def test_a_python_that_this_user_may_not_start_is_told_in_one_sentence(guard: Guard, tmp_path: Path) -> None:
    """As with a virtual environment over a Python in root's home, started by another user."""
    locked = tmp_path / "python"
    locked.write_text("")
    result = guard("run", main=f"import sys; sys.executable = {str(locked)!r}; {MAIN}")
    assert result.returncode == 1
    assert f"{locked} can't be started (Permission denied)" in one_sentence(result)


def test_run_without_a_place_for_its_sockets_says_so(guard: Guard, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("in the way")
    result = guard("run")
    assert result.returncode == 1
    assert "--runtime-dir" in one_sentence(result)


# by hand


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        (["unload", "a b/ü:1"], ("unload", "a b/ü:1", None)),
        (["unload", "--all"], ("unload", "*", None)),
        (["pause", "1h 30min"], ("pause", "", 5400.0)),
        (["resume"], ("resume", "", None)),
    ],
)
def test_a_wish_reaches_the_daemon_and_its_answer_the_person(
    guard: Guard, desk: Desk, arguments: list[str], asked: tuple[str, str, float | None]
) -> None:
    desk.answer = Answer(ok=True, text="as you wish\n\x1b[31m", detail={"freed_bytes": 5})
    result = guard(*arguments)
    assert desk.asked == [asked]
    assert (result.returncode, result.stdout, result.stderr) == (0, "as you wish\\x0a\\x1b[31m\n", "")
    answer = json.loads(guard(*arguments, "--json").stdout)
    assert answer == {"ok": True, "text": "as you wish\n\x1b[31m", "detail": {"freed_bytes": 5}}


def test_a_refused_wish_is_exit_code_1(guard: Guard, desk: Desk) -> None:
    desk.answer = Answer(ok=False, text="no such model is loaded")
    result = guard("unload", "x")
    assert (result.returncode, result.stdout, result.stderr) == (1, "", "no such model is loaded\n")


def test_a_daemon_that_cannot_answer_is_exit_code_69(guard: Guard, desk: Desk) -> None:
    assert desk.answer is None
    result = guard("resume")
    assert result.returncode == 69
    assert "the sentinel did not answer" in one_sentence(result)


def test_no_daemon_is_exit_code_69(guard: Guard) -> None:
    result = guard("resume")
    assert result.returncode == 69
    assert "no guard is running" in one_sentence(result)


def test_a_stale_socket_is_no_daemon(guard: Guard, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "run" / "control.sock"))
    result = guard("resume")
    assert result.returncode == 69
    assert "no guard is running" in one_sentence(result)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a socket away")
@pytest.mark.parametrize(("command", "group"), [("status", "ollama-guard"), ("resume", "ollama-guard-admin")])
def test_no_permission_names_the_group_to_join(
    guard: Guard, desk: Desk, tmp_path: Path, command: str, group: str
) -> None:
    assert desk.asked == []
    for name in ("status.sock", "control.sock"):
        (tmp_path / "run" / name).chmod(0o600)
        os.chown(tmp_path / "run" / name, NOBODY, NOBODY)
    # PR_CAPBSET_DROP (24) of CAP_DAC_OVERRIDE (1): behind the exec even root is bound by file modes.
    argv = [sys.executable, "-I", "-c", MAIN, command]
    bound = (
        f"import ctypes, os; ctypes.CDLL(None).prctl(24, 1, 0, 0, 0); os.execv({sys.executable!r}, {argv!r})"
    )
    result = guard(main=bound)
    assert result.returncode == 69
    assert f"usermod -aG {group} " in one_sentence(result)


def test_something_else_on_the_socket_is_told(guard: Guard, tmp_path: Path) -> None:
    def page(_: Any, start: Any) -> list[bytes]:
        start("200 OK", [("Content-Type", "text/html")])
        return [b"<html>"]

    face = Face(tmp_path / "run" / "control.sock", "ollama-guard-admin", page, 1)
    face.serve()
    result = guard("resume")
    face.remove()
    assert result.returncode == 69
    assert "is not this guard" in one_sentence(result)


# status and once


def test_status_shows_the_daemons_document(guard: Guard, desk: Desk) -> None:
    desk.status = {"level": "ok"}
    result = guard("status", "--json")
    assert (result.returncode, json.loads(result.stdout)) == (0, {"level": "ok"})


def test_status_of_a_daemon_that_is_starting_is_exit_code_69(guard: Guard, desk: Desk) -> None:
    assert desk.status is None
    result = guard("status")
    assert result.returncode == 69
    assert "has no status yet (starting)" in one_sentence(result)


@pytest.fixture
def dead_ollama(tmp_path: Path, free_port: int) -> str:
    """A configuration that names an Ollama which is not there."""
    path = tmp_path / "dead.toml"
    path.write_text(f'[ollama]\nurl = "http://127.0.0.1:{free_port}"\n')
    return str(path)


def test_once_senses_and_decides_without_a_daemon(guard: Guard, dead_ollama: str) -> None:
    began = time.monotonic()
    result = guard("once", "--json", "--config", dead_ollama)
    assert (result.returncode, result.stderr) == (0, "")
    assert time.monotonic() - began < 15
    document = json.loads(result.stdout)
    host = next(domain for domain in document["domains"] if domain["name"] == "host")
    assert 0 < host["available_bytes"] < host["capacity_bytes"]
    assert document["mode"] == "observe"
    assert document["ollama"]["alive"] is False
    assert document["decision"]["reason"]
    assert document["decision"]["rung"]


def test_once_speaks_plain_text_to_a_person(guard: Guard, dead_ollama: str) -> None:
    result = guard("once", "--config", dead_ollama)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("level      ")
    assert "\nhost       " in result.stdout
    assert "one look, nothing is done" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("now        ")


def test_status_without_a_daemon_says_so_and_looks_once(guard: Guard, dead_ollama: str) -> None:
    result = guard("status", "--config", dead_ollama)
    assert result.returncode == 0
    assert "no guard is running" in result.stderr
    assert "`systemctl start ollama-guard`, or in the foreground with `ollama-guard run`" in result.stderr
    assert result.stdout.startswith("level      ")


def test_the_ladder_is_told_without_a_daemon_and_without_ollama(guard: Guard, dead_ollama: str) -> None:
    """What can't be told is null with its reason, in every face alike."""
    with Path(dead_ollama).open("a") as file:
        file.write('[[tiers]]\nname = "light"\nmodel = "smollm:135m"\nmemory = "200MB"\n')
    told = guard("tiers", "--json", "--config", dead_ollama)
    document = json.loads(told.stdout)
    (row,) = document["tiers"]
    assert (told.returncode, row["allowed"], row["installed"]) == (0, None, None)
    assert row["footprint_bytes"] == 200 * 1000**2
    assert document["largest_allowed"] is None
    assert "Ollama has not answered yet" in document["unknown"]["largest_allowed"]
    status = json.loads(guard("status", "--json", "--config", dead_ollama).stdout)
    assert status["tiers"] == [{key: row[key] for key in ("name", "model", "allowed", "reason")}]
    shown = guard("tiers", "--config", dead_ollama)
    assert "no guard is running" in shown.stderr
    assert shown.stdout.startswith("TIER ")


def test_without_a_ladder_the_command_says_how_to_come_to_one(guard: Guard, dead_ollama: str) -> None:
    shown = guard("tiers", "--config", dead_ollama)
    assert (shown.returncode, shown.stdout.partition(":")[0]) == (0, "there is no ladder")


def test_once_with_a_bad_file_is_exit_code_78(guard: Guard, tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text("x = 1")
    assert guard("once", "--config", str(path)).returncode == 78


# completion


def completed(guard: Guard, tmp_path: Path, line: str) -> list[str]:
    """What bash itself completes a line to, by typer's own script, words broken as bash breaks them."""
    # Not by `--show-completion bash`, which asks what shell it was started from, and make has sh.
    script = guard(main=AS_PROGRAM, env={"_OLLAMA_GUARD_COMPLETE": "source_bash"}).stdout
    words = [word for word in re.split(r"(\s+|:)", line) if word.strip()]
    words += [""] if line.endswith(" ") else []
    quoted = " ".join(f"'{word}'" for word in words)
    program = tmp_path / "ollama-guard"
    program.write_text(f"#!{sys.executable} -I\n{AS_PROGRAM}\n")
    program.chmod(0o755)
    ask = (
        f"{script}\nCOMP_WORDS=({quoted}) COMP_CWORD={len(words) - 1}\n"
        f"_ollama_guard_completion {program}\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"\n"
    )
    result = subprocess.run(
        ["/bin/bash", "-c", ask], capture_output=True, text=True, timeout=30, check=False,
        env={"PATH": os.environ["PATH"], "RUNTIME_DIRECTORY": str(tmp_path / "run")},
    )  # fmt: skip
    assert result.stderr == ""
    return result.stdout.split()


AS_PROGRAM = f"import sys; sys.argv[0] = 'ollama-guard'; {MAIN}"
SHELF = [
    {"name": "llama3.2:1b", "aliases": ["chat:latest"]}, {"name": "llama3.2:3b", "aliases": []},
    {"name": None, "aliases": []}, {"name": "host:5000/a/b:q4", "aliases": []},
]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ollama-guard unl", ["unload"]),
        ("ollama-guard fit ll", ["llama3.2:1b", "llama3.2:3b"]),
        ("ollama-guard unload llama3.2:", ["1b", "3b"]),
        ("ollama-guard unload llama3.2:3", ["3b"]),
        ("ollama-guard fit host:5000/a/b:", ["q4"]),
        ("ollama-guard fit zz", []),
        ("ollama-guard fit ", ["chat:latest", "host:5000/a/b:q4", "llama3.2:1b", "llama3.2:3b"]),
    ],
)
def test_bash_completes_commands_and_model_names(
    guard: Guard, desk: Desk, tmp_path: Path, line: str, expected: list[str]
) -> None:
    desk.status, desk.shelf.told = {}, {"models": SHELF}
    assert completed(guard, tmp_path, line) == expected


def test_without_a_daemon_no_model_is_completed_and_nothing_is_said(guard: Guard, tmp_path: Path) -> None:
    assert completed(guard, tmp_path, "ollama-guard unload ll") == []
