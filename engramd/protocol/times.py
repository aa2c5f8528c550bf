"""Instants: microseconds since the Unix epoch inside, RFC 3339 UTC outside, and what people type."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta

from .errors import EngramError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS = {"us": 1, "ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000, "w": 604_800_000_000}
_PART = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)(us|ms|s|m|h|d|w)", re.ASCII)
_SECONDS = re.compile(r"\d{1,12}(\.\d{1,6})?", re.ASCII)
_DURATION = re.compile(rf"(?:{_PART.pattern})+", re.ASCII)
_CLOCK = re.compile(r"\d{1,2}:\d{2}(:\d{2})?", re.ASCII)
MAX_TS = 253_402_300_799_999_999  # the last microsecond of the year 9999


def elapsed() -> float:
    """Seconds of a clock that nobody sets, and that goes on while the machine sleeps where there is one (CLOCK_BOOTTIME)."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def format_ts(ts: int) -> str:
    """`ts` (microseconds since the epoch) as RFC 3339 in UTC with microseconds: `2026-01-02T03:04:05.678901Z`."""
    return (_EPOCH + timedelta(microseconds=ts)).isoformat(timespec="microseconds")[:26] + "Z"


def parse_duration(text: str) -> int:
    """A duration such as `90s`, `1h30m`, `250ms` or `2d`, in microseconds; a bare number is seconds.

    Raises:
        EngramError: `invalid` when the text is no duration.
    """
    text = text.strip()
    if _SECONDS.fullmatch(text):
        return _micros(text, "s")
    if not _DURATION.fullmatch(text):
        raise EngramError("invalid", f"{text[:60]!r} is not a duration; write 90s, 15m, 1h30m, 250ms or 2d")
    return sum(_micros(number, unit) for number, unit in _PART.findall(text))


def _micros(number: str, unit: str) -> int:
    """So much of a unit, half a microsecond rounded up. In whole numbers, since floats of such a size have no microseconds."""
    whole, _, part = number.partition(".")
    return (int(whole + part.ljust(6, "0")) * _UNITS[unit] + 500_000) // 1_000_000


def format_duration(micros: int) -> str:
    """A duration for people, in its two largest units: `250ms`, `7s`, `2m10s`, `3h05m`, `2d4h`."""
    if micros < 1_000_000:
        return f"{micros // 1000}ms"
    seconds = micros // 1_000_000
    for size, unit, below, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if seconds >= size:
            rest = seconds % size // below
            return f"{seconds // size}{unit}{rest:02}{small}" if rest else f"{seconds // size}{unit}"
    return f"{seconds}s"


def parse_instant(value: str | int, now: int) -> int:
    """An instant in microseconds since the epoch.

    Args:
        value: microseconds since the epoch as an integer; or text: a duration (`10m`: that long before now), `now`, an RFC 3339
            or ISO 8601 date or date and time, or a time of today (`14:30`). Without an offset, the daemon's local zone counts.
        now: the present, in microseconds since the epoch.

    Raises:
        EngramError: `invalid` when the text is none of these or beyond the year 9999.
    """
    if isinstance(value, int):
        return value
    text = value.strip()
    if text == "now":
        return now
    if _DURATION.fullmatch(text):
        return max(0, now - parse_duration(text))
    try:
        if _CLOCK.fullmatch(text):
            today = (_EPOCH + timedelta(microseconds=now)).astimezone().date()
            text = f"{today.isoformat()}T{text.zfill(5) if len(text) < 6 else text.zfill(8)}"
        moment = datetime.fromisoformat(text).astimezone(UTC)
        return (moment - _EPOCH) // timedelta(microseconds=1)
    except (ValueError, OverflowError):
        raise EngramError(
            "invalid", f"{value[:60]!r} is not a time; write 10m (that long ago), 14:30, 2026-01-31, or 2026-01-31T14:30:00Z"
        ) from None
