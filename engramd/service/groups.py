"""The members of a consumer, and their streams.

A group reads the log only as far as its members have room for more. Whoever is first among them does the work for all, and nobody waits for
one of them: what a member does not take goes to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import inf
from typing import TYPE_CHECKING, Any

import cbor2
import trio

from ..protocol.connection import Id, item_frame
from ..protocol.cursor import format_cursor
from ..protocol.errors import EngramError
from ..protocol.framing import encode, encode_map
from ..protocol.messages import DEFAULT_CREDIT, MAX_CREDIT
from ..state.claims import Claims, Pending
from ..state.consumers import (
    Acknowledge,
    Park,
)
from ..state.filters import EVERYTHING, Filter
from ..state.outcome import Refused
from ..state.view import PARKED, PROGRESS, Consumer, Progress
from ..storage.query import STEP_BYTES, Entry, Range, entry_of, step
from .fanout import Published, mark_item
from .peer import Peer
from .subscriptions import FULL, HEARTBEAT, SHOWN

if TYPE_CHECKING:
    from .committer import Result
    from .engine import Engine

MAX_MEMBERS = 256  # of one consumer
ACK_INTERVAL = 0.02  # seconds between two events with acknowledgements of one consumer
FAR = 10_000  # events that are passed over before that is written down without an acknowledgement
BURST = 64  # units given out before other tasks get their turn


class Group:
    """The members of a consumer, and which of them has what. To the fan-out, one subscriber.

    Attributes:
        claims: who has what.
    """

    live = True  # the fan-out tells it of everything; it reads the log itself

    def __init__(self, engine: Engine, name: str, settings: Consumer, progress: Progress) -> None:
        self.name = name
        self.contexts: Sequence[str] | None = settings.contexts or None
        self._engine = engine
        self._settings = settings
        self._filter = Filter.from_map(settings.filter)
        self._members: dict[int, Member] = {}
        self._numbers = 0
        self._read_ahead: dict[int, Entry] = {}
        self._behind = True  # there may be entries beyond the position
        self._is_stalled = False  # and no member has room for them
        self._saving = False
        self._saved = trio.Event()
        self._saved_at = -inf
        self._answers: list[Callable[[Result | EngramError], None]] = []
        self._ended = False
        self._begin(progress)

    def _begin(self, progress: Progress) -> None:
        self._epoch = progress.epoch
        self.claims = Claims(progress, self._settings.visibility / 1e6, self._settings.deliveries)
        for number, member in self._members.items():
            self.claims.join(number, member.prefetch, member.until)
        self._add_again(row.entry for row in self._engine.log.pending.get(PARKED, self.name) or () if row.again)
        self._behind = True
        self.wake()

    # What the fan-out knows of it

    @property
    def lag(self) -> int:
        """How many events of the log it has yet to look at."""
        return max(0, self._engine.fanout.durable_seq - self.claims.position) if self._behind else 0

    def describe(self) -> dict[str, Any]:
        """What `status` says of it: a consumer whose members have no room is stalled."""
        contexts = list(self.contexts or ())
        return {
            "agent": f"consumer {self.name}",
            "contexts": contexts[:SHOWN],
            **({"more": len(contexts) - SHOWN} if len(contexts) > SHOWN else {}),
            "state": "stalled" if self._behind and self._is_stalled else "catching_up" if self._behind else "live",
            "lag": self.lag,
        }

    def offer(self, published: Published) -> None:
        """Note that there is an entry to read."""
        if published.is_entry and not self._behind:
            self._behind = True
            self.wake()

    # Members

    def members(self) -> list[dict[str, Any]]:
        """The members as they are shown."""
        return [
            {"agent": member.agent, "held": self.claims.holding(number), "prefetch": member.prefetch}
            for number, member in self._members.items()
        ]

    def join(self, member: Member) -> int:
        """A new member, and the number that it has here. Raises EngramError("busy")."""
        if len(self._members) >= MAX_MEMBERS:
            raise EngramError("busy", f"the consumer {self.name!r} has {MAX_MEMBERS} members already", limit=MAX_MEMBERS)
        if not self._members:
            self._behind = True
            self._engine.fanout.add(self)
        self._numbers += 1
        self._members[self._numbers] = member
        self.claims.join(self._numbers, member.prefetch, member.until)
        self.wake()
        return self._numbers

    def leave(self, number: int) -> None:
        """A member is gone; what it had goes to others."""
        del self._members[number]
        self._park(self.claims.leave(number))
        if not self._members:
            self._engine.fanout.remove(self)
            self._save()
            self._retire()
        self.wake()

    def _retire(self) -> None:
        """Without members and without anything to remember, be forgotten."""
        if not self._members and not self.claims.blamed and not self._ended:
            self._engine.consumers.drop(self.name)

    def end(self, because: EngramError) -> None:
        """End every member's stream."""
        self._ended = True
        for member in self._members.values():
            member.cancel(because)

    def restart(self) -> None:
        """Go on from where the consumer stands now; what members have counts as never delivered."""
        progress = self._engine.log.pending.get(PROGRESS, self.name)
        if progress is not None:
            self._begin(progress)

    def wake(self) -> None:
        """Have the first member do what there is to do."""
        for member in self._members.values():
            member.wake()
            return

    def leads(self, number: int) -> bool:
        """Whether this member does the work for all."""
        return next(iter(self._members)) == number

    def is_finished(self, number: int, until: float) -> bool:
        """Whether there is nothing more for a member that wants no entry beyond `until`."""
        claims = self.claims
        return not claims.holding(number) and not claims.is_waiting(number) and (not self._behind or claims.position >= until)

    def cursor(self) -> str:
        """Up to where everything is done."""
        return format_cursor(self._engine.log.history, self.claims.cursor)

    # The work

    def deadline(self) -> float:
        """When there is something to do, even if nothing happens."""
        save = self._saved_at + ACK_INTERVAL if self._is_unsaved() and not self._saving else inf
        return min(self.claims.deadline(trio.current_time()), save)

    def pump(self) -> bool:
        """Take back what is overdue, read on, give out, write down: a step of each. Gives whether to go on at once."""
        now, claims = trio.current_time(), self.claims
        self._park(claims.expire(now))
        able = {number: member for number, member in self._members.items() if member.is_able()}
        if not self._behind:
            claims.reach(self._engine.fanout.durable_seq)
        more = self._look(able)
        for _ in range(BURST):
            claim = claims.give(now, able)
            if claim is None:
                break
            self._deliver(claim, now)
            assert claim.member is None or claim.member in able
            if claim.member is not None and not able[claim.member].is_able():
                del able[claim.member]
        else:
            more = True
        if now >= self._saved_at + ACK_INTERVAL:
            self._save()
        self._read_ahead.clear()
        for member in [] if more else list(self._members.values())[1:]:
            if not member.follow:
                member.wake()
        return more

    def _look(self, able: dict[int, Member]) -> bool:
        """Read on, as far as there is room; whether there was something to look at."""
        room = self.claims.room(able) if self._behind else 0
        self._is_stalled = not room
        if not room:
            return False
        position, end = self.claims.position, self._engine.fanout.durable_seq
        found = step(self._engine.log, Range(self.contexts, self._filter, position + 1, end), limit=min(room, BURST), size=STEP_BYTES)
        for entry in found.entries:
            self.claims.add(entry.seq, self._key(entry))
            self._read_ahead[entry.seq] = entry
        self.claims.reach(found.reached)
        self._behind = found.reached < end
        return True

    def _key(self, entry: Entry) -> str | None:
        """What an entry is ordered by; None for nothing."""
        key = self._settings.key
        if not key:
            return None
        unit = cbor2.loads(entry.unit)
        found: str | None = unit["agent"] if key == "agent" else unit["meta"].get(key.removeprefix("meta:"))
        return found

    def _entry(self, seq: int) -> Entry | None:
        log = self._engine.log
        record = log.record(seq)
        return None if record is None else entry_of(log, seq, record, EVERYTHING)

    def _deliver(self, claim: Pending, now: float) -> None:
        entry = self._read_ahead.pop(claim.entry, None) or self._entry(claim.entry)
        if entry is None:  # retention took it
            self.claims.ack(now, claim.entry)
            claim.member = None
        else:
            assert claim.member is not None
            progress = self._engine.log.pending.get(PROGRESS, self.name)
            self._members[claim.member].send(entry, claim.failures + 1, progress.missed if progress else 0)

    def _add_again(self, entries: Iterator[int]) -> None:
        gone = []
        for seq in entries:
            entry = self._entry(seq)
            if entry is None:  # retention took it
                gone.append(seq)
            else:
                self.claims.add(seq, self._key(entry), again=True)
        if gone:
            self._engine.carry_out(Acknowledge(self.name, self._epoch, (), tuple(gone)))

    def retry(self, entries: Sequence[int]) -> None:
        """Deliver entries that were parked."""
        self._add_again(iter(entries))
        self.wake()

    def _park(self, claims: list[Pending]) -> None:
        for claim in claims:
            self._engine.committer.submit(
                Park(self.name, self._epoch, claim.entry, claim.failures),
                self._engine.committer.now(),
                self._parked(self.claims, claim.entry),
            )

    def _parked(self, claims: Claims, entry: int) -> Callable[[Result | EngramError], None]:
        def done(result: Result | EngramError) -> None:
            if isinstance(result, list):
                claims.parked(trio.current_time(), entry)
            else:
                claims.not_parked(entry)
            self.wake()

        return done

    # Acknowledgements

    def ack(self, entries: Sequence[int], answer: Callable[[Result | EngramError, bool], None]) -> None:
        """Entries are done; `answer` is told when that is on disk, and whether it is news."""
        now, claims, changed = trio.current_time(), self.claims, False
        parked = {row.entry for row in self._engine.log.pending.get(PARKED, self.name) or ()}
        for entry in entries:
            try:
                changed |= claims.ack(now, entry)
            except OverflowError:
                raise EngramError("busy", f"too much is done beyond where the consumer {self.name!r} is; try again later") from None
            if entry in parked:
                claims.unpark(entry)
                changed = True
        self._answers.append(lambda result: answer(result, changed))
        if not self._members or now >= self._saved_at + ACK_INTERVAL:
            self._save()
        self.wake()

    def _is_unsaved(self) -> bool:
        return bool(self._answers) or self.claims.unsaved or (self.claims.passed >= FAR and not self._behind)

    def _save(self) -> None:
        """Write down what is done, unless that is under way already: then what is done meanwhile waits for it."""
        if self._saving or not self._is_unsaved():
            return
        done, entries = self.claims.save()
        answers, self._answers = self._answers, []

        def saved(result: Result | EngramError) -> None:
            self._saving = False
            self._saved.set()
            for answer in answers:
                answer(result)
            if self._members:
                self.wake()
            else:
                self._save()
                self._retire()

        self._saving, self._saved, self._saved_at = True, trio.Event(), trio.current_time()
        self._engine.committer.submit(Acknowledge(self.name, self._epoch, done, entries), self._engine.committer.now(), saved)

    async def settled(self) -> None:
        """Wait until every acknowledgement so far is on disk."""
        while self._saving or self._is_unsaved():
            self._save()
            await self._saved.wait()


