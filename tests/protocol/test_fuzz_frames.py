"""The frame decoder and the two sides of a connection: valid traffic with faults in it, against plain models of frames and CBOR."""

from __future__ import annotations

import struct
from typing import Any

import cbor2
import pytest
from fuzzing import LIES, NASTY, NUMBERS, chunked, fuzz, mutated, outcome
from hypothesis import given
from hypothesis import strategies as st
from wire_strategies import records, units

from engramd.protocol.connection import (
    Answer,
    ClientConnection,
    Hello,
    Item,
    Notice,
    Rejected,
    Request,
    ServerConnection,
    answer_frame,
    failure_frame,
    item_frame,
)
from engramd.protocol.errors import EngramError
from engramd.protocol.framing import MAX_DEPTH, FrameDecoder, decode, encode, frame
from engramd.protocol.messages import HELLO, NOTICES, OPERATIONS
from engramd.protocol.unit import Unit

pytestmark = pytest.mark.fuzz

LIMIT = 4096

# A strict reader of CBOR, as plain as can be


class _Refused(Exception):
    pass


def model(data: bytes) -> Any:
    """The one item that fills `data`, by the letter of RFC 8949 and of what framing.py forbids."""
    value, at = _item(data, 0, 0)
    if at != len(data):
        raise _Refused
    return value


def _item(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    if at >= len(data):
        raise _Refused
    major, low = data[at] >> 5, data[at] & 31
    at += 1
    size = 0 if low < 24 else 1 << (low - 24)
    if low > 27 or major == 6 or at + size > len(data):
        raise _Refused
    raw = data[at : at + size]
    count, at = int.from_bytes(raw) if size else low, at + size
    if major < 2:
        return (count if major == 0 else -1 - count), at
    if major < 4:
        if at + count > len(data):
            raise _Refused
        return (data[at : at + count] if major == 2 else _text(data[at : at + count])), at + count
    if major == 7:
        return _simple(low, raw), at
    if depth >= MAX_DEPTH or count > len(data):
        raise _Refused
    items = []
    for _ in range(count * (major - 3)):
        item, at = _item(data, at, depth + 1)
        items.append(item)
    return (items if major == 4 else _map(items)), at


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise _Refused from None


def _simple(low: int, raw: bytes) -> Any:
    if low >= 25:
        return struct.unpack({2: ">e", 4: ">f", 8: ">d"}[len(raw)], raw)[0]
    if low == 24 and raw[0] < 32:
        raise _Refused
    known = {20: False, 21: True, 22: None, 23: cbor2.undefined}
    return known[low] if low in known else cbor2.CBORSimpleValue(raw[0] if low == 24 else low)


def _map(items: list[Any]) -> dict[Any, Any]:
    if any(type(key) not in (str, bytes) for key in items[::2]) or len(set(items[::2])) * 2 < len(items):
        raise _Refused
    return dict(zip(items[::2], items[1::2], strict=True))


plain = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([number for number in NUMBERS if -(2**64) <= number < 2**64]),
    st.floats(),
    st.sampled_from(NASTY),
    st.binary(max_size=20),
    st.text(max_size=40),
)
values = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NASTY), inner, max_size=4), max_leaves=12
)


@given(mutated(values.map(encode) | units().map(encode)))
@fuzz(70)
def test_cbor_is_read_as_the_plain_reader_reads_it(body: bytes) -> None:
    found, code = outcome(lambda: decode(body))
    try:
        expected = model(body)
    except _Refused:
        assert code == "protocol"
    else:
        assert (repr(found), code) == (repr(expected), "")


# Streams of frames


def cut(data: bytes, most: int) -> tuple[list[bytes], str]:
    """The bodies of the whole frames in a stream, and what stands behind them: nothing, a part of one, or one that is too large."""
    bodies: list[bytes] = []
    while len(data) >= 4:
        size = int.from_bytes(data[:4])
        if size > most:
            return bodies, "too_large"
        if len(data) < 4 + size:
            break
        bodies.append(data[4 : 4 + size])
        data = data[4 + size :]
    return bodies, "part" if data else ""


frames = st.lists(st.binary(max_size=40).map(frame), max_size=6).map(b"".join)
LENGTHS = (*LIES, *((LIMIT + off).to_bytes(4) for off in (-1, 0, 1)), b"\x00\x00\x00\x01", b"\x00", b"\x80\x00\x00\x00")


