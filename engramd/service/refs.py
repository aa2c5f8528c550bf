"""References: wherever an id goes, a seq is accepted too."""

from __future__ import annotations

from typing import Any

import cbor2

from ..protocol.errors import EngramError
from ..protocol.unit import format_id, parse_ref
from ..state.view import UNITS
from ..storage.log import Log


def find_unit(log: Log, ref: str | int | bytes) -> bytes:
    """The encoded unit with this id, or whose entry is the event at this seq.

    Raises:
        EngramError: `not_found`, or `invalid` for text that is neither.
    """
    key = parse_ref(ref)
    if isinstance(key, bytes):
        head = log.durable.get(UNITS, key)
        found = None if head is None else log.unit(head.seq)
    else:
        found = log.unit(key)
    if found is None:
        if isinstance(key, int) and 0 < key <= log.last_seq and log.record(key) is None:
            raise EngramError("trimmed", f"retention removed what stood at seq {key}", seq=key)
        shown = format_id(key) if isinstance(key, bytes) else key
        what = "id" if isinstance(key, bytes) else "seq"
        raise EngramError("not_found", f"there is no unit with the {what} {shown}", **{what: shown})
    return found


def unit_id(log: Log, ref: str | int | bytes) -> bytes:
    """The id of the unit; an id is taken as it is, for the decision to check."""
    key = parse_ref(ref)
    if isinstance(key, bytes):
        return key
    unit: dict[str, Any] = cbor2.loads(find_unit(log, key))
    found: bytes = unit["id"]
    return found
