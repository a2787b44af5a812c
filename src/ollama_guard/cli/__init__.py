"""The commands; the only place that wires everything together.

One file per group of commands. A command does no thinking of its own: it reads, asks, and shows. What a
command needs is imported when it runs, so that ``--help`` and ``run`` are quick.
"""

from ollama_guard.cli.app import main

__all__ = ["main"]
