"""Walks along relationships, against a breadth-first search over the edges alone; and the changes of a file."""

from __future__ import annotations

from typing import Any

import cbor2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stores import execute, temporary_log

from engramd.protocol.paths import normal
from engramd.protocol.unit import RELATIONSHIPS, new_id
from engramd.state.contexts import SetPlaces
from engramd.state.locks import Acquire, Fence
from engramd.state.units import Draft, Edge, Put
from engramd.state.view import Claim
from engramd.storage import relationships
from engramd.storage.log import Log
from engramd.storage.relationships import Walk, changes, fences_of, path_of

TYPES = RELATIONSHIPS[:3]
PLENTY = 10**9
# For each unit: the edges it has, each a type and how many units back its target is.
graphs = st.lists(st.lists(st.tuples(st.sampled_from(TYPES), st.integers(1, 30)), max_size=4), min_size=1, max_size=25)


def build(log: Log, graph: list[list[tuple[str, int]]]) -> list[bytes]:
    """Put the units of a graph; returns their ids."""
    ids: list[bytes] = []
    for edges in graph:
        made = tuple(Edge(type, ids[-back], {"n": str(back)}) for type, back in edges if back <= len(ids))
        ids.append(new_id(len(ids)))
        execute(log, 1, Put("ab"[len(ids) % 2], "me", (Draft(ids[-1], "message", {}, str(len(ids) - 1), made),)))
    return ids


def distances(graph: list[list[tuple[str, int]]], start: int, out: bool, into: bool, types: frozenset[str], depth: int) -> dict[int, int]:
    """How far each unit is, by the book."""
    pairs = {(at, at - back) for at, edges in enumerate(graph) for type, back in edges if back <= at and (not types or type in types)}
    found, border, distance = {start: 0}, {start}, 0
    while border and distance < depth:
        distance += 1
        ahead = {b for a, b in pairs if out and a in border} | {a for a, b in pairs if into and b in border}
        border = ahead - found.keys()
        found |= dict.fromkeys(border, distance)
    del found[start]
    return found


def walk(log: Log, start: bytes, **options: Any) -> Walk:
    unit = log.unit(log.durable.get(relationships.UNITS, start).seq)  # type: ignore[union-attr]
    assert unit is not None
    made = Walk(log, unit, **{"sees": lambda _: True, "out": True, "into": True, "depth": 99, "limit": 1000, "size": PLENTY, **options})
    while not made.advance():
        pass
    return made


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    graphs,
    st.integers(0, 24),
    st.sampled_from([(True, False), (False, True), (True, True)]),
    st.frozensets(st.sampled_from(TYPES)),
    st.sampled_from([1, 2, 99]),
    st.sampled_from([1, 3, 1000]),
    st.booleans(),
)
def test_walks_find_what_a_search_by_the_book_finds(
    graph: list[list[tuple[str, int]]],
    at: int,
    ways: tuple[bool, bool],
    types: frozenset[str],
    depth: int,
    limit: int,
    added: bool,
) -> None:
    with temporary_log() as log:
        ids = build(log, graph)
        if added:
            execute(log, 2, SetPlaces("c", "me", tuple(ids), True))
        start = at % len(ids)
        out, into = ways
        expected = distances(graph, start, out, into, types, depth)
        found = walk(log, ids[start], out=out, into=into, types=types, depth=depth, limit=limit)
        numbers = {unit_id: number for number, unit_id in enumerate(ids)}
        reached = [(numbers[cbor2.loads(one.unit)["id"]], one.distance) for one in found.found]
        assert len(reached) == min(limit, len(expected))
        assert found.more == (len(expected) > limit)
        assert dict(reached).items() <= expected.items()
        assert len(dict(reached)) == len(reached), "each unit once"
        assert [distance for _, distance in reached] == sorted(distance for _, distance in reached), "nearest first"
        before = {ids[start]: 0}
        for one in found.found:
            unit = cbor2.loads(one.unit)
            near = one.edge.target if one.edge.source == unit["id"] else one.edge.source
            assert before[near] == one.distance - 1, "the edge leads there from a unit that is one nearer"
            assert not types or one.edge.type in types
            owner = unit if one.edge.source == unit["id"] else cbor2.loads(log.unit(log.durable.get(relationships.UNITS, near).seq))  # type: ignore[union-attr, arg-type]
            edge = {"type": one.edge.type, "target": one.edge.target, "meta": one.edge.meta}
            assert edge in owner["relationships"]
            before[unit["id"]] = one.distance


