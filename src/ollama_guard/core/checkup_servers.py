"""What is wrong with how Ollama itself is set up; part of `checkup`."""

from __future__ import annotations

from collections.abc import Iterator

from ollama_guard.core.checks import Check
from ollama_guard.core.finding import (
    Finding,
    Severity,
    place,
    publish_locally,
    restart,
    set_environment,
    set_in_unit,
    stop,
)
from ollama_guard.core.machine import Machine, Server
from ollama_guard.core.policy import PlaybookPolicy
from ollama_guard.core.runtime import RuntimeKind
from ollama_guard.core.said import (
    has_prompt_cache,
    keep_alive_seconds,
    listens_at,
    open_to_all,
    pins_for_ever,
)
from ollama_guard.core.sizing import UNBOUNDED_CACHE_MIB, cache_mib
from ollama_guard.core.units import bytes_text

# Requests that may wait for a model: an editor with completion on sends several at once, and a retry is one
# more. Seven are few for one person; from eight on it may be meant.
LEAST_QUEUE = 8
_DOCKERS_ADDRESS = "for those use the address of docker0 (ip -4 addr show docker0) instead of 127.0.0.1"


def oom_policy(machine: Machine) -> Iterator[Finding]:
    """A unit that systemd stops as a whole when the kernel kills one runner (facts 2.8)."""
    for server in machine.servers:
        if server.unit is None or server.unit.oom_policy == "continue" or server.cgroup_version == 1:
            continue  # systemd watches for such kills on cgroup v2 alone
        said = (
            f"OOMPolicy={server.unit.oom_policy}"
            if server.unit.oom_policy
            else "no OOMPolicy, which means stop"
        )
        yield Finding(
            Check.OOM_POLICY,
            f"{server.name} has {said}",
            "when the kernel kills one model's process, systemd stops the whole service: every other model"
            " and every running answer is lost",
            set_in_unit(server, "OOMPolicy=continue"),
        )


def exposed(machine: Machine) -> Iterator[Finding]:
    """A server that every address of the machine reaches (facts 1.1)."""
    for server in machine.servers:
        how, mend = _exposure(server)
        if how:
            yield Finding(
                Check.EXPOSED,
                f"{server.title} {how}: every address of this machine",
                "Ollama knows no passwords: whoever reaches it can load models until memory is gone,"
                " delete them, and pull others",
                mend,
            )


def _exposure(server: Server) -> tuple[str, str]:
    """(how everybody reaches it, what mends that); a container is reached by what is published of it."""
    container = server.container
    if container is not None and not container.host_network:
        places = [place for place in map(listens_at, container.published) if open_to_all(place[0])]
        if not places:
            return "", ""
        (address, port), (_, inside) = places[0], listens_at(container.environment.get("OLLAMA_HOST", ""))
        others = (
            "; containers on its own network need no published port; others, and other machines, lose it:"
            f" {_DOCKERS_ADDRESS}, or a firewall (ufw does not see published ports: DOCKER-USER does)"
        )
        return f"publishes its port on {address}:{port}", f"{publish_locally(server, port, inside)}{others}"
    address, port = listens_at(server.says("OLLAMA_HOST"))
    unknown = server.kind is RuntimeKind.DOCKER and container is None
    if unknown or server.own_network or not open_to_all(address):
        return "", ""
    others = f"; clients in containers or on other machines lose it: {_DOCKERS_ADDRESS}, or a firewall"
    mend = set_environment(server, "OLLAMA_HOST", f"127.0.0.1:{port}")
    return f"listens on {address}:{port}", f"{mend}{others}"


def max_vram(machine: Machine) -> Iterator[Finding]:
    """The dead setting that guides still recommend (facts 2.6)."""
    for server in machine.servers:
        said = server.says("OLLAMA_MAX_VRAM")
        if said:
            yield Finding(
                Check.MAX_VRAM,
                f"{server.title} has OLLAMA_MAX_VRAM={said}, which does nothing",
                "Ollama has not read it since 0.2.8, and it never limited the machine's memory: whoever set"
                " it believes in a bound that is not there",
                f"take the line out of {place(server)}, then: {restart(server)}",
                Severity.ADVICE,
            )


