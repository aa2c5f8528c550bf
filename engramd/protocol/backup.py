"""What a backup is made of: segments of the log in frames, and the manifest that lists them. Bytes only; docs/storage.md describes both.

A frame is seq (8 bytes), length (4), CRC-32 of these and of what follows (4), all big-endian, and a record as it stands in the log.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from .errors import EngramError
from .messages import MAX_PAYLOAD, MIB

FORMAT = 1
MANIFEST = "manifest.json"
SEGMENT_BYTES = 16 * MIB  # a segment that is at least so large is full
MAX_MANIFEST = 64 * MIB
MAX_RECORD = MAX_PAYLOAD + MIB

_DAMAGED = "the backup is damaged: "
_HEAD = struct.Struct(">QII")
_CHECKED = struct.Struct(">QI")
_NAME = re.compile(r"[0-9]{19}-[0-9]{19}-[0-9a-f]{16}\.segment", re.ASCII)
_HISTORY = re.compile(r"[0-9a-f]{12}", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)


MAX_SEQ = 2**53  # no log comes there; JSON has no larger numbers that are exact


def damaged(what: str) -> EngramError:
    """The error for a backup that cannot be used as it is."""
    return EngramError("storage", f"{_DAMAGED}{what}")


@contextmanager
def advised(what: str) -> Iterator[None]:
    """Where a backup is found damaged, say also what to do."""
    try:
        yield
    except EngramError as error:
        if error.code == "storage" and error.message.startswith(_DAMAGED):
            raise EngramError(error.code, f"{error.message}. {what}", **error.details) from None
        raise


def frame(seq: int, record: bytes) -> bytes:
    """A record of the log in its frame."""
    return _HEAD.pack(seq, len(record), _check(seq, record)) + record


def _check(seq: int, record: bytes) -> int:
    return zlib.crc32(record, zlib.crc32(_CHECKED.pack(seq, len(record))))


class Frames:
    """Cuts bytes into frames, however they arrive, and checks each.

    Attributes:
        last: the seq of the last frame; seqs must rise.
    """

    def __init__(self, last: int = 0) -> None:
        self.last = last
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Take bytes and yield the seqs and records that are now whole. Exhaust it before the next call.

        Raises:
            EngramError: `storage` for a wrong checksum, a length over the limit, or a seq out of order.
        """
        buffer = self._buffer
        buffer += data
        at = 0
        try:
            while len(buffer) - at >= _HEAD.size:
                seq, length, check = _HEAD.unpack_from(buffer, at)
                if length > MAX_RECORD:
                    raise damaged(f"the record after seq {self.last} claims {length} bytes")
                start = at + _HEAD.size
                if len(buffer) - start < length:
                    return
                at = start + length
                record = bytes(memoryview(buffer)[start:at])
                if _check(seq, record) != check:
                    raise damaged(f"the record after seq {self.last} has a wrong checksum")
                if not self.last < seq <= MAX_SEQ:
                    raise damaged(f"seq {seq} follows seq {self.last}")
                self.last = seq
                yield seq, record
        finally:
            del buffer[:at]

    def finish(self) -> None:
        """Nothing follows. Raises EngramError("storage") inside a frame."""
        if self._buffer:
            raise damaged(f"it ends inside the record after seq {self.last}")


@dataclass(frozen=True)
class Segment:
    """A file of a backup.

    Attributes:
        file: its name.
        first, last: the seqs that it covers; all records of the log between them are in it.
        size: bytes.
        sha256: of the file, in hexadecimal digits.
    """

    file: str
    first: int
    last: int
    records: int
    size: int
    sha256: str

    @property
    def is_full(self) -> bool:
        """Whether what comes next goes into another one."""
        return self.size >= SEGMENT_BYTES


def segment_name(first: int, last: int, sha256: str) -> str:
    """The name of a segment's file; another content is another name."""
    return f"{first:019}-{last:019}-{sha256[:16]}.segment"


