"""What a power cut leaves of a write that was not synced, told from other damage, in files of LevelDB's log format."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import assume, example, given
from hypothesis import strategies as st

from engramd.storage.leveldb_log import BLOCK, FIRST, FULL, HEAD, LAST, MIDDLE, SECTOR, SHORT, TOO_SHORT, _crc32c, _masked, blanked, torn_at

SIZES = st.sampled_from([0, 1, 20, 300, 505, 3000]) | st.integers(BLOCK - 40, BLOCK + 40) | st.integers(BLOCK + 100, 2 * BLOCK)


def written(records: Sequence[bytes]) -> tuple[bytes, list[int]]:
    """A file of some records, and where each begins."""
    file, begins = bytearray(), []
    for record in records:
        left, kind = record, FIRST
        while True:
            if BLOCK - len(file) % BLOCK < HEAD.size:
                file += bytes(BLOCK - len(file) % BLOCK)
            if kind == FIRST:
                begins.append(len(file))
            piece, left = left[: (room := BLOCK - len(file) % BLOCK - HEAD.size)], left[room:]
            shown = kind if left else {FIRST: FULL, MIDDLE: LAST}[kind]
            file += HEAD.pack(_masked(_crc32c(bytes((shown,)) + piece)), len(piece), shown) + piece
            if not left:
                break
            kind = MIDDLE
    return bytes(file), begins


@st.composite
def files(draw: st.DrawFn) -> tuple[bytes, list[int]]:
    """A file without zeros in its records."""
    sizes = draw(st.lists(SIZES, min_size=1, max_size=4))
    return written([bytes((number + 65,)) * size for number, size in enumerate(sizes)])


def torn(file: bytes, begins: int, written: Sequence[bool]) -> tuple[bytes, int]:
    """The file with those sectors of its end that were written, in turn, and zeros for the others; and the most bytes that one lacks."""
    found, start, most = bytearray(file[:begins]), begins, 0
    for is_written in written:
        end = min(len(file), (start // SECTOR + 1) * SECTOR)
        found += file[start:end] if is_written else bytes(end - start)
        most = max(most, 0 if is_written else end - start)
        start = end
    return bytes(found + file[start:]), most


@given(files(), st.lists(st.booleans(), min_size=1, max_size=100))
@example(written([b"x", b"y" * 3 * BLOCK]), [False, True])
def test_a_torn_last_record_is_found(made: tuple[bytes, list[int]], which: list[bool]) -> None:
    file, begins = made
    left, most = torn(file, begins[-1], which)
    assume(most > SHORT)  # fewer zeros say nothing
    assert torn_at(left) == begins[-1]


@given(files(), st.data())
def test_a_file_that_is_whole_or_cut_short_has_nothing_torn(made: tuple[bytes, list[int]], data: st.DataObject) -> None:
    file, _ = made
    assert torn_at(file[: data.draw(st.integers(0, len(file)))]) is None


@given(files(), st.data())
def test_a_flipped_bit_is_no_torn_write(made: tuple[bytes, list[int]], data: st.DataObject) -> None:
    changed = bytearray(made[0])
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert torn_at(changed) is None


@given(st.lists(SIZES, min_size=1, max_size=3), st.lists(SIZES, min_size=1, max_size=3), st.data())
@example([2000], [20], None)
@example([BLOCK], [BLOCK], None)
def test_what_another_record_follows_was_synced(sizes: list[int], more: list[int], data: st.DataObject | None) -> None:
    """Even where it is full of zeros, and one bit of it is another."""
    file, begins = written([*map(bytes, sizes), *(b"z" * size for size in more)])
    end = begins[len(sizes)]
    place = end // 2 if data is None else data.draw(st.integers(0, end - 1))
    changed = bytearray(file)
    changed[place] ^= 64
    assert torn_at(changed) is None


@given(st.lists(SIZES, min_size=1, max_size=4), st.data())
def test_what_is_whole_is_read_on_behind_damage(sizes: list[int], data: st.DataObject) -> None:
    """Of the records that begin behind a damaged piece in its block, none is passed over: the damaged one is made of too short ones."""
    file, begins = written([bytes((number + 65,)) * size for number, size in enumerate(sizes)])
    changed = bytearray(file)
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    left = records_in(blanked(bytearray(changed)))
    harmed = [number for number, (start, end) in enumerate(pairwise([*begins, len(file)])) if changed[start:end] != file[start:end]]
    sound = [bytes((number + 65,)) * size for number, size in enumerate(sizes) if number not in harmed]
    assert [record for record in left if len(record) > TOO_SHORT] == [record for record in sound if len(record) > TOO_SHORT]


def records_in(file: bytearray) -> list[bytes]:
    """What LevelDB reads there, whose checksums it does not look at."""
    found, parts, at = list[bytes](), list[bytes](), 0
    while at + HEAD.size <= len(file):
        _, size, kind = HEAD.unpack_from(file, at)
        if BLOCK - at % BLOCK < HEAD.size or kind == 0:
            parts = parts if BLOCK - at % BLOCK < HEAD.size else []  # zeros that are not just the end of a block break a record off
            at += BLOCK - at % BLOCK
            continue
        piece = bytes(file[at + HEAD.size : (at := at + HEAD.size + size)])
        parts = [piece] if kind in (FULL, FIRST) else [*parts, piece] if parts else []
        if kind in (FULL, LAST) and parts:
            found.append(b"".join(parts))
            parts = []
    return found
