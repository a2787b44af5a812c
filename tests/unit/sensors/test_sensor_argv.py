"""Command lines of both dialects."""

import pytest

from ollama_guard.sentinel.sensors.argv import RunnerArgv, ServerArgv, parse_argv, split_cmdline
from unit.sensors.sensor_tree import BLOB, MODELS, llama_server

PATH = f"{MODELS}/blobs/sha256-{BLOB}"


@pytest.mark.parametrize(
    "line",
    [
        "ollama serve",
        "/usr/bin/ollama start",
        "/opt/bin/ollama-lib serve",
        "./ollama-linux-amd64 serve",
        "/opt/ollama-0.24.0 serve",
        "/opt/ollama-v0.30.1-rc2 start",
        "/nix/store/x-ollama-0.30/bin/.ollama-wrapped serve",
        "/home/me/Ollama_bin serve",
    ],
)
def test_a_server_says_serve(line: str) -> None:
    assert isinstance(parse_argv(line.split()), ServerArgv)


@pytest.mark.parametrize(
    "line",
    [
        "ollama run llama3",
        "python -m ollama serve",
        "sh -c ollama serve",
        "ollama-guard serve",
        "ollama",
        "vim ollama serve",
        "vim ollama-notes serve",
        "/opt/ollama/python serve",
        "ollama-proxy serve",
        "ollama-exporter-1.2 start",
        "ollama-webui-linux-amd64 serve",
        "not-ollama serve",
        "ollamac serve",
        "0.24.0 serve",
        "",
    ],
)
def test_whoever_only_mentions_ollama_is_no_server(line: str) -> None:
    assert parse_argv(line.split()) is None


def test_the_newer_dialect_gives_blob_context_slots_and_port() -> None:
    runner = parse_argv(llama_server(context=8192))
    assert runner == RunnerArgv(
        PATH, f"sha256:{BLOB}", MODELS, 8192, 1, 4711, signature=True, weights_mapped=False
    )


def test_the_older_dialect_gives_the_same_whatever_engine_it_names() -> None:
    line = (
        f"/opt/bin/ollama-lib runner --ollama-engine --model {PATH} --ctx-size 8192 --parallel 4 --port 45123"
    )
    runner = parse_argv(line.split())
    assert runner == RunnerArgv(
        PATH, f"sha256:{BLOB}", MODELS, 8192, 4, 45123, signature=True, weights_mapped=True
    )


@pytest.mark.parametrize(
    ("words", "kept_as"),
    [
        ("llama-server --model /m -c 4096 --cache-type-k q8_0 --cache-type-v q8_0", "q8_0"),
        ("ollama runner --model /m --kv-cache-type q4_0", "q4_0"),
        ("ollama runner --model /m", ""),
        (f"ollama runner --model /m --kv-cache-type {'x' * 500}", "x" * 16),
    ],
)
def test_how_the_cache_is_kept_is_told(words: str, kept_as: str) -> None:
    found = parse_argv(words.split())
    assert isinstance(found, RunnerArgv)
    assert found.cache_type == kept_as


def test_an_mlx_runner_has_a_model_name_and_no_blob() -> None:
    runner = parse_argv(["/usr/bin/ollama", "runner", "--mlx-engine", "--model", "qwen3:4b", "--port", "9"])
    assert isinstance(runner, RunnerArgv)
    assert (runner.model, runner.blob, runner.models_dir) == ("qwen3:4b", None, "")


@pytest.mark.parametrize(
    "line",
    [
        f"/nix/store/x/bin/.ollama-wrapped runner --model {PATH} --port 1",
        f"/opt/ollama-0.24.0 runner --ollama-engine --model {PATH}",
        f"/usr/lib/ollama/runners/cpu_avx2/ollama_llama_server runner --model {PATH} --ctx-size 2048",
        f"/run/ollama1/runners/cpu/ollama_llama_server --model {PATH} --ctx-size 2048 --log-disable",
    ],
)
def test_a_runner_behind_a_renamed_or_wrapped_binary_is_one(line: str) -> None:
    """Ollama starts it by the path of its own file, whatever the name that the server was started by."""
    runner = parse_argv(line.split())
    assert isinstance(runner, RunnerArgv)
    assert (runner.blob, runner.signature) == (f"sha256:{BLOB}", True)


def test_a_wrapped_llama_server_is_one_and_its_name_is_no_signature() -> None:
    line = ["/nix/store/x/lib/ollama/.llama-server-wrapped", *llama_server()[1:]]
    assert parse_argv(line) == parse_argv(llama_server())
    stranger = parse_argv(f"my-llama-server --model {PATH} --port 8080".split())
    assert isinstance(stranger, RunnerArgv)
    assert not stranger.signature


@pytest.mark.parametrize("line", [f"vim ollama runner --model {PATH}", f"runner runner --model {PATH}"])
def test_only_the_program_s_own_name_makes_a_runner(line: str) -> None:
    assert parse_argv(line.split()) is None


@pytest.mark.parametrize(
    "line",
    [
        "/usr/lib/ollama/llama-server --port 1 --host 127.0.0.1 --no-webui --offline --verbose",
        "/usr/lib/ollama/llama-server --list-devices",
        "/usr/bin/ollama runner --port 5",
        "/usr/lib/ollama/llama-server --model",
    ],
)
def test_discovery_without_a_model_is_no_runner(line: str) -> None:
    assert parse_argv(line.split()) is None


def test_a_users_own_llama_server_lacks_ollamas_signature() -> None:
    runner = parse_argv(f"llama-server --model {PATH} --port 8080 --host 0.0.0.0".split())
    assert isinstance(runner, RunnerArgv)
    assert not runner.signature


@pytest.mark.parametrize("mode", ["--no-mmap", "--load-mode none", "--load-mode=dio"])
def test_weights_are_anonymous_where_mapping_is_off(mode: str) -> None:
    runner = parse_argv(f"llama-server --model {PATH} {mode}".split())
    assert isinstance(runner, RunnerArgv)
    assert not runner.weights_mapped


def test_numbers_that_are_none_are_not_invented() -> None:
    runner = parse_argv(f"llama-server --model {PATH} -c many --port -1 -np {'9' * 400}".split())
    assert isinstance(runner, RunnerArgv)
    assert (runner.context_tokens, runner.port, runner.parallel) == (None, None, None)


def test_a_cmdline_of_any_bytes_is_words() -> None:
    assert split_cmdline(b"a\0b c\0\xff\0") == ("a", "b c", "\\xff")
    assert split_cmdline(b"") == ()
