"""Locks: leases on resources. What stands in each other's way, who may have one, and how one ends.

A lease belongs to its token, the seq of the event that granted it. A renewal is no event: who holds a lease does not change by it, and a
restart grants every lease its full time again, which is never less than what its holder was told.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from typing import TypeVar

from ..shapes import NamedTuple
from .outcome import Decision, Refused
from .resources import Index, covers
from .view import LEASES, Claim, Lease, State, View

K = TypeVar("K", bound=Hashable)

# Commands


class Acquire(NamedTuple):
    """Take a lease, on all of the resources or on none."""

    agent: str
    claim: Claim
    ttl: int
    session: str | None
    bound: bool
    reason: str
    key: str = ""


class Release(NamedTuple):
    """Give leases up; `cause` is `released` or `session_ended`. Those that are not held any more are left out, unless `strict`."""

    agent: str
    tokens: tuple[int, ...]
    cause: str
    strict: bool


class Steal(NamedTuple):
    """End leases of others: those of `tokens`, and all that stand in the way of `resources`."""

    agent: str
    tokens: tuple[int, ...]
    resources: tuple[str, ...]


class Renew(NamedTuple):
    """Find out whether the lease is still held; its time is not part of the state."""

    token: int


class Expire(NamedTuple):
    """End leases whose time is over, each with the number of the last renewal that was seen."""

    leases: tuple[tuple[int, int], ...]


# Events; `agent` is who acted


class LockGranted(NamedTuple):
    """A lease was granted; its token is this event's seq."""

    agent: str
    resources: tuple[str, ...]
    mode: str
    slots: int
    ttl: int
    session: str | None
    bound: bool
    reason: str
    key: str = ""


class LockReleased(NamedTuple):
    agent: str
    token: int
    resources: tuple[str, ...]
    cause: str


class LockExpired(NamedTuple):
    agent: str
    token: int
    resources: tuple[str, ...]
    renewal: int


class LockStolen(NamedTuple):
    agent: str
    token: int
    resources: tuple[str, ...]
    holder: str


# What stands in the way


def bears(claim: Claim, rival: Claim) -> bool:
    """Whether the modes of two overlapping claims bear each other at all; how many slots there are is another question."""
    return claim.mode == rival.mode != "exclusive"


def in_the_way(claim: Claim, rivals: Iterable[tuple[K, Claim]]) -> dict[K, Claim]:
    """Those of the rivals that keep the claim from being granted; none of them, if it can be.

    Exclusive bears no other; shared bears shared; one of N slots bears fewer than N others, where N is the smallest that any of those on
    overlapping resources names.
    """
    found: dict[K, Claim] = {}
    slots: dict[K, Claim] = {}
    for key, rival in rivals:
        if not bears(claim, rival):
            found[key] = rival
        elif claim.mode == "slots":
            slots[key] = rival
    if slots:
        index: Index[K] = Index()
        for key, rival in slots.items():
            index.add(key, rival.resources)
        for resource in claim.resources:
            here = {key: slots[key] for key in index.overlapping(resource)}
            if here and len(here) >= min(claim.slots, *(rival.slots for rival in here.values())):
                found.update(here)
    return found


def holders(view: View, resources: Iterable[str]) -> Iterator[tuple[int, Lease]]:
    """The leases that overlap any of the resources, with their tokens, each once."""
    seen: set[int] = set()
    for resource in resources:
        for token in view.held.overlapping(resource):
            if token not in seen:
                seen.add(token)
                yield token, view.held.leases[token]


def held_against(view: View, claim: Claim) -> dict[int, Lease]:
    """The leases that stand in the way of a claim, by token."""
    found = in_the_way(claim, ((token, lease.claim) for token, lease in holders(view, claim.resources)))
    return {token: view.held.leases[token] for token in found}


_ENDINGS = {
    "released": "was released by {}",
    "session_ended": "ended with its session",
    "restored": "ended when the store was restored from a backup",
    "expired": "has expired: it was not renewed in time",
    "stolen": "was taken away by {}",
}


def _stale(view: View, token: int) -> Refused:
    how, agent = view.held.ended.get(token, ("", ""))
    if not how:
        return Refused("stale", f"token {token} is not that of a current lease; lock again before going on", {"token": token})
    message = f"the lease with token {token} {_ENDINGS[how].format(agent)}; lock again before going on"
    return Refused("stale", message, {"token": token, "ended": how, "by": agent})


def decide_acquire(view: View, command: Acquire) -> Decision:
    """Grant, or refuse with the first lease in the way. With the key of a lease that its agent holds, nothing more is granted."""
    if command.key and (command.agent, command.key) in view.held.keys:
        return []
    against = held_against(view, command.claim)
    if against:
        token, lease = min(against.items())
        return Refused("locked", f"{lease.claim.resources[0]} is locked by {lease.holder}", {"token": token, "holder": lease.holder})
    claim = command.claim
    return [LockGranted(command.agent, claim.resources, claim.mode, claim.slots, *command[2:])]


def decide_release(view: View, command: Release) -> Decision:
    events: list[LockReleased] = []
    for token in dict.fromkeys(command.tokens):
        lease = view.held.leases.get(token)
        if lease is not None:
            events.append(LockReleased(command.agent, token, lease.claim.resources, command.cause))
        elif command.strict:
            return _stale(view, token)
    return events


def decide_steal(view: View, command: Steal) -> Decision:
    for token in command.tokens:
        if view.held.leases.get(token) is None:
            return _stale(view, token)
    tokens = {*command.tokens, *(token for token, _ in holders(view, command.resources))}
    stolen = [(token, lease) for token in sorted(tokens) if (lease := view.held.leases.get(token)) is not None]
    return [LockStolen(command.agent, token, lease.claim.resources, lease.holder) for token, lease in stolen]


def decide_renew(view: View, command: Renew) -> Decision:
    return [] if view.held.leases.get(command.token) is not None else _stale(view, command.token)


def decide_expire(view: View, command: Expire) -> Decision:
    ended = [(token, renewal, lease) for token, renewal in command.leases if (lease := view.held.leases.get(token)) is not None]
    return [LockExpired(lease.holder, token, lease.claim.resources, renewal) for token, renewal, lease in ended]


class Fence(NamedTuple):
    """The condition that a lease with this token covers the resource."""

    resource: str
    token: int


def check_fences(view: View, fences: Iterable[Fence]) -> Refused | None:
    """Why a guarded write may not happen, or None."""
    for resource, token in fences:
        lease = view.held.leases.get(token)
        if lease is None:
            return _stale(view, token)
        if not any(covers(held, resource) for held in lease.claim.resources):
            held = ", ".join(lease.claim.resources[:3])
            return Refused("stale", f"the lease with token {token} does not cover {resource}; it is on {held}", {"token": token})
    return None


# Folds


def apply_granted(state: State, seq: int, ts: int, event: LockGranted) -> None:
    claim = Claim(event.resources, event.mode, event.slots)
    lease = Lease(event.agent, claim, event.ttl, event.session, event.bound, event.reason, ts, event.key)
    state.put(LEASES, seq, lease)
    state.held.begin(seq, lease)


def apply_ended(state: State, seq: int, ts: int, event: LockReleased | LockExpired | LockStolen) -> None:
    lease = state.get(LEASES, event.token)
    assert lease is not None, "a lease ends once"
    state.delete(LEASES, event.token)
    how = "expired" if isinstance(event, LockExpired) else "stolen" if isinstance(event, LockStolen) else event.cause
    state.held.end(event.token, lease, how, event.agent)
