"""Retention: what contexts keep, and the removal of what they do not.

A context's entries go from the oldest on; pinned ones stay. A unit is removed with the last of its entries, whichever contexts had them.
Events that are no entries go when they are old and nothing rests on them.
"""

from __future__ import annotations

from typing import Any

from ..shapes import NamedTuple
from . import consumers, contexts, locks, presence, tokens, units
from .contexts import absent, is_pinned, place
from .outcome import Decision
from .redaction import UnitRedacted
from .view import (
    CONSUMERS,
    CONTEXTS,
    DEDUPE,
    LEASES,
    MEMBERS,
    PAST_MEMBERS,
    PAST_PINS,
    PINS,
    PLACES,
    PRESENCE,
    PROGRESS,
    RETENTION,
    TOKENS,
    TRIMMED,
    UNITS,
    Context,
    Place,
    Retention,
    State,
    Trimmed,
    UnitHead,
    View,
)

NO_LIMIT = Retention(None, None, None)

# Commands


class SetRetention(NamedTuple):
    """Have a context keep no more than this.

    Attributes:
        changes: the limits to set, by name; None takes one away.
    """

    context: str
    agent: str
    changes: dict[str, int | None]


class Candidate(NamedTuple):
    """An entry of a context: its seq and time, its unit's id, and the consumers that want it.

    Attributes:
        removal: the seq of the event that took it out of the context; 0 for one that is there.
    """

    entry: int
    ts: int
    id: bytes
    wanted: tuple[str, ...] = ()
    removal: int = 0


class TrimContext(NamedTuple):
    """Remove those of the context's entries that it does not keep.

    Attributes:
        now: microseconds since the epoch.
        oldest: the context's first entries that are on disk, in order; more of them may follow.
    """

    context: str
    now: int
    oldest: tuple[Candidate, ...]


class TrimEvents(NamedTuple):
    """Remove those of some old events that nothing rests on.

    Attributes:
        last: up to here `old` has every event behind those that were looked at before, but for entries.
        old: seq, time and event.
    """

    last: int
    old: tuple[tuple[int, int, Any], ...]


# Events


class RetentionSet(NamedTuple):
    """From now on the context keeps no more than this: microseconds, entries, bytes; None means no limit."""

    context: str
    agent: str
    age: int | None
    units: int | None
    bytes: int | None


class UnitsTrimmed(NamedTuple):
    """A context does not keep some of its entries.

    Attributes:
        entries: their seqs, each with its unit's id.
        removed: the seqs that the log has no more: those of the units that no context keeps, those of additions, and `ends`.
        ends: those of old events that had taken an entry out of the context before.
    """

    context: str
    entries: tuple[tuple[int, bytes], ...]
    removed: tuple[int, ...]
    ends: tuple[int, ...] = ()


class EventsTrimmed(NamedTuple):
    """What is missing up to here was removed; just now, events that were no entries.

    Attributes:
        last: the seq up to which this holds.
        removed: the seqs of those just removed.
        pins: where these ended pins: what they said of the past goes with them, as (context, seq).
        members: the same of memberships, whose ends stay by now.
    """

    last: int
    removed: tuple[int, ...]
    pins: tuple[tuple[str, int], ...]
    members: tuple[tuple[str, int], ...] = ()


def decide_set(view: View, command: SetRetention) -> Decision:
    if view.get(CONTEXTS, command.context) is None:
        return absent(command.context)
    before = view.get(RETENTION, command.context) or NO_LIMIT
    keep = before._replace(**command.changes)
    return [RetentionSet(command.context, command.agent, *keep)] if keep != before else []


def is_due(view: View, context: str, oldest: Candidate, now: int) -> bool:
    """Whether a context does not keep its oldest entry, unless it is pinned: a cheap look before there is anything to decide."""
    keep, row = view.get(RETENTION, context), view.get(CONTEXTS, context)
    return keep is not None and row is not None and _is_over(keep, row.entries + row.removed, row.size, now - oldest.ts)


