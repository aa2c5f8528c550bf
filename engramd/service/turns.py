"""Turns on the loop: what one agent's connections do between two looks at the others is bounded, however many they are."""

from __future__ import annotations

import time
from types import TracebackType

import trio

SLICE = 0.001  # seconds: a dozen of small requests, or more


class Turn:
    """What the connections of one account share: so much work, then whoever else has something to do, then so much again.

    Work is what happens between `begin` and `end`, or in `async with`, without waiting. As long as there is less than a slice of it, none
    of this waits.
    """

    def __init__(self) -> None:
        self._left = SLICE
        self._began: float | None = None
        self._is_over = False
        self._queue = trio.lowlevel.ParkingLot()

    async def begin(self) -> None:
        """Begin to work, when it is the turn of this account, and in it of this task. A checkpoint only if it has to wait."""
        if self._is_over:
            await self._queue.park()
        self.start()

    @property
    def is_queued(self) -> bool:
        """Whether `begin` has to wait."""
        return self._is_over

    def start(self) -> None:
        """Begin to work, whoever's turn it is: the next look at `is_over` tells."""
        self._began = time.monotonic()

    @property
    def is_over(self) -> bool:
        """Whether others should have their turn before any more work."""
        return self._began is not None and time.monotonic() - self._began >= self._left

    def end(self) -> None:
        """The work is done, or goes on with the next turn. Where none has begun, nothing happens."""
        if self._began is None:
            return
        self._left -= time.monotonic() - self._began
        self._began = None
        if self._left <= 0 and not self._is_over:
            self._is_over = True
            self._after_others()

    async def __aenter__(self) -> None:
        await self.begin()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.end()

    async def next(self) -> None:
        """Let others in, and begin again."""
        self.end()
        if not self._is_over:
            await trio.lowlevel.checkpoint()
        await self.begin()

    def _after_others(self) -> None:
        trio.lowlevel.current_trio_token().run_sync_soon(self._again)

    def _again(self) -> None:
        """A round of the loop has passed. One task goes on in each, in order, even where one of them is cancelled."""
        self._left = SLICE
        if self._queue:
            self._queue.unpark()
            self._after_others()
        else:
            self._is_over = False
