"""Who waits for a lease: first come, first served, and never for ever. Volatile: a restart forgets it, and waiters ask again.

Pure: no clock, no I/O. A request is granted when no lease and no earlier waiter stands in its way, so nobody is passed by.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from .locks import bears, holders, in_the_way
from .resources import Index
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

    def overlapping(self, resources: Iterable[str]) -> list[int]:
        """The waiters for something that overlaps one of the resources, in order."""
        return sorted({number for resource in resources for number in self._index.overlapping(resource)})

    def _rivals(self, view: View, claim: Claim, before: int | None) -> Iterator[Obstacle]:
        """Leases first, and then who waits, in order."""
        for token, lease in holders(view, claim.resources).items():
            yield Obstacle(lease.holder, party(lease.holder, lease.session), True, token, lease.claim)
        for number in self.overlapping(claim.resources):
            if before is None or number < before:
                waiter = self._by_number[number]
                yield Obstacle(waiter.agent, waiter.party, False, number, waiter.claim)

    def _is_next(self, view: View, number: int) -> bool:
        """Whether nothing is in the way of a waiter. Looks no further than it must: a queue is asked for each of its members."""
        claim = self._by_number[number].claim
        if claim.mode == "slots":
            return not self.obstacles(view, claim, number)
        return all(bears(claim, rival.claim) for rival in self._rivals(view, claim, number))

    def ready(self, view: View, freed: Iterable[str]) -> Iterator[int]:
        """The waiters whose turn it is after these resources were freed, first come first.

        Whoever iterates takes each from the queue and grants it before asking for the next.
        """
        for number in self.overlapping(freed):
            if number in self._by_number and self._is_next(view, number):
                yield number

    def cycle(self, view: View, waiter: Waiter) -> list[tuple[Party, Obstacle]]:
        """The cycle that one more waiter would close, as steps: who waits, and for what. Empty when its wait can end.

        Parties are what waits for each other: a party can go on once all its waits can end, and then gives up all that it has. Jobs of
        one agent outside of sessions run side by side, so an agent never waits for itself.
        """
        if waiter.party not in view.held.parties and waiter.party not in self._by_party:
            return []  # nobody can be waiting for it
        stuck: dict[Party, list[_Wait]] = {}
        unseen = [(waiter.party, [_Wait(waiter.claim, self._obstacles_of(view, waiter, None))])]
        while unseen:
            who, waits = unseen.pop()
            stuck[who] = waits
            for other in {obstacle.party for wait in waits for obstacle in wait.obstacles} - stuck.keys():
                numbers = self._by_party.get(other, ())
                if numbers and other not in {seen for seen, _ in unseen}:
                    mine = [(number, self._by_number[number]) for number in numbers]
                    unseen.append((other, [_Wait(one.claim, self._obstacles_of(view, one, number)) for number, one in mine]))
        while going := [who for who, waits in stuck.items() if all(wait.can_end(stuck) for wait in waits)]:
            for who in going:
                del stuck[who]
        return _way_round(stuck, waiter.party)

    def _obstacles_of(self, view: View, waiter: Waiter, number: int | None) -> list[Obstacle]:
        found = self.obstacles(view, waiter.claim, number)
        return found if waiter.session is not None else [obstacle for obstacle in found if obstacle.party != waiter.party]


class _Wait(NamedTuple):
    claim: Claim
    obstacles: list[Obstacle]

    def can_end(self, stuck: dict[Party, list[_Wait]]) -> bool:
        """Whether it is enough that those who are not stuck give up what they have. Slots need only some of them to."""
        return not in_the_way(self.claim, ((obstacle, obstacle.claim) for obstacle in self.obstacles if obstacle.party in stuck))


def _way_round(stuck: dict[Party, list[_Wait]], start: Party) -> list[tuple[Party, Obstacle]]:
    """The shortest way from a party over others that are stuck back to itself."""
    came: dict[Party, tuple[Party, Obstacle]] = {}
    queue = [start] if start in stuck else []
    for who in queue:
        for obstacle in (obstacle for wait in stuck[who] for obstacle in wait.obstacles):
            if obstacle.party in stuck and obstacle.party not in came:
                came[obstacle.party] = who, obstacle
                queue.append(obstacle.party)
    steps: list[tuple[Party, Obstacle]] = []
    at = start
    while start in came and (at != start or not steps):
        steps.insert(0, came[at])
        at = came[at][0]
    return steps
