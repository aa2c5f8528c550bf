"""Reading entries, against a model that was worked out from the events alone."""

from __future__ import annotations

from typing import Any
from unittest import mock

import cbor2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stores import Model, ModelEntry, execute, temporary_log

from engramd.state import view
from engramd.state.contexts import SetMember, SetPins, SetPlaces
from engramd.state.filters import Filter
from engramd.state.machine import Command, apply
from engramd.state.units import Draft, Edge, Put
from engramd.state.view import MemoryState
from engramd.storage import query, records
from engramd.storage.log import Log
from engramd.storage.query import Range, page, step

CONTEXTS = ("a", "a:", "ab", "b")
AGENTS = ("x", "xy", "y")
TYPES = ("message", "error", "tool_call")
KEYS = ("k", "kk")
VALUES = ("1", "12")

context = st.sampled_from(CONTEXTS)
agent = st.sampled_from(AGENTS)
label = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES), max_size=2)
# Which earlier unit: counted back from the newest, so that every number names one.
back = st.integers(0, 20)
draft = st.tuples(st.sampled_from(TYPES), label, st.lists(back, max_size=2), st.sampled_from((3, 3, 3, records.INLINE + 1)))
operation = st.one_of(
    st.tuples(st.just("put"), context, agent, st.lists(draft, min_size=1, max_size=4)),
    st.tuples(st.just("put"), context, agent, st.lists(draft, min_size=1, max_size=4)),
    st.tuples(st.just("add"), context, agent, st.lists(back, min_size=1, max_size=3)),
    st.tuples(st.just("remove"), context, agent, st.lists(back, min_size=1, max_size=3)),
    st.tuples(st.just("pin"), context, agent, st.lists(back, min_size=1, max_size=2)),
    st.tuples(st.just("leave"), context, agent, st.just([])),
)
batches = st.lists(st.tuples(st.integers(0, 2), st.lists(operation, min_size=1, max_size=4)), max_size=10)
some = st.frozensets
question = st.fixed_dictionaries(
    {
        "contexts": st.none() | st.lists(context, min_size=1, max_size=4, unique=True),
        "agents": st.just(frozenset()) | some(agent, max_size=2),
        "types": st.just(frozenset()) | some(st.sampled_from(TYPES), max_size=2),
        "meta": st.just({}) | label,
        "related": st.none() | back,
        "first": st.just(1) | st.integers(0, 40),
        "last": st.just(2**63 - 1) | st.integers(0, 40),
        "reverse": st.booleans(),
        "present": st.booleans(),
        "limit": st.integers(1, 5),
        "rows": st.integers(1, 5),
        "size": st.sampled_from((1, 500, 10**6)),
        "rows of a scan": st.sampled_from((1, query.ROWS_OF_A_SCAN)),  # few, so that a short log is read by its secondary keys, too
    }
)


