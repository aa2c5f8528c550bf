"""What people type for instants, durations, cursors and references: against plain readers, and mutations of what is right."""

from __future__ import annotations

import re
import uuid
from fractions import Fraction
from typing import Any

import pytest
from fuzzing import SURROGATES, fuzz, nasty_text, outcome
from hypothesis import example, given
from hypothesis import strategies as st

from engramd.protocol.cursor import Place, format_cursor, format_place, parse_cursor, parse_place
from engramd.protocol.times import MAX_TS, format_duration, format_ts, parse_duration, parse_instant
from engramd.protocol.unit import format_id, is_id, new_id, parse_ref

pytestmark = pytest.mark.fuzz

NOW = 1_767_323_045_678_901
HISTORY, OTHER = "0123456789ab", "ba9876543210"
MICROS = {"us": 1, "ms": 1000, "s": 10**6, "m": 6 * 10**7, "h": 36 * 10**8, "d": 864 * 10**8, "w": 6048 * 10**8}

edges = st.sampled_from((0, 1, 9, 59, 60, 99, 999_999, 10**12 - 1, 10**15 - 1, 2**53 + 1))
numbers = st.builds(
    lambda whole, part: f"{whole}{part}", edges | st.integers(0, 10**15 - 1), st.just("") | st.from_regex(r"\A\.[0-9]{1,6}\Z")
)
durations = st.lists(st.builds(str.__add__, numbers, st.sampled_from(sorted(MICROS))), min_size=1, max_size=4).map("".join)
instants = st.builds(
    lambda ts, end, sep, cut: format_ts(ts)[:cut].replace("T", sep).replace("Z", end),
    st.integers(0, MAX_TS),
    st.sampled_from(("Z", "", "+00:00", "-23:59", "+24:00", "+0530", "z")),
    st.sampled_from(("T", " ", "t", "_", "\u2028")),
    st.sampled_from((10, 13, 16, 19, 23, 27)),
)
cursors = st.builds(format_cursor, st.sampled_from((HISTORY, OTHER, HISTORY.upper(), HISTORY[1:])), st.integers(0, 10**19))
places = st.builds(format_place, st.sampled_from((HISTORY, OTHER)), st.builds(Place, *[st.integers(0, 10**10)] * 3))
ids = st.builds(format_id, st.builds(new_id, st.integers(0, 2**48)))
DIGITS = ("0", "9", ".", "_", " ", "+", "-", "٣", "²", "e", "x", ":", "Z", "T", "s", "m", "\n", "\0", "{", "}", "urn:uuid:", "0x")


@st.composite
def typed(draw: st.DrawFn) -> str:
    """What is right, or has up to three characters too many, too few or of another kind."""
    text = draw(durations | instants | cursors | places | ids | numbers | st.sampled_from(("now", "14:30", "start", "me")))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(text)))
        piece = draw(st.sampled_from((*DIGITS, "")) | nasty_text(SURROGATES, 1))
        text = text[:at] + piece + text[at + draw(st.integers(0, 1)) :]
    return text


def plain_duration(text: str) -> Fraction | None:
    """A duration in microseconds, exactly."""
    text = text.strip()
    if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,6})?", text):
        return Fraction(text) * MICROS["s"]
    total = Fraction(0)
    while text:
        match = re.match(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)(us|ms|[smhdw])", text)
        if match is None:
            return None
        total += Fraction(match[1]) * MICROS[match[2]]
        text = text[match.end() :]
    return total


@given(durations | numbers | typed())
@example("999999999999.999999")
@example("9007199254740993us")
@fuzz(120)
def test_a_duration_is_read_exactly(text: str) -> None:
    expected = plain_duration(text) if text.strip() else None
    found, code = outcome(lambda: parse_duration(text))
    assert code == ("invalid" if expected is None else "")
    if found is None or expected is None:
        return
    assert abs(found - expected) <= Fraction(text.count(".") + 1, 2), "each part is rounded once"
    assert format_duration(found)


READERS: dict[str, Any] = {
    "duration": parse_duration,
    "instant": lambda text: parse_instant(text, NOW),
    "cursor": lambda text: parse_cursor(text, HISTORY),
    "place": lambda text: parse_place(text, HISTORY),
    "reference": parse_ref,
}


@given(typed() | nasty_text(SURROGATES))
@example("{019b76dadac870008000000000000004}")
@example("019b76dadac870008000_00000000004")
@example(" 0x19b76dadac87000800000000000004")
@example("0\uff119b76dadac870008000000000000004")
@example("--019b76dadac870008000000000000004")
@fuzz(120)
def test_everything_that_is_typed_is_read_or_refused_in_words(text: str) -> None:
    for what, read in READERS.items():
        found, code = outcome(lambda: read(text))  # noqa: B023
        if code:
            assert code in ("invalid", "cursor")
            continue
        assert type(found) in (int, bytes, Place), what
        if what == "instant":
            assert -(2**63) < found <= MAX_TS
        elif what == "cursor":
            assert re.fullmatch(rf"(?:{HISTORY}\.)?[0-9]+", text)
        elif what == "place":
            assert format_place(HISTORY, found) == text
        elif type(found) is bytes:
            assert re.fullmatch(r"[0-9a-f]{8}(-?)([0-9a-f]{4}\1){3}[0-9a-f]{12}", text, re.I | re.ASCII), "nothing else is an id"
            assert uuid.UUID(text).bytes == found
        elif what == "reference":
            assert re.fullmatch("[0-9]{1,18}", text)
            assert int(text) == found


@given(st.integers(0, 2**48 * 1000 - 1))
@fuzz(30)
def test_ids_keep_their_instant(ts: int) -> None:
    made = new_id(ts)
    assert is_id(made)
    assert parse_ref(format_id(made)) == made
