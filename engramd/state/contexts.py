"""Contexts: creation, titles and labels, members, pins, and units that are added to or removed from them."""

from __future__ import annotations

from typing import NamedTuple

from .outcome import Decision, Refused
from .view import CONTEXTS, MEMBERS, PINS, PLACES, UNITS, Context, Intervals, State, UnitHead, View, closed, is_open, opened

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


class UnitRemoved(NamedTuple):
    """The unit's entry (the seq at which it had arrived) is no longer part of the context."""

    context: str
    agent: str
    unit: int
    entry: int


def _absent(name: str) -> Refused:
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
        return _absent(command.context)
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
        return _absent(command.context)
    if is_open(view.get(MEMBERS, (command.context, command.member))) == command.joined:
        return []
    return [(AgentJoined if command.joined else AgentLeft)(*command[:3])]


def place(view: View, context: str, head: UnitHead) -> Intervals:
    """When the unit has been in the context. One that was born there and never moved has no row of its own."""
    row = view.get(PLACES, (context, head.seq))
    if row is not None:
        return row
    return ((head.seq, None),) if head.context == context else ()


def _heads(view: View, units: tuple[bytes, ...]) -> list[UnitHead] | Refused:
    heads = []
    for unit in dict.fromkeys(units):
        head = view.get(UNITS, unit)
        if head is None:
            return Refused("not_found", "there is no unit with that id", {"id": unit})
        heads.append(head)
    return heads


def decide_pins(view: View, command: SetPins) -> Decision:
    name = command.context
    if view.get(CONTEXTS, name) is None:
        return _absent(name)
    heads = _heads(view, command.units)
    if isinstance(heads, Refused):
        return heads
    events: list[UnitPinned | UnitUnpinned] = []
    for head in heads:
        if is_open(view.get(PINS, (name, head.seq))) == command.pinned:
            continue
        if command.pinned and not is_open(place(view, name, head)):
            return Refused(
                "not_found", f"unit {head.seq} is not in the context {name!r}; add it first with: engram context add", {"seq": head.seq}
            )
        events.append((UnitPinned if command.pinned else UnitUnpinned)(name, command.agent, head.seq))
    return events


def decide_places(view: View, command: SetPlaces) -> Decision:
    name = command.context
    if view.get(CONTEXTS, name) is None and not command.present:
        return _absent(name)
    heads = _heads(view, command.units)
    if isinstance(heads, Refused):
        return heads
    events: list[ContextCreated | UnitAdded | UnitRemoved | UnitUnpinned] = []
    for head in heads:
        intervals = place(view, name, head)
        if is_open(intervals) == command.present:
            continue
        if command.present:
            events.append(UnitAdded(name, command.agent, head.seq, head.context))
        else:
            if is_open(view.get(PINS, (name, head.seq))):
                events.append(UnitUnpinned(name, command.agent, head.seq))
            events.append(UnitRemoved(name, command.agent, head.seq, intervals[-1][0]))
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


def join(state: State, seq: int, context: str, member: str) -> None:
    """Make the agent a member from `seq` on, if it is not one. Putting a unit does this too."""
    intervals = state.get(MEMBERS, (context, member))
    if not is_open(intervals):
        state.put(MEMBERS, (context, member), opened(intervals, seq))


def apply_joined(state: State, seq: int, ts: int, event: AgentJoined) -> None:
    join(state, seq, event.context, event.member)
    _touch(state, event.context, ts)


def apply_left(state: State, seq: int, ts: int, event: AgentLeft) -> None:
    key = (event.context, event.member)
    state.put(MEMBERS, key, closed(state.get(MEMBERS, key) or (), seq))
    _touch(state, event.context, ts)


def apply_pinned(state: State, seq: int, ts: int, event: UnitPinned) -> None:
    key = (event.context, event.unit)
    state.put(PINS, key, opened(state.get(PINS, key), seq))
    _touch(state, event.context, ts)


def apply_unpinned(state: State, seq: int, ts: int, event: UnitUnpinned) -> None:
    key = (event.context, event.unit)
    state.put(PINS, key, closed(state.get(PINS, key) or (), seq))
    _touch(state, event.context, ts)


def apply_added(state: State, seq: int, ts: int, event: UnitAdded) -> None:
    key = (event.context, event.unit)
    context = _context(state, event.context)
    state.put(PLACES, key, opened(place(state, event.context, UnitHead(event.unit, event.birth)), seq))
    state.put(CONTEXTS, event.context, context._replace(updated_at=ts, last_entry=seq, entries=context.entries + 1))


def apply_removed(state: State, seq: int, ts: int, event: UnitRemoved) -> None:
    key = (event.context, event.unit)
    context = _context(state, event.context)
    intervals = state.get(PLACES, key) or ((event.entry, None),)
    state.put(PLACES, key, closed(intervals, seq))
    state.put(CONTEXTS, event.context, context._replace(updated_at=ts, entries=context.entries - 1, removed=context.removed + 1))


def _context(state: State, name: str) -> Context:
    context = state.get(CONTEXTS, name)
    assert context is not None, "an event of a context follows its creation"
    return context


def _touch(state: State, name: str, ts: int) -> None:
    state.put(CONTEXTS, name, _context(state, name)._replace(updated_at=ts))
