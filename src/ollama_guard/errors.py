"""The guard's own exceptions.

GuardError
├── ConfigError            the owner's file: which value, where, what is allowed   (exit 78)
├── LedgerError            the footprint ledger's file can't be read or written now
│   └── NewerLedger        it is of a newer version of this program, which alone may write it
├── ServiceUnavailable     the daemon, or what a command needs, is not there       (exit 69)
├── OllamaError            one call to Ollama's API failed; ``kind`` names how
│   (kinds: refused, timeout, too_large, bad_answer, http_error, not_found, redirect)
├── RuntimeFailed          Docker, systemd or a process did not do what it was asked; ``kind`` names how
│   (kinds: absent, denied, gone, masked, hanging, stuck, refused, unsupported, bad_answer)
├── StoreFailed            a manifest can't be read, renamed or put back
└── AlertFailed            the owner's webhook did not take an alert, or an alert can't be kept on disk
"""

from __future__ import annotations


class GuardError(Exception):
    """Anything that the guard can say in one sentence."""


class ConfigError(GuardError):
    """A bad configuration: ``problems`` are sentences, one per bad value."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class ServiceUnavailable(GuardError):
    """What was asked for needs something that is not running or not reachable."""


class LedgerError(GuardError):
    """The footprint ledger's file can't be read or written now: the disk, its rights, another's lock."""


class NewerLedger(LedgerError):
    """The file is of a newer schema than this program knows; it is left as it is."""


class OllamaError(GuardError):
    """A call to Ollama failed; ``kind`` is a short stable word, the message one sentence."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class RuntimeFailed(GuardError):
    """A call to a runtime failed; ``kind`` is a short stable word, the message one sentence."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class StoreFailed(GuardError):
    """Ollama's model store can't be read or changed; the message says which file and why."""


class AlertFailed(GuardError):
    """An alert was not taken, or can't be kept; the message names the webhook's host, never its URL."""
