"""`init` and `doctor` on a real Ollama in a real container of a compose project."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from beds.docker import DockerEngine
from beds.docker_ollama import ContainerOllama

MAIN = "from ollama_guard.cli import main; main()"
OVERRIDE = "srv/llm/docker-compose.override.yml"
LABELS = {
    "com.docker.compose.service": "ollama",
    "com.docker.compose.project.working_dir": "/srv/llm",
    "com.docker.compose.project.config_files": "docker-compose.yml",
    "com.docker.compose.version": "1.29.2",
}


def test_a_container_of_composes_is_found_advised_and_left_as_it_is(
    docker_engine: DockerEngine, docker_ollama: Callable[..., ContainerOllama], tmp_path: Path
) -> None:
    """Its labels tell where the compose file is; nothing of the container changes by all this."""
    server = docker_ollama(
        container={"labels": LABELS}, env={"OLLAMA_NUM_PARALLEL": "", "OLLAMA_KEEP_ALIVE": "-1"}
    )
    assert server.container is not None
    before = server.container.inspect()
    config = tmp_path / "etc/ollama-guard/ollama-guard.toml"
    config.parent.mkdir(parents=True)
    config.write_text(f'[ollama]\nurl = "{server.url}"\ncgroup = "{server.container.cgroup}"\n')
    for path in ("srv/llm/docker-compose.yml", "usr/share/ollama-guard/ollama-guard-entrypoint"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text("services: {ollama: {environment: {OLLAMA_KEEP_ALIVE: 30s}}}\n")

    environment = {"PATH": os.environ["PATH"], "DOCKER_HOST": docker_engine.url}
    environment["RUNTIME_DIRECTORY"] = str(tmp_path)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-I", "-c", MAIN, *arguments, f"--root={tmp_path}"],
            capture_output=True, text=True, timeout=60, check=False,
            env=environment,
        )  # fmt: skip

    applied = run("init", "--apply")
    assert (applied.returncode, applied.stderr) == (0, "")
    assert "in force after: cd /srv/llm && docker-compose up -d ollama\n" in applied.stdout
    override = (tmp_path / OVERRIDE).read_text()
    assert re.search(r"^    mem_limit: (\d+m)\n(?:    #.*\n)+    memswap_limit: \1$", override, re.MULTILINE)
    assert '      OLLAMA_NUM_PARALLEL: "1"\n' in override
    ran = [*(before["Config"]["Entrypoint"] or []), *(before["Config"]["Cmd"] or [])]
    assert f"runs what ran before: {' '.join(ran)}." in re.sub(r"\n +# ", " ", override)
    assert run("init", "--apply").stdout.startswith("nothing to change: ")
    found = {finding["check"]: finding for finding in json.loads(run("doctor", "--json").stdout)["findings"]}
    assert found["keep_alive"]["what"].startswith(
        f"container {server.container.name} has OLLAMA_KEEP_ALIVE=-1"
    )
    assert "OLLAMA_KEEP_ALIVE=30s where it runs with -1" in found["environment_drift"]["what"]
    assert found["environment_drift"]["mend"].startswith("cd /srv/llm && docker-compose up -d ollama")
    assert "memswap_limit: " in found["no_limit"]["mend"]
    assert "exposed" not in found, "nothing of it is published"
    assert run("release").returncode == 0
    assert not (tmp_path / OVERRIDE).exists()
    after = server.container.inspect()
    assert (after["Id"], after["State"]["Pid"]) == (before["Id"], before["State"]["Pid"])
    assert after["HostConfig"] == before["HostConfig"]
