"""The beds: real surroundings for tests, built on the machine that runs them.

What belongs here: whatever makes a test's surroundings real (an Ollama server, a memory-limited cgroup, a
small host, programs that eat memory or ask questions). What must not: assertions, and anything of
`ollama_guard`. A bed that can't be had here raises `BedUnavailable` with a sentence that says why.
"""

__all__ = ["BedUnavailable"]


class BedUnavailable(Exception):
    """This machine can't provide the bed; the message says why, in one sentence."""
