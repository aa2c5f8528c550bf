"""The log: append, commit, reopen, and what it refuses to open."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import commit, created, temporary_log, unit_put

from engramd.protocol.errors import EngramError
from engramd.state.contexts import UnitAdded
from engramd.state.view import CONTEXTS, UNITS, UnitHead
from engramd.storage import keys, records
from engramd.storage.leveldb import DB, Store
from engramd.storage.log import Log


def test_a_new_log_is_empty(log: Log) -> None:
    assert (log.last_seq, log.last_ts, log.head) == (0, 0, 0)
    assert list(log.records(0, keys.LAST_SEQ)) == []
    assert log.record(1) is None
    assert log.unit(1) is None
    assert log.first_at(0) == 1


def test_events_get_seqs_from_one_without_a_gap(log: Log) -> None:
    first = commit(log, 10, created("c"), unit_put("c", 1))
    second = commit(log, 11, unit_put("c", 2))
    assert [event.seq for event in first + second] == [1, 2, 3]
    assert (log.last_seq, log.last_ts, log.head) == (3, 11, 3)
    assert [(seq, record.kind, record.ts) for seq, record in log.records(1, 9)] == [
        (1, "context_created", 10),
        (2, "unit_put", 10),
        (3, "unit_put", 11),
    ]
    assert [seq for seq, _ in log.records(2, 3, reverse=True)] == [3, 2]


@pytest.mark.parametrize("reverse", [False, True])
def test_a_range_is_read_whole_wherever_it_begins_and_ends(log: Log, reverse: bool) -> None:
    """The binding's own backward iterator leaves out an only row that stands where the range begins."""
    commit(log, 1, *(created(str(number)) for number in range(4)))
    for first in range(6):
        for last in range(first - 1, 7):
            expected = [seq for seq in range(first, last + 1) if 1 <= seq <= 4]
            assert [seq for seq, _ in log.records(first, last, reverse)] == (expected[::-1] if reverse else expected)


names = st.binary(min_size=1, max_size=3)


@settings(max_examples=150)
@given(st.dictionaries(names, st.binary(max_size=3)), st.lists(st.tuples(names, names, st.booleans(), st.integers(0, 6))), st.booleans())
def test_rows_are_the_first_of_what_a_scan_yields(
    rows: dict[bytes, bytes], asked: list[tuple[bytes, bytes, bool, int]], flush: bool
) -> None:
    """In memory or in a table; wherever the range begins and ends, and whether or not there are as many."""
    with TemporaryDirectory() as directory:
        store = Store(Path(directory), new=True)
        batch = store.batch()
        for key, value in rows.items():
            batch.put(key, value)
        store.write(batch)
        if flush:
            store.flush()
        for first, last, reverse, most in asked:
            there = sorted((key, value) for key, value in rows.items() if first <= key <= last)
            assert list(store.scan(first, last, reverse)) == (there[::-1] if reverse else there)
            assert store.rows(first, last, reverse, most) == (there[::-1] if reverse else there)[:most]
            assert store.has(first, last) == bool(there)
        store.close()


def test_nothing_is_to_be_read_before_the_commit(log: Log) -> None:
    batch = log.batch()
    batch.append(10, created("c"))
    put = batch.append(10, unit_put("c", 1))
    batch.seal()
    assert log.head == 2
    assert log.last_seq == 0
    assert log.record(2) is None
    assert log.durable.get(CONTEXTS, "c") is None
    assert log.pending.get(UNITS, (1).to_bytes(16)) == UnitHead(2, "c", 1)
    assert log.newest(2).body == put.unit
    batch.commit()
    batch.settle()
    assert log.unit(2) == put.unit
    assert log.durable.get(UNITS, (1).to_bytes(16)) == UnitHead(2, "c", 1)
    with pytest.raises(EngramError, match="neither on disk nor on its way"):
        log.newest(9)


def test_two_batches_can_be_under_way(log: Log) -> None:
    one = log.batch()
    one.append(10, created("c"))
    put = one.append(10, unit_put("c", 1))
    one.seal()
    two = log.batch()
    two.append(10, created("d"))
    added = two.append(11, UnitAdded("d", "a", put.seq, "c", put.event.id))
    assert added.unit == put.unit, "a unit can be added while its put is still being written"
    one.commit()
    one.settle()
    assert log.last_seq == 2
    two.seal()
    two.commit()
    two.settle()
    assert log.last_seq == 4
    assert log.unit(4) == put.unit, "the seq of an added entry leads to the unit"


