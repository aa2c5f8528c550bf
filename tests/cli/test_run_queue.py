"""How output is cut into chunks, and the queue in which they wait: nothing is lost, nothing is out of order, and both have a bound."""

from __future__ import annotations

import json
import math
from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st

from engram_cli.chunks import SECONDS, SIZE, Chunk, Cutter, Lines, said_in, whole
from engram_cli.spool import SLOT, Spool
from engramd.protocol.unit import TYPES

PIECES = st.lists(st.one_of(st.binary(max_size=40), st.text(max_size=20).map(str.encode), st.just(b"\n")), max_size=30)


def cut(cutter: Cutter, pieces: list[bytes], flushes: set[int]) -> list[Chunk]:
    """What comes of a stream whose time is over after some of the pieces."""
    found: list[Chunk] = []
    for number, piece in enumerate(pieces):
        found += cutter.take(piece, float(number))
        assert cutter.due <= number + SECONDS or math.isinf(cutter.due)
        if number in flushes:
            found += cutter.flush()
    return [*found, *cutter.end()]


@given(pieces=PIECES, flushes=st.sets(st.integers(0, 30)), most=st.integers(4, 30))
def test_chunks_are_the_stream_in_order(pieces: list[bytes], flushes: set[int], most: int) -> None:
    found = cut(Cutter({"run": "r"}, most), pieces, flushes)
    assert b"".join(chunk.data for chunk in found) == b"".join(pieces)
    assert all(0 < chunk.size == len(chunk.data) <= most for chunk in found)
    at = 0
    for chunk in found:
        assert chunk.meta == {"run": "r", "offset": str(at)}
        at += chunk.size


@given(text=st.text(min_size=1, max_size=60), sizes=st.lists(st.integers(1, 7), min_size=1), most=st.integers(4, 9))
def test_text_is_not_cut_inside_a_character(text: str, sizes: list[int], most: int) -> None:
    data, pieces = text.encode(), []
    while data:
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(data[:size])
        data = data[size:]
    found = cut(Cutter({}, most), pieces, set(range(100)))
    assert "".join(chunk.data.decode() for chunk in found) == text


def test_the_end_of_a_character_is_waited_for() -> None:
    assert [whole(data) for data in (b"", b"a", b"\xc3", b"a\xe2\x82", b"\xf0\x9f\x98", b"\x80", b"\xff", "é".encode())] == [
        0, 1, 0, 1, 0, 1, 1, 2,
    ]  # fmt: skip


@given(
    lines=st.lists(
        st.one_of(
            st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), max_size=12),
            st.builds(lambda kind, text: json.dumps({"type": kind, "text": text}), st.sampled_from([*TYPES, "none"]), st.text(max_size=5)),
        ),
        min_size=1,
        max_size=12,
    ),
    size=st.integers(1, 40),
    ends=st.booleans(),
    flushes=st.sets(st.integers(0, 60)),
)
def test_json_lines_become_units_however_they_arrive(lines: list[str], size: int, ends: bool, flushes: set[int]) -> None:
    data = "\n".join(lines).encode() + b"\n" * ends
    found = cut(Lines({}, SIZE), [data[at : at + size] for at in range(0, len(data), size)], flushes)
    assert sum(chunk.size for chunk in found) == len(data)
    said = [said_in(line.encode() + b"\n") for line in lines]
    assert [(chunk.type, chunk.data) for chunk in found if "text" in chunk.meta or chunk.size != len(chunk.data)] == [
        (one[0], one[2]) for one in said if one is not None
    ]
    plain = b"".join(chunk.data for chunk in found if chunk.size == len(chunk.data))
    assert plain == b"".join(
        line.encode() + b"\n" * (number + 1 < len(lines) or ends) for number, line in enumerate(lines) if said[number] is None
    )


def test_a_line_that_is_too_long_for_json_is_ordinary_output() -> None:
    line = json.dumps({"type": "message", "text": "x" * 2**20}).encode()
    found = cut(Lines({}), [line[at : at + 5000] for at in range(0, len(line), 5000)] + [b'\n{"type": "error"}\n'], set())
    assert {chunk.type for chunk in found[:-1]} == {"tool_result"}
    assert b"".join(chunk.data for chunk in found[:-1]) == line + b"\n"
    assert found[-1].type == "error"


@settings(deadline=None)
@given(steps=st.lists(st.one_of(st.integers(0, 3 * SLOT), st.just("take"), st.just("look")), max_size=60))
def test_the_queue_gives_what_was_put_in_order_and_refuses_beyond_its_bounds(steps: list[int | str]) -> None:
    spool = Spool(memory=SLOT, disk=4 * SLOT, count=12)
    model: deque[Chunk] = deque()
    for number, step in enumerate(steps):
        if isinstance(step, int):
            chunk = Chunk("tool_result", {"n": str(number)}, bytes([number % 256]) * step, step)
            if spool.put(chunk):
                model.append(chunk)
            else:
                assert len(model) == 12 or sum(-(-len(one.data) // SLOT) * SLOT for one in (*model, chunk)) > 4 * SLOT
        elif step == "take" and model:
            count = min(len(model), 2)
            assert spool.head(2**40, 2) == [model[index] for index in range(count)]
            spool.drop(count)
            for _ in range(count):
                model.popleft()
        assert spool.head(2**40, 2**40) == list(model)
        assert (len(spool), spool.size) == (len(model), sum(len(one.data) for one in model))


def test_a_batch_has_at_least_one_and_is_bounded() -> None:
    spool = Spool()
    for size in (10, 10, 50, 1):
        spool.put(Chunk("tool_result", {}, b"x" * size, size))
    assert [len(spool.head(most, count)) for most, count in ((1, 9), (20, 9), (69, 9), (70, 9), (71, 9), (99, 3))] == [1, 2, 2, 3, 4, 3]
