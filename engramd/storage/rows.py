"""State rows in the store: how each table's keys and rows are written, and the view of them that decisions use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import cbor2

from ..shapes import NamedTuple
from ..state import view
from ..state.view import Table
from . import keys
from .leveldb import Reader

K = TypeVar("K")
V = TypeVar("V")

_UNKNOWN: Any = object()  # no row, where None is that of one which was removed
CACHE_ROWS = 8192  # then the cache starts anew; a row costs one point read to fetch again


class _Codec(NamedTuple):
    prefix: bytes
    key: Callable[[Any], bytes]
    row: Callable[[list[Any]], Any]
    cached: bool = False


def _pair(key: tuple[str, str]) -> bytes:
    return keys.name(key[0]) + key[1].encode()


def _numbered(key: tuple[str, int]) -> bytes:
    return keys.name(key[0]) + keys.pack_seq(key[1])


def _lease(row: list[Any]) -> view.Lease:
    holder, (resources, mode, slots), *rest = row
    return view.Lease(holder, view.Claim(tuple(resources), mode, slots), *rest)


def _digest(key: tuple[str, bytes]) -> bytes:
    return keys.name(key[0]) + key[1]


def _consumer(row: list[Any]) -> view.Consumer:
    contexts, *rest = row
    return view.Consumer(tuple(contexts), *rest)


def _token(row: list[Any]) -> view.Token:
    holder, digest, rights, contexts, paths, *rest = row
    return view.Token(holder, digest, tuple(rights), tuple(contexts), tuple(paths), *rest)


def _progress(row: list[Any]) -> view.Progress:
    epoch, cursor, done, *rest = row
    return view.Progress(epoch, cursor, tuple((first, last) for first, last in done), *rest)


_CODECS: dict[str, _Codec] = {
    view.CONTEXTS.name: _Codec(keys.CONTEXTS, str.encode, lambda row: view.Context(*row), cached=True),
    view.AGENTS.name: _Codec(keys.AGENTS, str.encode, lambda row: view.Agent(*row), cached=True),
    view.MEMBERS.name: _Codec(keys.MEMBERS, _pair, lambda row: view.Member(*row), cached=True),
    view.UNITS.name: _Codec(keys.UNITS, lambda key: key, lambda row: view.UnitHead(*row)),
    view.PINS.name: _Codec(keys.PINS, _numbered, lambda row: view.Pin(*row)),
    view.PLACES.name: _Codec(keys.PLACES, _numbered, lambda row: view.Place(*row)),
    view.PAST_MEMBERS.name: _Codec(keys.PAST_MEMBERS, _numbered, lambda row: view.PastMember(*row)),
    view.PAST_PINS.name: _Codec(keys.PAST_PINS, _numbered, lambda row: view.PastPin(*row)),
    view.DEDUPE.name: _Codec(keys.DEDUPE, _digest, lambda row: view.Deduped(*row)),
    view.LEASES.name: _Codec(keys.LEASES, keys.pack_seq, _lease, cached=True),
    view.PRESENCE.name: _Codec(keys.PRESENCE, str.encode, lambda row: view.Present(*row), cached=True),
    view.CONSUMERS.name: _Codec(keys.CONSUMERS, str.encode, _consumer, cached=True),
    view.PROGRESS.name: _Codec(keys.PROGRESS, str.encode, _progress, cached=True),
    view.TOKENS.name: _Codec(keys.TOKENS, str.encode, _token, cached=True),
    view.PARKED.name: _Codec(keys.PARKED, str.encode, lambda row: tuple(view.Parked(*one) for one in row)),
    view.RETENTION.name: _Codec(keys.RETENTION, str.encode, lambda row: view.Retention(*row), cached=True),
    view.TRIMMED.name: _Codec(keys.TRIMMED, str.encode, lambda row: view.Trimmed(*row), cached=True),
    view.ERASURES.name: _Codec(keys.ERASURES, keys.pack_seq, lambda row: view.Erasure(*row)),
}


PREFIXES = {codec.prefix: name for name, codec in _CODECS.items()}  # the table of each prefix


def row_key(table: Table[K, Any], key: K) -> bytes:
    """The key of a row in the store."""
    codec = _CODECS[table.name]
    return codec.prefix + codec.key(key)


def encode_row(row: Any) -> bytes:
    """The row as it is stored."""
    return cbor2.dumps(row)


def row_of(table: Table[Any, V], value: bytes) -> V:
    """The row that a stored value is."""
    row: V = _CODECS[table.name].row(cbor2.loads(value))
    return row


class DurableRows:
    """The rows that are on disk: what clients' reads see."""

    def __init__(self, store: Reader) -> None:
        self._store = store

    def get(self, table: Table[K, V], key: K) -> V | None:
        """The row, or None."""
        codec = _CODECS[table.name]
        value = self._store.get(codec.prefix + codec.key(key))
        row: V | None = None if value is None else codec.row(cbor2.loads(value))
        return row

    def scan(self, table: Table[Any, V], prefix: bytes = b"", after: bytes | None = None) -> Iterator[tuple[bytes, V]]:
        """Rows in key order: the key without the table's and the given prefix, and the row.

        Args:
            prefix: only keys that start with this.
            after: only keys whose rest sorts after this.
        """
        codec = _CODECS[table.name]
        for key, value in self._store.prefixed(codec.prefix + prefix, after):
            yield key, codec.row(cbor2.loads(value))

    def keys(self, table: Table[Any, Any], prefix: bytes = b"", after: bytes | None = None) -> Iterator[bytes]:
        """The keys that start with the prefix, in order, without the table's own; rows are not decoded. `after` is as in `scan`."""
        for rest, _ in self._store.prefixed(_CODECS[table.name].prefix + prefix, after):
            yield prefix + rest


