"""Records: one event of the log as bytes, and the keys by which its entry is found.

A record is a head (code of the event, `ts`, length of the extra), the extra (a CBOR map of what a put remembers besides its unit, or
nothing), and the body: the encoded unit, or a CBOR map of the event's members. docs/storage.md has the table of codes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Any

import cbor2

from ..protocol.paths import normal
from ..protocol.unit import encode_unit
from ..shapes import NamedTuple
from ..state import consumers, contexts, locks, presence, redaction, restored, retention, tokens
from ..state.machine import Event
from ..state.units import Edge, UnitPut
from . import keys

_HEAD = struct.Struct(">BQH")
HEAD_BYTES = _HEAD.size
UNIT_PUT = 1
CODES: dict[int, tuple[str, type]] = {
    UNIT_PUT: ("unit_put", UnitPut),
    2: ("context_created", contexts.ContextCreated),
    3: ("context_changed", contexts.ContextChanged),
    4: ("agent_joined", contexts.AgentJoined),
    5: ("agent_left", contexts.AgentLeft),
    6: ("unit_pinned", contexts.UnitPinned),
    7: ("unit_unpinned", contexts.UnitUnpinned),
    8: ("unit_added", contexts.UnitAdded),
    9: ("unit_removed", contexts.UnitRemoved),
    16: ("lock_granted", locks.LockGranted),
    17: ("lock_released", locks.LockReleased),
    18: ("lock_expired", locks.LockExpired),
    19: ("lock_stolen", locks.LockStolen),
    24: ("consumer_created", consumers.ConsumerCreated),
    25: ("consumer_acked", consumers.ConsumerAcked),
    26: ("consumer_parked", consumers.ConsumerParked),
    27: ("consumer_retried", consumers.ConsumerRetried),
    28: ("consumer_reset", consumers.ConsumerReset),
    29: ("consumer_deleted", consumers.ConsumerDeleted),
    30: ("agent_present", presence.AgentPresent),
    31: ("agents_gone", presence.AgentsGone),
    32: ("token_issued", tokens.TokenIssued),
    33: ("token_revoked", tokens.TokenRevoked),
    40: ("retention_set", retention.RetentionSet),
    41: ("units_trimmed", retention.UnitsTrimmed),
    42: ("events_trimmed", retention.EventsTrimmed),
    43: ("unit_redacted", redaction.UnitRedacted),
    44: ("erasures_finished", redaction.ErasuresFinished),
    45: ("log_restored", restored.LogRestored),
    46: ("consumer_missed", consumers.ConsumerMissed),
}
UNIT_ADDED = 8
UNIT_REMOVED = 9
UNITS_TRIMMED = 41
EVENTS_TRIMMED = 42
UNIT_REDACTED = 43
LOG_RESTORED = 45
FILE_CHANGE = "file_change"  # the type of units whose label `path` is found
_CODE_OF = {event_type: code for code, (_, event_type) in CODES.items()}
ENTRIES = frozenset({UNIT_PUT, UNIT_ADDED})

_TRIMMED = "trimmed"  # member of an extra
INLINE = 4096  # bytes: a larger unit stands in the log alone, and its entry points there
_HERE, _ELSEWHERE = b"\0", b"\1"
_NONE: frozenset[bytes] = frozenset()
_TEXT = 0x60  # the first byte of a text is this and its size, or that of its size (RFC 8949, section 3)
_CONTEXT = cbor2.dumps("context")
_AFTER_ID = 1 + len(cbor2.dumps("id") + cbor2.dumps(bytes(16)))  # where a unit's second member begins


class Record(NamedTuple):
    """A record, its body not yet decoded."""

    code: int
    ts: int
    extra: bytes
    body: bytes

    @property
    def kind(self) -> str:
        """The event's name on the wire."""
        return CODES[self.code][0]


