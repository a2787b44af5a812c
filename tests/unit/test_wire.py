"""The wire: what goes in comes out, broken packets cost themselves only, and nobody ever waits."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_guard import wire
from ollama_guard.channel import GIVE_WAY_LIMIT, QUEUE_LIMIT, RECEIVE_LIMIT, Channel
from ollama_guard.core.footprint import Footprint, FootprintKey, Lesson
from ollama_guard.core.model import (
    Action,
    ActionKind,
    ApiReading,
    CatalogueEntry,
    Level,
    LoadedModel,
    Outcome,
    OutcomeKind,
    Preference,
    Request,
    Rung,
)
from ollama_guard.core.policy import ModelRule, Policy

BLOB = "sha256:" + "a" * 64
KEY = FootprintKey(BLOB, 8192, 4, weights_mapped=True)
MESSAGES: list[wire.Message] = [
    wire.Beat(1.5, 24_000_000),
    wire.ApiObserved(ApiReading(probed_at=1.0, loaded=(LoadedModel("m:latest", BLOB, 1, 0, -3.5, 4096),))),
    wire.CatalogueObserved((CatalogueEntry(BLOB, ("a", "b"), 5, 6, 7, "/models"),)),
    wire.OutcomeReported(Outcome(7, OutcomeKind.FAILED, 2.0, 0, "line\nbreak")),
    wire.RequestPosted(Request(1, "pause", seconds=60.0)),
    wire.ActionPosted(Action(7, ActionKind.UNLOAD, Rung.UNLOAD_IDLE, 9.0, BLOB, "m", ("m", "n"))),
    wire.PollWanted("born", pressed=True),
    wire.Replied(3, ok=False, text="no", detail={"pid": 4, "deep": [1, None, {"x": "y"}]}),
    wire.FootprintsObserved(5.0, 9.5, (Footprint(KEY, anon_bytes=7, load_seconds=1.5, uses=2),), anew=True),
    wire.FootprintsLearned((Lesson(KEY, vram_bytes=0, uses=1),)),
    wire.StatusPosted({"level": "ok", "domains": [{"available_bytes": 5}], "unknown": {}}),
    wire.PolicyPosted(Policy(models={"m": ModelRule(Preference.OMIT)})),
    wire.Noticed("blob.condemned", "big is condemned", 1.5, {"blob": BLOB, "seconds": 600.0}),
    wire.TraceWanted(wanted=True, continues=True, lost=3),
    wire.Recorded('{"now":1.0}\n', 1, Level.HARD, starts=True),
]


@pytest.fixture
def pair() -> Iterator[tuple[Channel, Channel]]:
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours, theirs = (Channel(end) for end in ends)
    yield ours, theirs
    ours.close()
    theirs.close()


def fed(packets: list[bytes]) -> list[wire.Message | None]:
    decoder = wire.Decoder()
    return [decoder.feed(packet) for packet in packets]


def fill(channel: Channel) -> None:
    """Outcomes until the socket takes no more."""
    number = 0
    while not channel.waiting:
        number += 1
        channel.send(wire.OutcomeReported(Outcome(number, OutcomeKind.DONE, 0.0, detail="x" * 10_000)))


def drained(sender: Channel, receiver: Channel) -> list[wire.Message]:
    """Everything that waits on both sides."""
    received: list[wire.Message] = []
    while not sender.flush():
        received += receiver.receive()
    while more := receiver.receive():
        received += more
    return received


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_every_kind_of_message_comes_out_as_it_went_in(message: wire.Message) -> None:
    (packet,) = wire.encode(message)
    assert fed([packet]) == [message]


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.text(), st.dictionaries(st.text(), PLAIN))
def test_any_text_and_any_plain_detail_survive_the_wire(text: str, detail: dict[str, object]) -> None:
    message = wire.Replied(1, ok=True, text=text, detail=detail)
    assert fed(wire.encode(message))[-1] == message


def test_a_long_message_goes_in_packets_of_at_most_64_kib() -> None:
    entries = tuple(CatalogueEntry(f"sha256:{n:064x}", ("name" * 20,), n) for n in range(1500))
    packets = wire.encode(wire.CatalogueObserved(entries))
    assert len(packets) > 3
    assert max(map(len, packets)) <= wire.PACKET_LIMIT
    *nothing, message = fed(packets)
    assert nothing == [None] * (len(packets) - 1)
    assert message == wire.CatalogueObserved(entries)


def test_a_message_beyond_the_limit_is_refused_with_a_sentence() -> None:
    with pytest.raises(wire.WireError, match="at most"):
        wire.encode(wire.StatusPosted({"x": "y" * wire.MESSAGE_LIMIT}))


def test_what_json_can_not_hold_is_refused() -> None:
    with pytest.raises(wire.WireError, match="can't be written"):
        wire.encode(wire.StatusPosted({"x": object()}))


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"{",
        b"null",
        b"\xff\xfe",
        b"[" * 60_000,
        b'{"v":2,"kind":"Beat","body":{"at":1}}',
        b'{"v":1,"kind":"Bomb","body":{}}',
        b'{"v":1,"kind":["Beat"],"body":{}}',
        b'{"v":1,"kind":"Beat","body":{"at":"soon"}}',
        b'{"v":1,"kind":"Beat","body":{"at":1,"extra":1}}',
        b'{"v":1,"kind":"Beat"}',
        b"#",
        b"#1/2\nx",
        b"#0/0\nx",
        b"#2/1\nx",
        b"#0/999999\nx",
        b"#-1/2\nx",
        b"#0/" + b"9" * 60_000,
        b"x" * (wire.PACKET_LIMIT + 1),
    ],
)
def test_a_broken_packet_is_a_wire_error(packet: bytes) -> None:
    with pytest.raises(wire.WireError):
        wire.Decoder().feed(packet)


@given(st.binary(max_size=200) | st.binary(max_size=50).map(lambda b: b"#0/2\n" + b))
def test_no_packet_at_all_raises_anything_else(packet: bytes) -> None:
    decoder = wire.Decoder()
    for piece in (packet, packet):
        try:
            decoder.feed(piece)
        except wire.WireError:
            continue


def test_after_a_lost_fragment_the_next_message_is_whole() -> None:
    long = wire.StatusPosted({"x": "y" * 200_000})
    first, _lost, *rest = wire.encode(long)
    decoder = wire.Decoder()
    assert decoder.feed(first) is None
    for packet in rest:
        with pytest.raises(wire.WireError, match="out of turn"):
            decoder.feed(packet)
    assert [decoder.feed(packet) for packet in wire.encode(long)][-1] == long


def test_messages_pass_in_order(pair: tuple[Channel, Channel]) -> None:
    ours, theirs = pair
    for message in MESSAGES:
        assert ours.send(message)
    assert theirs.receive() == MESSAGES
    assert theirs.receive() == []


def test_a_reader_that_stalls_costs_no_wait_and_gets_only_the_newest_observation(
    pair: tuple[Channel, Channel],
) -> None:
    ours, theirs = pair
    fill(ours)
    before = ours.waiting
    for n in range(1000):
        ours.send(wire.Beat(float(n)))
    assert ours.waiting == before + 1
    assert ours.dropped == 0
    received = drained(ours, theirs)
    assert [m for m in received if isinstance(m, wire.Beat)] == [wire.Beat(999.0)]


def test_outcomes_are_dropped_only_when_the_queue_is_full_and_then_counted(
    pair: tuple[Channel, Channel],
) -> None:
    ours, theirs = pair
    fill(ours)
    sent = [ours.send(wire.OutcomeReported(Outcome(-n, OutcomeKind.DONE, 0.0))) for n in range(300)]
    assert sent.count(False) == ours.dropped == 300 - (QUEUE_LIMIT - 1)
    received = drained(ours, theirs)
    ids = [m.outcome.action_id for m in received if isinstance(m, wire.OutcomeReported)]
    late = [number for number in ids if number <= 0]
    assert late == [-n for n in range(QUEUE_LIMIT - 1)]


def test_a_waiting_observation_makes_room_for_an_outcome(pair: tuple[Channel, Channel]) -> None:
    ours, _ = pair
    fill(ours)
    ours.send(wire.Beat(1.0))
    while ours.waiting < QUEUE_LIMIT:
        ours.send(wire.OutcomeReported(Outcome(1, OutcomeKind.DONE, 0.0)))
    assert ours.send(wire.OutcomeReported(Outcome(2, OutcomeKind.DONE, 0.0)))
    assert ours.dropped == 1


def test_a_newer_status_never_tears_one_that_is_half_sent(pair: tuple[Channel, Channel]) -> None:
    ours, theirs = pair
    old = wire.StatusPosted({"x": "o" * 3_000_000})
    ours.send(old)
    assert ours.waiting
    new = wire.StatusPosted({"x": "n" * 3_000_000})
    ours.send(new)
    received = drained(ours, theirs)
    assert received == [old, new]


def test_records_never_take_the_room_or_the_turn_of_anything_else(pair: tuple[Channel, Channel]) -> None:
    """They wait in a short line of their own, are dropped first, and go last."""
    ours, theirs = pair
    fill(ours)
    sent = [ours.send(wire.Recorded("x" * 60_000, 1)) for _ in range(100)]
    assert sent.count(True) == GIVE_WAY_LIMIT
    assert ours.dropped == 100 - GIVE_WAY_LIMIT
    actions = [wire.ActionPosted(Action(n, ActionKind.UNLOAD, Rung.CAP, 9.0)) for n in range(QUEUE_LIMIT - 1)]
    assert all(ours.send(action) for action in actions)
    received = drained(ours, theirs)
    assert received[-GIVE_WAY_LIMIT - len(actions) : -GIVE_WAY_LIMIT] == actions
    assert {type(message) for message in received[-GIVE_WAY_LIMIT:]} == {wire.Recorded}


def test_a_long_record_that_is_half_sent_is_finished_before_an_action(pair: tuple[Channel, Channel]) -> None:
    ours, theirs = pair
    long = wire.Recorded("x" * 1_000_000, 1)
    assert ours.send(long)
    assert ours.waiting
    action = wire.ActionPosted(Action(1, ActionKind.UNLOAD, Rung.CAP, 9.0))
    assert ours.send(action)
    assert drained(ours, theirs) == [long, action]


def test_foreign_packets_are_counted_and_the_rest_is_read() -> None:
    foreign, end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel = Channel(end)
    for packet in (b"garbage", b"z" * (wire.PACKET_LIMIT + 100), *wire.encode(wire.Beat(1.0))):
        foreign.send(packet)
    assert channel.receive() == [wire.Beat(1.0)]
    assert channel.broken == 2
    assert "64" in channel.last_problem or "65536" in channel.last_problem
    foreign.close()
    channel.close()


def test_a_flood_is_read_in_portions(pair: tuple[Channel, Channel]) -> None:
    ours, theirs = pair
    for n in range(RECEIVE_LIMIT + 20):
        ours.send(wire.OutcomeReported(Outcome(n, OutcomeKind.DONE, 0.0)))
    assert len(theirs.receive()) == RECEIVE_LIMIT
    assert len(theirs.receive()) == 20


def test_the_end_of_the_other_side_is_seen(pair: tuple[Channel, Channel]) -> None:
    ours, theirs = pair
    theirs.close()
    assert ours.receive() == []
    assert ours.closed
    assert not ours.send(wire.Beat(1.0))
    assert ours.dropped == 1
