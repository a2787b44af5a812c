"""The files of the static protection, as text, and the commands that make them effective."""

from dataclasses import replace

import pytest

from ollama_guard.core.advice import Advice, Line
from ollama_guard.core.machine import ComposeFacts, ContainerFacts
from ollama_guard.core.policy import GIB
from ollama_guard.core.protection import (
    ENTRYPOINT,
    NO_SWAP,
    drop_in,
    limit_by_hand,
    original_command,
    override,
    override_path,
    recreate,
    run_options,
)
from ollama_guard.core.unitfile import unit_of

ADVICE = Advice(
    capacity_bytes=8 * GIB,
    room_bytes=6 * GIB,
    context_tokens=4096,
    environment=(Line("OLLAMA_NUM_PARALLEL", "1", "why one"), Line("LLAMA_ARG_CACHE_RAM", "256", "why 256")),
    memory_limit_bytes=5 * GIB,
    limit_why="why five",
    continues="why it continues",
)
CONTAINER = ContainerFacts("a" * 64, "box", ("/bin/ollama",), ("serve",), "ollama/ollama:latest")
COMPOSE = ComposeFacts("/srv/llm", ("/srv/llm/docker-compose.yml",), "ollama", "2.20.0")


def test_a_drop_in_is_what_systemd_reads_it_as() -> None:
    unit = unit_of("ollama.service", [("/x", drop_in(ADVICE, "ollama.service"))])
    assert unit.environment == {"OLLAMA_NUM_PARALLEL": "1", "LLAMA_ARG_CACHE_RAM": "256"}
    assert (unit.oom_policy, unit.guarded) == ("continue", True)


def test_the_guards_own_file_comes_last_so_that_it_wins() -> None:
    lines = [line for line in drop_in(ADVICE, "ollama.service").splitlines() if not line.startswith("#")]
    assert lines[-1] == "EnvironmentFile=-/var/lib/ollama-guard/env/ollama.env"


def test_every_line_of_a_drop_in_has_its_reason_above_it() -> None:
    text = drop_in(ADVICE, "ollama.service")
    assert "# OLLAMA_NUM_PARALLEL: why one.\nEnvironment=OLLAMA_NUM_PARALLEL=1\n" in text
    assert "# OOMPolicy: why it continues.\nOOMPolicy=continue\n" in text
    assert all(len(line) <= 110 for line in text.splitlines())


def test_an_override_keeps_what_the_container_runs() -> None:
    text = override(ADVICE, CONTAINER, "ollama")
    assert f'    entrypoint: ["/bin/sh", "{ENTRYPOINT}"]\n    command: ["serve"]\n' in text
    assert "    mem_limit: 5120m\n" in text
    assert "    memswap_limit: 5120m\n" in text, "Docker's own would be as much swap as memory"
    assert '      LLAMA_ARG_CACHE_RAM: "256"\n' in text
    assert f'      - "{ENTRYPOINT}:{ENTRYPOINT}:ro"\n' in text
    assert '      - "/var/lib/ollama-guard/env:/var/lib/ollama-guard/env:ro"\n' in text
    assert "OLLAMA_GUARD_EXEC" not in text, "the script runs /bin/ollama by itself"


@pytest.mark.parametrize(
    "limited",
    [
        replace(CONTAINER, other_limits=True),
        replace(CONTAINER, memory_limit_bytes=64 * GIB),
        replace(CONTAINER, memory_limit_bytes=64 * GIB, other_limits=True),
    ],
)
def test_a_service_that_may_have_limits_of_its_own_gets_the_memory_limit_by_hand(
    limited: ContainerFacts,
) -> None:
    """Compose refuses the whole project where mem_limit and deploy.resources.limits.memory differ."""
    assert "mem_limit" not in override(ADVICE, limited, "ollama")
    assert limit_by_hand(ADVICE, limited) == [
        "mem_limit: 5120m    # why five",
        "# or, where the service has deploy.resources.limits: memory: 5120m among them, no mem_limit",
        f"memswap_limit: 5120m    # {NO_SWAP}",
    ]


def test_a_limit_that_is_in_force_already_is_written_again() -> None:
    for ours in (CONTAINER, replace(CONTAINER, memory_limit_bytes=5 * GIB, other_limits=True)):
        assert "mem_limit: 5120m" in override(ADVICE, ours, "ollama")
        assert limit_by_hand(ADVICE, ours) == []


