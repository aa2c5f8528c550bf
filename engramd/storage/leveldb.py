"""LevelDB as Engram uses it: every read verifies checksums, and every failure is an EngramError.

The one place that names the binding: `plyvel` where it has wheels (to CPython 3.12), its fork `plyvel-next` beyond.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from ..protocol.errors import EngramError

if sys.version_info >= (3, 13):
    from plyvel_next import DB, Error, repair_db  # type: ignore[import-not-found, unused-ignore]
else:
    from plyvel import DB, Error, repair_db  # type: ignore[import-untyped, import-not-found, unused-ignore]

WRITE_BUFFER = 8 * 1024 * 1024  # bytes of memtable; bounds what a restart replays
BLOOM_BITS = 10
COPY_ROWS = 4096  # written at once where a store is written anew
logger = logging.getLogger("engramd.storage")
REFUSALS = tuple(  # of the system, which say nothing of what is on disk
    os.strerror(code)
    for code in (errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EROFS)
)
DAMAGED = (
    "It is damaged: keep a copy of the directory before trying anything. engram doctor looks at all that is there; with the daemon "
    "stopped, engram doctor --salvage OUT saves what can be read"
)
MAX_FILE = 8 * 1024 * 1024  # bytes of a table: a fourth as many files as LevelDB would make, which reads of a large store feel
MAX_OPEN_FILES = 256  # of the store's; the daemon leaves room for them


class Damage(EngramError):
    """What a store has cannot be read, or not all of it."""


class Reader:
    """What an open LevelDB holds: now, or as it was when a snapshot was taken.

    Args:
        source: LevelDB itself, or a snapshot of it.

    Raises:
        EngramError: `storage`, from every method, when the files are damaged (then it is a `Damage`) or the disk fails.
    """

    def __init__(self, directory: Path, source: Any) -> None:
        self.directory = directory
        self._source = source

    def close(self) -> None:
        """Release the files, or the snapshot."""
        self._source.close()

    def get(self, key: bytes) -> bytes | None:
        """The value of a key, or None."""
        try:
            value: bytes | None = self._source.get(key, verify_checksums=True)
        except Error as error:
            raise self._damaged(error) from error
        return value

    # The binding's raw iterators, because its others end without a word where a damaged block ends what can be read, and because in
    # reverse they leave out an only row that stands at the very start of the range (plyvel 1.5.1). But of each row that those give they
    # have asked LevelDB whether all was sound up to there. So `rows` reads by them, and from where they end by the others.

    def scan(self, first: bytes, last: bytes, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """Keys from `first` to `last`, both included, with their values, as of now."""
        try:
            with self._source.raw_iterator(verify_checksums=True) as at:
                valid, item = at.valid, at.item
                at.seek(last if reverse else first)
                if reverse and not valid():
                    at.seek_to_last()
                elif reverse and at.key() > last:
                    at.prev()
                move = at.prev if reverse else at.next
                while valid():
                    row: tuple[bytes, bytes] = item()
                    if row[0] < first if reverse else row[0] > last:
                        return
                    yield row
                    move()
        except Error as error:
            raise self._damaged(error) from error

    def rows(self, first: bytes, last: bytes, reverse: bool, most: int) -> list[tuple[bytes, bytes]]:
        """So many keys of those that `scan` yields, with their values, in less time."""
        found: list[tuple[bytes, bytes]] = []
        with suppress(Error):  # which `scan` meets again, if what is asked for does not end before it
            at = self._source.iterator(start=first, stop=last, include_stop=True, reverse=reverse, verify_checksums=True)
            with at:
                found = list(islice(at, most))
        if len(found) == most:
            return found
        if found:
            edge, _ = found.pop()
            first, last = (first, edge) if reverse else (edge, last)
        return found + list(islice(self.scan(first, last, reverse), most - len(found)))

    def has(self, first: bytes, last: bytes) -> bool:
        """Whether there is a key from `first` to `last`, both included."""
        try:
            with self._source.raw_iterator(verify_checksums=True) as at:
                at.seek(first)
                return bool(at.valid() and at.key() <= last)
        except Error as error:
            raise self._damaged(error) from error

    def prefixed(self, prefix: bytes, after: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Keys that start with a prefix, without it, and their values, as of now; with `after`, those whose rest sorts behind it."""
        for key, value in self.scan(prefix + (after or b""), _beyond(prefix)):
            if key.startswith(prefix) and key[len(prefix) :] != after:
                yield key[len(prefix) :], value

    def keys(self, prefix: bytes) -> Iterator[bytes]:
        """Keys that start with a prefix, without it, as of now."""
        return (key for key, _ in self.prefixed(prefix))

    def _damaged(self, error: Exception) -> EngramError:
        what = f"the store in {self.directory} cannot be used: {(reason := _reason(error))}. Nothing was changed"
        if any(map(reason.endswith, REFUSALS)):
            return EngramError("storage", f"{what}; if the disk is full or read-only, mend that and start again")
        return Damage("storage", f"{what}. {DAMAGED}")


