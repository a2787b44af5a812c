"""The system bus: calls under one total deadline, and their failures by name.

jeepney packs and unpacks; its own connection waits for the greeting without a limit, so the socket is ours.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

from jeepney import DBusAddress, HeaderFields, MessageType, Parser, new_method_call
from jeepney.auth import AuthenticationError
from jeepney.bus import get_bus
from jeepney.io.blocking import prep_socket

from ollama_guard.core.events import one_line
from ollama_guard.errors import RuntimeFailed
from ollama_guard.hands.adapters.foreign import listed, text

SYSTEMD = "org.freedesktop.systemd1"
MANAGER = DBusAddress("/org/freedesktop/systemd1", SYSTEMD, f"{SYSTEMD}.Manager")
_BUS = DBusAddress("/org/freedesktop/DBus", "org.freedesktop.DBus", "org.freedesktop.DBus")
_PROPERTIES = "org.freedesktop.DBus.Properties"
_READ_BYTES = 65536
_ERRORS = "org.freedesktop.DBus.Error."
# What the bus and systemd say, by the word that we have for it; all else was refused.
_KINDS = {
    f"{_ERRORS}AccessDenied": "denied",
    f"{_ERRORS}InteractiveAuthorizationRequired": "denied",
    f"{_ERRORS}AuthFailed": "denied",
    f"{_ERRORS}NoReply": "hanging",
    f"{_ERRORS}Timeout": "hanging",
    f"{_ERRORS}TimedOut": "hanging",
    f"{_ERRORS}ServiceUnknown": "absent",
    f"{_ERRORS}NameHasNoOwner": "absent",
    f"{_ERRORS}UnknownObject": "gone",
    f"{_ERRORS}UnknownMethod": "unsupported",
    f"{_ERRORS}PropertyReadOnly": "unsupported",
    f"{SYSTEMD}.NoSuchUnit": "gone",
    f"{SYSTEMD}.NoUnitForPID": "gone",
    f"{SYSTEMD}.UnitMasked": "masked",
}


class Call:
    """One connection to the bus, for one operation; raises only `RuntimeFailed`."""

    def __init__(self, sock: Any, deadline_at: float) -> None:
        self._sock = sock
        self._deadline_at = deadline_at
        self._parser = Parser()
        self._serials = count(1)

    @property
    def left_seconds(self) -> float:
        """What is left of the total deadline."""
        return self._deadline_at - time.monotonic()

    def hello(self) -> None:
        """The first call of every connection."""
        self._ask(new_method_call(_BUS, "Hello"))

    def manager(self, member: str, signature: str, *body: object) -> tuple[Any, ...]:
        """Call a method of systemd's manager."""
        return self._ask(new_method_call(MANAGER, member, signature, body))

    def path(self, member: str, signature: str, *body: object) -> str:
        """Call a method of systemd's manager that answers with an object's path."""
        answer = self.manager(member, signature, *body)
        if len(answer) != 1 or not isinstance(answer[0], str):
            raise RuntimeFailed("bad_answer", f"systemd told no path when it was asked for {member}")
        return answer[0]

    def properties(self, path: str, interface: str) -> dict[str, Any]:
        """All properties of an object's interface, without their types."""
        address = DBusAddress(path, SYSTEMD, _PROPERTIES)
        answer = self._ask(new_method_call(address, "GetAll", "s", (f"{SYSTEMD}.{interface}",)))
        found = answer[0] if len(answer) == 1 else None
        if not isinstance(found, Mapping):
            raise RuntimeFailed("bad_answer", f"systemd told no properties of {path}")
        return {text(name): typed[1] for name, typed in found.items() if len(listed(typed)) == 2}

    def _ask(self, message: Any) -> tuple[Any, ...]:
        serial = next(self._serials)
        with naming():
            self._tighten()
            self._sock.sendall(message.serialise(serial=serial))
            reply = self._reply_to(serial)
        body = tuple(reply.body)
        if reply.header.message_type is MessageType.error:
            name = str(reply.header.fields.get(HeaderFields.error_name, ""))
            said = one_line(str(body[0]) if body else name, 300)
            raise RuntimeFailed(_KINDS.get(name, "refused"), f"systemd: {said}")
        return body

    def _reply_to(self, serial: int) -> Any:
        while True:
            message = self._parser.get_next_message()
            if message is None:
                self._tighten()
                data = self._sock.recv(_READ_BYTES)
                if not data:
                    raise ConnectionResetError("the bus closed the connection")
                self._parser.add_data(data)
            elif message.header.fields.get(HeaderFields.reply_serial) == serial:
                return message

    def _tighten(self) -> None:
        left = self.left_seconds
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(left)


@contextlib.contextmanager
def calls(address: str, deadline_seconds: float) -> Iterator[Call]:
    """A connection to the bus at a socket's path ("" = the system's own), for one operation."""
    deadline_at = time.monotonic() + deadline_seconds
    with naming():
        sock = prep_socket(address or get_bus("SYSTEM"), timeout=max(deadline_seconds, 0.0))
    with contextlib.closing(sock):
        call = Call(sock, deadline_at)
        call.hello()
        yield call


@contextlib.contextmanager
def naming() -> Iterator[None]:
    """Raise our own exception for whatever goes wrong between us and the bus."""
    try:
        yield
    except (TimeoutError, BlockingIOError) as problem:
        raise RuntimeFailed("hanging", "the system bus or systemd did not answer in time") from problem
    except (PermissionError, AuthenticationError) as problem:
        raise RuntimeFailed("denied", "the system bus may not be used by this user") from problem
    except OSError as problem:
        raise RuntimeFailed("absent", f"no system bus: {problem.strerror or problem}") from problem
    except (ValueError, LookupError, TypeError) as problem:
        odd = f"the system bus answered oddly: {one_line(str(problem), 200)}"
        raise RuntimeFailed("bad_answer", odd) from problem
