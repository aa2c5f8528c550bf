"""`related` and `why`: walking relationships as tasks that let others in between their steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from ..protocol.connection import Id
from ..protocol.cursor import format_cursor
from ..protocol.framing import encode, encode_array, encode_map
from ..protocol.messages import PAGE_BYTES
from ..protocol.paths import normal
from ..storage.records import decode_event
from ..storage.relationships import STEP_ROWS, Reached, Walk, changes, fences_of
from .access import Sight
from .filters import one_or_more, read_after
from .peer import Peer
from .refs import find_unit

if TYPE_CHECKING:
    from .engine import Engine

RELATED = 100  # units of a walk, unless the request says otherwise
LED = ("causes", "responds_to", "depends_on")  # the edges that say what led to a unit
CHANGES = 20  # changes in a page
CHAIN = 20  # units in the chain of each
CHAIN_DEPTH = 8
CHAIN_BYTES = 64 * 1024


def related(engine: Engine, peer: Peer, request_id: Id, fields: dict[str, Any]) -> None:
    """Answer with the units that relationships lead to."""
    sight = Sight(engine.log, peer.access)
    direction = fields.get("direction", "both")
    walk = Walk(
        engine.log,
        find_unit(sight, fields["of"]),
        out=direction != "in",
        into=direction != "out",
        types=one_or_more(fields.get("type")),
        depth=fields.get("depth", 1),
        limit=fields.get("limit", RELATED),
        size=PAGE_BYTES,
        sees=sight.sees,
    )

    async def go() -> None:
        await _finish(peer, walk)
        peer.answer_encoded(request_id, encode_map({"related": _shown(walk.found), "more": encode(walk.more)}))

    engine.spawn(peer, request_id, go)


def why(engine: Engine, peer: Peer, request_id: Id, fields: dict[str, Any]) -> None:
    """Answer with a page of the changes of a file, newest first, each with what led to it and the leases it was made under."""
    sight = Sight(engine.log, peer.access)
    paths = {normal(path) for path in fields["paths"]}
    after = read_after(engine, fields)
    last = engine.fanout.durable_seq if after is None else after - 1
    limit, depth = min(fields.get("limit", CHANGES), CHANGES), fields.get("depth", CHAIN_DEPTH)

    async def go() -> None:
        nonlocal last
        found: list[bytes] = []
        room, seq = PAGE_BYTES, 0
        while last > 0 and len(found) < limit and room > 0:
            async with peer.turn:
                seqs, reached = changes(engine.log, paths, last, STEP_ROWS, sight.sees)
            last = reached - 1
            for seq in seqs:
                found.append(await _change(peer, sight, seq, depth))
                room -= len(found[-1])
                if len(found) == limit or room <= 0:
                    last = seq - 1
                    break
            await trio.lowlevel.checkpoint()
        more = last > 0 and changes(engine.log, paths, last, 1, sight.sees)[1] > 0
        following = format_cursor(engine.log.history, seq) if more else None
        peer.answer_encoded(request_id, encode_map({"changes": encode_array(found), "next": encode(following)}))

    engine.spawn(peer, request_id, go)


async def _change(peer: Peer, sight: Sight, seq: int, depth: int) -> bytes:
    """One change as it travels."""
    log = sight.log
    unit = find_unit(sight, seq)
    chain = Walk(log, unit, out=True, into=False, types=LED, depth=depth, limit=CHAIN, size=CHAIN_BYTES, sees=sight.sees)
    await _finish(peer, chain)
    leases = [_lease(sight, token) for token in fences_of(log, seq)]
    return encode_map({"unit": unit, "chain": _shown(chain.found), "more": encode(chain.more), "leases": encode(leases)})


def _lease(sight: Sight, token: int) -> dict[str, Any]:
    """What the log says of a lease: its grant stands at the seq that is its token."""
    record = sight.log.record(token)
    if record is None or record.kind != "lock_granted":
        return {"token": token}
    granted: Any = decode_event(record)
    if not sight.access.touches(granted.resources):
        return {"token": token}
    return {
        "token": token,
        "holder": granted.agent,
        "resources": list(sight.access.touches(granted.resources)),
        "mode": granted.mode,
        "reason": granted.reason,
        "granted_at": record.ts,
    }


async def _finish(peer: Peer, walk: Walk) -> None:
    async with peer.turn:
        while not walk.advance():
            await peer.turn.next()


def _shown(found: list[Reached]) -> bytes:
    """Units with the way to them, encoded."""
    return encode_array(
        [encode_map({"unit": unit, "distance": encode(distance), "edge": encode(edge._asdict())}) for unit, distance, edge in found]
    )