@given(frames | mutated(frames, LENGTHS), st.data())
@fuzz(80)
def test_a_stream_is_cut_as_the_plain_cutter_cuts_it(stream: bytes, data: st.DataObject) -> None:
    decoder, found, end = FrameDecoder(LIMIT), list[bytes](), ""
    try:
        for chunk in chunked(data.draw, stream):
            for body in decoder.feed(chunk):
                found.append(body)
        end = "part" if decoder.partial else ""
    except EngramError as error:
        end = error.code
    assert (found, end) == cut(stream, LIMIT)


# Whole conversations

hello = records(HELLO).map(lambda said: {"agent": "a", **said, "version": [1, 0]})
asked = st.one_of(
    *(
        st.builds(lambda fields, number, op=op: {"id": number, "op": op, **fields}, records(operation.request), st.integers(0, 9))
        for op, operation in {**OPERATIONS, **dict.fromkeys(NOTICES)}.items()
        if operation is not None
    ),
    *(
        st.builds(lambda fields, number, op=op: {"id": number, "op": op, **fields}, records(record), st.integers(0, 9))
        for op, record in NOTICES.items()
    ),
)


@st.composite
def conversations(draw: st.DrawFn) -> bytes:
    """A client's frames, of which some have faults, in their bodies or in how they are framed."""
    bodies = [encode({"id": 0, "op": "hello", **draw(hello)}), *(encode(one) for one in draw(st.lists(asked, max_size=4)))]
    if draw(st.booleans()):
        return draw(mutated(st.just(b"".join(map(frame, bodies)))))
    return b"".join(frame(draw(mutated(st.just(body)))) if draw(st.booleans()) else frame(body) for body in bodies)


def heard(connection: ServerConnection | ClientConnection, chunks: list[bytes]) -> tuple[list[Any], str | None]:
    """What a side makes of what arrives, up to the error that ends the connection, and its code."""
    messages: list[Any] = []
    try:
        for chunk in chunks:
            for message in connection.receive(chunk):
                messages.append(message)  # noqa: PERF402
    except EngramError as error:
        failure_frame(None, error)
        return messages, error.code
    return messages, None


def heard_however(side: type[ServerConnection] | type[ClientConnection], sent: bytes, data: st.DataObject) -> tuple[list[Any], str | None]:
    """What a side makes of bytes, which is the same however they arrive."""
    messages, code = heard(side(2**20), [sent])
    again, code_again = heard(side(2**20), chunked(data.draw, sent))
    assert (repr(again), code_again) == (repr(messages), code)
    return messages, code


@given(conversations(), st.data())
@fuzz(30)
def test_a_daemon_takes_only_what_is_valid_however_it_arrives(sent: bytes, data: st.DataObject) -> None:
    messages, code = heard_however(ServerConnection, sent, data)
    assert code in (None, "protocol", "too_large", "invalid", "version")
    for message in messages:
        match message:
            case Hello():
                HELLO.check(message.fields)
            case Request():
                OPERATIONS[message.op].request.check(message.fields)
            case Notice():
                NOTICES[message.op].check(message.fields)
            case Rejected():
                failure_frame(message.id, message.error)
                assert len(message.error.message) < 2000


@st.composite
def replies(draw: st.DrawFn) -> bytes:
    """A daemon's frames with faults in them."""
    op = draw(st.sampled_from(sorted(OPERATIONS)))
    made = [
        answer_frame(0, encode({"version": [1, 0]})),
        answer_frame(1, encode(draw(records(OPERATIONS[op].result)))),
        failure_frame(2, EngramError("busy", "why", limit=3)),
        item_frame(3, encode({"cursor": "c", "kind": "unit_put", "unit": draw(units())})),
    ]
    return draw(mutated(st.just(b"".join(made[:1] + draw(st.permutations(made[1:]))))))


@given(replies(), st.data())
@fuzz(20)
def test_a_client_reads_or_refuses_what_a_daemon_sends(sent: bytes, data: st.DataObject) -> None:
    messages, _ = heard_however(ClientConnection, sent, data)
    for message in messages:
        assert isinstance(message, (Answer, Item))
        if isinstance(message, Item) and isinstance(message.event.get("unit"), dict):
            unit, refused = outcome(lambda: Unit.from_wire(message.event["unit"]).text)  # noqa: B023
            assert (type(unit), refused) in ((str, ""), (type(None), "protocol"))


@given(units().map(encode), st.binary(max_size=3))
@fuzz(8)
def test_a_frame_cut_short_anywhere_is_refused(body: bytes, behind: bytes) -> None:
    for end in range(len(body)):
        with pytest.raises(EngramError, match="not valid CBOR"):
            decode(body[:end])
    if behind:
        with pytest.raises(EngramError, match="bytes follow"):
            decode(body + behind)
