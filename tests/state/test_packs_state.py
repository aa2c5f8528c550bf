"""The choosing of packs: budget, order, shares, weights, and cutting."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import given
from hypothesis import strategies as st

from engramd.protocol import messages
from engramd.state.packs import DEFAULT, LANES, MIN_KEPT, POLICIES, Found, Measuring, Packing, Policy
from engramd.state.sizes import COUNTERS

T = TypeVar("T")
FRAME = "frame\n"


class Plain:
    """Blocks that are a heading and the text."""

    def block(self, found: Found, kept: int | None, keep: str) -> str:
        text: str = found.unit
        if kept is None:
            return f"# {found.seq}\n{text}\n"
        assert 0 < kept < len(text)
        return f"# {found.seq} {kept}\n{text[:kept] if keep == 'start' else text[-kept:]}\n"


def run(measuring: Measuring[T], count: Callable[[str], int] = len) -> T:
    """Measure what is asked for."""
    try:
        text = next(measuring)
        while True:
            text = measuring.send(count(text))
    except StopIteration as stop:
        result: T = stop.value
        return result


def found(seq: int, text: str, type: str = "message", entry: int | None = None) -> Found:
    return Found(seq, seq if entry is None else entry, type, "", len(text), text)


def packed(budget: int, lanes: dict[str, Iterable[Found]], policy: dict[str, Any] | None = None, unit: str = "chars") -> Packing:
    counter = COUNTERS[unit]
    assert counter.count is not None
    packing = Packing(Policy(policy or {}), budget, counter.most, Plain())
    run(packing.reserve(FRAME), counter.count)
    for lane in LANES:
        run(packing.fill(lane, [run(packing.weigh(one), counter.count) for one in lanes.get(lane, ())]), counter.count)
    run(packing.rest(), counter.count)
    return packing


def whole(packing: Packing) -> str:
    return FRAME + "".join(chosen.block for chosen in packing.in_order())


def seqs(packing: Packing) -> list[int]:
    return [chosen.found.seq for chosen in packing.in_order()]


TEXTS = st.one_of(st.text(max_size=40), st.integers(1, 3000).map(lambda size: "word " * (size // 5)), st.just("x" * 5000))
UNITS = st.lists(st.tuples(TEXTS, st.sampled_from(("message", "error", "task_status", "tool_result", "system"))), max_size=25)
RULE = st.fixed_dictionaries(
    {},
    optional={
        "weight": st.integers(0, 1000),
        "max": st.integers(1, 100),
        "keep": st.sampled_from(("start", "end", "ends", "whole")),
    },
)
POLICY = st.fixed_dictionaries(
    {},
    optional={
        "shares": st.dictionaries(st.sampled_from(LANES), st.integers(0, 100)),
        "types": st.dictionaries(st.sampled_from(("default", "message", "error", "system")), RULE),
    },
)


@given(UNITS, st.data(), st.integers(10, 4000), POLICY, st.sampled_from(("tokens", "chars", "bytes")))
def test_every_pack_keeps_its_promises(
    drawn: list[tuple[str, str]], data: st.DataObject, budget: int, policy: dict[str, Any], unit: str
) -> None:
    units = [found(seq, text, type) for seq, (text, type) in enumerate(drawn, 1)]
    some = st.lists(st.sampled_from(units), unique=True) if units else st.just([])
    lanes: dict[str, Sequence[Found]] = {lane: data.draw(some) for lane in LANES}
    packing = packed(budget, lanes, policy, unit)
    count = COUNTERS[unit].count
    assert count is not None
    if count(FRAME) <= budget:
        assert count(whole(packing)) <= budget, "never over budget"
    assert seqs(packing) == sorted(set(seqs(packing))), "in log order, none twice"
    offered = {one.seq for lane in lanes.values() for one in lane}
    assert packing.chosen.keys() | packing.left.keys() == offered, "each is in or out"
    assert not packing.chosen.keys() & packing.left.keys()
    for chosen in packing.chosen.values():
        assert chosen.size == count(chosen.block)
        rule = packing._policy.rule(chosen.found.type)
        assert rule.weight > 0
        assert chosen.size <= budget * rule.max // 100
        assert (chosen.kept is None) or (rule.keep != "whole" and chosen.kept >= MIN_KEPT)


@given(UNITS, UNITS, st.integers(10, 3000))
def test_nothing_takes_the_place_of_a_pinned_unit(pins: list[tuple[str, str]], others: list[tuple[str, str]], budget: int) -> None:
    pinned = [found(seq, text, type) for seq, (text, type) in enumerate(pins, 1)]
    rest = [found(seq, text, type) for seq, (text, type) in enumerate(others, 1 + len(pins))]
    with_others = packed(budget, {"pinned": pinned, "recent": rest, "query": rest})
    alone = packed(budget, {"pinned": pinned})
    first = {chosen.found.seq for chosen in with_others.chosen.values() if chosen.lane == "pinned" and chosen.kept is None}
    assert first >= {chosen.found.seq for chosen in alone.chosen.values() if chosen.kept is None}


def test_lanes_take_their_shares_and_then_what_is_left() -> None:
    recent = [found(seq, "r" * 90) for seq in range(100, 80, -1)]
    hits = [found(seq, "q" * 92) for seq in range(1, 20)]
    packing = packed(1006, {"recent": recent, "query": hits})
    assert len([one for one in packing.chosen.values() if one.lane == "query"]) == 4
    assert len([one for one in packing.chosen.values() if one.lane == "recent"]) == 6
    alone = packed(1006, {"recent": recent})
    assert seqs(alone) == list(range(91, 101)), "the newest"


def test_what_one_lane_has_no_room_for_may_come_by_another() -> None:
    recent = [found(seq, "r" * 193) for seq in (9, 8, 7)]
    packing = packed(506, {"recent": recent, "query": [recent[2]]}, {"types": {"default": {"max": 100}}})
    assert {seq: chosen.lane for seq, chosen in packing.chosen.items() if chosen.kept is None} == {9: "recent", 7: "query"}


def test_an_error_outweighs_a_status() -> None:
    old_error = found(1, "e" * 50, "error")
    statuses = [found(seq, "s" * 50, "task_status") for seq in range(12, 1, -1)]
    assert 1 in packed(266, {"recent": [*statuses[:7], old_error]}).chosen
    assert 1 not in packed(266, {"recent": [*statuses[:7], old_error._replace(type="task_status")]}).chosen


def test_weight_nothing_leaves_a_type_out_and_says_why() -> None:
    packing = packed(500, {"pinned": [found(1, "a", "system")]}, {"types": {"system": {"weight": 0}}})
    assert not packing.chosen
    assert packing.left[1].why == "the policy leaves out system"


def test_what_is_too_large_is_cut_or_left_out() -> None:
    large = found(1, "".join(str(number % 10) for number in range(10_000)), "error")
    packing = packed(1000, {"recent": [large]})
    (chosen,) = packing.chosen.values()
    assert chosen.kept is not None
    assert 200 < chosen.size <= 250
    assert packed(1000, {"recent": [large]}, {"types": {"error": {"keep": "whole"}}}).left[1].why == "larger than 25 % of the budget"


def test_a_pack_that_is_larger_than_its_pieces_loses_what_was_chosen_last() -> None:
    packing = packed(1000, {"recent": [found(seq, "t" * 90) for seq in range(20, 10, -1)]})
    before = list(packing.chosen)
    run(packing.fit(None, lambda: whole(packing) + "?" * 250))
    assert list(packing.chosen) == before[: len(packing.chosen)]
    assert len(whole(packing)) + 250 + packing.room == 1000
    assert packing.room >= 0
    assert packing.left[before[-1]].why == "no room"


def test_policies_are_whole_tables() -> None:
    assert tuple(POLICIES) == messages.POLICIES
    for differing in POLICIES.values():
        table = Policy(differing).table
        assert Policy(table).table == table, "a manifest's policy is taken as it is"
    changed = Policy({"types": {"default": {"max": 10}, "error": {"max": 50}, "reasoning": {"weight": 1}}})
    assert (changed.rule("message").max, changed.rule("error").max, changed.rule("reasoning").max) == (10, 50, 10)
    assert changed.rule("error").weight > changed.rule("task_status").weight


def test_the_documented_policy_is_the_default_one() -> None:
    text = (Path(__file__).parents[2] / "docs/pack.md").read_text()
    assert tomllib.loads(text.split("```toml\n")[1].split("```")[0]) == DEFAULT
