"""References: wherever an id goes, a seq is accepted too. What a request may not see is not there."""

from __future__ import annotations

from typing import Any

import cbor2

from ..protocol.errors import EngramError
from ..protocol.unit import format_id, parse_ref
from ..state.view import UNITS, UnitHead
from .access import Sight


def find_unit(sight: Sight, ref: str | int | bytes) -> bytes:
    """The encoded unit with this id, or whose entry is the event at this seq.

    Raises:
        EngramError: `not_found`, or `invalid` for text that is neither.
    """
    log, key = sight.log, parse_ref(ref)
    if isinstance(key, bytes):
        head = log.durable.get(UNITS, key)
        found = None if head is None or not sight.sees(head) else log.unit(head.seq)
    else:
        found = log.unit(key)
        if found is not None and sight.is_limited and not _sees_entry(sight, key, found):
            found = None
    if found is None:
        if isinstance(key, int) and 0 < key <= log.last_seq and log.record(key) is None:
            raise EngramError("trimmed", f"nothing stands at seq {key} any more: retention removed it, or damage took it", seq=key)
        shown = format_id(key) if isinstance(key, bytes) else key
        what = "id" if isinstance(key, bytes) else "seq"
        raise EngramError("not_found", f"there is no unit with the {what} {shown}", **{what: shown})
    return found


def _sees_entry(sight: Sight, seq: int, encoded: bytes) -> bool:
    """Whether a request may come to a unit by the seq of one of its entries."""
    record, unit = sight.log.record(seq), cbor2.loads(encoded)
    context = cbor2.loads(record.body).get("context") if record is not None else None
    return (context is not None and sight.access.sees(context)) or sight.sees(UnitHead(unit["seq"], unit["context"]))


def unit_id(sight: Sight, ref: str | int | bytes) -> bytes:
    """The id of the unit; where all may be seen, an id is taken as it is, for the decision to check."""
    key = parse_ref(ref)
    if isinstance(key, bytes) and not sight.is_limited:
        return key
    unit: dict[str, Any] = cbor2.loads(find_unit(sight, ref))
    found: bytes = unit["id"]
    return found
