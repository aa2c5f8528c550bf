"""Consumers: readers whose place the daemon keeps.

What is durable is in events: that a consumer exists, which entries are done, which are parked. Who has which unit at the moment is in
`claims`, in memory only: what no event says is done is delivered again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from ..shapes import NamedTuple
from .outcome import Decision, Refused
from .view import CONSUMERS, PARKED, PROGRESS, Consumer, Parked, Progress, Ranges, State, View

MAX_PARKED = 1000  # of one consumer; then no more are parked, and they are delivered again
MAX_RANGES = 2048  # of one consumer's entries that are done beyond its cursor

# Commands


class CreateConsumer(NamedTuple):
    """Create a consumer, or see that the one there is has the settings that were asked for.

    Attributes:
        asked: settings by name; those that were not asked for are not in it.
        cursor: where a new one starts.
        room: whether there may be one more.
    """

    consumer: str
    agent: str
    asked: dict[str, Any]
    cursor: int
    room: bool


class Acknowledge(NamedTuple):
    """Entries are done.

    Attributes:
        epoch: of the progress that the acknowledgements belong to; those of before a reset count no more.
        done: ranges of seqs in which nothing is left to do.
        entries: what was acknowledged one by one; any of them may be parked.
    """

    consumer: str
    epoch: int
    done: Ranges
    entries: tuple[int, ...]


class Park(NamedTuple):
    """Deliver an entry no more, after so many deliveries."""

    consumer: str
    epoch: int
    entry: int
    deliveries: int


class RetryParked(NamedTuple):
    """Deliver parked entries again; none means all."""

    consumer: str
    agent: str
    entries: tuple[int, ...]


class ResetConsumer(NamedTuple):
    """Go on beyond a cursor."""

    consumer: str
    agent: str
    cursor: int


class DeleteConsumer(NamedTuple):
    """Forget a consumer."""

    consumer: str
    agent: str


# Events; none belongs to a context


class ConsumerCreated(NamedTuple):
    consumer: str
    agent: str
    contexts: tuple[str, ...]
    filter: dict[str, Any]
    key: str
    visibility: int
    deliveries: int
    cursor: int


class ConsumerAcked(NamedTuple):
    """Acknowledgements of many members, in one event. `entries` are those that had been parked."""

    consumer: str
    done: Ranges
    entries: tuple[int, ...]


class ConsumerParked(NamedTuple):
    consumer: str
    entry: int
    deliveries: int


class ConsumerRetried(NamedTuple):
    consumer: str
    agent: str
    entries: tuple[int, ...]


class ConsumerReset(NamedTuple):
    consumer: str
    agent: str
    cursor: int


class ConsumerDeleted(NamedTuple):
    consumer: str
    agent: str


class ConsumerMissed(NamedTuple):
    """Retention has taken entries that the consumer wants, before they were done."""

    consumer: str
    entries: tuple[int, ...]


DEFAULTS: dict[str, Any] = {"contexts": (), "filter": {}, "key": "", "visibility": 300_000_000, "deliveries": 5}


def absent(name: str) -> Refused:
    """The refusal where there is no such consumer."""
    return Refused("not_found", f"there is no consumer {name!r}; the consumers there are: engram consumer list", {"consumer": name})


def decide_create(view: View, command: CreateConsumer) -> Decision:
    name, row = command.consumer, view.get(CONSUMERS, command.consumer)
    if row is None:
        if not command.room:
            return Refused("busy", "there are too many consumers; delete one that is not needed: engram consumer delete", {})
        return [ConsumerCreated(name, command.agent, **{**DEFAULTS, **command.asked}, cursor=command.cursor)]
    for setting, asked in command.asked.items():
        if asked != (has := getattr(row, setting)):
            return Refused(
                "conflict",
                f"the consumer {name!r} has {setting} {_shown(has)}, not {_shown(asked)}; leave it out to take part as it is, use another "
                f"name, or delete it first: engram consumer delete {name}",
                {"consumer": name, "setting": setting},
            )
    return []


def _shown(setting: Any) -> str:
    if isinstance(setting, tuple):
        return " ".join(setting) or "(all)"
    return str(setting or "(none)")


def covered(cursor: int, done: Iterable[tuple[int, int]]) -> tuple[int, Ranges]:
    """The cursor moved over all that is done behind it, and the rest of the ranges, in order and apart from each other."""
    rest: list[tuple[int, int]] = []
    for first, last in sorted(done):
        if first <= cursor + 1:
            cursor = max(cursor, last)
        elif rest and first <= rest[-1][1] + 1:
            rest[-1] = (rest[-1][0], max(rest[-1][1], last))
        else:
            rest.append((first, last))
    return cursor, tuple(rest)


def decide_acknowledge(view: View, command: Acknowledge) -> Decision:
    progress = view.get(PROGRESS, command.consumer)
    if progress is None:
        return absent(command.consumer)
    if progress.epoch != command.epoch:
        return []
    parked = {row.entry for row in view.get(PARKED, command.consumer) or ()}
    entries = tuple(entry for entry in command.entries if entry in parked)
    cursor, done = covered(progress.cursor, (*progress.done, *command.done))
    if len(done) > MAX_RANGES:
        return Refused(
            "busy",
            f"the consumer {command.consumer!r} has {MAX_RANGES} gaps in what is done; acknowledge the oldest units first",
            {"limit": MAX_RANGES},
        )
    if (cursor, done) == (progress.cursor, progress.done) and not entries:
        return []
    news = tuple((max(first, progress.cursor + 1), last) for first, last in command.done if last > progress.cursor)
    return [ConsumerAcked(command.consumer, news, entries)]


def decide_park(view: View, command: Park) -> Decision:
    progress = view.get(PROGRESS, command.consumer)
    if progress is None:
        return absent(command.consumer)
    if progress.epoch != command.epoch:
        return []
    parked = view.get(PARKED, command.consumer) or ()
    if len(parked) >= MAX_PARKED and all(row.entry != command.entry for row in parked):
        return Refused("busy", f"the consumer {command.consumer!r} has {MAX_PARKED} parked units", {"limit": MAX_PARKED})
    return [ConsumerParked(command.consumer, command.entry, command.deliveries)]


def decide_retry(view: View, command: RetryParked) -> Decision:
    if view.get(CONSUMERS, command.consumer) is None:
        return absent(command.consumer)
    parked = {row.entry: row for row in view.get(PARKED, command.consumer) or ()}
    for entry in command.entries:
        if entry not in parked:
            return Refused("not_found", f"{entry} is not parked at the consumer {command.consumer!r}", {"entry": entry})
    entries = tuple(sorted(entry for entry in command.entries or parked if not parked[entry].again))
    return [ConsumerRetried(command.consumer, command.agent, entries)] if entries else []


def decide_reset(view: View, command: ResetConsumer) -> Decision:
    if view.get(CONSUMERS, command.consumer) is None:
        return absent(command.consumer)
    return [ConsumerReset(*command)]


def decide_delete(view: View, command: DeleteConsumer) -> Decision:
    if view.get(CONSUMERS, command.consumer) is None:
        return absent(command.consumer)
    return [ConsumerDeleted(*command)]


# Folds


def apply_created(state: State, seq: int, ts: int, event: ConsumerCreated) -> None:
    row = Consumer(event.contexts, event.filter, event.key, event.visibility, event.deliveries, ts)
    state.put(CONSUMERS, event.consumer, row)
    state.put(PROGRESS, event.consumer, Progress(seq, event.cursor, (), ts))


def apply_acked(state: State, seq: int, ts: int, event: ConsumerAcked) -> None:
    _progress(state, ts, event.consumer, event.done)
    if event.entries:
        _park(state, event.consumer, event.entries)


def apply_parked(state: State, seq: int, ts: int, event: ConsumerParked) -> None:
    _progress(state, ts, event.consumer, ((event.entry, event.entry),))
    _park(state, event.consumer, (event.entry,), Parked(event.entry, event.deliveries, ts, False))


def apply_retried(state: State, seq: int, ts: int, event: ConsumerRetried) -> None:
    parked = state.get(PARKED, event.consumer) or ()
    state.put(PARKED, event.consumer, tuple(row._replace(again=row.again or row.entry in event.entries) for row in parked))


def apply_reset(state: State, seq: int, ts: int, event: ConsumerReset) -> None:
    """Parked entries beyond the cursor come again by themselves."""
    state.put(PROGRESS, event.consumer, Progress(seq, event.cursor, (), ts))
    _park(state, event.consumer, [row.entry for row in state.get(PARKED, event.consumer) or () if row.entry > event.cursor])


def apply_missed(state: State, seq: int, ts: int, event: ConsumerMissed) -> None:
    progress = state.get(PROGRESS, event.consumer)
    assert progress is not None, "an event of a consumer follows its creation"
    state.put(PROGRESS, event.consumer, progress._replace(missed=progress.missed + len(event.entries)))


def apply_deleted(state: State, seq: int, ts: int, event: ConsumerDeleted) -> None:
    for table in (CONSUMERS, PROGRESS, PARKED):
        state.delete(table, event.consumer)


def _progress(state: State, ts: int, name: str, done: Ranges) -> None:
    progress = state.get(PROGRESS, name)
    assert progress is not None, "an event of a consumer follows its creation"
    cursor, rest = covered(progress.cursor, (*progress.done, *done))
    state.put(PROGRESS, name, progress._replace(cursor=cursor, done=rest, updated_at=ts))


def _park(state: State, name: str, without: Collection[int], *more: Parked) -> None:
    kept = tuple(row for row in state.get(PARKED, name) or () if row.entry not in without) + more
    if kept:
        state.put(PARKED, name, kept)
    else:
        state.delete(PARKED, name)
