"""Compilers that can't end: they are killed, and cost nothing while they hang."""

from typing import Any

from ollama_guard.sentinel.poller import Poller
from ollama_guard.sentinel.reload import Reload


class Stuck:
    """A compiler in the kernel, which no signal reaches until ``over``."""

    def __init__(self) -> None:
        self.signals = 0
        self.over = self.reaped = False

    def exited(self) -> bool:
        """Whether the kernel has let it go."""
        return self.over

    def signal(self, _: int) -> None:
        """One more that it does not get."""
        self.signals += 1

    def reap(self) -> str:
        """Its end."""
        self.reaped = True
        return "killed"


def test_one_that_can_not_end_is_looked_at_once_a_second_never_at_once_again() -> None:
    """Its past deadline made the loop look at it without a pause: a whole core for as long as it hung."""
    poller, stuck = Poller(), Stuck()
    reload = Reload(poller, ("/bin/false",), lambda *_: None)
    late: Any = (stuck, 5.0)
    reload._late.append(late)
    reload.keep(4.0)
    assert (reload.next_look_at(), stuck.signals) == (5.0, 0)
    reload.keep(5.0)
    assert (reload.next_look_at(), stuck.signals) == (6.0, 1)
    reload.keep(5.5)
    assert (reload.next_look_at(), stuck.signals) == (6.0, 1)
    reload.keep(9.0)
    assert (reload.next_look_at(), stuck.signals) == (10.0, 2)
    stuck.over = True
    reload.keep(10.0)
    assert (reload.next_look_at(), stuck.reaped) == (None, True)
    poller.close()
