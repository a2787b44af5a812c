"""What is wrong with the LiteLLM proxies in front of Ollama; part of `checkup`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from ollama_guard.core.checks import Check
from ollama_guard.core.finding import Finding, Severity
from ollama_guard.core.machine import Machine


def litellm(machine: Machine) -> Iterator[Finding]:
    """Keys that its owner believes in and LiteLLM does not read."""
    for proxy in machine.proxies:
        if not proxy.ignored:
            continue
        yield Finding(
            Check.LITELLM,
            f"LiteLLM (pid {proxy.pid}) ignores keys of {proxy.path}: {'; '.join(proxy.ignored)}",
            "a bound or a fallback that is written there and not read is not in force, and LiteLLM says"
            " nothing of it",
            "take those keys out, or write them where they are read, until it has nothing to say:"
            f" ollama-guard litellm check {shlex.quote(proxy.path)}; then start LiteLLM anew",
            Severity.ADVICE,
        )
