"""Cursors, instants and durations."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engramd.protocol.cursor import format_cursor, parse_cursor
from engramd.protocol.errors import EngramError
from engramd.protocol.times import MAX_TS, format_ts, parse_duration, parse_instant

quick = settings(deadline=None, max_examples=100)
HISTORY, OTHER = "0123456789ab", "ba9876543210"
SECOND = 1_000_000
NOW = 1_767_323_045_678_901  # 2026-01-02T03:04:05.678901Z, a Friday


def _micros(*moment: int) -> int:
    return (datetime(*moment, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)  # type: ignore[arg-type, misc]


# Cursors

histories = st.text("0123456789abcdef", min_size=12, max_size=12)


@given(histories, st.integers(0, 2**63 - 1))
@quick
def test_a_cursor_comes_back(history: str, seq: int) -> None:
    assert parse_cursor(format_cursor(history, seq), history) == seq
    assert len(format_cursor(history, seq)) <= 64  # what the schema allows


@given(histories, histories, st.integers(0, 2**63 - 1))
@quick
def test_a_cursor_of_another_history_is_an_error_of_its_own(history: str, other: str, seq: int) -> None:
    if history == other:
        return
    with pytest.raises(EngramError) as caught:
        parse_cursor(format_cursor(other, seq), history)
    assert caught.value.code == "cursor"
    assert caught.value.details == {"history": history}


@pytest.mark.parametrize(("value", "seq"), [(0, 0), (5, 5), ("0", 0), ("5", 5), ("007", 7), (str(2**63 - 1), 2**63 - 1)])
def test_a_plain_seq_is_accepted_too(value: str | int, seq: int) -> None:
    assert parse_cursor(value, HISTORY) == seq


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "x",
        "-1",
        "+1",
        "1 ",
        "1\n",
        "1.5",
        "٣",
        "1" * 20,
        f"{HISTORY}",
        f"{HISTORY}.",
        f"{HISTORY}.-1",
        f"{HISTORY}.01",
        f"{HISTORY}.1x",
        f"{HISTORY}.1\n",
        f"{HISTORY}.٣",
        f"{HISTORY}1.1",
        f"{HISTORY[1:]}.1",
        f"{HISTORY.upper()}.1",
        f"{HISTORY}." + "1" * 20,
        ".1",
        "x" * 5000,
    ],
)
def test_other_text_is_no_cursor(text: str) -> None:
    with pytest.raises(EngramError, match="neither a cursor nor a seq") as caught:
        parse_cursor(text, HISTORY)
    assert caught.value.code == "invalid"
    assert len(caught.value.message) < 150


# Instants out


@pytest.mark.parametrize(
    ("ts", "text"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (1, "1970-01-01T00:00:00.000001Z"),
        (NOW, "2026-01-02T03:04:05.678901Z"),
        (MAX_TS, "9999-12-31T23:59:59.999999Z"),
    ],
)
def test_an_instant_as_text(ts: int, text: str) -> None:
    assert format_ts(ts) == text


@given(st.integers(0, MAX_TS), st.integers(0, MAX_TS))
@quick
def test_an_instant_comes_back(ts: int, now: int) -> None:
    assert parse_instant(format_ts(ts), now) == ts
    assert parse_instant(ts, now) == ts
    assert (format_ts(ts) < format_ts(now)) == (ts < now)  # the text sorts as the time does


# Durations


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("0", 0),
        ("5", 5 * SECOND),
        ("1.5", SECOND * 3 // 2),
        ("0.000001", 1),
        ("90s", 90 * SECOND),
        ("15m", 900 * SECOND),
        ("1h30m", 5400 * SECOND),
        ("2d", 172_800 * SECOND),
        ("1w", 604_800 * SECOND),
        ("1w2d3h4m5s6ms7us", (604_800 + 172_800 + 10_800 + 240 + 5) * SECOND + 6007),
        ("250ms", 250_000),
        ("1.5ms", 1500),
        ("7us", 7),
        ("0.5h", 1800 * SECOND),
        ("30m1h", 5400 * SECOND),
        (" 90s ", 90 * SECOND),
    ],
)
def test_a_duration(text: str, micros: int) -> None:
    assert parse_duration(text) == micros


@given(st.lists(st.tuples(st.integers(0, 9999), st.sampled_from(["us", "ms", "s", "m", "h", "d", "w"])), min_size=1, max_size=5))
@quick
def test_a_duration_is_the_sum_of_its_parts(parts: list[tuple[int, str]]) -> None:
    length = {"us": "microseconds", "ms": "milliseconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
    whole = sum((timedelta(**{length[unit]: count}) for count, unit in parts), timedelta())
    assert parse_duration("".join(f"{count}{unit}" for count, unit in parts)) == whole // timedelta(microseconds=1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "s",
        "m5",
        "x",
        "-1s",
        "+1s",
        "1 h",
        "1h 30m",
        "1h30",
        "1H",
        "1sec",
        "1e3",
        "1.s",
        ".5s",
        "1.5.5s",
        "1,5s",
        "1.1234567s",
        "nan",
        "inf",
        "٣s",
        "1y",
        "1s\n1s",
        "0x10",
        "1" * 16 + "s",
        "1" * 13,
        "x" * 5000,
    ],
)
def test_other_text_is_no_duration(text: str) -> None:
    with pytest.raises(EngramError, match="is not a duration") as caught:
        parse_duration(text)
    assert caught.value.code == "invalid"
    assert len(caught.value.message) < 200


# Instants in


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Sets the local time zone, as POSIX writes it (east of Greenwich is negative)."""

    def change(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield change
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "ts"),
    [
        ("now", NOW),
        (" now ", NOW),
        ("0s", NOW),
        ("10m", NOW - 600 * SECOND),
        ("1h30m", NOW - 5400 * SECOND),
        ("250ms", NOW - 250_000),
        ("9999w", 0),  # before the epoch: the beginning
        ("2026-01-31T14:30:00Z", _micros(2026, 1, 31, 14, 30)),
        ("2026-01-31 14:30:00Z", _micros(2026, 1, 31, 14, 30)),
        ("2026-01-31T14:30Z", _micros(2026, 1, 31, 14, 30)),
        ("2026-01-31T14:30:00+02:00", _micros(2026, 1, 31, 12, 30)),
        ("2026-01-31T00:30:00-05:30", _micros(2026, 1, 31, 6)),
        ("2026-01-31T14:30:00.000001Z", _micros(2026, 1, 31, 14, 30) + 1),
        ("20260131T143000Z", _micros(2026, 1, 31, 14, 30)),
        ("1969-12-31T23:59:59Z", -SECOND),
    ],
)
def test_an_instant_that_needs_no_zone(text: str, ts: int) -> None:
    assert parse_instant(text, NOW) == ts


