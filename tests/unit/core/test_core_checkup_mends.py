"""What a mend tells, done as it is told, mends: the finding is gone, and no other has come for it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest

from ollama_guard.core.checks import Check
from ollama_guard.core.checkup import examine
from ollama_guard.core.checkup_guard import GuardFacts
from ollama_guard.core.finding import Finding, place, restart, set_environment, stop
from ollama_guard.core.kernelfacts import Kernel, Swap
from ollama_guard.core.machine import (
    NO_BOUND_BYTES,
    ComposeFacts,
    ContainerFacts,
    Drift,
    Installed,
    Machine,
    Server,
    UnitFacts,
)
from ollama_guard.core.mending import set_limit
from ollama_guard.core.policy import GIB, MIB, Policy
from ollama_guard.core.runtime import RuntimeKind
from ollama_guard.core.tiers import Tier

MODELS = (
    Installed(("small:latest",), 1 * GIB, 32 * 1024, 131072),
    Installed(("wide:latest",), 2 * GIB, 192 * 1024, 131072),
    Installed(("large:latest",), 3 * GIB, 64 * 1024, 131072),
)
WELL_SET = {"OLLAMA_HOST": "127.0.0.1:11434", "OLLAMA_MAX_LOADED_MODELS": "1", "LLAMA_ARG_CACHE_RAM": "256"}
UNIT = Server(
    100, RuntimeKind.SYSTEMD, "ollama.service", "/system.slice/ollama.service", "ollama", WELL_SET,
    UnitFacts("ollama.service", "continue"), limit_bytes=6 * GIB, swap_limited=True, swap_allowed_bytes=0,
    cgroup_version=2, cgroup_directory="/sys/fs/cgroup/system.slice/ollama.service", limit_seen=True,
)  # fmt: skip
COMPOSED = ContainerFacts(
    "a" * 64, "box", published=("127.0.0.1:11434",), memory_limit_bytes=6 * GIB, models_source="/srv/m",
    compose=ComposeFacts("/srv/llm", ("/srv/llm/a.yml", "/srv/llm/b.yml"), "llm", "2.20.0"),
)  # fmt: skip
BOX = replace(UNIT, kind=RuntimeKind.DOCKER, name="a" * 64, unit=None, container=COMPOSED, user="root")
PLAIN_BOX = replace(BOX, container=replace(COMPOSED, compose=None))
PROCESS = replace(UNIT, kind=RuntimeKind.PROCESS, name="", unit=None, cgroup="/own")
SERVERS = {
    "unit": UNIT,
    "unit-v1": replace(UNIT, cgroup_version=1),
    "compose": BOX,
    "docker-run": PLAIN_BOX,
    "compose-v1": replace(BOX, cgroup_version=1),
    "process": PROCESS,
    "process-v1": replace(PROCESS, cgroup_version=1),
}
MACHINE = Machine(
    8 * GIB, swap_bytes=2 * GIB, url="http://127.0.0.1:11434", version="0.33.0", models=MODELS,
    kernel=Kernel("6.1.0", 0, "madvise", "madvise", swaps=(Swap("/dev/nvme0n1p2", 2 * GIB),)),
)  # fmt: skip
SLOW = replace(MACHINE.kernel, swaps=(Swap("/dev/sda2", 2 * GIB, slow="a rotating disk"),))
ZRAM = replace(MACHINE.kernel, swaps=(Swap("/dev/zram0", 2 * GIB, zram=True),))
GUARD = GuardFacts(answers=True, status_age_seconds=1.0, may_kill=True)
TIER = Policy(tiers=(Tier("mid", "large", memory_bytes=4 * GIB),))


def said(server: Server, **environment: str) -> Server:
    return replace(server, environment={**(server.environment or {}), **environment})


def limited(server: Server, limit_bytes: int | None, swap_bytes: int = 0) -> Server:
    container = server.container and replace(server.container, memory_limit_bytes=limit_bytes)
    return replace(server, limit_bytes=limit_bytes, swap_allowed_bytes=swap_bytes, container=container)


def bad(server: Server) -> Iterator[tuple[Check, Server, Machine, Policy]]:
    """A server with each fault that a line of its own mends."""
    swapping = limited(server, server.limit_bytes, NO_BOUND_BYTES)
    yield Check.MAX_VRAM, said(server, OLLAMA_MAX_VRAM="2048000000"), MACHINE, Policy()
    yield Check.MAX_QUEUE, said(server, OLLAMA_MAX_QUEUE="0"), MACHINE, Policy()
    yield Check.MAX_QUEUE, said(server, OLLAMA_MAX_QUEUE="3"), MACHINE, Policy()
    yield Check.MAX_LOADED, said(server, OLLAMA_MAX_LOADED_MODELS=""), MACHINE, Policy()
    yield Check.PROMPT_CACHE, said(server, LLAMA_ARG_CACHE_RAM=""), MACHINE, Policy()
    yield Check.PARALLEL, said(server, OLLAMA_NUM_PARALLEL="4"), MACHINE, Policy()
    yield Check.PARALLEL, said(server, OLLAMA_CONTEXT_LENGTH="65536"), MACHINE, Policy()
    both = said(server, OLLAMA_NUM_PARALLEL="4", OLLAMA_CONTEXT_LENGTH="65536")
    yield Check.PARALLEL, both, MACHINE, Policy()
    yield Check.KEEP_ALIVE, said(server, OLLAMA_KEEP_ALIVE="-1"), MACHINE, Policy()
    yield Check.KEEP_ALIVE_GARBAGE, said(server, OLLAMA_KEEP_ALIVE="1d"), MACHINE, Policy()
    yield Check.LIMIT, limited(server, 16 * GIB), MACHINE, Policy()
    if server.kind is RuntimeKind.DOCKER or (
        server.kind is RuntimeKind.SYSTEMD and server.cgroup_version == 2
    ):
        yield Check.LIMIT, limited(server, 16 * GIB, NO_BOUND_BYTES), MACHINE, Policy()  # one line for both
    yield Check.TIER_LIMIT, limited(server, 4 * GIB), replace(MACHINE, models=()), TIER
    yield Check.SWAP_UNBOUNDED, swapping, MACHINE, Policy()
    yield Check.SWAP_UNBOUNDED, limited(server, GIB, GIB), replace(MACHINE, models=()), Policy()
    yield Check.SWAP_SLOW, limited(swapping, 6 * GIB, 1), replace(MACHINE, kernel=SLOW), Policy()
    yield Check.ZRAM, limited(swapping, 6 * GIB, 1), replace(MACHINE, kernel=ZRAM), Policy()
    if server.kind is RuntimeKind.DOCKER:
        free = limited(server, None, NO_BOUND_BYTES)
        yield Check.NO_LIMIT, free, MACHINE, Policy()
        bound = replace(MACHINE, kernel=SLOW)
        yield Check.SWAP_SLOW, free, bound, Policy()
    else:
        free = limited(server, None, NO_BOUND_BYTES)
        yield Check.SWAP_SLOW, free, replace(MACHINE, kernel=SLOW), Policy()
        yield Check.EXPOSED, said(server, OLLAMA_HOST="0.0.0.0"), MACHINE, Policy()  # noqa: S104


EACH = [
    pytest.param(*case, id=f"{name}-{case[0]}-{number}")
    for name, server in SERVERS.items()
    for number, case in enumerate(bad(server))
]


def done(server: Server, finding: Finding) -> Server:
    """The server after what was told, taken out of the sentence as a person would."""
    mend = finding.mend
    told = re.findall(r'\b((?:OLLAMA|LLAMA_ARG)_[A-Z_]+)(?:=|: ")([^\s";]+)', mend)
    environment = {**(server.environment or {}), **dict(told)}
    if mend.startswith("take the line out of "):
        key = re.findall(r"\b(OLLAMA_[A-Z_]+)=", finding.what)[0]
        assert environment.pop(key)
    server = replace(server, environment=environment)
    memory = r"(?:\bmem_limit: |\bMemoryMax=|--memory |\becho )(\d+)([mM]?)\b(?! > \S*(?:swap|memsw))"
    for number, unit in re.findall(memory, mend):
        limit = int(number) * (MIB if unit else 1)
        # What Docker adds unasked is as much swap again.
        swap = limit if server.container else server.swap_allowed_bytes
        server = limited(server, limit, swap or 0)
    both = r"(?:memswap_limit: |--memory-swap |\becho (?=\w+ > \S*memory\.memsw))(\d+)([mM]?)\b"
    for number, unit in re.findall(both, mend):
        bytes_ = int(number) * (MIB if unit else 1)
        assert server.limit_bytes is not None
        assert bytes_ >= server.limit_bytes, "less than the limit of memory is refused"
        server = replace(server, swap_allowed_bytes=bytes_ - server.limit_bytes)
    if "MemorySwapMax=0" in mend or re.search(r"echo 0 > \S+/memory\.swap\.max", mend):
        server = replace(server, swap_allowed_bytes=0)
    return server


@pytest.mark.parametrize(("check", "server", "machine", "policy"), EACH)
def test_what_is_told_mends_it_and_breaks_nothing(
    check: Check, server: Server, machine: Machine, policy: Policy
) -> None:
    before = examine(replace(machine, servers=(server,)), GUARD, policy)
    (finding,) = [found for found in before if found.check is check]
    mended = done(server, finding)
    assert mended != server, finding.mend
    after = examine(replace(machine, servers=(mended,)), GUARD, policy)
    assert {found.check for found in after} <= {found.check for found in before} - {check}, finding.mend


# --- what is said besides, for those for whom a line alone would not do ----------------------------------


@pytest.mark.parametrize(
    ("container", "warned"),
    [
        (COMPOSED, False),
        (replace(COMPOSED, models_source=""), True),
        (replace(COMPOSED, models_source="", compose=None), True),
        (replace(COMPOSED, models_source=f"/var/lib/docker/volumes/{'b' * 64}/_data/models"), False),
        (replace(COMPOSED, models_source=f"/d/volumes/{'b' * 64}/_data/models", compose=None), True),
        (replace(COMPOSED, models_source="/d/volumes/models/_data", compose=None), False),
        (None, True),
    ],
)
def test_who_would_lose_the_models_with_the_container_is_told_before(
    container: ContainerFacts | None,
    warned: bool,  # noqa: FBT001
) -> None:
    box = replace(BOX, container=container, drift=(Drift("OLLAMA_KEEP_ALIVE", "5m", ""),))
    name = "box" if container else "a" * 12
    told = restart(box)
    assert ("its models are lost with the old container, unless" in told) == warned
    assert (f"docker inspect -f '{{{{.Mounts}}}}' {name}" in told) == warned
    assert (f"docker cp {name}:/root/.ollama ." in told) == warned
    assert told in set_environment(box, "OLLAMA_KEEP_ALIVE", "5m")
    assert told in examine(replace(MACHINE, servers=(box,)), GUARD, Policy())[-1].mend


def test_the_models_are_copied_from_where_they_are() -> None:
    box = said(replace(BOX, container=None), OLLAMA_MODELS="/my models")
    assert f"docker cp {'a' * 12}:'/my models' ." in restart(box)


def test_a_container_that_goes_with_its_stop_is_not_stopped_unwarned() -> None:
    assert stop(BOX) == "docker stop box"
    once = replace(BOX, container=replace(COMPOSED, auto_remove=True))
    assert stop(once).startswith("docker stop box (it was started with --rm: that deletes the container, and")
    assert stop(once).endswith("Copy them first: docker cp box:/root/.ollama .)")


def test_a_file_of_variables_that_would_win_over_the_line_is_named() -> None:
    files = ("/etc/default/ollama", "/var/lib/ollama-guard/env/ollama.env")
    unit = replace(UNIT, unit=UnitFacts("ollama.service", files=("/lib/o.service",), environment_files=files))
    assert set_environment(unit, "OLLAMA_MAX_QUEUE", "64") == (
        "Environment=OLLAMA_MAX_QUEUE=64 under [Service] (systemctl edit ollama.service); a line"
        " OLLAMA_MAX_QUEUE= in /etc/default/ollama would win over it: take that out, then: systemctl"
        " daemon-reload && systemctl restart ollama.service"
    )
    assert "take that out" not in set_environment(UNIT, "OLLAMA_MAX_QUEUE", "64")
    shown = "(systemctl cat ollama.service shows them: /lib/o.service, /etc/default/ollama)"
    assert place(unit) == f"the unit's files {shown}"


def test_of_several_compose_files_the_last_has_the_value_and_the_first_the_ports() -> None:
    assert "under services.llm.environment in /srv/llm/b.yml, then: " in set_environment(BOX, "A", "1")
    assert "under services.llm in /srv/llm/b.yml" in set_limit(BOX, GIB)
    assert place(BOX) == "services.llm.environment in /srv/llm/a.yml or /srv/llm/b.yml"
    open_box = replace(BOX, container=replace(COMPOSED, published=("0.0.0.0:11434",)))
    (finding,) = examine(replace(MACHINE, servers=(open_box,)), GUARD, Policy())
    assert "under services.llm.ports in /srv/llm/a.yml, then: " in finding.mend


def test_a_stack_whose_file_is_elsewhere_is_edited_there() -> None:
    compose = ComposeFacts("/data/compose/5", ("/data/compose/5/docker-compose.yml",), "llm", readable=False)
    box = replace(BOX, container=replace(COMPOSED, compose=compose))
    assert set_environment(box, "OLLAMA_MAX_QUEUE", "64") == (
        'OLLAMA_MAX_QUEUE: "64" under services.llm.environment of its stack, where that is kept (Portainer:'
        " its web page), then: deploy the stack anew there"
    )


def test_a_limit_that_may_stand_among_the_deploys_is_told_with_its_place() -> None:
    known = "(where the service has deploy.resources.limits: memory: 5120m among them, no mem_limit)"
    unlimited = replace(COMPOSED, memory_limit_bytes=None)
    for facts in (COMPOSED, replace(unlimited, other_limits=True)):
        assert known in set_limit(replace(BOX, container=facts), 5 * GIB)
    assert "deploy" not in set_limit(replace(BOX, container=unlimited), 5 * GIB)


def test_swap_that_a_kernel_does_not_count_is_counted_first() -> None:
    uncounted = replace(SERVERS["compose-v1"], swap_limited=False, swap_allowed_bytes=None, limit_bytes=None)
    found = examine(replace(MACHINE, servers=(uncounted,), kernel=SLOW), GUARD, Policy())
    (finding,) = [one for one in found if one.check is Check.SWAP_SLOW]
    assert finding.mend.startswith("swapaccount=1 on the kernel's command line")
    assert "cmdline.txt" in finding.mend


def test_where_no_memory_can_be_bounded_the_kernel_has_to_learn_it_first() -> None:
    """A Raspberry Pi is started so; Docker then throws every limit away."""
    free = limited(BOX, None, NO_BOUND_BYTES)
    for kernel in (replace(SLOW, memory_cgroups=False), replace(ZRAM, memory_cgroups=False)):
        found = examine(replace(MACHINE, servers=(free,), kernel=kernel), GUARD, Policy())
        assert len(found) == 2
        for finding in found:
            assert finding.mend.startswith("cgroup_enable=memory on the kernel's command line"), finding.mend
            assert "cmdline.txt below /boot" in finding.mend
    at_root = replace(PROCESS, cgroup="/", swap_allowed_bytes=None)
    unbounded = replace(MACHINE, servers=(at_root,), kernel=replace(SLOW, memory_cgroups=False))
    assert examine(unbounded, GUARD, Policy())[0].mend.startswith("swapoff /dev/sda2")


def test_a_card_of_a_raspberry_pi_is_told_its_own_service() -> None:
    card = replace(MACHINE.kernel, swaps=(Swap("/var/swap", 2 * GIB, slow="an SD card"),))
    bare = replace(PROCESS, cgroup="/", swap_allowed_bytes=None)
    (finding,) = examine(replace(MACHINE, servers=(bare,), kernel=card), GUARD, Policy())
    assert (
        "swapoff /var/swap, and, so that it stays off: systemctl disable --now dphys-swapfile" in finding.mend
    )
