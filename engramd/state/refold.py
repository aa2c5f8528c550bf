"""Folding a log again, from its records: for a restore, and to check or rebuild what is derived from it."""

from __future__ import annotations

from .contexts import ContextCreated, UnitAdded, UnitRemoved, apply_created
from .machine import Event, apply, context_of
from .retention import UnitsTrimmed, reapply_trimmed
from .view import CONTEXTS, State


def refold(state: State, seq: int, ts: int, event: Event, is_there: bool = True) -> bool:
    """Fold an event into the state, as well as it can be where events before it are lost. The same log always gives the same state.

    A context whose creation is lost begins with the first event that names it. An event that does not follow from those before it, such as
    the end of a lease that was never granted, is passed over.

    Args:
        is_there: whether the log has the unit of an addition, the entry of a removal.

    Returns:
        Whether the event follows from those before it.
    """
    context = context_of(event)
    follows = context is None or isinstance(event, ContextCreated) or state.get(CONTEXTS, context) is not None
    if isinstance(event, UnitAdded) and not is_there:
        return False
    if isinstance(event, UnitRemoved) and not is_there:
        return True  # retention took the entry; were it lost, its seq would say so
    if context is not None and not follows:
        apply_created(state, seq, ts, ContextCreated(context, "", context, {}))
    try:
        if isinstance(event, UnitsTrimmed):
            reapply_trimmed(state, event)
            return follows
        apply(state, seq, ts, event)
    except (AssertionError, AttributeError, KeyError, IndexError, TypeError, ValueError):
        return False
    return follows
