"""Which adapter drives which runtime; each is imported when the first server is run that way.

The Docker library takes 7 MiB, so a machine without Docker never loads it.
"""

from __future__ import annotations

from pathlib import Path

from ollama_guard.core.policy import OllamaPolicy
from ollama_guard.core.runtime import RuntimeKind
from ollama_guard.hands.environment import EnvironmentFile
from ollama_guard.hands.looking import PortOf
from ollama_guard.hands.remembered import RememberedLimits, this_boot
from ollama_guard.hands.runtimes import PortsOf
from ollama_guard.ports import RuntimePort


def runtime_ports(state_dir: Path) -> PortsOf:
    """What makes the ports of a policy; they keep the limits of before in the state directory."""
    book, environment = RememberedLimits(state_dir), EnvironmentFile(state_dir).path

    def ports_of(policy: OllamaPolicy) -> PortOf:
        made: dict[RuntimeKind, RuntimePort] = {}

        def port_of(kind: RuntimeKind) -> RuntimePort:
            if kind not in made:
                made[kind] = make(kind, policy)
            return made[kind]

        return port_of

    def make(kind: RuntimeKind, policy: OllamaPolicy) -> RuntimePort:
        match kind:
            case RuntimeKind.DOCKER:
                from ollama_guard.hands.adapters.docker import DockerRuntime  # noqa: PLC0415

                return DockerRuntime(policy.docker_host, environment.parent, book)
            case RuntimeKind.SYSTEMD:
                from ollama_guard.hands.adapters.systemd import SystemdRuntime  # noqa: PLC0415

                return SystemdRuntime(environment, book, this_boot())
            case RuntimeKind.PROCESS:
                from ollama_guard.hands.adapters.process import ProcessRuntime  # noqa: PLC0415

                return ProcessRuntime()

    return ports_of