class Store(Reader):
    """An open LevelDB.

    Args:
        directory: where its files are. They are never made as a side effect of opening: LevelDB takes files without their `CURRENT` for
            rubbish, and deletes them.
        new: make an empty one.

    Attributes:
        is_lost: a write has failed while a range was compacted. LevelDB 1.22 forgets such a compaction, of which its thread does not know:
            it ends the process with a signal as soon as it comes back to it. So the process has to end before.

    Raises:
        EngramError: `storage`, here and from every method, when the files are damaged (then it is a `Damage`) or the disk fails.
    """

    def __init__(self, directory: Path, new: bool = False) -> None:
        super().__init__(directory, None)
        if not new and not (directory / "CURRENT").exists():
            raise self._damaged(FileNotFoundError("its file CURRENT is missing"))
        self._db = self._source = self._open(new) if new else self._open_again()
        self._compacting = 0
        self.is_lost = False

    def close(self) -> None:
        """Release the files; not where the process is to end at once, since LevelDB would wait for its thread."""
        if not self.is_lost:
            super().close()

    def _open(self, new: bool) -> Any:
        try:
            return DB(
                str(self.directory),
                create_if_missing=new,
                error_if_exists=new,
                paranoid_checks=True,
                write_buffer_size=WRITE_BUFFER,
                bloom_filter_bits=BLOOM_BITS,
                max_open_files=MAX_OPEN_FILES,
                max_file_size=MAX_FILE,
            )
        except Error as error:
            raise self._damaged(error) from error

    def _open_again(self) -> Any:
        """Open what was made before; where a power cut has torn a write that was not synced, so that LevelDB refuses it, without that."""
        try:
            return self._open(False)
        except Damage as damage:
            try:
                opened = self._open_without_torn()
            except OSError as error:
                raise damage from error
            if opened is None:
                raise
            return opened

    def _open_without_torn(self) -> Any:
        """Open the files without what a power cut has torn of the newest log, if it has; what does not help is put back."""
        from .leveldb_log import torn_at  # which is seldom needed

        logs = sorted(self.directory.glob("*.log"), key=lambda path: (len(path.name), path.name))  # by the numbers that are their names
        data = logs[-1].read_bytes() if logs and logs[-1].is_file() else b""
        at = torn_at(data)
        if at is None:
            return None
        os.truncate(logs[-1], at)
        try:
            opened = self._open(False)
        except EngramError:
            with logs[-1].open("ab") as file:  # never the whole of it, which a full disk might not take again
                file.write(data[at:])
            raise
        logger.warning("%s: a power cut has torn its last write, which was not synced yet: %d bytes are cut off", logs[-1], len(data) - at)
        return opened

    def snapshot(self) -> Reader:
        """What is on disk now, whatever is written later; to be closed, since what is removed stays in the files until then."""
        return Reader(self.directory, self._db.snapshot())

    def batch(self) -> Any:
        """A batch of puts and deletes, to be given to `write`."""
        return self._db.write_batch(sync=True)

    def write(self, batch: Any) -> None:
        """Write a batch and sync it; blocks for the disk, without holding the interpreter's lock."""
        compacts = self._compacting > 0
        try:
            batch.write()
        except Error as error:
            self.is_lost = compacts or self._compacting > 0  # one that was under way has ended by now
            what = f"the disk refused a write to {self.directory}: {(reason := _reason(error))}"
            if reason.startswith("Corruption"):  # which LevelDB's own tidying may have met before
                raise Damage("storage", f"{what}. {DAMAGED}") from error
            raise EngramError("storage", what) from error

    def flush(self) -> None:
        """Have everything that was written in table files; LevelDB's log begins anew. Blocks for the disk."""
        self.compact(b"", b"")

    def compact(self, first: bytes, last: bytes) -> None:
        """Have the keys from `first` to `last` in the files in their newest form alone, and the removed ones not at all.

        What was in the same table file as its successor from the start stays; so `flush` before the writes that are to replace
        something. Blocks for the disk, without holding the interpreter's lock.
        """
        self._compacting += 1
        try:
            self._db.compact_range(start=first, stop=last + b"\0")
        except Error as error:
            raise self._damaged(error) from error
        finally:
            self._compacting -= 1

    def reopen(self) -> None:
        """Close the files and open them again: what LevelDB notes of keys beside the tables is then that of the tables there are."""
        self._db.close()
        for name in ("LOG", "LOG.old"):
            (self.directory / name).unlink(missing_ok=True)
        self._db = self._source = self._open(False)

    def notes(self, texts: Iterable[bytes]) -> bool:
        """Whether one of these stands in what LevelDB notes of keys beside the tables: it remembers where compactions ended."""
        noted = b"".join(path.read_bytes() for path in self.directory.glob("MANIFEST-*"))
        return any(text in noted for text in texts)

    def rewrite(self) -> None:
        """Write everything anew, so that nothing else is in the files. A crash may leave no store: only for what can be made again."""
        fresh, old = (self.directory.with_name(f"{self.directory.name}.{what}") for what in ("new", "old"))
        for directory in (fresh, old):
            shutil.rmtree(directory, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        copy = Store(fresh, new=True)
        rows = self.scan(b"", b"\xff" * 64)
        while some := list(islice(rows, COPY_ROWS)):
            batch = copy.batch()
            for key, value in some:
                batch.put(key, value)
            copy.write(batch)
        copy.close()
        self._db.close()
        self.directory.rename(old)
        fresh.rename(self.directory)
        shutil.rmtree(old)
        self._db = self._source = self._open(False)

    def size(self) -> int:
        """Bytes that the files take."""
        total = 0
        # With os.scandir, several times as fast as a Path each.
        with suppress(FileNotFoundError), os.scandir(self.directory) as files:  # or somebody has removed it
            for file in files:
                with suppress(FileNotFoundError):  # LevelDB removes files in the background
                    total += file.stat().st_size
        return total


def repair(directory: Path) -> None:
    """Have LevelDB keep what it can read of a damaged store, and drop the rest; the directory may be without its `CURRENT`.

    Raises:
        EngramError: `storage` when nothing can be kept.
    """
    from .leveldb_log import blanked  # which is seldom needed

    for path in directory.glob("*.log"):
        # LevelDB's own repair does not look at the checksums there, and would keep wrong bytes.
        path.write_bytes(blanked(bytearray(path.read_bytes())))
    try:
        repair_db(str(directory), paranoid_checks=True)
    except Error as error:
        raise EngramError("storage", f"nothing of the store in {directory} can be read: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """What LevelDB said; the binding hands its words on as bytes."""
    said = error.args[0] if error.args else error
    return said.decode(errors="replace") if isinstance(said, bytes) else str(said)


def _beyond(prefix: bytes) -> bytes:
    """The first key behind every key with this prefix, not all of whose bytes are 0xff."""
    short = prefix.rstrip(b"\xff")
    return short[:-1] + bytes((short[-1] + 1,))
