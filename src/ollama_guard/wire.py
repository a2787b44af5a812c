"""The wire between the sentinel and hands: one versioned JSON message per SOCK_SEQPACKET packet.

Packets are at most 64 KiB; a longer message goes as fragments. Foreign or broken packets raise
`WireError`. How messages are sent without ever waiting is `channel`'s.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, get_args

from ollama_guard.core.codec import CodecError, from_plain, to_plain
from ollama_guard.core.footprint import Footprint, Lesson
from ollama_guard.core.model import (
    Action,
    ApiReading,
    CatalogueEntry,
    Level,
    Outcome,
    Request,
    ServerReading,
    Snapshot,
)
from ollama_guard.core.policy import Policy
from ollama_guard.core.quarantined import StoreReading
from ollama_guard.core.runtime import RuntimeReading
from ollama_guard.core.state import State

VERSION = 1
# Bytes; far below the default socket buffer (208 KiB), so that a packet always fits into an empty one.
PACKET_LIMIT = 64 * 1024
# Bytes of one message in fragments; a catalogue of a thousand models takes about 300 KiB.
MESSAGE_LIMIT = 4 * 1024 * 1024

# A fragment is this mark, ``index/count``, a line feed, and a piece of the message's JSON, which itself
# always starts with a brace. The fragments of one message follow each other without anything between.
_FRAGMENT_MARK = b"#"
# Bytes; room for the mark, two numbers and the line feed.
_HEADER_ROOM = 24


class WireError(ValueError):
    """A packet or message that is not of this wire; the sentence says what is wrong with it."""


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
class FootprintsObserved:
    """hands -> sentinel: rows of the ledger that are new or have changed; ``anew``: forget all others first.

    ``at`` and ``watched_seconds`` as in `core.footprint.Ledger`. A whole ledger comes a few rows at a time,
    so that taking it in never makes a tick late.
    """

    at: float
    watched_seconds: float
    rows: tuple[Footprint, ...] = ()
    anew: bool = False


@dataclass(frozen=True, slots=True)
class RuntimesObserved:
    """hands -> sentinel: how each server is run (the whole list; it replaces the last)."""

    runtimes: tuple[RuntimeReading, ...]


@dataclass(frozen=True, slots=True)
class StoreObserved:
    """hands -> sentinel: the model store and what is hidden in it."""

    store: StoreReading


@dataclass(frozen=True, slots=True)
class ServersTold:
    """sentinel -> hands: the proven servers, whenever they change; hands find out how they are run."""

    servers: tuple[ServerReading, ...]


@dataclass(frozen=True, slots=True)
class OutcomeReported:
    """hands -> sentinel: how an action that hands carried out ended; never dropped."""

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class RequestPosted:
    """hands -> sentinel: a person's wish from the control socket."""

    request: Request


@dataclass(frozen=True, slots=True)
class SceneWanted:
    """hands -> sentinel: somebody asks what would fit; tell what the last tick saw and knew."""

    scene_id: int


@dataclass(frozen=True, slots=True)
class TraceWanted:
    """hands -> sentinel: start a trace with a header, or (``wanted`` False) stop recording.

    ``continues`` when only the file is full; ``lost`` counts records that could not be written.
    """

    wanted: bool
    continues: bool = False
    lost: int = 0


@dataclass(frozen=True, slots=True)
class ActionPosted:
    """sentinel -> hands: carry this out before its deadline and report an Outcome."""

    action: Action


@dataclass(frozen=True, slots=True)
class FootprintsLearned:
    """sentinel -> hands: what a tick taught about footprints, to be kept."""

    lessons: tuple[Lesson, ...]


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
class SceneTold:
    """sentinel -> hands: the answer to a `SceneWanted`.

    Without what hands know themselves and may be long: the snapshot's catalogue and footprints are empty.
    """

    scene_id: int
    state: State
    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class StatusPosted:
    """sentinel -> hands: the contract's status document, to be served; the latest wins."""

    status: dict[str, Any]


@dataclass(frozen=True, slots=True)
class PolicyPosted:
    """sentinel -> hands: the policy after a reload."""

    policy: Policy


@dataclass(frozen=True, slots=True)
class Recorded:
    """sentinel -> hands: whole lines of a trace (`core.trace`), ``count`` of them, for its present file.

    With ``starts`` the first line is a header. ``level`` is the one after the last of them. May be dropped.
    """

    lines: str
    count: int
    level: Level = Level.OK
    starts: bool = False


