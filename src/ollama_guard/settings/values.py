"""What a value in the file must look like: small checks that say what is wrong and what is allowed.

Each function here makes a `Check`, or is one's; its `ValueError` completes the sentence that begins
with the file, the line, the key and the value. What a check allows is said once: in its sentences and,
by ``make docs``, in the shipped file, the reference and the man page.
"""

from __future__ import annotations

import pwd
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pydantic import BeforeValidator

from ollama_guard.core import naming
from ollama_guard.settings.units import (
    UnitError,
    format_bytes,
    format_duration,
    format_ratio,
    parse_bytes,
    parse_duration,
    parse_ratio,
)

N = TypeVar("N", int, float)

LARGEST_UID = 2**32 - 2  # 2**32 - 1 means "no user" to the kernel
LONGEST_NAME = 512  # characters: registry, namespace, model and tag of Ollama's own limits together
LONGEST_PATH = 4096  # characters: PATH_MAX
LONGEST_TIER = 40  # characters: a word, also as a column
LONGEST_PURPOSE = 200  # characters: two lines of a terminal

_TIER_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{LONGEST_TIER - 1}}}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Check(BeforeValidator):
    """A validator that can say in words what it allows."""

    allowed: str = ""


def duration(least: float, most: float) -> Check:
    """Text like ``"30s"`` between two bounds in seconds; gives seconds."""
    return _between(least, most, parse_duration, format_duration, '"30s"')


def size(value: object) -> int:
    """Text like ``"600MiB"``; gives bytes."""
    return _parsed(parse_bytes, value, 'a size such as "600MiB"', '"600MiB"')


def share_or_size(value: object) -> float | int:
    """``"20%"`` gives a ratio (float), ``"1.5GiB"`` gives bytes (int)."""
    allowed = 'a percentage of the memory such as "20%", or a size such as "1.5GiB"'
    if isinstance(value, str) and "%" in value:
        return _parsed(parse_ratio, value, allowed, '"20%"')
    if isinstance(value, str) and not any(c.isalpha() for c in value):
        raise ValueError(f"has no unit; allowed: {allowed}")
    return _parsed(parse_bytes, value, allowed, '"20%" or "1.5GiB"')


def word(kind: type[StrEnum], *left_out: StrEnum) -> Check:
    """One word of a closed vocabulary; gives the enum's member."""
    words = {member.value: member for member in kind if member not in left_out}
    allowed = ", ".join(f'"{text}"' for text in words)

    def check(value: object) -> StrEnum:
        if isinstance(value, str) and value in words:
            return words[value]
        raise ValueError(f"is none of its words; allowed: {allowed}")

    return Check(check, allowed=allowed)


