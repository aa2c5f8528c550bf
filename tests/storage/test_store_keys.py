"""The prefix map: names never run into each other, and key order is log order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import IDS, LABELS, NAMES, SEQS, TEXTS

from engramd.state import view
from engramd.storage import keys
from engramd.storage.rows import row_key

PREFIXES: list[tuple[Callable[..., bytes], list[st.SearchStrategy[Any]]]] = [
    (keys.entries, [NAMES]),
    (keys.gone, [NAMES]),
    (keys.by_agent, [NAMES, NAMES]),
    (keys.by_type, [NAMES, NAMES]),
    (keys.by_meta, [NAMES, NAMES, TEXTS]),
    (keys.by_target, [NAMES, IDS]),
    (keys.by_path, [NAMES]),
]
ONE = st.one_of(*(st.tuples(st.just(prefix), st.tuples(*parts)) for prefix, parts in PREFIXES))
ROWS: dict[str, tuple[view.Table[Any, Any], st.SearchStrategy[Any]]] = {
    "contexts": (view.CONTEXTS, NAMES),
    "agents": (view.AGENTS, NAMES),
    "units": (view.UNITS, IDS),
    "members": (view.MEMBERS, st.tuples(NAMES, NAMES)),
    "pins": (view.PINS, st.tuples(NAMES, SEQS)),
    "places": (view.PLACES, st.tuples(NAMES, SEQS)),
    "dedupe": (view.DEDUPE, st.tuples(NAMES, IDS)),
    "past_members": (view.PAST_MEMBERS, st.tuples(NAMES, SEQS)),
    "past_pins": (view.PAST_PINS, st.tuples(NAMES, SEQS)),
    "retention": (view.RETENTION, NAMES),
    "trimmed": (view.TRIMMED, st.just("")),
    "erasures": (view.ERASURES, SEQS),
}
ROW = st.one_of(*(st.tuples(st.just(table), key) for table, key in ROWS.values()))


@given(ONE, ONE, SEQS)
def test_a_scan_of_one_prefix_never_meets_the_keys_of_another(
    one: tuple[Callable[..., bytes], tuple[Any, ...]], other: tuple[Callable[..., bytes], tuple[Any, ...]], seq: int
) -> None:
    first, second = one[0](*one[1]), other[0](*other[1])
    low, high = first + keys.pack_seq(0), first + keys.pack_seq(keys.LAST_SEQ)
    assert (low <= second + keys.pack_seq(seq) <= high) == (one == other)


@given(ROW, ROW)
def test_two_rows_never_share_a_key(one: tuple[view.Table[Any, Any], Any], other: tuple[view.Table[Any, Any], Any]) -> None:
    assert (row_key(*one) == row_key(*other)) == (one == other)


@given(NAMES, NAMES, NAMES)
def test_the_rows_of_a_context_are_one_range(context: str, other: str, member: str) -> None:
    prefix = row_key(view.MEMBERS, (context, ""))
    assert row_key(view.MEMBERS, (other, member)).startswith(prefix) == (context == other)


@given(SEQS, SEQS, ONE)
def test_key_order_is_log_order(one: int, other: int, of: tuple[Callable[..., bytes], tuple[Any, ...]]) -> None:
    prefix = of[0](*of[1])
    assert (prefix + keys.pack_seq(one) < prefix + keys.pack_seq(other)) == (one < other)


@given(SEQS, st.binary(max_size=30))
def test_seq_of_reads_the_end_of_a_key(seq: int, prefix: bytes) -> None:
    assert keys.seq_of(prefix + keys.pack_seq(seq)) == seq


@given(LABELS, LABELS)
def test_labels_with_the_same_characters_differ(one: dict[str, str], other: dict[str, str]) -> None:
    for label in one.items():
        for second in other.items():
            assert (keys.meta_digest(*label) == keys.meta_digest(*second)) == (label == second)


def test_where_a_label_s_key_ends_counts() -> None:
    assert keys.meta_digest("ab", "c") != keys.meta_digest("a", "bc")


def test_every_prefix_is_one_byte_of_its_own() -> None:
    prefixes = [value for name, value in vars(keys).items() if name.isupper() and isinstance(value, bytes) and not value.startswith(b"!")]
    assert len(prefixes) >= 14
    assert len(set(prefixes)) == len(prefixes)
    assert {len(prefix) for prefix in prefixes} == {1}


@pytest.mark.parametrize("last", [1, 255, 256, 2**32, keys.LAST_SEQ])
def test_seqs_sort_over_byte_boundaries(last: int) -> None:
    assert keys.pack_seq(last - 1) < keys.pack_seq(last)
    assert len(keys.pack_seq(last)) == 8