def decide_trim(view: View, command: TrimContext) -> Decision:
    """Of the oldest entries those that are too many, too large together, or too old; until one may stay that is not pinned.

    Of every consumer that wants some of them and has not done them, an event says so.
    """
    keep, context = view.get(RETENTION, command.context), view.get(CONTEXTS, command.context)
    if keep is None or context is None:
        return []
    count, size = context.entries + context.removed, context.size
    looked_at = (view.get(TRIMMED, "") or Trimmed()).events
    left: dict[bytes, int] = {}  # of each unit, the entries that are left
    trimmed, removed, ends = [], [], []
    missed: dict[str, list[int]] = {}  # by consumer
    for entry, ts, unit, wanted, removal in command.oldest:
        head = view.get(UNITS, unit)
        if head is None or (place(view, command.context, head) == entry and is_pinned(view, command.context, head.seq)):
            continue
        if not _is_over(keep, count, size, command.now - ts):
            break
        count, size = count - 1, size - head.size
        left[unit] = left.get(unit, head.entries) - 1
        trimmed.append((entry, unit))
        for name in wanted:
            progress = view.get(PROGRESS, name)
            if progress is not None and not progress.is_done(entry):
                missed.setdefault(name, []).append(entry)
        if entry != head.seq:
            removed.append(entry)
        if 0 < removal <= looked_at:  # which was kept for the entry's sake
            ends.append(removal)
        if not left[unit]:
            removed.append(head.seq)
    if not trimmed:
        return []
    losses = [consumers.ConsumerMissed(name, tuple(entries)) for name, entries in sorted(missed.items())]
    return [UnitsTrimmed(command.context, tuple(trimmed), tuple(sorted([*removed, *ends])), tuple(ends)), *losses]


def _is_over(keep: Retention, count: int, size: int, age: int) -> bool:
    return (
        (keep.units is not None and count > keep.units)
        or (keep.bytes is not None and size > keep.bytes)
        or (keep.age is not None and age > keep.age)
    )


def decide_trim_events(view: View, command: TrimEvents) -> Decision:
    """Those that nothing rests on. That all were looked at is an event, too, or they would be looked at after every start.

    A log that is folded again must not bring back what has ended. So an end goes with its beginning, which may have stayed while it was in
    force; where nobody knows which that was, the end stays. (Who is present is found out anew at every start of a daemon.)
    """
    trimmed = view.get(TRIMMED, "") or Trimmed()
    if command.last <= trimmed.events:
        return []
    gone = {seq: event for seq, ts, event in command.old if seq > trimmed.events and not _is_needed(view, seq, ts, event)}
    begun = {began for seq, event in gone.items() if (began := _beginning(view, seq, event))}
    pins = tuple((event.context, seq) for seq, event in gone.items() if isinstance(event, contexts.UnitUnpinned))
    return [EventsTrimmed(command.last, tuple(sorted({*gone, *begun})), pins)]


def _beginning(view: View, seq: int, event: Any) -> int:
    """The seq of the event that began what this one ended; 0 where it is none that ends something."""
    match event:
        case locks.LockReleased() | locks.LockExpired() | locks.LockStolen():
            return event.token
        case contexts.UnitUnpinned():
            past = view.get(PAST_PINS, (event.context, seq))
            return 0 if past is None else past.since
    return 0


def _is_needed(view: View, seq: int, ts: int, event: Any) -> bool:
    """Whether something that is so now rests on an event. (Of removals only those are looked at whose entry is gone.)"""
    match event:
        case units.UnitPut() | contexts.UnitAdded() | contexts.ContextCreated() | RetentionSet():
            return True
        case contexts.AgentLeft() | tokens.TokenRevoked():  # an earlier put would make it a member again
            return True
        case contexts.ContextChanged():
            return _is_in_force(view, event)
        case UnitsTrimmed():  # the last of its context: by it readers learn what they have missed
            context = view.get(CONTEXTS, event.context)
            return context is not None and context.trimmed == max(entry for entry, _ in event.entries)
        case UnitRedacted():
            return view.get(UNITS, event.id) is not None
        case contexts.AgentJoined():
            member = view.get(MEMBERS, (event.context, event.member))
            return member is not None and member.since == seq
        case contexts.UnitPinned():
            pin = view.get(PINS, (event.context, event.unit))
            return pin is not None and pin.since == seq
        case locks.LockGranted():
            return view.get(LEASES, seq) is not None
        case consumers.ConsumerCreated():
            return view.get(CONSUMERS, event.consumer) is not None
        case consumers.ConsumerDeleted():
            return view.get(CONSUMERS, event.consumer) is None
        case tokens.TokenIssued():
            return view.get(TOKENS, event.token) is not None
        case presence.AgentPresent():
            present = view.get(PRESENCE, event.agent)
            return present is not None and present.since == ts
    return False


