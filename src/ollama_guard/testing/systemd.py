"""A system bus with a systemd on it, in this process: a unix socket that speaks D-Bus (SASL, then messages).

Follows systemd 252 as far as the guard uses it: a stop job waits for its process, a unit that is killed while
one runs stays stopped, a masked one can't be started, runtime properties outlive a stop, polkit may say no.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from jeepney import HeaderFields, Message, MessageType, Parser, new_error, new_method_return

_SYSTEMD = "org.freedesktop.systemd1"
_PREFIX = "/org/freedesktop/systemd1/unit/"
INFINITY = 2**64 - 1


@dataclass
class FakeUnit:
    """One service. ``obeys``: what ends it: ``stop``, only ``kill``, or ``nothing`` (a process in D).

    ``dependents`` maps a property, such as ``RequiredBy``, to the units that a stop of this one ends too.
    ``oom_policy`` is "" for a systemd that is too old to have one.
    """

    name: str
    main_pid: int = 0
    active: str = "active"
    load: str = "loaded"
    file_state: str = "enabled"
    freezer: str = "running"
    job: int = 0
    active_at_seconds: float = 5.0
    environment_files: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    memory_current: int = INFINITY
    properties: dict[str, int] = field(
        default_factory=lambda: {
            "MemoryMax": INFINITY,
            "MemoryHigh": INFINITY,
            "CPUQuotaPerSecUSec": INFINITY,
        }
    )
    obeys: str = "stop"
    starts: bool = True
    next_pid: int = 4243
    other_pids: tuple[int, ...] = ()
    dependents: dict[str, tuple[str, ...]] = field(default_factory=dict)
    oom_policy: str = ""

    def end(self) -> None:
        """Its process is gone."""
        self.active, self.main_pid, self.job = "inactive", 0, 0


class FakeSystemd:
    """Enter it to have it listen at ``path``; leaving ends it.

    ``denied``: members that polkit refuses; ``silent``: members that are never answered, or ``auth`` for
    a bus that does not even greet; ``asked`` is every call of the manager, as (member, body).
    """

    def __init__(self, path: Path, *units: FakeUnit) -> None:
        self.path = path
        self.units = {unit.name: unit for unit in units}
        self.denied: set[str] = set()
        self.silent: set[str] = set()
        self.asked: list[tuple[str, tuple[Any, ...]]] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._open: list[socket.socket] = []

    def __enter__(self) -> Self:
        self._listener.bind(str(self.path))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        # Closing alone would leave the thread in accept() for ever.
        for sock in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        self.path.unlink(missing_ok=True)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(sock)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            rest = self._greet(sock)
            parser, serial = Parser(), 0
            while rest:
                parser.add_data(rest)
                while (message := parser.get_next_message()) is not None:
                    answer = self._answer(message)
                    if answer is not None:
                        serial += 1
                        sock.sendall(answer.serialise(serial=serial))
                rest = sock.recv(65536)
        sock.close()

    def _greet(self, sock: socket.socket) -> bytes:
        """SASL EXTERNAL; returns what came after BEGIN, or the next bytes."""
        data = b""
        while b"BEGIN\r\n" not in data:
            got = sock.recv(4096)
            if not got:
                return b""
            data += got
            if "auth" not in self.silent and got.lstrip(b"\0").startswith(b"AUTH"):
                sock.sendall(b"OK 0123456789abcdef0123456789abcdef\r\n")
        return data.partition(b"BEGIN\r\n")[2] or sock.recv(65536)

    def _answer(self, message: Message) -> Message | None:
        if message.header.message_type is not MessageType.method_call:
            return None
        member = str(message.header.fields[HeaderFields.member])
        if member in self.silent:
            return None
        if member == "Hello":
            return new_method_return(message, "s", (":1.7",))
        if member == "GetAll":
            return self._properties(message)
        body = tuple(message.body)
        self.asked.append((member, body))
        if member in self.denied:
            return new_error(message, "org.freedesktop.DBus.Error.AccessDenied", "s", ("Permission denied",))
        return self._manage(message, member, body)

    def _properties(self, message: Message) -> Message:
        path = message.header.fields[HeaderFields.path]
        unit = next((unit for unit in self.units.values() if _path(unit) == path), None)
        if unit is None:
            return _problem(message, "NoSuchUnit", "no such unit")
        found = _service(unit) if message.body[0] == f"{_SYSTEMD}.Service" else _unit(unit)
        return new_method_return(message, "a{sv}", (found,))

    def _manage(self, message: Message, member: str, body: tuple[Any, ...]) -> Message:
        if member == "GetUnitByPID":
            unit = next(
                (unit for unit in self.units.values() if body[0] in (unit.main_pid, *unit.other_pids)), None
            )
            if unit is None:
                return _problem(message, "NoUnitForPID", f"PID {body[0]} does not belong to any loaded unit.")
            return new_method_return(message, "o", (_path(unit),))
        if member == "ListUnitsByNames":
            found = [self.units.get(name, _missing(name)) for name in body[0]]
            return new_method_return(message, "a(ssssssouso)", ([_listed(unit) for unit in found],))
        unit = self.units.get(str(body[0]))
        if unit is None:
            if member != "LoadUnit":
                return _problem(message, "NoSuchUnit", f"Unit {body[0]} not loaded.")
            unit = self.units[body[0]] = _missing(str(body[0]))
        if member == "StartUnit" and unit.load == "masked":
            return _problem(message, "UnitMasked", f"Unit {unit.name} is masked.")
        if member == "StopUnit":
            for name in (name for names in unit.dependents.values() for name in names):
                self.units.get(name, _missing(name)).end()
        return _carry_out(message, member, unit, body)


def _carry_out(message: Message, member: str, unit: FakeUnit, body: tuple[Any, ...]) -> Message:
    match member:
        case "LoadUnit":
            return new_method_return(message, "o", (_path(unit),))
        case "StopUnit":
            unit.active, unit.job = "deactivating", 9
            if unit.obeys == "stop":
                unit.end()
            return new_method_return(message, "o", ("/org/freedesktop/systemd1/job/9",))
        case "KillUnit":
            if unit.obeys == "kill":
                unit.end()
        case "ResetFailedUnit":
            unit.active = "inactive"
        case "StartUnit":
            unit.active, unit.main_pid = ("active", unit.next_pid) if unit.starts else ("failed", 0)
            return new_method_return(message, "o", ("/org/freedesktop/systemd1/job/10",))
        case "SetUnitProperties":
            unit.properties |= {name: value for name, (_, value) in body[2]}
        case _:
            return new_error(message, "org.freedesktop.DBus.Error.UnknownMethod", "s", (member,))
    return new_method_return(message)


def _missing(name: str) -> FakeUnit:
    return FakeUnit(name, active="inactive", load="not-found")


def _listed(unit: FakeUnit) -> tuple[object, ...]:
    return (unit.name, unit.name, unit.load, unit.active, "", "", _path(unit), unit.job, "", "/")


def _path(unit: FakeUnit) -> str:
    """As systemd escapes a name into an object path."""
    return _PREFIX + "".join(c if c.isalnum() else f"_{ord(c):02x}" for c in unit.name)


def _unit(unit: FakeUnit) -> dict[str, tuple[str, object]]:
    return {
        "Id": ("s", unit.name),
        "ActiveState": ("s", unit.active),
        "SubState": ("s", "running" if unit.active == "active" else "dead"),
        "LoadState": ("s", unit.load),
        "UnitFileState": ("s", unit.file_state),
        "FreezerState": ("s", unit.freezer),
        **{key: ("as", list(names)) for key, names in unit.dependents.items()},
        "Job": ("(uo)", (unit.job, "/")),
        "ActiveEnterTimestampMonotonic": ("t", int(unit.active_at_seconds * 1e6)),
    }


def _service(unit: FakeUnit) -> dict[str, tuple[str, object]]:
    return {
        "MainPID": ("u", unit.main_pid),
        "EnvironmentFiles": ("a(sb)", [(path, True) for path in unit.environment_files]),
        "Environment": ("as", list(unit.environment)),
        "MemoryCurrent": ("t", unit.memory_current),
        **({"OOMPolicy": ("s", unit.oom_policy)} if unit.oom_policy else {}),
        **{name: ("t", value) for name, value in unit.properties.items()},
    }


def _problem(message: Message, name: str, text: str) -> Message:
    return new_error(message, f"{_SYSTEMD}.{name}", "s", (text,))
