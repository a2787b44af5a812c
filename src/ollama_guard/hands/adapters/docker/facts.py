"""What ``docker inspect`` says of one container, as far as `init` and `doctor` need it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ollama_guard.core.machine import ComposeFacts, ContainerFacts
from ollama_guard.core.said import listens_at
from ollama_guard.hands.adapters.foreign import count, listed, table, text, words

_COMPOSE = "com.docker.compose."
# Where the official image keeps its models (facts 6).
_HOME = "/root/.ollama"


def facts_of(inspected: Mapping[str, Any]) -> ContainerFacts:
    """The facts in an answer of ``GET /containers/ID/json``; what is missing or odd is left out."""
    config, host = table(inspected.get("Config")), table(inspected.get("HostConfig"))
    labels = {key: text(value) for key, value in table(config.get("Labels")).items()}
    environment = _environment(config.get("Env"))
    return ContainerFacts(
        id=text(inspected.get("Id")),
        name=text(inspected.get("Name")).removeprefix("/"),
        entrypoint=words(config.get("Entrypoint")),
        command=words(config.get("Cmd")),
        image=text(config.get("Image")),
        environment=environment,
        memory_limit_bytes=count(host.get("Memory")) or None,
        other_limits=any(count(host.get(key)) for key in ("NanoCpus", "CpuQuota", "PidsLimit")),
        published=_published(inspected, listens_at(environment.get("OLLAMA_HOST", ""))[1]),
        host_network=host.get("NetworkMode") == "host",
        auto_remove=host.get("AutoRemove") is True,
        authority=labels.get("ollama-guard.authority") == "server",
        models_source=_models_source(inspected.get("Mounts"), environment.get("OLLAMA_MODELS", "")),
        compose=_compose(labels),
    )


def _compose(labels: Mapping[str, str]) -> ComposeFacts | None:
    service, folder = labels.get(f"{_COMPOSE}service", ""), labels.get(f"{_COMPOSE}project.working_dir", "")
    files = tuple(file for file in labels.get(f"{_COMPOSE}project.config_files", "").split(",") if file)
    if not (service and folder.startswith("/") and files):
        return None
    return ComposeFacts(folder, files, service, labels.get(f"{_COMPOSE}version", ""))


def _published(inspected: Mapping[str, Any], port: int) -> tuple[str, ...]:
    """Where the host publishes this port: as it is now (that knows ``-P`` and defaults), else as asked."""
    now = table(table(inspected.get("NetworkSettings")).get("Ports"))
    asked = table(table(inspected.get("HostConfig")).get("PortBindings"))
    bindings = [table(binding) for binding in listed((now or asked).get(f"{port}/tcp"))]
    return tuple(map(_place, bindings))


def _place(binding: Mapping[str, Any]) -> str:
    address, port = text(binding.get("HostIp")) or "0.0.0.0", text(binding.get("HostPort"))  # noqa: S104
    named = f"[{address}]" if ":" in address else address
    return f"{named}:{port}" if port else named


def _models_source(mounts: object, said: str) -> str:
    """The host's folder of its model store, "" where that is on no mount; ``said``: its OLLAMA_MODELS."""
    store, source = said.rstrip("/") or f"{_HOME}/models", ""
    held = ((text(mount.get("Destination")).rstrip("/"), mount) for mount in map(table, listed(mounts)))
    for inside, mount in sorted(held, key=lambda pair: len(pair[0])):  # the deepest one holds it
        outside = text(mount.get("Source")).rstrip("/")
        if outside and inside and f"{store}/".startswith(f"{inside}/"):
            source = outside + store.removeprefix(inside)
    return source


def _environment(said: object) -> dict[str, str]:
    pairs = (line.partition("=") for line in words(said))
    return {key: value for key, separator, value in pairs if separator}
