"""Who waits for a lease: first come, first served, and never for ever. Volatile: a restart forgets it, and waiters ask again.

Pure: no clock, no I/O. A request is granted when no lease and no earlier waiter stands in its way, so nobody is passed by.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..shapes import NamedTuple
from .locks import bears, holders, in_the_way
from .resources import Index, overlap
from .view import Claim, Party, View, party


class Waiter(NamedTuple):
    """One who waits."""

    claim: Claim
    agent: str
    session: str | None

    @property
    def party(self) -> Party:
        """Who it is in the search for cycles."""
        return party(self.agent, self.session)


class Obstacle(NamedTuple):
    """Something in the way of a claim: a lease, or an earlier waiter.

    Attributes:
        holds: whether it is a lease.
        key: the lease's token, or the waiter's number.
    """

    agent: str
    party: Party
    holds: bool
    key: int
    claim: Claim


class Waiters:
    """The queue, by number: the order in which they came."""

    def __init__(self) -> None:
        self._by_number: dict[int, Waiter] = {}
        self._by_party: dict[Party, dict[int, None]] = {}
        self._index: Index[int] = Index()
        self._last = 0

    def __len__(self) -> int:
        return len(self._by_number)

    def __iter__(self) -> Iterator[tuple[int, Waiter]]:
        return iter(self._by_number.items())

    def add(self, waiter: Waiter) -> int:
        """Go to the end of the queue, and draw a number."""
        self._last += 1
        self._by_number[self._last] = waiter
        self._by_party.setdefault(waiter.party, {})[self._last] = None
        self._index.add(self._last, waiter.claim.resources)
        return self._last

    def remove(self, number: int) -> Waiter:
        """Leave the queue."""
        waiter = self._by_number.pop(number)
        self._index.remove(number, waiter.claim.resources)
        mine = self._by_party[waiter.party]
        del mine[number]
        if not mine:
            del self._by_party[waiter.party]
        return waiter

    def obstacles(self, view: View, claim: Claim, before: int | None = None) -> list[Obstacle]:
        """What stands in the way of a claim: leases, and waiters with a lower number than `before` (None: all). None: it can be granted."""
        return list(in_the_way(claim, ((rival, rival.claim) for rival in self._rivals(view, claim, before))))

    def obstacle(self, view: View, claim: Claim, before: int | None = None) -> Obstacle | None:
        """The first of them. Looks no further than it must, unless slots have to be counted."""
        if claim.mode == "slots":
            return next(iter(self.obstacles(view, claim, before)), None)
        return next((rival for rival in self._rivals(view, claim, before) if not bears(claim, rival.claim)), None)

    def overlapping(self, resources: Iterable[str]) -> list[int]:
        """The waiters for something that overlaps one of the resources, in order."""
        return sorted({number for resource in resources for number in self._index.overlapping(resource)})

    def _rivals(self, view: View, claim: Claim, before: int | None) -> Iterator[Obstacle]:
        """Leases first, and then who waits, in order."""
        yield from (self._lease(view, token) for token, _ in holders(view, claim.resources))
        yield from (self._wait(number) for number in self.overlapping(claim.resources) if before is None or number < before)

    def ready(self, view: View, freed: Iterable[str]) -> Iterator[int]:
        """The waiters whose turn it is after these resources were freed, first come first.

        Whoever iterates takes each from the queue and grants it before asking for the next.
        """
        for number in self.overlapping(freed):
            if number in self._by_number and self.obstacle(view, self._by_number[number].claim, number) is None:
                yield number

    def cycle(self, view: View, waiter: Waiter) -> list[tuple[Waiter, Obstacle]]:
        """The cycle that one more waiter would close, as steps: who waits, and for what. Empty when it can be granted some day.

        A party gives up what it holds, and what it is granted meanwhile, once all its waits are granted. Only jobs of one agent outside of
        sessions, which run side by side, do not keep from each other what they both want.

        Nobody waits for ever as yet, so a cycle must lead through what the new wait holds up: this looks backward from there.
        """
        held_up = {(one.holds, one.key): 0 for one in self._held_up_by(view, waiter)}  # by the wait with this number
        stuck: dict[int, Obstacle] = {}  # waits that could not be granted any more: for what they wait
        found = list(self._held_up_by(view, waiter))
        looked: dict[Claim, int] = {}
        for obstacle in found:
            after = 0 if obstacle.holds else obstacle.key
            if not obstacle.holds and looked.setdefault(obstacle.claim, after) < after:
                continue
            for number in self.overlapping(obstacle.claim.resources):
                other = self._by_number[number]
                if number <= after or number in stuck or not _counts(other, obstacle):
                    continue
                stuck[number] = obstacle
                for one in (self._wait(number), *self._held_up_by(view, other, number)):
                    if (one.holds, one.key) not in held_up:
                        held_up[one.holds, one.key] = number
                        found.append(one)
        for obstacle in self.obstacles(view, waiter.claim) if held_up else ():
            if _counts(waiter, obstacle) and (obstacle.holds, obstacle.key) in held_up:
                steps = [(waiter, obstacle)]
                while number := held_up[obstacle.holds, obstacle.key]:
                    obstacle = stuck[number]
                    steps.append((self._by_number[number], obstacle))
                slots = any(step.claim.mode == "slots" for _, step in steps)
                return [] if slots and self._can_be_granted(view, waiter) else steps
        return []

    def _can_be_granted(self, view: View, waiter: Waiter) -> bool:
        """The same question from the front: let everybody go on who can, again and again. With slots, only some have to."""
        new = self._last + 1
        waits = {**self._by_number, new: waiter}
        obstacles = {
            number: [obstacle for obstacle in self.obstacles(view, other.claim, number) if _counts(other, obstacle)]
            for number, other in waits.items()
        }
        while new in obstacles:
            staying = {(False, number) for number in obstacles}
            staying |= {(one.holds, one.key) for number in obstacles for one in self._held_up_by(view, waits[number], number)}
            granted = [
                number
                for number, ahead in obstacles.items()
                if not in_the_way(waits[number].claim, ((one, one.claim) for one in ahead if (one.holds, one.key) in staying))
            ]
            if not granted:
                return False
            for number in granted:
                del obstacles[number]
        return True

    def _held_up_by(self, view: View, waiter: Waiter, number: int = 0) -> Iterator[Obstacle]:
        """What its party holds, or waits for beside this, and will not give up as long as this waits."""
        leases = (self._lease(view, token) for token in view.held.parties.get(waiter.party, ()))
        waits = (self._wait(other) for other in self._by_party.get(waiter.party, ()) if other != number)
        for obstacle in (*leases, *waits):
            if waiter.session is not None or not _conflict(waiter.claim, obstacle.claim):
                yield obstacle

    @staticmethod
    def _lease(view: View, token: int) -> Obstacle:
        lease = view.held.leases[token]
        return Obstacle(lease.holder, party(lease.holder, lease.session), True, token, lease.claim)

    def _wait(self, number: int) -> Obstacle:
        waiter = self._by_number[number]
        return Obstacle(waiter.agent, waiter.party, False, number, waiter.claim)


def _conflict(a: Claim, b: Claim) -> bool:
    """Whether two claims overlap and could keep each other out."""
    return (a.mode == "slots" or not bears(a, b)) and any(overlap(one, other) for one in a.resources for other in b.resources)


def _counts(waiter: Waiter, obstacle: Obstacle) -> bool:
    """Whether an obstacle counts in the search for cycles. What another job of the same agent has or wants does not."""
    own_job = waiter.session is None and obstacle.party == waiter.party
    return not own_job and (waiter.claim.mode == "slots" or not bears(waiter.claim, obstacle.claim))
