"""A TCP server that answers every request as a script says: the ugly side of HTTP, byte by byte."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Callable, Iterator

Script = Callable[[socket.socket, threading.Event], None]


@contextlib.contextmanager
def scripted(script: Script, requests: dict[socket.socket, bytes] | None = None) -> Iterator[str]:
    """Serve on a port of the loopback; yields the URL.

    ``script`` gets each connection after its request, which stands in ``requests`` before.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()
    threads: list[threading.Thread] = []

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            head = _read_request(connection)
            if requests is not None:
                requests[connection] = head
            script(connection, over)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while not over.is_set():
                connection, _ = listener.accept()
                if over.is_set():
                    connection.close()
                    return
                threads.append(threading.Thread(target=serve, args=(connection,)))
                threads[-1].start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    port = listener.getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        over.set()
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port)).close()
        acceptor.join()
        listener.close()
        for thread in threads:
            thread.join()


def _read_request(connection: socket.socket) -> bytes:
    """The whole of it: a connection that is closed with something unread is reset, and its answer lost."""
    request = b""
    while b"\r\n\r\n" not in request:
        request += connection.recv(65536) or b"\r\n\r\n"
    head, _, body = request.partition(b"\r\n\r\n")
    found = re.search(rb"(?i)^content-length: *(\d+)", head, re.MULTILINE)
    missing = int(found[1]) - len(body) if found else 0
    while missing > 0 and (more := connection.recv(missing)):
        request += more
        missing -= len(more)
    return request


def answer(body: bytes, status: str = "200 OK", *headers: str) -> Script:
    """A whole answer at once."""

    def script(connection: socket.socket, _: threading.Event) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
        connection.sendall("\r\n".join(lines).encode() + body)

    return script


def drip(first: bytes, rest: bytes, seconds: float = 0.05) -> Script:
    """``first`` at once, then ``rest`` a byte at a time: never silent, never done."""

    def script(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(first)
        for index in range(len(rest)):
            if over.wait(seconds):
                return
            connection.sendall(rest[index : index + 1])

    return script


def flood(megabytes: int, *headers: str) -> Script:
    """An answer of so many megabytes."""

    def script(connection: socket.socket, _: threading.Event) -> None:
        connection.sendall("\r\n".join(["HTTP/1.1 200 OK", *headers, "", ""]).encode())
        for _piece in range(megabytes * 16):
            connection.sendall(b"x" * 65536)

    return script


def silence(connection: socket.socket, over: threading.Event) -> None:
    """Accept, and never answer."""
    del connection
    over.wait()


def reset(connection: socket.socket, _: threading.Event) -> None:
    """Reset the connection instead of an answer."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")


def hang_up(connection: socket.socket, _: threading.Event) -> None:
    """Close in the middle of an answer."""
    connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"vers')
