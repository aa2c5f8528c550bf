"""Contexts: creation, titles and labels, members, pins, and units that are added to or removed from them."""

from __future__ import annotations

from ..shapes import NamedTuple
from .outcome import Decision, Refused
from .view import (
    CONTEXTS,
    MEMBERS,
    PAST_MEMBERS,
    PAST_PINS,
    PINS,
    PLACES,
    UNITS,
    Context,
    Member,
    PastMember,
    PastPin,
    Pin,
    Place,
    State,
    UnitHead,
    View,
)

MAX_LABELS = 64  # of one context, however many requests set them

# Commands


class CreateContext(NamedTuple):
    """Create a context that does not exist yet."""

    context: str
    agent: str
    display_name: str
    meta: dict[str, str]


class SetContext(NamedTuple):
    """Change the title (unless None) and labels (None removes one)."""

    context: str
    agent: str
    display_name: str | None
    meta: dict[str, str | None]


class SetMember(NamedTuple):
    """Make `member` a member, or end the membership."""

    context: str
    agent: str
    member: str
    joined: bool


class SetPins(NamedTuple):
    """Pin or unpin units that are in the context."""

    context: str
    agent: str
    units: tuple[bytes, ...]
    pinned: bool


class SetPlaces(NamedTuple):
    """Add units to the context, or remove them from it."""

    context: str
    agent: str
    units: tuple[bytes, ...]
    present: bool


# Events; `agent` is who acted


class ContextCreated(NamedTuple):
    context: str
    agent: str
    display_name: str
    meta: dict[str, str]


class ContextChanged(NamedTuple):
    context: str
    agent: str
    display_name: str | None
    meta: dict[str, str | None]


class AgentJoined(NamedTuple):
    context: str
    agent: str
    member: str


class AgentLeft(NamedTuple):
    context: str
    agent: str
    member: str


class UnitPinned(NamedTuple):
    context: str
    agent: str
    unit: int


class UnitUnpinned(NamedTuple):
    context: str
    agent: str
    unit: int


class UnitAdded(NamedTuple):
    """An entry: the unit arrives in the context at this event's seq. `birth` is the context it was born in."""

    context: str
    agent: str
    unit: int
    birth: str
    id: bytes


class UnitRemoved(NamedTuple):
    """The unit's entry (the seq at which it had arrived) is no longer part of the context. `birth` is the context it was born in."""

    context: str
    agent: str
    unit: int
    entry: int
    birth: str


def absent(name: str) -> Refused:
    """The refusal where there is no such context."""
    return Refused("not_found", f"there is no context {name!r}; put a unit into it or create it first", {"context": name})


def decide_create(view: View, command: CreateContext) -> Decision:
    if view.get(CONTEXTS, command.context) is not None:
        return Refused(
            "exists", f"the context {command.context!r} exists already; to change it use: engram context set", {"context": command.context}
        )
    return [ContextCreated(*command)]


def decide_set(view: View, command: SetContext) -> Decision:
    context = view.get(CONTEXTS, command.context)
    if context is None:
        return absent(command.context)
    title = command.display_name if command.display_name != context.display_name else None
    labels = {key: value for key, value in command.meta.items() if context.meta.get(key) != value}
    kept = [value for value in {**context.meta, **labels}.values() if value is not None]
    if len(kept) > MAX_LABELS:
        return Refused(
            "too_large", f"the context would have {len(kept)} labels, more than the {MAX_LABELS} it may have", {"limit": MAX_LABELS}
        )
    return [ContextChanged(command.context, command.agent, title, labels)] if title is not None or labels else []


def decide_member(view: View, command: SetMember) -> Decision:
    if view.get(CONTEXTS, command.context) is None:
        return absent(command.context)
    if (view.get(MEMBERS, (command.context, command.member)) is not None) == command.joined:
        return []
    return [(AgentJoined if command.joined else AgentLeft)(*command[:3])]


def place(view: View, context: str, head: UnitHead) -> int:
    """The seq of the unit's entry in the context, 0 if it is not there. One that was born there and never moved has no row of its own."""
    row = view.get(PLACES, (context, head.seq))
    if row is not None:
        return row.entry
    return head.seq if head.context == context else 0


def is_pinned(view: View, context: str, unit: int) -> bool:
    """Whether the unit, by its seq, is pinned in the context."""
    return view.get(PINS, (context, unit)) is not None


def heads_of(view: View, units: tuple[bytes, ...]) -> dict[bytes, UnitHead] | Refused:
    """What is known of units, each once."""
    heads = {}
    for unit in units:
        head = view.get(UNITS, unit)
        if head is None:
            return Refused("not_found", "there is no unit with that id", {"id": unit})
        heads[unit] = head
    return heads


