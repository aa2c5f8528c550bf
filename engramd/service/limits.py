"""What one agent may use at a time, so that none can crowd out the others; whatever is refused is counted.

A bearer of a token is accounted for by the token, everybody else by the agent's name.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence

import trio

from ..protocol.connection import Request
from ..protocol.errors import EngramError
from ..protocol.limits import Limits
from ..protocol.messages import OPERATIONS
from .turns import Turn

logger = logging.getLogger("engramd.limits")

SOON = 1.0  # seconds: when to try again what others have to end first
BURST = 2.0  # seconds' worth of bytes that may come at once
LARGE_FRAMES = 16  # that may arrive at a time
PAUSE = 1.0  # seconds, at most: what is sent may be that a stream or a wait is given up
NEWS = 10.0  # seconds between two messages about the same
SEARCHING = ("search", "pack")  # which the worker carries out one after the other
REQUESTS, STREAMS, WAITS, SEARCHES = ("requests",), ("requests", "streams"), ("requests", "waits"), ("requests", "searches")
MAX_REMEMBERED = 4096  # accounts of agents that have gone, and have sent more than they may send again at once


def _kinds(request: Request) -> tuple[str, ...]:
    """The limits that a request counts against as long as it has no answer."""
    if request.lasts:
        return WAITS if OPERATIONS[request.op].waits else STREAMS
    return SEARCHES if request.op in SEARCHING else REQUESTS


class Account:
    """What one agent uses now.

    Attributes:
        turn: on the loop.
        large: what a connection needs to have more than a little of a frame: what has not arrived whole takes memory.
    """

    def __init__(self, limits: Limits) -> None:
        self.used = dict.fromkeys(("connections", *REQUESTS, *STREAMS, *WAITS, *SEARCHES), 0)
        self._rate = limits.bytes_per_second
        self._left = self._rate * BURST
        self._at = trio.current_time()
        self.turn = Turn()
        self.large = trio.Semaphore(LARGE_FRAMES)
        self._insists = False

    def spend(self, size: int) -> float:
        """Take bytes of what there is; where there is any at all, a request may take more. Else nothing is taken.

        Returns:
            0, or the seconds until it may send again.
        """
        rate = self._rate
        if not rate:
            return 0.0
        now = trio.current_time()
        left = self._left + (now - self._at) * rate
        if left > rate * BURST:
            left = rate * BURST
        elif left < 0:
            self._insists = True
            return -left / rate
        self._left, self._at = left - size, now
        return 0.0

    def charge(self, size: int) -> None:
        """Take bytes of what is no request, whether there are any or not."""
        if self.spend(size):
            self._left -= size

    def pause(self) -> float:
        """Seconds in which not to read from it, since it has gone on although it may not: answering costs as much as doing."""
        insists, self._insists = self._insists, False
        return min(self._wait, PAUSE) if insists else 0.0

    @property
    def has_to_pause(self) -> bool:
        """Whether `pause` may say so."""
        return self._insists

    @property
    def is_fresh(self) -> bool:
        """Whether it is as a new one would be."""
        return not self.used["connections"] and (not self._rate or self._now_left() >= self._rate * BURST)

    @property
    def _wait(self) -> float:
        return max(0.0, -self._now_left() / self._rate) if self._rate else 0.0

    def _now_left(self) -> float:
        return min(self._rate * BURST, self._left + (trio.current_time() - self._at) * self._rate)


class Accounts:
    """The accounts of everybody who is connected, or was until just now: who comes back has not got anew what was used up.

    Attributes:
        refused: how often a limit was met, and how often other things were refused at the door, by name.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._most: dict[str, int] = limits._asdict()
        self.refused: Counter[str] = Counter()
        self._accounts: dict[str, Account] = {}
        self._left: dict[str, None] = {}  # accounts without connections, the one that was left first first
        self._told: dict[str, tuple[float, int]] = {}

    def open(self, name: str) -> Account:
        """One more connection. Raises EngramError("busy")."""
        self._forget()
        account = self._accounts.get(name) or Account(self.limits)
        self._take(account, name, ("connections",))
        self._accounts[name] = account
        self._left.pop(name, None)
        return account

    def close(self, name: str) -> None:
        """One connection less."""
        account = self._accounts[name]
        account.used["connections"] -= 1
        if account.is_fresh:
            del self._accounts[name]
        elif not account.used["connections"]:
            self._left[name] = None

    def _forget(self) -> None:
        """Forget accounts that have nothing to remember any more, and the oldest of very many."""
        while self._left:
            name = next(iter(self._left))
            if not self._accounts[name].is_fresh and len(self._left) <= MAX_REMEMBERED:
                return
            del self._left[name], self._accounts[name]

    def admit(self, account: Account, name: str, request: Request) -> tuple[str, ...]:
        """What a request takes up as long as it has no answer. Raises EngramError("busy")."""
        wait = account.spend(request.size)
        if wait:
            raise self.busy("bytes_per_second", f"{name} has sent more than {self.limits.bytes_per_second} bytes a second", wait)
        kinds = _kinds(request)
        self._take(account, name, kinds)
        return kinds

    def _take(self, account: Account, name: str, kinds: Sequence[str]) -> None:
        used, most = account.used, self._most
        for kind in kinds:
            if used[kind] >= most[kind]:
                raise self.busy(kind, f"{name} has {most[kind]} {kind} already, as many as one agent may", limit=most[kind])
        for kind in kinds:
            used[kind] += 1

    def busy(self, kind: str, problem: str, wait: float = SOON, **details: int) -> EngramError:
        """The error for a limit that was met; it is counted."""
        self.note(kind, problem)
        return EngramError("busy", f"{problem}; try again in {wait:.1f} s", retry_after=round(wait, 3), **details)

    def note(self, kind: str, problem: str) -> None:
        """Count what was refused, and log it, but not every time."""
        self.refused[kind] += 1
        at, silent = self._told.get(kind, (-math.inf, 0))
        if trio.current_time() < at + NEWS:
            self._told[kind] = at, silent + 1
            return
        self._told[kind] = trio.current_time(), 0
        logger.warning("refused: %s%s", problem, f" ({silent} more like it in between)" if silent else "")

    def status(self) -> dict[str, dict[str, int]]:
        """What `status` tells: the limits, and how often they were met."""
        return {"most": self._most, "refused": dict(self.refused)}
