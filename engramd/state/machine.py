"""The two functions that everything goes through: `decide` and `apply`.

`decide(view, command)` returns events, or why not, and changes nothing. `apply(state, seq, ts, event)` is the only thing that changes
state; it is deterministic, so the state is always the fold of the log.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from . import consumers, contexts, locks, presence, redaction, restored, retention, tokens, units
from .outcome import Decision
from .view import State, View

_DECIDE: Mapping[type, Callable[[View, Any], Decision]] = {
    units.Put: units.decide_put,
    contexts.CreateContext: contexts.decide_create,
    contexts.SetContext: contexts.decide_set,
    contexts.SetMember: contexts.decide_member,
    contexts.SetPins: contexts.decide_pins,
    contexts.SetPlaces: contexts.decide_places,
    locks.Acquire: locks.decide_acquire,
    locks.Release: locks.decide_release,
    locks.Steal: locks.decide_steal,
    locks.Renew: locks.decide_renew,
    locks.Expire: locks.decide_expire,
    presence.Arrive: presence.decide_arrive,
    presence.Depart: presence.decide_depart,
    consumers.CreateConsumer: consumers.decide_create,
    consumers.Acknowledge: consumers.decide_acknowledge,
    consumers.Park: consumers.decide_park,
    consumers.RetryParked: consumers.decide_retry,
    consumers.ResetConsumer: consumers.decide_reset,
    consumers.DeleteConsumer: consumers.decide_delete,
    retention.SetRetention: retention.decide_set,
    retention.TrimContext: retention.decide_trim,
    retention.TrimEvents: retention.decide_trim_events,
    redaction.Redact: redaction.decide_redact,
    redaction.FinishErasures: redaction.decide_finish,
    tokens.IssueToken: tokens.decide_issue,
    tokens.RevokeToken: tokens.decide_revoke,
}
_APPLY: Mapping[type, Callable[[State, int, int, Any], None]] = {
    units.UnitPut: units.apply_unit_put,
    contexts.ContextCreated: contexts.apply_created,
    contexts.ContextChanged: contexts.apply_changed,
    contexts.AgentJoined: contexts.apply_joined,
    contexts.AgentLeft: contexts.apply_left,
    contexts.UnitPinned: contexts.apply_pinned,
    contexts.UnitUnpinned: contexts.apply_unpinned,
    contexts.UnitAdded: contexts.apply_added,
    contexts.UnitRemoved: contexts.apply_removed,
    locks.LockGranted: locks.apply_granted,
    locks.LockReleased: locks.apply_ended,
    locks.LockExpired: locks.apply_ended,
    locks.LockStolen: locks.apply_ended,
    presence.AgentPresent: presence.apply_present,
    presence.AgentsGone: presence.apply_gone,
    consumers.ConsumerCreated: consumers.apply_created,
    consumers.ConsumerAcked: consumers.apply_acked,
    consumers.ConsumerParked: consumers.apply_parked,
    consumers.ConsumerRetried: consumers.apply_retried,
    consumers.ConsumerReset: consumers.apply_reset,
    consumers.ConsumerDeleted: consumers.apply_deleted,
    consumers.ConsumerMissed: consumers.apply_missed,
    retention.RetentionSet: retention.apply_set,
    retention.UnitsTrimmed: retention.apply_trimmed,
    retention.EventsTrimmed: retention.apply_events_trimmed,
    redaction.UnitRedacted: redaction.apply_redacted,
    redaction.ErasuresFinished: redaction.apply_finished,
    restored.LogRestored: restored.apply_restored,
    tokens.TokenIssued: tokens.apply_issued,
    tokens.TokenRevoked: tokens.apply_revoked,
}

Command = (
    units.Put
    | contexts.CreateContext
    | contexts.SetContext
    | contexts.SetMember
    | contexts.SetPins
    | contexts.SetPlaces
    | locks.Acquire
    | locks.Release
    | locks.Steal
    | locks.Renew
    | locks.Expire
    | presence.Arrive
    | presence.Depart
    | consumers.CreateConsumer
    | consumers.Acknowledge
    | consumers.Park
    | consumers.RetryParked
    | consumers.ResetConsumer
    | consumers.DeleteConsumer
    | retention.SetRetention
    | retention.TrimContext
    | retention.TrimEvents
    | redaction.Redact
    | redaction.FinishErasures
    | tokens.IssueToken
    | tokens.RevokeToken
)
Event = (
    units.UnitPut
    | contexts.ContextCreated
    | contexts.ContextChanged
    | contexts.AgentJoined
    | contexts.AgentLeft
    | contexts.UnitPinned
    | contexts.UnitUnpinned
    | contexts.UnitAdded
    | contexts.UnitRemoved
    | locks.LockGranted
    | locks.LockReleased
    | locks.LockExpired
    | locks.LockStolen
    | presence.AgentPresent
    | presence.AgentsGone
    | consumers.ConsumerCreated
    | consumers.ConsumerAcked
    | consumers.ConsumerParked
    | consumers.ConsumerRetried
    | consumers.ConsumerReset
    | consumers.ConsumerDeleted
    | consumers.ConsumerMissed
    | retention.RetentionSet
    | retention.UnitsTrimmed
    | retention.EventsTrimmed
    | redaction.UnitRedacted
    | redaction.ErasuresFinished
    | restored.LogRestored
    | tokens.TokenIssued
    | tokens.TokenRevoked
)


def decide(view: View, command: Command) -> Decision:
    """The events that the command leads to on this view, or `Refused`, or `Seen`."""
    return _DECIDE[type(command)](view, command)


def context_of(event: Event) -> str | None:
    """The context that an event belongs to; a lock belongs to none."""
    context: str | None = getattr(event, "context", None)
    return context


def apply(state: State, seq: int, ts: int, event: Event) -> None:
    """Fold one event, at its seq and time (microseconds since the epoch), into the state."""
    _APPLY[type(event)](state, seq, ts, event)
