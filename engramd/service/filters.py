"""Reading the filter of a request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cbor2

from ..protocol.cursor import parse_cursor
from ..protocol.errors import EngramError
from ..protocol.times import parse_instant
from ..state.filters import Filter
from .access import Sight
from .refs import find_unit

if TYPE_CHECKING:
    from .engine import Engine


def read_filter(sight: Sight, fields: dict[str, Any]) -> Filter:
    """The filter that a request's members ask for.

    Raises:
        EngramError: `invalid` for a reference that cannot be read, `not_found` when `related_to` names no unit.
    """
    related = fields.get("related_to")
    return Filter(
        agents=one_or_more(fields.get("agent")),
        types=one_or_more(fields.get("type")),
        meta=tuple(fields.get("meta", {}).items()),
        related_to=None if related is None else cbor2.loads(find_unit(sight, related))["id"],
    )


def read_after(engine: Engine, fields: dict[str, Any]) -> int | None:
    """The seq that `after` stands for.

    Raises:
        EngramError: `invalid` when it is no cursor, `cursor` when it is of another history or beyond the end of the log.
    """
    if "after" not in fields:
        return None
    after, last = parse_cursor(fields["after"], engine.log.history), engine.fanout.durable_seq
    if after > last:
        raise EngramError("cursor", f"the log ends at {last}; nothing stands at {after}", last=last)
    return after


def one_or_more(value: str | list[str] | None) -> frozenset[str]:
    """A member that is a text or a list of them; none of them means no condition."""
    if value is None:
        return frozenset()
    return frozenset((value,) if isinstance(value, str) else value)


def read_instant(engine: Engine, fields: dict[str, Any], name: str) -> int | None:
    """The instant that `since` or `until` asks for, in microseconds since the epoch. Both mean when an entry arrived in its context.

    Raises:
        EngramError: `invalid` for a time that cannot be read.
    """
    value = fields.get(name)
    return None if value is None else parse_instant(value, engine.committer.now())
