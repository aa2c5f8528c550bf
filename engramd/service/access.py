"""What a request may do, and what of the log its answer may show: the one place where `state.access` is applied.

`guard` looks at every request before its operation does: permissions, the agent, and whatever names a context, a consumer, a resource or a
lease. `Sight` is for what cannot be seen from the request: which units, of any context, it may come to.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..protocol.errors import EngramError
from ..protocol.messages import OPERATIONS
from ..state.access import ACT_AS, OWNER, Access
from ..state.consumers import absent
from ..state.view import CONSUMERS, CONTEXTS, LEASES, Consumer, UnitHead
from ..storage.log import Log

if TYPE_CHECKING:
    from .engine import Engine
    from .peer import Peer

LOOKS = 4096  # additions to contexts that one request looks at, for units that were born in contexts which it may not read


def guard(engine: Engine, peer: Peer, op: str, fields: dict[str, Any]) -> dict[str, Any]:
    """The request's members, narrowed to what the connection may reach.

    Raises:
        EngramError: `denied` for what it may not ask, `not_found` for what it may not see.
    """
    access = peer.access
    if access is OWNER:
        return fields
    for right in OPERATIONS[op].needs(fields):
        if not access.may(right):
            raise EngramError("denied", f"{_who(peer)} may not {op}: that needs the permission {right}", permission=right)
    if op == "put" and fields.get("agent", peer.agent) != peer.agent and not access.may(ACT_AS):
        raise EngramError("denied", f"{_who(peer)} acts as {peer.agent} alone; it has no permission act-as", agent=peer.agent)
    _check_leases(engine, peer, op, fields)
    return _within(engine, peer, op, fields)


def _within(engine: Engine, peer: Peer, op: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Contexts, and consumers as what reads contexts. What asks for all is told which those are; a stream looks for itself."""
    access = peer.access
    if not access.contexts:
        return fields
    named = [fields["context"]] if "context" in fields else fields.get("contexts", ())
    for context in named:
        if not access.sees(context):
            raise EngramError("denied", f"{_who(peer)} may not reach the context {context!r}", context=context)
    if "consumer" in fields:
        row = engine.log.pending.get(CONSUMERS, fields["consumer"])
        if row is not None and not sees_consumer(access, row):
            refusal = absent(fields["consumer"])
            raise EngramError(refusal.code, refusal.message, **refusal.details)
        if row is None and op in ("consume", "consumer_create") and not named:
            raise EngramError("denied", f"{_who(peer)} may not read all contexts; name those that the consumer is to read")
    elif op == "agents" and not named:
        raise EngramError("denied", f"{_who(peer)} may not read all contexts; name one whose members to list")
    elif op == "names" and fields["kind"] == "agents":
        raise EngramError("denied", f"{_who(peer)} may not list the agents of all contexts")
    elif "contexts" in OPERATIONS[op].request.fields and not named and (op != "tail" or access.names_contexts()):
        found = [] if access.names_contexts() else list(reached(engine.log, access))
        return {**fields, "contexts": found or list(access.contexts)}  # none would mean all; a glob is no context, or one that may be seen
    return fields


def _check_leases(engine: Engine, peer: Peer, op: str, fields: dict[str, Any]) -> None:
    """What is locked, renewed, released or used as a fence must be within the paths; and, unless it may act as others, the agent's own."""
    access = peer.access
    resources = list(fields.get("resources", ())) if op in ("lock", "unlock") else []
    fences = fields.get("fences", ()) if op == "put" else ()
    tokens = [fields["token"]] if op in ("renew", "unlock") and "token" in fields and not fields.get("force") else []
    for resource in [*resources, *(fence["resource"] for fence in fences)]:
        if not access.covers(resource):
            raise EngramError("denied", f"{_who(peer)} may not lock {resource}", resource=resource)
    for token in [*tokens, *(fence["token"] for fence in fences)]:
        lease = engine.log.pending.get(LEASES, token)
        if lease is not None and lease.holder != peer.agent and not access.may(ACT_AS):
            raise EngramError("denied", f"the lease {token} is not {peer.agent}'s; only who may act as others can use it", token=token)


def sees_consumer(access: Access, consumer: Consumer) -> bool:
    """Whether a consumer reads nothing that may not be seen."""
    return not access.contexts or (bool(consumer.contexts) and all(map(access.sees, consumer.contexts)))


def reached(log: Log, access: Access, prefix: str = "", after: str = "") -> Iterator[str]:
    """The names of the contexts there are that may be reached, in order; only those that start with `prefix`, and sort behind `after`."""
    for start in access.prefixes():
        first, last = sorted((start, prefix), key=len)
        if not last.startswith(first) or (after > last and not after.startswith(last)):
            continue
        behind = after[len(last) :].encode() if after.startswith(last) and after else None
        yield from filter(access.sees, (key.decode() for key in log.durable.keys(CONTEXTS, last.encode(), behind)))


def _who(peer: Peer) -> str:
    return f"the agent {peer.agent}" if peer.token is None else f"the token {peer.token}"


class Sight:
    """Which units one request may come to: those that were born in a context that it reaches, or were ever added to one."""

    def __init__(self, log: Log, access: Access) -> None:
        self.log = log
        self.access = access
        self._left = LOOKS

    @property
    def is_limited(self) -> bool:
        """Whether there is anything that it may not come to."""
        return bool(self.access.contexts)

    def sees(self, head: UnitHead) -> bool:
        """Whether it may come to a unit.

        Raises:
            EngramError: `too_large` when that takes too long to find out.
        """
        if self.access.sees(head.context):
            return True
        for context in self.log.added_to(head.seq):
            if self.access.sees(context):
                return True
            self._left -= 1
            if self._left < 0:
                why = "this leads to too many units of contexts that may not be read; ask for fewer, or name entries by their seqs"
                raise EngramError("too_large", why)
        return False
