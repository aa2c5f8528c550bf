"""Hypothesis strategies for wire values, derived from the schema that declares them, and ways to break such values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

from engramd.protocol.messages import GRANTS, MODES
from engramd.protocol.schema import Any_, Bool, Bytes, Choice, Int, ListOf, MapOf, Named, Null, Number, OneOf, Record, Resource, Text, Type
from engramd.protocol.unit import RELATIONSHIPS, TYPES, encode_unit

SEQ = st.integers(1, 2**63 - 1)
NAMES = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=12)
LABELS = st.dictionaries(NAMES, st.text(max_size=12), max_size=3)
UNIT_ID = st.binary(min_size=16, max_size=16)

# One value of each type that CBOR can carry: what a member might hold by mistake.
KINDS: tuple[Any, ...] = (None, True, 5, 1.5, "text", b"bytes", ["list"], {"a": "map"})


def units() -> st.SearchStrategy[dict[str, Any]]:
    """Unit maps, as `decode` gives them."""
    edge = st.fixed_dictionaries({"type": st.sampled_from(RELATIONSHIPS), "target": UNIT_ID, "meta": LABELS})
    rest = {"relationships": st.lists(edge, max_size=2)}
    head = {"id": UNIT_ID, "seq": SEQ, "ts": SEQ, "context": NAMES, "agent": NAMES, "type": st.sampled_from(TYPES), "meta": LABELS}
    payload = {"text": st.text(max_size=20)}, {"payload": st.binary(max_size=20)}
    added: tuple[dict[str, Any], ...] = ({}, {"entry": SEQ, "entry_context": NAMES})
    return st.one_of(*(st.fixed_dictionaries({**head, **member, **rest, **place}) for member in payload for place in added))


def encoded(unit: dict[str, Any]) -> bytes:
    """A unit map, without its `entry`, through the codec that writes units to the log."""
    edges = [(edge["type"], edge["target"], edge["meta"]) for edge in unit["relationships"]]
    payload = unit["text"] if "text" in unit else unit["payload"]
    return encode_unit(unit["id"], unit["seq"], unit["ts"], unit["context"], unit["agent"], unit["type"], unit["meta"], payload, edges)


_contexts = st.fixed_dictionaries(
    {
        "id": NAMES,
        "display_name": st.text(max_size=8),
        "meta": LABELS,
        "agents": st.lists(NAMES, max_size=3),
        "pinned": st.lists(UNIT_ID, max_size=3),
        "units": st.integers(0, 9),
        "bytes": st.integers(0, 9),
        "last_seq": st.integers(0, 9),
        "keep": st.fixed_dictionaries({}, optional={name: st.integers(1, 9) for name in ("age", "units", "bytes")}),
        "created_at": SEQ,
        "updated_at": SEQ,
    }
)
_agents = st.fixed_dictionaries(
    {
        "id": NAMES,
        "units": st.integers(0, 9),
        **dict.fromkeys(("first_seen", "last_seen", "present_since"), st.none() | SEQ),
        "holds": st.lists(NAMES, max_size=2),
    },
    optional={"since": SEQ},
)
_hits = st.fixed_dictionaries(
    {
        "unit": units(),
        "score": st.floats(0, 1),
        "parts": st.fixed_dictionaries({"keyword": st.floats(0, 1), "semantic": st.floats(0, 1)}),
        "snippet": st.fixed_dictionaries({"text": st.text(max_size=9), "marks": st.just([[0, 1], [3, 4]])}),
        "cursor": NAMES,
    }
)
_tokens = st.fixed_dictionaries(
    {
        **dict.fromkeys(("token", "agent", "note"), NAMES),
        "permissions": st.lists(st.sampled_from(GRANTS), min_size=1, max_size=3),
        **dict.fromkeys(("contexts", "paths"), st.lists(NAMES, max_size=2)),
        "issued_at": SEQ,
        "expires_at": st.none() | SEQ,
        "expired": st.booleans(),
        "connections": st.integers(0, 9),
    }
)
RESOURCES = st.one_of(
    st.just("/"),
    st.lists(st.sampled_from(["a", "b.py", "**", "*.c", "?", "[id]", " ", "é"]), min_size=1, max_size=4).map(
        lambda parts: "/" + "/".join(parts)
    ),
    NAMES.map(lambda name: f"@{name}"),
)
_claims: dict[str, st.SearchStrategy[Any]] = {"resources": st.lists(RESOURCES, min_size=1, max_size=3), "mode": st.sampled_from(MODES)}
_optional: dict[str, st.SearchStrategy[Any]] = {"slots": st.integers(1, 9), "session": NAMES}
_locks = st.fixed_dictionaries(
    {
        "token": SEQ,
        **_claims,
        "holder": NAMES,
        "reason": st.text(max_size=8),
        **dict.fromkeys(("ttl", "granted_at", "age", "renewals"), st.integers(0, 9)),
        "remaining": st.none() | st.integers(0, 9),
    },
    optional={**_optional, "units": st.lists(units(), max_size=1)},
)
_waiters = st.fixed_dictionaries(
    {"number": SEQ, **_claims, "agent": NAMES, "reason": st.text(max_size=8), "waited": SEQ, "behind": st.lists(SEQ, max_size=2)},
    optional=_optional,
)
_related = st.fixed_dictionaries(
    {
        "unit": units(),
        "distance": SEQ,
        "edge": st.fixed_dictionaries({"type": st.sampled_from(RELATIONSHIPS), "source": UNIT_ID, "target": UNIT_ID, "meta": LABELS}),
    }
)
_changes = st.fixed_dictionaries(
    {
        "unit": units(),
        "chain": st.lists(_related, max_size=2),
        "more": st.booleans(),
        "leases": st.lists(
            st.fixed_dictionaries(
                {"token": SEQ},
                optional={
                    "holder": NAMES,
                    "resources": st.lists(RESOURCES, min_size=1, max_size=2),
                    "mode": st.sampled_from(MODES),
                    "reason": st.text(max_size=8),
                    "granted_at": SEQ,
                },
            ),
            max_size=2,
        ),
    }
)
_consumers = st.fixed_dictionaries(
    {
        **dict.fromkeys(("id", "key", "cursor"), NAMES),
        **dict.fromkeys(("visibility", "deliveries", "lag", "waiting", "held", "parked", "missed", "created_at", "updated_at"), SEQ),
        "contexts": st.lists(NAMES, max_size=3),
        "filter": LABELS,
        "members": st.lists(st.fixed_dictionaries({"agent": NAMES, "held": SEQ, "prefetch": SEQ}), max_size=2),
    }
)
_parked = st.fixed_dictionaries({"cursor": NAMES, "deliveries": SEQ, "parked_at": SEQ, "again": st.booleans(), "unit": st.none() | units()})
_RULES: dict[str, st.SearchStrategy[Any]] = {
    "[* related]": st.lists(_related, max_size=3),
    "[* change]": st.lists(_changes, max_size=3),
    "[* unit]": st.lists(units(), max_size=3),
    "[* hit]": st.lists(_hits, max_size=3),
    "context-info": _contexts,
    "[* context-info]": st.lists(_contexts, max_size=3),
    "consumer-info": _consumers,
    "[* consumer-info]": st.lists(_consumers, max_size=3),
    "[* parked]": st.lists(_parked, max_size=3),
    "[* agent-info]": st.lists(_agents, max_size=3),
    "[* lock-info]": st.lists(_locks, max_size=3),
    "[* waiter-info]": st.lists(_waiters, max_size=3),
    "manifest": st.fixed_dictionaries(
        {
            "version": st.just(1),
            "inputs": st.dictionaries(NAMES, st.integers(0, 9), max_size=3),
            "hash": NAMES,
            "used": SEQ,
            "units": st.lists(
                st.fixed_dictionaries(
                    {"seq": SEQ, "id": NAMES, "lane": NAMES, "why": NAMES, "size": SEQ, "digest": NAMES}, optional={"kept": SEQ, "of": SEQ}
                ),
                max_size=2,
            ),
            "left_out": st.fixed_dictionaries(
                {
                    "count": SEQ,
                    "before": SEQ,
                    "units": st.lists(st.fixed_dictionaries({"seq": SEQ, "lane": NAMES, "why": NAMES}), max_size=2),
                }
            ),
        }
    ),
    "[* check-info]": st.lists(
        st.fixed_dictionaries({"check": NAMES, "result": st.sampled_from(["ok", "wrong", "skipped"]), "wrong": st.integers(0, 9)}),
        max_size=3,
    ),
    "[* finding]": st.lists(st.fixed_dictionaries({"check": NAMES, "message": NAMES}), max_size=3),
    "token-info": _tokens,
    "[* token-info]": st.lists(_tokens, max_size=3),
    "{ * tstr => any }": st.dictionaries(NAMES, st.integers(0, 9) | st.text(max_size=5) | LABELS, max_size=3),
}


def _texts(kind: Text) -> st.SearchStrategy[str]:
    short = NAMES if kind.plain else st.text(max_size=12)
    small = short.filter(lambda text: kind.least <= len(text.encode()) <= kind.most)
    if kind.most > 4096:
        return small
    return st.one_of(small, small, small, st.just("x" * kind.most), st.just("é" * (kind.most // 2)))  # up to the limit, in bytes


def valid(kind: Type) -> st.SearchStrategy[Any]:
    """Values that fit a type of the schema."""
    match kind:
        case Text():
            return _texts(kind)
        case Resource():
            return RESOURCES
        case Bytes():
            return st.binary(min_size=kind.least, max_size=min(kind.most, 16))
        case Int():
            return st.integers(kind.least, kind.most) | st.sampled_from((kind.least, kind.most))
        case Number():
            return st.floats(kind.least, kind.most) | st.integers(int(kind.least), int(kind.most))
        case Bool():
            return st.booleans()
        case Null():
            return st.none()
        case Any_():
            return _RULES[kind.rule]
        case Choice():
            return st.sampled_from(kind.options)
        case ListOf():
            return st.lists(valid(kind.item), min_size=kind.least, max_size=min(kind.most, kind.least + 2))
        case MapOf():
            return st.dictionaries(valid(kind.key), valid(kind.value), max_size=3)
        case OneOf():
            return st.one_of(*(valid(option) for _, option in kind.options))
        case Record():
            return records(kind)
        case Named():
            return valid(kind.type)
    raise NotImplementedError(kind)


def records(record: Record) -> st.SearchStrategy[dict[str, Any]]:
    """Maps that fit a record."""
    members = {name: valid(field.type) for name, field in record.fields.items()}
    required = {name: member for name, member in members.items() if record.fields[name].required}
    optional = {name: member for name, member in members.items() if name not in required}
    return st.fixed_dictionaries(required, optional=optional)


Path = tuple[str | int, ...]


def places(kind: Type, value: Any, path: Path = ()) -> Iterator[tuple[Path, frozenset[type]]]:
    """Every place in a fitting value, and the Python types that may stand there."""
    match kind:
        case Number():
            yield path, frozenset((int, float))
        case OneOf():
            yield path, frozenset(accepted for accepted, _ in kind.options)
            for accepted, option in kind.options:
                if type(value) is accepted:
                    yield from list(places(option, value, path))[1:]
        case ListOf():
            yield path, frozenset((list,))
            for index, item in enumerate(value):
                yield from places(kind.item, item, (*path, index))
        case MapOf():
            yield path, frozenset((dict,))
            for key, item in value.items():
                yield from places(kind.value, item, (*path, key))
        case Named():
            yield from places(kind.type, value, path)
        case Record():
            yield path, frozenset((dict,))
            for key, item in value.items():
                yield from places(kind.fields[key].type, item, (*path, key))
        case _:
            yield path, frozenset((type(value),))


def replaced(value: Any, path: Path, new: Any) -> Any:
    """A copy of a value with something else in one place."""
    if not path:
        return new
    copy = list(value) if isinstance(value, list) else dict(value)
    copy[path[0]] = replaced(copy[path[0]], path[1:], new)  # type: ignore[index]
    return copy


@st.composite
def broken(draw: st.DrawFn, record: Record, kinds: tuple[Any, ...] = KINDS) -> dict[str, Any]:
    """Maps that would fit a record, were it not for one value of the wrong type."""
    value = draw(records(record).filter(bool))
    path, accepted = draw(st.sampled_from(list(places(record, value))[1:]))
    wrong = draw(st.sampled_from([new for new in kinds if type(new) not in accepted]))
    return replaced(value, path, wrong)  # type: ignore[no-any-return]
