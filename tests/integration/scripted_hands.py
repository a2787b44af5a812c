"""A tiny stand-in for hands, as a program: its first argument is what it does."""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

from ollama_guard.channel import Channel
from ollama_guard.core.model import ActionKind, Outcome, OutcomeKind, Request
from ollama_guard.core.quarantined import StoreReading
from ollama_guard.core.runtime import RuntimeKind, RuntimeReading, RuntimeState
from ollama_guard.wire import (
    ActionPosted,
    Beat,
    OutcomeReported,
    PollWanted,
    Replied,
    RequestPosted,
    RuntimesObserved,
    StoreObserved,
)


def main() -> None:
    role = sys.argv[1]
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int)
    parser.add_argument("--policy-fd", type=int)
    parser.add_argument("--runtime-dir")
    parser.add_argument("--state-dir")
    options = parser.parse_args(sys.argv[2:])
    sock = socket.socket(fileno=options.fd)
    channel = Channel(sock)
    match role:
        case "die":
            sys.exit(3)
        case "mute":
            time.sleep(600)
        case "garbage":
            sock.setblocking(True)  # noqa: FBT003 - its only signature
            while True:
                sock.send(b"\xff garbage")
        case "deaf":  # ignores TERM, reads nothing, beats
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            while True:
                channel.send(Beat(0.0))
                time.sleep(0.05)
        case "report":
            report(channel, options)
        case "playbook" | "playbook-stuck" | "playbook-resumed":
            playbook(channel, options, role)
        case _:
            beat(channel, role)


def report(channel: Channel, options: argparse.Namespace) -> None:
    """Tell what was inherited, then beat."""
    text = json.dumps(
        {
            "fds": sorted(int(fd.name) for fd in Path("/proc/self/fd").iterdir() if int(fd.name) > 2),
            "own": [options.fd, options.policy_fd],
            "policy": os.read(options.policy_fd, 1 << 20).decode(),
            "pipe": signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN,
            "term": signal.getsignal(signal.SIGTERM) == signal.SIG_DFL,
            "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        }
    )
    channel.send(RequestPosted(Request(1, "told", text)))
    beat(channel, "beat")


def playbook(channel: Channel, options: argparse.Namespace, role: str) -> None:
    """Order a playbook by hand (a resumed one goes on by itself), and do each step at once.

    ``playbook-stuck`` never answers a stop. Each step is told with what the state map holds just then.
    """
    runtime = RuntimeReading(
        RuntimeKind.SYSTEMD,
        "ollama.service",
        RuntimeState.RUNNING,
        verbs=("stop", "start"),
        constrainable=True,
    )
    channel.send(RuntimesObserved((runtime,)))
    channel.send(StoreObserved(StoreReading("/models", writable=True, read_at=1.0)))
    if role != "playbook-resumed":
        channel.send(RequestPosted(Request(7, "playbook", "freeze")))
    while not channel.closed:
        channel.send(Beat(0.0, 1024))
        for message in channel.receive():
            if isinstance(message, ActionPosted):
                action = message.action
                held = (Path(options.runtime_dir) / "state").read_bytes()
                written = f'"action_id":{action.id},'.encode() in held
                sys.stderr.write(f"STEP {action.kind.value} {'written' if written else 'NOT written'}\n")
                sys.stderr.flush()
                if not (role == "playbook-stuck" and action.kind is ActionKind.STOP):
                    done = Outcome(action.id, OutcomeKind.DONE, 0.0, detail="done by the script")
                    channel.send(OutcomeReported(done))
        time.sleep(0.05)


def beat(channel: Channel, role: str) -> None:
    """Beat, and answer actions as the role says: ``refuse`` fails them, ``pause`` asks for a pause first."""
    if role == "pause":
        channel.send(RequestPosted(Request(42, "pause", seconds=3600.0)))
    while not channel.closed:
        channel.send(Beat(0.0, 1024))
        for message in channel.receive():
            match message:
                case ActionPosted() if role == "refuse":
                    outcome = Outcome(
                        message.action.id, OutcomeKind.FAILED, 0.0, detail="refused by the script"
                    )
                    channel.send(OutcomeReported(outcome))
                case Replied():
                    sys.stderr.write(f"REPLIED {message.request_id} {message.ok} {message.text}\n")
                    sys.stderr.flush()
                case PollWanted():
                    sys.stderr.write(f"POLL pressed={message.pressed}\n")
                    sys.stderr.flush()
                case _:
                    pass
        time.sleep(0.05)


if __name__ == "__main__":
    main()
