"""What the file may say about the keep_alive governor (`settings.tables` says where the texts go)."""

from __future__ import annotations

from typing import Annotated

from ollama_guard.core.policy import GovernorPolicy
from ollama_guard.settings import values
from ollama_guard.settings.tables import Table
from ollama_guard.settings.values import duration

DEFAULT = GovernorPolicy()


class GovernorTable(Table):
    """How long an idle model may stay while memory is short, whatever keep_alive its clients asked for.

    While all is calm nothing is touched: a model stays for as long as its last client said, be it for ever.
    From soft on it is unloaded once nobody has asked for it for so long. A model that is at work is never
    touched, nor one with `preference = "omit"`; one with `"avoid"` may stay twice as long. One that is asked
    for again soon after it was let go may stay longer each time, up to 5 min. No model is ever loaded for it.
    """

    enabled: Annotated[bool, values.SWITCH] = DEFAULT.enabled
    """Whether the guard sets a bound at all. Without it a model that a client keeps for ever goes only when
    its memory is needed."""
    max_keep_alive: Annotated[float, duration(5, 86400)] = DEFAULT.max_keep_alive_seconds
    """The longest at soft, counted from the last request, or from when memory became short if that was
    later; a third of it at hard, and a tenth at critical."""

    @property
    def core(self) -> GovernorPolicy:
        """The table as the brain knows it."""
        return GovernorPolicy(self.enabled, self.max_keep_alive)
