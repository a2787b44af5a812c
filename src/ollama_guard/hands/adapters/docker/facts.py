"""What ``docker inspect`` says of one container, as far as `init` and `doctor` need it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ollama_guard.core.machine import ComposeFacts, ContainerFacts

_COMPOSE = "com.docker.compose."
# Where the official image keeps its models (facts 6).
_HOME = "/root/.ollama"


def facts_of(inspected: Mapping[str, Any]) -> ContainerFacts:
    """The facts in an answer of ``GET /containers/ID/json``; what is missing or odd is left out."""
    config, host = _table(inspected.get("Config")), _table(inspected.get("HostConfig"))
    labels = {key: str(value) for key, value in _table(config.get("Labels")).items()}
    ports = [binding for bound in _table(host.get("PortBindings")).values() for binding in _list(bound)]
    return ContainerFacts(
        id=str(inspected.get("Id", "")),
        name=str(inspected.get("Name", "")).removeprefix("/"),
        entrypoint=_words(config.get("Entrypoint")),
        command=_words(config.get("Cmd")),
        image=str(config.get("Image", "")),
        environment=_environment(config.get("Env")),
        memory_limit_bytes=_positive(host.get("Memory")) or None,
        other_limits=any(_positive(host.get(key)) for key in ("NanoCpus", "CpuQuota", "PidsLimit")),
        published=tuple(str(_table(binding).get("HostIp") or "0.0.0.0") for binding in ports),  # noqa: S104
        host_network=host.get("NetworkMode") == "host",
        auto_remove=host.get("AutoRemove") is True,
        authority=labels.get("ollama-guard.authority") == "server",
        models_source=_models_source(inspected.get("Mounts")),
        compose=_compose(labels),
    )


def _compose(labels: Mapping[str, str]) -> ComposeFacts | None:
    service, folder = labels.get(f"{_COMPOSE}service", ""), labels.get(f"{_COMPOSE}project.working_dir", "")
    files = tuple(file for file in labels.get(f"{_COMPOSE}project.config_files", "").split(",") if file)
    if not (service and folder.startswith("/") and files):
        return None
    return ComposeFacts(folder, files, service, labels.get(f"{_COMPOSE}version", ""))


def _models_source(mounts: object) -> str:
    """The host's folder of the image's model store, "" where it is not on a mount of its own."""
    for mount in map(_table, _list(mounts)):
        inside, source = str(mount.get("Destination", "")).rstrip("/"), str(mount.get("Source", ""))
        if source and inside in (_HOME, f"{_HOME}/models"):
            return source if inside.endswith("/models") else f"{source.rstrip('/')}/models"
    return ""


def _environment(said: object) -> dict[str, str]:
    pairs = (str(line).partition("=") for line in _list(said))
    return {key: value for key, separator, value in pairs if separator}


def _positive(said: object) -> int:
    return said if isinstance(said, int) and said > 0 else 0


def _words(said: object) -> tuple[str, ...]:
    return (said,) if isinstance(said, str) else tuple(str(word) for word in _list(said))


def _table(said: object) -> Mapping[str, Any]:
    return said if isinstance(said, dict) else {}


def _list(said: object) -> Sequence[Any]:
    return said if isinstance(said, list) else []
