"""What benchmarks print. Figures are nobody's here."""

from __future__ import annotations

import pytest

from benchmarks import figures, scale
from benchmarks.figures import Row
from benchmarks.scale import Cost


def test_columns_that_no_row_fills_are_left_out() -> None:
    assert figures.table([Row("a", p50=1e6), Row("bc", p50=2e6, ratio=2.0)]) == "\n".join(
        ["what      p50  ratio", "--------------------", "a     1.00 ms", "bc    2.00 ms   2.00"]
    )
    assert figures.table([Row("a", ratio=2.0, most=1, against="b")]).startswith("what  ratio  goal        held against\n")


@pytest.mark.parametrize(
    ("sizes", "values", "expected", "grows"),
    [
        ([10_000, 1_000_000], [1e6, 4e6], scale.FLAT, True),
        ([10_000, 1_000_000], [1e6, 2e6], scale.FLAT, False),
        ([1000, 2000], [1e6, 1.4e6], scale.FLAT, False),  # the exponent is 0.49, of what may be noise
        ([1000, 2000], [1e6, 2e6], scale.FLAT, True),
        ([10_000, 1_000_000], [1e6, 100e6], scale.LINEAR, False),
        ([10_000, 1_000_000], [1e6, 400e6], scale.LINEAR, True),
        ([10_000], [1e6], scale.FLAT, False),
    ],
)
def test_what_grows_is_told_from_noise(sizes: list[int], values: list[float], expected: int, grows: bool) -> None:
    assert Cost("it", expected, values).grows_too_fast(sizes) is grows
