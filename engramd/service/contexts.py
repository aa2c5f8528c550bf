"""The operations on contexts, `agents` and `names`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import cbor2

from ..protocol.connection import Id
from ..protocol.errors import EngramError
from ..protocol.framing import encode, encode_array, encode_map
from ..protocol.messages import PAGE_BYTES
from ..state.access import Access
from ..state.contexts import CreateContext, SetContext, SetMember, SetPins, SetPlaces
from ..state.machine import Command
from ..state.retention import NO_LIMIT
from ..state.view import AGENTS, CONSUMERS, CONTEXTS, LEASES, MEMBERS, PINS, PRESENCE, RETENTION, Agent, Context, Table
from ..storage import keys
from .access import Sight, reached, sees_consumer
from .peer import Peer
from .refs import unit_id

if TYPE_CHECKING:
    from .committer import Result
    from .engine import Engine

_NAMED: dict[str, Table[str, Any]] = {"contexts": CONTEXTS, "agents": AGENTS, "consumers": CONSUMERS}
PAGE = 100
HELD = 16  # locked resources in the description of an agent
SHOWN = 256  # members and pins in the description of a context; `agents` lists all members


def create(engine: Engine, peer: Peer, request_id: Id, fields: dict[str, Any]) -> None:
    """Create a context and describe it."""
    name = fields["context"]
    command = CreateContext(name, peer.agent, fields.get("display_name", name), fields.get("meta", {}))
    _submit(engine, peer, request_id, command, lambda _: {"context": describe(engine, name)})


def change(engine: Engine, peer: Peer, request_id: Id, fields: dict[str, Any]) -> None:
    """Set a context's title and labels, and describe it."""
    name = fields["context"]
    command = SetContext(name, peer.agent, fields.get("display_name"), fields.get("meta", {}))
    _submit(engine, peer, request_id, command, lambda _: {"context": describe(engine, name)})


def member(joined: bool) -> Callable[[Engine, Peer, Id, dict[str, Any]], None]:
    """`context_join` or `context_leave`."""

    def handle(engine: Engine, peer: Peer, request_id: Id, fields: dict[str, Any]) -> None:
        command = SetMember(fields["context"], peer.agent, fields.get("agent", peer.agent), joined)
        _submit(engine, peer, request_id, command, lambda changed: {"changed": changed})

    return handle


def pins(pinned: bool) -> Callable[[Engine, Peer, Id, dict[str, Any]], None]:
    """`context_pin` or `context_unpin`."""

    def handle(engine: Engine, peer: Peer, request_id: Id, fields: dict[str, Any]) -> None:
        units = _units(engine, peer, fields)
        _submit(engine, peer, request_id, SetPins(fields["context"], peer.agent, units, pinned), lambda changed: {"changed": changed})

    return handle


def places(present: bool) -> Callable[[Engine, Peer, Id, dict[str, Any]], None]:
    """`context_add` or `context_remove`."""

    def handle(engine: Engine, peer: Peer, request_id: Id, fields: dict[str, Any]) -> None:
        units = _units(engine, peer, fields)
        command = SetPlaces(fields["context"], peer.agent, units, present)
        _submit(engine, peer, request_id, command, lambda changed: {"changed": changed})

    return handle


def _units(engine: Engine, peer: Peer, fields: dict[str, Any]) -> tuple[bytes, ...]:
    sight = Sight(engine.log, peer.access)
    return tuple(unit_id(sight, ref) for ref in fields["ids"])


def _submit(engine: Engine, peer: Peer, request_id: Id, command: Command, answer: Callable[[bool], dict[str, Any]]) -> None:
    def done(result: Result) -> None:
        peer.answer(request_id, answer(bool(result)))

    engine.submit(peer, request_id, command, engine.committer.now(), done)


def show(engine: Engine, peer: Peer, request_id: Id, fields: dict[str, Any]) -> None:
    """Describe a context."""
    peer.answer(request_id, {"context": describe(engine, fields["context"])})


def list_(engine: Engine, peer: Peer, request_id: Id, fields: dict[str, Any]) -> None:
    """Describe a page of contexts, by name."""
    limit, size = min(fields.get("limit", PAGE), PAGE), 0
    found: list[bytes] = []
    last = ""
    for name in reached(engine.log, peer.access, after=fields.get("after", "")):
        if len(found) == limit or size > PAGE_BYTES:
            peer.answer_encoded(request_id, encode_map({"contexts": encode_array(found), "next": encode(last)}))
            return
        last = name
        found.append(encode(describe(engine, name)))
        size += len(found[-1])
    peer.answer_encoded(request_id, encode_map({"contexts": encode_array(found), "next": encode(None)}))


