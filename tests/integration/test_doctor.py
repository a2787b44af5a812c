"""`doctor` on a machine of real processes: a server, its runners, an orphan, a guard, a cgroup.

What the kernel and systemd would tell is laid out below a folder.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from beds import BedUnavailable
from beds.box import CONFIG, KERNEL, Box, laid_out, swap_is_open, told, with_groups
from beds.guard import Guard
from beds.process import children
from ollama_guard.core.footprint import Footprint, FootprintKey
from ollama_guard.store.footprints import FootprintStore

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make cgroups")

UNIT = "/etc/systemd/system/ollama.service"
SMALL, LARGE, NEVER = "small=40MiB,kv=23040", "large=90MiB,kv=23040", "never=900MiB,kv=23040"
BAD = {
    "OLLAMA_HOST": "0.0.0.0:11434",
    "OLLAMA_KEEP_ALIVE": "1d",
    "OLLAMA_MAX_QUEUE": "2",
    "OLLAMA_MAX_VRAM": "2048000000",
    "OLLAMA_NUM_PARALLEL": "4",
}
GOOD = {
    "OLLAMA_HOST": "127.0.0.1:11434",
    "OLLAMA_MAX_LOADED_MODELS": "1",
    "LLAMA_ARG_CACHE_RAM": "64",
}
BAD_KERNEL = {
    "/proc/sys/vm/overcommit_memory": "2\n",
    "/proc/spl/kstat/zfs/arcstats": "name type data\nc_max 4 1000000000000\nsize 4 5000000000\n",
    "/sys/kernel/mm/transparent_hugepage/enabled": "[always] madvise never\n",
    "/sys/kernel/mm/transparent_hugepage/defrag": "[always] defer defer+madvise madvise never\n",
    "/sys/block/sda/queue/rotational": "1\n",
    "/proc/swaps": f"{KERNEL['/proc/swaps']}/dev/zram0 partition 1048572 0 100\n",
}


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    try:
        with laid_out(tmp_path) as box:
            for path, text in KERNEL.items():
                box.put(path, text)
            yield box
    except BedUnavailable as problem:
        pytest.skip(str(problem))


def counts_swap(box: Box) -> bool:
    """Whether this kernel can bound swap at all."""
    return any(box.cgroup.path.glob("memory.memsw.limit_in_bytes")) or any(
        box.cgroup.path.glob("memory.swap.max")
    )


def test_every_planted_fault_is_found_and_nothing_else_and_nothing_once_they_are_mended(box: Box) -> None:
    """A bad machine, and the same one after each line that was told."""
    for path, text in BAD_KERNEL.items():
        box.put(path, text)
    (box.root / "proc/pressure/memory").unlink()
    swap_is_open(box.cgroup)
    box.put(UNIT, "[Service]\nExecStart=/usr/local/bin/ollama serve\nEnvironment=OLLAMA_NUM_PARALLEL=1\n")
    box.start("ollama.service", BAD, (f"{SMALL},alias=gpt-4", LARGE, NEVER))
    assert box.server is not None
    box.configure()
    box.server.load("small", num_ctx=512)
    (orphan,) = children(box.server.pid)
    box.server.kill()
    box.server.start()
    box.systemd.units["ollama.service"].main_pid = box.server.pid

    result = box.run("doctor", "--json")
    assert (result.returncode, result.stderr) == (1, "")
    serious = {
        "guard", "orphans", "exposed", "swap_unbounded", "prompt_cache", "never_fits", "max_loaded",
        "overcommit", *box.watched_by_systemd,
    }  # fmt: skip
    advice = {
        "max_queue", "keep_alive_garbage", "max_vram", "environment_drift", "aliases", "parallel",
        "unseen_limit", "swap_slow", "zram", "zfs_arc", "thp", "psi",
    }  # fmt: skip
    if not counts_swap(box):
        serious = serious - {"swap_unbounded"} | {"swap_accounting"}
    assert told(result) == dict.fromkeys(serious, "serious") | dict.fromkeys(advice, "advice")
    assert json.loads(result.stdout)["unknown"] == {}
    text = box.run("doctor").stdout
    assert f"  mend: kill {orphan}\n" in text
    assert "environment_drift (advice): its unit says of ollama.service what is not in force:" in text
    assert "OLLAMA_NUM_PARALLEL=1 where it runs with 4" in text

    os.kill(orphan, 9)
    mend(box)
    (box.home / "guard").mkdir()
    with Guard(box.server.url, cgroup=f"/{box.cgroup.name}", home=box.home / "guard") as guard:
        guard.wait_guarding(box.server.pid)
        with_groups(guard.runtime)
        places = (f"--runtime-dir={guard.runtime}", f"--state-dir={guard.state}")
        result = box.run("doctor", *places)
    assert (result.returncode, result.stdout, result.stderr) == (0, "all is well: nothing was found\n", "")


def mend(box: Box) -> None:
    """What was told, line by line; the server is started anew with it."""
    for path in BAD_KERNEL:
        if path in KERNEL:
            box.put(path, KERNEL[path])
    (box.root / "proc/spl/kstat/zfs/arcstats").unlink()
    box.put("/proc/pressure/memory", KERNEL["/proc/pressure/memory"])
    box.cgroup.set_limit(box.cgroup.limit)
    environment = "".join(f"Environment={key}={value}\n" for key, value in GOOD.items())
    box.put(UNIT, f"[Service]\nExecStart=/usr/local/bin/ollama serve\nOOMPolicy=continue\n{environment}")
    box.start("ollama.service", GOOD, (SMALL, LARGE))
    box.configure()


def well(box: Box) -> Box:
    """A machine without a fault, but for the guard that does not run."""
    environment = "".join(f"Environment={key}={value}\n" for key, value in GOOD.items())
    box.put(UNIT, f"[Service]\nOOMPolicy=continue\n{environment}")
    box.start("ollama.service", GOOD, (SMALL, LARGE))
    box.configure()
    return box


def test_advice_alone_is_shown_and_fails_nothing(box: Box) -> None:
    well(box).put("/sys/kernel/mm/transparent_hugepage/enabled", "[always]\n")
    box.put("/sys/kernel/mm/transparent_hugepage/defrag", "[always]\n")
    assert box.server is not None
    (box.home / "guard").mkdir()
    with Guard(box.server.url, cgroup=f"/{box.cgroup.name}", home=box.home / "guard") as guard:
        guard.wait_guarding(box.server.pid)
        with_groups(guard.runtime)
        result = box.run("doctor", f"--runtime-dir={guard.runtime}", f"--state-dir={guard.state}")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("thp (advice): transparent huge pages are on for everybody")
    assert "all is well" not in result.stdout


def test_clients_that_alternate_are_found_by_the_guards_ledger(box: Box) -> None:
    """Two contexts of one blob, both in use, each use a load."""
    well(box)
    assert box.server is not None
    state = box.home / "state"
    state.mkdir()
    blob = next(iter(box.server.models_dir.glob("blobs/sha256-*"))).name.replace("-", ":", 1)
    now = time.time()
    rows = [
        Footprint(FootprintKey(blob, context, 1), loads=6, uses=6, last_used_wall=now - 60)
        for context in (2048, 8192)
    ]
    FootprintStore(state / "footprints.sqlite").save(rows, 3600.0)
    result = box.run("doctor", "--json", f"--state-dir={state}")
    assert told(result) == {"guard": "serious", "reload_thrash": "advice"}
    older = [Footprint(row.key, loads=6, uses=6, last_used_wall=now - 3600) for row in rows[:1]]
    FootprintStore(state / "footprints.sqlite").save(older, 3600.0)
    assert told(box.run("doctor", "--json", f"--state-dir={state}")) == {"guard": "serious"}


def test_what_can_not_be_looked_at_is_said_and_never_taken_for_well(box: Box) -> None:
    """A kernel that tells nothing of its swap, and a file that is none, are no finding, and no all-clear."""
    well(box).put(UNIT, "[Service]\nOOMPolicy=continue\nEnvironmentFile=/etc/default/ollama\n")
    os.mkfifo(box.put("/etc/default/x", "").with_name("ollama"))
    (box.root / "proc/swaps").unlink()
    (box.root / "proc/sys/vm/overcommit_memory").unlink()
    result = box.run("doctor", "--json")
    document = json.loads(result.stdout)
    assert [finding["id"] for finding in document["findings"]] == ["guard"]
    assert document["unknown"] == {
        "/proc/swaps": "No such file or directory",
        "/proc/sys/vm/overcommit_memory": "No such file or directory",
        "files": "/etc/default/ollama: it is no regular file",
    }
    assert "could not look at files: /etc/default/ollama: it is no regular file" in box.run("doctor").stdout


def test_a_hostile_name_stays_on_its_line(box: Box) -> None:
    """Whoever may set a variable may not write lines of the report."""
    well(box).start(
        "ollama.service", {**GOOD, "OLLAMA_KEEP_ALIVE": "1d\nall is well: nothing was found\x1b[2J"}
    )
    box.configure()
    lines = box.run("doctor").stdout.splitlines()
    assert not [line for line in lines if line.startswith("all is well") or "\x1b" in line]
    assert [line for line in lines if line.startswith("keep_alive_garbage (advice): ")]


# A process of LiteLLM's proxy by its command line: `python …/litellm --config config.yaml`.
PROXY = "import sys, time; sys.stdout.write('!'); sys.stdout.flush(); time.sleep(600)"


def test_a_proxy_that_ignores_keys_is_found_by_its_process_until_they_are_gone(box: Box) -> None:
    """The file is read as that process sees it, from the folder that it runs in."""
    well(box)
    program, config = box.home / "litellm", box.home / "config.yaml"
    program.write_text(PROXY)
    assert box.server is not None
    leads_here = f"# {box.server.url}\nmodel_list: []\nrouter_settings:\n"
    config.write_text(f"{leads_here}  max_queue_size: 100\n")
    argv = [sys.executable, str(program), "--config", config.name]
    with subprocess.Popen(argv, cwd=box.home, stdout=subprocess.PIPE) as proxy:
        try:
            assert proxy.stdout is not None
            assert proxy.stdout.read(1) == b"!"
            found = told(box.run("doctor", "--json"))
            lines = box.run("doctor").stdout.splitlines()
            config.write_text(f"{leads_here}  num_retries: 2\n")
            mended = told(box.run("doctor", "--json"))
            config.write_text(f"{leads_here}  num_retries: [\n")
            broken = json.loads(box.run("doctor", "--json").stdout)["unknown"]
        finally:
            proxy.kill()
    assert found == {"guard": "serious", "litellm": "advice"}
    assert [line for line in lines if str(config) in line and "line 4" in line and "max_queue_size" in line]
    assert mended == {"guard": "serious"}
    assert [why for what, why in broken.items() if str(config) in what and "line 5" in why], broken


def test_doctor_changes_nothing(box: Box) -> None:
    """Read-only: the same tree, to the byte, and the same state directory with the ledger in it."""
    well(box)
    state = box.home / "state"
    FootprintStore(state / "footprints.sqlite").save([], 3600.0)

    def tree() -> dict[str, bytes | None]:
        kept = {str(path): path.read_bytes() if path.is_file() else None for path in state.rglob("*")}
        return {**box.tree(), **kept}

    before = tree()
    assert box.run("doctor", f"--state-dir={state}").returncode == 1
    assert tree() == before
    assert {CONFIG.removeprefix("/"), str(state / "footprints.sqlite")} <= before.keys()
