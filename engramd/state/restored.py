"""Restoring: what a log says of it, and how leases end with it."""

from __future__ import annotations

from ..shapes import NamedTuple
from .locks import LockReleased
from .view import Ranges, State, View

RESTORED = "restored"  # the cause of a lease's end
RANGES_IN_EVENT = 10_000  # in one event


class LogRestored(NamedTuple):
    """The log up to here was restored from a backup, and has a new history.

    Attributes:
        history: the one that it had.
        last: its last seq.
        lost: ranges of seqs that could not be saved from a damaged store: the log does not have them.
    """

    history: str
    last: int
    lost: Ranges


def decide_restored(view: View, history: str, last: int, lost: Ranges) -> list[LogRestored | LockReleased]:
    """The events that end a restore: nobody has a lease any more. What is lost in very many places, several events say."""
    leases = sorted(view.held.leases.items())
    return [
        *(LogRestored(history, last, lost[at : at + RANGES_IN_EVENT]) for at in range(0, max(1, len(lost)), RANGES_IN_EVENT)),
        *(LockReleased(lease.holder, token, lease.claim.resources, RESTORED) for token, lease in leases),
    ]


def apply_restored(state: State, seq: int, ts: int, event: LogRestored) -> None:
    """Nothing of the state changes by it."""
