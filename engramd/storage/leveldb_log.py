"""LevelDB's log files, and its manifest, which has the same format (its doc/log_format.md): what is wrong in one.

A file is made of blocks, a block of pieces, each with a checksum; a record is one piece, or several one behind the other. A batch is one
record.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import chain, pairwise

BLOCK = 32768  # bytes
HEAD = struct.Struct("<IHB")  # of each piece: checksum of kind and content, length of the content, kind
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4  # kinds; a block that ends with less than a head has zeros there
SECTOR = 512  # bytes that a disk writes whole or not
SHORT = 16  # so many zeros, or fewer, can stand at an end of a record that is whole


def blanked(log: bytearray) -> bytearray:
    """A file without what is damaged: from a piece with a wrong checksum on, its block is filled with zeros, which LevelDB passes over.

    The piece's length may be wrong, too; so what follows it in the block cannot be found.
    """
    for start in range(0, len(log), BLOCK):
        at, end = start, min(start + BLOCK, len(log))
        while at + HEAD.size <= end:
            after = _end_of_piece(log, at)
            if after is None:
                log[at:end] = bytes(end - at)
                break
            at = after
    return log


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


def _begins_again(log: bytes | bytearray, first: int) -> bool:
    """Whether a record begins behind the damage: anywhere in its block, or in a later one, where what is before it shows the way."""
    block = first - first % BLOCK
    places = chain(range(first, min(block + BLOCK, len(log)) - HEAD.size + 1), _pieces(log, block + BLOCK))
    return any(log[at + HEAD.size - 1] in (FULL, FIRST) and _end_of_piece(log, at) is not None for at in places)


def _pieces(log: bytes | bytearray, first: int) -> Iterator[int]:
    """Where the whole pieces begin, from a block on; what is not whole hides those that follow in its block."""
    for start in range(first, len(log), BLOCK):
        at: int | None = start
        while at is not None and at + HEAD.size <= min(start + BLOCK, len(log)):
            yield at
            at = _end_of_piece(log, at)


def _end_of_piece(log: bytes | bytearray, at: int) -> int | None:
    """Where a piece ends; None where there is none that is whole."""
    checksum, size, kind = HEAD.unpack_from(log, at)
    end = at + HEAD.size + size
    if not FULL <= kind <= LAST or end > min(len(log), at - at % BLOCK + BLOCK):
        return None
    return end if checksum == _masked(_crc32c(log[at + HEAD.size - 1 : end])) else None


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