@pytest.mark.parametrize(
    ("name", "text", "ts"),
    [
        ("UTC0", "2026-01-31", _micros(2026, 1, 31)),
        ("UTC0", "14:30", _micros(2026, 1, 2, 14, 30)),
        ("UTC0", "9:05", _micros(2026, 1, 2, 9, 5)),
        ("UTC0", "9:05:07", _micros(2026, 1, 2, 9, 5, 7)),
        ("UTC0", "14:30:59", _micros(2026, 1, 2, 14, 30, 59)),
        ("IST-5:30", "2026-01-31", _micros(2026, 1, 30, 18, 30)),
        ("IST-5:30", "2026-01-31T14:30", _micros(2026, 1, 31, 9)),
        ("IST-5:30", "00:15", _micros(2026, 1, 1, 18, 45)),
        ("HST10", "14:30", _micros(2026, 1, 2, 0, 30)),  # there it is still the first of January
        ("CET-1CEST,M3.5.0,M10.5.0/3", "2026-01-31 12:00", _micros(2026, 1, 31, 11)),
        ("CET-1CEST,M3.5.0,M10.5.0/3", "2026-07-31 12:00", _micros(2026, 7, 31, 10)),
    ],
)
def test_an_instant_in_the_local_zone(zone: Callable[[str], None], name: str, text: str, ts: int) -> None:
    zone(name)
    assert parse_instant(text, NOW) == ts


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "x",
        "yesterday",
        "-10m",
        "90",
        "2026",
        "2026-13-01",
        "2026-02-30",
        "2026-01-31T",
        "2026-01-31T25:00Z",
        "25:00",
        "9:5",
        "12:60",
        "12:00:61",
        "1:2:3",
        "٣m",
        "2026-01-31T14:30:00+99:00",
        "10000-01-01",
        "9999-12-31T23:59:59-05:00",
        "10m ago",
        "x" * 5000,
    ],
)
def test_other_text_is_no_instant(text: str) -> None:
    with pytest.raises(EngramError, match="is not a time") as caught:
        parse_instant(text, NOW)
    assert caught.value.code == "invalid"
    assert len(caught.value.message) < 250


@given(st.text(max_size=20) | st.text("0123456789:-.TZ+wdhmsu ", max_size=20))
@quick
def test_any_text_is_read_or_refused(text: str) -> None:
    for read in (parse_duration, lambda text: parse_instant(text, NOW), lambda text: parse_cursor(text, HISTORY)):
        try:
            assert type(read(text)) is int
        except EngramError as error:
            refused = error.code
            assert refused in ("invalid", "cursor")
