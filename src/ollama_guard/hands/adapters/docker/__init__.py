"""Docker, rootful and rootless, by its SDK (about 7 MiB of memory: import it where a server is run that way).

What belongs here: the calls, the judgement of every answer, what may be done to a container and why not.
What must not: when to do it, threads.
"""

from ollama_guard.hands.adapters.docker.adapter import DockerRuntime

__all__ = ["DockerRuntime"]
