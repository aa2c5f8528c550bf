"""Redaction: a unit's payload, labels and notes are erased; that it was there, and in which relationships, stays."""

from __future__ import annotations

from ..shapes import NamedTuple
from .contexts import heads_of
from .outcome import Decision, Refused
from .view import ERASURES, UNITS, Erasure, State, View

# Commands


class Redact(NamedTuple):
    """Erase units."""

    agent: str
    units: tuple[bytes, ...]
    reason: str


class FinishErasures(NamedTuple):
    """The bytes of these units, by their seqs, are in no file any more."""

    units: tuple[int, ...]


# Events; the first belongs to the context that the unit was born in


class UnitRedacted(NamedTuple):
    context: str
    agent: str
    unit: int
    id: bytes
    reason: str


class ErasuresFinished(NamedTuple):
    units: tuple[int, ...]


def decide_redact(view: View, command: Redact) -> Decision:
    heads = heads_of(view, command.units)
    if isinstance(heads, Refused):
        return heads
    return [UnitRedacted(head.context, command.agent, head.seq, unit, command.reason) for unit, head in heads.items() if not head.redacted]


def decide_finish(view: View, command: FinishErasures) -> Decision:
    left = tuple(unit for unit in command.units if view.get(ERASURES, unit) is not None)
    return [ErasuresFinished(left)] if left else []


# Folds


def apply_redacted(state: State, seq: int, ts: int, event: UnitRedacted) -> None:
    head = state.get(UNITS, event.id)
    if head is not None:  # retention may have taken it since, where a log is folded again
        state.put(UNITS, event.id, head._replace(redacted=seq))
    state.put(ERASURES, event.unit, Erasure(seq, event.context))


def apply_finished(state: State, seq: int, ts: int, event: ErasuresFinished) -> None:
    for unit in event.units:
        state.delete(ERASURES, unit)
