"""Plots as SVG text, by hand: bars of ratios around 1, and lines of cost against size, both on logarithmic axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

from .figures import factor

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#332288", "#666666")  # told apart by the colour-blind too
WIDTH, TOP, LEFT, BAR = 900, 60, 250, 9  # pixels; BAR is how thick one is
LETTER = 6.2  # pixels of one letter, about


def bars(title: str, groups: Sequence[str], series: Mapping[str, Sequence[float | None]], left: str, right: str) -> str:
    """Ratios as horizontal bars that start at 1: those above go to the right, those below to the left.

    Args:
        groups: what each ratio of a series is of; None as a ratio leaves a gap.
        left, right: in words, what a bar to that side means.
    """
    values = [value for ratios in series.values() for value in ratios if value]
    low, high = _decades([*values, 1.0])
    end = WIDTH - 60
    step = BAR * len(series) + 12
    bottom = TOP + 20 + step * len(groups)

    def at(value: float) -> float:
        return LEFT + (end - LEFT) * (math.log10(value) - low) / (high - low)

    parts = [_text(at(1) - 8, TOP + 8, "← " + left, "end"), _text(at(1) + 8, TOP + 8, right + " →")]
    for power in range(low, high + 1):
        x = at(10.0**power)
        parts += [_line(x, TOP + 14, x, bottom), _text(x, bottom + 14, f"{10.0**power:g}", "middle")]
    for place, group in enumerate(groups):
        y = TOP + 22 + step * place
        parts.append(_text(LEFT - 8, y + step / 2 - 4, group, "end"))
        for number, ratios in enumerate(series.values()):
            if value := ratios[place]:
                x, one, above = at(value), at(1), y + number * BAR
                place_of_bar = f'x="{min(x, one):.1f}" y="{above}" width="{max(1, abs(x - one)):.1f}" height="{BAR - 1}"'
                parts.append(f'<rect {place_of_bar} fill="{_colour(number)}"/>')
                words = factor(value)
                parts.append(_text(x + 3, above + 7.5, words, size=8) if value >= 1 else _text(x - 3, above + 7.5, words, "end", 8))
    parts.append(_line(at(1), TOP + 14, at(1), bottom, "#222"))
    return _page(title, bottom + 24, [*_legend(list(series)), *parts])


def lines(
    title: str,
    x: Sequence[float],
    series: Mapping[str, Sequence[float | None]],
    x_name: str,
    y_name: str,
    show: Callable[[float], str] = "{:g}".format,
    height: int = 520,
) -> str:
    """Values over `x`, both positive, each series named at the end of its line.

    Args:
        series: a value for each x; None leaves it out.
        show: writes a value of the upright axis, such as `figures.duration` for nanoseconds.
        height: of the plot, in pixels.
    """
    (left, right), (low, high) = _decades(x), _decades([value for values in series.values() for value in values if value])
    start, end, bottom = 90, WIDTH - 260, TOP + height

    def at(size: float, value: float) -> tuple[float, float]:
        across, up = (math.log10(size) - left) / (right - left), (math.log10(value) - low) / (high - low)
        return start + (end - start) * across, bottom - height * up

    parts = [_text(start, TOP - 8, y_name), _text((start + end) / 2, bottom + 34, x_name, "middle")]
    for power in range(low, high + 1):
        _, y = at(10.0**left, 10.0**power)
        parts += [_line(start, y, end, y), _text(start - 6, y + 4, show(10.0**power), "end")]
    for power in range(left, right + 1):
        across, _ = at(10.0**power, 10.0**low)
        parts += [_line(across, TOP, across, bottom), _text(across, bottom + 16, f"{10**power:,}", "middle")]
    names = []
    for number, (name, values) in enumerate(series.items()):
        points = [at(size, value) for size, value in zip(x, values, strict=True) if value]
        if points:
            dash = ' stroke-dasharray="6 3"' if number >= len(COLOURS) else ""
            path = " ".join(f"{across:.1f},{y:.1f}" for across, y in points)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{_colour(number)}" stroke-width="2"{dash}/>')
            parts += [f'<circle cx="{across:.1f}" cy="{y:.1f}" r="3" fill="{_colour(number)}"/>' for across, y in points]
            names.append((points[-1], name, _colour(number)))
    free = TOP - 14.0
    for (across, y), name, colour in sorted(names, key=lambda each: each[0][1]):
        free = max(free + 14, y + 4)  # names that would lie upon each other move down
        parts += [_line(across + 4, y, end + 8, free - 4), _text(end + 12, free, name, fill=colour)]
    return _page(title, max(bottom + 48, free + 10), parts)


def _decades(values: Sequence[float]) -> tuple[int, int]:
    low = math.floor(math.log10(min(values)) + 1e-9)
    return low, max(low + 1, math.ceil(math.log10(max(values)) - 1e-9))


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _text(x: float, y: float, words: str, anchor: str = "start", size: int = 11, fill: str = "#222") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{fill}">{escape(words)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, stroke: str = "#ddd") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{stroke}"/>'


def _legend(names: Sequence[str]) -> list[str]:
    parts, x = [], 16.0
    for number, name in enumerate(names):
        parts += [f'<rect x="{x:.1f}" y="36" width="10" height="10" fill="{_colour(number)}"/>', _text(x + 14, 45, name)]
        x += 30 + LETTER * len(name)
    return parts


def _page(title: str, height: float, parts: Sequence[str]) -> str:
    size = f'viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" height="{height:.0f}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" role="img">'
    back = f'<title>{escape(title)}</title>\n<rect width="100%" height="100%" fill="white"/>'
    return "\n".join([head, back, _text(16, 22, title, size=15), *parts, "</svg>"]) + "\n"
