"""Cutting what a host sends into lines."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("mcp")
from engram_cli.mcp.stdio import Lines


@given(st.lists(st.binary(max_size=12)), st.lists(st.integers(0, 40)))
def test_lines_come_whole_however_they_arrive(sent: list[bytes], cuts: list[int]) -> None:
    lines = [line.replace(b"\n", b"") for line in sent]
    data = b"".join(line + b"\n" for line in lines)
    marks = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
    cutter, got = Lines(8), []
    for start, end in itertools.pairwise(marks):
        got += cutter.feed(data[start:end])
    assert got == [line if len(line) <= 8 else None for line in lines]


def test_a_long_line_is_told_once_before_its_end_and_not_kept() -> None:
    cutter = Lines(10)
    assert list(cutter.feed(b"x" * 11)) == [None]
    assert list(cutter.feed(b"x" * 1000)) == []
    assert len(cutter._line) == 0
    assert list(cutter.feed(b"x\nnext\n")) == [b"next"]
