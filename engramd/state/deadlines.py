"""When leases end unless they are renewed. Volatile: after a restart every lease gets its full time again. Pure: instants are numbers."""

from __future__ import annotations

from heapq import heapify, heappop, heappush

from ..shapes import NamedTuple


class Deadline(NamedTuple):
    """When a lease ends, in seconds of a clock that no one sets, and how often it was renewed."""

    at: float
    renewal: int


class Deadlines:
    """The deadline of each lease, by token."""

    def __init__(self) -> None:
        self._by_token: dict[int, Deadline] = {}
        self._heap: list[tuple[float, int]] = []  # with deadlines that were moved or dropped since

    def get(self, token: int) -> Deadline | None:
        """The deadline; None for a lease that has none."""
        return self._by_token.get(token)

    def set(self, token: int, at: float) -> Deadline:
        """Set or move the deadline; moving counts as a renewal."""
        before = self._by_token.get(token)
        deadline = self._by_token[token] = Deadline(at, 0 if before is None else before.renewal + 1)
        heappush(self._heap, (at, token))
        if len(self._heap) > 64 + 4 * len(self._by_token):
            self._heap = [(deadline.at, token) for token, deadline in self._by_token.items()]
            heapify(self._heap)
        return deadline

    def drop(self, token: int) -> None:
        """The lease has ended, or lasts without a deadline."""
        self._by_token.pop(token, None)

    def next(self) -> float | None:
        """The earliest deadline."""
        while self._heap:
            at, token = self._heap[0]
            deadline = self._by_token.get(token)
            if deadline is not None and deadline.at == at:
                return at
            heappop(self._heap)
        return None

    def due(self, now: float) -> list[tuple[int, int]]:
        """The tokens whose deadline has come, with the number of their last renewal; they have none from now on."""
        found = []
        while (at := self.next()) is not None and at <= now:
            _, token = heappop(self._heap)
            found.append((token, self._by_token.pop(token).renewal))
        return found