class Member:
    """One `consume` under way.

    Args:
        asked: settings that the consumer must have.
        start: where it starts if it is new.
    """

    def __init__(self, engine: Engine, peer: Peer, request_id: Id, fields: dict[str, Any], asked: dict[str, Any], start: int) -> None:
        self.agent = peer.agent
        self.prefetch: int = fields.get("prefetch", 1)
        self.follow: bool = fields.get("follow", False)
        self._engine = engine
        self._peer = peer
        self._id = request_id
        self._name: str = fields["consumer"]
        self.until: float = inf if self.follow else engine.fanout.durable_seq
        self._credit: int = fields.get("credit", DEFAULT_CREDIT)
        self._wake = trio.Event()
        self._cancelled = False
        self._failure: EngramError | None = None
        self._crowded = False
        self._last_sent = trio.current_time()
        self._start = start
        self._asked = asked

    def is_able(self) -> bool:
        """Whether something can be sent now. If not, the group is woken when it can."""
        if self._peer.outbox.pending > FULL and not self._crowded:
            self._crowded = True
            self._peer.spawn(self._wait_for_room)
        return self._credit > 0 and not self._cancelled and not self._crowded

    async def _wait_for_room(self) -> None:
        await self._peer.outbox.room()
        self._crowded = False
        self._tell_group()

    def grant(self, credit: int) -> None:
        """Take more credit; at most MAX_CREDIT is remembered."""
        self._credit = min(self._credit + credit, MAX_CREDIT)
        self._tell_group()

    def cancel(self, because: EngramError | None = None) -> None:
        """End the stream at the next step, with an error if there is one."""
        self._cancelled, self._failure = True, because
        self.wake()

    def wake(self) -> None:
        """Look at what there is to do."""
        self._wake.set()

    def _tell_group(self) -> None:
        group = self._engine.consumers.get(self._name)
        if group is not None:
            group.wake()

    def send(self, entry: Entry, deliveries: int, missed: int) -> None:
        """Deliver an entry; if retention took others before they were done, with how many."""
        cursor = encode(format_cursor(self._engine.log.history, entry.seq))
        item = {"cursor": cursor, "kind": encode(entry.kind), "unit": entry.unit, "deliveries": encode(deliveries)}
        self._write({**item, "missed": encode(missed)} if missed else item)

    def _write(self, item: dict[str, bytes]) -> None:
        frame = item_frame(self._id, encode_map(item))
        self._credit -= len(frame)
        self._last_sent = trio.current_time()
        self._peer.outbox.write(frame)

    async def run(self) -> None:
        """Deliver until there is no more, or no reason to; answer with the consumer's cursor."""
        try:
            await self._engine.committer.carry_out(self._engine.consumers.create(self._name, self.agent, self._asked, self._start))
            group = self._engine.consumers.open(self._name, self._peer.access)
            number = group.join(self)
            try:
                await self._serve(group, number)
                await group.settled()
            finally:
                group.leave(number)
            if self._failure is not None:
                raise self._failure
            self._peer.answer(self._id, {"cursor": group.cursor()})
        finally:
            self._peer.streams.pop(self._id, None)

    async def _serve(self, group: Group, number: int) -> None:
        while not self._cancelled:
            deadline = self._last_sent + HEARTBEAT
            if group.leads(number):
                more = group.pump()
                self._engine.flusher.flush()
                if more:
                    await trio.lowlevel.checkpoint()
                    continue
                deadline = min(deadline, group.deadline())
            if not self.follow and group.is_finished(number, self.until):
                return
            with trio.move_on_at(deadline):
                await self._wake.wait()
            self._wake = trio.Event()
            if trio.current_time() >= self._last_sent + HEARTBEAT:
                self._heartbeat(group)

    def _heartbeat(self, group: Group) -> None:
        self._last_sent = trio.current_time()
        if self._peer.outbox.pending == 0:
            frame = item_frame(self._id, mark_item(self._engine.log.history, group.claims.cursor, "heartbeat"))
            self._credit -= len(frame)
            self._peer.outbox.write(frame)
            self._peer.outbox.flush()


def error_of(refused: Refused) -> EngramError:
    return EngramError(refused.code, refused.message, **refused.details)
