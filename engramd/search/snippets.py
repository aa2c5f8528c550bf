"""Snippets: the part of a text that shows best why it was found, with the words marked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from . import tokens

WIDTH = 200  # characters, about
READ = 64 * 1024  # characters of a text that are looked through
_SPACE = re.compile(r"\s+")


class Snippet(NamedTuple):
    """Text on one line, and the characters of it to be marked, from and to before, in order and apart."""

    text: str
    marks: list[list[int]]


def snippet(text: str, weights: Mapping[str, float]) -> Snippet:
    """The best part of a text. `weights` has the terms that were looked for and what each counts."""
    text = _SPACE.sub(" ", text[:READ]).strip()
    found = sorted((place.start, place.end, place.term) for place in tokens.places(text, weights.keys()))
    start = _best_start(found, weights)
    if len(text) <= WIDTH:
        start, end = 0, len(text)
    else:
        start = _word_start(text, max(0, min(start - WIDTH // 5, len(text) - WIDTH)))
        end = _word_end(text, start + WIDTH)
    shown = ("… " if start else "") + text[start:end] + (" …" if end < len(text) else "")
    shift = (2 if start else 0) - start
    marks: list[list[int]] = []
    for left, right, _ in found:
        if left < start or right > end:
            continue
        if marks and left + shift <= marks[-1][1]:
            marks[-1][1] = max(marks[-1][1], right + shift)
        else:
            marks.append([left + shift, right + shift])
    return Snippet(shown, marks)


def _best_start(found: list[tuple[int, int, str]], weights: Mapping[str, float]) -> int:
    """Where a window begins that has the most of what was looked for, each term counted once."""
    best, best_start, last = 0.0, 0, 0
    inside: dict[str, int] = {}
    total = 0.0
    for start, _, term in found:
        inside[term] = inside.get(term, 0) + 1
        total += weights[term] if inside[term] == 1 else 0
        while start - found[last][0] > WIDTH * 3 // 5:
            left = found[last][2]
            inside[left] -= 1
            total -= 0 if inside[left] else weights[left]
            last += 1
        if total > best + 1e-9:
            best, best_start = total, found[last][0]
    return best_start


def _word_start(text: str, at: int) -> int:
    """The start of a word a little after `at`, or `at` in the midst of a long one."""
    space = text.find(" ", at, at + 20) if at else -1
    return space + 1 if space >= 0 else at


def _word_end(text: str, at: int) -> int:
    if at >= len(text):
        return len(text)
    space = text.rfind(" ", at - 20, at)
    return space if space > 0 else at
