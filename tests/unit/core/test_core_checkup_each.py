"""Every finding, one by one: what makes it appear, alone, and what makes it go."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pytest

from ollama_guard.core.checks import ABOUT, Check
from ollama_guard.core.checkup import examine
from ollama_guard.core.checkup_guard import GuardFacts
from ollama_guard.core.finding import Finding
from ollama_guard.core.kernelfacts import Kernel, Swap
from ollama_guard.core.machine import (
    NO_BOUND_BYTES,
    ComposeFacts,
    ContainerFacts,
    Drift,
    Installed,
    Machine,
    Proxy,
    Reloads,
    Running,
    Server,
    UnitFacts,
)
from ollama_guard.core.policy import GIB, MIB, Authority, Policy, Threshold
from ollama_guard.core.runtime import RuntimeKind
from ollama_guard.core.tiers import Tier

SMALL = Installed(("small:latest",), 1 * GIB, 32 * 1024, 131072)
LARGE = Installed(("large:latest",), 3 * GIB, 128 * 1024, 131072)
HUGE = Installed(("huge:latest",), 12 * GIB, 128 * 1024, 131072)
ENVIRONMENT = {
    "OLLAMA_HOST": "127.0.0.1:11434",
    "OLLAMA_KEEP_ALIVE": "5m",
    "OLLAMA_MAX_LOADED_MODELS": "1",
    "LLAMA_ARG_CACHE_RAM": "256",
}
UNIT = Server(
    100,
    RuntimeKind.SYSTEMD,
    "ollama.service",
    "/system.slice/ollama.service",
    "ollama",
    ENVIRONMENT,
    UnitFacts("ollama.service", oom_policy="continue"),
    limit_bytes=6 * GIB,
    swap_limited=True,
    swap_allowed_bytes=0,
    limit_seen=False,
    cgroup_version=2,
    cgroup_directory="/sys/fs/cgroup/system.slice/ollama.service",
)
FACTS = ContainerFacts(
    "a" * 64,
    "box",
    published=("127.0.0.1:11434",),
    models_source="/srv/models",
    compose=ComposeFacts("/srv/llm", ("/srv/llm/docker-compose.yml",), "llm", "2.20.0"),
)
CONTAINER = replace(
    UNIT,
    kind=RuntimeKind.DOCKER,
    name="a" * 64,
    cgroup=f"/docker/{'a' * 64}",
    user="root",
    unit=None,
    environment={**ENVIRONMENT, "OLLAMA_HOST": "0.0.0.0:11434"},
    limit_seen=True,
    container=FACTS,
)
KERNEL = Kernel(
    "6.1.0-28-amd64",
    0,
    "always",
    "madvise",
    None,
    None,
    (Swap("/dev/sda2", 2 * GIB, slow="a rotating disk"),),
)
WELL = Machine(
    8 * GIB,
    swap_bytes=2 * GIB,
    servers=(UNIT,),
    url="http://127.0.0.1:11434",
    version="0.33.0",
    models=(SMALL, LARGE),
    kernel=KERNEL,
    runners=(Running(7, "small:latest", 1200 * MIB, 1150 * MIB),),
)
GUARD = GuardFacts(
    answers=True, status_age_seconds=1.0, locked_limit_bytes=2**63 - 1, user="ollama-guard", may_kill=True
)


@dataclass(frozen=True)
class Case:
    """A machine on which one finding is made; each of ``mended`` is one on which it is gone."""

    machine: Machine = WELL
    guard: GuardFacts = GUARD
    policy: Policy = field(default_factory=Policy)
    severity: str = "serious"
    mend: str = ""
    mended: tuple[Machine | GuardFacts | Policy, ...] = (WELL,)

    def found(self, instead: Machine | GuardFacts | Policy | None = None) -> list[Finding]:
        """What is found, with one of the three exchanged."""
        machine = instead if isinstance(instead, Machine) else self.machine
        guard = instead if isinstance(instead, GuardFacts) else self.guard
        policy = instead if isinstance(instead, Policy) else self.policy
        return list(examine(machine, guard, policy))


def served(*servers: Server, **changes: object) -> Machine:
    return replace(WELL, servers=servers, **changes)  # type: ignore[arg-type]


def unit(machine: Machine = WELL, **changes: object) -> Machine:
    return replace(machine, servers=(replace(UNIT, **changes),))  # type: ignore[arg-type]


def container(**changes: object) -> Machine:
    return replace(WELL, servers=(replace(CONTAINER, **changes),))  # type: ignore[arg-type]


def says(machine: Machine = WELL, **environment: str) -> Machine:
    server = machine.servers[0]
    said = {**(server.environment or {}), **environment}
    return replace(machine, servers=(replace(server, environment={k: v for k, v in said.items() if v}),))


def kernel(**changes: object) -> Machine:
    return replace(WELL, kernel=replace(KERNEL, **changes))  # type: ignore[arg-type]


SWAPPING = unit(limit_bytes=None, swap_allowed_bytes=NO_BOUND_BYTES)
ZRAM = (Swap("/dev/zram0", 2 * GIB, zram=True),)
TIERS = Policy(tiers=(Tier("light", "small"), Tier("fallback", "large", memory_bytes=6 * GIB)))
CASES: Mapping[Check, tuple[Case, ...]] = {
    Check.CONFIG: (
        Case(
            guard=replace(GUARD, config_problems=("a.toml, line 1: x",)), mended=(GUARD,), mend="check-config"
        ),
    ),
    Check.UNREADABLE: (
        Case(guard=replace(GUARD, unreadable="/etc/x.toml"), mended=(GUARD,), mend="chmod 640 /etc/x.toml"),
    ),
    Check.GUARD: (
        Case(guard=GuardFacts(answers=False), mended=(GUARD,), mend="systemctl enable --now ollama-guard"),
        Case(
            guard=GuardFacts(answers=None, status_age_seconds=61.0),
            mended=(GuardFacts(answers=None, status_age_seconds=59.0),),
            mend="systemctl restart ollama-guard",
        ),
    ),
    Check.AUTHORITY: (
        Case(
            guard=replace(GUARD, would="it is frozen"),
            mended=(GUARD, replace(GUARD, would="it is frozen", authority=Authority.SERVER)),
            mend='authority = "server" under [ollama]',
        ),
    ),
    Check.RIGHTS: (
        Case(
            guard=replace(
                GUARD, authority=Authority.SERVER, cannot="polkit does not let this user stop ollama.service"
            ),
            mended=(
                GUARD,
                replace(GUARD, cannot="polkit does not let this user stop ollama.service"),
                replace(GUARD, authority=Authority.SERVER, cannot="ollama.service is masked"),
            ),
            mend="install the guard's polkit rule (/usr/share/polkit-1/rules.d/50-ollama-guard.rules); for a",
        ),
        Case(
            guard=replace(GUARD, may_kill=False),
            mended=(
                GUARD,
                replace(GUARD, may_kill=None),
                replace(GUARD, may_kill=False, user="ollama"),
            ),
            mend="AmbientCapabilities=CAP_KILL and CapabilityBoundingSet=CAP_KILL under [Service]",
        ),
        Case(
            container(),
            replace(GUARD, authority=Authority.SERVER, reaches_docker=False),
            mended=(
                GUARD,
                replace(GUARD, reaches_docker=False),
                replace(GUARD, authority=Authority.SERVER, reaches_docker=None),
            ),
            mend="SupplementaryGroups=docker under [Service] (systemctl edit ollama-guard)",
        ),
    ),
    Check.MEMLOCK: (
        Case(
            guard=replace(GUARD, locked_limit_bytes=8 * MIB),
            severity="advice",
            mend="LimitMEMLOCK=infinity",
            mended=(GUARD, replace(GUARD, locked_limit_bytes=None)),
        ),
    ),
    Check.GROUPS: (
        Case(
            guard=replace(GUARD, missing_groups=("ollama-guard",)),
            severity="advice",
            mended=(GUARD,),
            mend="systemd-sysusers ollama-guard.conf",
        ),
        Case(
            guard=replace(GUARD, socket_groups={"control.sock": "root"}),
            severity="advice",
            mended=(replace(GUARD, socket_groups={"control.sock": "ollama-guard-admin"}),),
        ),
    ),
    Check.TWO_SERVERS: (Case(served(UNIT, CONTAINER), mend="docker stop box"),),
    Check.ORPHANS: (
        Case(
            replace(WELL, runners=(Running(4711, "small:latest", GIB, orphan=True),)),
            mend="kill 4711",
            mended=(WELL, replace(WELL, runners=())),
        ),
    ),
    Check.EXPOSED: (
        Case(
            says(OLLAMA_HOST="0.0.0.0"),  # noqa: S104
            mend="Environment=OLLAMA_HOST=127.0.0.1:11434",
            mended=(WELL, says(unit(own_network=True), OLLAMA_HOST="0.0.0.0")),  # noqa: S104
        ),
        Case(says(OLLAMA_HOST=":8080"), mend="Environment=OLLAMA_HOST=127.0.0.1:8080"),
        Case(
            container(container=replace(FACTS, published=("127.0.0.1:1", "0.0.0.0:11500"))),
            mended=(container(),),
            mend='- "127.0.0.1:11500:11434" instead of the old line under services.llm.ports in'
            " /srv/llm/docker-compose.yml, then: cd /srv/llm && docker compose up -d llm; containers on",
        ),
        Case(
            container(
                container=replace(
                    FACTS, published=("[::]:80",), environment={"OLLAMA_HOST": ":8080"}, compose=None
                )
            ),
            mended=(container(),),
            mend="-p 127.0.0.1:80:8080 instead of the old -p among the options of its docker run; make",
        ),
    ),
    Check.OOM_POLICY: (
        Case(
            unit(unit=UnitFacts("ollama.service")),
            mend="OOMPolicy=continue under [Service] (systemctl edit",
            mended=(WELL, unit(unit=UnitFacts("ollama.service"), cgroup_version=1)),
        ),
    ),
    Check.NO_LIMIT: (
        Case(
            container(limit_bytes=None),
            mended=(
                container(),
                container(limit_bytes=None, container=None),
                unit(limit_bytes=None),
                replace(container(limit_bytes=None), total_bytes=GIB, models=()),
            ),
            mend="mem_limit: 5529m and memswap_limit: 5529m under services.llm in /srv/llm/docker-",
        ),
        Case(
            container(limit_bytes=None, container=ContainerFacts("a" * 64, "box; x", published=("::1",))),
            mended=(container(),),
            mend="docker update --memory 5529m --memory-swap 5529m 'box; x'",
        ),
    ),
    Check.LIMIT: (
        Case(
            container(limit_bytes=16 * GIB),
            mend="mem_limit: 5529m",
            mended=(container(), replace(container(limit_bytes=16 * GIB), total_bytes=GIB, models=())),
        ),
        Case(
            unit(limit_bytes=9 * GIB),
            mend="MemoryMax=5529M and MemorySwapMax=0 under [Service]",
            mended=(unit(),),
        ),
        Case(
            unit(limit_bytes=9 * GIB),
            policy=replace(Policy(), host=replace(Policy().host, soft=Threshold(0.5))),
            mend="MemoryMax=3072M and MemorySwapMax=0 under [Service]",
            mended=(unit(),),
        ),
    ),
    Check.TIER_LIMIT: (
        Case(
            container(limit_bytes=4 * GIB),
            policy=replace(TIERS, tiers=(Tier("mid", "large", memory_bytes=4 * GIB),)),
            mended=(
                Policy(),
                container(limit_bytes=5 * GIB),
                replace(TIERS, tiers=(Tier("x", "not there"),)),
            ),
            mend="mem_limit: 4864m and memswap_limit: 4864m",
        ),
        Case(policy=TIERS, mended=(Policy(),), mend='[[tiers]] table with name = "fallback"'),
    ),
    Check.UNSEEN_LIMIT: (
        Case(
            says(OLLAMA_MAX_LOADED_MODELS="2", LLAMA_ARG_CACHE_RAM="1024"),
            severity="advice",
            mended=(WELL, unit(says(), limit_seen=True), unit(limit_bytes=None)),
            mend="Environment=OLLAMA_MAX_LOADED_MODELS=1",
        ),
        Case(
            replace(says(OLLAMA_MAX_LOADED_MODELS=""), version="0.24.0", models=(LARGE, SMALL, SMALL)),
            mended=(WELL, replace(says(OLLAMA_MAX_LOADED_MODELS=""), version="0.24.0", models=(SMALL,))),
        ),
    ),
    Check.MEMORY_HIGH: (
        Case(
            replace(unit(high_bytes=5 * GIB), kernel=replace(KERNEL, release="5.4.0-150-generic")),
            mended=(unit(high_bytes=5 * GIB), kernel(release="5.4.0-150-generic"), kernel(release="")),
            mend="MemoryHigh=infinity under [Service]",
        ),
    ),
    Check.SWAP_UNBOUNDED: (
        Case(
            replace(unit(swap_allowed_bytes=NO_BOUND_BYTES), kernel=replace(KERNEL, swaps=())),
            mended=(
                unit(),
                replace(unit(swap_allowed_bytes=GIB, limit_bytes=None), kernel=replace(KERNEL, swaps=())),
                replace(unit(swap_allowed_bytes=GIB), kernel=replace(KERNEL, swaps=())),
                replace(
                    unit(swap_allowed_bytes=NO_BOUND_BYTES), swap_bytes=0, kernel=replace(KERNEL, swaps=())
                ),
            ),
            mend="MemorySwapMax=0 under [Service]",
        ),
        Case(
            replace(container(swap_allowed_bytes=NO_BOUND_BYTES), kernel=replace(KERNEL, swaps=())),
            mended=(container(),),
            mend="memswap_limit: 6144m under services.llm in /srv/llm/docker-compose.yml",
        ),
        Case(
            replace(
                container(limit_bytes=GIB, swap_allowed_bytes=GIB),
                models=(),
                kernel=replace(KERNEL, swaps=()),
            ),
            mended=(
                replace(
                    container(limit_bytes=GIB, swap_allowed_bytes=GIB - 1),
                    models=(),
                    kernel=replace(KERNEL, swaps=()),
                ),
            ),
            mend="memswap_limit: 1024m under services.llm",
        ),
    ),
    Check.SWAP_ACCOUNTING: (
        Case(
            replace(unit(swap_limited=False), kernel=replace(KERNEL, swaps=())),
            mended=(unit(), replace(unit(swap_limited=False), swap_bytes=0)),
            mend="swapaccount=1",
        ),
    ),
    Check.MAX_LOADED: (
        Case(
            says(unit(limit_bytes=None), OLLAMA_MAX_LOADED_MODELS="", LLAMA_ARG_CACHE_RAM="1024"),
            mended=(
                WELL,
                replace(says(OLLAMA_MAX_LOADED_MODELS=""), models=(SMALL,)),
                replace(says(unit(limit_bytes=None), OLLAMA_MAX_LOADED_MODELS="0"), version="0.24.0"),
                says(unit(limit_bytes=None, gpu=True), OLLAMA_MAX_LOADED_MODELS=""),
            ),
            mend="Environment=OLLAMA_MAX_LOADED_MODELS=1 under [Service]",
        ),
    ),
    Check.PROMPT_CACHE: (
        Case(
            says(LLAMA_ARG_CACHE_RAM="", OLLAMA_MAX_LOADED_MODELS="1"),
            mended=(WELL, replace(says(LLAMA_ARG_CACHE_RAM=""), version="0.24.0")),
            mend="Environment=LLAMA_ARG_CACHE_RAM=192 under [Service]",
        ),
        Case(says(LLAMA_ARG_CACHE_RAM="-1"), mended=(says(LLAMA_ARG_CACHE_RAM="0"),)),
    ),
    Check.PARALLEL: (
        Case(
            says(OLLAMA_NUM_PARALLEL="4"),
            severity="advice",
            mended=(WELL, says(OLLAMA_NUM_PARALLEL="1")),
            mend="Environment=OLLAMA_NUM_PARALLEL=1",
        ),
        Case(
            says(OLLAMA_CONTEXT_LENGTH="32768"),
            mended=(says(OLLAMA_CONTEXT_LENGTH="4096"),),
            mend="Environment=OLLAMA_CONTEXT_LENGTH=8192",
        ),
        Case(
            says(OLLAMA_NUM_PARALLEL="4"),
            severity="advice",
            mended=(
                says(OLLAMA_NUM_PARALLEL="4", OLLAMA_KV_CACHE_TYPE="q8_0"),
                replace(says(OLLAMA_NUM_PARALLEL="4"), models=(SMALL, replace(LARGE, embeds=True))),
            ),
        ),
    ),
    Check.MAX_QUEUE: (
        Case(says(OLLAMA_MAX_QUEUE="0"), mend="Environment=OLLAMA_MAX_QUEUE=64"),
        Case(
            says(OLLAMA_MAX_QUEUE="2"),
            severity="advice",
            mended=(says(OLLAMA_MAX_QUEUE="8"), says(OLLAMA_MAX_QUEUE="-1"), says(OLLAMA_MAX_QUEUE="few")),
        ),
    ),
    Check.KEEP_ALIVE: (
        Case(says(OLLAMA_KEEP_ALIVE="-1"), severity="advice", mend="Environment=OLLAMA_KEEP_ALIVE=5m"),
    ),
    Check.KEEP_ALIVE_GARBAGE: (
        Case(
            says(OLLAMA_KEEP_ALIVE="1d"),
            severity="advice",
            mend="Environment=OLLAMA_KEEP_ALIVE=5m",
            mended=tuple(says(OLLAMA_KEEP_ALIVE=said) for said in ("24h", "0", "300", "1h30m", '"5m"', '""')),
        ),
    ),
    Check.MAX_VRAM: (
        Case(
            says(OLLAMA_MAX_VRAM="2048000000"),
            severity="advice",
            mend="take the line out of the unit's files (systemctl cat ollama.service shows them)",
        ),
    ),
    Check.ENVIRONMENT_DRIFT: (
        Case(
            unit(drift=(Drift("OLLAMA_KEEP_ALIVE", "30s", "5m"),)),
            severity="advice",
            mend="systemctl daemon-reload && systemctl restart ollama.service",
        ),
        Case(
            container(drift=(Drift("OLLAMA_KEEP_ALIVE", "30s", ""),)),
            severity="advice",
            mended=(container(),),
            mend="cd /srv/llm && docker compose up -d llm",
        ),
    ),
    Check.NEVER_FITS: (
        Case(
            replace(WELL, models=(SMALL, HUGE)),
            mend="ollama-guard quarantine add huge:latest",
            mended=(
                WELL,
                replace(unit(gpu=True), models=(SMALL, HUGE)),
                replace(
                    WELL,
                    models=(replace(HUGE, names=("quarantine.registry.ollama.ai/library/huge:latest",)),),
                ),
            ),
        ),
    ),
    Check.RUNNER_MEMORY: (
        Case(
            replace(WELL, runners=(Running(7, "small:latest", 4 * GIB, GIB, name="small:latest"),)),
            mended=(
                WELL,
                replace(WELL, runners=(Running(7, "small:latest", 4 * GIB),)),
                says(
                    replace(WELL, runners=(Running(7, "small:latest", 4 * GIB, GIB),)),
                    LLAMA_ARG_CACHE_RAM="2600",
                ),
            ),
            mend="ollama stop small:latest",
        ),
    ),
    Check.RELOAD_THRASH: (
        Case(
            replace(WELL, reloads=(Reloads("small:latest", (2048, 8192), (5, 4), (6, 4)),)),
            severity="advice",
            mended=tuple(
                replace(WELL, reloads=(reloads,))
                for reloads in (
                    Reloads("a", (2048, 8192), (2, 4), (2, 4)),
                    Reloads("b", (2048, 8192), (5, 4), (90, 40)),
                    Reloads("c", (2048, 8192), (5, 1), (6, 1)),
                )
            ),
            mend="Environment=OLLAMA_CONTEXT_LENGTH=8192",
        ),
    ),
    Check.ALIASES: (
        Case(
            replace(WELL, models=(replace(SMALL, names=("gpt-4:latest", "small:1b")), LARGE)),
            severity="advice",
            mended=(
                WELL,
                replace(
                    WELL,
                    models=(
                        replace(SMALL, names=("small:1b", "quarantine.registry.ollama.ai/library/s:1b")),
                    ),
                ),
            ),
            mend="nothing, if that is meant; but give all of them the same num_ctx (what each adds: ollama"
            " show --modelfile small:1b; ollama show --modelfile gpt-4:latest)",
        ),
    ),
    Check.SWAP_SLOW: (
        Case(
            SWAPPING,
            severity="advice",
            mend="MemorySwapMax=0 under [Service]",
            mended=(WELL, replace(SWAPPING, kernel=replace(KERNEL, swaps=(Swap("/dev/nvme0n1p2", GIB),)))),
        ),
        Case(
            unit(
                SWAPPING,
                kind=RuntimeKind.PROCESS,
                unit=None,
                cgroup="/",
                limit_bytes=None,
                swap_allowed_bytes=None,
            ),
            severity="advice",
            mend="swapoff /dev/sda2, and, so that it stays off: # before its line in /etc/fstab",
        ),
    ),
    Check.ZRAM: (
        Case(
            replace(SWAPPING, kernel=replace(KERNEL, swaps=ZRAM)),
            severity="advice",
            mended=(WELL, kernel(swaps=ZRAM)),
            mend="MemorySwapMax=0 under [Service]",
        ),
        Case(
            replace(
                unit(
                    kind=RuntimeKind.PROCESS, unit=None, cgroup="/", limit_bytes=None, swap_allowed_bytes=None
                ),
                kernel=replace(KERNEL, swaps=ZRAM),
            ),
            severity="advice",
            mend="swapoff /dev/zram0, and, so that it stays off: touch /etc/systemd/zram-generator.conf (Fed",
        ),
    ),
    Check.ZFS_ARC: (
        Case(
            kernel(arc_bytes=GIB, arc_max_bytes=4 * GIB),
            severity="advice",
            mended=(WELL, kernel(arc_bytes=GIB, arc_max_bytes=2 * GIB)),
            mend="options zfs zfs_arc_max=1073741824 in /etc/modprobe.d/zfs.conf",
        ),
    ),
    Check.OVERCOMMIT: (
        Case(
            kernel(overcommit=2),
            mend="vm.overcommit_memory = 0 where it is set now (grep -rs overcommit_memory /etc/sysctl.conf",
        ),
        Case(
            kernel(overcommit=1),
            severity="advice",
            mend="; Redis asks for 1: where one runs here, leave it",
            mended=(kernel(overcommit=0), kernel(overcommit=None)),
        ),
    ),
    Check.THP: (
        Case(
            kernel(thp_defrag="always"),
            severity="advice",
            mended=(WELL, kernel(thp="madvise", thp_defrag="always")),
            mend="w /sys/kernel/mm/transparent_hugepage/defrag - - - - madvise in /etc/tmpfiles.d/90-",
        ),
    ),
    Check.PSI: (
        Case(
            replace(WELL, psi=False),
            severity="advice",
            mend="grubby --update-kernel=ALL --args=psi=1",
            mended=(WELL, replace(kernel(release="4.19.0-26-amd64"), psi=False)),
        ),
    ),
    Check.LITELLM: (
        Case(
            replace(WELL, proxies=(Proxy(9, "/etc/lite llm.yaml", ("line 3: nobody reads it",)),)),
            severity="advice",
            mended=(WELL, replace(WELL, proxies=(Proxy(9, "/etc/litellm.yaml"),))),
            mend="ollama-guard litellm check '/etc/lite llm.yaml'; then start LiteLLM anew",
        ),
    ),
}
EACH = [
    pytest.param(check, case, id=f"{check}-{n}")
    for check, cases in CASES.items()
    for n, case in enumerate(cases)
]


# What stands in a text for a name of the reader's.
PLACEHOLDER = re.compile(r"(?:FILE|MODEL|NAME|PID)\b.*")


@pytest.mark.parametrize("check", list(Check))
def test_the_line_that_people_read_of_is_the_line_that_is_told(check: Check) -> None:
    """docs/doctor.md is made from `ABOUT`: its first line, up to a name, is in the mend of a finding."""
    lines = re.findall(r"`([^`]+)`", ABOUT[check].mend)
    mends = [finding.mend for case in CASES[check] for finding in case.found()]
    assert not lines or any(PLACEHOLDER.sub("", lines[0]) in mend for mend in mends), mends


def test_every_finding_is_told_of_and_tried() -> None:
    assert set(CASES) == set(ABOUT) == set(Check)


@pytest.mark.parametrize(("check", "case"), EACH)
def test_it_appears_alone_with_its_mend(check: Check, case: Case) -> None:
    (finding,) = case.found()
    assert finding.check is check
    assert finding.severity == case.severity
    assert case.severity in ABOUT[check].severity
    assert case.mend in finding.mend
    assert all(len(text) > 8 for text in (finding.what, finding.why, finding.mend))


@pytest.mark.parametrize(("check", "case"), EACH)
def test_it_goes_and_nothing_else_comes(check: Check, case: Case) -> None:
    for mended in case.mended:
        assert case.found(mended) == [], (check, mended)
