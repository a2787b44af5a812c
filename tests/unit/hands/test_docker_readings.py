"""What is made of Docker's answers: readings, verbs and limits."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ollama_guard.core.model import ServerReading
from ollama_guard.core.runtime import Happening, Limits, RuntimeState, Told, container_id_of
from ollama_guard.errors import RuntimeFailed
from ollama_guard.hands.adapters.docker import DockerRuntime, engines, readings
from ollama_guard.hands.adapters.docker import limits as limiting
from ollama_guard.hands.remembered import RememberedLimits

ENV = "/var/lib/ollama-guard/env"
ID = "ab" * 32
CLOCKS = readings.Clocks(1000.0, 1_800_000_000.0)
GIB = 1024**3


def inspected(**changes: Any) -> dict[str, Any]:
    document: dict[str, Any] = {
        "Id": ID,
        "Name": "/ollama",
        "State": {
            "Status": "running",
            "Running": True,
            "Pid": 77,
            "StartedAt": "2027-01-15T08:00:00.123456789Z",
        },
        "HostConfig": {"Memory": 0, "MemorySwap": 0, "NanoCpus": 0, "CpuQuota": 0, "CpuPeriod": 0},
        "Config": {
            "Labels": {},
            "Env": ["PATH=/bin", "OLLAMA_API_KEY=secret", "OLLAMA_NUM_PARALLEL=2"],
            "Entrypoint": ["/bin/ollama"],
        },
        "Mounts": [],
    }
    for part, values in changes.items():
        document[part] = document[part] | values if isinstance(document[part], dict) else values
    return document


def reading(*shared_by: str, **changes: Any) -> Any:
    return readings.reading_of(inspected(**changes), shared_by, ENV, CLOCKS)


def test_a_plain_container_may_have_everything_done_to_it() -> None:
    seen = reading()
    assert (seen.name, seen.id, seen.server_pid, seen.state) == ("ollama", ID, 77, RuntimeState.RUNNING)
    assert seen.verbs == ("stop", "start", "limit")
    assert seen.started_at == pytest.approx(1000.123, abs=0.001)
    assert seen.environment == {"OLLAMA_NUM_PARALLEL": "2"}, "what it is read for, and nobody's secrets"
    assert seen.cannot == ""


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"HostConfig": {"AutoRemove": True}}, "--rm"),
        ({"Config": {"Labels": {"com.docker.swarm.service.name": "ai_ollama"}}}, "Swarm's service ai_ollama"),
        ({"State": {"Paused": True}}, "paused"),
    ],
)
def test_a_container_that_may_not_be_stopped_says_why(changes: dict[str, Any], why: str) -> None:
    seen = reading(**changes)
    assert seen.verbs == ("limit",)
    assert why in seen.cannot


def test_a_container_whose_namespaces_are_shared_names_who_would_lose_them() -> None:
    seen = reading("webui")
    assert seen.verbs == ("limit",)
    assert "webui" in seen.cannot
    assert seen.shared_by == ("webui",)


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ({"Running": False, "Status": "exited", "Pid": 0}, RuntimeState.STOPPED),
        ({"Restarting": True}, RuntimeState.CHANGING),
        ({"Status": "removing", "Running": False}, RuntimeState.CHANGING),
        ({"Paused": True}, RuntimeState.PAUSED),
        ({"Running": "yes"}, RuntimeState.UNKNOWN),
    ],
)
def test_states_are_told(state: dict[str, Any], told: RuntimeState) -> None:
    assert reading(State=state).state is told


def test_it_is_constrainable_with_our_entrypoint_and_the_mounted_folder_only() -> None:
    entrypoint = {"Entrypoint": ["/bin/sh", readings.ENTRYPOINT]}
    mount = [{"Source": ENV, "Destination": ENV}]
    assert reading(Config=entrypoint, Mounts=mount).constrainable
    without_mount = reading(Config=entrypoint)
    assert not without_mount.constrainable
    assert f'in volumes "{ENV}:{ENV}:ro"' in without_mount.hint
    assert "entrypoint:" not in without_mount.hint
    assert "entrypoint:" in reading(Mounts=mount).hint


@pytest.mark.parametrize(
    ("mount", "variable", "written"),
    [
        ({"Source": "/srv/guard/env", "Destination": ENV}, "", True),
        ({"Source": "/srv/guard", "Destination": "/guard"}, "/guard/env/ollama.env", True),
        ({"Source": "/srv/guard", "Destination": "/guard"}, "", False),
        ({"Source": "/srv/another", "Destination": ENV}, "", False),
        ({"Source": "/srv/guard/env", "Destination": "/elsewhere"}, "", False),
    ],
)
def test_what_counts_is_that_the_file_inside_is_the_one_that_this_guard_writes(
    mount: dict[str, str], variable: str, *, written: bool
) -> None:
    lines = [f"OLLAMA_GUARD_ENV_FILE={variable}"] if variable else []
    document = inspected(Config={"Entrypoint": [readings.ENTRYPOINT], "Env": lines}, Mounts=[mount])
    assert readings.reading_of(document, (), "/srv/guard/env", CLOCKS).constrainable is written


def test_a_guard_in_a_container_knows_the_shared_volume_by_its_place() -> None:
    mount = {"Source": "/var/lib/docker/volumes/guard-env/_data", "Destination": ENV}
    assert reading(Config={"Entrypoint": ["/bin/sh", readings.ENTRYPOINT]}, Mounts=[mount]).constrainable


def test_label_health_and_limit_are_told() -> None:
    seen = reading(
        Config={"Labels": {"ollama-guard.authority": "server"}},
        State={"Health": {"Status": "unhealthy"}},
        HostConfig={"Memory": 3 * GIB},
    )
    assert seen.authority
    assert seen.unhealthy
    assert seen.memory_limit_bytes == 3 * GIB
    assert reading(HostConfig={"Memory": limiting.AS_GOOD_AS_NONE_BYTES}).memory_limit_bytes is None


@pytest.mark.parametrize("part", ["State", "HostConfig", "Config", "Mounts"])
def test_a_part_that_is_missing_breaks_nothing(part: str) -> None:
    document = inspected()
    document[part] = None
    assert readings.reading_of(document, (), ENV, CLOCKS).name == "ollama"


@pytest.mark.parametrize(
    ("cgroup", "container"),
    [
        (f"/docker/{ID}", ID),
        (f"/system.slice/docker-{ID}.scope", ID),
        (f"/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{ID}.scope", ID),
        (f"/docker/{'cd' * 32}/docker/{ID}/init", ID),
        (f"/machine.slice/libpod-{ID}.scope", None),
        ("/system.slice/ollama.service", None),
        ("/", None),
    ],
)
def test_the_container_s_id_is_read_from_its_cgroup(cgroup: str, container: str | None) -> None:
    assert container_id_of(cgroup) == container


def planned(wanted: Limits, used: int | None = 1 * GIB, **host: int) -> limiting.Plan:
    now = limiting.limits_of(inspected(HostConfig=host))
    return limiting.plan(wanted, now, now, used)


def test_a_container_without_limits_gets_them_and_no_swap_on_top() -> None:
    assert planned(Limits(3 * GIB, 2.0)) == limiting.Plan(
        {
            "memory": {"Memory": 3 * GIB, "MemorySwap": 3 * GIB},
            "cpus": {"CpuPeriod": 100_000, "CpuQuota": 200_000},
        }
    )


def test_the_swap_that_the_owner_allowed_stays_allowed() -> None:
    plan = planned(Limits(3 * GIB), Memory=8 * GIB, MemorySwap=9 * GIB)
    assert plan.changes["memory"] == {"Memory": 3 * GIB, "MemorySwap": 4 * GIB}
    plan = planned(Limits(3 * GIB), Memory=8 * GIB, MemorySwap=-1)
    assert plan.changes["memory"] == {"Memory": 3 * GIB, "MemorySwap": -1}


def test_cpus_are_said_in_the_owner_s_own_words() -> None:
    assert planned(Limits(cpus=2.0), NanoCpus=4_000_000_000).changes == {"cpus": {"NanoCpus": 2_000_000_000}}
    plan = planned(Limits(cpus=2.0), CpuQuota=200_000, CpuPeriod=50_000)
    assert plan.changes == {"cpus": {"CpuPeriod": 50_000, "CpuQuota": 100_000}}


@pytest.mark.parametrize(
    ("wanted", "used", "host", "why"),
    [
        (Limits(3 * GIB), 3 * GIB, {}, "it uses 3.0 GiB now"),
        (Limits(3 * GIB), None, {"Memory": 2 * GIB}, "its owner gave it 2.0 GiB"),
        (Limits(1024), None, {}, "none below 6 MiB"),
        (Limits(cpus=2.0), None, {"NanoCpus": 1_000_000_000}, "its owner gave it 1"),
        (Limits(cpus=2.0), None, {"CpuQuota": 50_000}, "its owner gave it 0.5"),
    ],
)
def test_a_limit_that_is_left_out_has_its_sentence(
    wanted: Limits, used: int | None, host: dict[str, int], why: str
) -> None:
    plan = planned(wanted, used, **host)
    assert plan.changes == {}
    assert len(plan.left_out) == 1
    assert why in plan.left_out[0]


def test_what_is_so_already_is_not_asked_again() -> None:
    owner = limiting.limits_of(inspected())
    now = owner | {"Memory": 3 * GIB, "MemorySwap": 3 * GIB}
    assert limiting.plan(Limits(3 * GIB), now, owner, GIB) == limiting.Plan()


def test_use_is_what_can_t_be_taken_away() -> None:
    v1 = {"memory_stats": {"usage": 900, "stats": {"total_inactive_file": 300, "inactive_file": 1}}}
    v2 = {"memory_stats": {"usage": 900, "stats": {"inactive_file": 300}}}
    assert limiting.used_bytes(v1) == limiting.used_bytes(v2) == 600
    assert limiting.used_bytes({"memory_stats": {}}) is None


SYSTEM = "unix:///var/run/docker.sock"


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Somebody else has a Docker's socket of their own; the result is their uid."""
    folder = tmp_path / "1000"
    folder.mkdir()
    (folder / "docker.sock").touch()
    if os.geteuid() == 0:
        os.chown(folder, 1000, 1000)
    owner = folder.stat().st_uid
    monkeypatch.setattr("os.geteuid", lambda: 4321)
    monkeypatch.setattr(engines, "_USERS", tmp_path)
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    return owner


