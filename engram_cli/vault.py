"""The directory of a backup, as it is written: segments of the log, and the manifest that says which of its files count.

Everything is written under another name, synced, and renamed into place. A reader, and the next backup, go by the manifest alone; so a
crash at any point leaves the backup as it was before a step, or after it. docs/storage.md has the steps.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from engramd.protocol.backup import (
    MANIFEST,
    MAX_MANIFEST,
    SEGMENT_BYTES,
    Frames,
    Manifest,
    Segment,
    damaged,
    parse_manifest,
    records_of,
    segment_name,
)
from engramd.protocol.errors import EngramError

_PART, _NEW, _LOCK = "segment.part", f"{MANIFEST}.new", "lock"
_OURS = re.compile(rf"{re.escape(MANIFEST)}(\.new)?|segment\.part|lock|scratch|[0-9]{{19}}-[0-9]{{19}}-[0-9a-f]{{16}}\.segment")
BLOCK = 1024 * 1024


class Vault:
    """A backup that is being written; one process at a time.

    Args:
        path: its directory, made if need be.

    Attributes:
        manifest: what it holds; None before the first backup.

    Raises:
        EngramError: `invalid` when something else is in the directory; `busy` when another process writes to it; `storage` when it is
            damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            strange = next((name for name in sorted(os.listdir(path)) if not _OURS.fullmatch(name)), None)
            if strange is not None:
                raise EngramError("invalid", f"{path} is no backup: {strange!r} is in it; give a directory that is empty, or of a backup")
            self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._lock = os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=self._fd)
        except OSError as error:
            raise EngramError("invalid", f"{path} cannot be a backup's directory: {error.strerror}: {error.filename!s}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.close()
            raise EngramError("busy", f"another process writes to the backup in {path}; wait for its end") from None
        try:
            self.manifest = self._read()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let others write to it."""
        os.close(self._lock)
        os.close(self._fd)

    def _read(self) -> Manifest | None:
        try:
            return parse_manifest(b"".join(self._blocks(MANIFEST, MAX_MANIFEST)))
        except FileNotFoundError:
            return None

    def _blocks(self, name: str, most: int) -> Iterator[bytes]:
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._fd)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise damaged(f"{name}: {error.strerror}") from None
        with os.fdopen(fd, "rb") as file:
            left = most + 1
            while left > 0 and (block := file.read(min(BLOCK, left))):
                left -= len(block)
                yield block

    def blocks(self, segment: Segment) -> Iterator[bytes]:
        """The bytes of a segment, which are compared with what the manifest says of it.

        Raises:
            EngramError: `storage` when it is missing or damaged.
        """
        blocks: list[bytes] = []

        def noted() -> Iterator[bytes]:
            for block in self._blocks(segment.file, segment.size):
                blocks.append(block)
                yield block

        try:
            for _ in records_of(segment, noted()):
                while len(blocks) > 1:
                    yield blocks.pop(0)
        except FileNotFoundError:
            raise damaged(f"{segment.file} is missing") from None
        yield from blocks

    def write(self, first: int, chunks: Iterable[tuple[bytes, int]]) -> Segment:
        """Write a segment from frames, each chunk with the seq that it reaches, and put it in place. It counts once a manifest names it.

        Raises:
            EngramError: `storage` when the frames are damaged.
        """
        frames, digest, size, count, last = Frames(first - 1), hashlib.sha256(), 0, 0, first - 1
        with self._written(_PART) as part:
            for chunk, reached in chunks:
                part.write(chunk)
                digest.update(chunk)
                size, last = size + len(chunk), reached
                count += sum(1 for _ in frames.feed(chunk))
            frames.finish()
        name = segment_name(first, last, digest.hexdigest())
        os.replace(_PART, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        return Segment(name, first, last, count, size, digest.hexdigest())

    @contextmanager
    def _written(self, name: str) -> Iterator[IO[bytes]]:
        """A new file, on disk in the end. Where that fails there is none: what a full disk has room for is others'."""
        try:
            fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=self._fd)
            with os.fdopen(fd, "wb") as file:
                yield file
                file.flush()
                os.fsync(fd)
        except BaseException as error:
            with suppress(OSError):
                os.unlink(name, dir_fd=self._fd)
            if isinstance(error, OSError):
                what = f"{self.path} cannot be written: {error.strerror}. What it held before it still holds; mend that and repeat"
                raise EngramError("storage", what) from None
            raise

    def commit(self, manifest: Manifest) -> None:
        """Have the backup be what a manifest says, whose segments are all in their places, and remove what no longer counts."""
        os.fsync(self._fd)
        with self._written(_NEW) as file:
            file.write(manifest.encode())
        os.replace(_NEW, MANIFEST, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        os.fsync(self._fd)
        self.manifest = manifest
        kept = {MANIFEST, _LOCK, *(segment.file for segment in manifest.segments)}
        for name in os.listdir(self._fd):
            if name not in kept and _OURS.fullmatch(name) and name != "scratch":
                os.unlink(name, dir_fd=self._fd)

    def extend(self, manifest: Manifest, chunks: Iterator[tuple[bytes, int]], noted: Callable[[Manifest], Manifest]) -> Manifest:
        """Add what comes behind a manifest's last seq; a last segment that is not full is written anew with it. Each full segment is
        committed by itself: a backup that is interrupted holds the log up to there.

        Args:
            noted: gives a manifest with all that is to be remembered of what was read so far.
        """
        ahead = _Ahead(chunks)
        while ahead.next is not None:
            segments = list(manifest.segments)
            begun = segments.pop() if segments and not segments[-1].is_full else None
            kept = ((block, begun.last) for block in self.blocks(begun)) if begun else ()
            made = self.write(begun.first if begun else manifest.last + 1, chain(kept, ahead.take(begun.size if begun else 0)))
            manifest = noted(replace(manifest, segments=(*segments, made), last=made.last))
            self.commit(manifest)
        return manifest


class _Ahead:
    """Chunks, of which the next one is at hand."""

    def __init__(self, chunks: Iterator[tuple[bytes, int]]) -> None:
        self._chunks = chunks
        self.next = next(chunks, None)

    def take(self, size: int) -> Iterator[tuple[bytes, int]]:
        """Those that fit a segment which has `size` bytes; the last may be over."""
        while self.next is not None and size < SEGMENT_BYTES:
            chunk = self.next
            size += len(chunk[0])
            yield chunk
            self.next = next(self._chunks, None)
