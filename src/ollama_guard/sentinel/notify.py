"""Word to systemd: sd_notify, never blocking, quiet where no ``NOTIFY_SOCKET`` is set."""

from __future__ import annotations

import os

import sdnotify

# A watchdog needs a sign of life each half period; WatchdogSec is 30 s or more, so once a second is plenty
# and keeps fast ticks from flooding the socket.
_WATCHDOG_SECONDS = 1.0


class Notifier:
    """The service manager's notification socket, if there is one."""

    def __init__(self) -> None:
        self.reason = ""
        self.dropped = 0
        self._status = ""
        self._watchdog_at: float | None = None
        self._notifier: sdnotify.SystemdNotifier | None = None
        address = os.environ.get("NOTIFY_SOCKET", "")
        self.wanted = bool(address)
        if not self.wanted:
            self.reason = "NOTIFY_SOCKET is not set"
            return
        # sdnotify leaks its socket when it can't connect, so the usual failure is looked for first; by no
        # Path.exists, which raises where it may not be looked at.
        if address.startswith("/") and not os.path.exists(address):  # noqa: PTH110
            self.reason = f"NOTIFY_SOCKET is set, but {address} is not there"
            return
        try:
            self._notifier = sdnotify.SystemdNotifier(debug=True)
            self._notifier.socket.setblocking(False)  # noqa: FBT003 - its only signature
        except OSError as error:
            self._notifier = None
            self.reason = f"NOTIFY_SOCKET is set, but can't be reached: {error.strerror}"

    @property
    def active(self) -> bool:
        """Whether a service manager listens."""
        return self._notifier is not None

    def ready(self) -> None:
        """Say that start-up, or a reload, is finished."""
        self._send("READY=1")

    def reloading(self, monotonic_seconds: float) -> None:
        """Say that the configuration is being read again (``CLOCK_MONOTONIC``, as systemd wants it)."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={int(monotonic_seconds * 1e6)}")

    def stopping(self) -> None:
        """Say that the guard ends."""
        self._send("STOPPING=1")

    def status(self, line: str) -> None:
        """Show one human line in ``systemctl status``; sent only when it changed."""
        if line != self._status and self._send(f"STATUS={line}"):
            self._status = line

    def watchdog(self, now: float) -> None:
        """A sign of life; to be called by a completed tick only."""
        if self._watchdog_at is None or now - self._watchdog_at >= _WATCHDOG_SECONDS:
            self._watchdog_at = now
            self._send("WATCHDOG=1")

    def close(self) -> None:
        """Close the socket."""
        if self._notifier is not None:
            self._notifier.socket.close()
            self._notifier = None

    def _send(self, text: str) -> bool:
        if self._notifier is None:
            return False
        try:
            self._notifier.notify(text)
        except OSError:
            self.dropped += 1
            return False
        return True
