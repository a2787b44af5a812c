"""What `init` advises bounds a real Ollama, which without it takes as much as it is asked for."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from beds.cgroups import MemoryCgroup
from beds.real_ollama import RealOllama

GIB = 1 << 30
# As Ollama comes; the bed sets both, and to it an empty value is none.
UNSET = {"OLLAMA_MAX_LOADED_MODELS": "", "OLLAMA_NUM_PARALLEL": ""}
MAIN = "from ollama_guard.cli import main; main()"


def test_a_real_server_with_the_advised_lines_keeps_as_many_models_as_fit(
    memory_cgroup: Callable[[int], MemoryCgroup], real_ollama: Callable[..., RealOllama], tmp_path: Path
) -> None:
    """In 2.5 GiB the two largest (1.5 GiB each) don't fit together; any two stay loaded without the lines."""
    cgroup = memory_cgroup(5 * GIB // 2)
    server = real_ollama(launcher=cgroup.popen, env=UNSET)
    advised = init(server.url, cgroup.name, tmp_path)
    lines = dict(re.findall(r"^(OLLAMA_\w+)=(\d+) {4}#", advised, re.MULTILINE))
    assert lines == {"OLLAMA_MAX_LOADED_MODELS": "1", "OLLAMA_NUM_PARALLEL": "1"}
    assert "LLAMA_ARG_CACHE_RAM" not in advised, "this old a server has no prompt cache"
    assert re.search(r"^#   tiny:latest .* fits, with every smaller one beside it$", advised, re.MULTILINE)
    assert re.search(r"^#   big2?:latest .* fits, but not with every smaller one", advised, re.MULTILINE)
    assert loads_two(server) == {"tiny:latest", "tiny2:latest"}
    server.stop()

    bounded = real_ollama(launcher=cgroup.popen, env=lines)
    assert loads_two(bounded) == {"tiny2:latest"}


def loads_two(server: RealOllama) -> set[str]:
    """What is loaded after two small models were asked for."""
    server.load("tiny")
    server.load("tiny2")
    return {entry["name"] for entry in server.get("/api/ps")["models"]}


def init(url: str, cgroup: str, root: Path) -> str:
    """What `ollama-guard init` says of this server."""
    file = root / "etc/ollama-guard/ollama-guard.toml"
    file.parent.mkdir(parents=True)
    file.write_text(f'[ollama]\nurl = "{url}"\ncgroup = "/{cgroup}"\n')
    told = subprocess.run(
        [sys.executable, "-I", "-c", MAIN, "init", f"--root={root}"],
        capture_output=True, text=True, timeout=60, check=False, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert (told.returncode, told.stderr) == (0, "")
    return told.stdout
