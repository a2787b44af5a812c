"""A server's surroundings as `init` and `doctor` read them: its limits, what it sees of them, a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from ollama_guard.cli.cgroup_facts import CgroupFacts, cgroup_facts, has_gpu, sees_limit
from ollama_guard.core.machine import NO_BOUND_BYTES
from ollama_guard.core.model import LoadedModel

GIB = 1024**3
V1 = "30 23 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
V2 = "30 23 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"


def put(folder: Path, files: dict[str, object]) -> None:
    for path, content in files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{content}\n" if not str(content).endswith("\n") else str(content))


def facts(folder: Path) -> CgroupFacts:
    return cgroup_facts(7, str(folder / "proc"), str(folder / "cg"))


def test_the_least_limit_of_all_levels_holds(tmp_path: Path) -> None:
    put(tmp_path, {"proc/self/mountinfo": V2, "proc/7/cgroup": "0::/top/own\n"})
    put(tmp_path / "cg/top", {"memory.max": 4 * GIB, "memory.high": 3 * GIB, "memory.swap.max": "max"})
    put(tmp_path / "cg/top/own", {"memory.max": 6 * GIB, "memory.high": "max", "memory.swap.max": GIB})
    own = str(tmp_path / "cg/top/own")
    assert facts(tmp_path) == CgroupFacts(2, own, 3 * GIB, 3 * GIB, True, GIB)  # noqa: FBT003  (swap counts)


def test_of_swap_and_memory_together_the_memory_goes_off(tmp_path: Path) -> None:
    """Which is how v1 bounds it."""
    put(tmp_path, {"proc/self/mountinfo": V1, "proc/7/cgroup": "5:memory:/own\n"})
    put(
        tmp_path / "cg/memory/own",
        {"memory.limit_in_bytes": 4 * GIB, "memory.memsw.limit_in_bytes": 5 * GIB},
    )
    found = facts(tmp_path)
    assert (found.version, found.limit_bytes, found.swap_allowed_bytes) == (1, 4 * GIB, GIB)
    (tmp_path / "cg/memory/own/memory.memsw.limit_in_bytes").unlink()
    found = facts(tmp_path)
    assert (found.swap_limited, found.swap_allowed_bytes) == (False, None), "this kernel does not count swap"


def test_without_a_bound_swap_is_open(tmp_path: Path) -> None:
    put(tmp_path, {"proc/self/mountinfo": V2, "proc/7/cgroup": "0::/own\n"})
    put(tmp_path / "cg/own", {"memory.max": "max", "memory.swap.max": "max"})
    found = facts(tmp_path)
    assert (found.limit_bytes, found.swap_allowed_bytes) == (None, NO_BOUND_BYTES)


def test_of_a_process_that_is_gone_nothing_is_known(tmp_path: Path) -> None:
    put(tmp_path, {"proc/self/mountinfo": V2})
    assert facts(tmp_path) == CgroupFacts()


@pytest.mark.parametrize(
    ("seen", "version", "sees"),
    [
        (GIB, "0.13.0", True),
        (2 * GIB, "0.13.0", False),
        ("max", "0.13.0", False),
        (None, "0.13.0", False),
        (GIB, "0.12.9", False),
        (GIB, None, None),
    ],
)
def test_ollama_sees_a_limit_that_stands_where_it_looks(
    tmp_path: Path,
    seen: object,
    version: str | None,
    sees: bool | None,  # noqa: FBT001
) -> None:
    """At the root of its own tree, since 0.13."""
    put(tmp_path, {"7/root/sys/fs/cgroup/memory.max": seen} if seen else {})
    assert sees_limit(7, GIB, version, str(tmp_path)) is sees
    assert sees_limit(7, None, version, str(tmp_path)) is None


def loaded(*vram_bytes: int | None) -> list[LoadedModel]:
    return [LoadedModel("small", None, 900, one, None) for one in vram_bytes]


@pytest.mark.parametrize(
    ("devices", "models", "gpu"),
    [
        (["null", "nvidia0", "nvidiactl"], [], True),
        (["null", "dri"], [], False),
        (["null"], loaded(900), False),
        (["kfd", "dri"], loaded(0), False),
        (["kfd", "dri"], loaded(0, 500), True),
        (["kfd", "dri"], loaded(None), None),
        (["kfd", "dri"], [], None),
        (["kfd", "nvidiactl"], loaded(0), True),
    ],
)
def test_a_gpu_is_told_by_its_devices_and_amds_by_a_model_that_uses_it(
    tmp_path: Path,
    devices: list[str],
    models: list[LoadedModel],
    gpu: bool | None,  # noqa: FBT001
) -> None:
    """Its driver makes /dev/kfd also for graphics inside of a processor, on which Ollama does not compute."""
    put(tmp_path / "proc/7/root/dev", dict.fromkeys(devices, ""))
    put(tmp_path / "dev", {"nvidiactl": ""})  # the machine's, which this process does not see
    assert has_gpu(7, {}, models, str(tmp_path / "proc"), tmp_path / "dev") is gpu
    assert has_gpu(8, {}, models, str(tmp_path / "proc"), tmp_path / "dev") is True


def test_a_screens_device_counts_where_it_was_asked_for(tmp_path: Path) -> None:
    put(tmp_path / "7/root/dev", {"dri": ""})
    assert has_gpu(7, {"OLLAMA_VULKAN": "1"}, [], str(tmp_path)) is True
    assert has_gpu(7, {"OLLAMA_VULKAN": "0"}, [], str(tmp_path)) is False
