"""One end of the wire: sends and receives its messages, and never waits.

What does not fit into the socket waits in a bounded queue. Of a kind in `LATEST_WINS` only the newest
waits; the other kinds are never dropped by the sender before `QUEUE_LIMIT` packets are waiting.
Of a kind in `GIVE_WAY` little waits, in a line of its own behind all others.
Foreign or broken packets are counted and dropped by the receiver.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ollama_guard.wire import GIVE_WAY, LATEST_WINS, PACKET_LIMIT, Decoder, Message, WireError, encode

# Packets; outcomes are rare, so a queue of this length means that the other side has stopped reading.
QUEUE_LIMIT = 256
# Packets of `GIVE_WAY` kinds that may wait (2 MiB): the reader is late; more would only hold memory.
GIVE_WAY_LIMIT = 32
# Packets read in one go: a flood may not hold up the reader's tick.
RECEIVE_LIMIT = 128


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
        self._later: deque[_Waiting] = deque()
        self._waiting = self._waiting_later = 0
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
        return self._waiting + self._waiting_later

    def send(self, message: Message) -> bool:
        """Queue a message and send what fits now; False when it had to be dropped."""
        kind = type(message)
        try:
            packets = encode(message)
        except WireError as problem:
            self._drop(str(problem))
            return False
        if kind in GIVE_WAY:
            return self._send_later(kind, packets)
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

    def _send_later(self, kind: type[Any], packets: list[bytes]) -> bool:
        """As `send`, for what gives way: nothing of it takes room from other kinds."""
        if self.closed or self._waiting_later + len(packets) > GIVE_WAY_LIMIT:
            self._drop(f"{kind.__name__} not sent: {'closed' if self.closed else 'too much waits'}")
            return False
        self._later.append(_Waiting(kind, deque(packets)))
        self._waiting_later += len(packets)
        self.flush()
        return True

    def flush(self) -> bool:
        """Send what fits now; True when nothing waits any more."""
        while (self._queue or self._later) and not self.closed:
            # A message of which a part is under way is finished first: its fragments stay together.
            behind = not self._queue or (self._later and self._later[0].started)
            queue = self._later if behind else self._queue
            entry = queue[0]
            try:
                self._sock.send(entry.packets[0], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except (BlockingIOError, InterruptedError):
                return False
            except OSError as problem:
                self._give_up(queue, problem)
                return False
            entry.started = True
            entry.packets.popleft()
            self._left(queue, 1)
            if not entry.packets:
                queue.popleft()
        return not (self._queue or self._later)

    def _left(self, queue: deque[_Waiting], packets: int) -> None:
        """So many packets wait no more in one of the two queues."""
        if queue is self._later:
            self._waiting_later -= packets
        else:
            self._waiting -= packets

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

    def _give_up(self, queue: deque[_Waiting], problem: OSError) -> None:
        if problem.errno in (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.EBADF):
            self.closed = True
            return
        if problem.errno == errno.ENOBUFS:  # no kernel memory just now: it stays in the queue
            return
        entry = queue.popleft()
        self._left(queue, len(entry.packets))
        self._drop(f"{entry.kind.__name__} not sent: {problem}")
