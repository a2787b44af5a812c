"""What `doctor` must know of how a server is run: whose network it has, and where its stack is kept."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ollama_guard.cli.guard_facts import cannot
from ollama_guard.cli.runby import own_network, with_files
from ollama_guard.core.checkup_guard import GuardFacts, rights
from ollama_guard.core.machine import ComposeFacts, ContainerFacts, Machine, Server
from ollama_guard.core.plan import view
from ollama_guard.core.policy import GIB, Authority
from ollama_guard.core.runtime import RuntimeKind
from ollama_guard.hands.adapters.systemd.readings import denied
from ollama_guard.testing.scenario import World
from ollama_guard.testing.served import Served

FACTS = ContainerFacts("a" * 64, "box", compose=ComposeFacts("/srv/llm", ("a.yml", "/etc/b.yml"), "llm"))


@pytest.fixture
def apart() -> Iterator[int]:
    """A process in a network of its own."""
    unshare = shutil.which("unshare")
    if unshare is None or os.geteuid() != 0:
        pytest.skip("only root can make a network, with unshare")
    argv = [unshare, "--net", "sh", "-c", "echo; exec sleep 60"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        said = process.stdout.read(1)
        try:
            if not said:
                pytest.skip("no network can be made here")
            yield process.pid
        finally:
            process.kill()


def test_a_process_in_a_network_of_its_own_is_told_from_one_in_ours(apart: int) -> None:
    assert own_network(apart)
    assert not own_network(os.getpid())
    assert not own_network(2**22 + 1), "of one that is gone nothing is said"


def test_a_stack_whose_file_is_not_on_this_machine_is_kept_elsewhere(tmp_path: Path) -> None:
    facts = with_files(FACTS, tmp_path)
    assert facts is not None
    assert facts.compose is not None
    assert not facts.compose.readable
    (tmp_path / "srv/llm").mkdir(parents=True)
    (tmp_path / "srv/llm/a.yml").write_text("services: {}\n")
    assert with_files(FACTS, tmp_path) == FACTS


def test_without_a_stack_there_is_nothing_to_look_for(tmp_path: Path) -> None:
    plain = ContainerFacts("a" * 64, "box")
    assert with_files(plain, tmp_path) is plain
    assert with_files(None, tmp_path) is None


def test_a_unit_that_polkit_keeps_from_the_guard_is_told_by_its_playbooks_and_found() -> None:
    served = Served()
    unit = Server(1, RuntimeKind.SYSTEMD, served.reading.name)
    for reading, found in ((served.reading, 0), (denied(served.reading), 1)):
        served.reading = reading
        world = World(served=served)
        told = cannot(view(world.policy, world.state, world.snapshot()))
        facts = GuardFacts(authority=Authority.SERVER, cannot=told)
        assert len(list(rights(Machine(GIB, servers=(unit,)), facts))) == found, told