def test_reopening_finds_everything_and_goes_on(tmp_path: Path) -> None:
    first = Log(tmp_path / "log")
    history = first.history
    commit(first, 10, created("c"), unit_put("c", 1))
    kept = list(first.records(1, 9))
    first.close()
    second = Log(tmp_path / "log")
    assert second.history == history, "a restart does not make cursors foreign"
    assert (second.last_seq, second.last_ts) == (2, 10)
    assert list(second.records(1, 9)) == kept
    assert second.pending.get(UNITS, (1).to_bytes(16)) == UnitHead(2, "c", 1)
    assert commit(second, 12, unit_put("c", 2))[0].seq == 3
    second.close()


def test_every_store_has_a_history_of_its_own(tmp_path: Path) -> None:
    histories = set()
    for name in "abc":
        log = Log(tmp_path / name)
        histories.add(log.history)
        log.close()
    assert len(histories) == 3
    assert all(len(history) == 12 and int(history, 16) >= 0 for history in histories)


def test_a_store_in_use_is_refused(tmp_path: Path) -> None:
    log = Log(tmp_path / "log")
    with pytest.raises(EngramError) as refused:
        Log(tmp_path / "log")
    assert refused.value.code == "storage"
    log.close()


def test_an_unknown_format_is_refused_and_left_alone(tmp_path: Path) -> None:
    Log(tmp_path / "log").close()
    with DB(str(tmp_path / "log")) as db:
        db.put(keys.FORMAT, b"2")
        before = list(db)
    with pytest.raises(EngramError) as refused:
        Log(tmp_path / "log")
    assert refused.value.code == "storage"
    assert "format 2" in refused.value.message
    assert "reads format 1" in refused.value.message
    with DB(str(tmp_path / "log")) as db:
        assert list(db) == before


def test_a_leveldb_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    with DB(str(tmp_path / "other"), create_if_missing=True) as db:
        db.put(b"their", b"data")
    with pytest.raises(EngramError) as refused:
        Log(tmp_path / "other")
    assert refused.value.code == "storage"
    assert "not Engram's" in refused.value.message
    with DB(str(tmp_path / "other")) as db:
        assert list(db) == [(b"their", b"data")]


def test_a_store_without_its_history_is_refused(tmp_path: Path) -> None:
    Log(tmp_path / "log").close()
    with DB(str(tmp_path / "log")) as db:
        db.delete(keys.HISTORY)
    with pytest.raises(EngramError, match="lost its history"):
        Log(tmp_path / "log")


def test_a_store_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EngramError) as refused:
        Log(tmp_path / "file")
    assert refused.value.code == "storage"
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_large_unit_is_stored_once(log: Log) -> None:
    commit(log, 1, created("c"), unit_put("c", 1, size=records.INLINE * 2))
    [(_, entry)] = log.scan(keys.entries("c"), 1, keys.LAST_SEQ)
    assert records.read_entry(entry) == 2
    assert len(entry) < 16


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), max_size=12), st.lists(st.integers(0, 50), max_size=10))
def test_the_first_event_at_an_instant(batches: list[tuple[int, int]], asked: list[int]) -> None:
    with temporary_log() as log:
        ts, times = 0, []
        for step, size in batches:
            ts += step
            commit(log, ts, *(created(f"{len(times)}.{number}") for number in range(size)))
            times += [ts] * size
        for instant in [*asked, *times]:
            expected = next((seq for seq, at in enumerate(times, 1) if at >= instant), len(times) + 1)
            assert log.first_at(instant) == expected


def test_an_instant_is_found_by_a_few_single_reads(log: Log) -> None:
    """Counted: as many as halving the log takes, and no iterator, which would look into every level of LevelDB."""
    commit(log, 0, created("c"))
    batch = log.batch()
    for ts in range(1, 1001):
        batch.append(ts, unit_put("c", ts))
    batch.seal()
    batch.commit()
    batch.settle()
    with mock.patch.object(log, "record", wraps=log.record) as read, mock.patch.object(log._store, "scan") as scanned:
        assert log.first_at(500) == 501
    assert read.call_count <= 10
    assert not scanned.called
