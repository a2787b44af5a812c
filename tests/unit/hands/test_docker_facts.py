"""What is read out of ``docker inspect``."""

import pytest

from ollama_guard.core.machine import ComposeFacts
from ollama_guard.hands.adapters.docker.facts import facts_of

INSPECTED = {
    "Id": "a" * 64,
    "Name": "/llm_ollama_1",
    "Config": {
        "Image": "ollama/ollama:latest",
        "Entrypoint": ["/bin/ollama"],
        "Cmd": ["serve"],
        "Env": ["OLLAMA_HOST=0.0.0.0:11434", "OLLAMA_KEEP_ALIVE=-1", "BARE"],
        "Labels": {
            "com.docker.compose.service": "ollama",
            "com.docker.compose.project.working_dir": "/srv/llm",
            "com.docker.compose.project.config_files": "docker-compose.yml,gpu.yml",
            "com.docker.compose.version": "1.29.2",
            "ollama-guard.authority": "server",
        },
    },
    "HostConfig": {
        "Memory": 3221225472,
        "NetworkMode": "llm_default",
        "AutoRemove": False,
        "PortBindings": {"11434/tcp": [{"HostIp": "", "HostPort": "11434"}, {"HostIp": "127.0.0.1"}]},
    },
    "Mounts": [{"Source": "/var/lib/docker/volumes/llm/_data", "Destination": "/root/.ollama"}],
}


def test_a_container_of_composes_is_read() -> None:
    facts = facts_of(INSPECTED)
    assert (facts.name, facts.entrypoint, facts.command) == ("llm_ollama_1", ("/bin/ollama",), ("serve",))
    assert facts.compose == ComposeFacts("/srv/llm", ("docker-compose.yml", "gpu.yml"), "ollama", "1.29.2")
    assert facts.environment == {"OLLAMA_HOST": "0.0.0.0:11434", "OLLAMA_KEEP_ALIVE": "-1"}
    assert facts.published == ("0.0.0.0:11434", "127.0.0.1")
    assert facts.memory_limit_bytes == 3 * 1024**3
    assert facts.models_source == "/var/lib/docker/volumes/llm/_data/models"
    assert facts.authority
    assert (facts.host_network, facts.auto_remove) == (False, False)


@pytest.mark.parametrize(
    "odd", [{}, {"Config": None, "HostConfig": [], "Mounts": {}}, {"Config": {"Env": 7, "Labels": "x"}}]
)
def test_what_is_missing_or_odd_is_left_out(odd: dict[str, object]) -> None:
    facts = facts_of(odd)
    assert (facts.compose, facts.memory_limit_bytes, facts.environment) == (None, None, {})


@pytest.mark.parametrize(
    ("host", "limited"),
    [
        ({}, False),
        ({"NanoCpus": 0, "PidsLimit": None, "CpuQuota": 0}, False),
        ({"PidsLimit": -1}, False),
        ({"NanoCpus": 2_000_000_000}, True),
        ({"CpuQuota": 200_000}, True),
        ({"PidsLimit": 100}, True),
    ],
)
def test_other_limits_than_of_memory_are_seen(host: dict[str, object], limited: bool) -> None:  # noqa: FBT001
    assert facts_of({"HostConfig": host}).other_limits is limited


@pytest.mark.parametrize(
    ("said", "asked", "now", "published"),
    [
        (
            [],
            {"11434/tcp": [{"HostIp": "::", "HostPort": "80"}], "22/tcp": [{"HostIp": ""}]},
            {},
            ("[::]:80",),
        ),
        ([], {"8080/tcp": [{"HostIp": "", "HostPort": "8080"}]}, {"11434/tcp": None}, ()),
        (["OLLAMA_HOST=:8080"], {"8080/tcp": [{"HostIp": "1.2.3.4", "HostPort": "9"}]}, {}, ("1.2.3.4:9",)),
        ([], {}, {"11434/tcp": [{"HostIp": "9.9.9.9", "HostPort": "32768"}]}, ("9.9.9.9:32768",)),
        ([], {"11434/tcp": [{"HostIp": ""}]}, {"11434/tcp": [{"HostIp": "127.0.0.1"}]}, ("127.0.0.1",)),
        ([], {"11434/udp": [{"HostIp": ""}], "11434/tcp": 7}, {}, ()),
    ],
)
def test_only_where_ollamas_own_port_is_published_counts_and_as_it_is_now(
    said: list[str], asked: dict[str, object], now: dict[str, object], published: tuple[str, ...]
) -> None:
    """``-P`` is asked for nothing and publishes all; a daemon may bind to loopback by default."""
    facts = facts_of(
        {
            "Config": {"Env": said},
            "HostConfig": {"PortBindings": asked},
            "NetworkSettings": {"Ports": now},
        }
    )
    assert facts.published == published


@pytest.mark.parametrize(
    ("said", "mounts", "source"),
    [
        ("", {"/data": "/srv/data"}, ""),
        ("", {"/root/.ollama/models/": "/srv/m", "/root/.ollama": "/srv/o"}, "/srv/m"),
        ("", {"/root": "/srv/home/"}, "/srv/home/.ollama/models"),
        ("OLLAMA_MODELS=/data/m", {"/data": "/srv/data"}, "/srv/data/m"),
        ("OLLAMA_MODELS=/data/m", {"/root/.ollama": "/srv/o", "/data/more": "/x"}, ""),
    ],
)
def test_the_models_folder_is_found_on_whatever_mount_it_lies(
    said: str, mounts: dict[str, str], source: str
) -> None:
    held = [{"Destination": inside, "Source": outside} for inside, outside in mounts.items()]
    assert facts_of({"Config": {"Env": [said]}, "Mounts": held}).models_source == source


def test_a_plain_container_has_no_compose_project() -> None:
    labels = {"com.docker.compose.service": "ollama"}  # half of what compose writes
    assert facts_of({"Config": {"Labels": labels, "Entrypoint": "/bin/x"}}).compose is None