def addresses(runtime: DockerRuntime, uid: int | None) -> list[str]:
    return [engine.address for engine in runtime._engines.believed(uid)]


def test_a_user_s_own_engine_is_believed_of_their_own_server_only(tmp_path: Path, stranger: int) -> None:
    """Anything may listen there and say that it runs root's server, and `init --apply` would write so."""
    runtime = DockerRuntime("", tmp_path, RememberedLimits(tmp_path))
    theirs = f"unix://{tmp_path}/1000/docker.sock"
    assert addresses(runtime, 0) == addresses(runtime, None) == addresses(runtime, stranger + 1) == [SYSTEM]
    assert addresses(runtime, stranger) == [SYSTEM, theirs]


def test_an_engine_that_is_not_believed_is_not_even_asked(
    tmp_path: Path, stranger: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "DEFAULT_ADDRESS", f"unix://{tmp_path}/none")
    runtime = DockerRuntime("", tmp_path, RememberedLimits(tmp_path))
    path = tmp_path / "1000" / "docker.sock"
    path.unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(0.1)
        server = ServerReading(4242, 7, 0, f"/docker/{'a' * 64}", "argv says serve")
        for ask in (lambda: runtime.find(server, 1.0), lambda: runtime.facts("ollama", 0, 1.0)):
            with pytest.raises(RuntimeFailed, match="no Docker listens"):
                ask()
            with pytest.raises(TimeoutError):
                listener.accept()
        with pytest.raises(RuntimeFailed):
            runtime.find(replace(server, uid=stranger), 0.3)
        listener.accept()[0].close()


