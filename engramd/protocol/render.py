"""How what travels is shown: as JSON, and as text that cannot do anything to a terminal."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

from .times import format_ts
from .unit import format_id, unit_json

TIMES = frozenset(  # members that are instants: microseconds on the wire, RFC 3339 in JSON
    [
        "ts",
        "created_at",
        "updated_at",
        "first_seen",
        "last_seen",
        "granted_at",
        "issued_at",
        "since",
        "started_at",
        "expires_at",
        "parked_at",
        "present_since",
        "seen_at",
    ]
)

# C0 and C1 controls and DEL, line and paragraph separators, and what reorders or hides text: Unicode's Bidi_Control and friends.
_UNSAFE = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb"
_UNSAFE += "\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\uffa0\U000e0000-\U000e0fff"  # and what shows as nothing at all
_SHORT = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\\": "\\\\"}


@cache  # slow to make, and seldom needed
def _unsafe(further: str = "") -> re.Pattern[str]:
    return re.compile(f"[{_UNSAFE}{further}]")


def _escape(match: re.Match[str]) -> str:
    char = match[0]
    code = ord(char)
    return _SHORT.get(char) or (f"\\x{code:02x}" if code < 128 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")


def for_terminal(text: str) -> str:
    """Text with everything but printable characters, tabs and newlines as a visible escape."""
    return _unsafe().sub(_escape, text)


def in_line(text: str) -> str:
    """Text as one field of one line: also newlines, tabs and backslashes are escaped, so it can be read back."""
    if text.isascii() and text.isprintable() and "\\" not in text:
        return text
    return _unsafe("\t\n\\\\").sub(_escape, text)


def unit_text(unit: dict[str, Any]) -> str:
    """A decoded unit's payload as text; bytes that are not UTF-8 appear as `\\xNN`, and of a redacted one why it was redacted."""
    if "redacted" in unit:
        return f"[redacted: {unit['redacted']['reason']}]"
    if "text" in unit:
        text: str = unit["text"]
        return text
    raw: bytes = unit["payload"]
    return raw.decode("utf-8", "backslashreplace")


def redacted_message(unit: dict[str, Any]) -> str:
    """Why there is no payload of a redacted unit."""
    redacted = unit["redacted"]
    return f"unit {unit['seq']} was redacted by {redacted['agent']} at {format_ts(redacted['ts'])}: {redacted['reason']}"


def unit_line(unit: dict[str, Any]) -> str:
    """A decoded unit as `seq⇥ts⇥agent⇥type⇥text`. The seq is that of its entry where it was read."""
    if "text" in unit:
        text = in_line(unit_text(unit))
    else:
        # Escape the characters that decode first, so that a backslash of the payload differs from one that stands for a byte.
        text = "".join(
            f"\\x{ord(char) - 0xDC00:02x}" if "\udc80" <= char <= "\udcff" else in_line(char)
            for char in unit["payload"].decode("utf-8", "surrogateescape")
        )
    return f"{unit.get('entry', unit['seq'])}\t{format_ts(unit['ts'])}\t{unit['agent']}\t{unit['type']}\t{text}"


def plain(value: Any, key: str = "") -> Any:
    """An answer as JSON can hold it: units in their JSON form, ids and other bytes as text, instants as RFC 3339."""
    if isinstance(value, dict):
        if "seq" in value and isinstance(value.get("relationships"), list):  # labels may have these names, but their values are text
            return unit_json(value)
        return {name: plain(member, name) for name, member in value.items()}
    if isinstance(value, list):
        return [plain(member) for member in value]
    if isinstance(value, bytes):
        return format_id(value) if len(value) == 16 else value.hex()
    if key in TIMES and isinstance(value, int):
        return format_ts(value)
    return value


def json_line(value: Any) -> str:
    """One JSON object on one line. JSON escapes control characters itself; the others that could trouble a terminal are escaped too."""
    text = json.dumps(value, ensure_ascii=False)
    if text.isascii() and text.isprintable():
        return text
    return _unsafe().sub(lambda match: json.dumps(match[0])[1:-1], text)
