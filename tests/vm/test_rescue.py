"""A real kill by the installed unit, under its own filter and with its one right."""

import json
import time

from beds.vm import Vm
from beds.vm_guard import READY_SECONDS, UNIT, cursor, events, restarts, wait_active, wait_event

RESCUES = 100


def ask(vm: Vm, model: str) -> str:
    """What a client that wants a model hears."""
    body = json.dumps({"model": model, "prompt": "hello", "stream": False, "keep_alive": "1h"})
    return vm.says(f"curl -s -m 60 http://127.0.0.1:11434/api/generate -d '{body}'", 90)


def test_loads_that_can_not_fit_are_killed_and_the_server_lives(vm: Vm) -> None:
    """Each is another user's process. After two the model is condemned, and the same news gets rarer."""
    wait_active(vm)
    vm.eventually(lambda: "answers" in str(events(vm, "ollama.found")), 120, "the guard knows Ollama")
    assert "done" in ask(vm, "small")
    before, since, server = restarts(vm), cursor(vm), vm.says("systemctl show -p MainPID ollama")
    began = time.monotonic()
    for number in range(RESCUES):
        assert "signal: killed" in ask(vm, "huge"), number
    took = time.monotonic() - began
    wait_event(vm, "blob.condemned", since)
    aborted = events(vm, "load.aborted", since)
    print(f"{RESCUES} rescues in {took:.0f} s; the first: {aborted[0]['MESSAGE']}")  # noqa: T201
    assert all(event["OLLAMA_GUARD_OUTCOME"] == "done" for event in aborted)
    assert restarts(vm) == before, "the guard itself was never restarted"
    assert vm.says("systemctl show -p MainPID ollama") == server, "nor was Ollama"
    assert '"small:latest"' in vm.says("curl -s http://127.0.0.1:11434/api/ps")
    assert vm.says("journalctl -q -k | grep -ci 'out of memory' || true") == "0"


def test_pressure_wakes_it_over_short_windows_where_it_has_the_right_to_them(vm: Vm) -> None:
    """CAP_SYS_RESOURCE by the drop-in; with the unit as it is the kernel grants whole two seconds."""

    def window() -> str:
        since = cursor(vm)
        vm.run(f"systemctl restart {UNIT}", READY_SECONDS)
        said = [event["MESSAGE"] for event in events(vm, "guard.tested", since)]
        return next(sentence for sentence in said if sentence.startswith("pressure wakes the guard"))

    assert window() == "pressure wakes the guard, over a window of 2 s"
    vm.run(
        f"install -D -m 644 -t /etc/systemd/system/{UNIT}.d /usr/share/ollama-guard/drop-ins/resource.conf"
        " && systemctl daemon-reload"
    )
    assert window() == "pressure wakes the guard, over a window of 0.5 s"
