"""What benchmarks print. Figures are nobody's here."""

from __future__ import annotations

from benchmarks import figures
from benchmarks.figures import Row


def test_columns_that_no_row_fills_are_left_out() -> None:
    assert figures.table([Row("a", p50=1e6), Row("bc", p50=2e6, ratio=2.0)]) == "\n".join(
        ["what      p50  ratio", "--------------------", "a     1.00 ms", "bc    2.00 ms   2.00"]
    )
    assert figures.table([Row("a", ratio=2.0, most=1, against="b")]).startswith("what  ratio  goal        held against\n")
