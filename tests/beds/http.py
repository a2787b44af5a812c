"""Plain HTTP and JSON over loopback, without proxies, for beds and tests."""

import http.client
import json
import socket
from typing import Any
from urllib.parse import urlsplit


class HttpFailure(Exception):
    """An answer that is not 200; `status` and `text` say what came."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"HTTP {status}: {text[:200]}")
        self.status = status
        self.text = text


def connect(url: str, timeout: float) -> http.client.HTTPConnection:
    """A connection to the host of `url`; `timeout` seconds hold for each wait on the socket."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    return http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=timeout)


def request(url: str, method: str, path: str, payload: object = None, timeout: float = 60.0) -> Any:
    """Ask, and return the JSON answer (None for an empty one).

    Raises:
        HttpFailure: any other status than 200.
        OSError: no connection, or silence for `timeout` seconds.
    """
    connection = connect(url, timeout)
    try:
        body = None if payload is None else json.dumps(payload)
        connection.request(method, path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        text = response.read().decode()
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise HttpFailure(response.status, text)
    return json.loads(text) if text else None


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