def decide_pins(view: View, command: SetPins) -> Decision:
    name = command.context
    if view.get(CONTEXTS, name) is None:
        return absent(name)
    heads = heads_of(view, command.units)
    if isinstance(heads, Refused):
        return heads
    events: list[UnitPinned | UnitUnpinned] = []
    for head in heads.values():
        if is_pinned(view, name, head.seq) == command.pinned:
            continue
        if command.pinned and not place(view, name, head):
            return Refused(
                "not_found", f"unit {head.seq} is not in the context {name!r}; add it first with: engram context add", {"seq": head.seq}
            )
        events.append((UnitPinned if command.pinned else UnitUnpinned)(name, command.agent, head.seq))
    return events


def decide_places(view: View, command: SetPlaces) -> Decision:
    name = command.context
    if view.get(CONTEXTS, name) is None and not command.present:
        return absent(name)
    heads = heads_of(view, command.units)
    if isinstance(heads, Refused):
        return heads
    events: list[ContextCreated | UnitAdded | UnitRemoved | UnitUnpinned] = []
    for unit, head in heads.items():
        entry = place(view, name, head)
        if bool(entry) == command.present:
            continue
        if command.present:
            events.append(UnitAdded(name, command.agent, head.seq, head.context, unit))
        else:
            if is_pinned(view, name, head.seq):
                events.append(UnitUnpinned(name, command.agent, head.seq))
            events.append(UnitRemoved(name, command.agent, head.seq, entry, head.context))
    if view.get(CONTEXTS, name) is None:
        events.insert(0, ContextCreated(name, command.agent, name, {}))
    return events


# Folds


def apply_created(state: State, seq: int, ts: int, event: ContextCreated) -> None:
    state.put(CONTEXTS, event.context, Context(event.display_name, event.meta, ts, ts))


def apply_changed(state: State, seq: int, ts: int, event: ContextChanged) -> None:
    context = _context(state, event.context)
    meta = {key: value for key, value in {**context.meta, **event.meta}.items() if value is not None}
    title = context.display_name if event.display_name is None else event.display_name
    state.put(CONTEXTS, event.context, context._replace(display_name=title, meta=meta, updated_at=ts))


def join(state: State, seq: int, ts: int, context: str, member: str) -> None:
    """Make the agent a member from `seq` on, if it is not one. Putting a unit does this too."""
    if state.get(MEMBERS, (context, member)) is None:
        state.put(MEMBERS, (context, member), Member(seq, ts))


def apply_joined(state: State, seq: int, ts: int, event: AgentJoined) -> None:
    join(state, seq, ts, event.context, event.member)
    _touch(state, event.context, ts)


def apply_left(state: State, seq: int, ts: int, event: AgentLeft) -> None:
    key = (event.context, event.member)
    member = state.get(MEMBERS, key)
    assert member is not None, "who leaves is a member"
    state.delete(MEMBERS, key)
    state.put(PAST_MEMBERS, (event.context, seq), PastMember(event.member, member.since))
    _touch(state, event.context, ts)


def apply_pinned(state: State, seq: int, ts: int, event: UnitPinned) -> None:
    state.put(PINS, (event.context, event.unit), Pin(seq))
    _touch(state, event.context, ts)


def apply_unpinned(state: State, seq: int, ts: int, event: UnitUnpinned) -> None:
    key = (event.context, event.unit)
    pin = state.get(PINS, key)
    assert pin is not None, "what is unpinned was pinned"
    state.delete(PINS, key)
    state.put(PAST_PINS, (event.context, seq), PastPin(event.unit, pin.since))
    _touch(state, event.context, ts)


def apply_added(state: State, seq: int, ts: int, event: UnitAdded) -> None:
    context, head = _context(state, event.context), state.get(UNITS, event.id)
    assert head is not None, "what is added is there"
    state.put(PLACES, (event.context, event.unit), Place(seq))
    state.put(UNITS, event.id, head._replace(entries=head.entries + 1))
    context = context._replace(updated_at=ts, last_entry=seq, entries=context.entries + 1, size=context.size + head.size)
    state.put(CONTEXTS, event.context, context)


def apply_removed(state: State, seq: int, ts: int, event: UnitRemoved) -> None:
    context = _context(state, event.context)
    if event.context == event.birth:
        state.put(PLACES, (event.context, event.unit), Place(0))
    else:
        state.delete(PLACES, (event.context, event.unit))
    state.put(CONTEXTS, event.context, context._replace(updated_at=ts, entries=context.entries - 1, removed=context.removed + 1))


def _context(state: State, name: str) -> Context:
    context = state.get(CONTEXTS, name)
    assert context is not None, "an event of a context follows its creation"
    return context


def _touch(state: State, name: str, ts: int) -> None:
    state.put(CONTEXTS, name, _context(state, name)._replace(updated_at=ts))
