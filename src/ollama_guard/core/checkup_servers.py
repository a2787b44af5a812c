"""What is wrong with how Ollama itself is set up; part of `checkup`."""

from __future__ import annotations

from collections.abc import Iterator

from ollama_guard.core.finding import Finding, place, set_environment, set_in_unit
from ollama_guard.core.machine import Machine, has_prompt_cache, listens_at, open_to_all, pins_for_ever
from ollama_guard.core.runtime import RuntimeKind
from ollama_guard.core.sizing import UNBOUNDED_CACHE_MIB, cache_mib
from ollama_guard.core.units import bytes_text


def oom_policy(machine: Machine) -> Iterator[Finding]:
    """A unit that systemd stops as a whole when the kernel kills one runner (facts 2.8)."""
    for server in machine.servers:
        if server.unit is None or server.unit.oom_policy == "continue":
            continue
        said = (
            f"OOMPolicy={server.unit.oom_policy}"
            if server.unit.oom_policy
            else "no OOMPolicy, which means stop"
        )
        yield Finding(
            "oom_policy",
            f"{server.name} has {said}",
            "when the kernel kills one model's process, systemd stops the whole service: every other model"
            " and every"
            " running answer is lost",
            set_in_unit(server, "OOMPolicy=continue"),
        )


def exposed(machine: Machine) -> Iterator[Finding]:
    """A server that every address of the machine reaches (facts 1.1)."""
    for server in machine.servers:
        container = server.container
        if container is not None and not container.host_network:
            everywhere = [address for address in container.published if open_to_all(address)]
            how = f"publishes its port on {everywhere[0]}" if everywhere else ""
            mend = (
                f'ports: ["127.0.0.1:{_port(machine)}:11434"] in its compose file (docker run -p 127.0.0.1:…)'
            )
        elif server.kind is RuntimeKind.DOCKER and container is None:
            continue
        else:
            address, port = listens_at(server.says("OLLAMA_HOST"))
            how = f"listens on {address}:{port}" if open_to_all(address) else ""
            mend = set_environment(server, "OLLAMA_HOST", f"127.0.0.1:{port}")
        if how:
            yield Finding(
                "exposed",
                f"{server.title} {how}: every address of this machine",
                "Ollama knows no passwords: whoever reaches it can load models until memory is gone, delete"
                " them, and"
                " pull others",
                f"{mend}; or keep it and let a firewall say who may reach it",
            )


def _port(machine: Machine) -> str:
    return machine.url.rpartition(":")[2] or "11434"


def max_vram(machine: Machine) -> Iterator[Finding]:
    """The dead setting that guides still recommend (facts 2.6)."""
    for server in machine.servers:
        said = server.says("OLLAMA_MAX_VRAM")
        if said:
            yield Finding(
                "max_vram",
                f"{server.title} has OLLAMA_MAX_VRAM={said}, which does nothing",
                "Ollama has not read it since 0.2.8, and it never limited the machine's memory: whoever set"
                " it believes"
                " in a bound that is not there",
                f"take it out of {place(server)}; OLLAMA_MAX_LOADED_MODELS and LLAMA_ARG_CACHE_RAM are what"
                " bounds it",
            )


def prompt_cache(machine: Machine) -> Iterator[Finding]:
    """Runners that may take 8 GiB beside their weights (facts 3.3)."""
    if not has_prompt_cache(machine.version):
        return
    for server in machine.servers:
        if server.environment is None:
            continue
        said = server.says("LLAMA_ARG_CACHE_RAM")
        if said and not said.startswith("-"):
            continue
        yield Finding(
            "prompt_cache",
            f"the prompt cache of {server.title} is not bounded"
            + (f" (LLAMA_ARG_CACHE_RAM={said})" if said else f" (Ollama {machine.version})"),
            f"each loaded model may take up to {UNBOUNDED_CACHE_MIB} MiB beside its weights on a machine of"
            f" {bytes_text(machine.total_bytes)}; `ollama ps` does not show it, and only an unload frees it",
            set_environment(server, "LLAMA_ARG_CACHE_RAM", str(cache_mib(machine.capacity_bytes))),
        )


def keep_alive(machine: Machine) -> Iterator[Finding]:
    """Models that stay loaded for ever (facts 1.6)."""
    for server in machine.servers:
        said = server.says("OLLAMA_KEEP_ALIVE")
        if pins_for_ever(said):
            yield Finding(
                "keep_alive",
                f"{server.title} has OLLAMA_KEEP_ALIVE={said}: a model that was asked for once stays loaded"
                " for ever",
                "its memory comes back only when another model is loaded or the guard takes it; the default"
                " is 5"
                " minutes",
                set_environment(server, "OLLAMA_KEEP_ALIVE", "5m"),
            )
