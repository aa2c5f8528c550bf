"""State rows: their codec, and the layers that decisions look through."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import CLAIMS, COUNTS, IDS, LABELS, LIMITS, NAMES, SEQS, SPANS, TEXTS, TIMES, WANTED

from engramd.state import view
from engramd.state.view import Table
from engramd.storage import rows as rows_module
from engramd.storage.leveldb import Store
from engramd.storage.rows import DurableRows, PendingRows, row_key

TABLES: dict[str, tuple[Table[Any, Any], st.SearchStrategy[Any], st.SearchStrategy[Any]]] = {
    "contexts": (
        view.CONTEXTS,
        NAMES,
        st.builds(
            view.Context, TEXTS, LABELS, TIMES, TIMES, last_entry=COUNTS, entries=COUNTS, removed=COUNTS, size=COUNTS, trimmed=COUNTS
        ),
    ),
    "agents": (view.AGENTS, NAMES, st.builds(view.Agent, TIMES, TIMES, COUNTS)),
    "members": (view.MEMBERS, st.tuples(NAMES, NAMES), st.builds(view.Member, SEQS, TIMES)),
    "units": (view.UNITS, IDS, st.builds(view.UnitHead, SEQS, NAMES, COUNTS, COUNTS, st.booleans(), st.none() | IDS, COUNTS)),
    "pins": (view.PINS, st.tuples(NAMES, SEQS), st.builds(view.Pin, SEQS)),
    "places": (view.PLACES, st.tuples(NAMES, SEQS), st.builds(view.Place, COUNTS)),
    "past_members": (view.PAST_MEMBERS, st.tuples(NAMES, SEQS), st.builds(view.PastMember, NAMES, SEQS)),
    "past_pins": (view.PAST_PINS, st.tuples(NAMES, SEQS), st.builds(view.PastPin, SEQS, SEQS)),
    "leases": (
        view.LEASES,
        SEQS,
        st.builds(view.Lease, NAMES, CLAIMS, TIMES, st.none() | NAMES, st.booleans(), TEXTS, TIMES),
    ),
    "dedupe": (view.DEDUPE, st.tuples(NAMES, IDS), st.builds(view.Deduped, SEQS, COUNTS)),
    "presence": (view.PRESENCE, NAMES, st.builds(view.Present, TIMES)),
    "consumers": (view.CONSUMERS, NAMES, st.builds(view.Consumer, st.lists(NAMES).map(tuple), WANTED, TEXTS, COUNTS, COUNTS, TIMES)),
    "progress": (view.PROGRESS, NAMES, st.builds(view.Progress, SEQS, COUNTS, SPANS, TIMES)),
    "retention": (view.RETENTION, NAMES, st.builds(view.Retention, LIMITS, LIMITS, LIMITS)),
    "trimmed": (view.TRIMMED, st.just(""), st.builds(view.Trimmed, COUNTS, COUNTS, COUNTS)),
    "erasures": (view.ERASURES, SEQS, st.builds(view.Erasure, SEQS)),
    "tokens": (
        view.TOKENS,
        NAMES,
        st.builds(view.Token, NAMES, st.binary(max_size=32), *[st.lists(NAMES).map(tuple)] * 3, st.none() | TIMES, TEXTS, TIMES),
    ),
    "parked": (view.PARKED, NAMES, st.lists(st.builds(view.Parked, SEQS, COUNTS, TIMES, st.booleans()), min_size=1).map(tuple)),
}
Write = tuple[Table[Any, Any], Any, Any]
WRITES = st.one_of(*(st.tuples(st.just(table), key, row) for table, key, row in TABLES.values()))


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(tmp_path / "rows", new=True)) as store:
        yield store


def put_all(db: Store, pairs: Iterable[tuple[bytes, bytes | None]]) -> None:
    """Put keys on disk, and remove those without a value."""
    batch = db.batch()
    for key, value in pairs:
        if value is None:
            batch.delete(key)
        else:
            batch.put(key, value)
    db.write(batch)


def write(db: Store, pending: PendingRows) -> None:
    """Put the sealed rows on disk."""
    put_all(db, pending.seal())


def test_every_table_has_a_strategy_here() -> None:
    assert set(TABLES) == {table.name for table in vars(view).values() if isinstance(table, Table)} == set(rows_module._CODECS)


@given(st.lists(WRITES, max_size=20))
def test_rows_survive_the_store(writes: list[Write]) -> None:
    with tempfile.TemporaryDirectory() as directory, closing(Store(Path(directory), new=True)) as db:
        pending = PendingRows(DurableRows(db))
        for table, key, row in writes:
            pending.put(table, key, row)
        write(db, pending)
        durable = DurableRows(db)
        for (table, key), row in {(table, key): row for table, key, row in writes}.items():
            assert durable.get(table, key) == row
            assert type(durable.get(table, key)) is type(row)
        for table, _, _ in TABLES.values():
            expected = {row_key(table, key)[1:]: row for of, key, row in writes if of is table}
            assert list(durable.scan(table)) == sorted(expected.items())


@given(st.lists(st.tuples(NAMES, NAMES), max_size=12), NAMES, NAMES)
def test_a_scan_gives_the_rows_of_one_name_beyond_a_key(pairs: list[tuple[str, str]], context: str, after: str) -> None:
    with tempfile.TemporaryDirectory() as directory, closing(Store(Path(directory), new=True)) as db:
        for number, pair in enumerate(pairs, 1):
            pending = PendingRows(DurableRows(db))
            pending.put(view.MEMBERS, pair, view.Member(number, 1))
            write(db, pending)
        members = sorted({member.encode() for of, member in pairs if of == context})
        durable = DurableRows(db)
        prefix = row_key(view.MEMBERS, (context, ""))[1:]
        assert [key for key, _ in durable.scan(view.MEMBERS, prefix)] == members
        assert [key for key, _ in durable.scan(view.MEMBERS, prefix, after.encode())] == [name for name in members if name > after.encode()]


def test_a_row_is_seen_through_each_layer(db: Store) -> None:
    durable = DurableRows(db)
    pending = PendingRows(durable)
    head = view.UnitHead(1, "c")
    key = bytes(16)

    pending.put(view.UNITS, key, head)
    assert pending.get(view.UNITS, key) == head, "while it is forming"
    assert durable.get(view.UNITS, key) is None

    sealed = list(pending.seal())
    assert pending.get(view.UNITS, key) == head, "while it is written"
    pending.put(view.UNITS, key, head._replace(seq=2))
    assert pending.get(view.UNITS, key) == head._replace(seq=2), "the next batch lies on top"
    assert durable.get(view.UNITS, key) is None

    put_all(db, sealed)
    pending.settle()
    assert durable.get(view.UNITS, key) == head
    assert pending.get(view.UNITS, key) == head._replace(seq=2), "what settled does not hide what is forming"
    write(db, pending)
    pending.settle()
    assert pending.get(view.UNITS, key) == head._replace(seq=2) == durable.get(view.UNITS, key)


def test_a_hot_row_is_not_read_twice(db: Store) -> None:
    pending = PendingRows(DurableRows(db))
    pending.put(view.AGENTS, "a", view.Agent(1, 2, 3))
    write(db, pending)
    pending.settle()
    batch = db.batch()
    batch.delete(row_key(view.AGENTS, "a"))
    db.write(batch)
    assert pending.get(view.AGENTS, "a") == view.Agent(1, 2, 3)


def steps_over(writes: list[Write]) -> st.SearchStrategy[Any]:
    """Writing rows, removing the same ones (a row of None), sealing and settling."""
    return st.sampled_from([*writes, *((table, key, None) for table, key, _ in writes), "seal", "settle"])


@settings(max_examples=50)
@given(st.lists(WRITES, min_size=1, max_size=8).flatmap(lambda writes: st.lists(steps_over(writes), max_size=40)), st.integers(1, 3))
def test_decisions_see_the_newest_row_and_readers_the_durable_one(steps: list[Any], cache: int) -> None:
    """Against two dictionaries. With a tiny cache, so that it starts anew often."""
    with (
        tempfile.TemporaryDirectory() as directory,
        closing(Store(Path(directory), new=True)) as db,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(rows_module, "CACHE_ROWS", cache)
        durable = DurableRows(db)
        pending = PendingRows(durable)
        newest: dict[tuple[str, Any], Any] = {}
        on_disk: dict[tuple[str, Any], Any] = {}
        flying: tuple[list[tuple[bytes, bytes | None]], dict[tuple[str, Any], Any]] | None = None
        for step in steps:
            if step == "seal" and flying is None:
                flying = list(pending.seal()), dict(newest)
            elif step == "settle" and flying is not None:
                put_all(db, flying[0])
                pending.settle()
                on_disk, flying = flying[1], None
            elif not isinstance(step, str):
                table, key, row = step
                if row is None:
                    pending.delete(table, key)
                else:
                    pending.put(table, key, row)
                newest[table.name, key] = row
            for table, key, _ in (step for step in steps if not isinstance(step, str)):
                assert pending.get(table, key) == newest.get((table.name, key))
                assert durable.get(table, key) == on_disk.get((table.name, key))
