"""Puts `hands` together.

The sentinel starts ``python -I -m ollama_guard.hands --fd N --policy-fd M --runtime-dir R --state-dir S``.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import socket
from collections.abc import Sequence
from pathlib import Path

from ollama_guard.channel import Channel
from ollama_guard.control.apps import control_app, status_app
from ollama_guard.control.sockets import Face
from ollama_guard.core.codec import from_plain
from ollama_guard.core.policy import Policy
from ollama_guard.errors import ServiceUnavailable
from ollama_guard.hands import process
from ollama_guard.hands.acting import Actor
from ollama_guard.hands.acting_on_servers import ServerActor
from ollama_guard.hands.adapters.ollama import OllamaAdapter
from ollama_guard.hands.alertdoc import noticed
from ollama_guard.hands.alerts import Alerts
from ollama_guard.hands.desk import Desk
from ollama_guard.hands.environment import EnvironmentFile
from ollama_guard.hands.faces import Meter, StatusBoard, StatusFile
from ollama_guard.hands.journal import EventLogger, configure, log
from ollama_guard.hands.lanes import Mailbox, boottime
from ollama_guard.hands.ledger import LedgerKeeper
from ollama_guard.hands.link import Dispatcher, Parts
from ollama_guard.hands.models import Known, Models
from ollama_guard.hands.quarantine import Known as Names
from ollama_guard.hands.quarantine import Quarantine
from ollama_guard.hands.reclaiming import Reclaimer
from ollama_guard.hands.recording import Recording
from ollama_guard.hands.runtimes import Runtimes
from ollama_guard.hands.watch import OllamaWatch
from ollama_guard.hands.weighing import Scales
from ollama_guard.hands.wiring import runtime_ports
from ollama_guard.store.footprints import FootprintStore

# Bytes; a policy with hundreds of model rules stays far below it.
_POLICY_LIMIT = 1024 * 1024
# Threads that wait for the sentinel's answers; more wishes at a time wait in line.
_CONTROL_THREADS = 4
# One may wait for the sentinel to tell what fits, while the other serves what hangs on the board.
_STATUS_THREADS = 2
EXIT_BAD_CONFIGURATION = 78


def main(argv: Sequence[str] | None = None) -> int:
    """Run until the sentinel is gone; returns the exit code (0, or 78 for a policy that can't be read)."""
    parent = os.getppid()
    words = _words(argv)
    if not process.die_with_parent(parent):
        return 0
    process.shed_inheritance()
    logger = configure()
    try:
        policy = read_policy(words.policy_fd)
    except (OSError, ValueError, RecursionError) as problem:
        log().error("config.rejected", message=f"hands can't read the policy that they were given: {problem}")
        return EXIT_BAD_CONFIGURATION
    channel = Channel(socket.socket(fileno=words.fd))
    dispatcher, faces = build(channel, policy, Path(words.runtime_dir), Path(words.state_dir), logger)
    signal.signal(signal.SIGTERM, lambda *_: dispatcher.stop())
    for face in faces:
        face.serve()
    gc.freeze()  # what is there now stays; collections need not look at it
    dispatcher.run()
    for face in faces:
        face.remove()
    return 0


def read_policy(descriptor: int) -> Policy:
    """The policy as JSON from a pipe or an anonymous file.

    Raises:
        ValueError: when it is not a policy.
        OSError: when it can't be read.
    """
    with os.fdopen(descriptor, "rb") as file:
        content = file.read(_POLICY_LIMIT)
    return from_plain(Policy, json.loads(content))


def build(
    channel: Channel, policy: Policy, runtime_dir: Path, state_dir: Path, logger: EventLogger
) -> tuple[Dispatcher, list[Face]]:
    """The dispatcher with all its parts, and the faces that could be bound."""
    mailbox = Mailbox()
    scales = Scales(mailbox, boottime)
    board = StatusBoard(boottime, scales)
    watch = OllamaWatch(policy, OllamaAdapter, mailbox, channel.send, boottime)
    ledger = LedgerKeeper(FootprintStore(state_dir / "footprints.sqlite"), mailbox, channel.send, boottime)
    models = Models(mailbox, channel.send, lambda: Known(dispatcher.policy, watch.catalogue, ledger.ledger))
    runtimes = Runtimes(policy, runtime_ports(state_dir), state_dir, mailbox, channel.send, boottime)
    parts = Parts(
        watch=watch,
        actor=Actor(mailbox, channel.send, boottime),
        desk=Desk(mailbox, channel.send),
        board=board,
        file=StatusFile(state_dir / "public", board, mailbox, boottime),
        meter=Meter(board, mailbox, boottime),
        ledger=ledger,
        models=models,
        scales=scales,
        recording=Recording(state_dir, policy.record, channel.send, mailbox, boottime),
        runtimes=runtimes,
        server_actor=ServerActor(
            runtimes.by_name,
            EnvironmentFile(state_dir),
            mailbox,
            channel.send,
            boottime,
            runtimes.acted,
            runtimes.stopped,
        ),
        quarantine=Quarantine(
            state_dir,
            policy,
            Names(lambda: watch.catalogue, watch.look_again),
            mailbox,
            channel.send,
            boottime,
        ),
        alerts=Alerts(state_dir, policy.notify, scales, mailbox, boottime),
        reclaimer=Reclaimer(mailbox, channel.send, boottime),
    )
    logger.listener = lambda event: mailbox.put(lambda: parts.alerts.noticed(noticed(event)))
    dispatcher = Dispatcher(channel, mailbox, parts, policy, boottime)
    status = status_app(board, models)
    own = {"notify": parts.alerts.test}
    control = control_app(parts.desk, lambda: dispatcher.policy.unload_deadline_seconds, own)
    faces = []
    for name, group, app, threads in (
        ("status.sock", "ollama-guard", status, _STATUS_THREADS),
        ("control.sock", "ollama-guard-admin", control, _CONTROL_THREADS),
    ):
        try:
            faces.append(Face(runtime_dir / name, group, app, threads))
        except ServiceUnavailable as problem:
            log().warning("guard.warned", message=str(problem), path=str(runtime_dir / name))
    narrowed = [
        f"{face.path.name} is for its owner alone, since {face.narrowed}" for face in faces if face.narrowed
    ]
    if narrowed:
        log().notice("guard.warned", message="; ".join(narrowed), path=str(runtime_dir))
    return dispatcher, faces


def _words(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="ollama_guard.hands", description="Started by the sentinel.")
    parser.add_argument("--fd", type=int, required=True, help="our end of the SOCK_SEQPACKET pair")
    parser.add_argument("--policy-fd", type=int, required=True, help="the policy as JSON")
    parser.add_argument("--runtime-dir", required=True, help="where the sockets are")
    parser.add_argument("--state-dir", required=True, help="where public/status.json and the ledger are")
    return parser.parse_args(argv)
