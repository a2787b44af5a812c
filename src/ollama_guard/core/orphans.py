"""Runners whose server is gone: nobody can ask them any more, and they keep their memory (facts 2.7).

A container or a unit takes its processes along; where Ollama runs by hand the guard has to. Ollama's API does
not know them, so it can't be asked to unload them, and their model's next load would be short of their room.
"""

from __future__ import annotations

from ollama_guard.core import victims
from ollama_guard.core.model import Activity, Preference
from ollama_guard.core.runners import Runner
from ollama_guard.core.scene import Scene, killable

# Idle for so long (seconds) it has ended what it was asked before its server went. The answer has nobody to
# go to, but a moment's rest between two tokens must not be taken for the end.
IDLE_SECONDS = 10.0


def find(scene: Scene) -> Runner | None:
    """The orphan to be ended next, the largest first, or None."""
    found = [
        runner
        for runner in scene.runners
        if runner.is_orphan
        and runner.activity is Activity.IDLE
        and runner.idle_seconds >= IDLE_SECONDS
        and runner.rule.preference is not Preference.OMIT
        and killable(runner)
        and not victims.mercy_seconds(scene, runner)
    ]
    return max(found, key=lambda runner: runner.memory_bytes, default=None)
