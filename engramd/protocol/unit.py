"""The unit's codec. The bytes stored are the bytes sent: one CBOR map, written once and never encoded again.

Members in order: `id` (16 bytes, UUIDv7), `seq`, `ts` (microseconds), `context`, `agent`, `type`, `meta`, then `text` where the payload is
UTF-8, else `payload` (bytes), then `relationships`, a list of `{type, target (16 bytes), meta}`. A unit that was added to a further
context carries two more where it is read from there: `entry`, the seq at which it arrived, and `entry_context`. Before them stands
`redacted`, if the unit was erased. A CBOR map of n < 24 members begins with the byte 0xa0 + n.
"""

from __future__ import annotations

import base64
import os
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from .errors import EngramError
from .framing import encode
from .times import format_ts

TYPES = (
    "message",
    "reasoning",
    "tool_call",
    "tool_result",
    "file_change",
    "task_status",
    "error",
    "system",
    "unknown",
)
RELATIONSHIPS = ("sequential", "causes", "depends_on", "references", "responds_to", "modifies", "replaces")

_ID = re.compile("[0-9a-fA-F]{32}|[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_ENTRY_KEY, _ENTRY_CONTEXT_KEY = encode("entry"), encode("entry_context")
_UNIT_HEAD = b"\xa9" + encode("id") + b"\x50"  # a map of nine, and a string of 16 bytes
_SEQ, _TS, _CONTEXT, _AGENT, _TYPE, _META = (encode(name) for name in ("seq", "ts", "context", "agent", "type", "meta"))
_TEXT, _PAYLOAD, _RELATIONSHIPS = encode("text"), encode("payload"), encode("relationships")
_encoded_name: Callable[[str], bytes] = lru_cache(4096)(encode)


_HALVES = struct.Struct(">QQ")
_spare: list[int] = []  # random numbers of 64 bits: a system call for each id would be a tenth of the work of a put
os.register_at_fork(after_in_child=_spare.clear)


def new_id(ts: int) -> bytes:
    """A UUIDv7 for the instant `ts` (microseconds): milliseconds, then the rest of `ts` as the 12-bit fraction of RFC 9562,
    section 6.2, method 3, then 62 random bits; so ids sort by time."""
    try:
        random = _spare.pop()
    except IndexError:
        random, *more = struct.unpack("256Q", os.urandom(2048))
        _spare.extend(more)
    millis, micros = divmod(ts, 1000)
    return _HALVES.pack((millis & (2**48 - 1)) << 16 | 0x7 << 12 | micros * 4096 // 1000, 0b10 << 62 | random & (2**62 - 1))


def is_id(unit_id: bytes) -> bool:
    """Whether the bytes are a UUIDv7."""
    return len(unit_id) == 16 and unit_id[6] >> 4 == 7 and unit_id[8] >> 6 == 2


def instant_of(unit_id: bytes) -> int:
    """The instant (microseconds) at which `new_id` made an id: an imported unit's is that of its first put."""
    value = int.from_bytes(unit_id)
    return (value >> 80) * 1000 + -(-(value >> 64 & 0xFFF) * 1000 // 4096)


def format_id(unit_id: bytes) -> str:
    """The text form of an id. Raises ValueError for other than 16 bytes."""
    if len(unit_id) != 16:
        raise ValueError(f"an id has 16 bytes, not {len(unit_id)}")
    digits = unit_id.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def parse_ref(value: str | int | bytes) -> bytes | int:
    """A reference to a unit: its id (16 bytes or UUID text) or the seq of one of its entries (a number or its digits).

    Raises:
        EngramError: `invalid` when the text is neither.
    """
    if not isinstance(value, str):
        return value
    if value.isascii() and value.isdigit() and 0 < len(value) < 19:
        return int(value)
    if not _ID.fullmatch(value):
        raise EngramError("invalid", f"{value[:60]!r} is neither a unit's id nor a seq", field="id")
    return bytes.fromhex(value.replace("-", ""))


def encode_unit(
    unit_id: bytes,
    seq: int,
    ts: int,
    context: str,
    agent: str,
    type: str,
    meta: dict[str, str],
    payload: str | bytes,
    relationships: Sequence[tuple[str, bytes, dict[str, str]]],
) -> bytes:
    """The unit as the bytes that are stored and sent. `payload` is `str` where the bytes are UTF-8.

    Put together by hand, in a third less time than of a map: every put makes one.
    """
    return b"".join(
        (
            _UNIT_HEAD,
            unit_id,
            _SEQ,
            encode(seq),
            _TS,
            encode(ts),
            _CONTEXT,
            _encoded_name(context),
            _AGENT,
            _encoded_name(agent),
            _TYPE,
            _encoded_name(type),
            _META,
            encode(meta),
            _TEXT if isinstance(payload, str) else _PAYLOAD,
            encode(payload),
            _RELATIONSHIPS,
            encode([{"type": t, "target": target, "meta": m} for t, target, m in relationships]) if relationships else b"\x80",
        )
    )


def id_in(unit: bytes) -> bytes:
    """The id of an encoded unit, which stands at its beginning; anything where that is no unit."""
    return unit[len(_UNIT_HEAD) : len(_UNIT_HEAD) + 16]


def tombstone(unit: dict[str, Any], event: int, ts: int, agent: str, reason: str) -> bytes:
    """What is left of a decoded unit that the event at `event` erased: where, when and by whom it was put, and its relationships.

    It has an empty text, no labels, and a tenth member, `redacted`: `{seq, ts, agent, reason}` of the event.
    """
    return encode(
        {
            **{name: unit[name] for name in ("id", "seq", "ts", "context", "agent", "type")},
            "meta": {},
            "text": "",
            "relationships": [{**edge, "meta": {}} for edge in unit["relationships"]],
            "redacted": {"seq": event, "ts": ts, "agent": agent, "reason": reason},
        }
    )


def with_entry(unit: bytes, entry: int, context: str) -> bytes:
    """The encoded unit with the members `entry` and `entry_context` added, without decoding it."""
    return bytes((unit[0] + 2,)) + unit[1:] + _ENTRY_KEY + encode(entry) + _ENTRY_CONTEXT_KEY + encode(context)


@dataclass(frozen=True, slots=True)
class Relationship:
    """A typed edge to an earlier unit; `target` is that unit's id as text."""

    type: str
    target: str
    meta: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Unit:
    """An immutable work unit, as clients see it.

    Attributes:
        id: UUIDv7 as text.
        seq: position in the log, from 1.
        ts: microseconds since the Unix epoch.
        payload: the content, byte for byte as it was put.
        entry: the seq at which it arrived in the context it was read from; `seq` unless it was added later.
        entry_context: that context; `context` unless it was added later.
        redacted: of a unit that was erased, the event's `seq`, `ts`, `agent` and `reason`; its payload and labels are empty.
    """

    id: str
    seq: int
    ts: int
    context: str
    agent: str
    type: str
    meta: dict[str, str]
    payload: bytes
    relationships: tuple[Relationship, ...]
    entry: int
    entry_context: str
    redacted: dict[str, Any] | None = None

    @property
    def text(self) -> str:
        """The payload as text; bytes that are not UTF-8 appear as backslash escapes."""
        return self.payload.decode("utf-8", "backslashreplace")

    @classmethod
    def from_wire(cls, unit: dict[str, Any]) -> Unit:
        """Read a decoded unit map.

        Raises:
            EngramError: `protocol` when the map is no unit.
        """
        try:
            return cls(
                id=format_id(unit["id"]),
                seq=unit["seq"],
                ts=unit["ts"],
                context=unit["context"],
                agent=unit["agent"],
                type=unit["type"],
                meta=unit["meta"],
                payload=unit["text"].encode() if "text" in unit else unit["payload"],
                relationships=tuple(Relationship(edge["type"], format_id(edge["target"]), edge["meta"]) for edge in unit["relationships"]),
                entry=unit.get("entry", unit["seq"]),
                entry_context=unit.get("entry_context", unit["context"]),
                redacted=unit.get("redacted"),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise EngramError("protocol", f"the daemon sent a unit that cannot be read: {error!r}") from error


def unit_json(unit: dict[str, Any]) -> dict[str, Any]:
    """A decoded unit map as the JSON object of `--json` and `pipe`."""
    shown: dict[str, Any] = {
        "id": format_id(unit["id"]),
        "seq": unit["seq"],
        "ts": format_ts(unit["ts"]),
        "context": unit["context"],
        "agent": unit["agent"],
        "type": unit["type"],
        "meta": unit["meta"],
    }
    if "text" in unit:
        shown["text"] = unit["text"]
    else:
        shown["payload_base64"] = base64.b64encode(unit["payload"]).decode()
    shown["relationships"] = [
        {"type": edge["type"], "target": format_id(edge["target"]), "meta": edge["meta"]} for edge in unit["relationships"]
    ]
    if "redacted" in unit:
        shown["redacted"] = {**unit["redacted"], "ts": format_ts(unit["redacted"]["ts"])}
    if "entry" in unit:
        shown["entry"], shown["entry_context"] = unit["entry"], unit["entry_context"]
    return shown
