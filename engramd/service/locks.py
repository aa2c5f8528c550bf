"""`lock`, `renew`, `unlock` and `locks`."""

from __future__ import annotations

import math
from itertools import islice
from typing import TYPE_CHECKING, Any

import trio

from ..protocol.connection import Id
from ..protocol.framing import encode, encode_array, encode_map
from ..protocol.messages import PAGE_BYTES
from ..protocol.resources import MAX_GLOBS
from ..protocol.schema import beyond, invalid, require_one
from ..protocol.times import format_duration, parse_duration
from ..state.access import ACT_AS, Access
from ..state.filters import Filter
from ..state.locks import Acquire, Release, Renew, Steal, bears, holders
from ..state.resources import parse
from ..state.view import Claim, Lease, View
from ..storage.query import Range, step
from .peer import Peer

if TYPE_CHECKING:
    from .committer import Result
    from .engine import Engine

DEFAULT_TTL = 60_000_000
MIN_TTL, MAX_TTL = 100_000, 30 * 86_400_000_000  # microseconds
PAGE = 256
BEHIND = 16  # of the leases that a waiter is behind
EXPLAINED = 3  # units that explain a lease
EXPLAIN_STEPS = 8  # bounded reads that look for them


def lock(engine: Engine, peer: Peer, request_id: Id, fields: dict[str, Any]) -> None:
    """Take a lease, at once or when its turn comes."""
    resources = _resources(fields)
    mode, slots = fields.get("mode", "exclusive"), fields.get("slots", 0)
    if (mode == "slots") != bool(slots):
        raise invalid("slots", "goes with mode slots, and mode slots with it")
    bound = fields.get("session", False)
    if bound and peer.session is None:
        raise invalid("session", "this connection has none")
    if bound and peer.session is not None and not engine.leases.is_open(peer.session):
        raise invalid("session", "it is not open: the program that opened it has ended; take the lock without it")
    ttl = _duration(fields, "ttl", DEFAULT_TTL)
    if not MIN_TTL <= ttl <= MAX_TTL:
        raise invalid("ttl", f"must be from {format_duration(MIN_TTL)} to {format_duration(MAX_TTL)}, not {format_duration(ttl)}")
    wait = fields.get("wait", False)
    if "timeout" in fields and not wait:
        raise invalid("timeout", "bounds a wait, and this request does not wait")
    timeout = _duration(fields, "timeout", 0) / 1e6 if "timeout" in fields else math.inf
    claim = Claim(resources, mode, slots)
    command = Acquire(peer.agent, claim, ttl, peer.session, bound, fields.get("reason", ""), fields.get("key", ""))
    engine.leases.acquire(peer, request_id, command, wait, timeout)


def _resources(fields: dict[str, Any]) -> tuple[str, ...]:
    """The resources of a request, each once. Globs are few, since each has to be compared with others one by one."""
    resources = tuple(dict.fromkeys(fields.get("resources", ())))
    globs = sum(not parse(resource).is_literal for resource in resources)
    if globs > MAX_GLOBS:
        raise beyond("resources", globs, MAX_GLOBS, "globs")
    return resources


def _duration(fields: dict[str, Any], name: str, default: int) -> int:
    value = fields.get(name, default)
    return value if isinstance(value, int) else parse_duration(value)


def renew(engine: Engine, peer: Peer, request_id: Id, fields: dict[str, Any]) -> None:
    """Give a lease its full time from now on."""
    token = fields["token"]
    engine.leases.expire()
    engine.leases.renew(token)
    lease = engine.log.pending.held.leases.get(token)

    def answer(_: Result) -> None:
        assert lease is not None, "a lease that is not held is refused"
        peer.answer(request_id, engine.leases.answer(token, lease.claim, lease.ttl))

    engine.submit(peer, request_id, Renew(token), engine.committer.now(), answer)


def unlock(engine: Engine, peer: Peer, request_id: Id, fields: dict[str, Any]) -> None:
    """Release a lease, or take leases away."""
    require_one(fields, "token", "resources")
    force = fields.get("force", False)
    if "resources" in fields and not force:
        raise invalid("resources", "only force ends leases by what they are on; a holder names its token")
    tokens = (fields["token"],) if "token" in fields else ()
    command = (
        Steal(peer.agent, tokens, tuple(fields.get("resources", ()))) if force else Release(peer.agent, tokens, "released", strict=True)
    )
    engine.leases.expire()

    def answer(result: Result) -> None:
        peer.answer(request_id, {"released": [ended.event.token for ended in result]})  # type: ignore[union-attr]

    engine.submit(peer, request_id, command, engine.committer.now(), answer)


