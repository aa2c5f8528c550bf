"""Cursors: where a reader stands, as text that only the daemon interprets.

The text is `HISTORY.SEQ`: the history id (12 hexadecimal digits, new whenever a seq could be reused) and a decimal seq. A reader
at a cursor has seen every event up to and including that seq.
"""

from __future__ import annotations

import re

from ..shapes import NamedTuple
from .errors import EngramError

_CURSOR = re.compile(r"([0-9a-f]{12})\.(0|[1-9][0-9]{0,18})", re.ASCII)
_PLACE = re.compile(r"([0-9a-f]{12})\.(0|[1-9][0-9]{0,18})\.([1-9][0-9]{0,6})\.([1-9][0-9]{0,8})", re.ASCII)
_SEQ = re.compile(r"[0-9]{1,19}", re.ASCII)


def format_cursor(history: str, seq: int) -> str:
    """The cursor of a reader that has seen everything up to `seq`."""
    return f"{history}.{seq}"


def parse_cursor(value: str | int, history: str) -> int:
    """The seq that a cursor, or a plain seq, stands for.

    Raises:
        EngramError: `cursor` when the cursor belongs to another history, `invalid` when it is no cursor.
    """
    if isinstance(value, int):
        return value
    if _SEQ.fullmatch(value):
        return int(value)
    match = _CURSOR.fullmatch(value)
    if match is None:
        raise EngramError("invalid", f"{value[:60]!r} is neither a cursor nor a seq", field="after")
    if match[1] != history:
        raise EngramError(
            "cursor",
            f"the cursor {value} belongs to another history of the log than the daemon's ({history}); start again from a seq, a time, or "
            "the beginning",
            history=history,
        )
    return int(match[2])


class Place(NamedTuple):
    """A place in the order of a search's hits: the order is that of the units up to `seq`, `depth` deep, and `rank` of it was seen."""

    seq: int
    depth: int
    rank: int


def format_place(history: str, place: Place) -> str:
    """The cursor behind a search's hit."""
    return f"{history}.{place.seq}.{place.depth}.{place.rank}"


def parse_place(value: str, history: str) -> Place:
    """The place that a search's cursor stands for.

    Raises:
        EngramError: `cursor` when the cursor belongs to another history, `invalid` when it is none of a search.
    """
    match = _PLACE.fullmatch(value)
    if match is None:
        raise EngramError("invalid", f"{value[:60]!r} is no cursor of a search; each hit and each page of a search has one", field="after")
    if match[1] != history:
        raise EngramError("cursor", f"the cursor {value} belongs to another history of the log; search anew", history=history)
    return Place(int(match[2]), int(match[3]), int(match[4]))
