"""Which files `init` would write on this machine, and what it can only say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ollama_guard.cli.written import Record, below
from ollama_guard.core.advice import Advice, advise
from ollama_guard.core.machine import ComposeFacts, ContainerFacts, Machine, Server
from ollama_guard.core.policy import Policy
from ollama_guard.core.proposal import proposed_toml
from ollama_guard.core.protection import (
    DROP_IN,
    ENTRYPOINT,
    ENVIRONMENT_FILE,
    drop_in,
    limit_by_hand,
    override,
    override_path,
    recreate,
    restart_unit,
    run_options,
)
from ollama_guard.core.runtime import RuntimeKind
from ollama_guard.settings.compiler import compile_text
from ollama_guard.settings.effective import effective_toml

UNIT_DIR = "/etc/systemd/system"
_TAKE_OVER = "systemctl reload ollama-guard (or start, if it does not run yet)"


@dataclass(frozen=True, slots=True)
class Draft:
    """One file as it should be, and the command that makes it effective; ``basis`` as in `written.Entry`."""

    path: str
    text: str
    effective: str
    basis: str = ""


@dataclass(slots=True)
class Plan:
    """All of it: files, what the owner has to write, and what there is to know.

    ``shared`` is whether a container gets the folder of the guard's environment file.
    """

    drafts: list[Draft] = field(default_factory=list)
    by_hand: list[tuple[str, list[str]]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    shared: bool = False


def owners_text(record: Record, config: str) -> str:
    """The owner's configuration: the file, or, where that is just as we wrote it, what ours was made from."""
    now, known = record.text_of(config), record.entries.get(config)
    if known is not None and now == known.written:
        return known.basis
    return now or ""


def plan_of(machine: Machine, record: Record, config: str, environment_dir: Path) -> Plan:
    """What suits this machine, as files.

    Raises:
        ConfigError: the owner's file is wrong.
    """
    basis = owners_text(record, config)
    policy = compile_text(basis, config)
    advice = advise(machine, policy, _ours(record, environment_dir))
    text = proposed_toml(machine, policy, advice, kept_lines(policy))
    compile_text(text, "the proposed configuration")
    plan = Plan(environment={line.key: line.value for line in advice.environment})
    plan.drafts.append(Draft(config, text, _TAKE_OVER, basis))
    plan.notes += [f"not known: {why}" for why in machine.unknown.values()]
    if machine.server is not None:
        _protect(plan, machine.server, advice, record, environment_dir)
    plan.notes += advice.notes
    return plan


def kept_lines(policy: Policy) -> Mapping[str, Sequence[str]]:
    """The lines, by table, in which a policy differs from the defaults."""
    default = _by_table(effective_toml(Policy()))
    return {
        table: kept
        for table, lines in _by_table(effective_toml(policy)).items()
        if (kept := [line for line in lines if line not in default.get(table, [])])
    }


def _by_table(toml: str) -> dict[str, list[str]]:
    """The lines of each table; of a list of tables, all below the first ``[[name]]``."""
    tables: dict[str, list[str]] = {}
    table = ""
    for line in toml.splitlines():
        if line.startswith("["):
            table = line[1:-1]
            if table in tables:
                tables[table].append(line)
        elif line:
            tables.setdefault(table, []).append(line)
    return tables


def _ours(record: Record, environment_dir: Path) -> frozenset[tuple[str, str]]:
    """The lines of a server's environment that come from us: by these files, or by the guard's own."""
    text = record.text_of(str(environment_dir / ENVIRONMENT_FILE)) or ""
    guards = [
        (key, value)
        for key, separator, value in (line.partition("=") for line in text.splitlines())
        if separator
    ]
    return frozenset([*record.environment.items(), *guards])


def _protect(plan: Plan, server: Server, advice: Advice, record: Record, environment_dir: Path) -> None:
    match server.kind:
        case RuntimeKind.SYSTEMD:
            _protect_unit(plan, server, advice, environment_dir)
        case RuntimeKind.DOCKER:
            if server.container is not None:
                _protect_container(plan, server.container, advice, record, environment_dir)
        case RuntimeKind.PROCESS:
            lines = [f"{line.key}={line.value}    # {line.why}" for line in advice.environment]
            title = f"to set in the environment that {server.title} is started with"
            plan.by_hand += [(title, lines)] if lines else []
            plan.notes.append(
                "Ollama is a process of nobody's: the guard can relieve it, but not restart it. As a unit"
                " it could"
                " (ollama.com/install.sh makes one)"
            )


def _protect_unit(plan: Plan, server: Server, advice: Advice, environment_dir: Path) -> None:
    text = drop_in(advice, server.name, str(environment_dir))
    if server.users_own:
        title = f"to write as ~{server.user}/.config/systemd/user/{server.name}.d/{DROP_IN}"
        plan.by_hand.append((title, text.splitlines()))
        return
    for file in server.unit.overruling if server.unit else ():
        plan.notes.append(
            f"{file} is read after the guard's environment file, since its drop-in is named later than"
            f" {DROP_IN}: what it sets, the guard can't constrain"
        )
    path = f"{UNIT_DIR}/{server.name}.d/{DROP_IN}"
    plan.drafts.append(Draft(path, text, restart_unit(server.name)))


def _protect_container(
    plan: Plan, container: ContainerFacts, advice: Advice, record: Record, environment_dir: Path
) -> None:
    installed = below(record.root, Path(ENTRYPOINT)).is_file()
    if not installed:
        plan.notes.append(
            f"the script {ENTRYPOINT} is not installed, so the container is not told to read the guard's"
            " environment"
            " file: install the guard's package, then run init again"
        )
    mounted_from = str(environment_dir) if installed else None
    compose = container.compose
    if compose is not None and not below(record.root, Path(compose.working_dir)).is_dir():
        compose = None
    lines = limit_by_hand(advice, container) if compose is not None else []
    limit = advice.memory_limit_bytes is not None and not lines
    if compose is not None and lines:
        plan.by_hand.append((f"to set for the service {compose.service} in its compose file", lines))
    if mounted_from is None and not advice.environment and not limit:
        return  # an override without a line is one that compose refuses
    if compose is None:
        title = f"to add to the `docker run` of {container.name}"
        plan.by_hand.append((title, run_options(advice, container, mounted_from=mounted_from)))
        return
    path, by_itself = override_path(compose, _taken(compose, record))
    text = override(advice, container, compose.service, mounted_from=mounted_from)
    plan.drafts.append(Draft(path, text, recreate(compose, path, by_itself=by_itself)))
    plan.shared = installed
    if not by_itself:
        plan.notes.append(
            f"compose does not read {path} by itself: name it with -f each time, or for good as"
            " COMPOSE_FILE in"
            f" {compose.working_dir}/.env"
        )


def _taken(compose: ComposeFacts, record: Record) -> frozenset[str]:
    """Files beside the compose file that are there and not ours."""
    try:
        there = [path.name for path in below(record.root, Path(compose.working_dir)).iterdir()]
    except OSError:
        there = []
    paths = {f"{compose.working_dir.rstrip('/')}/{name}" for name in there}
    return frozenset(paths - record.entries.keys())
