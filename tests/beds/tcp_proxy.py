"""Holds a port and passes every connection on, as docker-proxy does; told so, it makes the server silent.

usage: tcp_proxy.py PORT UPSTREAM_PORT     (says `ready` once it listens; ends with its standard input)

Lines on its standard input: `hang` (from now on requests are taken and never answered), `block-ps SECONDS`
(from the next unload on, `/api/ps` waits that long, as it does while the server holds its lock), and
`unloads`. Each is answered with `ok`, `unloads` with the CLOCK_BOOTTIME of each unload since the last time.
"""

import asyncio
import contextlib
import sys
import time

_UPSTREAM_PORT = int(sys.argv[2])
# A guard's only POST to this route is an unload; one to read the list is a GET.
_UNLOAD, _PS = b"POST /api/generate ", b"GET /api/ps "


class _Silence:
    """What is held back now."""

    def __init__(self) -> None:
        self._pass = asyncio.Event()
        self._pass.set()
        self._block_seconds = 0.0
        self._blocked_until = 0.0
        self._unloads: list[float] = []

    def obey(self, line: bytes) -> str:
        """Take one line of the standard input; returns the answer to it."""
        match line.split():
            case [b"hang"]:
                self._pass.clear()
            case [b"block-ps", seconds]:
                self._block_seconds = float(seconds)
            case [b"unloads"]:
                told, self._unloads = self._unloads, []
                return " ".join(["ok", *map(str, told)])
        return "ok"

    async def hold(self, data: bytes) -> None:
        """Keep what a client says for as long as it must wait."""
        if data.startswith(_UNLOAD):
            self._unloads.append(time.clock_gettime(time.CLOCK_BOOTTIME))
            # A second unload must not end what the first one began.
            self._blocked_until = max(self._blocked_until, time.monotonic() + self._block_seconds)
            self._block_seconds = 0.0
        if data.startswith(_PS):
            await asyncio.sleep(self._blocked_until - time.monotonic())
        await self._pass.wait()


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter, silence: _Silence | None) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(1 << 16):
            if silence is not None:
                await silence.hold(data)
            target.write(data)
            await target.drain()
    target.close()


async def _main() -> None:
    silence = _Silence()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", _UPSTREAM_PORT)
        except OSError:
            writer.close()
            return
        await asyncio.gather(_pump(reader, back, silence), _pump(there, writer, None))

    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]))
    _say("ready")
    async with server:
        while line := await asyncio.to_thread(sys.stdin.buffer.readline):
            _say(silence.obey(line))


def _say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(_main())
