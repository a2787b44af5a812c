"""Whom the kernel may take first when memory is at its end all the same: runners, which load again."""

from __future__ import annotations

from ollama_guard.core.decide import mode_of
from ollama_guard.core.model import Mode, RunnerReading, Snapshot
from ollama_guard.core.policy import Policy, Protect
from ollama_guard.core.state import Durable

OOM_SCORE_ADJ = 500
"""By how many thousandths of the machine's memory a runner counts as larger to the kernel's OOM killer.

Above what a desktop gives its own programs (systemd's user services 100 to 200, a browser's tabs 300), and
low enough that a program that has taken more than half of the memory is still taken before a small runner.
"""


def expendable(policy: Policy, durable: Durable, snapshot: Snapshot) -> tuple[RunnerReading, ...]:
    """The proven runners that are to die first; none while the guard may only look.

    What the owner protects ``always`` is not among them, nor anything while it can't be told what it is.
    """
    if not policy.runners_die_first or mode_of(policy, durable, snapshot.now) is not Mode.ENFORCE:
        return ()
    names = {entry.blob: entry.names for entry in snapshot.catalogue}
    anything = not any(rule.protect is Protect.ALWAYS for rule in policy.models.values())
    return tuple(
        runner
        for runner in snapshot.runners
        if runner.proven and (anything or _is_free(policy, names.get(runner.blob or "")))
    )


def _is_free(policy: Policy, names: tuple[str, ...] | None) -> bool:
    return names is not None and policy.rule_of(names).protect is not Protect.ALWAYS
