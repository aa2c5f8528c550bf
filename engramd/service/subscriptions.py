"""`tail`: a stream of a log's entries, replayed and then live, without a gap between the two.

A subscription is live or catching up. Live, it is offered events as they become durable; when it has no credit or its connection's
outbox is full, it falls back to its cursor and rereads the log, so a slow reader costs no memory and loses nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import trio

from ..protocol.connection import Id, item_frame
from ..protocol.cursor import format_cursor
from ..protocol.errors import EngramError
from ..protocol.framing import LENGTH, encode
from ..protocol.messages import DEFAULT_CREDIT, ENTRY_KINDS, MAX_CREDIT
from ..state.filters import Filter
from ..storage.query import Entry, Range, entry_of, step
from ..storage.records import ENTRIES, UNIT_PUT, Record, context_in
from .access import Sight, reached
from .fanout import Published, entry_item, event_item, mark_item
from .filters import read_after, read_filter, read_instant
from .peer import Peer
from .retention import lost, trimmed_error

if TYPE_CHECKING:
    from .engine import Engine

FULL = 1024 * 1024  # bytes in an outbox beyond which live events are no longer added
HEARTBEAT = 5.0  # seconds of silence
STEP_EVENTS = 256
SHOWN = 4  # contexts in the description of a subscription


def tail(engine: Engine, peer: Peer, request_id: Id, fields: dict[str, Any]) -> None:
    """Start a stream; it runs as a task of its connection."""
    subscription = Subscription(engine, peer, request_id, fields)
    peer.streams[request_id] = subscription
    engine.spawn(peer, request_id, subscription.run)


def entry_frames(request_id: Id, history: str, entries: Sequence[Entry], form: str | None = None) -> bytes:
    """The frames of a stream's entries, one after the other.

    Of frames that differ in their cursor and unit alone, what is around these is made once.
    """
    if form is not None:
        return b"".join([item_frame(request_id, entry_item(history, entry, form)) for entry in entries])
    around = {kind: _around(request_id, history, kind) for kind in ENTRY_KINDS}
    parts: list[bytes] = []
    for seq, _, kind, unit in entries:
        before, behind, size = around[kind]
        cursor = encode(format_cursor(history, seq))
        parts += (LENGTH.pack(size + len(cursor) + len(unit)), before, cursor, behind, unit)
    return b"".join(parts)


def _around(request_id: Id, history: str, kind: str) -> tuple[bytes, bytes, int]:
    """What stands before the cursor of an entry's frame, without the length, and between that and the unit; and the size of both."""
    whole = item_frame(request_id, entry_item(history, Entry(0, "", kind, b"")))[LENGTH.size :]
    before, _, behind = whole.rpartition(encode(format_cursor(history, 0)))  # an id may look like a cursor
    return before, behind, len(before) + len(behind)