class PendingRows:
    """The rows as they will be once everything decided so far is on disk: what decisions see.

    Three layers over the disk: rows of the forming batch, rows of the batch that is being written, and a cache of hot tables. In the
    first two, None stands for a row that was removed.
    """

    def __init__(self, durable: DurableRows) -> None:
        self._durable = durable
        self._forming: dict[tuple[str, Any], Any] = {}
        self._flying: dict[tuple[str, Any], Any] = {}
        self._cache: dict[tuple[str, Any], Any] = {}
        self.held = view.Holdings()
        for key, lease in durable.scan(view.LEASES):
            self.held.begin(keys.seq_of(key), lease)

    def get(self, table: Table[K, V], key: K) -> V | None:
        """The row, or None."""
        at = (table.name, key)
        for layer in (self._forming, self._flying):
            row: V | None = layer.get(at, _UNKNOWN)
            if row is not _UNKNOWN:
                return row
        cached: V | None = self._cache.get(at)
        if cached is not None:
            return cached
        stored = self._durable.get(table, key)
        if stored is not None:
            self._keep(at, stored)
        return stored

    def put(self, table: Table[K, V], key: K, row: V) -> None:
        """Write or replace the row in the forming batch."""
        self._forming[table.name, key] = row

    def delete(self, table: Table[K, Any], key: K) -> None:
        """Remove the row in the forming batch."""
        self._forming[table.name, key] = None

    def seal(self) -> Iterator[tuple[bytes, bytes | None]]:
        """Close the forming batch and yield its rows as keys and values, None for one to remove; the next one starts empty."""
        self._flying, self._forming = self._forming, {}
        for (table, key), row in self._flying.items():
            prefix, key_of, _, _ = _CODECS[table]
            yield prefix + key_of(key), None if row is None else encode_row(row)

    def settle(self) -> None:
        """The sealed batch is on disk."""
        for at, row in self._flying.items():
            if not _CODECS[at[0]].cached:
                continue
            if row is None:
                self._cache.pop(at, None)
            else:
                self._keep(at, row)
        self._flying = {}

    def _keep(self, at: tuple[str, Any], row: Any) -> None:
        if _CODECS[at[0]].cached:
            if len(self._cache) >= CACHE_ROWS:
                self._cache.clear()
            self._cache[at] = row
