"""Fan-out: hands what became durable to every live subscription. It never waits for one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import cbor2
import trio

from ..protocol.connection import Id, item_frame
from ..protocol.cursor import format_cursor
from ..protocol.framing import encode
from ..protocol.messages import ENTRY_KINDS
from ..protocol.unit import with_entry
from ..state.machine import context_of
from ..storage.log import Appended, Log
from ..storage.query import Entry
from ..storage.records import UNIT_ADDED, Record
from .forms import unit_text

_ITEM = b"\xa3" + encode("cursor")  # a map of three members
_KINDS = {kind: encode("kind") + encode(kind) for kind in ENTRY_KINDS}
_UNIT, _TEXT = encode("unit"), encode("text")
UNTOLD = frozenset(("session", "digest"))  # of events: who knows a session can act in it


def entry_item(history: str, entry: Entry, form: str | None = None) -> bytes:
    """The stream item of an entry, encoded; with a form, its unit is written out. Put together by hand: replays make millions."""
    shown = _UNIT + entry.unit if form is None else _TEXT + encode(unit_text(form, entry.unit))
    return _ITEM + encode(format_cursor(history, entry.seq)) + _KINDS[entry.kind] + shown


def event_item(history: str, seq: int, record: Record) -> bytes:
    """The stream item of an event that is no entry, encoded, without what is for nobody to know."""
    return encode(
        {
            "cursor": format_cursor(history, seq),
            "kind": record.kind,
            "seq": seq,
            "ts": record.ts,
            "data": {name: value for name, value in cbor2.loads(record.body).items() if name not in UNTOLD},
        }
    )


def mark_item(history: str, seq: int, kind: str) -> bytes:
    """The stream item `live` or `heartbeat`, encoded."""
    return encode({"cursor": format_cursor(history, seq), "kind": kind})


class Published:
    """One durable event on its way to subscribers; what they share is worked out once."""

    def __init__(self, history: str, appended: Appended) -> None:
        self.seq = appended.seq
        self.ts = appended.record.ts
        self.context = context_of(appended.event)
        self.is_entry = appended.unit is not None
        self.kind = appended.record.kind
        self._history = history
        self._appended = appended
        self._unit: dict[str, Any] | None = None
        self.at = trio.current_time()
        self._frames: dict[tuple[Id, str | None], bytes] = {}

    @property
    def unit(self) -> dict[str, Any]:
        """The entry's unit, decoded."""
        if self._unit is None:
            self._unit = cbor2.loads(self._appended.unit or b"\xa0")
        return self._unit

    def frame(self, request_id: Id, form: str | None) -> bytes:
        """The stream item's frame. Streams of different connections mostly have the same few ids, and share it."""
        key = request_id, form
        if key not in self._frames:
            self._frames[key] = item_frame(request_id, self._item(form))
        return self._frames[key]

    def _item(self, form: str | None) -> bytes:
        record, unit = self._appended.record, self._appended.unit
        if unit is None:
            return event_item(self._history, self.seq, record)
        context = self.context or ""
        sent = with_entry(unit, self.seq, context) if record.code == UNIT_ADDED else unit
        return entry_item(self._history, Entry(self.seq, context, record.kind, sent), form)


class Subscriber(Protocol):
    """What fan-out knows of a subscription."""

    live: bool
    contexts: Sequence[str] | None

    @property
    def lag(self) -> int:
        """How many events it is behind."""

    def describe(self) -> dict[str, Any]:
        """What `status` says of it."""

    def offer(self, published: Published) -> None:
        """Take the next event, or fall back to reading the log."""


class Fanout:
    """The live subscriptions, by context.

    Attributes:
        durable_seq: the last seq that was published.
    """

    def __init__(self, log: Log) -> None:
        self.history = log.history
        self.durable_seq = log.last_seq
        self._everything: dict[Subscriber, None] = {}
        self._by_context: dict[str, dict[Subscriber, None]] = {}

    def __len__(self) -> int:
        return len(set(self._everything).union(*self._by_context.values()))

    def subscribers(self) -> Iterable[Subscriber]:
        """Every subscription, each once."""
        return set(self._everything).union(*self._by_context.values())

    def add(self, subscriber: Subscriber) -> None:
        """Publish to it from now on, whenever it is live."""
        for group in self._groups(subscriber):
            group[subscriber] = None

    def remove(self, subscriber: Subscriber) -> None:
        """Forget it."""
        for group in self._groups(subscriber):
            group.pop(subscriber, None)
        for context in subscriber.contexts or ():
            if not self._by_context[context]:
                del self._by_context[context]

    def publish(self, events: Sequence[Appended]) -> None:
        """Offer durable events, in order, to the live subscriptions that could want them."""
        if not self._everything and not self._by_context:
            self.durable_seq = events[-1].seq if events else self.durable_seq
            return
        for appended in events:
            published = Published(self.history, appended)
            for group in (self._by_context.get(published.context or ""), self._everything):
                for subscriber in group or ():
                    if subscriber.live:
                        subscriber.offer(published)
            self.durable_seq = appended.seq

    def _groups(self, subscriber: Subscriber) -> list[dict[Subscriber, None]]:
        if subscriber.contexts is None:
            return [self._everything]
        return [self._by_context.setdefault(context, {}) for context in subscriber.contexts]
