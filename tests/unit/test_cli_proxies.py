"""Which process is LiteLLM's proxy, which file it reads, and whether that leads to this Ollama."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from beds.nobody import become_nobody
from ollama_guard.cli.proxies import config_of, leads_to, proxies
from ollama_guard.core.machine import Proxy
from ollama_guard.settings.deadline import within

URL = "http://127.0.0.1:11434"
IGNORED = (
    "model_list: [{model_name: a, litellm_params: {model: ollama/a}}]\nrouter_settings: {max_queue_size: 9}\n"
)


@pytest.fixture
def lay_out(tmp_path: Path) -> Callable[..., Path]:
    """Lays one process out: what it says of itself, and what of its own root is there."""

    def process(pid: int, *argv: bytes, cwd: str = "/", root: str = "") -> Path:
        folder = tmp_path / "proc" / str(pid)
        folder.mkdir(parents=True)
        (folder / "cmdline").write_bytes(b"".join(word + b"\0" for word in argv))
        (folder / "cwd").symlink_to(cwd)
        (folder / "root").symlink_to(root or tmp_path / f"root-{pid}")
        (tmp_path / f"root-{pid}").mkdir()
        return tmp_path / f"root-{pid}"

    return process


def found(tmp_path: Path, seconds: float = 10.0) -> tuple[tuple[Proxy, ...], dict[str, str]]:
    unknown: dict[str, str] = {}
    return proxies(URL, unknown, tmp_path / "proc", seconds), unknown


def test_a_file_that_only_the_proxy_sees_is_named_as_it_can_be_seen_from_here(
    tmp_path: Path, lay_out: Callable[..., Path]
) -> None:
    """In a container it is below the process' own root; a path without a slash begins where it runs."""
    (lay_out(7, b"litellm", b"--config", b"config.yaml") / "config.yaml").write_text(IGNORED)
    (tmp_path / "mine.yaml").write_text(IGNORED)
    lay_out(8, b"litellm", b"--config", b"mine.yaml", cwd=str(tmp_path), root="/")
    (inside, outside), unknown = found(tmp_path)
    if inside.pid != 7:
        inside, outside = outside, inside
    assert (inside.path, outside.path) == (f"{tmp_path}/proc/7/root/config.yaml", f"{tmp_path}/mine.yaml")
    assert "max_queue_size" in inside.ignored[0]
    assert unknown == {}


def test_only_a_regular_file_is_opened_whatever_a_process_names(
    tmp_path: Path, lay_out: Callable[..., Path]
) -> None:
    """What a stranger names may be a watchdog, which restarts the machine once it was opened."""
    os.mkfifo(lay_out(7, b"litellm", b"--config", b"/pipe") / "pipe")
    lay_out(8, b"litellm", b"--config", b"/dev/null", root="/")
    assert found(tmp_path) == (
        (),
        {"LiteLLM's /pipe": "it is no regular file", "LiteLLM's /dev/null": "it is no regular file"},
    )


def test_what_is_no_text_can_be_told_all_the_same(tmp_path: Path, lay_out: Callable[..., Path]) -> None:
    lay_out(7, b"litellm", b"--config", b"\xff", cwd="/\udcfe")
    _, unknown = found(tmp_path)
    assert [what.encode() for what in unknown] == [rb"LiteLLM's /\xfe/\xff"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can look with another user's eyes")
def test_a_file_is_told_as_not_looked_at_where_a_strangers_folder_may_not_be_seen(tmp_path: Path) -> None:
    program = tmp_path / "waits.py"
    program.write_text("print(flush=True); input()")

    def as_nobody() -> str:
        unknown: dict[str, str] = {}
        become_nobody()
        proxies(URL, unknown)
        return json.dumps(unknown)

    argv = ["litellm", str(program), "--config", f"{tmp_path.name}.yaml"]
    with subprocess.Popen(
        argv, executable=sys.executable, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        unknown = json.loads(within(60, as_nobody))
        process.kill()
    assert unknown[f"LiteLLM's {tmp_path.name}.yaml"] == (
        f"the folder that process {process.pid} runs in: Permission denied"
    )


def test_a_process_that_is_stuck_holds_nobody_up(tmp_path: Path, lay_out: Callable[..., Path]) -> None:
    """Reading its command line waits for its memory, as here for a pipe's other end."""
    (lay_out(7, b"litellm", b"--config", b"/config.yaml") / "config.yaml").write_text(IGNORED)
    lay_out(8)
    (tmp_path / "proc/8/cmdline").unlink()
    os.mkfifo(tmp_path / "proc/8/cmdline")
    assert found(tmp_path, 0.1) == (
        (),
        {"LiteLLM": "the command lines of all processes: it could not be read within 2 s"},
    )


@pytest.mark.parametrize(
    ("argv", "config"),
    [
        (["/usr/bin/python3", "/usr/local/bin/litellm", "--config", "/app/config.yaml", "--port", "4000"],
         "/app/config.yaml"),
        (["litellm", "--config=c.yaml"], "c.yaml"),
        (["litellm", "-c", "c.yaml", ""], "c.yaml"),
        (["litellm", "--model", "ollama/x"], ""),
        (["litellm", "--config"], ""),
        (["vim", "--config", "litellm"], ""),
        (["python3", "other.py", "litellm", "--config", "c.yaml"], ""),
        ([""], ""),
    ],
)  # fmt: skip
def test_its_own_command_line_tells(argv: list[str], config: str) -> None:
    assert config_of(argv) == config


@pytest.mark.parametrize(
    ("text", "url", "leads"),
    [
        ("api_base: http://127.0.0.1:11434", "http://127.0.0.1:11434", True),
        ("api_base: http://ollama:9000", "http://127.0.0.1:9000", True),
        ("model: ollama_chat/small", "http://127.0.0.1:11434", True),
        ("model: ollama_chat/small", "http://127.0.0.1:9000", False),
        ("model: openai/gpt-4", "http://127.0.0.1:11434", False),
        ("model: ollama/a\napi_base: http://other:80", "http://127.0.0.1:11434", False),
    ],
)
def test_only_one_that_leads_here_is_looked_at(text: str, url: str, leads: bool) -> None:  # noqa: FBT001
    assert leads_to(text, url) is leads
