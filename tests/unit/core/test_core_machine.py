"""Plain questions about a machine: how a server is run, where it listens, what its settings mean."""

import pytest

from ollama_guard.core.machine import Installed, Machine, Server, runtime_of
from ollama_guard.core.runtime import RuntimeKind
from ollama_guard.core.said import (
    context_tokens,
    has_prompt_cache,
    listens_at,
    on_loopback,
    open_to_all,
    pins_for_ever,
    positive,
)

ID = "0123456789abcdef" * 4
GIB = 1024**3


@pytest.mark.parametrize(
    ("cgroup", "kind", "name"),
    [
        ("/system.slice/ollama.service", RuntimeKind.SYSTEMD, "ollama.service"),
        ("/system.slice/ollama.service/runners", RuntimeKind.SYSTEMD, "ollama.service"),
        ("/system.slice/system-ollama.slice/ollama@gpu.service", RuntimeKind.SYSTEMD, "ollama@gpu.service"),
        (f"/docker/{ID}", RuntimeKind.DOCKER, ID),
        (f"/system.slice/docker-{ID}.scope", RuntimeKind.DOCKER, ID),
        (f"/system.slice/docker-{ID}.scope/system.slice/ollama.service", RuntimeKind.DOCKER, ID),
        (f"/machine.slice/libpod-{ID}.scope", RuntimeKind.DOCKER, ID),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/ollama.service", RuntimeKind.SYSTEMD,
         "ollama.service"),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/vte-1.scope", RuntimeKind.PROCESS, ""),
        ("/user.slice/user-1000.slice/session-3.scope", RuntimeKind.PROCESS, ""),
        ("/", RuntimeKind.PROCESS, ""),
        ("", RuntimeKind.PROCESS, ""),
    ],
)  # fmt: skip
def test_its_cgroup_tells_how_a_server_is_run(cgroup: str, kind: RuntimeKind, name: str) -> None:
    assert runtime_of(cgroup) == (kind, name)


def test_a_unit_of_a_users_own_manager_is_told_from_the_systems() -> None:
    assert Server(1, RuntimeKind.SYSTEMD, cgroup="/user.slice/user@1000.service/ollama.service").users_own
    assert not Server(1, RuntimeKind.SYSTEMD, cgroup="/system.slice/ollama.service").users_own


@pytest.mark.parametrize(
    ("version", "expected"),
    [("0.33.0", True), ("0.30.0-rc2", True), ("1.0", True), ("0.24.0", False), ("0.5.4", False),
     (None, None), ("main", None), ("", None)],
)  # fmt: skip
def test_the_version_tells_whether_there_is_a_prompt_cache(
    version: str | None,
    expected: bool | None,  # noqa: FBT001
) -> None:
    assert has_prompt_cache(version) is expected


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("", ("127.0.0.1", 11434)),
        ("0.0.0.0", ("0.0.0.0", 11434)),  # noqa: S104
        ("0.0.0.0:8080", ("0.0.0.0", 8080)),  # noqa: S104
        (":8080", ("0.0.0.0", 8080)),  # noqa: S104
        ("[::]:11434", ("::", 11434)),
        ("::", ("::", 11434)),
        ("http://10.0.0.1", ("10.0.0.1", 80)),
        ("https://box:99/path", ("box", 99)),
        ('"127.0.0.1:12345"', ("127.0.0.1", 12345)),
        ("box:nonsense", ("box", 11434)),
    ],
)
def test_where_it_listens_is_read_as_ollama_reads_it(host: str, expected: tuple[str, int]) -> None:
    assert listens_at(host) == expected


def test_only_the_addresses_that_mean_all_of_them_are_open_to_all() -> None:
    assert [a for a in ("0.0.0.0", "::", "127.0.0.1", "::1", "10.0.0.1") if open_to_all(a)] == [  # noqa: S104
        "0.0.0.0",  # noqa: S104
        "::",
    ]


@pytest.mark.parametrize(
    ("url", "there"),
    [
        ("http://127.0.0.1:11434", True),
        ("http://127.8.9.1", True),
        ("https://localhost/hook", True),
        ("http://[::1]:11434", True),
        ("http://192.168.0.5:11434", False),
        ("https://chat.example.org/hooks/abc", False),
        ("http://0.0.0.0:1", False),
        ("http://[::1", False),
    ],
)
def test_what_is_on_loopback_is_told_from_what_leaves_the_machine(url: str, there: bool) -> None:  # noqa: FBT001
    assert on_loopback(url) is there


@pytest.mark.parametrize("said", ["-1", "-1s", "-5m", '"-1"', " -1 ", "-1.5h", "-24h0m0s"])
def test_a_negative_keep_alive_pins_for_ever(said: str) -> None:
    assert pins_for_ever(said)


@pytest.mark.parametrize("said", ["", "5m", "0", "300", "24h", "1d", "-", "nonsense-1"])
def test_any_other_keep_alive_does_not(said: str) -> None:
    assert not pins_for_ever(said)


def test_a_model_needs_its_weights_and_the_cache_of_every_slot() -> None:
    model = Installed(("a:latest",), 1000, kv_bytes_per_token=2, training_context=100)
    assert model.needs_bytes(50) == 1100
    assert model.needs_bytes(50, parallel=4) == 1400
    assert model.needs_bytes(5000) == 1200, "no more context than it was trained with"
    assert Installed(("a",), 1000).needs_bytes(50) == 1000, "an unknown cache is not invented"


def test_a_limit_above_the_machines_memory_is_no_capacity() -> None:
    assert Machine(8 * GIB, servers=(Server(1, limit_bytes=16 * GIB),)).capacity_bytes == 8 * GIB
    assert Machine(8 * GIB, servers=(Server(1, limit_bytes=4 * GIB),)).limited


def test_numbers_of_the_environment_are_read_as_ollama_reads_them() -> None:
    assert [positive(text) for text in ("4", " 4 ", '"4"', "0", "-1", "x", "", "9" * 40)] == [
        4,
        4,
        4,
        0,
        0,
        0,
        0,
        0,
    ]
    assert context_tokens({"OLLAMA_CONTEXT_LENGTH": "8192"}) == 8192
    assert (
        context_tokens({}) == context_tokens(None) == context_tokens({"OLLAMA_CONTEXT_LENGTH": "0"}) == 4096
    )
