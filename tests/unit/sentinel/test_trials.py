"""Who could not be killed is told when it is found, not when the kill is needed."""

import os

from ollama_guard.core.model import HOST, ApiReading, DomainReading, RunnerReading, ServerReading, Snapshot
from ollama_guard.sentinel.trials import Trials
from unit.sentinel.rights import without_rights


def view(servers: tuple[int, ...] = (), runners: tuple[tuple[int, int | None], ...] = ()) -> Snapshot:
    """What the sensors say: servers by PID, proven runners by PID and their server's."""
    return Snapshot(
        now=1.0,
        wall=0.0,
        domains=(DomainReading(HOST, 4, 2),),
        servers=tuple(ServerReading(pid, 7, 0, None, "said so") for pid in servers),
        runners=tuple(
            RunnerReading(pid, 7, 0.0, server, proven=True, proof="said so") for pid, server in runners
        ),
        api=ApiReading(),
    )


def trials(another: str = "") -> Trials:
    """Trials for which everybody is still the same, or ``another``."""
    return Trials(lambda *_: another, lambda *_: another)


def test_a_server_that_can_not_be_signalled_is_told_once() -> None:
    tried = trials()
    with without_rights():
        (told,) = tried.follow(view(servers=(1,)))
        assert tried.follow(view(servers=(1,))) == []
        assert tried.follow(view(servers=(1,), runners=((1, 1),))) == [], "once per server"
    assert (told.name, told.fields) == ("guard.tested", {"subject": "kill", "may": False})
    assert (
        "process 1, a server of Ollama, can't be killed from here (Operation not permitted)" in told.message
    )
    assert "CAP_KILL" in told.message


def test_a_runner_of_another_server_or_of_none_is_told_for_itself() -> None:
    tried = trials()
    with without_rights():
        assert len(tried.follow(view(servers=(1,)))) == 1
        assert len(tried.follow(view(servers=(1,), runners=((1, None),)))) == 0, "tried already"
    with without_rights():
        (told,) = trials().follow(view(runners=((1, None),)))
    assert "a runner of Ollama" in told.message


def test_one_of_our_own_one_that_is_gone_and_another_one_by_now_are_no_news() -> None:
    gone = 2**22 + 1  # above every pid_max
    assert trials().follow(view(servers=(os.getpid(), gone))) == []
    with without_rights():
        assert trials("another one now").follow(view(servers=(1,))) == []


def test_a_server_that_comes_again_is_tried_again() -> None:
    tried = trials()
    with without_rights():
        assert len(tried.follow(view(servers=(1,)))) == 1
        assert tried.follow(view()) == []
        assert len(tried.follow(view(servers=(1,)))) == 1
