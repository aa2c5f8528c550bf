"""The lock table as a machine: random requests, renewals, thefts, waits, crashes and restarts, checked after every step.

What the service does in one step of its loop is done here by hand: decide, apply, let in who waits. The checks share nothing with the code
that is checked but its data: conflicts by the validator of recorded histories, deadlocks by letting everybody go on who can.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from ledger import Ledger
from validators import Held, _check_conflicts, leases

from engramd.state.deadlines import Deadlines
from engramd.state.locks import Acquire, Expire, LockExpired, LockGranted, LockReleased, LockStolen, Release, Renew, Steal
from engramd.state.outcome import Refused
from engramd.state.view import LEASES, Claim, Lease, Party, party
from engramd.state.waiters import Waiter, Waiters

PATHS = ("/a", "/a/b", "/a/b/c", "/a/*", "/**/c", "/d", "@x", "@y")
WHO = (("ann", None), ("bob", None), ("eve", "s1"), ("max", "s2"))
TTL = 10

who = st.sampled_from(WHO)
claims = st.builds(
    lambda resources, mode, slots: Claim(tuple(resources), mode, slots if mode == "slots" else 0),
    st.lists(st.sampled_from(PATHS), min_size=1, max_size=2, unique=True),
    st.sampled_from(["exclusive", "exclusive", "shared", "slots"]),
    st.integers(1, 3),
)
picks = st.integers(0, 30)


class LockTable(RuleBasedStateMachine):
    """Leases, deadlines and the queue, driven as the service drives them."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.now = 0.0
        self.history: list[dict[str, Any]] = []
        self._forget()

    def _forget(self) -> None:
        """What a restart leaves: the rows, and each lease with its full time."""
        self.waiters, self.deadlines = Waiters(), Deadlines()
        for token in self.ledger.state.held.leases:
            self.deadlines.set(token, self.now + TTL)

    @property
    def leases(self) -> dict[int, Lease]:
        rows = ((token, self.ledger.state.get(LEASES, token)) for token in self.ledger.state.held.leases)
        return {token: lease for token, lease in rows if lease is not None}

    def _do(self, command: Any) -> list[tuple[int, Any]]:
        decision = self.ledger.decide(command)
        assert isinstance(decision, list), decision
        return self._record(self.ledger.apply(decision))

    def _record(self, events: list[tuple[int, Any]]) -> list[tuple[int, Any]]:
        kinds = {LockGranted: "lock_granted", LockReleased: "lock_released", LockExpired: "lock_expired", LockStolen: "lock_stolen"}
        freed: list[str] = []
        for seq, event in events:
            self.history.append({"seq": seq, "kind": kinds[type(event)], "data": event._asdict()})
            if isinstance(event, LockGranted):
                self.deadlines.set(seq, self.now + TTL)
            else:
                self.deadlines.drop(event.token)
                freed += event.resources
        self._admit(freed)
        return events

    def _admit(self, freed: list[str]) -> None:
        for number in self.waiters.ready(self.ledger.state, freed):
            queue = dict(self.waiters)
            waiter = self.waiters.remove(number)
            for earlier, other in queue.items():
                if earlier < number:
                    _check_pair(other.claim, waiter.claim, queue, number)
            self._acquire(waiter)

    def _acquire(self, waiter: Waiter) -> None:
        self._do(Acquire(waiter.agent, waiter.claim, TTL, waiter.session, False, ""))

    # What clients do

    @rule(actor=who, claim=claims, wait=st.booleans())
    def lock(self, actor: tuple[str, str | None], claim: Claim, wait: bool) -> None:
        waiter = Waiter(claim, *actor)
        obstacles = self.waiters.obstacles(self.ledger.state, claim)
        if not obstacles:
            self._acquire(waiter)
            return
        if any(obstacle.holds for obstacle in obstacles):
            refused = self.ledger.decide(Acquire(waiter.agent, claim, TTL, waiter.session, False, ""))
            if all(obstacle.holds for obstacle in obstacles):
                assert isinstance(refused, Refused)
                assert refused.code == "locked"
        if wait:
            cycle = self.waiters.cycle(self.ledger.state, waiter)
            assert bool(cycle) == (len(self.waiters) in self._stuck(waiter))
            if not cycle:
                self.waiters.add(waiter)
                return
            assert cycle[0][0] == waiter
            assert cycle[-1][1].party == waiter.party
            assert all(obstacle.party == who.party for (_, obstacle), (who, _) in itertools.pairwise(cycle))

    @precondition(lambda self: self.leases)
    @rule(pick=picks)
    def release(self, pick: int) -> None:
        token = list(self.leases)[pick % len(self.leases)]
        self._do(Release(self.leases[token].holder, (token,), "released", strict=True))
        assert isinstance(self.ledger.decide(Renew(token)), Refused), "a token that has ended is stale"

    @precondition(lambda self: self.leases)
    @rule(pick=picks)
    def renew(self, pick: int) -> None:
        token = list(self.leases)[pick % len(self.leases)]
        assert self.ledger.decide(Renew(token)) == []
        before = self.deadlines.get(token)
        assert before is not None
        assert self.deadlines.set(token, self.now + TTL).renewal == before.renewal + 1

    @rule(path=st.sampled_from(PATHS))
    def steal(self, path: str) -> None:
        for _, event in self._do(Steal("root", (), (path,))):
            assert isinstance(event, LockStolen | LockGranted)

    @precondition(lambda self: len(self.waiters))
    @rule(pick=picks)
    def stop_waiting(self, pick: int) -> None:
        number = [number for number, _ in self.waiters][pick % len(self.waiters)]
        self._admit(list(self.waiters.remove(number).claim.resources))

    @rule(seconds=st.integers(1, 2 * TTL))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds
        before = {token: self.deadlines.get(token) for token in self.leases}
        due = self.deadlines.due(self.now)
        over = {(token, deadline.renewal) for token, deadline in before.items() if deadline is not None and deadline.at <= self.now}
        assert set(due) == over
        self._do(Expire(tuple(due)))

    @rule()
    def crash_and_restart(self) -> None:
        again = Ledger()
        for seq, ts, event in self.ledger.events:
            again.ts = ts
            assert again.apply([event])[0][0] == seq
        assert again.state.rows == self.ledger.state.rows
        assert again.state.held.leases == self.ledger.state.held.leases
        assert again.state.held.parties == self.ledger.state.held.parties
        self.ledger = again
        self._forget()

    # What must always hold

    @invariant()
    def no_two_leases_conflict(self) -> None:
        held = leases(self.history)
        assert set(held) == set(self.leases)

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        for number, waiter in self.waiters:
            assert self.waiters.obstacles(self.ledger.state, waiter.claim, number), f"waiter {number} was forgotten"

    @invariant()
    def every_lease_has_its_time(self) -> None:
        assert all(self.deadlines.get(token) is not None for token in self.leases)
        earliest = min((deadline.at for token in self.leases if (deadline := self.deadlines.get(token))), default=None)
        assert self.deadlines.next() == earliest

    @invariant()
    def nobody_waits_for_ever(self) -> None:
        assert not self._stuck()

    def _stuck(self, more: Waiter | None = None) -> set[int]:
        """Which waits could never be granted (the last number is that of one more), if all who can go on did, again and again.

        A party gives up a thing once its other waits are granted; jobs of one agent outside of sessions do not count against each other
        where they want the same.
        """
        waits = [waiter for _, waiter in self.waiters] + ([more] if more else [])
        stuck = set(range(len(waits)))
        while True:

            def stays(who: Party, claim: Claim, but: int | None = None, stuck: set[int] = stuck) -> bool:
                """Whether a party keeps something because of a wait that is stuck."""
                keeping = [waits[at] for at in stuck if at != but and waits[at].party == who]
                return any(waiter.session is not None or _bears(waiter.claim, [claim], at_all=True) for waiter in keeping)

            things = [(who, claim, -1) for who, claim in self._holdings() if stays(who, claim)]
            things += [(one.party, one.claim, at) for at, one in enumerate(waits) if at in stuck or stays(one.party, one.claim, at)]
            still = set()
            for at in stuck:
                waiter = waits[at]
                ahead = [claim for who, claim, place in things if place < at and (waiter.session is not None or who != waiter.party)]
                if not _bears(waiter.claim, ahead):
                    still.add(at)
            if still == stuck:
                return stuck
            stuck = still

    def _holdings(self) -> list[tuple[Party, Claim]]:
        return [(party(lease.holder, lease.session), lease.claim) for lease in self.leases.values()]


def _bears(claim: Claim, rivals: list[Claim], at_all: bool = False) -> bool:
    """Whether a claim can be granted beside the rivals; `at_all`: whether it need not even be counted."""
    held = [replace(_held(rival), slots=1) if at_all else _held(rival) for rival in rivals]
    try:
        _check_conflicts(_held(claim), held)
    except AssertionError:
        return False
    return True


def _held(claim: Claim) -> Held:
    return Held(0, "", claim.resources, claim.mode, claim.slots)


def _check_pair(earlier: Claim, granted: Claim, queue: dict[int, Waiter], number: int) -> None:
    """Nobody is passed by: who came earlier and still waits does not conflict with who is granted."""
    if "slots" not in (earlier.mode, granted.mode) or earlier.mode != granted.mode:
        assert _bears(granted, [earlier]), f"{granted} was granted before {earlier}: {queue}, {number}"


LockTable.TestCase.settings = settings(
    max_examples=1000, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestLockTable = LockTable.TestCase