def describe(engine: Engine, name: str) -> dict[str, Any]:
    """A context as it travels.

    Raises:
        EngramError: `not_found`.
    """
    row = engine.log.durable.get(CONTEXTS, name)
    if row is None:
        raise EngramError("not_found", f"there is no context {name!r}; the contexts there are: engram context list", context=name)
    return _describe(engine, name, row)


def _describe(engine: Engine, name: str, row: Context) -> dict[str, Any]:
    rows, prefix = engine.log.durable, keys.name(name)
    pins = [keys.seq_of(key) for key in islice(rows.keys(PINS, prefix), SHOWN + 1)]
    members = [key.removeprefix(prefix).decode() for key in islice(rows.keys(MEMBERS, prefix), SHOWN + 1)]
    shown = {
        "id": name,
        "display_name": row.display_name,
        "meta": row.meta,
        "agents": members[:SHOWN],
        "pinned": [cbor2.loads(unit)["id"] for seq in pins[:SHOWN] if (unit := engine.log.unit(seq)) is not None],
        "units": row.entries,
        "bytes": row.size,
        "last_seq": row.last_entry,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
        "keep": {name: limit for name, limit in (rows.get(RETENTION, name) or NO_LIMIT)._asdict().items() if limit is not None},
    }
    return {**shown, "more": True} if max(len(pins), len(members)) > SHOWN else shown


def agents(engine: Engine, peer: Peer, request_id: Id, fields: dict[str, Any]) -> None:
    """List agents by name: all that have put a unit or been present, or the members of one context."""
    rows, after = engine.log.durable, fields.get("after")
    start = None if after is None else after.encode()
    found: list[dict[str, Any]] = []
    if "context" not in fields:
        listed = ((key, row, None) for key, row in rows.scan(AGENTS, after=start))
    else:
        describe(engine, fields["context"])
        prefix = keys.name(fields["context"])
        listed = (
            (key, rows.get(AGENTS, key.decode()), member.joined_at)  # type: ignore[misc]
            for key, member in rows.scan(MEMBERS, prefix, start)
        )
    for key, row, joined in listed:
        if len(found) == PAGE:
            peer.answer(request_id, {"agents": found, "next": found[-1]["id"]})
            return
        found.append(_agent(engine, peer.access, key.decode(), row, joined))
    peer.answer(request_id, {"agents": found, "next": None})


def names(engine: Engine, peer: Peer, request_id: Id, fields: dict[str, Any]) -> None:
    """List the names of a kind, or the tokens of leases, that start with a prefix."""
    prefix, limit, access = fields.get("prefix", ""), fields.get("limit", PAGE), peer.access
    if fields["kind"] == "locks":
        held = engine.log.pending.held.leases.items()
        tokens = (name for token, lease in held if (name := str(token)).startswith(prefix) and access.touches(lease.claim.resources))
        peer.answer(request_id, {"names": list(islice(tokens, limit))})
        return
    rows, kind = engine.log.durable, fields["kind"]
    found: Iterator[str] = (key.decode() for key in rows.keys(_NAMED[kind], prefix.encode()))
    if kind == "contexts":
        found = reached(engine.log, access, prefix)
    elif kind == "consumers" and access.contexts:
        found = (name for name in found if (row := rows.get(CONSUMERS, name)) is not None and sees_consumer(access, row))
    peer.answer(request_id, {"names": list(islice(found, limit))})


def _agent(engine: Engine, access: Access, name: str, row: Agent | None, joined_at: int | None) -> dict[str, Any]:
    present = engine.log.durable.get(PRESENCE, name)
    shown: dict[str, Any] = {
        "id": name,
        "units": row.units if row else 0,
        "first_seen": row.first_seen if row else None,
        "last_seen": row.last_seen if row else None,
        "present_since": present.since if present else None,
        "holds": _holds(engine, access, name),
    }
    return shown if joined_at is None else {**shown, "since": joined_at}


def _holds(engine: Engine, access: Access, name: str) -> list[str]:
    """The resources that an agent has locked, the first of very many."""
    rows = engine.log.pending
    leases = (rows.get(LEASES, token) for token in islice(rows.held.holders.get(name, ()), HELD))
    return list(islice((resource for lease in leases if lease for resource in access.touches(lease.claim.resources)), HELD))
