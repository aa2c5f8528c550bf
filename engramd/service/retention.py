"""Retention in the background: a bounded step at a time, each one event, with a pause for everybody else behind it."""

from __future__ import annotations

import logging
from collections import Counter, deque
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import trio

from ..protocol.connection import Id
from ..protocol.cursor import format_cursor
from ..protocol.errors import EngramError
from ..protocol.sizes import parse_size
from ..protocol.times import parse_duration
from ..state.consumers import ConsumerMissed
from ..state.retention import EventsTrimmed, SetRetention, TrimContext, TrimEvents, UnitsTrimmed, is_due
from ..state.view import CONTEXTS, RETENTION, TRIMMED, Retention, Trimmed
from ..storage import keys, trim
from ..storage.log import Appended
from .committer import AHEAD, Result
from .contexts import describe
from .peer import Peer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from .engine import Engine

logger = logging.getLogger("engramd.retention")

INTERVAL = 5.0  # seconds between two looks at everything
PAUSE = 0.003  # seconds between two steps, at least
PAGE = 100  # contexts
FAR = 65_536  # events that nothing was removed of, after which it is noted how far they were looked at
COMPACT_ENTRIES = 4096  # removed ones after which their files are compacted
COMPACT_INTERVAL = 600.0  # seconds after which they are, however few
LEAST_AGE = 1_000_000  # microseconds
REMEMBERED = 4096  # trims, for streams to see whether they were overtaken
LASTING = 86_400.0  # seconds after which a clock that was set ahead is believed


def retain(engine: Engine, peer: Peer, request_id: Id, fields: dict[str, Any]) -> None:
    """Set what a context keeps, and describe it."""
    name = fields["context"]
    changes = {limit: _limit(limit, fields[limit]) for limit in Retention._fields if limit in fields}

    def done(_: object) -> None:
        engine.retention.wake()
        peer.answer(request_id, {"context": describe(engine, name)})

    engine.submit(peer, request_id, SetRetention(name, peer.agent, changes), engine.committer.now(), done)


def _limit(name: str, value: str | int | None) -> int | None:
    if value is None:
        return None
    if name == "bytes":
        return parse_size(value, name)
    limit = parse_duration(value) if isinstance(value, str) else value
    if name == "age" and limit < LEAST_AGE:
        raise EngramError("invalid", "age: must be a second or more", field="age")
    return limit


def lost(engine: Engine, contexts: Iterable[str] | None, entries: bool, events: bool) -> int:
    """The highest seq that retention took of what a reader of these contexts (None: all) wants; 0 for none.

    Args:
        entries, events: whether it wants entries, and events that are none.
    """
    rows = engine.log.durable
    everywhere = rows.get(TRIMMED, "") or Trimmed()
    if not entries or not everywhere.entries:
        found = 0
    elif contexts is None:
        found = everywhere.entries
    else:
        found = max((row.trimmed for name in contexts if (row := rows.get(CONTEXTS, name)) is not None), default=0)
    return max(found, everywhere.gone) if events else found


def trimmed_error(engine: Engine, after: int, last: int) -> EngramError:
    """That what a reader at `after` wants was removed, up to `last`."""
    cursor = format_cursor(engine.log.history, last)
    return EngramError(
        "trimmed",
        f"retention removed entries behind {after}, the last of them at {last}; nothing is missing behind {cursor}, and what is left "
        "before that is read from 0 on",
        cursor=cursor,
        seq=last,
    )


def _is_wanted(context: str | None, contexts: Sequence[str] | None, entries: bool, events: bool) -> bool:
    """Whether a reader wants some of what was removed: entries of a context, or what is none."""
    if context is None:
        return events
    return entries and (contexts is None or context in contexts)