@dataclass(frozen=True)
class Manifest:
    """What a backup holds.

    Attributes:
        history: of the log.
        made_at: microseconds since the epoch.
        last: the seq up to which the log is in it.
        segments: in order, without a gap between what they cover.
        lost: where it was saved from a damaged store, the ranges of seqs that could not be read.
        salvaged: whether it was.
        stale: seqs whose records have changed since they were read, such as by a redaction: their segments are to be read anew.
        server: the program that the records came from.
    """

    history: str
    made_at: int
    last: int
    server: str = ""
    segments: tuple[Segment, ...] = ()
    lost: tuple[tuple[int, int], ...] = ()
    salvaged: bool = False
    stale: tuple[int, ...] = ()
    format: int = field(default=FORMAT)

    def encode(self) -> bytes:
        """The manifest as its file has it: one JSON object, with a checksum over the others of its members."""
        members = asdict(self)
        return (json.dumps({**members, "sha256": _digest(members)}, indent=1) + "\n").encode()


def _digest(members: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(members, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def parse_manifest(data: bytes) -> Manifest:
    """Read a manifest.

    Raises:
        EngramError: `storage` when it is damaged, of another format, or does not hold together.
    """
    try:
        members = json.loads(data)
        check = members.pop("sha256")
        if members["format"] != FORMAT:
            raise EngramError(
                "storage", f"the backup has format {members['format']!r}, this Engram reads format {FORMAT}; use the one that made it"
            )
        if check != _digest(members):
            raise damaged(f"{MANIFEST} has a wrong checksum")
        segments = tuple(Segment(**segment) for segment in members.pop("segments"))
        lost = tuple((first, last) for first, last in members.pop("lost"))
        manifest = Manifest(**{**members, "stale": tuple(members["stale"])}, segments=segments, lost=lost)
        _hold_together(manifest)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(f"{MANIFEST} cannot be read: {error!r:.200}") from None
    return manifest


def _hold_together(manifest: Manifest) -> None:
    """Raise where members are of the wrong type, or contradict each other."""
    last = 0
    for segment in manifest.segments:
        numbers = (segment.first, segment.last, segment.records, segment.size)
        if any(type(number) is not int or not 0 <= number < 2**63 for number in numbers):
            raise ValueError("a number of a segment is none")
        if not _NAME.fullmatch(segment.file) or not _DIGEST.fullmatch(segment.sha256):
            raise ValueError("the name or the checksum of a segment is none")
        if segment.file != segment_name(segment.first, segment.last, segment.sha256):
            raise ValueError("a segment has the name of another")
        if segment.first != last + 1 or segment.last < segment.first:
            raise ValueError(f"the segments do not follow each other at seq {segment.first}")
        last = segment.last
    if type(manifest.last) is not int or manifest.last != last or type(manifest.made_at) is not int or type(manifest.salvaged) is not bool:
        raise ValueError("its members contradict each other")
    if any(type(seq) is not int for seq in manifest.stale):
        raise ValueError("what is stale is no seq")
    if not _HISTORY.fullmatch(manifest.history) or type(manifest.server) is not str:
        raise ValueError("its history is none")
    for lost, (start, end) in zip((0, *(end for _, end in manifest.lost)), manifest.lost, strict=False):
        if type(start) is not int or type(end) is not int or not lost < start <= end <= last:
            raise ValueError("what is lost is not in order")


def records_of(segment: Segment, blocks: Iterator[bytes]) -> Iterator[tuple[int, bytes]]:
    """The seqs and records of a segment, from the bytes of its file.

    Raises:
        EngramError: `storage` when these are not what the manifest says.
    """
    frames, digest, size, count = Frames(segment.first - 1), hashlib.sha256(), 0, 0
    try:
        for block in blocks:
            size += len(block)
            if size > segment.size:
                raise damaged(f"it is larger than the {segment.size} bytes it should have")
            digest.update(block)
            for seq, record in frames.feed(block):
                count += 1
                yield seq, record
        frames.finish()
    except EngramError as error:
        raise damaged(f"{segment.file}: {error.message.removeprefix(_DAMAGED)}") from None
    if (size, count) != (segment.size, segment.records) or digest.hexdigest() != segment.sha256 or frames.last > segment.last:
        raise damaged(f"{segment.file}: it is not the file that was written: size, checksum or seqs differ")