def prompt_cache(machine: Machine) -> Iterator[Finding]:
    """Runners that may take 8 GiB beside their weights (facts 3.3)."""
    if not has_prompt_cache(machine.version):
        return
    for server in machine.servers:
        if server.environment is None:
            continue
        said = server.says("LLAMA_ARG_CACHE_RAM")
        bound = _number(said.strip("\"'"))
        if bound is not None and bound < UNBOUNDED_CACHE_MIB:
            continue
        yield Finding(
            Check.PROMPT_CACHE,
            f"the prompt cache of {server.title} is not bounded"
            + (f" (LLAMA_ARG_CACHE_RAM={said})" if said else f" (Ollama {machine.version})"),
            f"each loaded model may take up to {UNBOUNDED_CACHE_MIB} MiB beside its weights on a machine of"
            f" {bytes_text(machine.total_bytes)}; `ollama ps` does not show it, and only an unload frees it",
            set_environment(server, "LLAMA_ARG_CACHE_RAM", str(cache_mib(machine.capacity_bytes))),
        )


def keep_alive(machine: Machine) -> Iterator[Finding]:
    """Models that stay loaded for ever, or for a time that nobody wrote (facts 1.6)."""
    for server in machine.servers:
        said = server.says("OLLAMA_KEEP_ALIVE")
        if not said.strip("\"'"):
            continue
        mend = set_environment(server, "OLLAMA_KEEP_ALIVE", "5m")
        if keep_alive_seconds(said) is None:
            yield Finding(
                Check.KEEP_ALIVE_GARBAGE,
                f"{server.title} has OLLAMA_KEEP_ALIVE={said}, which is neither a number of seconds nor a"
                " duration such as 30s, 5m or 24h",
                "Ollama takes 5 minutes instead and says nothing: models stay longer, or go sooner, than"
                " was meant",
                mend,
                Severity.ADVICE,
            )
        elif pins_for_ever(said):
            yield Finding(
                Check.KEEP_ALIVE,
                f"{server.title} has OLLAMA_KEEP_ALIVE={said}: a model that was asked for once stays loaded"
                " for ever",
                "its memory comes back only when another model is loaded or the guard takes it; the"
                " default is 5 minutes",
                mend,
                Severity.ADVICE,
            )


def max_queue(machine: Machine) -> Iterator[Finding]:
    """A queue that locks the scheduler up, or that a handful of clients fills (facts 2.5)."""
    for server in machine.servers:
        said = server.says("OLLAMA_MAX_QUEUE").strip("\"'")
        places = _number(said)
        if places is None or places >= LEAST_QUEUE:
            continue  # what is no such number is the default, 512
        none = places == 0
        yield Finding(
            Check.MAX_QUEUE,
            f"{server.title} has OLLAMA_MAX_QUEUE={said}",
            "with 0 its scheduler waits for itself as soon as a model is let go: nothing is answered any"
            " more until it is restarted"
            if none
            else f"as soon as more than {said} requests wait for a model, each further one gets an error"
            " (503)",
            set_environment(server, "OLLAMA_MAX_QUEUE", str(PlaybookPolicy().max_queue)),
            Severity.SERIOUS if none else Severity.ADVICE,
        )


def _number(said: str) -> int | None:
    """A whole number from 0 on, None for anything else; of many digits the first nine are enough."""
    if not (said.isascii() and said.isdigit()):
        return None
    return int(said.lstrip("0")[:9] or "0")


def drift(machine: Machine) -> Iterator[Finding]:
    """What was written and is not in force."""
    for server in machine.servers:
        if not server.drift:
            continue
        file = "its unit" if server.kind is RuntimeKind.SYSTEMD else "its compose file"
        said = ", ".join(
            f"{one.key}={one.written} where it runs with {one.running or 'none'}" for one in server.drift
        )
        yield Finding(
            Check.ENVIRONMENT_DRIFT,
            f"{file} says of {server.title} what is not in force: {said}",
            "Ollama reads its environment at its start alone: what was written since bounds nothing yet",
            restart(server),
            Severity.ADVICE,
        )


def several(machine: Machine) -> Iterator[Finding]:
    """More than one server, each with its own copy of a model."""
    if len(machine.servers) < 2:
        return
    named = ", ".join(f"{server.title} (pid {server.pid})" for server in machine.servers)
    yield Finding(
        Check.TWO_SERVERS,
        f"{len(machine.servers)} Ollama servers run here: {named}",
        "each loads its own copy of a model and knows nothing of the other's memory; only the one behind"
        " [ollama] url can be asked to unload",
        f"stop one of them: {stop(machine.servers[-1])}",
    )