class SteadyClock:
    """The wall clock, in microseconds, but for what it was set ahead, until that has lasted for a day.

    What was removed by a wrong clock cannot be had back. A clock may be right to be set ahead, though, such as where there is none that
    goes while the machine is off.

    Args:
        clock, elapsed: the wall clock in microseconds, and seconds by a clock that nobody sets.
    """

    def __init__(self, clock: Callable[[], int], elapsed: Callable[[], float]) -> None:
        self._clock = clock
        self._elapsed = elapsed
        self._ahead_since: float | None = None
        self._began = clock() - round(elapsed() * 1e6)

    def __call__(self) -> int:
        """What time it is."""
        wall, passed = self._clock(), self._elapsed()
        ahead = wall - self._began - passed * 1e6
        if ahead <= AHEAD:
            self._ahead_since = None
        elif self._ahead_since is None:
            self._ahead_since = passed
            logger.warning("the wall clock was set ahead; what is old by that is kept for another day")
        is_believed = self._ahead_since is not None and passed - self._ahead_since > LASTING
        if abs(ahead) <= AHEAD or is_believed:
            self._began = wall - round(passed * 1e6)
        return min(wall, self._began + round(passed * 1e6))


class Retainer:
    """Removes what no context keeps, and old events.

    Args:
        keep_events: microseconds that events which are no entries stay; None means for ever.
        clock, elapsed: the wall clock in microseconds, and seconds by a clock that nobody sets.

    Attributes:
        trims: how often something was to be removed since the start, for readers to see that they should look again. A removal counts as
            soon as it is decided: what reads the store may miss it before it is known to be on disk.
        on_disk: how many of them are known to be, so that `lost` tells of them.
    """

    def __init__(self, engine: Engine, keep_events: int | None, clock: Callable[[], int], elapsed: Callable[[], float]) -> None:
        self._engine = engine
        self._now = SteadyClock(clock, elapsed)
        self._keep_events = keep_events
        self._wake = trio.Event()
        self._looked = 0  # events were looked at up to here, though nothing has noted it yet
        self._removed: dict[bytes, tuple[int, int]] = {}  # by prefix, the first and last seq under it that was removed since the last time
        self._count = 0
        self._compacted_at = trio.current_time()
        self.trims = self.on_disk = 0
        self._trimmed: deque[tuple[str | None, int]] = deque(maxlen=REMEMBERED)  # of each: context, None for no entries; highest seq

    def overtaken(self, trims: int, contexts: Sequence[str] | None, entries: bool, events: bool) -> int | None:
        """The highest seq that was to be removed since `trims` was so high, of what a reader of these contexts (None: all) wants; None when
        that is forgotten.

        Args:
            entries, events: as of `lost`.
        """
        count = self.trims - trims
        if count > len(self._trimmed):
            return None
        since = islice(reversed(self._trimmed), count)
        return max((last for context, last in since if _is_wanted(context, contexts, entries, events)), default=0)

    def wake(self) -> None:
        """Look soon: a policy has changed."""
        self._wake.set()

    async def run(self) -> None:
        """Look at everything again and again, until cancelled or no write is taken any more."""
        while True:
            self._wake = trio.Event()
            try:
                await self.sweep()
            except EngramError as error:
                logger.error("retention has stopped: %s", error.message)
                self._engine.heed(error)
                return
            with trio.move_on_after(INTERVAL):
                await self._wake.wait()

    async def sweep(self) -> None:
        """Remove what is to be removed now."""
        after: bytes | None = b""
        while after is not None:
            page = [key for key, _ in islice(self._engine.log.durable.scan(RETENTION, after=after or None), PAGE)]
            for key in page:
                await self._trim(key.decode())
            after = page[-1] if page else None
            await trio.lowlevel.checkpoint()
        if self._keep_events is not None:
            await self._trim_events(self._keep_events)
        due = trio.current_time() >= self._compacted_at + COMPACT_INTERVAL
        if self._count >= COMPACT_ENTRIES or (self._count and due):
            await self._compact()

    async def _trim(self, context: str) -> None:
        """Remove a context's oldest entries, until one may stay."""
        if not self._is_due(context):
            return
        after: int | None = 0
        missed = Counter[str]()
        while after is not None:
            began = trio.current_time()
            after = await self._step(context, after, missed)
            await trio.sleep(max(PAUSE, trio.current_time() - began))  # half of the time is for others
            if self._count >= COMPACT_ENTRIES:
                await self._compact()
        self._engine.counters.consumers_missed += missed.total()
        for name, count in missed.items():
            logger.warning("retention took %d entries of context %r that the consumer %r wants and had not done", count, context, name)

    async def _step(self, context: str, after: int, missed: Counter[str]) -> int | None:
        """Remove some of the oldest entries behind `after`; gives how far it came, None where one may stay or there are no more."""
        engine = self._engine
        found, reached = trim.oldest(engine.log, context, after, interests=engine.consumers.interests(context))
        if not found:
            return reached
        removed = 0
        for appended in await self._carry_out(TrimContext(context, self._now(), tuple(found))):
            if isinstance(event := appended.event, ConsumerMissed):
                missed[event.consumer] += len(event.entries)
                continue
            assert isinstance(event, UnitsTrimmed)
            removed = len(event.entries)
            self._note_removed(removed, {keys.entries(context): [entry for entry, _ in event.entries], keys.LOG: event.removed})
        return reached if removed == len(found) else None

    def _is_due(self, context: str) -> bool:
        """Whether there may be something to remove: mostly there is not, and this is asked of every context again and again."""
        found, reached = trim.oldest(self._engine.log, context, 0, 1)
        if not found:
            return reached is not None  # all that a step looks at is pinned
        return is_due(self._engine.log.pending, context, found[0], self._now())

    async def _trim_events(self, keep: int) -> None:
        log = self._engine.log
        noted = (log.durable.get(TRIMMED, "") or Trimmed()).events
        self._looked = max(self._looked, noted)
        while True:
            began = trio.current_time()
            old, looked = trim.old_events(log, self._looked, self._now() - keep)
            if looked == self._looked:
                return
            self._looked = looked
            if old or looked - noted >= FAR:
                noted = looked
                for appended in await self._carry_out(TrimEvents(looked, tuple(old))):
                    assert isinstance(appended.event, EventsTrimmed)
                    self._note_removed(len(appended.event.removed), {keys.LOG: appended.event.removed})
            await trio.sleep(max(PAUSE, trio.current_time() - began))

    async def _carry_out(self, command: TrimContext | TrimEvents) -> Sequence[Appended]:
        """Have something removed; gives the events when that is on disk. Streams can see it at once."""
        committer, told, outcome = self._engine.committer, trio.Event(), list[Result | EngramError]()

        def done(result: Result | EngramError) -> None:
            outcome.append(result)
            self.on_disk = self.on_disk if isinstance(result, EngramError) else self.trims
            told.set()

        decided = committer.submit(command, committer.now(), done)
        for appended in decided:
            if isinstance(event := appended.event, UnitsTrimmed):
                self._tell(event.context, max(entry for entry, _ in event.entries))
                if event.ends:
                    self._tell(None, max(event.ends))
            elif isinstance(event, EventsTrimmed) and event.removed:
                self._tell(None, max(event.removed))
        await told.wait()
        if isinstance(outcome[0], EngramError):
            raise outcome[0]
        return decided

    def _tell(self, context: str | None, last: int) -> None:
        self._trimmed.append((context, last))
        self.trims += 1

    def _note_removed(self, count: int, removed: dict[bytes, Sequence[int]]) -> None:
        """So many entries or events were removed, and under each prefix the keys of these seqs."""
        self._count += count
        for prefix, seqs in removed.items():
            if seqs:
                first, last = self._removed.get(prefix, (seqs[0], seqs[0]))
                self._removed[prefix] = min(first, *seqs), max(last, *seqs)

    async def _compact(self) -> None:
        """Have the files lose what was removed."""
        removed, self._removed, self._count = self._removed, {}, 0
        for prefix, span in removed.items():
            await self._engine.offload(partial(self._engine.log.drop, prefix, *span))
            await trio.sleep(PAUSE)
        self._compacted_at = trio.current_time()
