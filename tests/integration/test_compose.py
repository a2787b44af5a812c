"""The compose files keep what they promise, and the proxy lets through just the calls that are listed."""

import http.client
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import Any

import pytest
import yaml

from ollama_guard.settings.compiler import compile_file

FOLDER = Path(__file__).parents[2] / "packaging" / "docker"
CONTAINER = "5eed" * 16


class Loader(yaml.SafeLoader):
    """YAML as Docker Compose reads it: `!override` replaces a list of the file before."""


Loader.add_constructor("!override", lambda loader, node: loader.construct_sequence(node))


def read(name: str) -> Any:
    """One compose file."""
    return yaml.load((FOLDER / name).read_text(encoding="utf-8"), Loader)  # noqa: S506


@pytest.fixture
def both() -> Any:
    """The services of the plain file."""
    return read("compose.yml")["services"]


def plain(text: str) -> str:
    """With each variable's own value, as where none is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def mounts(service: Any) -> dict[str, str]:
    """Where each source is mounted in a service."""
    pairs = (plain(volume).split(":") for volume in service["volumes"])
    return {target: source for source, target, *_ in pairs}


def test_ollama_has_the_limits_and_the_share_that_are_kept_for_it(both: Any) -> None:
    assert both["ollama"]["deploy"]["resources"] == {
        "limits": {"memory": "3G", "cpus": "2.0"},
        "reservations": {"memory": "1G", "cpus": "1.0"},
    }


def test_ollama_starts_through_the_entrypoint_and_is_checked_by_the_hook(both: Any) -> None:
    ollama = both["ollama"]
    inside = mounts(ollama)
    assert ollama["entrypoint"][1] in inside
    assert ollama["healthcheck"]["test"][-1] in inside, "no --strict by default"
    default = re.search(r"OLLAMA_GUARD_ENV_FILE:-([^}]*)}", (FOLDER / "ollama-guard-entrypoint").read_text())
    assert default
    assert inside[str(Path(default[1]).parent)] == "guard-env"
    default = re.search(r"OLLAMA_GUARD_STATUS:-([^}]*)}", (FOLDER / "ollama-health").read_text())
    assert default
    assert inside[str(Path(default[1]).parent)] == "guard-public"
    for target in ("/var/lib/ollama-guard/env", "/run/ollama-guard-public"):
        assert f"{inside[target]}:{target}:ro" in ollama["volumes"]


def test_the_guard_writes_where_ollama_reads(both: Any) -> None:
    inside = mounts(both["guard"])
    assert inside["/var/lib/ollama-guard/env"] == "guard-env"
    assert inside["/var/lib/ollama-guard/public"] == "guard-public"


def test_the_guard_sees_everything_and_may_only_kill(both: Any) -> None:
    guard = both["guard"]
    assert (guard["pid"], guard["cgroup"]) == ("host", "host")
    assert "apparmor:unconfined" in guard["security_opt"], (
        "else it may kill containers of its own profile only"
    )
    assert (guard["cap_drop"], guard["cap_add"]) == (["ALL"], ["KILL"])
    assert "/sys/fs/cgroup:/sys/fs/cgroup:ro" in guard["volumes"]
    assert guard["read_only"] is True
    assert "privileged" not in guard
    assert guard["ulimits"]["memlock"] == -1


def test_the_sockets_place_can_be_told_to_whoever_opens_it(both: Any) -> None:
    proxy = read("compose.socket-proxy.yml")["services"]["socket-proxy"]
    for service in (both["guard"], proxy):
        assert "${DOCKER_SOCKET:-/var/run/docker.sock}:/var/run/docker.sock" in service["volumes"]


def test_ollama_is_open_to_this_machine_alone(both: Any) -> None:
    assert both["ollama"]["ports"] == ["127.0.0.1:11434:11434"]


@pytest.mark.parametrize("name", ["compose.yml", "compose.socket-proxy.yml"])
def test_all_that_is_mounted_is_there(name: str) -> None:
    known = read("compose.yml")["volumes"] | read(name)["volumes"]
    for service in read(name)["services"].values():
        for source in mounts(service).values():
            if source.startswith("./"):
                assert (FOLDER / source).exists()
            else:
                assert source.startswith("/") or source in known


def test_with_the_proxy_the_guard_has_all_it_had_but_the_socket(both: Any) -> None:
    narrowed = read("compose.socket-proxy.yml")["services"]["guard"]
    dropped = {plain(volume) for volume in set(both["guard"]["volumes"]) - set(narrowed["volumes"])}
    assert dropped == {"/var/run/docker.sock:/var/run/docker.sock"}
    where = narrowed["environment"]["DOCKER_HOST"].removeprefix("unix://")
    assert str(Path(where).parent) in mounts(narrowed)


def test_the_configuration_beside_it_is_right_and_asks_that_ollama(both: Any) -> None:
    policy = compile_file(FOLDER / "config" / "ollama-guard.toml")
    assert policy.ollama.url == "http://ollama:11434"
    assert "ollama" in both
    assert mounts(both["guard"])["/etc/ollama-guard"] == "./config"


@pytest.fixture
def proxied(tmp_path: Path) -> Iterator[Path]:
    """The socket of a real HAProxy with our rules, before an engine that says yes to everything."""
    if (haproxy := shutil.which("haproxy")) is None:
        pytest.skip("haproxy is not installed (Debian: apt-get install haproxy)")

    class Engine(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = answer  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Nothing."""

        def address_string(self) -> str:
            return "engine"

    behind, front = tmp_path / "docker.sock", tmp_path / "front.sock"
    rules = (FOLDER / "socket-proxy.cfg").read_text(encoding="utf-8")
    rules = rules.replace("/var/run/docker.sock", str(behind)).replace(
        "/run/docker-proxied/docker.sock", str(front)
    )
    (tmp_path / "proxy.cfg").write_text(rules, encoding="utf-8")
    with ThreadingUnixStreamServer(str(behind), Engine) as engine:
        engine.daemon_threads = True
        threading.Thread(target=engine.serve_forever, args=(0.05,), daemon=True).start()
        argv = [haproxy, "-f", str(tmp_path / "proxy.cfg")]
        with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as proxy:
            try:
                for _ in range(100):
                    if front.exists() or proxy.poll() is not None:
                        break
                    threading.Event().wait(0.1)
                yield front
            finally:
                proxy.kill()
                engine.shutdown()


