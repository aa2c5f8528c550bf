"""What the rest of the daemon needs of whoever manages locks; `Leases` is who does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ..protocol.connection import Id
from ..protocol.errors import EngramError
from ..state.locks import Acquire
from ..state.view import Claim
from ..storage.log import Appended
from .peer import Peer


class Waits(Protocol):
    """A request in the queue, as it is listed.

    Attributes:
        since: when it began to wait, by the loop's clock.
    """

    number: int
    command: Acquire
    since: float


class LockManager(Protocol):
    """Decides when a request for a lease is granted, and when a lease ends. What it decides goes through the log like all else."""

    @property
    def waiting(self) -> int:
        """How many requests wait."""

    async def run(self) -> None:
        """Do what time brings, until cancelled."""

    def follow(self, events: Sequence[Appended]) -> None:
        """Take in events as they are decided."""

    def expire(self) -> None:
        """End what is over by now; called before anything that depends on it is decided."""

    def acquire(self, peer: Peer, request_id: Id, command: Acquire, wait: bool, timeout: float) -> None:
        """Grant, refuse, or wait for at most `timeout` seconds; the request is answered, now or later."""

    def renew(self, token: int) -> None:
        """Give a lease its full time from now on."""

    def arrived(self, peer: Peer) -> None:
        """A connection was greeted."""

    def left(self, peer: Peer) -> None:
        """A connection has ended."""

    def is_open(self, session: str) -> bool:
        """Whether leases can be bound to a session."""

    def give_up_all(self, error: EngramError) -> None:
        """Nothing will be granted any more."""

    def term(self, token: int) -> tuple[int | None, int]:
        """The microseconds that a lease lasts unless it is renewed (None: as long as its session), and how often it was renewed."""

    def answer(self, token: int, claim: Claim, ttl: int) -> dict[str, Any]:
        """What the holder of a lease is told."""

    def queue(self, resources: Sequence[str] | None) -> Sequence[Waits]:
        """Those who wait, in order; with resources, only for what overlaps one of them."""
