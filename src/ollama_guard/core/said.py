"""What Ollama makes of its version, environment and addresses: plain questions, read as it reads them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from ollama_guard.core.foreseen import DEFAULT_CONTEXT_TOKENS

DEFAULT_PORT = 11434

# The first version whose runners are llama-server processes, each with a prompt cache (facts, section 0).
_PROMPT_CACHE_SINCE = (0, 30)

# What Go's time.ParseDuration and strconv.ParseInt take, ASCII alone; several parts follow each other.
_UNIT_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}
_PART = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_DURATION = re.compile(rf"[+-]?(?:{_PART.pattern})+")
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")


def has_prompt_cache(version: str | None) -> bool | None:
    """Whether its runners keep a prompt cache of up to 8 GiB (facts 3.3); None: the version is not known."""
    return since(version, _PROMPT_CACHE_SINCE)


def tests_memory(version: str | None) -> bool | None:
    """Whether it tests memory before it loads a model on a CPU: no more since 0.30 (facts 2.4)."""
    before = since(version, _PROMPT_CACHE_SINCE)
    return None if before is None else not before


def since(version: str | None, first: tuple[int, int]) -> bool | None:
    """Whether a version is ``first`` or later; None: it is not known."""
    head = (version or "").split("-")[0].split(".")
    try:
        return (int(head[0]), int(head[1])) >= first
    except (ValueError, IndexError):
        return None


def listens_at(host: str) -> tuple[str, int]:
    """(address, port) of an OLLAMA_HOST; its default is 127.0.0.1:11434 (facts 2.5)."""
    text = host.strip().strip("\"'")
    scheme, separator, rest = text.partition("://")
    default = DEFAULT_PORT
    if separator:
        default, text = {"http": 80, "https": 443}.get(scheme.lower(), DEFAULT_PORT), rest
    text = text.split("/")[0]
    address, colon, port = text.rpartition(":")
    if colon and not address:
        address = "0.0.0.0"  # noqa: S104 (":8080" is a port alone: Ollama then listens everywhere)
    elif text.endswith("]") or not colon or (address.count(":") and not address.startswith("[")):
        address, port = text, ""
    number = int(port) if port.isascii() and port.isdigit() and 0 < int(port) < 65536 else default
    return address.strip("[]") or "127.0.0.1", number


def open_to_all(address: str) -> bool:
    """Whether an address to listen at is every address of the machine."""
    return address in ("0.0.0.0", "::", "*")  # noqa: S104 (this is the test for it)


def on_loopback(url: str) -> bool:
    """Whether a URL says loopback; this machine's other addresses don't count."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def context_tokens(environment: Mapping[str, str] | None) -> int:
    """Ollama's default context on a CPU under this environment (facts 2.5)."""
    return positive((environment or {}).get("OLLAMA_CONTEXT_LENGTH", "")) or DEFAULT_CONTEXT_TOKENS


def positive(text: str) -> int:
    """A whole number above zero as Ollama reads it; 0 for anything else, which is its default."""
    text = text.strip().strip("\"'")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0


def keep_alive_seconds(said: str) -> float | None:
    """An OLLAMA_KEEP_ALIVE in seconds, negative for ever; None for what Ollama can't read (facts 1.6).

    It takes a Go duration or a whole number of seconds; anything else is silently its default, 5 minutes.
    """
    text = said.strip().strip("\"'")
    if _WHOLE.fullmatch(text):
        return float(text)
    if not _DURATION.fullmatch(text):
        return None
    seconds = sum(float(number) * _UNIT_SECONDS[unit] for number, unit in _PART.findall(text))
    return -seconds if text.startswith("-") else seconds


def pins_for_ever(keep_alive: str) -> bool:
    """Whether an OLLAMA_KEEP_ALIVE keeps models for ever: a negative number or duration (facts 1.6)."""
    seconds = keep_alive_seconds(keep_alive)
    return seconds is not None and seconds < 0
