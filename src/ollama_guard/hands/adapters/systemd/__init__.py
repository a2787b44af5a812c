"""systemd over D-Bus, without a fork: exactly one unit is ever named in a call.

What belongs here: the calls, the judgement of every answer, what may be done to a unit and why not.
What must not: when to do it, threads.
"""

from ollama_guard.hands.adapters.systemd.adapter import SystemdRuntime

__all__ = ["SystemdRuntime"]