class Subscription:
    """One `tail` under way.

    Attributes:
        cursor: while catching up, the seq up to which everything was sent or passed over.
    """

    def __init__(self, engine: Engine, peer: Peer, request_id: Id, fields: dict[str, Any]) -> None:
        contexts = list(dict.fromkeys(fields.get("contexts", ())))
        self.contexts: Sequence[str] | None = contexts or None
        self.live = False
        self.cursor = 0
        self._engine = engine
        self._peer = peer
        self._id = request_id
        self._sees = peer.access.sees
        self._kinds = frozenset(fields["kinds"]) if "kinds" in fields else None
        self._events: bool = fields.get("events", False) or not (self._kinds or frozenset()).issubset(ENTRY_KINDS)
        self._follow: bool = fields.get("follow", False)
        self._filter: Filter = read_filter(Sight(engine.log, peer.access), fields)
        self._until = read_instant(engine, fields, "until")
        self._asked_at = engine.fanout.durable_seq
        self._credit: int = fields.get("credit", DEFAULT_CREDIT)
        self._wake = trio.Event()
        self._cancelled = False
        self._failure: EngramError | None = None
        self._last_sent = trio.current_time()
        self._last: int | None = fields.get("last")
        self._form: str | None = fields.get("form")
        if self._form is not None and self._events:
            raise EngramError("invalid", "form: events are not written out", field="form")
        self._trims = engine.retention.trims  # what was removed before is no part of the question
        self._start = self._starting_point(fields)

    @property
    def lag(self) -> int:
        """How many events of the log it has yet to look at."""
        return 0 if self.live else max(0, self._engine.fanout.durable_seq - self.cursor)

    def describe(self) -> dict[str, Any]:
        """Who reads what, and how far behind it is: it is live, catching up, or stalled because its client takes nothing."""
        contexts = list(self.contexts or ())
        return {
            "agent": self._peer.agent,
            "contexts": contexts[:SHOWN],
            **({"more": len(contexts) - SHOWN} if len(contexts) > SHOWN else {}),
            "state": "live" if self.live else "stalled" if self._is_full else "catching_up",
            "lag": self.lag,
        }

    @property
    def _is_full(self) -> bool:
        """Whether its client takes no more for now."""
        return self._credit <= 0 or self._peer.outbox.pending > FULL

    # From fan-out and the connection; these never wait

    def offer(self, published: Published) -> None:
        """Send a live event, or fall back to reading the log."""
        if self._until is not None and published.ts >= self._until:
            self.cancel()
            return
        if not self._wants(published):
            return
        if self._is_full:
            self.live = False
            self.cursor = published.seq - 1
            self._wake.set()
            return
        self._write(published.frame(self._id, self._form), published.at)

    def grant(self, credit: int) -> None:
        """Take more credit; at most MAX_CREDIT is remembered."""
        self._credit = min(self._credit + credit, MAX_CREDIT)
        self._wake.set()

    def cancel(self, because: EngramError | None = None) -> None:
        """End the stream at the next step, with an error if there is one."""
        self._cancelled, self._failure = True, because
        self._wake.set()

    def _wants(self, published: Published) -> bool:
        if self._kinds is not None and published.kind not in self._kinds:
            return False
        if not self._peer.access.sees_event(published.kind, published.context):
            return False
        if not published.is_entry:
            return self._events
        return self._filter.is_empty() or self._filter.matches(published.unit)

    def _send(self, item: bytes) -> None:
        self._write(item_frame(self._id, item), trio.current_time())

    def _write(self, frame: bytes, now: float) -> None:
        self._credit -= len(frame)
        self._last_sent = now
        self._peer.outbox.write(frame)

    # The task

    async def run(self) -> None:
        """Replay, mark, follow; answer with the last cursor when the stream ends."""
        fanout = self._engine.fanout
        fanout.add(self)
        try:
            self.cursor = await self._find_start()
            await self._catch_up()
            if not self._cancelled:
                self._send(mark_item(fanout.history, self.cursor, "live"))
            while self._follow and not self._cancelled:
                await self._listen()
                await self._catch_up()
            if self._failure is not None:
                raise self._failure
            self._peer.answer(self._id, {"cursor": format_cursor(fanout.history, self.cursor)})
        finally:
            fanout.remove(self)
            self.live = False
            self._peer.streams.pop(self._id, None)

    async def _listen(self) -> None:
        """Be live, with a heartbeat after each silence, until there is a reason to look at the log again."""
        self._wake = trio.Event()
        self.live = True
        while self.live and not self._cancelled:
            self._peer.outbox.flush()
            with trio.move_on_at(min(self._last_sent + HEARTBEAT, trio.current_time() + self._seconds_left())):
                await self._wake.wait()
                if self.live:
                    self._wake = trio.Event()
            if self._seconds_left() <= 0:
                self._cancelled = True
            elif self.live and trio.current_time() >= self._last_sent + HEARTBEAT:
                self._heartbeat(self._engine.fanout.durable_seq)
        if self.live:
            self.live = False
            self.cursor = self._end()

    def _seconds_left(self) -> float:
        """Until no entry can be wanted any more."""
        return math.inf if self._until is None else (self._until - self._engine.committer.now()) / 1e6

    def _heartbeat(self, cursor: int) -> None:
        """Say how far the stream has come, though nothing fits: a reader that has to resume need not look there again."""
        self._last_sent = trio.current_time()
        if self._peer.outbox.pending == 0:
            self._send(mark_item(self._engine.fanout.history, cursor, "heartbeat"))

    async def _catch_up(self) -> None:
        """Read the log from the cursor to its end, as credit and the outbox allow. Ends without waiting, at the end."""
        while not self._cancelled and self.cursor < (end := self._end()):
            await self._may_send()
            if self._cancelled:
                return
            if self._is_overtaken():
                await self._refuse()
            async with self._peer.turn:
                # of what others have sent, and what retention has decided, while this one waited
                if self._cancelled or self._is_full or self._is_overtaken():
                    continue
                (self._step_events if self._events else self._step_entries)(end)
            if trio.current_time() >= self._last_sent + HEARTBEAT:
                self._heartbeat(self.cursor)
            self._peer.outbox.flush()
            if self.cursor < end:
                await trio.lowlevel.checkpoint()
        if self._until is not None and self._end() < self._engine.fanout.durable_seq:
            self._cancelled = True  # the log is past it

    def _wanted(self) -> tuple[Sequence[str] | None, bool, bool]:
        """The contexts (None: all), whether entries of them are wanted, and whether events that are none."""
        entries, access = self._kinds is None or not self._kinds.isdisjoint(ENTRY_KINDS), self._peer.access
        everywhere = list(reached(self._engine.log, access)) if access.contexts else None
        return everywhere if self.contexts is None else self.contexts, entries, self._events

    def _gone(self) -> int:
        """The highest seq that retention took of what is wanted."""
        return lost(self._engine, *self._wanted())

    def _is_overtaken(self) -> bool:
        """Whether what it has not come to yet is gone since it began, or about to be."""
        retention = self._engine.retention
        if self._trims == retention.trims:
            return False
        last = retention.overtaken(self._trims, *self._wanted())
        if (self._gone() if last is None else last) > self.cursor:
            return True
        self._trims = retention.trims
        return False

    async def _refuse(self) -> None:
        """End the stream when what is about to be gone is. Raises EngramError("trimmed"), or that the disk failed."""
        committer, settled = self._engine.committer, trio.Event()
        committer.settled(lambda _: settled.set())
        await settled.wait()
        if committer.failed is not None:  # it may still be there
            raise committer.failed
        raise trimmed_error(self._engine, self.cursor, self._gone())

    def _end(self) -> int:
        """The last seq that is wanted of what is durable now; without `follow`, of what was durable at first."""
        durable = self._engine.fanout.durable_seq if self._follow else self._asked_at
        return durable if self._until is None else min(durable, self._engine.log.first_at(self._until) - 1)

    async def _may_send(self) -> None:
        while self._credit <= 0 and not self._cancelled:
            self._wake = trio.Event()
            await self._wake.wait()
        await self._peer.outbox.room()

    def _step_entries(self, last: int) -> None:
        wanted = Range(self.contexts, self._filter, self.cursor + 1, last, kinds=self._kinds, sees=self._sees)
        found = step(self._engine.log, wanted, size=min(self._credit, FULL // 4))
        if found.entries:
            self._write(entry_frames(self._id, self._engine.fanout.history, found.entries, self._form), trio.current_time())
        self.cursor = found.reached

    def _step_events(self, last: int) -> None:
        """Every event is looked at in the log itself: they are read by few, and have no key by context."""
        log, history = self._engine.log, self._engine.fanout.history
        for looked, (seq, record) in enumerate(log.records(self.cursor + 1, last), 1):
            if self._is_full:
                return
            if not self._wants_record(record):
                pass
            elif record.code not in ENTRIES:
                self._send(event_item(history, seq, record))
            elif (entry := entry_of(log, seq, record, self._filter)) is not None:
                self._send(entry_item(history, entry))
            self.cursor = seq
            if looked == STEP_EVENTS:
                return
        self.cursor = last  # which may have been removed

    def _wants_record(self, record: Record) -> bool:
        """Whether the kind and the context of an event are wanted."""
        if self._kinds is not None and record.kind not in self._kinds:
            return False
        context = context_in(record.body) if record.code == UNIT_PUT else self._engine.context_of(record)
        if not self._peer.access.sees_event(record.kind, context):
            return False
        return self.contexts is None or context in self.contexts

    def _starting_point(self, fields: dict[str, Any]) -> int:
        """The seq to start beyond, unless `last` says how many entries to go back."""
        engine = self._engine
        given = [name for name in ("last", "since", "after") if name in fields]
        if len(given) > 1:
            raise EngramError("invalid", f"{' and '.join(given)}: only one of these may be given", field=given[0])
        after = read_after(engine, fields)
        if after is not None:
            if fields["after"] not in (0, "0"):
                self._trims = engine.retention.on_disk  # what is about to be is not known to the client
                if after < (last := self._gone()):
                    raise trimmed_error(engine, after, last)
            return after
        since = read_instant(engine, fields, "since")
        if since is not None:
            return engine.log.first_at(since) - 1
        return self._end()

    async def _find_start(self) -> int:
        """The seq beyond which the last so many entries, or of every event so many events, are."""
        if not self._last:
            return self._start
        missing, end = self._last, self._start
        count = self._count_events if self._events else self._count_entries
        while missing > 0 and end > 0 and not self._cancelled:
            async with self._peer.turn:
                found, reached = count(end, missing)
            missing -= found
            end = reached - 1
            await trio.lowlevel.checkpoint()
        return max(end, 0)

    def _count_entries(self, last: int, most: int) -> tuple[int, int]:
        """Count entries that fit, backwards, for one step; also the seq down to which it came."""
        wanted = Range(self.contexts, self._filter, 1, last, reverse=True, kinds=self._kinds, sees=self._sees)
        found = step(self._engine.log, wanted, limit=most)
        return len(found.entries), found.reached

    def _count_events(self, last: int, most: int) -> tuple[int, int]:
        """The same of events."""
        log, found = self._engine.log, 0
        for looked, (seq, record) in enumerate(log.records(1, last, reverse=True), 1):
            if self._wants_record(record) and (record.code not in ENTRIES or entry_of(log, seq, record, self._filter) is not None):
                found += 1
                if found == most:
                    return found, seq
            if looked == STEP_EVENTS:
                return found, seq
        return found, 1
