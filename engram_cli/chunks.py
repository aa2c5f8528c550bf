"""Output cut into what becomes one unit each: up to a size or a time, never inside a character where that can be helped. No I/O."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from engramd.protocol.errors import EngramError
from engramd.protocol.messages import META, UNIT_TYPE

SIZE = 64 * 1024  # bytes of one chunk at most
SECONDS = 0.2  # between the first byte of a chunk and its end at most
LINE = 1024 * 1024  # bytes of a line that is read as JSON at most
LABELS = 4096  # bytes of its labels at most


@dataclass(frozen=True, slots=True)
class Chunk:
    """What becomes one unit.

    Attributes:
        type: the unit's.
        meta: its labels.
        data: its payload.
        size: the bytes of output that it stands for.
    """

    type: str
    meta: dict[str, str]
    data: bytes
    size: int


class Cutter:
    """Cuts what a stream brings into chunks of up to `most` bytes.

    Args:
        meta: labels for each chunk; `offset` is added, the place of its first byte in the stream.

    Attributes:
        due: when `flush` is to be called unless more comes; infinite where nothing waits.
    """

    def __init__(self, meta: dict[str, str], most: int = SIZE) -> None:
        self.due = math.inf
        self._meta = meta
        self._most = most
        self._kept = bytearray()
        self._offset = 0

    def take(self, data: bytes, now: float) -> Iterator[Chunk]:
        """Take output, and give the chunks that are full."""
        if math.isinf(self.due):
            self.due = now + SECONDS
        self._kept += data
        full = 0
        while len(self._kept) - full >= self._most:
            piece = bytes(self._kept[full : full + self._most])
            piece = piece[: whole(piece) or len(piece)]
            full += len(piece)
            yield self._chunk(piece)
        if full:
            del self._kept[:full]
            self.due = now + SECONDS if self._kept else math.inf

    def flush(self, final: bool = False) -> Iterator[Chunk]:
        """Give what there is, but for a character that has begun; when it is `final`, that too."""
        self.due = math.inf
        piece = bytes(self._kept)
        if not final:
            piece = piece[: whole(piece)]
        if piece:
            del self._kept[: len(piece)]
            yield self._chunk(piece)

    def end(self) -> Iterator[Chunk]:
        """The stream has ended: give all that is left."""
        yield from self.flush(final=True)

    def _chunk(self, piece: bytes) -> Chunk:
        chunk = Chunk("tool_result", {**self._meta, "offset": str(self._offset)}, piece, len(piece))
        self._offset += len(piece)
        return chunk


class Lines(Cutter):
    """Cuts a stream of JSON lines: each that is an object with the `type` of a unit becomes one; all else is cut as any output is."""

    def __init__(self, meta: dict[str, str], most: int = SIZE, longest: int = LINE) -> None:
        super().__init__(meta, most)
        self._longest = longest
        self._line = bytearray()
        self._too_long = False

    def take(self, data: bytes, now: float) -> Iterator[Chunk]:
        """Take output, and give the chunks that are full and the units of lines that are whole. A line that has begun waits for its end."""
        *ends, rest = data.split(b"\n")
        for end in ends:
            line = bytes(self._line) + end + b"\n"
            self._line = bytearray()
            yield from self._take_line(line, now)
            self._too_long = False
        self._line += rest
        if self._too_long or len(self._line) > self._longest:
            begun, self._line, self._too_long = bytes(self._line), bytearray(), True
            yield from super().take(begun, now)

    def _take_line(self, line: bytes, now: float) -> Iterator[Chunk]:
        said = None if self._too_long else said_in(line)
        if said is None:
            yield from super().take(line, now)
            return
        yield from self.flush(final=True)
        kind, meta, payload = said
        yield Chunk(kind, {**meta, **self._meta, "offset": str(self._offset)}, payload, len(line))
        self._offset += len(line)

    def end(self) -> Iterator[Chunk]:
        """The stream has ended: its last line needs no newline."""
        if self._line:
            yield from self._take_line(bytes(self._line), 0.0)
        yield from super().end()


def said_in(line: bytes) -> tuple[str, dict[str, str], bytes] | None:
    """The type, labels and payload of the unit that a line is, if it is one: its `text`, or else all of the line."""
    if not line.lstrip().startswith(b"{"):
        return None
    try:
        value: Any = json.loads(line.decode())
        UNIT_TYPE.check(value.get("type"), "type")
        meta = value.get("meta", {})
        META.check(meta, "meta")
        if sum(len(key) + len(label) for key, label in meta.items()) > LABELS:
            return None
        text = value.get("text")
        return value["type"], meta, text.encode() if isinstance(text, str) else line.rstrip(b"\r\n")
    except (ValueError, RecursionError, EngramError):
        return None


def whole(data: bytes) -> int:
    """How many bytes there are before a UTF-8 character that has begun and is not complete; all of them if none has."""
    for back in range(1, min(3, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 != 0x80:
            needed = 4 if 0xF0 <= byte < 0xF8 else 3 if 0xE0 <= byte < 0xF0 else 2 if 0xC0 <= byte < 0xE0 else 1
            return len(data) - back if needed > back else len(data)
    return len(data)
