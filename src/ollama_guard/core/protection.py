"""The static protection as text: a unit's drop-in, a compose override, and what to add to a ``docker run``.

Lines of the owner's win over these, and the guard's own environment file wins over both: it comes last.
"""

from __future__ import annotations

import json
import textwrap

from ollama_guard.core.advice import Advice, Line
from ollama_guard.core.machine import ComposeFacts, ContainerFacts
from ollama_guard.core.policy import MIB

MARK = "Written by `ollama-guard init`; `ollama-guard release` takes it away."
"""In each file that `init` writes."""
ENTRYPOINT = "/usr/share/ollama-guard/ollama-guard-entrypoint"
"""Where the script that sources the environment file is installed, and where a container gets it mounted."""
ENVIRONMENT_DIR = "/var/lib/ollama-guard/env"
"""The guard's folder for its environment file, and where a container gets it mounted."""
ENVIRONMENT_FILE = "ollama.env"
"""In that folder: what the guard itself constrains a server by; allow-listed keys only."""
DROP_IN = "ollama-guard.conf"
AUTHORITY_LABEL = "ollama-guard.authority"
EXEC = "OLLAMA_GUARD_EXEC"
"""What the script runs after the file, if not `OLLAMA`."""
OLLAMA = "/bin/ollama"
NO_SWAP = (
    "as much as mem_limit, so no swap. Unset, Docker adds as much again of swap, into which models spill"
)
_WIDTH = 100  # characters: with what stands before a comment, a line stays readable in an editor

# What compose reads by itself, and the name of the second file that it then reads by itself as well.
_OVERRIDES = {
    "compose.yaml": "compose.override.yaml",
    "compose.yml": "compose.override.yml",
    "docker-compose.yml": "docker-compose.override.yml",
    "docker-compose.yaml": "docker-compose.override.yaml",
}
_OWN_OVERRIDE = "ollama-guard.compose.yaml"


def drop_in(advice: Advice, unit: str, environment_dir: str = ENVIRONMENT_DIR) -> str:
    """``/etc/systemd/system/UNIT.d/ollama-guard.conf``."""
    lines = [
        *_comment(MARK),
        *_comment(f"In force after: {restart_unit(unit)}"),
        *_comment(
            "A line of yours belongs into another file here; one named later (override.conf) wins over these."
        ),
        "[Service]",
        *_comment(f"OOMPolicy: {advice.continues}."),
        "OOMPolicy=continue",
    ]
    for line in advice.environment:
        lines += [*_comment(_why(line)), f"Environment={line.key}={line.value}"]
    lines += [
        *_comment(
            'What the guard writes after a freeze (nothing without [ollama] authority = "server"). It wins'
            " over every"
            " Environment= line, wherever that stands."
        ),
        f"EnvironmentFile=-{environment_dir}/{ENVIRONMENT_FILE}",
    ]
    return "\n".join([*lines, ""])


def restart_unit(unit: str) -> str:
    """The command that makes a drop-in effective."""
    return f"systemctl daemon-reload && systemctl restart {unit}"


def override(
    advice: Advice, container: ContainerFacts, service: str, *, mounted_from: str | None = ENVIRONMENT_DIR
) -> str:
    """A compose override; ``mounted_from``: where the environment file's folder is, None: no script here."""
    body: list[str] = []
    if advice.memory_limit_bytes is not None and not limit_by_hand(advice, container):
        body += [
            *_comment(f"mem_limit: {advice.limit_why}."),
            f"mem_limit: {advice.memory_limit_bytes // MIB}m",
            *_comment(f"memswap_limit: {NO_SWAP}."),
            f"memswap_limit: {advice.memory_limit_bytes // MIB}m",
        ]
    program, _ = original_command(container)
    elsewhere = mounted_from is not None and program != OLLAMA
    if advice.environment or elsewhere:
        body.append("environment:")
        for line in advice.environment:
            body += [f"  {text}" for text in _comment(_why(line))]
            body.append(f"  {line.key}: {_quoted(line.value)}")
    if elsewhere:
        body.append(f"  {EXEC}: {_quoted(program)}")
    if mounted_from is not None:
        body += _entrypoint(container, mounted_from)
    body += [
        *_comment(
            "Without the # the guard may also stop, constrain and restart this container, and hide models"
            " that can't"
            " fit. Until then it only says what it would have done."
        ),
        "#labels:",
        f"#  {AUTHORITY_LABEL}: server",
    ]
    head = [*_comment(MARK), "services:", f"  {_quoted(service)}:"]
    return "\n".join([*head, *(f"    {line}" for line in body), ""])


def limit_by_hand(advice: Advice, container: ContainerFacts) -> list[str]:
    """What the owner has to write where an override may not say the limit; nothing where it may.

    Compose refuses a whole project in which a service has a ``mem_limit`` and ``deploy.resources.limits``
    that say another memory, or none. Of a container it can't be told where its limits come from.
    """
    limit = advice.memory_limit_bytes
    if limit is None or not may_have_deploys(container, limit):
        return []
    megabytes = f"{limit // MIB}m"
    return [
        f"mem_limit: {megabytes}    # {advice.limit_why}",
        f"# or, {among_deploys(megabytes)}",
        f"memswap_limit: {megabytes}    # {NO_SWAP}",
    ]


