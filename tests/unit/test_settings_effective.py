"""Printing a policy as TOML, and the shipped file."""

import re
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ollama_guard.core.model import Level, Mode, Preference
from ollama_guard.core.policy import (
    GIB,
    MIB,
    NO_CEILING_BYTES,
    Authority,
    CapPolicy,
    GovernorPolicy,
    ModelRule,
    NotifyPolicy,
    OllamaPolicy,
    PlaybookPolicy,
    Policy,
    Protect,
    QuarantineAction,
    QuarantinePolicy,
    RecordPolicy,
    Threshold,
    Thresholds,
)
from ollama_guard.core.runtime import RuntimeKind
from ollama_guard.core.tiers import EXAMPLE, Tier
from ollama_guard.settings.compiler import compile_text
from ollama_guard.settings.effective import effective_toml
from ollama_guard.settings.ladder import TierTable
from ollama_guard.settings.schema import File, ModelTable

SHIPPED = Path(__file__).parents[2] / "config" / "ollama-guard.toml"


def seconds(least: float, most: float) -> st.SearchStrategy[float]:
    return st.integers(int(least * 1000), int(most * 1000)).map(lambda ms: ms / 1000)


@st.composite
def thresholds(draw: st.DrawFn) -> Thresholds:
    """Any that are in order: each part of a lower threshold is below that of the one above it."""
    if draw(st.booleans()):
        sizes = sorted(draw(st.sets(st.integers(1, 4 * GIB), min_size=3, max_size=3)), reverse=True)
        sizes = [size + 40 * MIB * (2 - n) for n, size in enumerate(sizes)]
        parts = [Threshold(0.0, size, size) for size in sizes]
    else:
        tenths = sorted(draw(st.sets(st.integers(1, 125), min_size=3, max_size=3)), reverse=True)
        floors = sorted(draw(st.sets(st.integers(0, 30 * MIB), min_size=3, max_size=3)), reverse=True)
        open_ended = draw(st.booleans())
        ceilings = [NO_CEILING_BYTES] * 3 if open_ended else [4 * GIB, 2 * GIB, GIB]
        parts = [Threshold(t / 1000, f, c) for t, f, c in zip(tenths, floors, ceilings, strict=True)]
    return Thresholds(*parts, grace_seconds=draw(seconds(0, 600)))


@st.composite
def records(draw: st.DrawFn) -> RecordPolicy:
    file = draw(st.integers(64 * 1024, GIB))
    total = draw(st.integers(max(2 * file, MIB), 1024 * GIB))
    folder = draw(st.sampled_from(["", "/", "/a b", '/ü"\\x']))
    return RecordPolicy(draw(st.booleans()), total, file, folder)


@st.composite
def playbooks(draw: st.DrawFn) -> PlaybookPolicy:
    return PlaybookPolicy(
        enabled=draw(st.booleans()),
        runs_per_hour=draw(st.integers(1, 60)),
        quiet_seconds=draw(seconds(30, 86400)),
        max_loaded_models=draw(st.integers(1, 100)),
        num_parallel=draw(st.integers(1, 64)),
        keep_alive_seconds=draw(seconds(1, 86400)),
        max_queue=draw(st.integers(16, 10000)),
        cache_ram_mib=draw(st.integers(0, 64 * 1024)),
        memory_bytes=draw(st.integers(256 * MIB, 1024 * GIB)),
        cpus=draw(st.integers(1, 10240)) / 10,
        stuck_seconds=draw(seconds(5, 3600)),
        full_percent=draw(st.integers(50, 1000)) / 10,
        full_seconds=draw(seconds(5, 3600)),
        young_seconds=draw(seconds(0, 3600)),
    )


