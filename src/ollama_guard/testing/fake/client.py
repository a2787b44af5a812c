"""The server's side of a runner's HTTP port."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

_LINE_LIMIT = 1024 * 1024  # bytes; an answer line of the runner is far smaller


async def ask(port: int, method: str, path: str, body: Any = None) -> AsyncIterator[bytes]:
    """The answer's status line first, then the lines of its body, until the runner closes.

    Raises:
        OSError: the runner can't be reached, or its connection broke.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=_LINE_LIMIT)
    try:
        data = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Length: {len(data)}\r\n\r\n"
        writer.write(head.encode() + data)
        yield await reader.readline()
        while (await reader.readline()).strip():
            pass
        while line := await reader.readline():
            if line.strip():
                yield line
    finally:
        writer.close()


async def healthy(port: int) -> bool:
    """Whether the runner says that it is loaded and well."""
    try:
        lines = [line async for line in ask(port, "GET", "/health")]
    except OSError:
        return False
    return len(lines) == 2 and b" 200 " in lines[0] and json.loads(lines[1]).get("status") == "ok"
