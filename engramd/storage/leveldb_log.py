"""LevelDB's log files (their format: its doc/log_format.md): what is wrong in one.

A file is made of blocks, a block of pieces, each with a checksum; a record is one piece, or several one behind the other. A batch is one
record.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from itertools import pairwise

BLOCK = 32768  # bytes
HEAD = struct.Struct("<IHB")  # of each piece: checksum of kind and content, length of the content, kind
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4  # kinds; a block that ends with less than a head has zeros there
TOO_SHORT = 11  # bytes of a record that is no batch: that has a head of 12
_KINDS = re.compile(rb"[\x01\x02]")  # of pieces with which a record begins
SECTOR = 512  # bytes that a disk writes whole or not
SHORT = 16  # so many zeros, or fewer, can stand at an end of a record that is whole


def blanked(log: bytearray) -> bytearray:
    """A file without what is damaged, so that LevelDB passes it over and reads on behind it.

    A damaged piece's length may be wrong, too. So what follows it in its block is found by looking for it, and what is before that becomes
    records that are too short for LevelDB; where nothing is found, zeros to the end of the block.
    """
    left = _Budget()
    for start in range(0, len(log), BLOCK):
        at, end = start, min(start + BLOCK, len(log))
        while at + HEAD.size <= end:
            after = _end_of_piece(log, at)
            if after is None:
                after = next(_beginnings(log, at + HEAD.size, end, left), None)
                log[at : after or end] = bytes(end - at) if after is None else _nothing(after - at)
            at = after or end
    return log


def _nothing(size: int) -> bytes:
    """So many bytes of pieces, each a record that is shorter than a batch can be."""
    found = b""
    while size:
        piece = min(size, HEAD.size + TOO_SHORT)
        if 0 < size - piece < HEAD.size:
            piece = size - HEAD.size
        kind_and_content = bytes((FULL,)) + bytes(piece - HEAD.size)
        found += HEAD.pack(_masked(_crc32c(kind_and_content)), piece - HEAD.size, FULL) + kind_and_content[1:]
        size -= piece
    return found


def torn_at(log: bytes | bytearray) -> int | None:
    """Where the last record begins, if it is what a power cut leaves of a write that was not synced; None for anything else.

    Then some of its sectors were never written, and are zeros. A record that was synced is whole, or damaged in another way; so is one that
    another follows, which was written only when that before it was synced. etcd tells a torn write by the same (its wal/decoder.go).
    """
    begins, at = 0, 0
    while at + HEAD.size <= len(log):
        if BLOCK - at % BLOCK < HEAD.size:
            following = at + BLOCK - at % BLOCK
            begins, at = (following if begins == at else begins), following
            continue
        after = _end_of_piece(log, at)
        kind = log[at + HEAD.size - 1]
        if after is None or (kind in (FULL, FIRST)) != (begins == at):
            return begins if _has_unwritten(log, begins) and not _begins_again(log, at + 1) else None
        at = after
        if kind in (FULL, LAST):
            begins = at
    return None


def _has_unwritten(log: bytes | bytearray, begins: int) -> bool:
    """Whether some sector of the last record is zeros, as far as it is the record's."""
    places = [begins, *range((begins // SECTOR + 1) * SECTOR, len(log), SECTOR), len(log)]
    return any(not any(log[start:end]) and end - start > SHORT for start, end in pairwise(places))


class _Budget:
    """How many bytes of checksums are worked out for places where a piece might begin: a payload can be made of nothing else.

    Attributes:
        left: bytes.
    """

    def __init__(self, left: int = 32 * 1024 * 1024) -> None:
        self.left = left


def _begins_again(log: bytes | bytearray, first: int) -> bool:
    """Whether a record begins at a place or behind it, wherever that may be; also where it would take too long to tell."""
    left = _Budget()
    return next(_beginnings(log, first, len(log), left), None) is not None or left.left <= 0


def _beginnings(log: bytes | bytearray, first: int, last: int, left: _Budget) -> Iterator[int]:
    """Where records begin, from one place to another, wherever that may be; none any more when the budget is used up."""
    for found in _KINDS.finditer(log, first + HEAD.size - 1, last):
        at = found.start() - HEAD.size + 1
        if (end := _claimed(log, at)) and _may_follow(log, end):
            left.left -= end - at
            if left.left <= 0:
                return
            if _end_of_piece(log, at) is not None:
                yield at


def _claimed(log: bytes | bytearray, at: int) -> int:
    """Where a piece ends by its length; 0 where that cannot be."""
    _, size, kind = HEAD.unpack_from(log, at)
    end: int = at + HEAD.size + size
    return end if FULL <= kind <= LAST and at % BLOCK + HEAD.size <= BLOCK and end <= min(len(log), at - at % BLOCK + BLOCK) else 0


def _may_follow(log: bytes | bytearray, at: int) -> bool:
    """Whether another piece can stand there, or the end of a block or the file, or zeros: a look that costs little."""
    if at + HEAD.size > len(log) or -at % BLOCK < HEAD.size:
        return True
    return _claimed(log, at) > 0 or not any(log[at : at + HEAD.size])


def _end_of_piece(log: bytes | bytearray, at: int) -> int | None:
    """Where a piece ends; None where there is none that is whole."""
    end = _claimed(log, at)
    return end if end and HEAD.unpack_from(log, at)[0] == _masked(_crc32c(log[at + HEAD.size - 1 : end])) else None


def _masked(checksum: int) -> int:
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _crc32c(data: bytes | bytearray) -> int:
    """The CRC-32 of RFC 3720, as LevelDB has it: `zlib.crc32` is another."""
    value = 0xFFFFFFFF
    for byte in data:
        value = _CRC32C[(value ^ byte) & 0xFF] ^ value >> 8
    return value ^ 0xFFFFFFFF


def _crc_table() -> Iterator[int]:
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        yield value


_CRC32C = tuple(_crc_table())