def whole(least: int, most: int) -> Check:
    """A whole number between two bounds."""
    allowed = f"a whole number from {least} to {most}"

    def check(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError(f"is {_type(value)}, not a whole number; allowed: {allowed}")  # noqa: TRY004 (pydantic)
        if not least <= value <= most:
            raise ValueError(f"is out of range; allowed: {allowed}")
        return value

    return Check(check, allowed=allowed)


def size_within(least: int, most: int) -> Check:
    """Text like ``"64MiB"`` between two bounds in bytes; gives bytes."""
    return _between(least, most, parse_bytes, format_bytes, '"64MiB"')


def share_within(least: float, most: float) -> Check:
    """Text like ``"30%"`` between two bounds; gives a ratio."""
    return _between(least, most, parse_ratio, format_ratio, '"30%"')


def number(least: float, most: float) -> Check:
    """A number between two bounds, whole or not."""
    allowed = f"a number from {least:g} to {most:g}"

    def check(value: object) -> float:
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise ValueError(f"is {_type(value)}, not a number; allowed: {allowed}")  # noqa: TRY004 (pydantic)
        if not least <= value <= most:
            raise ValueError(f"is out of range; allowed: {allowed}")
        return float(value)

    return Check(check, allowed=allowed)


def _between(least: N, most: N, parse: Callable[[str], N], shown: Callable[[N], str], example: str) -> Check:
    """Text that is parsed and has to lie between two bounds; ``example`` is one that is right."""
    allowed = f"{shown(least)} to {shown(most)}"

    def check(value: object) -> N:
        number = _parsed(parse, value, allowed, example)
        if not least <= number <= most:
            raise ValueError(f"is out of range; allowed: {allowed}")
        return number

    return Check(check, allowed=allowed)


def _switch(value: object) -> bool:
    if not isinstance(value, bool):
        problem = f"is {_type(value)}; allowed: {SWITCH.allowed}"
        raise ValueError(problem)  # noqa: TRY004 (pydantic's contract)
    return value


SWITCH = Check(_switch, allowed="true or false, without quotes")


def _folder(value: object) -> str:
    text = _text(value, FOLDER.allowed)
    if text and (
        not text.startswith("/")
        or ".." in text.split("/")
        or not text.isprintable()
        or len(text) > LONGEST_PATH
    ):
        raise ValueError(f"is no folder's path; allowed: {FOLDER.allowed}")
    return text.rstrip("/") or text


# A folder, or "" for the default; gives it without a trailing slash.
FOLDER = Check(_folder, allowed="an absolute path")


def _runtime_name(value: object) -> str:
    text = _text(value, RUNTIME_NAME.allowed)
    if not text.isprintable() or " " in text or "/" in text or len(text) > LONGEST_NAME:
        raise ValueError(f"is no unit and no container; allowed: {RUNTIME_NAME.allowed}")
    return text


RUNTIME_NAME = Check(_runtime_name, allowed='a unit or container such as "ollama.service" or "ollama"')


def _docker_host(value: object) -> str:
    text = _text(value, DOCKER_HOST.allowed)
    schemes = ("unix:///", "tcp://", "http://", "https://")
    if text and (not text.startswith(schemes) or not text.isprintable() or len(text) > LONGEST_PATH):
        raise ValueError(f"is no address of Docker; allowed: {DOCKER_HOST.allowed}")
    return text


DOCKER_HOST = Check(
    _docker_host, allowed='an address as in DOCKER_HOST, such as "unix:///run/user/1000/docker.sock"'
)


def _url(value: object) -> str:
    text = _text(value, URL.allowed)
    problem = _url_problem(text)
    if problem:
        raise ValueError(f"{problem}; allowed: {URL.allowed}")
    return text.rstrip("/")


# Ollama's base address; gives it without a trailing slash.
URL = Check(_url, allowed='http:// or https://, host and port, like "http://127.0.0.1:11434"')


def _webhook(value: object) -> str:
    """Never repeats the value, which is often a secret: neither in its sentences nor in what it lets pass."""
    text = _text(value, WEBHOOK.allowed)
    if text and not _is_webhook(text):
        raise ValueError(f"is no such URL; allowed: {WEBHOOK.allowed}")
    return text


def _is_webhook(text: str) -> bool:
    if not text.isascii() or not text.isprintable() or " " in text or len(text) > LONGEST_PATH:
        return False
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


# Where alerts are posted, or "" for nowhere.
WEBHOOK = Check(_webhook, allowed='an http:// or https:// URL, like "https://chat.example.org/hooks/x"')


def _url_problem(text: str) -> str | None:
    if not text.isascii() or not text.isprintable() or " " in text:
        return "is no URL (a space, control or non-ASCII character)"
    if not text.lower().startswith(("http://", "https://")):
        return "has no scheme that Ollama speaks"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return "is no URL (its host or its port can't be read; a port is 1 to 65535)"
    if not parts.hostname:
        return "names no host"
    if port == 0:
        return "has port 0 (a port is 1 to 65535)"
    if "@" in parts.netloc:
        return "holds a user name or password, which Ollama does not ask for and logs would show"
    if parts.path not in ("", "/") or "?" in text or "#" in text:
        return "goes on after the port (no path, query or fragment)"
    return None


def _user(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        if 0 <= value <= LARGEST_UID:
            return value
        raise ValueError(f"is no user number; allowed: {USER.allowed}")
    name = _text(value, USER.allowed)
    try:
        return pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError, UnicodeError):
        raise ValueError(f"is no user of this machine; allowed: {USER.allowed}") from None


# Gives the number. A name is looked up on this machine, since the guard compares numbers.
USER = Check(_user, allowed='a user of this machine such as "ollama", or its number')


def _cgroup(value: object) -> str:
    text = _text(value, CGROUP.allowed)
    if not text:
        return ""
    if text.startswith("/sys/fs/cgroup"):
        raise ValueError(
            f"is a place in the file system; leave out /sys/fs/cgroup; allowed: {CGROUP.allowed}"
        )
    if (
        not text.startswith("/")
        or ".." in text.split("/")
        or not text.isprintable()
        or len(text) > LONGEST_PATH
    ):
        raise ValueError(f"is no cgroup; allowed: {CGROUP.allowed}")
    return text.rstrip("/")


# As ``/proc/PID/cgroup`` writes it, or "" for any; gives it without a trailing slash.
CGROUP = Check(_cgroup, allowed='a path as in /proc/PID/cgroup, such as "/system.slice/ollama.service"')


def _model_name(value: object) -> str:
    text = _text(value, MODEL_NAME.allowed)
    if not text.strip() or not text.isprintable() or len(text) > LONGEST_NAME:
        raise ValueError(f"is no model name; allowed: {MODEL_NAME.allowed}")
    return text


MODEL_NAME = Check(_model_name, allowed='a name as in `ollama list`, such as [models."llama3.2:3b"]')


def _tier_name(value: object) -> str:
    text = _text(value, TIER_NAME.allowed)
    if not _TIER_NAME.fullmatch(text):
        raise ValueError(f"is no name for a tier; allowed: {TIER_NAME.allowed}")
    return text


# Programs ask for a tier by it, also in addresses and names of their own.
TIER_NAME = Check(_tier_name, allowed=f"letters, digits, ., _ and -, at most {LONGEST_TIER} of them")


def _tier_model(value: object) -> str:
    text = _text(value, TIER_MODEL.allowed)
    if naming.parse(text) is None:
        raise ValueError(f"is no model name; allowed: {TIER_MODEL.allowed}")
    if naming.is_cloud(text):
        raise ValueError(f"runs elsewhere and takes no memory here; allowed: {TIER_MODEL.allowed}")
    return text


TIER_MODEL = Check(_tier_model, allowed='a name as in `ollama list`, such as "smollm:135m"')


def _purpose(value: object) -> str:
    text = _text(value, PURPOSE.allowed)
    if not text.isprintable() or len(text) > LONGEST_PURPOSE:
        raise ValueError(f"is no such text; allowed: {PURPOSE.allowed}")
    return text


PURPOSE = Check(_purpose, allowed=f"one line of text, at most {LONGEST_PURPOSE} characters")


def _parsed(parse: Callable[[str], N], value: object, allowed: str, example: str) -> N:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        problem = f"is a bare number; write it as text with its unit, like {example}; allowed: {allowed}"
        raise ValueError(problem)  # noqa: TRY004 (pydantic's contract)
    text = _text(value, allowed)
    try:
        return parse(text)
    except UnitError as error:
        raise ValueError(f"is {error}; allowed: {allowed}") from None


def _text(value: object, allowed: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"is {_type(value)}, not text; allowed: {allowed}")  # noqa: TRY004 (pydantic's contract)
    return value


def _type(value: Any) -> str:
    names = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "text",
        dict: "a table",
        list: "a list",
    }
    return names.get(type(value), "a date or time")
