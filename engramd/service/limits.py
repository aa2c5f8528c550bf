"""What one agent may use at a time, so that none can crowd out the others; whatever is refused is counted.

A bearer of a token is accounted for by the token, everybody else by the agent's name.
"""

from __future__ import annotations

import logging
import math
from collections import Counter

import trio

from ..protocol.connection import Request
from ..protocol.errors import EngramError
from ..protocol.limits import Limits
from ..protocol.messages import OPERATIONS

logger = logging.getLogger("engramd.limits")

SOON = 1.0  # seconds: when to try again what others have to end first
BURST = 2.0  # seconds' worth of bytes that may come at once
REQUESTS = ("requests",)
NEWS = 10.0  # seconds between two messages about the same


class Account:
    """What one agent uses now."""

    def __init__(self, limits: Limits) -> None:
        self.used: Counter[str] = Counter()
        self._limits = limits
        self._rate = limits.bytes_per_second
        self._left = self._rate * BURST
        self._at = trio.current_time()

    def spend(self, size: int) -> float:
        """Take bytes of what there is; where there is any at all, a request may take more. Else nothing is taken.

        Returns:
            0, or the seconds until it may send again.
        """
        rate = self._rate
        if not rate:
            return 0.0
        now = trio.current_time()
        left = min(rate * BURST, self._left + (now - self._at) * rate)
        if left < 0:
            return -left / rate
        self._left, self._at = left - size, now
        return 0.0


class Accounts:
    """The accounts of everybody who is connected.

    Attributes:
        refused: how often a limit was met, and how often other things were refused at the door, by name.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.refused: Counter[str] = Counter()
        self._accounts: dict[str, Account] = {}
        self._told: dict[str, tuple[float, int]] = {}

    def open(self, name: str) -> Account:
        """One more connection. Raises EngramError("busy")."""
        account = self._accounts.get(name) or Account(self.limits)
        self._take(account, name, "connections", self.limits.connections)
        self._accounts[name] = account
        return account

    def close(self, name: str) -> None:
        """One connection less."""
        account = self._accounts[name]
        account.used["connections"] -= 1
        if not account.used["connections"]:
            del self._accounts[name]

    def admit(self, account: Account, name: str, request: Request) -> tuple[str, ...]:
        """What a request takes up as long as it has no answer. Raises EngramError("busy")."""
        wait = account.spend(request.size)
        if wait:
            raise self.busy("bytes_per_second", f"{name} has sent more than {self.limits.bytes_per_second} bytes a second", wait)
        self._take(account, name, "requests", self.limits.requests)
        if not request.lasts:
            return REQUESTS
        kind, most = ("waits", self.limits.waits) if OPERATIONS[request.op].waits else ("streams", self.limits.streams)
        try:
            self._take(account, name, kind, most)
        except EngramError:
            account.used["requests"] -= 1
            raise
        return (*REQUESTS, kind)

    def _take(self, account: Account, name: str, kind: str, most: int) -> None:
        if account.used[kind] >= most:
            raise self.busy(kind, f"{name} has {most} {kind} already, as many as one agent may", limit=most)
        account.used[kind] += 1

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
        return {"most": vars(self.limits), "refused": dict(self.refused)}
