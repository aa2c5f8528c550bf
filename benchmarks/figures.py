"""Percentiles, ratios that survive a noisy machine, and the table they are printed in. Times are nanoseconds until they are printed."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

Round = dict[str, float]


class BenchmarkError(Exception):
    """A figure cannot be had; the message says why."""


def percentile(values: Sequence[float], part: float) -> float:
    """The value that `part` (0 to 1) of the values do not exceed: the nearest rank, never interpolated."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(part * len(ordered) + 0.5) - 1))]


def spread(name: str, values: Sequence[float]) -> Round:
    """The p50 and p99 of one round, as `name.p50` and `name.p99`."""
    if not values:
        raise BenchmarkError(f"{name}: nothing was measured")
    return {f"{name}.p50": percentile(values, 0.5), f"{name}.p99": percentile(values, 0.99)}


class Rounds:
    """What each round measured; a figure is the median over the rounds, and a ratio the median of the rounds' ratios."""

    def __init__(self) -> None:
        self._rounds: list[Round] = []

    def add(self, figures: Round) -> None:
        """Note one round."""
        self._rounds.append(figures)

    def __contains__(self, name: str) -> bool:
        return any(name in each for each in self._rounds)

    def median(self, name: str) -> float | None:
        """The median of a figure over the rounds that have it, or None."""
        found = [each[name] for each in self._rounds if name in each]
        return statistics.median(found) if found else None

    def ratio(self, over: str, *under: str, plus: float = 0.0) -> float | None:
        """The median, over the rounds that have all of them, of a figure divided by the sum of others and `plus`; or None."""
        having = [each for each in self._rounds if over in each and all(name in each for name in under)]
        return statistics.median(each[over] / (sum(each[name] for name in under) + plus) for each in having) if having else None


@dataclass
class Row:
    """One line of a table.

    Attributes:
        p50, p99: nanoseconds.
        value: a single figure in `unit`.
        ratio: what was measured, over what it is held against.
        against: what that is, in words.
        most, least: the goal of the ratio, if there is one.
    """

    what: str
    p50: float | None = None
    p99: float | None = None
    value: float | None = None
    unit: str = "/s"
    ratio: float | None = None
    against: str = ""
    most: float | None = None
    least: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the ratio keeps to its goal; None without a goal or a ratio."""
        if self.ratio is None or (self.most is None and self.least is None):
            return None
        return (self.most is None or self.ratio <= self.most) and (self.least is None or self.ratio >= self.least)


def row(rounds: Rounds, what: str, name: str, **more: Any) -> Row:
    """A row of the medians of `name.p50`, `name.p99` and `name.rate`, as far as they were measured."""
    more.setdefault("value", rounds.median(f"{name}.rate"))
    return Row(what, rounds.median(f"{name}.p50"), rounds.median(f"{name}.p99"), **more)


def duration(nanoseconds: float | None) -> str:
    """A time with a unit that suits it."""
    if nanoseconds is None:
        return ""
    if nanoseconds < 999_500:
        return f"{nanoseconds / 1e3:.0f} µs"
    return f"{nanoseconds / 1e6:.2f} ms" if nanoseconds < 99.5e6 else f"{nanoseconds / 1e6:.0f} ms"


def factor(ratio: float) -> str:
    """A ratio in two figures, or as a whole number."""
    return f"{ratio:.2g}" if ratio < 99.5 else f"{ratio:.0f}"


def amount(value: float | None, unit: str) -> str:
    """A figure in its unit."""
    if value is None:
        return ""
    return f"{value:,.0f}{unit}" if abs(value) >= 100 else f"{value:,.1f}{unit}"


def goal(shown: Row) -> str:
    """The goal of a ratio, and whether it is met."""
    if shown.most is None and shown.least is None:
        return ""
    bound = f"≤ {shown.most:g}" if shown.most is not None else f"≥ {shown.least:g}"
    return f"{bound} {({True: 'met', False: 'MISSED', None: '?'})[shown.met]}"


HEADINGS = ("what", "p50", "p99", "figure", "ratio", "goal", "held against")


def table(rows: Iterable[Row]) -> str:
    """The rows as aligned plain text, without the columns that no row fills."""
    lines = [HEADINGS]
    for each in rows:
        ratio = "" if each.ratio is None else f"{each.ratio:.2f}"
        lines.append((each.what, duration(each.p50), duration(each.p99), amount(each.value, each.unit), ratio, goal(each), each.against))
    filled = [column for column in range(len(HEADINGS)) if column == 0 or any(line[column] for line in lines[1:])]
    widths = {column: max(len(line[column]) for line in lines) for column in filled}
    texts = []
    for line in lines:
        cells = [line[at].rjust(width) if 0 < at < 5 else line[at].ljust(width) for at, width in widths.items()]
        texts.append("  ".join(cells).rstrip())
    texts.insert(1, "-" * max(map(len, texts)))
    return "\n".join(texts)


def machine() -> dict[str, Any]:
    """What the figures were taken on, as far as it matters to them."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "processors": os.cpu_count(),
        "load": [round(load, 2) for load in os.getloadavg()],
    }


def save(path: str, rows: Iterable[Row], **more: Any) -> None:
    """Write the rows and the machine as JSON; times in nanoseconds."""
    save_as(path, **more, rows=[asdict(each) | {"met": each.met} for each in rows])


def save_as(path: str, **more: Any) -> None:
    """Write what was measured as JSON, and on which machine."""
    document = {"machine": machine(), **more}
    Path(path).write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def put_region(path: str | Path, name: str, text: str) -> None:
    """Replace what stands between the lines `<!-- NAME -->` and `<!-- /NAME -->` of a document.

    Raises:
        BenchmarkError: if it has not these lines.
    """
    head, tail = around_region(path, name)
    Path(path).write_text(f"{head}\n{text.strip()}\n\n{tail}", encoding="utf-8")


def around_region(path: str | Path, name: str) -> tuple[str, str]:
    """A document up to the first of these lines, and from the last one on; raises as `put_region` does, before anything is measured."""
    file, first, last = Path(path), f"<!-- {name} -->\n", f"<!-- /{name} -->\n"
    before = file.read_text(encoding="utf-8")
    if first not in before or last not in before:
        raise BenchmarkError(f"{path} has no lines {first.strip()} and {last.strip()}")
    head, rest = before.split(first, 1)
    return head + first, last + rest.split(last, 1)[1]