def encode_event(seq: int, ts: int, event: Event) -> Record:
    """The event as a record."""
    if type(event) is UnitPut:
        context, agent, unit_id, kind, meta, payload, relationships, dedupe, count, fences, size = event
        unit = encode_unit(unit_id, seq, ts, context, agent, kind, meta, payload, relationships)
        return Record(UNIT_PUT, ts, b"" if dedupe is None and not fences and size is None else _extra(dedupe, count, fences, size), unit)
    return Record(_CODE_OF[type(event)], ts, b"", cbor2.dumps(event._asdict()))


def _extra(dedupe: bytes | None, count: int, fences: tuple[int, ...], size: int | None) -> bytes:
    """What a put remembers besides its unit."""
    extra: dict[str, Any] = {} if dedupe is None else {"dedupe": dedupe, "dedupe_count": count}
    if fences:
        extra["fences"] = fences
    if size is not None:
        extra["size"] = size
    return cbor2.dumps(extra)


def pack(record: Record) -> bytes:
    """The record as the value that is stored."""
    return _HEAD.pack(record.code, record.ts, len(record.extra)) + record.extra + record.body


def unpack(value: bytes) -> Record:
    """Read a stored value."""
    code, ts, size = _HEAD.unpack_from(value)
    start = _HEAD.size
    return Record(code, ts, value[start : start + size], value[start + size :])


def decode_event(record: Record) -> Event:
    """The event that a record holds."""
    members = _members(record.body)
    if record.code == UNIT_PUT:
        extra = _members(record.extra) if record.extra else {}
        extra.pop(_TRIMMED, None)
        return UnitPut(
            members["context"],
            members["agent"],
            members["id"],
            members["type"],
            members["meta"],
            members["text"] if "text" in members else members["payload"],
            tuple(Edge(edge["type"], edge["target"], edge["meta"]) for edge in members["relationships"]),
            **extra,
        )
    event: Event = CODES[record.code][1](**members)
    return event


def is_trimmed(record: Record) -> bool:
    """Whether the unit's birth is no entry any more: retention took it from its context, and another keeps the unit."""
    return trimmed_at(record) is not None


def trimmed_at(record: Record) -> int | None:
    """The seq of the event that trimmed a unit's birth; None for one that is an entry still."""
    extra = record.extra
    if extra == b"" or _TRIMMED.encode() not in extra:
        return None
    found: int | None = cbor2.loads(extra).get(_TRIMMED)
    return found


def stands(entry: Record | None) -> bool:
    """Whether an entry is one still, by its record: retention has not taken it."""
    return entry is not None and not is_trimmed(entry)


def is_there(record: Record, event: Event, unit: bytes | None, entry_at: Callable[[int], Record | None]) -> bool:
    """Whether what an event is about is in the log, as `refold` asks it.

    Args:
        unit: the encoded unit of an entry, if the log has it.
        entry_at: gives the record of the entry at a seq.
    """
    if isinstance(event, contexts.UnitRemoved):
        return stands(entry_at(event.entry))
    return unit is not None and not (record.code == UNIT_PUT and is_trimmed(record))


def with_extra(record: Record, **members: Any) -> Record:
    """The record with more in its extra; a member that is None is taken out."""
    extra = {**(cbor2.loads(record.extra) if record.extra else {}), **members}
    left = {name: value for name, value in extra.items() if value is not None}
    return record._replace(extra=cbor2.dumps(left) if left else b"")


def trimmed(record: Record, seq: int | None) -> Record:
    """The record of a unit whose birth was trimmed by the event at `seq`, or was not."""
    return with_extra(record, **{_TRIMMED: seq})


def _members(encoded: bytes) -> dict[str, Any]:
    return {name: _frozen(value) for name, value in cbor2.loads(encoded).items()}


def _frozen(value: Any) -> Any:
    """A member of an event: lists are tuples there."""
    return tuple(map(_frozen, value)) if type(value) is list else value


Pairs = list[tuple[bytes, bytes]]