@st.composite
def ladders(draw: st.DrawFn) -> tuple[Tier, ...]:
    """Of different names and models, each with as much as the one before it or more, or nothing said."""
    names = draw(st.lists(st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,39}\Z"), max_size=4, unique=True))
    disk, memory = (
        sorted(draw(st.lists(st.integers(MIB, 1024 * GIB), min_size=4, max_size=4))) for _ in range(2)
    )
    purposes = st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=20)
    return tuple(
        Tier(
            name,
            f"model-{place}:1b",
            draw(purposes),
            draw(st.sampled_from([None, disk[place]])),
            draw(st.sampled_from([None, memory[place]])),
        )
        for place, name in enumerate(names)
    )


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    poll = draw(seconds(1, 600))
    condemned = draw(seconds(10, 86400))
    names = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=20)
    rules = st.builds(ModelRule, st.sampled_from(Preference), st.sampled_from(Protect))
    return Policy(
        ollama=OllamaPolicy(
            url=draw(st.sampled_from(["http://127.0.0.1:11434", "https://[::1]"])),
            authority=draw(st.sampled_from(Authority)),
            mode=draw(st.sampled_from([Mode.ENFORCE, Mode.OBSERVE])),
            user_id=draw(st.none() | st.integers(0, 2**32 - 2)),
            cgroup=draw(st.sampled_from(["", "/", "/a b", '/ü"\\x']).map(lambda c: c.rstrip("/"))),
            poll_seconds=poll,
            unresponsive_after_seconds=poll + draw(seconds(1, 600)),
            request_timeout_seconds=draw(seconds(0.1, 120)),
            runtime=draw(st.none() | st.sampled_from(RuntimeKind)),
            runtime_name=draw(st.sampled_from(["", "ollama.service", "ollama-1"])),
            docker_host=draw(st.sampled_from(["", "unix:///run/docker.sock", "tcp://127.0.0.1:2375"])),
            models_folder=draw(st.sampled_from(["", "/models", '/ü"\\x'])),
        ),
        host=draw(thresholds()),
        container=draw(thresholds()),
        cap=CapPolicy(
            draw(st.none() | st.integers(1, 1000)),
            draw(st.booleans()),
            draw(st.none() | st.integers(1, 1000)),
        ),
        governor=GovernorPolicy(draw(st.booleans()), draw(seconds(5, 86400))),
        playbook=draw(playbooks()),
        record=draw(records()),
        quarantine=QuarantinePolicy(
            draw(st.booleans()),
            draw(st.sampled_from(QuarantineAction)),
            draw(st.booleans()),
            draw(seconds(60, 7 * 86400)),
        ),
        notify=NotifyPolicy(
            draw(st.sampled_from(["", "http://x", "https://a:b@x.org:8/c?d=e&f"])), draw(seconds(1, 60))
        ),
        tiers=draw(ladders()),
        runners_die_first=draw(st.booleans()),
        models=draw(st.dictionaries(names, rules, max_size=3)),
        transition_seconds=draw(seconds(0, 3600)),
        min_reclaim_ratio=draw(st.integers(0, 500).map(lambda n: n / 1000)),
        min_reclaim_floor_bytes=draw(st.integers(0, 64 * GIB)),
        post_action_delay_seconds=draw(seconds(0, 60)),
        unload_deadline_seconds=draw(seconds(0.5, 600)),
        drain_deadline_seconds=draw(seconds(1, 3600)),
        condemned_seconds=condemned,
        condemned_max_seconds=condemned + draw(seconds(0, 86400)),
        kills_per_hour=draw(st.integers(1, 3600)),
    )


@given(policies())
def test_the_effective_file_compiles_to_the_same_policy(policy: Policy) -> None:
    assert compile_text(effective_toml(policy), "effective") == policy


def keys(table: Any, path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    """Every (table, key) of the schema that the owner writes as a line of its own."""
    found: set[tuple[str, ...]] = set()
    for name, field in table.model_fields.items():
        inner = field.annotation
        is_table = isinstance(inner, type) and hasattr(inner, "model_fields")
        if is_table and inner.__name__ not in ("ThresholdTable", "ReclaimTable"):
            found |= keys(inner, (*path, name))
        elif name not in ("models", "tiers"):
            found.add((*path, name))
    return found


def shipped(*, defaults_active: bool) -> str:
    text = SHIPPED.read_text(encoding="utf-8")
    return re.sub(r"^#(?=[a-z_]+ = )", "", text, flags=re.MULTILINE) if defaults_active else text


def test_the_shipped_file_is_the_built_in_policy_with_its_lines_active_or_not() -> None:
    assert compile_text(shipped(defaults_active=False), str(SHIPPED)) == Policy()
    assert compile_text(shipped(defaults_active=True), str(SHIPPED)) == Policy()


def test_the_shipped_file_holds_every_key() -> None:
    written: set[tuple[str, ...]] = set()
    table: tuple[str, ...] = ()
    for line in SHIPPED.read_text(encoding="utf-8").splitlines():
        if header := re.match(r"(?:# e\.g\. )?\[\[?([a-z.]+)", line):
            table = tuple(header[1].strip(".").split("."))
        elif key := re.match(r"#(?: e\.g\. )?([a-z_]+) = ", line):
            written.add((*table, key[1]))
    tier = {field.alias or name for name, field in TierTable.model_fields.items()}
    rules = {("models", name) for name in ModelTable.model_fields}
    assert written == keys(File) | rules | {("tiers", name) for name in tier}


def test_the_examples_in_the_shipped_file_work() -> None:
    text = shipped(defaults_active=True).replace('user = "ollama"', 'user = "root"')
    policy = compile_text(re.sub(r"^# e\.g\. ", "", text, flags=re.MULTILINE), str(SHIPPED))
    assert (policy.ollama.user_id, policy.ollama.cgroup) == (0, "/system.slice/ollama.service")
    assert policy.cap.soft_max == 2
    assert policy.models == {"llama3.2:3b": ModelRule(Preference.OMIT, Protect.ALWAYS)}
    assert policy.tiers == EXAMPLE


def test_the_shipped_file_says_what_the_thresholds_come_to() -> None:
    policy, sizes = Policy(), (4 * GIB, 15 * GIB)
    rows = re.findall(
        r"^#   (soft|hard|critical|relief aims above) +(\d.*)$", shipped(defaults_active=False), re.MULTILINE
    )
    assert len(rows) == 4
    for name, numbers in rows:
        if name == "relief aims above":
            expected = [policy.min_reclaim_bytes(size) for _ in range(2) for size in sizes]
        else:
            level = Level[name.upper()]
            expected = [d.bytes_of(level, size) for d in (policy.host, policy.container) for size in sizes]
        assert [int(n) for n in numbers.split()] == [count // MIB for count in expected]
