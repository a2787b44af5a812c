"""What Docker, systemd and manifests say is judged value by value: all of it gives a reading, none raises.

What it gives is of the declared types, so that it goes over the wire to the sentinel.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ollama_guard.core import naming
from ollama_guard.core.runtime import Limits
from ollama_guard.hands.adapters.docker import facts, readings
from ollama_guard.hands.adapters.docker import limits as docker_limits
from ollama_guard.hands.adapters.manifests import store
from ollama_guard.hands.adapters.systemd import readings as units
from unit.hands.odd_json import HEX, assert_well_typed, json_of, keys_of, one_replaced

ENV = "/var/lib/ollama-guard/env"
INSPECTED: dict[str, Any] = {
    "Id": "ab" * 32,
    "Name": "/ollama",
    "State": {
        "Status": "running", "Running": True, "Paused": False, "Restarting": False, "Pid": 77, "ExitCode": 0,
        "StartedAt": "2027-01-15T08:00:00.123456789Z", "Health": {"Status": "unhealthy"},
    },
    "HostConfig": {
        "Memory": 3221225472, "MemorySwap": -1, "NanoCpus": 0, "CpuQuota": 0, "CpuPeriod": 0,
        "AutoRemove": False, "NetworkMode": "container:ab", "PidMode": "", "IpcMode": "private",
        "PortBindings": {"11434/tcp": [{"HostIp": "", "HostPort": "11434"}]},
    },
    "Config": {
        "Image": "ollama/ollama", "Entrypoint": ["/bin/sh", readings.ENTRYPOINT], "Cmd": ["serve"],
        "Env": ["PATH=/bin", "OLLAMA_HOST=0.0.0.0:11434", "OLLAMA_GUARD_ENV_FILE=/env/ollama.env"],
        "Labels": {
            "ollama-guard.authority": "server", "com.docker.swarm.service.name": "s",
            "com.docker.compose.service": "ollama", "com.docker.compose.version": "1.29.2",
            "com.docker.compose.project.working_dir": "/srv/llm",
            "com.docker.compose.project.config_files": "docker-compose.yml,gpu.yml",
        },
    },
    "Mounts": [{"Source": ENV, "Destination": "/env"}],
}  # fmt: skip
STATS: dict[str, Any] = {
    "memory_stats": {"usage": 5000, "stats": {"inactive_file": 100, "total_inactive_file": 200}}
}
EVENT: dict[str, Any] = {"Action": "die", "Actor": {"Attributes": {"name": "ollama", "exitCode": "137"}}}
UNIT: dict[str, Any] = {
    "Id": "ollama.service", "LoadState": "loaded", "ActiveState": "active", "UnitFileState": "enabled",
    "FreezerState": "running", "Job": [0, "/"], "MainPID": 42, "MemoryMax": 2**64 - 1, "MemoryCurrent": 500,
    "CPUQuotaPerSecUSec": 2**64 - 1, "ActiveEnterTimestampMonotonic": 5_000_000, "RequiredBy": ["a.service"],
    "BoundBy": [], "EnvironmentFiles": [["/env/ollama.env", True]], "Environment": ["OLLAMA_HOST=x"],
}  # fmt: skip
LISTED: list[Any] = [[["a.service", "A", "loaded", "active", "running", "", "/a", 0, "", "/"]]]
LAYER = {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{HEX}", "size": 98}
MANIFEST: dict[str, Any] = {
    "schemaVersion": 2,
    "config": {"digest": "sha256:c", "size": 2},
    "layers": [LAYER],
}
WANTED = Limits(memory_bytes=2 * 1024**3, cpus=1.5)
NAME = naming.Name("registry.ollama.ai", "library", "big", "latest")
# A busy machine is no reason to fail.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
TOP = Callable[[Any], object]


def of_docker(inspected: Any) -> object:
    read = readings.reading_of(inspected, (), ENV, readings.Clocks(1000.0, 1.8e9))
    assert read.server_pid is None or read.server_pid > 0
    assert isinstance(readings.is_running(inspected), bool)
    return read, readings.joins(inspected), readings.name_of(inspected), readings.id_of(inspected)


def limited(inspected: Any) -> object:
    now = docker_limits.limits_of(inspected)
    plan = docker_limits.plan(WANTED, now, now, None)
    assert all(type(value) is int for change in plan.changes.values() for value in change.values())
    assert docker_limits.undoing(now)
    return tuple(map(str, sorted(now.items()))), plan.left_out


def used(stats: Any) -> object:
    found = docker_limits.used_bytes(stats)
    assert found is None or (type(found) is int and found >= 0)
    return None if found is None else str(found)


def of_systemd(unit: Any) -> object:
    read = units.reading_of(unit, "/env/ollama.env", units.Clocks(1000.0, 900.0), ())
    assert read.server_pid is None or read.server_pid > 0
    changes, left_out = units.wanted_limits(WANTED, unit, units.limits_of(unit))
    assert all(type(value) is int for value in changes.values())
    return read, tuple(units.dependents(unit)), left_out


def of_manifest(document: Any) -> object:
    judged = store._judged(NAME, (json.dumps(document).encode(), 5.0))
    assert judged.size_bytes is None or (type(judged.size_bytes) is int and judged.size_bytes >= 0)
    assert len(judged.digest) == 64
    return judged.blob


JUDGES: dict[str, tuple[TOP, Any]] = {
    "docker inspect": (of_docker, INSPECTED),
    "docker inspect for advice": (facts.facts_of, INSPECTED),
    "docker limits": (limited, INSPECTED),
    "docker stats": (used, STATS),
    "docker event": (lambda event: readings.told_of(event, "ollama"), EVENT),
    "systemd unit": (of_systemd, UNIT),
    "systemd list": (units.running, LISTED),
    "manifest": (of_manifest, MANIFEST),
}
"""Each with an answer as it should be; what is no object, or no list, at its top never gets to them."""
ODD = {name: json_of(keys_of(right) or ["x"]) for name, (_, right) in JUDGES.items()}
BROKEN = {name: one_replaced(right, ODD[name]) for name, (_, right) in JUDGES.items()}


@pytest.mark.parametrize("judged", JUDGES)
def test_an_answer_as_it_should_be_says_something(judged: str) -> None:
    judge, right = JUDGES[judged]
    assert_well_typed(judge(right))
    empty = type(right)()
    assert judge(right) != judge(empty)


@pytest.mark.parametrize("judged", JUDGES)
@PATIENT
@given(data=st.data())
def test_any_json_is_judged(judged: str, data: st.DataObject) -> None:
    judge, right = JUDGES[judged]
    odd = ODD[judged]
    top = st.dictionaries(st.sampled_from(list(right)), odd) if isinstance(right, dict) else st.lists(odd)
    assert_well_typed(judge(data.draw(top)))


@pytest.mark.parametrize("judged", JUDGES)
@PATIENT
@given(data=st.data())
def test_an_answer_with_any_one_value_replaced_is_judged(judged: str, data: st.DataObject) -> None:
    judge, right = JUDGES[judged]
    broken = data.draw(BROKEN[judged])
    if isinstance(broken, type(right)):
        assert_well_typed(judge(broken))


@PATIENT
@given(raw=st.binary(max_size=300), cut=st.integers(0, 400))
@example(raw=b"[" * 100_000, cut=0)
@example(raw=b'{"layers":[{"size":1e400}],"config":{"size":%s}}' % (b"9" * 4000), cut=0)
def test_a_manifest_of_any_bytes_is_judged(raw: bytes, cut: int) -> None:
    for content in (raw, json.dumps(MANIFEST).encode()[:cut] + raw):
        judged = store._judged(NAME, (content, 5.0))
        assert judged.size_bytes is None or type(judged.size_bytes) is int