def test_a_walk_takes_steps_and_ends_at_its_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    with temporary_log() as log:
        ids = build(log, [[], *[[("causes", number + 1)] for number in range(1000)]])
        hub = log.unit(log.durable.get(relationships.UNITS, ids[0]).seq)  # type: ignore[union-attr]
        assert hub is not None
        steps = 1
        made = Walk(log, hub, out=False, into=True, depth=1, limit=1000, size=PLENTY, sees=lambda _: True)
        while not made.advance():
            steps += 1
        assert steps > 1000 // relationships.STEP_ROWS
        assert (len(made.found), made.more) == (1000, False)
        small = walk(log, ids[0], size=1000)
        assert small.more
        assert 0 < len(small.found) < 20
        none = walk(log, ids[0], types=["references"])
        assert (none.found, none.more) == ([], False)
        monkeypatch.setattr(relationships, "MOST_ROWS", 300)
        cut = walk(log, ids[0], types=["references"])
        assert (cut.found, cut.more) == ([], True), "what is not wanted costs, too"


@pytest.mark.parametrize("end", [b"\xff", b"\xff\xff\xff", b"\0"])
def test_an_id_may_end_in_any_byte(end: bytes) -> None:
    with temporary_log() as log:
        first, second = new_id(1)[: 16 - len(end)] + end, new_id(2)
        execute(log, 1, Put("a", "me", (Draft(first, "message", {}, "0"),)))
        execute(log, 1, Put("a", "me", (Draft(second, "message", {}, "1", (Edge("causes", first, {}),)),)))
        assert [cbor2.loads(one.unit)["id"] for one in walk(log, first).found] == [second]


def change(path: str, type: str = "file_change") -> Draft:
    return Draft(new_id(1), type, {"path": path}, "x")


def test_changes_are_found_by_path_in_every_context_newest_first() -> None:
    with temporary_log() as log:
        seqs = {}
        for context, path in (("a", "/x/y"), ("b", "/x//y/"), ("a", "x/y"), ("a", "/x/z"), ("c", "/x/./y"), ("a", "")):
            seqs[path] = execute(log, 1, Put(context, "me", (change(path),)))[-1].seq
        execute(log, 1, Put("a", "me", (change("/x/y", "message"),)))
        absolute = [seqs["/x/./y"], seqs["/x//y/"], seqs["/x/y"]]
        assert changes(log, ["/x/y"], log.last_seq, 100, lambda _: True) == (absolute, 0)
        assert changes(log, ["/x/y", "x/y"], log.last_seq, 100, lambda _: True)[0] == sorted([*absolute, seqs["x/y"]], reverse=True)
        found, reached = changes(log, ["/x/y"], log.last_seq, 2, lambda _: True)
        assert (found, reached) == (absolute[:2], absolute[1])
        assert changes(log, ["/x/y"], reached - 1, 2, lambda _: True) == (absolute[2:], 0)
        assert changes(log, ["/none", ""], log.last_seq, 2, lambda _: True) == ([], 0)
        unit = cbor2.loads(log.unit(seqs["/x//y/"]) or b"")
        assert path_of(unit) == normal("/x/y")


def test_the_leases_of_a_put_are_known() -> None:
    with temporary_log() as log:
        (granted,) = execute(log, 1, Acquire("me", Claim(("/x",), "exclusive"), 10**6, None, False, "why"))
        put = execute(log, 1, Put("a", "me", (change("/x/y"),), fences=(Fence("/x/y", granted.seq),)))[-1]
        plain = execute(log, 1, Put("a", "me", (change("/x/y"),), dedupe="k"))[-1]
        assert (fences_of(log, put.seq), fences_of(log, plain.seq), fences_of(log, 999)) == ((granted.seq,), (), ())
