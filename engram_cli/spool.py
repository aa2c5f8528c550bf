"""What was captured and is not on the daemon's disk yet: a queue in memory, beyond that in a file without a name, and both have a bound."""

from __future__ import annotations

import os
import tempfile
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .chunks import Chunk

MEMORY = 8 * 1024 * 1024  # bytes that are kept in memory
DISK = 1024 * 1024 * 1024  # bytes that are kept in the file
COUNT = 20_000  # chunks, however small
SLOT = 64 * 1024  # bytes of the file that are used at a time


@dataclass(frozen=True, slots=True)
class _Kept:
    """A chunk in the queue; its payload is in these slots of the file, or in the chunk."""

    chunk: Chunk
    length: int
    slots: Sequence[int] = ()


class Spool:
    """The queue, for one thread that puts chunks in and one that takes them out."""

    def __init__(self, memory: int = MEMORY, disk: int = DISK, count: int = COUNT) -> None:
        self._memory_left = memory
        self._slots_left = disk // SLOT
        self._count = count
        self._queue: deque[_Kept] = deque()
        self._lock = threading.Lock()
        self._free: list[int] = []
        self._next_slot = 0
        self._file = -1
        self.size = 0

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, chunk: Chunk) -> bool:
        """Put a chunk at the end; False if there is no room for it."""
        with self._lock:
            kept = self._keep(chunk)
            if kept is None:
                return False
            self._queue.append(kept)
            self.size += chunk.size
            return True

    def _keep(self, chunk: Chunk) -> _Kept | None:
        length = len(chunk.data)
        if len(self._queue) >= self._count:
            return None
        if length <= self._memory_left:
            self._memory_left -= length
            return _Kept(chunk, length)
        needed = -(-length // SLOT)
        if needed > self._slots_left:
            return None
        slots = [self._slot() for _ in range(needed)]
        try:
            self._write(chunk.data, slots)
        except OSError:  # the disk is full
            self._free += slots
            return None
        self._slots_left -= needed
        return _Kept(replace(chunk, data=b""), length, slots)

    def _slot(self) -> int:
        if self._free:
            return self._free.pop()
        self._next_slot += 1
        return self._next_slot - 1

    def _write(self, data: bytes, slots: Sequence[int]) -> None:
        if self._file < 0:
            with tempfile.TemporaryFile(prefix="engram-run-") as file:
                self._file = os.dup(file.fileno())
        for number, slot in enumerate(slots):
            piece = data[number * SLOT : (number + 1) * SLOT]
            if os.pwrite(self._file, piece, slot * SLOT) != len(piece):
                raise OSError("no space")

    def head(self, most_bytes: int, most: int) -> list[Chunk]:
        """The first chunks, which stay: at least one if there is one, and no more than this beyond it."""
        found: list[Chunk] = []
        with self._lock:
            left = most_bytes
            for kept in self._queue:
                left -= max(kept.length, kept.chunk.size)
                if found and (left < 0 or len(found) == most):
                    break
                found.append(self._read(kept))
        return found

    def _read(self, kept: _Kept) -> Chunk:
        if not kept.slots:
            return kept.chunk
        data = b"".join(os.pread(self._file, SLOT, slot * SLOT) for slot in kept.slots)
        return replace(kept.chunk, data=data[: kept.length])

    def drop(self, count: int) -> None:
        """Forget the first chunks."""
        with self._lock:
            for _ in range(count):
                kept = self._queue.popleft()
                self.size -= kept.chunk.size
                if kept.slots:
                    self._free += kept.slots
                    self._slots_left += len(kept.slots)
                else:
                    self._memory_left += kept.length