class _History:
    """Carries out the operations, on a log and on the model."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.model = Model()
        self.ids: list[bytes] = []
        self.state = MemoryState()

    def batch(self, ts: int, operations: list[Any]) -> None:
        appended = execute(self.log, ts, *map(self._command, operations))
        self.model.take(appended)
        for seq, record, _, _ in appended:
            apply(self.state, seq, record.ts, records.decode_event(records.unpack(records.pack(record))))

    def unit(self, back: int) -> bytes:
        return self.ids[-1 - back % len(self.ids)] if self.ids else bytes(16)

    def _command(self, operation: tuple[str, str, str, list[Any]]) -> Command:
        verb, context, agent, what = operation
        if verb == "put":
            return Put(context, agent, tuple(map(self._draft, what)))
        if verb == "leave":
            return SetMember(context, agent, agent, False)
        units = tuple(map(self.unit, what))
        return SetPins(context, agent, units, True) if verb == "pin" else SetPlaces(context, agent, units, verb == "add")

    def _draft(self, drawn: tuple[str, dict[str, str], list[int], int]) -> Draft:
        type, meta, targets, size = drawn
        edges = tuple(Edge("references", self.unit(target), {}) for target in targets) if self.ids else ()
        self.ids.append((len(self.ids) + 1).to_bytes(16))
        # A unit of the same batch is no earlier unit for `decide`, so a draft never refers to itself.
        return Draft(self.ids[-1], type, meta, "." * size, edges)


def read_all(log: Log, wanted: Range, limit: int, rows: int, size: int) -> list[ModelEntry]:
    """Every entry of a range, a step at a time, with what each step promises checked."""
    entries: list[ModelEntry] = []
    while wanted.first <= wanted.last:
        found = step(log, wanted, limit, rows, size)
        assert len(found.entries) <= min(limit, rows)
        assert wanted.first <= found.reached <= wanted.last, "a step always gets on, and not beyond the range"
        assert sum(len(entry.unit) for entry in found.entries[:-1]) < size
        whole = step(log, wanted, limit, size=size)
        assert page(log, wanted, limit, size) == ([entry.unit for entry in whole.entries], whole.reached)
        entries += [ModelEntry(entry.seq, entry.context, entry.kind, cbor2.loads(entry.unit)) for entry in found.entries]
        wanted = wanted._replace(last=found.reached - 1) if wanted.reverse else wanted._replace(first=found.reached + 1)
    return entries


@settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow])
@given(batches, st.lists(question, min_size=1, max_size=8))
def test_every_range_reads_as_the_model_says(steps: list[tuple[int, list[Any]]], questions: list[dict[str, Any]]) -> None:
    with temporary_log() as log:
        history, ts = _History(log), 0
        for later, operations in steps:
            ts += later
            history.batch(ts, operations)
        for asked in questions:
            related = None if asked["related"] is None else history.unit(asked["related"])
            want = Filter(asked["agents"], asked["types"], tuple(asked["meta"].items()), related)
            wanted = Range(asked["contexts"], want, max(asked["first"], 1), asked["last"], asked["reverse"], asked["present"])
            with mock.patch.object(query, "ROWS_OF_A_SCAN", asked["rows of a scan"]):
                found = read_all(log, wanted, asked["limit"], asked["rows"], asked["size"])
            expected = history.model.find(asked["contexts"], want, wanted.first, wanted.last, asked["present"])
            assert found == (expected[::-1] if asked["reverse"] else expected)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(batches)
def test_the_rows_are_the_fold_of_the_log(steps: list[tuple[int, list[Any]]]) -> None:
    """State rows commit with their events; folding the decoded log in memory gives the same rows."""
    with temporary_log() as log:
        history, ts = _History(log), 0
        for later, operations in steps:
            ts += later
            history.batch(ts, operations)
        folded = MemoryState()
        for seq, record in log.records(1, log.last_seq):
            apply(folded, seq, record.ts, records.decode_event(record))
        assert folded.rows == history.state.rows
        assert [seq for seq, _ in log.records(0, 2**63 - 1)] == list(range(1, log.last_seq + 1))
        tables = {table.name: table for table in vars(view).values() if isinstance(table, view.Table)}
        for (name, key), row in folded.rows.items():
            assert log.durable.get(tables[name], key) == row
        stored = sum(len(list(log.durable.scan(table))) for table in tables.values())
        assert stored == len(folded.rows)


def test_a_unit_that_came_back_is_present_once(log: Log) -> None:
    """Added to a second context, removed, added again: two entries, of which one is present."""
    unit = (1).to_bytes(16)
    execute(log, 1, Put("a", "x", (Draft(unit, "message", {}, "hi"),)))
    for present in (True, False, True):
        execute(log, 2, SetPlaces("b", "x", (unit,), present))
    every = step(log, Range(["b"], Filter(), 1, log.last_seq)).entries
    present_now = step(log, Range(["b"], Filter(), 1, log.last_seq, present=True)).entries
    assert [entry.kind for entry in every] == ["unit_added", "unit_added"]
    assert present_now == every[1:]
    assert step(log, Range(None, Filter(), 1, log.last_seq, present=True)).entries[1:] == every[1:]


def test_a_rare_unit_of_any_context_is_found_without_reading_the_log(log: Log) -> None:
    """Rows read are counted: as many as fit, not as many as there are."""
    every = [
        Put(f"c{number % 3}", "rare" if number == 5 else "often", (Draft(number.to_bytes(16), "message", {"k": "v"}, "x"),))
        for number in range(2000)
    ]
    execute(log, 1, *every)
    rare = Range(None, Filter(agents=frozenset({"rare"})), 1, log.last_seq)
    for wanted, most in (
        (rare, 1),
        (rare._replace(reverse=True), 1),
        (rare._replace(contexts=["c2"]), 1),
        (rare._replace(sees=lambda name: name != "c2"), 0),
    ):
        looked_at = list(query._walk(log, wanted))
        assert [cbor2.loads(entry.unit)["agent"] for _, _, entry in looked_at if entry is not None] == ["rare"] * most
        assert len(looked_at) == most
    assert len(list(query._walk(log, Range(None, Filter(), 1, log.last_seq)))) == log.last_seq
    assert len(list(query._walk(log, rare._replace(first=log.last_seq - 20)))) == 21, "few rows are read as they stand"


def test_two_conditions_cost_what_the_rarer_one_has(log: Log) -> None:
    """Rows are counted: that many units have the label, and that the agent has few, is all that matters."""
    many = [Put("c", "rare" if n % 500 == 7 else "often", (Draft(n.to_bytes(16), TYPES[n % 2], {"k": "v"}, "x"),)) for n in range(2000)]
    execute(log, 1, *many)
    for want, fitting in (
        (Filter(agents=frozenset({"rare"}), meta=(("k", "v"),)), 4),
        (Filter(agents=frozenset({"rare"}), meta=(("k", "v"),), types=frozenset({TYPES[1]})), 4),
        (Filter(agents=frozenset({"rare"}), types=frozenset({TYPES[0]})), 0),
        (Filter(agents=frozenset({"nobody"}), meta=(("k", "v"),)), 0),
    ):
        for reverse in (False, True):
            looked_at = list(query._walk(log, Range(["c"], want, 1, log.last_seq, reverse)))
            assert sum(entry is not None for _, _, entry in looked_at) == fitting
            assert len(looked_at) <= 3 * 4
