"""`doctor` on a real Ollama that is set up badly on purpose, and on the same one once that is mended."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from beds.box import CONFIG, KERNEL, MAIN, swap_is_open, told, with_groups
from beds.cgroups import MemoryCgroup
from beds.guard import Guard
from beds.process import children
from beds.real_ollama import RealOllama

LIMIT_BYTES = 700 << 20
BAD = {
    "OLLAMA_KEEP_ALIVE": "1d",
    "OLLAMA_MAX_QUEUE": "2",
    "OLLAMA_MAX_VRAM": "2048000000",
    "OLLAMA_MAX_LOADED_MODELS": "3",
}
GOOD = {"OLLAMA_KEEP_ALIVE": "5m", "OLLAMA_MAX_LOADED_MODELS": "1"}
SLOW_SWAP = {"/sys/block/sda/queue/rotational": "1\n"}


def test_every_fault_of_a_real_server_is_found_and_no_other_and_none_once_they_are_mended(
    memory_cgroup: Callable[[int], MemoryCgroup], real_ollama: Callable[..., RealOllama], tmp_path: Path
) -> None:
    """In 700 MiB the shelf's large models can't ever fit; a server that was killed left its runner behind."""
    cgroup = memory_cgroup(LIMIT_BYTES)
    swap_is_open(cgroup)
    root = tmp_path / "root"
    lay_out(root, KERNEL | SLOW_SWAP)
    server = real_ollama(launcher=cgroup.popen, env=BAD)
    lay_out(root, {CONFIG: f'[ollama]\nurl = "{server.url}"\ncgroup = "/{cgroup.name}"\n'})
    server.load("tiny")
    (orphan,) = children(server.pid)
    os.kill(server.pid, signal.SIGKILL)
    again = real_ollama(launcher=cgroup.popen, env=BAD, port=server.port)

    assert Path(f"/proc/{orphan}").exists()
    found = doctor(root, "--json")
    assert found.returncode == 1, found.stderr
    assert told(found) == {
        "guard": "serious",
        "orphans": "serious",
        "never_fits": "serious",
        "unseen_limit": "serious",
        "swap_unbounded": "serious",
        "swap_slow": "advice",
        "max_queue": "advice",
        "keep_alive_garbage": "advice",
        "max_vram": "advice",
        "aliases": "advice",
    }
    mends = {finding["id"]: finding["mend"] for finding in json.loads(found.stdout)["findings"]}
    assert mends["orphans"] == f"kill {orphan}"
    assert "tiny-alias" in mends["aliases"]
    assert json.loads(found.stdout)["unknown"] == {}

    os.kill(orphan, signal.SIGKILL)
    again.stop()
    cgroup.set_limit(LIMIT_BYTES)
    lay_out(root, KERNEL)
    mended = real_ollama(launcher=cgroup.popen, env=GOOD, port=server.port, models=tmp_path / "models")
    mended.create("tiny", mended.installation.seed)
    (tmp_path / "guard").mkdir()
    with Guard(mended.url, cgroup=f"/{cgroup.name}", home=tmp_path / "guard") as guard:
        guard.wait_guarding(mended.pid)
        with_groups(guard.runtime)
        well = doctor(root, f"--runtime-dir={guard.runtime}", f"--state-dir={guard.state}")
    assert (well.returncode, well.stdout, well.stderr) == (0, "all is well: nothing was found\n", "")


def lay_out(root: Path, files: dict[str, str]) -> None:
    """What the kernel would tell, below a folder."""
    for path, text in files.items():
        file = root / path.removeprefix("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def doctor(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`ollama-guard doctor` on the laid-out machine."""
    argv: Sequence[str] = [sys.executable, "-I", "-c", MAIN, "doctor", *arguments, f"--root={root}"]
    environment = {"PATH": os.environ["PATH"], "RUNTIME_DIRECTORY": str(root.parent / "run")}
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, env=environment)
