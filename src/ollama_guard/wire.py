"""The wire between the sentinel and hands: one versioned JSON message per SOCK_SEQPACKET packet.

Packets are at most 64 KiB; a longer message goes as fragments. The sender never blocks: what does
not fit into the socket waits in a bounded queue. Of a kind in `LATEST_WINS` only the newest waits;
the other kinds are never dropped by the sender before `QUEUE_LIMIT` packets are waiting.
Foreign or broken packets raise `WireError`; the receiver counts and drops them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ollama_guard.core.model import Action, ApiReading, CatalogueEntry, Outcome, Request
from ollama_guard.core.policy import Policy

VERSION = 1
PACKET_LIMIT = 64 * 1024
QUEUE_LIMIT = 256


@dataclass(frozen=True, slots=True)
class Beat:
    """hands -> sentinel, once a second from their main loop: "I am alive"."""

    at: float
    pss_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class ApiObserved:
    """hands -> sentinel: the newest of Ollama's API."""

    api: ApiReading


@dataclass(frozen=True, slots=True)
class CatalogueObserved:
    """hands -> sentinel: every installed local model blob (the whole list; it replaces the last)."""

    entries: tuple[CatalogueEntry, ...]


@dataclass(frozen=True, slots=True)
class OutcomeReported:
    """hands -> sentinel: how an action that hands carried out ended; never dropped."""

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class RequestPosted:
    """hands -> sentinel: a person's wish from the control socket."""

    request: Request


@dataclass(frozen=True, slots=True)
class ActionPosted:
    """sentinel -> hands: carry this out before its deadline and report an Outcome."""

    action: Action


@dataclass(frozen=True, slots=True)
class PollWanted:
    """sentinel -> hands: ask Ollama now (a runner was born or died, or memory is short)."""

    reason: str
    pressed: bool = False


@dataclass(frozen=True, slots=True)
class Replied:
    """sentinel -> hands: the answer to a `RequestPosted`; ``ok`` False means refused or failed."""

    request_id: int
    ok: bool
    text: str
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StatusPosted:
    """sentinel -> hands: the contract's status document, to be served; the latest wins."""

    status: dict[str, Any]


@dataclass(frozen=True, slots=True)
class PolicyPosted:
    """sentinel -> hands: the policy after a reload."""

    policy: Policy


Message = (
    Beat | ApiObserved | CatalogueObserved | OutcomeReported | RequestPosted
    | ActionPosted | PollWanted | Replied | StatusPosted | PolicyPosted
)  # fmt: skip

LATEST_WINS = (Beat, ApiObserved, CatalogueObserved, StatusPosted)
