"""Folding a log again, from its records: for a restore, and to check or rebuild what is derived from it."""

from __future__ import annotations

from ..shapes import NamedTuple
from .contexts import ContextCreated, UnitAdded, UnitRemoved, apply_created
from .machine import Event, apply, context_of
from .retention import UnitsTrimmed, reapply_birth, reapply_trimmed
from .units import UnitPut
from .view import CONTEXTS, PLACES, State


class Refolded(NamedTuple):
    """What became of an event that was folded again.

    Attributes:
        follows: whether it follows from those before it.
        stands: whether it has keys: not an addition to where the unit is already, nor a removal of what is no entry, since then something
            between is lost.
    """

    follows: bool
    stands: bool


def refold(state: State, seq: int, ts: int, event: Event, is_there: bool = True) -> Refolded:
    """Fold an event into the state, as well as it can be where events before it are lost. The same log always gives the same state.

    A context whose creation is lost begins with the first event that names it. An event that does not follow from those before it, such as
    the end of a lease that was never granted, is passed over.

    Args:
        is_there: whether the log has the unit of an addition; whether the entry of a removal, or the birth of a unit, is an entry by its
            record.
    """
    context = context_of(event)
    follows = context is None or isinstance(event, ContextCreated) or state.get(CONTEXTS, context) is not None
    if isinstance(event, UnitRemoved) and not is_there:
        return Refolded(True, False)  # retention took the entry; were it lost, its seq would say so
    if isinstance(event, UnitAdded | UnitRemoved) and not (is_there and _entry(state, event) == getattr(event, "entry", 0)):
        return Refolded(False, False)
    if context is not None and not follows:
        apply_created(state, seq, ts, ContextCreated(context, "", context, {}))
    try:
        if isinstance(event, UnitsTrimmed):
            reapply_trimmed(state, event)
        else:
            apply(state, seq, ts, event)
        if isinstance(event, UnitPut) and not is_there:
            reapply_birth(state, event.context, seq, event.id)
    except (AssertionError, AttributeError, KeyError, IndexError, TypeError, ValueError):
        return Refolded(False, True)
    return Refolded(follows, True)


def _entry(state: State, event: UnitAdded | UnitRemoved) -> int:
    """The seq of the unit's entry in the context; 0 where it is not in it."""
    row = state.get(PLACES, (event.context, event.unit))
    if row is not None:
        return row.entry
    return event.unit if event.context == event.birth else 0
