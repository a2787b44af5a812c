"""What ``docker inspect`` says of one container, as far as `init` and `doctor` need it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ollama_guard.core.machine import ComposeFacts, ContainerFacts
from ollama_guard.hands.adapters.foreign import count, listed, table, text, words

_COMPOSE = "com.docker.compose."
# Where the official image keeps its models (facts 6).
_HOME = "/root/.ollama"


def facts_of(inspected: Mapping[str, Any]) -> ContainerFacts:
    """The facts in an answer of ``GET /containers/ID/json``; what is missing or odd is left out."""
    config, host = table(inspected.get("Config")), table(inspected.get("HostConfig"))
    labels = {key: text(value) for key, value in table(config.get("Labels")).items()}
    ports = [binding for bound in table(host.get("PortBindings")).values() for binding in listed(bound)]
    return ContainerFacts(
        id=text(inspected.get("Id")),
        name=text(inspected.get("Name")).removeprefix("/"),
        entrypoint=words(config.get("Entrypoint")),
        command=words(config.get("Cmd")),
        image=text(config.get("Image")),
        environment=_environment(config.get("Env")),
        memory_limit_bytes=count(host.get("Memory")) or None,
        other_limits=any(count(host.get(key)) for key in ("NanoCpus", "CpuQuota", "PidsLimit")),
        published=tuple(text(table(binding).get("HostIp")) or "0.0.0.0" for binding in ports),  # noqa: S104
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
    for mount in map(table, listed(mounts)):
        inside, source = text(mount.get("Destination")).rstrip("/"), text(mount.get("Source"))
        if source and inside in (_HOME, f"{_HOME}/models"):
            return source if inside.endswith("/models") else f"{source.rstrip('/')}/models"
    return ""


def _environment(said: object) -> dict[str, str]:
    pairs = (line.partition("=") for line in words(said))
    return {key: value for key, separator, value in pairs if separator}