@pytest.mark.usefixtures("stranger")
def test_a_configured_engine_is_asked_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    book = RememberedLimits(tmp_path)
    monkeypatch.setenv("DOCKER_HOST", "unix:///from/the/environment")
    assert addresses(DockerRuntime("", tmp_path, book), None) == ["unix:///from/the/environment"]
    assert addresses(DockerRuntime("tcp://127.0.0.1:1", tmp_path, book), None) == ["tcp://127.0.0.1:1"]


def test_nobody_who_listens_is_absent_whatever_the_address(tmp_path: Path) -> None:
    for address in (f"unix://{tmp_path}/none", "tcp://127.0.0.1:1"):
        with pytest.raises(RuntimeFailed) as caught:
            DockerRuntime(address, tmp_path, RememberedLimits(tmp_path)).read("ollama", 2.0)
        assert caught.value.kind == "absent", address


def test_a_name_that_is_no_address_is_a_bad_answer_and_no_crash(tmp_path: Path) -> None:
    with pytest.raises(RuntimeFailed):
        DockerRuntime("gopher://x", tmp_path, RememberedLimits(tmp_path)).read("ollama", 2.0)


@pytest.mark.parametrize(
    ("action", "told"),
    [
        ("oom", Told(Happening.OUT_OF_MEMORY)),
        ("die", Told(Happening.ENDED, 137)),
        ("health_status: unhealthy", Told(Happening.UNHEALTHY)),
        ("health_status: healthy", Told(Happening.HEALTHY)),
        ("health_status", None),
        ("exec_die", None),
        ("", None),
    ],
)
def test_an_event_is_a_word_about_the_container_of_that_very_name(action: str, told: Told | None) -> None:
    about = {"name": "ollama", "exitCode": "137"}
    assert readings.told_of({"Action": action, "Actor": {"Attributes": about}}, "ollama") == told
    assert readings.told_of({"Action": action, "Actor": {"Attributes": about}}, "olla") is None


@pytest.mark.parametrize(
    "event",
    [{}, {"Actor": None}, {"Actor": {"Attributes": []}}, {"Actor": {"Attributes": {"name": "ollama"}}}],
)
def test_an_event_without_its_parts_is_no_word(event: dict[str, Any]) -> None:
    assert readings.told_of(event, "ollama") is None
    event = {"Action": "die", "Actor": {"Attributes": {"name": "ollama", "exitCode": "many"}}}
    assert readings.told_of(event, "ollama") == Told(Happening.ENDED)
