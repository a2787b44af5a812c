"""Each misconfiguration is found where it is, with its reason and its remedy, and nowhere else."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from ollama_guard.core.checkup import examine
from ollama_guard.core.checkup_guard import GuardFacts
from ollama_guard.core.finding import Finding
from ollama_guard.core.machine import ContainerFacts, Machine, Server, UnitFacts
from ollama_guard.core.policy import GIB, MIB, Authority, Policy
from ollama_guard.core.runtime import RuntimeKind

GOOD = {"LLAMA_ARG_CACHE_RAM": "256", "OLLAMA_HOST": "127.0.0.1:11434", "OLLAMA_KEEP_ALIVE": "5m"}
UNIT = Server(
    100, RuntimeKind.SYSTEMD, "ollama.service", "/system.slice/ollama.service", "ollama", GOOD,
    UnitFacts("ollama.service", oom_policy="continue"), swap_allowed_bytes=0,
)  # fmt: skip
CONTAINER = Server(
    200, RuntimeKind.DOCKER, "a" * 64, f"/docker/{'a' * 64}", "root",
    {"LLAMA_ARG_CACHE_RAM": "0", "OLLAMA_HOST": "0.0.0.0:11434"},
    container=ContainerFacts("a" * 64, "box", published=("127.0.0.1",)), limit_bytes=4 * GIB,
    swap_limited=True, swap_allowed_bytes=0,
)  # fmt: skip
WELL = Machine(8 * GIB, swap_bytes=2 * GIB, servers=(UNIT,), url="http://127.0.0.1:11434", version="0.33.0")
GUARD = GuardFacts(answers=True, status_age_seconds=1.0, locked_limit_bytes=2**63 - 1)


def found(machine: Machine = WELL, guard: GuardFacts = GUARD) -> dict[str, Finding]:
    findings = examine(machine, guard, Policy())
    assert len({finding.check for finding in findings}) == len(findings)
    return {finding.check: finding for finding in findings}


def only(check: str, machine: Machine = WELL, guard: GuardFacts = GUARD) -> Finding:
    findings = found(machine, guard)
    assert list(findings) == [check]
    return findings[check]


def having(server: Server, **environment: str) -> Machine:
    return replace(
        WELL, servers=(replace(server, environment={**(server.environment or {}), **environment}),)
    )


def without(server: Server, key: str) -> Machine:
    kept: Mapping[str, str] = {k: v for k, v in (server.environment or {}).items() if k != key}
    return replace(WELL, servers=(replace(server, environment=kept),))


@pytest.mark.parametrize("server", [UNIT, CONTAINER])
def test_nothing_is_found_where_all_is_well(server: Server) -> None:
    assert found(replace(WELL, servers=(server,))) == {}
    assert found(replace(WELL, servers=())) == {}


def test_no_pressure() -> None:
    assert "psi=1" in only("psi", replace(WELL, psi=False)).mend


def test_no_swap_accounting_where_a_limit_counts_on_it() -> None:
    uncounted = replace(CONTAINER, swap_limited=False)
    finding = only("swap_accounting", replace(WELL, servers=(uncounted,)))
    assert "4.0 GiB bounds memory alone: models spill into the 2.0 GiB of swap" in finding.why
    assert "swapaccount=1" in finding.mend
    assert found(replace(WELL, servers=(uncounted,), swap_bytes=0)) == {}
    assert found(replace(WELL, servers=(replace(uncounted, swap_limited=None),))) == {}, (
        "not known is not bad"
    )


def test_a_limit_larger_than_the_machine() -> None:
    finding = only("limit", replace(WELL, servers=(replace(CONTAINER, limit_bytes=16 * GIB),)))
    assert finding.what == "container box is limited to 16.0 GiB, more than the machine's 8.0 GiB"


@pytest.mark.parametrize("policy", ["", "stop", "kill"])
def test_a_unit_that_is_stopped_when_one_runner_is_killed(policy: str) -> None:
    server = replace(UNIT, unit=UnitFacts("ollama.service", policy))
    finding = only("oom_policy", replace(WELL, servers=(server,)))
    assert "systemctl edit ollama.service" in finding.mend
    assert "stop" in finding.what or policy in finding.what


def test_a_guard_that_can_not_lock_its_memory() -> None:
    finding = only("memlock", guard=replace(GUARD, locked_limit_bytes=8 * MIB))
    assert finding.what == "the guard may lock 8 MiB of memory, less than 64 MiB"
    assert found(guard=replace(GUARD, locked_limit_bytes=None)) == {}


@pytest.mark.parametrize("host", ["0.0.0.0", "0.0.0.0:8080", "[::]:11434"])  # noqa: S104
def test_a_server_that_everybody_reaches(host: str) -> None:
    finding = only("exposed", having(UNIT, OLLAMA_HOST=host))
    assert "Environment=OLLAMA_HOST=127.0.0.1:" in finding.mend


def test_a_container_is_exposed_by_its_published_port_not_by_what_it_listens_on() -> None:
    facts = ContainerFacts("a" * 64, "box", published=("0.0.0.0",))  # noqa: S104
    finding = only("exposed", replace(WELL, servers=(replace(CONTAINER, container=facts),)))
    assert finding.what.startswith("container box publishes its port on 0.0.0.0")
    on_host = replace(CONTAINER, container=ContainerFacts("a" * 64, "box", host_network=True))
    assert only("exposed", replace(WELL, servers=(on_host,))).what.startswith("container box listens on")
    unread = replace(CONTAINER, container=None)
    assert found(replace(WELL, servers=(unread,))) == {}


def test_the_dead_setting() -> None:
    assert "which does nothing" in only("max_vram", having(UNIT, OLLAMA_MAX_VRAM="2048000000")).what


def test_an_unbounded_prompt_cache() -> None:
    finding = only("prompt_cache", without(UNIT, "LLAMA_ARG_CACHE_RAM"))
    assert "8192 MiB beside its weights on a machine of 8.0 GiB" in finding.why
    assert "Environment=LLAMA_ARG_CACHE_RAM=256" in finding.mend
    assert "LLAMA_ARG_CACHE_RAM=-1" in only("prompt_cache", having(UNIT, LLAMA_ARG_CACHE_RAM="-1")).what


def test_a_prompt_cache_is_no_matter_before_0_30_or_where_nothing_can_be_read() -> None:
    bare = without(UNIT, "LLAMA_ARG_CACHE_RAM")
    assert found(replace(bare, version="0.24.0")) == {}
    assert found(replace(bare, version=None)) == {}
    assert found(replace(WELL, servers=(replace(UNIT, environment=None),))) == {}


def test_models_that_stay_for_ever() -> None:
    finding = only("keep_alive", having(UNIT, OLLAMA_KEEP_ALIVE="-1"))
    assert "OLLAMA_KEEP_ALIVE=-1" in finding.what


def test_a_configuration_that_was_locked_away_from_the_guard_too() -> None:
    finding = only("unreadable", guard=replace(GUARD, unreadable="/etc/ollama-guard/ollama-guard.toml"))
    assert finding.what == "the guard's user can't read /etc/ollama-guard/ollama-guard.toml"
    assert "chown root:ollama-guard" in finding.mend
    assert "chmod 640" in finding.mend


def test_a_bad_configuration_file_is_one_finding_for_each_problem() -> None:
    problems = ("a.toml, line 1: x", "a.toml, line 2: y")
    findings = examine(WELL, replace(GUARD, config_problems=problems), Policy())
    assert [(finding.check, finding.what) for finding in findings] == [("config", p) for p in problems]


def test_missing_groups_and_sockets_of_other_groups() -> None:
    finding = only("groups", guard=replace(GUARD, missing_groups=("ollama-guard-admin",)))
    # Under its unit the guard may give no file to a group: the folder does, in which the socket is born.
    made = "systemd-sysusers ollama-guard.conf && systemd-tmpfiles --create ollama-guard.conf && systemctl"
    assert finding.mend.startswith(made)
    wrong = only("groups", guard=replace(GUARD, socket_groups={"status.sock": "root"}))
    assert wrong.what == "status.sock belongs to the group root, not to ollama-guard"
    assert wrong.mend.startswith(made)
    right = {"status.sock": "ollama-guard", "control.sock": "ollama-guard-admin"}
    assert found(guard=replace(GUARD, socket_groups=right)) == {}


def test_two_servers() -> None:
    finding = only("two_servers", replace(WELL, servers=(UNIT, CONTAINER)))
    assert "ollama.service (pid 100), container box (pid 200)" in finding.what
    assert "docker stop box" in finding.mend


def test_a_guard_that_does_not_run() -> None:
    finding = only("guard", guard=replace(GUARD, answers=False))
    assert finding.mend == "systemctl enable --now ollama-guard"


def test_a_guard_that_may_not_be_asked_is_judged_by_its_status_file() -> None:
    assert found(guard=replace(GUARD, answers=None, status_age_seconds=59.0)) == {}
    assert "2.0 h old" in only("guard", guard=replace(GUARD, answers=None, status_age_seconds=7200.0)).what
    assert (
        only("guard", guard=replace(GUARD, answers=None, status_age_seconds=None)).what
        == "no guard is running"
    )


def test_a_recovery_that_was_not_allowed() -> None:
    would = replace(GUARD, would="freeze")
    assert 'authority = "server"' in only("authority", guard=would).mend
    assert found(guard=replace(would, authority=Authority.SERVER)) == {}
    facts = ContainerFacts("a" * 64, "box", published=("127.0.0.1",), authority=True)
    labelled = replace(WELL, servers=(replace(CONTAINER, container=facts),))
    assert found(labelled, would) == {}, "the container's label is the owner's word as well"


@pytest.mark.parametrize("kind", list(RuntimeKind))
def test_every_remedy_names_something_to_do_however_the_server_is_run(kind: RuntimeKind) -> None:
    bad = {"OLLAMA_KEEP_ALIVE": "-1", "OLLAMA_MAX_VRAM": "1", "OLLAMA_HOST": "0.0.0.0"}  # noqa: S104
    server = replace(
        UNIT if kind is RuntimeKind.SYSTEMD else CONTAINER, kind=kind, environment=bad, limit_bytes=9 * GIB
    )
    machine = replace(WELL, servers=(server, replace(server, pid=7)), psi=False)
    findings = examine(machine, GuardFacts(), Policy())
    assert len(findings) >= 8
    for finding in findings:
        assert all(len(text) > 10 for text in (finding.what, finding.why, finding.mend))