def entry_keys(seq: int, event: UnitPut, unit: bytes) -> Pairs:
    """The entry of a unit in the context it was born in, and the keys that find it."""
    context, agent, _, kind, meta, _, relationships, *_ = event
    tail = keys.pack_seq(seq)
    targets = {edge.target for edge in relationships} if relationships else _NONE
    pairs = finding_keys(context, tail, agent, kind, meta, targets, b"")
    pairs.append((keys.entries(context) + tail, birth_entry(seq, unit)))
    return pairs + path_keys(seq, event) if kind == FILE_CHANGE else pairs


def added_keys(seq: int, context: str, unit_seq: int, unit: dict[str, Any]) -> Pairs:
    """The entry of a unit that was added to a further context, and the keys that find it there."""
    tail, pointer = keys.pack_seq(seq), keys.pack_seq(unit_seq)
    targets = {edge["target"] for edge in unit["relationships"]}
    pairs = finding_keys(context, tail, unit["agent"], unit["type"], unit["meta"], targets, pointer)
    pairs.append((keys.entries(context) + tail, _ELSEWHERE + pointer))
    pairs.append((keys.ADDED + pointer + tail, context.encode()))
    return pairs


def birth_entry(seq: int, unit: bytes) -> bytes:
    """The value of the entry of a unit in the context it was born in."""
    return _HERE + unit if len(unit) <= INLINE else _ELSEWHERE + keys.pack_seq(seq)


def keys_of(seq: int, record: Record, event: Event, unit: bytes | None) -> Pairs:
    """All keys that an event has beside its record and the rows of the state; a removal has one as long as its entry stands.

    Args:
        unit: the encoded unit of an entry; without it, an entry has no keys.
    """
    if isinstance(event, UnitPut) and unit is not None:
        return path_keys(seq, event) if is_trimmed(record) else entry_keys(seq, event, unit)
    if isinstance(event, contexts.UnitAdded) and unit is not None:
        return added_keys(seq, event.context, event.unit, cbor2.loads(unit))
    if isinstance(event, contexts.UnitRemoved):
        return [(keys.gone(event.context) + keys.pack_seq(event.entry), keys.pack_seq(seq))]
    return []


def path_keys(seq: int, event: UnitPut) -> Pairs:
    """What finds a change of a file by its path."""
    path = normal(event.meta.get("path", "")) if event.type == FILE_CHANGE else ""
    return [(keys.by_path(path) + keys.pack_seq(seq), b"")] if path else []


def finding_keys(context: str, tail: bytes, agent: str, type: str, meta: dict[str, str], targets: Iterable[bytes], pointer: bytes) -> Pairs:
    """The secondary keys of one entry, whose seq is `tail`. `pointer` is the unit's seq where that is not the entry's own."""
    pairs = [(keys.by_agent(context, agent) + tail, pointer), (keys.by_type(context, type) + tail, pointer)]
    for key, value in meta.items():
        pairs.append((keys.by_meta(context, key, value) + tail, pointer))
    if targets:
        pairs += [(keys.by_target(context, target) + tail, pointer) for target in targets]
    return pairs


def read_entry(value: bytes) -> bytes | int:
    """An entry's value: the encoded unit, or the seq of the log where it stands."""
    return value[1:] if value[:1] == _HERE else keys.seq_of(value)


def units_here(entries: Pairs) -> list[bytes]:
    """The encoded units of those entries, given with their keys, that have them in their values."""
    return [value[1:] for _, value in entries if not value[0]]  # _HERE


def context_in(unit: bytes) -> str:
    """The context that an encoded unit was born in, found without decoding the rest, which takes several times as long.

    Before it stand the id, the seq and the time alone, and neither number is ever so large that it looks like this member's name.
    """
    at = unit.index(_CONTEXT, _AFTER_ID) + len(_CONTEXT)
    size = unit[at] - _TEXT
    if size == 24:  # it stands in the next byte
        at += 1
        size = unit[at]
    elif size > 24:
        context: str = cbor2.loads(unit)["context"]
        return context
    return unit[at + 1 : at + 1 + size].decode()
