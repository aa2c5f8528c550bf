"""Frames and the strict CBOR decoder, fed whole, byte by byte, and with more bytes behind."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise
from typing import Any

import cbor2
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from engramd.protocol.errors import EngramError
from engramd.protocol.framing import LENGTH, MAX_CONTAINERS, MAX_DEPTH, FrameDecoder, decode, encode, encode_array, encode_map, frame
from engramd.protocol.messages import MAX_RELATIONSHIPS, MAX_UNITS

LIMIT = 4096

plain = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.binary(max_size=20)
)
values = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4), max_leaves=12
)


def _cut(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def _ways(data: bytes) -> list[list[bytes]]:
    """Whole, byte by byte, and in two pieces."""
    return [[data], [data[at : at + 1] for at in range(len(data))], _cut(data, [len(data) // 2])]


def _feed(decoder: FrameDecoder, chunks: list[bytes]) -> list[bytes]:
    return [body for chunk in chunks for body in decoder.feed(chunk)]


def _until_refused(decoder: FrameDecoder, chunks: list[bytes]) -> tuple[list[bytes], EngramError | None]:
    """The bodies that came before an error, and the error, if there was one."""
    bodies: list[bytes] = []
    try:
        for chunk in chunks:
            for body in decoder.feed(chunk):
                bodies.append(body)  # noqa: PERF402 - extend would lose those before an error
    except EngramError as error:
        return bodies, error
    return bodies, None


def _refused(body: bytes) -> str:
    with pytest.raises(EngramError) as caught:
        decode(body)
    assert caught.value.code == "protocol"
    return caught.value.message


# Frames


@pytest.mark.parametrize("bodies", [[b"x"], [b""], [b"one", b"two", b"three"], [b"", b"", b"end"], [b"y" * LIMIT], [b"\x00" * 300, b"z"]])
def test_bodies_arrive_in_order_however_the_bytes_do(bodies: list[bytes]) -> None:
    for chunks in _ways(b"".join(map(frame, bodies))):
        decoder = FrameDecoder(LIMIT)
        assert _feed(decoder, chunks) == bodies
        assert not decoder.partial


@pytest.mark.parametrize("seen", [1, 3, 4, 8])
def test_bytes_behind_the_last_whole_frame_wait(seen: int) -> None:
    later = frame(b"later")
    for chunks in _ways(frame(b"first") + later[:seen]):
        decoder = FrameDecoder(LIMIT)
        assert _feed(decoder, chunks) == [b"first"]
        assert decoder.partial
        assert list(decoder.feed(later[seen:])) == [b"later"]
        assert not decoder.partial


def test_an_extra_frame_behind_is_a_frame_of_its_own() -> None:
    for chunks in _ways(frame(b"first") + frame(b"extra")):
        assert _feed(FrameDecoder(LIMIT), chunks) == [b"first", b"extra"]


@given(st.lists(st.binary(max_size=60), max_size=6), st.lists(st.integers(0, 2**16), max_size=12))
@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])
def test_any_cuts_give_the_same_bodies(bodies: list[bytes], cuts: list[int]) -> None:
    decoder = FrameDecoder(LIMIT)
    assert _feed(decoder, _cut(b"".join(map(frame, bodies)), cuts)) == bodies
    assert not decoder.partial


@pytest.mark.parametrize("length", [LIMIT + 1, 2**31, 2**32 - 1])
def test_a_length_over_the_limit_is_refused_before_its_body_comes(length: int) -> None:
    header = LENGTH.pack(length)
    for chunks in _ways(header):
        decoder = FrameDecoder(LIMIT)
        assert _feed(decoder, chunks[:-1]) == []
        with pytest.raises(EngramError) as caught:
            list(decoder.feed(chunks[-1]))
        assert caught.value.code == "too_large"
        assert caught.value.details == {"limit": LIMIT, "size": length}


def test_whole_frames_before_an_oversized_one_are_delivered() -> None:
    good = [b"one", b"two"]
    for chunks in _ways(b"".join(map(frame, good)) + LENGTH.pack(LIMIT + 1) + b"body"):
        decoder = FrameDecoder(LIMIT)
        bodies, error = _until_refused(decoder, chunks)
        assert bodies == good
        assert error is not None
        assert error.code == "too_large"
        again, error = _until_refused(decoder, [frame(b"three")])
        assert not again  # there is no way back into step
        assert error is not None


def test_the_limit_itself_is_allowed() -> None:
    assert list(FrameDecoder(LIMIT).feed(frame(b"x" * LIMIT))) == [b"x" * LIMIT]


@given(st.lists(st.binary(max_size=40), max_size=8))
@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@example([b"\x00\x00\x00\x01", b"\xa1"])
@example([b"\xff\xff\xff\xff"])
def test_a_garbage_stream_raises_nothing_but_an_engram_error(chunks: list[bytes]) -> None:
    bodies, error = _until_refused(FrameDecoder(64), chunks)
    assert error is None or error.code == "too_large"
    assert b"".join(chunks).startswith(b"".join(map(frame, bodies)))


@given(st.binary(max_size=60))
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
def test_garbage_in_a_frame_raises_nothing_but_an_engram_error(body: bytes) -> None:
    with suppress(EngramError):
        encode(decode(body))  # what is accepted is a value that CBOR knows


# The decoder

BAD = {
    "nothing": "",
    "a tag that cbor2 knows": "c0 74 323032362d30312d30315430303a30303a30305a",
    "a tag that it does not know": "d9 03e7 00",
    "a bignum": "c2 41 01",
    "a shared reference": "d8 1c 80",
    "a string reference": "d9 0100 80",
    "a self-described item": "d9 d9f7 00",
    "a tag inside": "a1 61 61 c1 00",
    "a tag as a key": "a1 c1 00 00",
    "an indefinite array": "9f 01 ff",
    "an indefinite map": "bf 61 61 01 ff",
    "an indefinite text": "7f 61 61 ff",
    "an indefinite byte string": "5f 41 61 ff",
    "a lone break": "ff",
    "a duplicate key": "a2 61 61 01 61 61 02",
    "a duplicate key inside": "81 a2 61 61 01 61 61 02",
    "an integer key": "a1 01 02",
    "a null key": "a1 f6 02",
    "a boolean key": "a1 f5 02",
    "a float key": "a1 f9 3c00 02",
    "an array key": "a1 81 01 02",
    "a map key": "a1 a0 02",
    "text that is not UTF-8": "61 ff",
    "a surrogate": "63 eda080",
    "a reserved head": "1c",
    "a simple value in the wrong form": "f8 10",
    "an array that never ends": "9b 7fffffffffffffff",
    "a map that never ends": "bb ffffffffffffffff",
    "a text that never ends": "7b 7fffffffffffffff 61",
    "a byte string that never ends": "5b ffffffffffffffff 61",
}


@pytest.mark.parametrize("body", [bytes.fromhex(text) for text in BAD.values()], ids=BAD.keys())
def test_bad_cbor_is_a_protocol_error(body: bytes) -> None:
    good = encode({"id": 1})
    for chunks in _ways(frame(good) + frame(body) + frame(good)):
        first, second, third = _feed(FrameDecoder(LIMIT), chunks)
        assert decode(first) == {"id": 1} == decode(third)
        assert _refused(second)


@pytest.mark.parametrize("opening", [b"\x81", b"\xa1\x61a"], ids=["arrays", "maps"])
def test_depth_is_bounded(opening: bytes) -> None:
    assert decode(opening * MAX_DEPTH + b"\x00") is not None
    for depth in (MAX_DEPTH + 1, 100, 100_000):
        assert "depth" in _refused(opening * depth + b"\x00")


@pytest.mark.parametrize("opening", [b"", b"\x59\xff\xff" + b"\x80" * 65_535, b"\x5a\x00\x01\x00\x00" + b"\xa0" * 65_536])
@pytest.mark.parametrize("one", [b"\x80", b"\xa0", b"\x81\x00", b"\xa1\x61a\x80"])
def test_lists_and_maps_are_bounded(opening: bytes, one: bytes) -> None:
    """A byte makes one of 60: a small frame of nothing else would fill the memory."""
    for many in (MAX_CONTAINERS // 2 - 1, 2 * MAX_CONTAINERS):
        count = many + bool(opening)
        body = b"\x9a" + count.to_bytes(4) + opening + one * many
        if many > MAX_CONTAINERS:
            assert "lists and maps" in _refused(body)
        else:
            assert len(decode(body)) == count


def test_the_largest_put_has_no_more_of_them_than_allowed() -> None:
    in_a_unit = 3 + 2 * MAX_RELATIONSHIPS  # itself, its labels, its relationships, and each of those with its labels
    assert 2 + MAX_UNITS * in_a_unit + 2 + 64 <= MAX_CONTAINERS


@given(values, st.binary(min_size=1, max_size=5))
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_bytes_behind_the_item_are_refused(value: Any, tail: bytes) -> None:
    assert decode(encode(value)) == value
    assert "bytes follow" in _refused(encode(value) + tail)


@given(values)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_every_proper_prefix_is_refused(value: Any) -> None:
    body = encode(value)
    for end in range(len(body)):
        assert _refused(body[:end])


# Encoding around what is already encoded


@given(st.lists(values, max_size=40))
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_encode_array_is_what_cbor2_writes(items: list[Any]) -> None:
    assert encode_array([encode(item) for item in items]) == cbor2.dumps(items)


@given(st.dictionaries(st.text(max_size=10), values, max_size=40))
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_encode_map_is_what_cbor2_writes(members: dict[str, Any]) -> None:
    assert encode_map({key: encode(value) for key, value in members.items()}) == cbor2.dumps(members)


@pytest.mark.parametrize("count", [0, 23, 24, 255, 256, 65_535, 65_536])
def test_heads_of_every_width(count: int) -> None:
    assert encode_array([b"\x00"] * count) == cbor2.dumps([0] * count)
    assert encode_map({str(n): b"\x00" for n in range(count)}) == cbor2.dumps({str(n): 0 for n in range(count)})