def test_the_authority_is_offered_and_not_taken() -> None:
    lines = override(ADVICE, CONTAINER, "ollama").splitlines()
    assert "    #labels:" in lines
    assert "    #  ollama-guard.authority: server" in lines


def test_another_program_than_the_images_own_is_run_after_the_file() -> None:
    other = replace(CONTAINER, entrypoint=("/opt/run me", "--quiet"), command=("serve", "$X"))
    text = override(ADVICE, other, "ollama")
    assert '      OLLAMA_GUARD_EXEC: "/opt/run me"\n' in text
    assert '    command: ["--quiet", "serve", "$$X"]\n' in text, "compose takes one $ for a variable"


def test_a_container_that_has_the_script_already_gets_the_same_override_again() -> None:
    for before in (CONTAINER, replace(CONTAINER, entrypoint=("/opt/ollama", "-v"))):
        program, command = original_command(before)
        environment = {} if program == "/bin/ollama" else {"OLLAMA_GUARD_EXEC": program}
        after = replace(before, entrypoint=("/bin/sh", ENTRYPOINT), command=command, environment=environment)
        assert override(ADVICE, after, "ollama") == override(ADVICE, before, "ollama")


def test_without_the_script_nothing_is_mounted() -> None:
    text = override(ADVICE, CONTAINER, "ollama", mounted_from=None)
    assert "entrypoint" not in text
    assert "volumes" not in text


@pytest.mark.parametrize(
    ("files", "taken", "expected"),
    [
        (("/srv/llm/docker-compose.yml",), (), ("/srv/llm/docker-compose.override.yml", True)),
        (("docker-compose.yaml",), (), ("/srv/llm/docker-compose.override.yaml", True)),
        (("/srv/llm/compose.yaml",), (), ("/srv/llm/compose.override.yaml", True)),
        # after the first `up` with ours it is among the files
        (
            ("/srv/llm/compose.yml", "/srv/llm/compose.override.yml"),
            (),
            ("/srv/llm/compose.override.yml", True),
        ),
        # an override of the owner's is never touched
        (
            ("/srv/llm/compose.yml",),
            ("/srv/llm/compose.override.yml",),
            ("/srv/llm/ollama-guard.compose.yaml", False),
        ),
        (("/srv/llm/compose.yml", "/srv/llm/gpu.yml"), (), ("/srv/llm/ollama-guard.compose.yaml", False)),
        (("/srv/llm/prod.yml",), (), ("/srv/llm/ollama-guard.compose.yaml", False)),
        (("/srv/other/compose.yml",), (), ("/srv/llm/ollama-guard.compose.yaml", False)),
    ],
)
def test_an_override_is_one_that_compose_reads_by_itself_where_there_can_be_one(
    files: tuple[str, ...], taken: tuple[str, ...], expected: tuple[str, bool]
) -> None:
    assert override_path(replace(COMPOSE, config_files=files), frozenset(taken)) == expected


def test_the_command_that_makes_it_effective_can_be_pasted() -> None:
    path = "/srv/llm/docker-compose.override.yml"
    assert recreate(COMPOSE, path, by_itself=True) == "cd /srv/llm && docker compose up -d ollama"
    first = replace(COMPOSE, version="1.29.2", working_dir="/srv/my llm", config_files=("a.yml",))
    assert recreate(first, "/srv/my llm/ollama-guard.compose.yaml", by_itself=False) == (
        "cd '/srv/my llm' && docker-compose -f '/srv/my llm/a.yml'"
        " -f '/srv/my llm/ollama-guard.compose.yaml' up -d ollama"
    )


def test_what_to_add_to_a_docker_run_is_one_option_a_line() -> None:
    options = run_options(ADVICE, CONTAINER)
    assert options[:3] == [
        "--memory 5120m --memory-swap 5120m", "--env OLLAMA_NUM_PARALLEL=1", "--env LLAMA_ARG_CACHE_RAM=256"
    ]  # fmt: skip
    assert options[-1] == f"--entrypoint /bin/sh … ollama/ollama:latest {ENTRYPOINT} serve"
    assert len(run_options(ADVICE, CONTAINER, mounted_from=None)) == 3