def code(front: Path, method: str, path: str) -> int:
    """What one call of the engine's API through the proxy comes back with."""
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(10)
        link.connect(str(front))
        link.sendall(f"{method} {path} HTTP/1.1\r\nHost: docker\r\nContent-Length: 0\r\n\r\n".encode())
        answer = http.client.HTTPResponse(link, method=method)
        answer.begin()
        return answer.status


def test_what_the_proxy_lets_through_is_what_the_guard_is_said_to_use() -> None:
    said = (
        (FOLDER.parents[1] / "docs/runtimes.md")
        .read_text(encoding="utf-8")
        .rpartition("API that are used:")[2]
    )
    rules = (FOLDER / "socket-proxy.cfg").read_text(encoding="utf-8")
    assert set(re.findall(r"/([a-z]+)[`?]", said)) - {"containers"} == set(
        re.findall(r"version|events|json|stats|stop|start|update", rules.partition("acl engine")[2])
    )


def test_the_proxy_lets_through_what_the_file_lists_and_nothing_else(proxied: Path) -> None:
    comments = (FOLDER / "compose.socket-proxy.yml").read_text(encoding="utf-8")
    allowed = re.findall(r"^#   (GET|POST) +(/\S+) ", comments, re.MULTILINE)
    assert len(allowed) == 8
    for method, path in allowed:
        for prefix in ("", "/v1.41"):
            assert code(proxied, method, prefix + path.replace("ID", CONTAINER) + "?a=b") == 200, path
    refused = [
        ("POST", "/containers/create"),
        ("DELETE", f"/containers/{CONTAINER}"),
        ("POST", f"/containers/{CONTAINER}/exec"),
        ("POST", f"/containers/{CONTAINER}/rename"),
        ("POST", f"/containers/{CONTAINER}/kill"),
        ("GET", "/info"),
        ("GET", f"/containers/{CONTAINER}/archive"),
        ("PUT", f"/containers/{CONTAINER}/archive"),
        ("GET", f"/containers/{CONTAINER}/stop"),
        ("POST", "/containers/../images/prune"),
        ("POST", "/containers/..%2fimages/stop"),
        ("POST", f"/containers/{CONTAINER}/stop/../../create"),
        ("POST", "/exec/abc/start"),
        ("GET", "/images/json"),
        ("POST", "/build"),
        ("GET", "/secrets"),
        ("POST", "/swarm/init"),
        ("GET", "/"),
    ]
    for method, path in refused:
        assert code(proxied, method, path) == 403, path