@dataclass(frozen=True, slots=True)
class Noticed:
    """sentinel -> hands: an event that a person should know of at once; ``wall`` is when it happened."""

    name: str
    message: str
    wall: float
    fields: dict[str, Any] = field(default_factory=dict)


Message = (
    Beat | ApiObserved | CatalogueObserved | OutcomeReported | RequestPosted | TraceWanted
    | ActionPosted | PollWanted | Replied | StatusPosted | PolicyPosted | Recorded
    | FootprintsObserved | FootprintsLearned | SceneWanted | SceneTold
    | RuntimesObserved | StoreObserved | ServersTold | Noticed
)  # fmt: skip

LATEST_WINS = (
    Beat, ApiObserved, CatalogueObserved, StatusPosted, RuntimesObserved, StoreObserved, ServersTold,
)  # fmt: skip

# Kinds that give way to all others: what is sent of them waits in a line of its own, and may be dropped.
GIVE_WAY = (Recorded,)

_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in get_args(Message)}


def encode(message: Message) -> list[bytes]:
    """The packets of one message, each at most `PACKET_LIMIT` bytes.

    Raises:
        WireError: when the message is longer than `MESSAGE_LIMIT` or can't be written as JSON.
    """
    document = {"v": VERSION, "kind": type(message).__name__, "body": to_plain(message)}
    try:
        text = json.dumps(document, allow_nan=False, separators=(",", ":")).encode("ascii")
    except (TypeError, ValueError, RecursionError) as problem:
        raise WireError(f"{type(message).__name__} can't be written as JSON: {problem}") from problem
    if len(text) <= PACKET_LIMIT:
        return [text]
    if len(text) > MESSAGE_LIMIT:
        raise WireError(
            f"{type(message).__name__} has {len(text)} bytes; at most {MESSAGE_LIMIT} can be sent"
        )
    room = PACKET_LIMIT - _HEADER_ROOM
    pieces = [text[start : start + room] for start in range(0, len(text), room)]
    return [b"#%d/%d\n" % (index, len(pieces)) + piece for index, piece in enumerate(pieces)]


class Decoder:
    """Puts packets together again; a broken packet costs its own message and nothing else."""

    __slots__ = ("_count", "_pieces")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._count = 0

    def feed(self, packet: bytes) -> Message | None:
        """The message that this packet completes, or None while fragments are missing.

        Raises:
            WireError: for a foreign, broken or oversized packet, or a fragment out of turn.
        """
        if len(packet) > PACKET_LIMIT:
            self._forget()
            raise WireError(f"packet longer than {PACKET_LIMIT} bytes")
        if packet[:1] == _FRAGMENT_MARK:
            return self._feed_fragment(packet)
        self._forget()
        return _parse(packet)

    def _feed_fragment(self, packet: bytes) -> Message | None:
        index, count, piece = self._split(packet)
        if index == 0:
            self._pieces, self._count = [], count
        if index != len(self._pieces) or count != self._count:
            self._forget()
            raise WireError(f"fragment {index} of {count} out of turn")
        self._pieces.append(piece)
        if len(self._pieces) < self._count:
            return None
        text = b"".join(self._pieces)
        self._forget()
        return _parse(text)

    def _split(self, packet: bytes) -> tuple[int, int, bytes]:
        header, _, piece = packet.partition(b"\n")
        first, _, second = header[1:].partition(b"/")
        if len(header) <= _HEADER_ROOM and first.isdigit() and second.isdigit():
            index, count = int(first), int(second)
            if 0 <= index < count <= MESSAGE_LIMIT // (PACKET_LIMIT - _HEADER_ROOM) + 1:
                return index, count, piece
        self._forget()
        raise WireError("fragment with a broken header")

    def _forget(self) -> None:
        self._pieces, self._count = [], 0


def _parse(text: bytes) -> Message:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise WireError(f"packet is not JSON: {problem}") from problem
    if not isinstance(document, dict) or document.get("v") != VERSION:
        raise WireError(f"packet is not of wire version {VERSION}")
    name = document.get("kind")
    kind = _KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise WireError(f"unknown kind of message {str(name)[:40]!r}")
    try:
        message: Message = from_plain(kind, document.get("body"))
    except (CodecError, RecursionError) as problem:
        raise WireError(f"{name}: {problem}") from problem
    return message
