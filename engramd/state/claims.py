"""Claims: which entries of a consumer are not done, and which of its members has them. In memory only."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Collection
from heapq import heappop, heappush
from math import inf

from .view import Progress, Ranges

WINDOW = 1024  # entries of one consumer that were looked at and are not done
MAX_AHEAD = 1024  # entries that are done although nobody has looked at them yet


class Pending:
    """An entry that is not done yet.

    Attributes:
        key: entries of one key are delivered one at a time, in order; None for one without.
        failures: deliveries that ended without an acknowledgement.
        member: who has it, or None.
        since: when they got it, in seconds.
        last: who had it last.
        parking: whether it is about to be parked, and must not be delivered meanwhile.
    """

    __slots__ = ("entry", "failures", "key", "last", "member", "parking", "since")

    def __init__(self, entry: int, key: str | None) -> None:
        self.entry = entry
        self.key = key
        self.failures = 0
        self.member: int | None = None
        self.since = 0.0
        self.last: int | None = None
        self.parking = False


class _Member:
    __slots__ = ("front_since", "held", "late_until", "prefetch", "turn", "until")

    def __init__(self, prefetch: int, until: float) -> None:
        self.prefetch = prefetch
        self.until = until  # the last entry that it wants
        self.held: dict[int, Pending] = {}  # in the order of delivery
        self.front_since = 0.0  # when the first of them became the first
        self.turn = 0  # when it was last given something
        self.late_until = -inf  # having been overdue, it gets nothing before that as long as there are others


class Claims:
    """Which entries of a consumer are not done, and who has them. Pure: the caller says what time it is, in seconds.

    A member handles its units in the order in which it gets them. So only the first of those that it has can be overdue, or is to blame
    when the member goes; the others go back as they were.

    Args:
        visibility: seconds that a member may have a unit.
        deliveries: after so many deliveries, an entry is to be parked.

    Attributes:
        position: the seq up to which every entry was added.
    """

    def __init__(self, progress: Progress, visibility: float, deliveries: int) -> None:
        self.position = progress.cursor
        self._visibility = visibility
        self._deliveries = deliveries
        self._progress = progress  # as it was
        self._saved = progress.cursor
        self._ahead: set[int] = set()
        self._open: dict[int, Pending] = {}
        self._order: list[int] = []
        self._ready: list[int] = []
        self._behind: dict[str, deque[int]] = {}
        self._members: dict[int, _Member] = {}
        self._turn = 0
        self._fresh: set[int] = set()

    def __len__(self) -> int:
        """How many entries are not done, of those that were looked at."""
        return len(self._open)

    @property
    def held(self) -> int:
        """How many of them members have."""
        return sum(len(member.held) for member in self._members.values())

    @property
    def cursor(self) -> int:
        """The seq up to which everything is done."""
        first = next((entry for entry in self._order if entry > self._saved), None)
        return self.position if first is None else min(self.position, first - 1)

    def is_waiting(self, member: int) -> bool:
        """Whether an entry waits that the member could get."""
        entry = self._ready_entry()
        return entry is not None and entry <= self._members[member].until

    @property
    def blamed(self) -> bool:
        """Whether there is something to remember: a delivery that failed, or an acknowledgement."""
        return bool(self._fresh) or any(claim.failures for claim in self._open.values())

    def holding(self, member: int) -> int:
        """How many entries a member has."""
        return len(self._members[member].held)

    # Looking at the log

    def room(self, able: Collection[int]) -> int:
        """How many more entries to look for, given who can take one. Where entries wait for others of their key, more are looked at."""
        if self._ready_entry() is not None or len(self._open) >= WINDOW:
            return 0
        takers = (member for name, member in self._members.items() if name in able and self.position < member.until)
        wanted = sum(member.prefetch - len(member.held) for member in takers)
        return min(wanted, WINDOW - len(self._open)) if wanted > 0 else 0

    def add(self, entry: int, key: str | None, again: bool = False) -> None:
        """An entry that the consumer wants, unless it is done already. In order of the log, or one that was parked and is tried again."""
        if entry in self._open or (not again and self._is_done(entry)):
            return
        claim = self._open[entry] = Pending(entry, key)
        insort(self._order, entry)
        if key is not None:
            queue = self._behind.setdefault(key, deque())
            queue.append(entry)
            if queue[0] != entry:
                return
        self._make_ready(claim)

    def reach(self, seq: int) -> None:
        """Every entry up to `seq` has been added."""
        self.position = max(self.position, seq)
        if self._ahead:
            self._ahead = {entry for entry in self._ahead if entry > self.position}

    def _is_done(self, entry: int) -> bool:
        return entry in self._ahead or self._progress.is_done(entry)

    def _make_ready(self, claim: Pending) -> None:
        heappush(self._ready, claim.entry)

    def _ready_entry(self) -> int | None:
        while self._ready:
            claim = self._open.get(self._ready[0])
            if claim is not None and claim.member is None and not claim.parking:
                return self._ready[0]
            heappop(self._ready)
        return None

    # Members

    def join(self, member: int, prefetch: int, until: float = inf) -> None:
        """A member that may have so many entries at a time, and wants none beyond `until`."""
        self._members[member] = _Member(prefetch, until)

    def leave(self, member: int) -> list[Pending]:
        """Take back what a member has; gives what is to be parked."""
        held = list(self._members.pop(member).held.values())
        for at, claim in enumerate(held):
            self._release(claim, failed=at == 0)
        return self._to_park(held)

    def give(self, now: float, able: Collection[int]) -> Pending | None:
        """Hand the oldest entry that waits to the best of the members that are able to take one; None when there is none or nobody."""
        entry = self._ready_entry()
        if entry is None:
            return None
        claim = self._open[entry]
        all_late = all(member.late_until > now for member in self._members.values())
        takers = [
            (name, member)
            for name in able
            if len((member := self._members[name]).held) < member.prefetch
            and entry <= member.until
            and (all_late or member.late_until <= now)
        ]
        if not takers:
            return None
        name, member = min(takers, key=lambda taker: (taker[0] == claim.last, len(taker[1].held), taker[1].turn))
        heappop(self._ready)
        self._turn += 1
        member.turn = self._turn
        if not member.held:
            member.front_since = now
        claim.member, claim.since = name, now
        member.held[entry] = claim
        return claim

    def deadline(self, now: float) -> float:
        """When the next member is overdue, or is to be trusted again; infinity when there is nothing to wait for."""
        overdue = min((member.front_since for member in self._members.values() if member.held), default=inf) + self._visibility
        late = [member.late_until for member in self._members.values() if member.late_until > now]
        return min(overdue, *late) if late and self._ready_entry() is not None else overdue

    def expire(self, now: float) -> list[Pending]:
        """Take back what members have had too long; gives what is to be parked."""
        taken: list[Pending] = []
        for member in self._members.values():
            if member.held and member.front_since + self._visibility <= now:
                front, *others = member.held.values()
                for claim in (front, *(claim for claim in others if claim.since + self._visibility <= now)):
                    del member.held[claim.entry]
                    self._release(claim, failed=claim is front)
                    taken.append(claim)
                member.front_since, member.late_until = now, now + self._visibility
        return self._to_park(taken)

    def _release(self, claim: Pending, failed: bool) -> None:
        claim.last, claim.member = claim.member, None
        claim.failures += failed
        self._make_ready(claim)

    def _to_park(self, claims: list[Pending]) -> list[Pending]:
        found = [claim for claim in claims if claim.failures >= self._deliveries]
        for claim in found:
            claim.parking = True
        return found

    # What is done

    def ack(self, now: float, entry: int) -> bool:
        """An entry is done; False if it was already.

        Raises:
            OverflowError: too many entries are done that nobody has looked at.
        """
        if entry not in self._open and entry > self.position:
            if self._is_done(entry):
                return False
            if len(self._ahead) >= MAX_AHEAD:
                raise OverflowError
            self._ahead.add(entry)
        elif not self._close(now, entry):
            return False
        self._fresh.add(entry)
        return True

    def unpark(self, entry: int) -> None:
        """An entry that is parked is done."""
        self._fresh.add(entry)

    def parked(self, now: float, entry: int) -> None:
        """An entry was parked."""
        self._close(now, entry)

    def not_parked(self, entry: int) -> None:
        """An entry could not be parked: it is delivered again."""
        claim = self._open.get(entry)
        if claim is not None and claim.parking:
            claim.parking = False
            self._make_ready(claim)

    def _close(self, now: float, entry: int) -> bool:
        claim = self._open.pop(entry, None)
        if claim is None:
            return False
        del self._order[bisect_left(self._order, entry)]
        if claim.last in self._members:
            self._members[claim.last].late_until = -inf
        if claim.member is not None:
            held = self._members[claim.member].held
            if next(iter(held)) == entry:
                self._members[claim.member].front_since = now
            del held[entry]
        if claim.key is not None:
            queue = self._behind[claim.key]
            was_first = queue[0] == entry
            queue.remove(entry)
            if not queue:
                del self._behind[claim.key]
            elif was_first:
                self._make_ready(self._open[queue[0]])
        return True

    @property
    def unsaved(self) -> bool:
        """Whether there are acknowledgements that no event says yet."""
        return bool(self._fresh)

    @property
    def passed(self) -> int:
        """How many events were passed over since progress was last saved."""
        return self.position - self._saved

    def save(self) -> tuple[Ranges, tuple[int, ...]]:
        """What to write down: ranges in which everything is done, and the entries that were acknowledged since the last call."""
        entries = tuple(sorted(self._fresh))
        found = {self._around(entry) for entry in entries}
        if self.position not in self._open:
            found.add(self._around(self.position))
        self._fresh.clear()
        self._saved = self.cursor
        return tuple(sorted(span for span in found if span[0] <= span[1])), entries

    def _around(self, entry: int) -> tuple[int, int]:
        """The longest range with the entry in it that holds nothing but what is done or not wanted."""
        if entry > self.position:
            return entry, entry
        at = bisect_left(self._order, entry)
        last = self._order[at] - 1 if at < len(self._order) else self.position
        return (self._order[at - 1] + 1 if at else 1), min(last, self.position)
