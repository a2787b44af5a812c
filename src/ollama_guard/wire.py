"""The wire between the sentinel and hands: one versioned JSON message per SOCK_SEQPACKET packet.

Packets are at most 64 KiB; a longer message goes as fragments. The sender never blocks: what does
not fit into the socket waits in a bounded queue. Of a kind in `LATEST_WINS` only the newest waits;
the other kinds are never dropped by the sender before `QUEUE_LIMIT` packets are waiting.
Foreign or broken packets raise `WireError`; the receiver counts and drops them.
"""

from __future__ import annotations

import contextlib
import errno
import json
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, get_args

from ollama_guard.core.codec import CodecError, from_plain, to_plain
from ollama_guard.core.footprint import Footprint, Lesson
from ollama_guard.core.model import Action, ApiReading, CatalogueEntry, Outcome, Request
from ollama_guard.core.policy import Policy

VERSION = 1
# Bytes; far below the default socket buffer (208 KiB), so that a packet always fits into an empty one.
PACKET_LIMIT = 64 * 1024
# Packets; outcomes are rare, so a queue of this length means that the other side has stopped reading.
QUEUE_LIMIT = 256
# Bytes of one message in fragments; a catalogue of a thousand models takes about 300 KiB.
MESSAGE_LIMIT = 4 * 1024 * 1024
# Packets read in one go: a flood may not hold up the reader's tick.
RECEIVE_LIMIT = 128

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
    | FootprintsObserved | FootprintsLearned
)  # fmt: skip

LATEST_WINS = (Beat, ApiObserved, CatalogueObserved, StatusPosted)

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


@dataclass(slots=True, eq=False)
class _Waiting:
    """One message in the queue; once ``started`` its other packets must follow."""

    kind: type[Any]
    packets: deque[bytes]
    started: bool = False


class Channel:
    """One end of the socketpair, never blocking; used by one thread.

    ``dropped`` counts messages that were never sent, save those whose place a newer one of their kind
    took (that is how `LATEST_WINS` works). ``broken`` counts packets that were not understood;
    ``last_problem`` says what was wrong with the last. ``closed`` is True after end-of-file.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(0)
        self._sock = sock
        self._queue: deque[_Waiting] = deque()
        self._waiting = 0
        self._decoder = Decoder()
        # One byte more than is allowed, so that an oversized packet shows itself.
        self._buffer = bytearray(PACKET_LIMIT + 1)
        self.dropped = 0
        self.broken = 0
        self.last_problem = ""
        self.closed = False

    def fileno(self) -> int:
        """The descriptor to wait on: readable for `receive`, writable for `flush`."""
        return self._sock.fileno()

    @property
    def waiting(self) -> int:
        """Packets that wait for room in the socket."""
        return self._waiting

    def send(self, message: Message) -> bool:
        """Queue a message and send what fits now; False when it had to be dropped."""
        kind = type(message)
        try:
            packets = encode(message)
        except WireError as problem:
            self._drop(str(problem))
            return False
        if kind in LATEST_WINS:
            self._discard(lambda entry: entry.kind is kind)
        if self._waiting + len(packets) > QUEUE_LIMIT and kind not in LATEST_WINS:
            self.dropped += self._discard(lambda entry: entry.kind in LATEST_WINS)
        if self.closed or self._waiting + len(packets) > QUEUE_LIMIT:
            self._drop(f"{kind.__name__} not sent: {'closed' if self.closed else 'the queue is full'}")
            return False
        self._queue.append(_Waiting(kind, deque(packets)))
        self._waiting += len(packets)
        self.flush()
        return True

    def flush(self) -> bool:
        """Send what fits now; True when nothing waits any more."""
        while self._queue and not self.closed:
            entry = self._queue[0]
            try:
                self._sock.send(entry.packets[0], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except (BlockingIOError, InterruptedError):
                return False
            except OSError as problem:
                self._give_up(problem)
                return False
            entry.started = True
            entry.packets.popleft()
            self._waiting -= 1
            if not entry.packets:
                self._queue.popleft()
        return not self._queue

    def receive(self) -> list[Message]:
        """The messages that have come, from at most `RECEIVE_LIMIT` packets; sets ``closed`` at the end."""
        messages: list[Message] = []
        for _ in range(RECEIVE_LIMIT):
            if self.closed:
                break
            try:
                size = self._sock.recv_into(self._buffer, 0, socket.MSG_DONTWAIT)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                size = 0
            if size == 0:
                self.closed = True
                break
            try:
                message = self._decoder.feed(bytes(memoryview(self._buffer)[:size]))
            except WireError as problem:
                self.broken += 1
                self.last_problem = str(problem)
                continue
            if message is not None:
                messages.append(message)
        return messages

    def close(self) -> None:
        """Close the socket; the other side sees end-of-file."""
        self.closed = True
        with contextlib.suppress(OSError):
            self._sock.close()

    def _drop(self, problem: str) -> None:
        self.dropped += 1
        self.last_problem = problem

    def _discard(self, unwanted: Callable[[_Waiting], bool]) -> int:
        """Throw away waiting messages none of whose packets is under way; returns how many."""
        gone = [entry for entry in self._queue if not entry.started and unwanted(entry)]
        for entry in gone:
            self._queue.remove(entry)
            self._waiting -= len(entry.packets)
        return len(gone)

    def _give_up(self, problem: OSError) -> None:
        if problem.errno in (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.EBADF):
            self.closed = True
            return
        if problem.errno == errno.ENOBUFS:  # no kernel memory just now: it stays in the queue
            return
        entry = self._queue.popleft()
        self._waiting -= len(entry.packets)
        self._drop(f"{entry.kind.__name__} not sent: {problem}")