def is_guards(file: str) -> bool:
    """Whether an environment file is the guard's own, wherever its state lies."""
    return file.endswith(f"/env/{ENVIRONMENT_FILE}")


def may_have_deploys(container: ContainerFacts, limit_bytes: int) -> bool:
    """Whether limits of its may stand in ``deploy.resources.limits``, and another of memory is wanted."""
    now = container.memory_limit_bytes
    return now != limit_bytes and (now is not None or container.other_limits)


def among_deploys(megabytes: str) -> str:
    """What to write instead of a ``mem_limit`` there."""
    return f"where the service has deploy.resources.limits: memory: {megabytes} among them, no mem_limit"


def _entrypoint(container: ContainerFacts, environment_dir: str) -> list[str]:
    program, command = original_command(container)
    return [
        *_comment(
            f"Reads the guard's environment file, then runs what ran before: {' '.join((program, *command))}."
        ),
        f"entrypoint: [{_quoted('/bin/sh')}, {_quoted(ENTRYPOINT)}]",
        f"command: [{', '.join(map(_quoted, command))}]",
        "volumes:",
        f"  - {_quoted(f'{ENTRYPOINT}:{ENTRYPOINT}:ro')}",
        f"  - {_quoted(f'{environment_dir}:{ENVIRONMENT_DIR}:ro')}",
    ]


def original_command(container: ContainerFacts) -> tuple[str, tuple[str, ...]]:
    """(program, its arguments) as the container runs them, without the guard's script before them."""
    if ENTRYPOINT in container.entrypoint:
        return container.environment.get(EXEC, OLLAMA), container.command
    program, *arguments = (*container.entrypoint, *container.command) or (OLLAMA,)
    return program, tuple(arguments)


def override_path(compose: ComposeFacts, taken: frozenset[str]) -> tuple[str, bool]:
    """(path, whether compose reads it by itself) of the override; ``taken`` are paths of others' files."""
    folder = compose.working_dir.rstrip("/")
    files = [file for file in _absolute(compose) if not file.endswith(f"/{_OWN_OVERRIDE}")]
    name = _OVERRIDES.get(files[0].rpartition("/")[2], "") if files else ""
    path = f"{folder}/{name}"
    alone = all(file in (files[0], path) for file in files) and files[0].rpartition("/")[0] == folder
    if name and alone and path not in taken:
        return path, True
    return f"{folder}/{_OWN_OVERRIDE}", False


def read_by_itself(compose: ComposeFacts) -> bool:
    """Whether compose reads just these files when none is named."""
    folder, files = compose.working_dir.rstrip("/"), _absolute(compose)
    names = [file.removeprefix(f"{folder}/") for file in files]
    return names[0] in _OVERRIDES and names[1:] in ([], [_OVERRIDES[names[0]]])


def recreate(compose: ComposeFacts, path: str, *, by_itself: bool) -> str:
    """The command that makes an override effective; compose makes the container anew, its volumes stay."""
    folder = compose.working_dir.rstrip("/")
    files = [file for file in _absolute(compose) if file != path]
    named = "" if by_itself else "".join(f" -f {_shell(file)}" for file in [*files, path])
    return f"cd {_shell(folder)} && {compose.program}{named} up -d {_shell(compose.service)}"


def run_options(
    advice: Advice, container: ContainerFacts, *, mounted_from: str | None = ENVIRONMENT_DIR
) -> list[str]:
    """What to add to the ``docker run`` of a container that no compose file owns, one option a line."""
    options: list[str] = []
    if advice.memory_limit_bytes is not None:
        megabytes = f"{advice.memory_limit_bytes // MIB}m"
        options.append(f"--memory {megabytes} --memory-swap {megabytes}")
    options += [f"--env {line.key}={line.value}" for line in advice.environment]
    if mounted_from is not None:
        program, arguments = original_command(container)
        command = " ".join(map(_shell, [ENTRYPOINT, *arguments]))
        options += [f"--env {EXEC}={_shell(program)}"] if program != OLLAMA else []
        options += [
            f"--volume {ENTRYPOINT}:{ENTRYPOINT}:ro",
            f"--volume {_shell(mounted_from)}:{ENVIRONMENT_DIR}:ro",
            f"--entrypoint /bin/sh … {container.image or 'IMAGE'} {command}",
        ]
    return options


def _absolute(compose: ComposeFacts) -> list[str]:
    folder = compose.working_dir.rstrip("/")
    return [file if file.startswith("/") else f"{folder}/{file}" for file in compose.config_files]


def _why(line: Line) -> str:
    return f"{line.key}: {line.why}."


def _comment(text: str) -> list[str]:
    """A sentence as lines of a comment; TOML, YAML and units all begin them with the same character."""
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent="# ",
        subsequent_indent="# ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _quoted(text: str) -> str:
    """A YAML string as compose reads it: it would take a ``$`` for a variable of its own."""
    return json.dumps(text.replace("$", "$$"))


def _shell(text: str) -> str:
    """A word of a command line that can be pasted."""
    plain = text and all(c.isalnum() or c in "@%+=:,./_-" for c in text)
    return text if plain else "'" + text.replace("'", "'\"'\"'") + "'"
