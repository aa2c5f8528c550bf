"""The volatile side of locks: deadlines, the queue, and the sessions that leases may end with.

Who holds what is durable and decided in `state.locks`. All that is here is looked at and changed in the same step of the loop as the
command it leads to, so it is never stale when that is decided: an expiry cannot overtake a renewal.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import trio

from ..protocol.connection import Id
from ..protocol.errors import EngramError
from ..protocol.times import elapsed, format_duration
from ..state.deadlines import Deadlines
from ..state.locks import Acquire, Expire, LockExpired, LockGranted, LockReleased, LockStolen, Release
from ..state.resources import overlap
from ..state.units import UnitPut
from ..state.view import Claim, Lease, View
from ..state.waiters import Obstacle, Waiter, Waiters
from ..storage.log import Appended
from .peer import Peer

if TYPE_CHECKING:
    from .committer import Result
    from .engine import Engine

MAX_LEASES = 100_000
MAX_WAITERS = 1024  # each may have to be compared with every other
COME_BACK = 60.0  # seconds that the owners of sessions have for it when the daemon was restarted
LOOK = 5.0  # seconds after which deadlines are looked at again: the loop's clock may stand still while the machine sleeps


class Leases:
    """The volatile side of the leases of one engine. It follows the head of the log, so it may be ahead of the disk as decisions are.

    Args:
        now: seconds of the clock by which leases expire.
    """

    def __init__(self, engine: Engine, now: Callable[[], float] = elapsed) -> None:
        self._engine = engine
        self._now = now
        self._deadlines = Deadlines()
        self._waiters = Waiters()
        self._waiting: dict[int, Waiting] = {}
        self._owners: Counter[str] = Counter()
        self._bound: dict[str, set[int]] = {}
        self._session_of: dict[int, str] = {}
        self._earlier = trio.Event()
        self._started = now()
        self._made_way = False  # whether somebody has left the queue who may have been in the way of others
        for token in self._view.held.leases:
            self._watch(token)

    def is_open(self, session: str) -> bool:
        """Whether a session has an owner. After a restart of the daemon that may take a moment."""
        return bool(self._owners[session]) or self._now() < self._started + COME_BACK

    @property
    def _view(self) -> View:
        return self._engine.log.pending

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._waiters)

    async def run(self) -> None:
        """End leases whose time is over, and let those in whom others have made way for, until cancelled."""
        while True:
            self.expire()
            await self._admit_all()
            self._earlier = trio.Event()
            if self._made_way and not self._is_closed:
                continue
            at = self._deadlines.next()
            with trio.move_on_after(math.inf if at is None else min(max(at - self._now(), 0), LOOK)):
                await self._earlier.wait()

    def expire(self) -> None:
        """End the leases whose deadline has come by now, even if the task is late."""
        due = self._deadlines.due(self._now())
        if due:
            self._engine.carry_out(Expire(tuple(due)))

    def follow(self, events: Sequence[Appended]) -> None:
        """Take in events as they are decided: watch the leases that begin, and let others in where some end."""
        freed: list[str] = []
        for appended in events:
            event = appended.event
            if type(event) is UnitPut:  # nearly all of them
                continue
            if isinstance(event, LockGranted):
                self._watch(appended.seq)
            elif isinstance(event, LockReleased | LockExpired | LockStolen):
                self._forget(event.token)
                freed += event.resources
        if freed:
            self._admit(freed)

    def _watch(self, token: int) -> None:
        lease = self._view.held.leases[token]
        if lease.bound and lease.session is not None:
            self._session_of[token] = lease.session
            self._bound.setdefault(lease.session, set()).add(token)
            if self._owners[lease.session]:
                return  # it lasts as long as its session
        self._set_deadline(token, lease)

    def _set_deadline(self, token: int, lease: Lease) -> None:
        before = self._deadlines.next()
        deadline = self._deadlines.set(token, self._now() + lease.ttl / 1e6)
        if before is None or deadline.at < before:
            self._earlier.set()

    def _forget(self, token: int) -> None:
        self._deadlines.drop(token)
        session = self._session_of.pop(token, None)
        if session is not None:
            self._bound[session].discard(token)
            if not self._bound[session]:
                del self._bound[session]

    def _admit(self, freed: Sequence[str]) -> None:
        """Grant what those may have waited for who are next in the queue for some of the resources."""
        if freed and len(self._waiters) and not self._is_closed:
            for number in self._waiters.ready(self._view, freed):
                self._let_in(self._waiting[number])

    @property
    def _is_closed(self) -> bool:
        """Whether nobody is let in any more."""
        return self._engine.stopping.is_set() or self._engine.committer.failed is not None

    def _let_in(self, waiting: Waiting) -> None:
        self._unqueue(waiting)
        waiting.leave()
        self._engine.counters.lock_waits.observe(trio.current_time() - waiting.since)
        self._grant(waiting.peer, waiting.request_id, waiting.command)

    async def _admit_all(self) -> None:
        """Look at everyone in the queue, in order, if somebody has left it. A step of the loop for each: many may leave at once."""
        if not self._made_way or self._is_closed:
            return
        self._made_way = False
        for waiting in list(self._waiting.values()):
            claim = waiting.command.claim
            if self.waits(waiting) and not self._is_closed and self._waiters.obstacle(self._view, claim, waiting.number) is None:
                self._let_in(waiting)
            await trio.lowlevel.checkpoint()

    # Sessions

    def arrived(self, peer: Peer) -> None:
        """A connection was greeted. If it owns a session, leases that are bound to that need no deadline."""
        if peer.session is not None and peer.owns_session:
            self._owners[peer.session] += 1
            for token in self._bound.get(peer.session, ()):
                self._deadlines.drop(token)

    def left(self, peer: Peer) -> None:
        """A connection has ended. Where it was the last owner of its session, the leases that are bound to that end."""
        self._release(peer.agent, [token for token, written in peer.grants.items() if written > peer.outbox.taken], "released")
        session = peer.session
        if session is None or not peer.owns_session:
            return
        self._owners[session] -= 1
        if not self._owners[session]:
            del self._owners[session]
            for waiting in [one for one in self._waiting.values() if one.command.bound and one.command.session == session]:
                waiting.cancel(EngramError("cancelled", "the session that the lock was to end with has ended"))
            if not self._engine.stopping.is_set():  # when the daemon stops, the owner has one TTL to come back
                self._release(peer.agent, sorted(self._bound.get(session, ())), "session_ended")

    def _release(self, agent: str, tokens: Sequence[int], cause: str) -> None:
        if tokens:
            self._engine.carry_out(Release(agent, tuple(tokens), cause, strict=False))

    # Requests

    def acquire(self, peer: Peer, request_id: Id, command: Acquire, wait: bool, timeout: float) -> None:
        """Grant, refuse, or queue for at most `timeout` seconds."""
        self.expire()
        obstacle = self._waiters.obstacle(self._view, command.claim)
        if obstacle is None or (command.agent, command.key) in self._view.held.keys:
            self._grant(peer, request_id, command)
            return
        if not wait:
            refusal = self.locked(command.claim, obstacle)
            self._engine.settled(peer, request_id, lambda: peer.fail(request_id, refusal))
            return
        if self._engine.committer.failed is not None:
            raise self._engine.committer.failed
        if len(self._waiters) >= MAX_WAITERS:
            raise self._engine.accounts.busy("waits", f"{MAX_WAITERS} requests wait already", limit=MAX_WAITERS)
        waiter = Waiter(command.claim, command.agent, command.session)
        cycle = self._waiters.cycle(self._view, waiter)
        if cycle:
            raise _deadlock(cycle)
        waiting = Waiting(self, peer, request_id, command)
        waiting.number = self._waiters.add(waiter)
        self._waiting[waiting.number] = waiting
        peer.streams[request_id] = waiting
        self._engine.spawn(peer, request_id, lambda: waiting.run(timeout))

    def _grant(self, peer: Peer, request_id: Id, command: Acquire) -> None:
        if len(self._view.held.leases) >= MAX_LEASES:
            peer.fail(request_id, self._engine.accounts.busy("leases", f"{MAX_LEASES} leases are held already", limit=MAX_LEASES))
            self._make_way()  # it may have been in the queue, before others
            return
        seen = self._view.held.keys.get((command.agent, command.key), 0)

        def answer(result: Result) -> None:
            assert isinstance(result, Sequence), "refusals are answered for us"
            token = result[0].seq if result else seen
            if peer.gone:  # nobody would ever release it
                self._release(peer.agent, [token], "released")
                return
            peer.answer(request_id, self.answer(token, command.claim, command.ttl))
            peer.grants = {one: at for one, at in peer.grants.items() if at > peer.outbox.taken} | {token: peer.outbox.written}

        self._engine.submit(peer, request_id, command, self._engine.committer.now(), answer)

    def renew(self, token: int) -> None:
        """Give a lease its full time from now on, if it is held and has a deadline."""
        lease = self._view.held.leases.get(token)
        if lease is not None and self._deadlines.get(token) is not None:
            self._set_deadline(token, lease)

    def _unqueue(self, waiting: Waiting) -> None:
        del self._waiting[waiting.number]
        self._waiters.remove(waiting.number)

    def waits(self, waiting: Waiting) -> bool:
        """Whether a request is still in the queue."""
        return waiting.number in self._waiting

    def give_up(self, waiting: Waiting) -> None:
        """A request waits no more; those behind it may be next."""
        self._unqueue(waiting)
        self._make_way()

    def _make_way(self) -> None:
        self._made_way = True
        self._earlier.set()

    def give_up_all(self, error: EngramError) -> None:
        """Nothing will be granted any more."""
        for waiting in list(self._waiting.values()):
            waiting.cancel(error)

    def time_is_over(self, waiting: Waiting) -> None:
        """A request has waited its time. It is granted if those in its way have just left; else this raises `locked`."""
        claim = waiting.command.claim
        obstacle = self._waiters.obstacle(self._view, claim, waiting.number)
        if obstacle is not None:
            raise self.locked(claim, obstacle, trio.current_time() - waiting.since)
        if self._is_closed:
            raise EngramError("unavailable", "the daemon grants no more locks; ask the next one")
        self._let_in(waiting)

    # Descriptions

    def term(self, token: int) -> tuple[int | None, int]:
        """The microseconds that a lease lasts unless it is renewed (None: as long as its session), and how often it was renewed."""
        deadline = self._deadlines.get(token)
        return (None, 0) if deadline is None else (max(0, round((deadline.at - self._now()) * 1e6)), deadline.renewal)

    def answer(self, token: int, claim: Claim, ttl: int) -> dict[str, Any]:
        """What the holder of a lease is told."""
        remaining, _ = self.term(token)
        ends = None if remaining is None else self._engine.committer.now() + remaining
        return {"token": token, "resources": list(claim.resources), "mode": claim.mode, "ttl": ttl, "expires_at": ends}

    def queue(self, resources: Sequence[str] | None) -> list[Waiting]:
        """Those who wait, in order; with resources, only for what overlaps one of them."""
        if resources is None:
            return list(self._waiting.values())
        return [self._waiting[number] for number in self._waiters.overlapping(resources)]

    def locked(self, claim: Claim, obstacle: Obstacle, waited: float | None = None) -> EngramError:
        """The error for a claim that something stands in the way of, after so many seconds in the queue."""
        asked, other = next(((a, b) for a in claim.resources for b in obstacle.claim.resources if overlap(a, b)), (claim.resources[0], ""))
        what = asked if asked == other else f"{asked} overlaps {other}, which"
        how = f"{obstacle.claim.mode}, {obstacle.claim.slots} in all" if obstacle.claim.slots else obstacle.claim.mode
        before = "" if waited is None else f"waited {waited:.1f} s in vain: "
        details: dict[str, Any] = {"resource": asked, "held": other, "mode": obstacle.claim.mode, "holder": obstacle.agent}
        if not obstacle.holds:
            message = f"{before}{what} is free, but {obstacle.agent} was in the queue for it first ({how}); queue up with --wait"
            return EngramError("locked", message, **details, waiting=True)
        token, lease = obstacle.key, self._view.held.leases.get(obstacle.key)
        if lease is None:
            return EngramError("locked", f"{before}{what} was locked by {obstacle.agent} until just now; try again", **details, token=token)
        age, (remaining, _) = max(0, self._engine.committer.now() - lease.granted_at), self.term(token)
        left = "until its session ends" if remaining is None else f"{format_duration(remaining)} left unless renewed"
        reason = f": {lease.reason}" if lease.reason else ""
        advice = "" if waited is not None else ". To queue up: --wait"
        taken = f"taken {format_duration(age)} ago, {left}"
        message = f"{before}{what} is locked by {lease.holder} ({how}, token {token}), {taken}{reason}{advice}"
        times = {"granted_at": lease.granted_at, "age": age, "remaining": remaining}
        return EngramError("locked", message, **details, token=token, **times, reason=lease.reason)


class Waiting:
    """A request in the queue, as notices reach it."""

    def __init__(self, leases: Leases, peer: Peer, request_id: Id, command: Acquire) -> None:
        self.peer = peer
        self.request_id = request_id
        self.command = command
        self.number = 0
        self.since = trio.current_time()
        self._leases = leases
        self._over = trio.Event()
        self._because: EngramError | None = None

    def grant(self, credit: int) -> None:
        """A wait takes no credit."""

    def cancel(self, because: EngramError | None = None) -> None:
        """The client waits no more. One whose turn has come is answered by the grant."""
        if self._leases.waits(self):
            self._because = because or EngramError("cancelled", "the wait for the lock was cancelled")
            self._leases.give_up(self)
            self.leave()

    def leave(self) -> None:
        """It is not in the queue any more."""
        self.peer.streams.pop(self.request_id, None)
        self._over.set()

    async def run(self, timeout: float) -> None:
        """Wait for its turn for at most `timeout` seconds.

        Raises:
            EngramError: `locked` when the time is over, or what it was cancelled for.
        """
        try:
            with trio.move_on_after(timeout):
                await self._over.wait()
            if self._leases.waits(self):
                self._leases.time_is_over(self)
        finally:
            self.cancel()
        if self._because is not None:
            raise self._because


def _where(claim: Claim, other: Claim) -> tuple[str, str]:
    """The resources by which two claims overlap."""
    return next((one, another) for one in claim.resources for another in other.resources if overlap(one, another))


def _who(one: Waiter | Obstacle) -> str:
    kind, name = one.party
    return f"{one.agent} (session {name[:8]})" if kind == "session" else one.agent


def _deadlock(cycle: Sequence[tuple[Waiter, Obstacle]]) -> EngramError:
    """The error for a wait that would close a cycle, with the cycle spelled out."""
    steps = []
    for waiter, obstacle in cycle:
        asked, _ = _where(waiter.claim, obstacle.claim)
        has = "holds" if obstacle.holds else "is in the queue for"
        steps.append(f"{_who(waiter)} waits for {asked}, which {_who(obstacle)} {has}")
    message = f"this wait would never end: {'; '.join(steps)}. Release what you hold first, and lock all you need at once"
    return EngramError("deadlock", message, cycle=steps)