def locks(engine: Engine, peer: Peer, request_id: Id, fields: dict[str, Any]) -> None:
    """List leases and who waits. What is listed is on disk when it is answered."""
    engine.leases.expire()
    wanted, explain = _resources(fields) or None, fields.get("explain", False)
    if explain and wanted is None:
        raise invalid("explain", "needs resources")
    held, following = _page(engine.log.pending, peer.access, wanted, fields.get("after", 0), min(fields.get("limit", PAGE), PAGE))
    leases = [_lease_info(engine, peer, token, lease) for token, lease in held]
    waiters = _waiters(engine, peer, wanted) if following is None else []

    def answer() -> None:
        if explain:
            engine.spawn(peer, request_id, go_on)
        else:
            peer.answer(request_id, {"locks": leases, "waiters": waiters, "next": following})

    async def go_on() -> None:
        explained, room = [], PAGE_BYTES
        for info, (_, lease) in zip(leases, held, strict=True):
            units = await _explanation(engine, peer.access, lease) if room > 0 else []
            room -= sum(map(len, units))
            explained.append(encode_map({**{name: encode(value) for name, value in info.items()}, "units": encode_array(units)}))
        shown = {"locks": encode_array(explained), "waiters": encode(waiters), "next": encode(following)}
        peer.answer_encoded(request_id, encode_map(shown))

    engine.settled(peer, request_id, answer)


def _page(view: View, access: Access, wanted: tuple[str, ...] | None, after: int, limit: int) -> tuple[list[tuple[int, Lease]], int | None]:
    """Leases beyond a token, as many as a page may have; and the token where the next page goes on."""
    leases = view.held.leases if wanted is None else dict(sorted(holders(view, wanted)))
    page: list[tuple[int, Lease]] = []
    size = 0
    for token, lease in leases.items():
        if token <= after or not access.touches(lease.claim.resources):
            continue
        if len(page) == limit or size > PAGE_BYTES:
            return page, page[-1][0]
        page.append((token, lease))
        size += sum(map(len, lease.claim.resources))
    return page, None


def _lease_info(engine: Engine, peer: Peer, token: int, lease: Lease) -> dict[str, Any]:
    remaining, renewals = engine.leases.term(token)
    return {
        "token": token,
        **_claim_info(peer, lease.claim, lease.holder, lease.session),
        "holder": lease.holder,
        "reason": lease.reason,
        "ttl": lease.ttl,
        "granted_at": lease.granted_at,
        "age": max(0, engine.committer.now() - lease.granted_at),
        "remaining": remaining,
        "renewals": renewals,
    }


def _claim_info(peer: Peer, claim: Claim, agent: str, session: str | None) -> dict[str, Any]:
    """A claim, as far as the peer may see it. A session is for its own agent to know: who knows it can act in it."""
    shown: dict[str, Any] = {"resources": list(peer.access.touches(claim.resources)), "mode": claim.mode}
    if claim.slots:
        shown["slots"] = claim.slots
    return {**shown, "session": session} if session is not None and (agent == peer.agent or peer.access.may(ACT_AS)) else shown


def _waiters(engine: Engine, peer: Peer, wanted: tuple[str, ...] | None) -> list[dict[str, Any]]:
    """The first of those who wait, as many as a page may have."""
    now, found, size = trio.current_time(), list[dict[str, Any]](), 0
    for waiting in engine.leases.queue(wanted):
        if len(found) == PAGE or size > PAGE_BYTES:
            break
        claim = waiting.command.claim
        if not peer.access.touches(claim.resources):
            continue
        size += sum(map(len, claim.resources))
        behind = (
            token for token, lease in holders(engine.log.pending, claim.resources) if claim.mode == "slots" or not bears(claim, lease.claim)
        )
        found.append(
            {
                "number": waiting.number,
                **_claim_info(peer, claim, waiting.command.agent, waiting.command.session),
                "agent": waiting.command.agent,
                "reason": waiting.command.reason,
                "waited": round((now - waiting.since) * 1e6),
                "behind": sorted(islice(behind, BEHIND)),
            }
        )
    return found


async def _explanation(engine: Engine, access: Access, lease: Lease) -> list[bytes]:
    """The holder's newest units, the oldest of them first; those further back than a bounded look are left out."""
    found: list[bytes] = []
    wanted = Range(None, Filter(agents=frozenset((lease.holder,))), 1, engine.log.last_seq, reverse=True, sees=access.sees)
    for _ in range(EXPLAIN_STEPS):
        seen = step(engine.log, wanted, limit=EXPLAINED - len(found))
        found += [entry.unit for entry in seen.entries]
        wanted = wanted._replace(last=seen.reached - 1)
        if len(found) == EXPLAINED or wanted.last < 1:
            break
        await trio.lowlevel.checkpoint()
    return found[::-1]
