"""The main loop: it passes messages between the sentinel and the lanes, and never waits for a lane.

Its once-a-second beat is sent from here, so a beat proves that messages are being dispatched.
"""

from __future__ import annotations

import select
from dataclasses import dataclass
from typing import Protocol

from ollama_guard.channel import Channel
from ollama_guard.core.model import Action, ActionKind
from ollama_guard.core.policy import Policy
from ollama_guard.hands import acting_on_servers
from ollama_guard.hands.acting import Actor
from ollama_guard.hands.acting_on_servers import ServerActor
from ollama_guard.hands.alerts import Alerts
from ollama_guard.hands.desk import Desk
from ollama_guard.hands.faces import Meter, StatusBoard, StatusFile
from ollama_guard.hands.journal import log
from ollama_guard.hands.lanes import Clock, Mailbox
from ollama_guard.hands.ledger import LedgerKeeper
from ollama_guard.hands.models import Models
from ollama_guard.hands.quarantine import Quarantine
from ollama_guard.hands.reclaiming import Reclaimer
from ollama_guard.hands.recording import Recording
from ollama_guard.hands.runtimes import Runtimes
from ollama_guard.hands.watch import OllamaWatch
from ollama_guard.hands.weighing import Scales
from ollama_guard.wire import (
    ActionPosted,
    Beat,
    FootprintsLearned,
    Message,
    Noticed,
    PolicyPosted,
    PollWanted,
    Recorded,
    Replied,
    SceneTold,
    ServersTold,
    StatusPosted,
)

# Seconds between two beats; the sentinel misses ten before it acts.
BEAT_SECONDS = 1.0


class Timed(Protocol):
    """A part of the loop with something to do from time to time."""

    def due_at(self) -> float:
        """When `step` has something to do, in boottime seconds."""

    def step(self) -> None:
        """Do what is due; never waits."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What the loop dispatches to."""

    watch: OllamaWatch
    actor: Actor
    desk: Desk
    board: StatusBoard
    file: StatusFile
    meter: Meter
    ledger: LedgerKeeper
    models: Models
    scales: Scales
    recording: Recording
    runtimes: Runtimes
    server_actor: ServerActor
    quarantine: Quarantine
    alerts: Alerts
    reclaimer: Reclaimer


class Dispatcher:
    """Runs until the sentinel closes its end of the channel, or `stop`."""

    def __init__(
        self, channel: Channel, mailbox: Mailbox, parts: Parts, policy: Policy, clock: Clock
    ) -> None:
        self._channel = channel
        self._mailbox = mailbox
        self._parts = parts
        self._clock = clock
        self._timed: tuple[Timed, ...] = (
            parts.watch, parts.file, parts.meter, parts.ledger, parts.recording, parts.scales,
            parts.runtimes,
            parts.quarantine,
            parts.alerts,
        )  # fmt: skip
        self._beat_at = 0.0
        self._stopping = False
        self.policy = policy

    def stop(self) -> None:
        """End the loop soon; may be called from a signal handler or another thread."""
        self._stopping = True
        self._mailbox.put(lambda: None)

    def run(self) -> None:
        """The whole life of this process."""
        poll = select.poll()
        poll.register(self._mailbox.fileno(), select.POLLIN)
        while not self._channel.closed and not self._stopping:
            wish = select.POLLIN | (select.POLLOUT if self._channel.waiting else 0)
            poll.register(self._channel.fileno(), wish)
            poll.poll(self._delay_milliseconds())
            self._mailbox.run()
            for message in self._channel.receive():
                self._handle(message)
            self._step()
            self._channel.flush()
        self._parts.ledger.close()
        for message in self._channel.receive():
            if isinstance(message, Recorded):
                self._parts.recording.recorded(message)
        self._parts.recording.finish()

    def _delay_milliseconds(self) -> int:
        due = min(self._beat_at, *(part.due_at() for part in self._timed))
        return int(min(max(due - self._clock(), 0.0), BEAT_SECONDS) * 1000) + 1

    def _step(self) -> None:
        for part in self._timed:
            part.step()
        self._parts.actor.check()
        self._parts.server_actor.check()
        self._parts.reclaimer.check()
        now = self._clock()
        if now >= self._beat_at:
            self._beat_at = now + BEAT_SECONDS
            self._channel.send(Beat(now, self._parts.board.sizes.own))

    def _act(self, action: Action) -> None:
        """Have it done by whose it is."""
        parts = self._parts
        if action.kind in acting_on_servers.KINDS:
            parts.server_actor.act(action)
        elif parts.quarantine.takes(action):
            parts.quarantine.act(action, parts.watch.port)
        elif action.kind is ActionKind.RECLAIM:
            parts.reclaimer.act(action)
        else:
            parts.actor.act(action, parts.watch.port)

    def _handle(self, message: Message) -> None:
        parts = self._parts
        match message:
            case ActionPosted(action):
                self._act(action)
            case PollWanted(reason, pressed):
                parts.watch.wanted(reason, pressed=pressed)
            case FootprintsLearned(lessons):
                parts.ledger.learn(lessons)
            case Replied():
                parts.desk.replied(message)
            case SceneTold():
                parts.models.told(message)
            case StatusPosted(status):
                parts.board.post(status)
                parts.file.posted()
            case PolicyPosted(policy):
                self.policy = policy
                parts.watch.follow(policy)
                parts.recording.follow(policy.record)
                parts.runtimes.follow(policy)
                parts.quarantine.follow(policy)
                parts.alerts.follow(policy.notify)
            case Noticed():
                parts.alerts.noticed(message)
            case Recorded():
                parts.recording.recorded(message)
            case ServersTold(servers):
                parts.runtimes.told(servers)
                parts.quarantine.servers_told(servers)
            case _:
                name = type(message).__name__
                log().warning("guard.warned", message=f"the sentinel sent {name}, which is ours to send")
