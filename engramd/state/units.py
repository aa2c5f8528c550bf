"""Units: putting them, and what a put leaves in the state."""

from __future__ import annotations

from hashlib import blake2b

from ..shapes import NamedTuple
from .contexts import ContextCreated, join
from .locks import Fence, LockReleased, check_fences
from .outcome import Decision, Refused, Seen
from .view import AGENTS, CONTEXTS, DEDUPE, LEASES, UNITS, Agent, Context, Deduped, State, UnitHead, View


class Edge(NamedTuple):
    """A relationship to an earlier unit, by its id."""

    type: str
    target: bytes
    meta: dict[str, str]


class Draft(NamedTuple):
    """A unit before it has a seq. `payload` is `str` where the bytes are UTF-8."""

    id: bytes
    type: str
    meta: dict[str, str]
    payload: str | bytes
    relationships: tuple[Edge, ...] = ()


class Put(NamedTuple):
    """Append units to a context, all or none; only under the leases of `fences`, which end with it if `release`.

    Attributes:
        keeps_ids: the units have ids from elsewhere: those that are there already are left out.
    """

    context: str
    agent: str
    units: tuple[Draft, ...]
    dedupe: str | None = None
    expect_seq: int | None = None
    fences: tuple[Fence, ...] = ()
    release: bool = False
    keeps_ids: bool = False


class UnitPut(NamedTuple):
    """A unit was put. Only the first unit of a put carries its dedupe key, with the number of units the key stands for.

    Attributes:
        dedupe: the digest of the key: the key itself is written nowhere.
        fences: the tokens of the leases under which it was put.
        size: of a unit that was erased since, what `size_of` gave before.
    """

    context: str
    agent: str
    id: bytes
    type: str
    meta: dict[str, str]
    payload: str | bytes
    relationships: tuple[Edge, ...]
    dedupe: bytes | None = None
    dedupe_count: int = 1
    fences: tuple[int, ...] = ()
    size: int | None = None


def dedupe_digest(key: str) -> bytes:
    """What is remembered of a dedupe key."""
    return blake2b(key.encode(), digest_size=16).digest()


def size_of(payload: str | bytes, meta: dict[str, str]) -> int:
    """The size of a unit as retention counts it: the bytes of its payload and its labels."""
    size = len(payload) if isinstance(payload, bytes) or payload.isascii() else len(payload.encode())
    for key, value in meta.items():
        size += len(key) + len(value) if key.isascii() and value.isascii() else len(key.encode()) + len(value.encode())
    return size


def decide_put(view: View, put: Put) -> Decision:
    """Refuse a put whose precondition fails or whose relationships lead nowhere; recognise one that was seen."""
    dedupe = None if put.dedupe is None else dedupe_digest(put.dedupe)
    if dedupe is not None:
        seen = view.get(DEDUPE, (put.context, dedupe))
        if seen is not None:
            return Seen(seen)
    context = view.get(CONTEXTS, put.context)
    if put.expect_seq is not None:
        actual = context.last_entry if context else 0
        if actual != put.expect_seq:
            return Refused(
                "conflict",
                f"the last entry of {put.context} is {actual}, not {put.expect_seq}: another write came first. Read on and try again",
                {"expected": put.expect_seq, "actual": actual},
            )
    refused = check_fences(view, put.fences)
    if refused is not None:
        return refused
    drafts, known = _fresh(view, put), set()
    for draft in drafts:
        for edge in draft.relationships:
            if edge.target not in known and view.get(UNITS, edge.target) is None:
                return Refused("not_found", "a relationship leads to a unit that does not exist", {"target": edge.target})
        if put.keeps_ids:  # else nobody can know it yet
            known.add(draft.id)
    if not drafts:
        return []
    events: list[ContextCreated | UnitPut | LockReleased] = []
    if context is None:
        events.append(ContextCreated(put.context, put.agent, put.context, {}))
    count, tokens = len(drafts), tuple(dict.fromkeys(fence.token for fence in put.fences)) if put.fences else ()
    for draft in drafts:
        events.append(
            UnitPut(put.context, put.agent, draft.id, draft.type, draft.meta, draft.payload, draft.relationships, dedupe, count, tokens)
        )
        dedupe = None
    if put.release:
        released = [(token, lease) for token in tokens if (lease := view.get(LEASES, token)) is not None]
        events += [LockReleased(put.agent, token, lease.claim.resources, "released") for token, lease in released]
    return events


def _fresh(view: View, put: Put) -> tuple[Draft, ...]:
    """The units that are not there yet, each once."""
    if not put.keeps_ids:
        return put.units
    fresh: dict[bytes, Draft] = {}
    for draft in put.units:
        if view.get(UNITS, draft.id) is None:
            fresh.setdefault(draft.id, draft)
    return tuple(fresh.values())


def apply_unit_put(state: State, seq: int, ts: int, event: UnitPut) -> None:
    """Fold a put: the context's last entry, the author's membership and last sign of life, the id, the dedupe key."""
    name, author, unit_id, _, meta, payload, _, dedupe, count, _, size = event
    context = state.get(CONTEXTS, name)
    assert context is not None, "a put follows its context's creation"
    if size is None:
        size = size_of(payload, meta)
    title, labels, created_at, _, _, entries, removed, held, trimmed = context
    state.put(CONTEXTS, name, Context(title, labels, created_at, ts, seq, entries + 1, removed, held + size, trimmed))
    agent = state.get(AGENTS, author)
    state.put(AGENTS, author, Agent(ts, ts, 1) if agent is None else Agent(agent.first_seen, ts, agent.units + 1))
    join(state, seq, ts, name, author)
    state.put(UNITS, unit_id, UnitHead(seq, name, size, 1, True, dedupe))
    if dedupe is not None:
        state.put(DEDUPE, (name, dedupe), Deduped(seq, count))