def _is_in_force(view: View, event: contexts.ContextChanged) -> bool:
    """Whether something of a change is as it left it: else a later one has changed all of it."""
    context = view.get(CONTEXTS, event.context)
    if context is None:
        return False
    return event.display_name == context.display_name or any(context.meta.get(key) == value for key, value in event.meta.items())


# Folds


def apply_set(state: State, seq: int, ts: int, event: RetentionSet) -> None:
    keep = Retention(event.age, event.units, event.bytes)
    if keep == NO_LIMIT:
        state.delete(RETENTION, event.context)
    else:
        state.put(RETENTION, event.context, keep)


def apply_trimmed(state: State, seq: int, ts: int, event: UnitsTrimmed) -> None:
    _take(state, event, event.entries)


def reapply_trimmed(state: State, event: UnitsTrimmed) -> None:
    """Fold it into a state that was folded from a log without what was trimmed: only births that are entries yet are taken.

    A unit that the log still has was kept by an entry elsewhere, and that one may have been trimmed since, when there was a later one.
    """
    removed = set(event.removed)
    _take(state, event, tuple(one for one in event.entries if one[0] not in removed and _is_born(state, *one)))


def _is_born(state: State, entry: int, unit: bytes) -> bool:
    """Whether an entry is the birth of its unit, and is one yet."""
    head = state.get(UNITS, unit)
    return head is not None and head.born and head.seq == entry


def reapply_birth(state: State, name: str, seq: int, unit: bytes) -> None:
    """Fold that a unit's birth was trimmed, by its record: the event that says so may be gone."""
    context = state.get(CONTEXTS, name)
    assert context is not None, "the unit was put into it"
    state.put(CONTEXTS, name, _without(state, context, name, seq, unit, set()))


def _take(state: State, event: UnitsTrimmed, entries: tuple[tuple[int, bytes], ...]) -> None:
    context = state.get(CONTEXTS, event.context)
    assert context is not None, "an event of a context follows its creation"
    last = max(entry for entry, _ in event.entries)
    removed = set(event.removed)
    for entry, unit in entries:
        context = _without(state, context, event.context, entry, unit, removed)
    context = context._replace(trimmed=max(context.trimmed, last), last_entry=max(context.last_entry, last))
    state.put(CONTEXTS, event.context, context)
    trimmed = state.get(TRIMMED, "") or Trimmed()
    state.put(TRIMMED, "", trimmed._replace(entries=max(trimmed.entries, last), gone=max((trimmed.gone, *event.ends))))


def _without(state: State, context: Context, name: str, entry: int, unit: bytes, removed: set[int]) -> Context:
    """The context without an entry; so are the unit's rows, which go with the last one if the log's record did."""
    head = state.get(UNITS, unit)
    assert head is not None, "what is trimmed is there"
    is_present = place(state, name, head) == entry
    head = head._replace(entries=head.entries - 1, born=head.born and entry != head.seq)
    is_gone = not head.entries and head.seq in removed
    if is_gone:
        _forget(state, unit, head)
    else:
        state.put(UNITS, unit, head)
    if is_present and not is_gone and name == head.context:
        state.put(PLACES, (name, head.seq), Place(0))
    elif is_present:
        state.delete(PLACES, (name, head.seq))
    counts = (context.entries - 1, context.removed) if is_present else (context.entries, context.removed - 1)
    return context._replace(entries=counts[0], removed=counts[1], size=context.size - head.size)


def _forget(state: State, unit: bytes, head: UnitHead) -> None:
    state.delete(UNITS, unit)
    state.delete(PLACES, (head.context, head.seq))
    if head.dedupe is not None:
        state.delete(DEDUPE, (head.context, head.dedupe))


def apply_events_trimmed(state: State, seq: int, ts: int, event: EventsTrimmed) -> None:
    for past in event.pins:
        state.delete(PAST_PINS, past)
    for past in event.members:
        state.delete(PAST_MEMBERS, past)
    trimmed = state.get(TRIMMED, "") or Trimmed()
    state.put(TRIMMED, "", trimmed._replace(events=event.last, gone=max((trimmed.gone, *event.removed))))
