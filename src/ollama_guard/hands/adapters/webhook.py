"""The owner's webhook: one POST with a total deadline. Every failure is an `AlertFailed`.

The URL may carry a secret, so nothing of it but its host is ever said.
"""

from __future__ import annotations

import os
from urllib.parse import urlsplit

import httpcore
import httpx

from ollama_guard import __version__
from ollama_guard.core.events import one_line
from ollama_guard.core.said import on_loopback
from ollama_guard.errors import AlertFailed
from ollama_guard.hands.adapters.timed import TimedTransport

# Bytes of the answer that are read: nobody looks at them, but some servers want to be heard out.
ANSWER_LIMIT = 64 * 1024
_HEADERS = {
    "User-Agent": f"ollama-guard/{__version__}",
    "Content-Type": "application/json",
    "Accept-Encoding": "identity",
}


def deliver(url: str, body: bytes, deadline_seconds: float) -> None:
    """Post ``body`` (JSON) to the webhook; any answer of 200 to 299 means that it was taken.

    Raises:
        AlertFailed: it was not taken, with a sentence that names the host.
    """
    host = host_of(url)
    try:
        with (
            TimedTransport(deadline_seconds) as transport,
            httpx.Client(transport=transport, trust_env=False, headers=_HEADERS) as client,
            client.stream("POST", url, content=body) as response,
        ):
            status = response.status_code
            _hear_out(response)
    except httpcore.TimeoutException as problem:
        hint = _cut_off(url) if isinstance(problem, httpcore.ConnectTimeout) else ""
        raise AlertFailed(f"{host} did not answer within {deadline_seconds:.1f} s{hint}") from problem
    except httpcore.ConnectError as problem:
        said = one_line(str(problem), 200)
        raise AlertFailed(f"{host} can't be reached: {said}{_cut_off(url)}") from problem
    except (httpcore.NetworkError, httpcore.ProtocolError, httpx.HTTPError, httpx.StreamError) as problem:
        raise AlertFailed(f"{host} broke off its answer ({type(problem).__name__})") from problem
    except (httpcore.UnsupportedProtocol, httpx.InvalidURL, ValueError) as problem:
        raise AlertFailed(f"the webhook at {host} is no URL that can be posted to") from problem
    if 300 <= status < 400:
        raise AlertFailed(f"{host} answered with a redirect ({status}), which is not followed")
    if not 200 <= status < 300:
        raise AlertFailed(f"{host} answered with {status}")


def host_of(url: str) -> str:
    """The host and port of a URL, without the user, password, path and query that may hold a secret."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "the webhook"
    return one_line(f"{parts.hostname}{port}", 200) if parts.hostname else "the webhook"


def _cut_off(url: str) -> str:
    """Of an installed guard what may be missing: its unit drops packets to others, which is like silence."""
    if "INVOCATION_ID" not in os.environ or on_loopback(url):  # systemd gives each unit one
        return ""
    return (
        "; the guard's unit reaches loopback alone unless it has the drop-in network.conf (docs/install.md)"
    )


def _hear_out(response: httpx.Response) -> None:
    left = ANSWER_LIMIT
    for chunk in response.iter_raw():
        left -= len(chunk)
        if left < 0:
            return
