"""The status document as a person reads it."""

import json
import time
from copy import deepcopy
from typing import Any

import pytest

from ollama_guard.cli.show import status_text
from ollama_guard.core.decide import decide
from ollama_guard.core.model import DomainReading, Snapshot
from ollama_guard.core.policy import GIB, Policy
from ollama_guard.core.state import State
from ollama_guard.core.status import view

DOCUMENT: dict[str, Any] = {
    "version": "0.1.0", "mode": "enforce", "level": "soft", "since": time.time(),
    "domains": [
        {"name": "host", "capacity_bytes": 4 * GIB, "available_bytes": GIB // 2, "available_ratio": 0.125,
         "psi_some_avg10": 1.5, "psi_full_avg10": 0.0, "slope_bytes_per_second": -(50 * 1024**2),
         "time_to_exhaustion_seconds": 10.24, "level": "soft"},
        {"name": "container", "capacity_bytes": None, "available_bytes": None, "available_ratio": None,
         "psi_some_avg10": None, "psi_full_avg10": None, "slope_bytes_per_second": None,
         "time_to_exhaustion_seconds": None, "level": "ok"},
    ],
    "ollama": {"url": "http://127.0.0.1:11434", "alive": True, "version": "0.33.0", "latency_seconds": 0.003,
               "runtime": {"kind": None, "name": None}, "cap": {"soft": 2, "hard": None, "pending": None}},
    "models": [
        {"name": "big:8b", "aliases": ["copy:latest"], "blob": "sha256:ab", "size_bytes": 1,
         "resident_bytes": 2 * GIB,
         "vram_bytes": 0, "state": "busy", "pid": 77, "preference": "avoid", "expires_at": None},
        {"name": None, "aliases": [], "blob": None, "size_bytes": None, "resident_bytes": None,
         "vram_bytes": None, "state": "loading", "pid": None, "preference": "none", "expires_at": None},
    ],
    "quarantine": None,
    "condemned": [{"blob": "sha256:cd", "names": [], "until": 0.0, "needs_bytes": 9 * GIB, "kills": 2}],
    "conditions": [{"condition": "MemoryPressure", "since": time.time(), "true_now": True,
                    "reason": "it is short"}],
    "last_decision": {"at": time.time(), "action": "unload_idle", "reason": "because", "outcome": "done",
                      "freed_bytes": GIB},
    "playbook": None, "tiers": [], "largest_allowed": None, "consumers": None,
    "guard": {"pid": 12, "pss_bytes": 20 * 1024**2, "cpu_seconds": 1.0, "tick_seconds": 0.1, "dropped": 0},
    "unknown": {"domains.container.available_bytes": "no permission"},
}  # fmt: skip


def test_a_person_sees_levels_numbers_models_and_the_last_decision() -> None:
    text = status_text(DOCUMENT)
    for expected in (
        "mode enforce",
        "host       soft: 512 MiB of 4.0 GiB available (12%), falling 50 MiB/s, 10 s to exhaustion",
        "pressure some 1.5% full 0%",
        "container  ok: available memory is not known (no permission)",
        "http://127.0.0.1:11434 version 0.33.0, answered in 3 ms, soft cap 2",
        "models     big:8b (also copy:latest)  busy  2.0 GiB  pid 77  preference avoid",
        "           a model not known yet  loading",
        "condemned  sha256:cd until 1970-01-01",
        "needs 9.0 GiB",
        "MemoryPressure since",
        "unload_idle: because",
        "done, 1.0 GiB came back",
        "version 0.1.0, pid 12, 20 MiB",
    ):
        assert expected in text


def test_a_hostile_model_name_stays_on_its_line() -> None:
    document = deepcopy(DOCUMENT)
    document["models"][0]["name"] = "a\nlevel      ok\x1b[2J\u2028"
    assert len(status_text(document).split("\n")) == len(status_text(DOCUMENT).split("\n"))
    assert all(line.isprintable() for line in status_text(document).split("\n"))


def test_a_dead_ollama_says_why() -> None:
    document = deepcopy(DOCUMENT)
    document["ollama"] |= {"alive": False, "version": None}
    document["unknown"]["ollama.version"] = "connection refused"
    assert "http://127.0.0.1:11434 does not answer (connection refused)" in status_text(document)


def test_one_of_several_containers_has_its_name_behind_the_label() -> None:
    document = deepcopy(DOCUMENT)
    document["domains"][0]["name"] = "container:a-unit-with-a-long-name.service"
    assert "container  a-unit-with-a-long-name.service soft: 512 MiB of 4.0 GiB" in status_text(document)


def test_a_model_without_a_name_is_told_by_the_start_of_its_digest() -> None:
    document = deepcopy(DOCUMENT)
    document["models"][0] |= {"name": None, "aliases": [], "blob": "sha256:" + 64 * "a"}
    document["condemned"][0]["blob"] = "sha256:" + 64 * "b"
    text = status_text(document)
    assert "models     sha256:aaaaaaaaaaaa  busy" in text
    assert "condemned  sha256:bbbbbbbbbbbb until" in text


@pytest.mark.parametrize(
    ("rung", "line"), [("none", "now        because"), ("hold", "now        hold: because")]
)
def test_one_look_tells_what_would_be_done_now_and_claims_no_past(rung: str, line: str) -> None:
    document = {**DOCUMENT, "decision": {"rung": rung, "reason": "because", "would": False, "actions": []}}
    lines = status_text(document).split("\n")
    assert lines[0] == "level      soft, one look, nothing is done"
    assert lines[-1] == line
    assert not any(told.startswith("decision") for told in lines)


def test_the_document_that_the_brain_makes_can_be_shown() -> None:
    """The hand-made document above can drift from the real one; this one can't."""
    host = DomainReading("host", 4 * GIB, GIB // 8, psi_some_avg10=0.0)
    snapshot = Snapshot(now=100.0, wall=time.time(), domains=(host,))
    state, _ = decide(Policy(), State(), snapshot)
    document = json.loads(json.dumps(view(Policy(), state, snapshot, guard={})))
    assert document.keys() == DOCUMENT.keys()
    assert "host       critical: 128 MiB of 4.0 GiB available (3%)" in status_text(document)


def test_a_person_sees_how_ollama_is_run_its_caps_what_is_hidden_and_the_playbook() -> None:
    document = deepcopy(DOCUMENT)
    document["ollama"]["runtime"] = {"kind": "systemd", "name": "ollama.service"}
    document["ollama"]["cap"] = {"soft": 2, "hard": 3, "pending": 1}
    document["quarantine"] = [
        {"name": "vast:70b", "since": time.time(), "needs_bytes": 40 * GIB, "returned": False},
    ]
    document["playbook"] = {
        "name": "freeze", "state": "running", "step": "kill_server", "runs_last_hour": 1, "last": None,
    }  # fmt: skip
    text = status_text(document)
    assert (
        "run as ollama.service (systemd), soft cap 2, hard cap 3, hard cap 1 from its next start on" in text
    )
    assert "hidden     vast:70b since" in text
    assert "playbook   freeze is running: kill server" in text
    last = {"name": "freeze", "outcome": "done", "ended_at": time.time(), "text": "Ollama serves again"}
    document["playbook"] |= {"state": "constrained", "step": None, "last": last}
    text = status_text(document)
    assert "freeze done: Ollama serves again" in text
    assert "its constraints hold" in text
    document["playbook"] |= {"name": None, "state": "lifted", "last": None}
    assert "playbook   its constraints are lifted from Ollama's next start on" in status_text(document)
