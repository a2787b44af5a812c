"""One look without a daemon: sense a few times within half a second, decide, do nothing."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import ollama_guard
from ollama_guard.core.codec import to_plain
from ollama_guard.core.decide import decide
from ollama_guard.core.footprint import Ledger
from ollama_guard.core.model import ApiReading, CatalogueEntry, Decision, Mode, Snapshot
from ollama_guard.core.policy import Policy
from ollama_guard.core.state import State
from ollama_guard.core.status import view
from ollama_guard.errors import OllamaError
from ollama_guard.hands.adapters.ollama import OllamaAdapter
from ollama_guard.hands.consumers import TooLong, top
from ollama_guard.sentinel.sensors import Sensors

LOOKS = 7  # readings: enough for a runner's argv to come and for its share of a core to be known
PATIENT_LOOKS = 15  # readings: of several servers the second comes a second after the first on a busy machine
PATIENT_PASSES = 4  # questions for models, each for what a slow server has not told yet
MOST_LOOKS = 25  # readings while a command line is still being read, as on a busy machine
MOST_PATIENT_LOOKS = (
    100  # readings, as long as somebody's is: ten seconds of a machine without CPU time to give
)
GAP_SECONDS = 0.1  # seconds between two readings
NO_DAEMON = "one look without a daemon"
ANSWER_SECONDS = 2.0  # seconds: for a person who waits; silence is shown as such


@dataclass(frozen=True, slots=True)
class Glance:
    """What one look saw, and what would be decided about it."""

    policy: Policy
    state: State
    snapshot: Snapshot
    decision: Decision
    undecided: bool = False
    """Whether a process could be Ollama's whose command line did not come in time."""


def glance(policy: Policy, footprints: Ledger | None = None, *, patient: bool = False) -> Glance:
    """Look; ``footprints`` are what loads were measured to cost, as far as they can be read.

    It looks on while a server answers and is not found yet. A ``patient`` one looks longer, and on while none
    is found at all: who asks once wants to know of all.

    One look has no past, so soft's grace counts as over: what is seen is judged as if it lasted.
    """
    policy = replace(
        policy,
        ollama=replace(policy.ollama, mode=Mode.OBSERVE),
        host=replace(policy.host, grace_seconds=0.0),
        container=replace(policy.container, grace_seconds=0.0),
    )
    api, catalogue = _asked(policy.ollama.url, PATIENT_PASSES if patient else 1)
    sensors = Sensors(policy)
    try:
        state = State()
        undecided = False
        for look in range(MOST_PATIENT_LOOKS if patient else MOST_LOOKS):
            if look:
                time.sleep(GAP_SECONDS)
            now = time.clock_gettime(time.CLOCK_BOOTTIME)
            snapshot = sensors.sense(now, time.time(), api, catalogue, (), hands_alive=True, hands_reason="")
            snapshot = replace(snapshot, footprints=footprints or Ledger())
            state, decision = decide(policy, state, snapshot)
            served = bool(snapshot.servers) or not (patient or api.answered_at)
            enough = PATIENT_LOOKS if patient else LOOKS
            undecided = sensors.undecided
            if look + 1 >= MOST_LOOKS and not undecided:
                break
            awaited = patient and undecided
            if look + 1 >= enough and served and not awaited and all(r.proven for r in snapshot.runners):
                break
    finally:
        sensors.close()
    return Glance(policy, state, snapshot, decision, undecided)


def status_of(seen: Glance) -> dict[str, Any]:
    """The status document of one look, with ``decision`` {rung reason would actions[]} beside it."""
    document = view(seen.policy, seen.state, seen.snapshot, guard={"version": ollama_guard.__version__})
    document["unknown"] |= {key: NO_DAEMON for key in document["unknown"] if key.startswith("guard.")}
    try:
        document["consumers"] = [to_plain(consumer) for consumer in top(ANSWER_SECONDS)]
        del document["unknown"]["consumers"]
    except TooLong as error:
        document["unknown"]["consumers"] = str(error)
    return {**document, "decision": _shown(seen.decision)}


def _asked(url: str, passes: int) -> tuple[ApiReading, tuple[CatalogueEntry, ...]]:
    """What Ollama says of itself; what it did not say is in the reading's errors.

    By its catalogue an orphan is proven, so who wants to know of all asks until all models were told.
    """
    ollama = OllamaAdapter(url)
    sent = time.clock_gettime(time.CLOCK_BOOTTIME)
    try:
        version = ollama.version(ANSWER_SECONDS)
    except OllamaError as error:
        return ApiReading(probed_at=sent, error=str(error)), ()
    answered = time.clock_gettime(time.CLOCK_BOOTTIME)
    api = ApiReading(probed_at=sent, answered_at=answered, version=version, latency_seconds=answered - sent)
    catalogue: tuple[CatalogueEntry, ...] = ()
    try:
        for _ in range(passes):
            catalogue = ollama.catalogue(ANSWER_SECONDS)
            if ollama.catalogue_complete:
                break
        asked = time.clock_gettime(time.CLOCK_BOOTTIME)
        api = replace(api, loaded=ollama.loaded(ANSWER_SECONDS), loaded_at=asked)
    except OllamaError as error:
        api = replace(api, loaded_error=str(error))
    return api, catalogue


def _shown(decision: Decision) -> dict[str, Any]:
    return {
        "rung": decision.rung.value,
        "reason": decision.reason,
        "would": decision.would,
        "actions": [to_plain(action) for action in decision.actions],
    }
