"""Events from elsewhere: records of a backup, which anybody may have written, read with every doubt."""

from __future__ import annotations

import struct
import types
from typing import Any, Union, get_args, get_origin, get_type_hints

from ..protocol.backup import MAX_SEQ, damaged
from ..protocol.errors import EngramError
from ..protocol.framing import decode
from ..protocol.messages import MAX_PAYLOAD, MAX_UNITS, META, NAME, RESOURCES
from ..protocol.unit import RELATIONSHIPS, TYPES
from ..state.consumers import ConsumerCreated
from ..state.filters import Filter
from ..state.machine import Event
from ..state.restored import LogRestored
from ..state.retention import EventsTrimmed, UnitsTrimmed
from ..state.tokens import TokenIssued
from ..state.units import Edge, UnitPut
from . import keys, records
from .records import Record

_NAMES = ("context", "agent", "member", "consumer", "holder", "birth")
_SEQS = ("unit", "entry", "token", "last")  # members that are seqs, where they are numbers
LAST_TS = 253_402_300_799_999_999  # microseconds since the epoch: the end of the year 9999, the last that can be written as a date
MAX_SIZE = 2 * MAX_PAYLOAD  # bytes of a payload and labels
_HINTS: dict[type, dict[str, Any]] = {}


def read_event(seq: int, value: bytes) -> tuple[Record, Event]:
    """A record and its event.

    Raises:
        EngramError: `storage` for anything that no engramd would have written.
    """
    try:
        record = records.unpack(value)
        if record.code not in records.CODES:
            raise damaged(f"event {seq} has the code {record.code}, which this Engram does not know; a newer one may")
        for part in (record.body, *([record.extra] if record.extra else [])):
            decode(part)  # strict, unlike the decoder of what we wrote ourselves
        event = records.decode_event(record)
        _check(seq, record, event)
    except (EngramError, struct.error, ValueError, TypeError, KeyError, AttributeError) as error:
        said = error.message if isinstance(error, EngramError) else repr(error)
        raise damaged(f"event {seq} cannot be read: {said.removeprefix(damaged('').message):.300}") from None
    return record, event


def _check(seq: int, record: Record, event: Event) -> None:
    if record.ts > LAST_TS or (getattr(event, "expires_at", None) or 0) > LAST_TS:
        raise ValueError("its time is out of range")
    hints = _HINTS.setdefault(type(event), get_type_hints(type(event)))
    for name, value in event._asdict().items():
        if not _fits(value, hints[name]):
            raise ValueError(f"{name} is of a wrong type")
    for name in _NAMES:
        if getattr(event, name, None):  # a context that was begun again has nobody who did it
            NAME.check(getattr(event, name), name)
    for agent in getattr(event, "agents", ()):
        NAME.check(agent, "agents")
    _check_seqs(seq, event)
    resources = getattr(event, "resources", None)
    if resources is not None:
        RESOURCES.check(list(resources), "resources")
    if isinstance(event, UnitPut):
        _check_unit(seq, record, event)
    elif isinstance(event, ConsumerCreated) and Filter.from_map(event.filter).to_map() != event.filter:
        raise ValueError("its filter is none")
    elif isinstance(event, TokenIssued):
        NAME.check(event.token, "token")


def _check_seqs(seq: int, event: Event) -> None:
    """An event speaks of none but earlier ones."""
    seqs = [value for name in _SEQS if type(value := getattr(event, name, None)) is int]
    if isinstance(event, UnitsTrimmed):
        seqs += [*event.removed, *event.ends, *(entry for entry, _ in event.entries)]
        if not event.entries or any(len(unit) != 16 for _, unit in event.entries):
            raise ValueError("it has taken nothing, or what has no id")
    elif isinstance(event, EventsTrimmed):
        seqs += [*event.removed, *(end for _, end in (*event.pins, *event.members))]
    elif isinstance(event, LogRestored):
        seqs += [end for _, end in event.lost]
    if max(seqs, default=0) >= seq:
        raise ValueError("it speaks of what comes after it")


def _check_unit(seq: int, record: Record, unit: UnitPut) -> None:
    members = decode(record.body)
    if (members["seq"], members["ts"]) != (seq, record.ts):
        raise ValueError("its unit says another seq or time")
    META.check(unit.meta, "meta")
    NAME.check(unit.context, "context")
    NAME.check(unit.agent, "agent")
    if len(unit.id) != 16 or unit.type not in TYPES:
        raise ValueError("its unit has no id or an unknown type")
    if not 1 <= unit.dedupe_count <= MAX_UNITS:
        raise ValueError("its key stands for more units than a put can have")
    if unit.size is not None and ("redacted" not in members or unit.size > MAX_SIZE):
        raise ValueError("its unit has a size that none can have")
    trimmed = records.trimmed_at(record)
    if trimmed is not None and (type(trimmed) is not int or not seq < trimmed <= MAX_SEQ):
        raise ValueError("it was trimmed before it was there")
    for edge in unit.relationships:
        if edge.type not in RELATIONSHIPS or len(edge.target) != 16:
            raise ValueError("its unit has a relationship that is none")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of an annotated type; numbers are those that fit a seq."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in arguments)
    if origin is tuple:
        if type(value) is not tuple:
            return False
        if arguments[-1] is Ellipsis:
            return all(_fits(one, arguments[0]) for one in value)
        return len(value) == len(arguments) and all(map(_fits, value, arguments))
    if origin is dict:
        return type(value) is dict and all(_fits(key, arguments[0]) and _fits(one, arguments[1]) for key, one in value.items())
    if hint is Edge:
        return type(value) is Edge and _fits(value.type, str) and _fits(value.target, bytes) and _fits(value.meta, dict[str, str])
    if hint is int:
        return type(value) is int and 0 <= value <= keys.LAST_SEQ
    if hint is type(None):
        return value is None
    return type(value) is hint
