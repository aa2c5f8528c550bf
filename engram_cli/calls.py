"""Every operation as a client method sees it, declared once: what it asks, and what it makes of the answer. No I/O.

The blocking and the trio client turn each into a method of the same name, arguments and documentation.
"""

from __future__ import annotations

import builtins
import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar, get_args

from engramd.protocol import paths
from engramd.protocol.errors import EngramError
from engramd.protocol.messages import MAX_UNITS
from engramd.protocol.unit import Relationship, Unit, format_id

from .core import entry_of
from .lease import Term, guard, normal

T = TypeVar("T")


class Call(NamedTuple, Generic[T]):
    """One request, and how its result is read."""

    op: str
    fields: dict[str, Any]
    read: Callable[[dict[str, Any]], T]


class Pages(Generic[T]):
    """Requests that go on until they have given all there is, or `limit` of it.

    Args:
        member: of each answer, what it lists; its `next` is where the following request goes on.
        limited: whether the operation takes `limit`.
    """

    def __init__(
        self, op: str, member: str, fields: Mapping[str, Any], read: Callable[[Any], T], limit: int | None = None, limited: bool = False
    ) -> None:
        self.op = op
        self._member = member
        self._fields = dict(fields)
        self._read = read
        self._left = limit
        self._limited = limited
        self._done = limit == 0

    def fields(self) -> dict[str, Any] | None:
        """The members of the next request; None when there is none."""
        if self._done:
            return None
        if self._left is None or not self._limited:
            return self._fields
        return {**self._fields, "limit": min(self._left, MAX_UNITS)}

    def take(self, result: Mapping[str, Any]) -> builtins.list[T]:
        """What an answer lists."""
        found = result[self._member]
        if self._left is not None:
            found = found[: self._left]
            self._left -= len(found)
        self._done = result["next"] is None or self._left == 0
        self._fields["after"] = result["next"]
        return [self._read(one) for one in found]


def as_method(
    method: Any,
    declared: Callable[..., Any],
    returns: Callable[[Any], Any] = lambda _: inspect.Signature.empty,
    change: Callable[[str], str] = str,
) -> None:
    """Give a client's method the name, the documentation and the arguments of what is declared here.

    Args:
        returns: what `help` is to say that the method returns, from what the declaration's result is made of.
        change: makes the documentation's examples those of the client.
    """
    method.__name__ = declared.__name__.rstrip("_")
    method.__qualname__ = f"Client.{method.__name__}"
    method.__doc__ = change(declared.__doc__ or "")
    signature = inspect.signature(declared, eval_str=True)
    itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    result = returns(next(iter(get_args(signature.return_annotation)), None))
    method.__signature__ = signature.replace(parameters=[itself, *signature.parameters.values()], return_annotation=result)


@dataclass(frozen=True, slots=True)
class PutResult:
    """What a put made, or found.

    Attributes:
        id, seq: of the unit; of several, the last one's.
        ts: microseconds since the Unix epoch.
        deduped: whether an earlier put with the same dedupe key is answered.
        ids: all ids, in order.
    """

    id: str
    seq: int
    ts: int
    deduped: bool
    ids: tuple[str, ...]


def put(
    context: str,
    payload: str | bytes,
    *,
    type: str = "message",
    meta: Mapping[str, str] | None = None,
    relationships: Iterable[Relationship] = (),
    dedupe: str | None = None,
    expect_seq: int | None = None,
    fences: Iterable[Term | tuple[str, int]] = (),
    release: bool = False,
) -> Call[PutResult]:
    """Append a unit; returns when it is on disk.

    Args:
        payload: text, or bytes that are kept as they are.
        dedupe: a key; a put seen before in the context is answered with its unit.
        expect_seq: refuse with `conflict` unless the context's last entry has this seq (0: it has none).
        fences: refuse with `stale` unless each of these leases is still held: a lease, or a path and the token of a lease that covers it.
        release: release the leases of `fences` in the same batch.

    Example:
        >>> made = engram.put("work", "tests pass", type="task_status", meta={"suite": "unit"})
        >>> made = engram.put("work", "deployed 1.4", dedupe="deploy-1.4")
        >>> again = engram.put("work", "deployed 1.4", dedupe="deploy-1.4")
        >>> again.deduped, again.id == made.id
        (True, True)
    """
    fields: dict[str, Any] = {"context": context, "type": type, "text" if isinstance(payload, str) else "payload": payload}
    if meta:
        fields["meta"] = dict(meta)
    edges = [{"type": edge.type, "target": edge.target, "meta": edge.meta} for edge in relationships]
    if edges:
        fields["relationships"] = edges
    guarded = [guard(fence) for fence in fences]
    if guarded:
        fields["fences"] = guarded
    if release:
        fields["release"] = True
    return _put(fields, dedupe, expect_seq)


def put_many(
    context: str, units: Sequence[Mapping[str, Any]], *, dedupe: str | None = None, expect_seq: int | None = None
) -> Call[PutResult]:
    """Append several units in one batch, all or none.

    Args:
        units: maps with `text` or `payload`, and `type`, `meta`, `relationships` if wanted.

    Example:
        >>> made = engram.put_many("work", [{"text": "one"}, {"text": "two", "type": "reasoning"}])
        >>> len(made.ids)
        2
    """
    return _put({"context": context, "units": [dict(unit) for unit in units]}, dedupe, expect_seq)


def _put(fields: dict[str, Any], dedupe: str | None, expect_seq: int | None) -> Call[PutResult]:
    if dedupe is not None:
        fields["dedupe"] = dedupe
    if expect_seq is not None:
        fields["expect_seq"] = expect_seq
    return Call("put", fields, _read_put)


def _read_put(made: dict[str, Any]) -> PutResult:
    ids = tuple(format_id(unit) for unit in made.get("ids", [made["id"]]))
    return PutResult(ids[-1], made["seq"], made["ts"], made["deduped"], ids)


def tail(*contexts: str, follow: bool = True, **options: Any) -> dict[str, Any]:
    """Stream the entries of contexts (none: of all), from now on unless the options say otherwise.

    Args:
        follow: go on with new entries instead of ending where the log ends now.
        options: where to start: `last` (a count), `since` (a time), `after` (a cursor or seq); none of these means now. Which:
            `agent`, `type`, `meta`, `related_to`, `until`, `kinds` (of events), and `events=True` for every event.

    Example:
        >>> made = engram.put_many("steps", [{"text": "one"}, {"text": "two"}])
        >>> [unit.text for unit in engram.tail("steps", last=2, follow=False)]
        ['one', 'two']
    """
    return {"contexts": [*contexts], "follow": follow, **options}


def consume(
    consumer: str, *contexts: str, follow: bool = True, ack: str = "auto", prefetch: int = 1, **settings: Any
) -> tuple[dict[str, Any], str]:
    """Take part in a consumer, which is created if need be, and stream units that no other member gets.

    Args:
        contexts: of a new consumer; none means all. One that exists keeps its own, and another choice is refused (`conflict`).
        follow: go on with new units instead of ending when all that are there now are done.
        ack: `auto`: a unit is done when the loop asks for the next one; `manual`: when `Consuming.ack` says so.
        prefetch: how many units to have at a time.
        settings: as `consumer_create` takes.

    Example:
        >>> made = engram.put_many("jobs", [{"text": "first"}, {"text": "second"}])
        >>> [unit.text for unit in engram.consume("workers", "jobs", follow=False)]
        ['first', 'second']
        >>> [unit.text for unit in engram.consume("workers", "jobs", follow=False)]
        []
    """
    return consumer_settings(consumer, contexts, settings) | {"follow": follow, "prefetch": prefetch}, ack


def question(
    context: str, payload: str | bytes, *, to: str, type: str = "message", meta: Mapping[str, str] | None = None
) -> Call[PutResult]:
    """Append a unit that is for an agent: its label `to` says so. It is put once, however often that has to be tried."""
    return put(context, payload, type=type, meta={**(meta or {}), "to": to}, dedupe=f"ask-{os.urandom(16).hex()}")


def answers(asked: PutResult) -> dict[str, Any]:
    """The members of a tail of everything that refers to a question, in any context, from the question on."""
    return {"contexts": [], "follow": True, "related_to": asked.id, "after": asked.seq}


def is_answer(unit: dict[str, Any], asked: PutResult) -> bool:
    """Whether a unit, as it travels, responds to the question."""
    return any(edge["type"] == "responds_to" and format_id(edge["target"]) == asked.id for edge in unit["relationships"])


def unanswered(asked: PutResult, to: str, seconds: float) -> EngramError:
    """The error of a question that was not answered in time."""
    return EngramError(
        "timeout",
        f"{to} has not answered within {seconds:g} s. The question stands as unit {asked.seq} ({asked.id}); look for an answer later with: "
        f"engram related {asked.seq} --direction in --type responds_to",
        id=asked.id,
        seq=asked.seq,
    )


def get(*ids: str | int) -> Call[builtins.list[Unit]]:
    """The units with these ids or seqs, in this order; `not_found` if one is missing.

    Example:
        >>> made = engram.put("work", "read me")
        >>> found = engram.get(made.id, made.seq)
        >>> [unit.text for unit in found]
        ['read me', 'read me']
    """
    return Call("get", {"ids": list(ids)}, lambda found: [Unit.from_wire(unit) for unit in found["units"]])


def list_(
    context: str,
    *,
    limit: int | None = None,
    reverse: bool = False,
    after: str | int | None = None,
    agent: str | Sequence[str] | None = None,
    type: str | Sequence[str] | None = None,
    meta: Mapping[str, str] | None = None,
    related_to: str | int | None = None,
    since: str | int | None = None,
    until: str | int | None = None,
) -> Pages[Unit]:
    """A context's present units, oldest first, read page by page as they are used.

    Args:
        limit: the most units; all of them by default.
        reverse: newest first.
        after: a cursor, or a seq: the units beyond it, in the order asked.
        agent, type: only units of one of these.
        meta: only units with all of these labels.
        related_to: only units with a relationship to the one with this id or seq.
        since, until: only units from this time on, or before it: `10m` (ago), RFC 3339, or microseconds since the epoch.

    Example:
        >>> made = engram.put_many("letters", [{"text": "a"}, {"text": "b"}, {"text": "c"}])
        >>> [unit.text for unit in engram.list("letters", reverse=True, limit=2)]
        ['c', 'b']
    """
    filters = _given(
        reverse=reverse or None, after=after, agent=agent, type=type, meta=meta, related_to=related_to, since=since, until=until
    )
    return pages(context, limit, filters, Unit.from_wire)


def pages(context: str, limit: int | None, filters: Mapping[str, Any], read: Callable[[Any], T]) -> Pages[T]:
    """As `list`, with what `read` makes of each unit as it travels."""
    return Pages("list", "units", {"context": context, **filters}, read, limit, limited=True)


@dataclass(frozen=True, slots=True)
class Edge:
    """A relationship: the unit with the id `source` has it, to the one with the id `target`."""

    type: str
    source: str
    target: str
    meta: dict[str, str]


@dataclass(frozen=True, slots=True)
class Hit:
    """A unit that a search found.

    Attributes:
        score: how well it fits, of the search's mode; `keyword` and `semantic` are what the parts gave.
        snippet: the part of the text that shows why, on one line; `marks` are its characters to be marked, from and to before.
        cursor: search on with `after=cursor` for what fits next best.
    """

    unit: Unit
    score: float
    keyword: float
    semantic: float
    snippet: str
    marks: tuple[tuple[int, int], ...]
    cursor: str


@dataclass(frozen=True, slots=True)
class Found:
    """A page of a search.

    Attributes:
        next: `after` of the next page; None at the end.
        behind: how many events the search did not see: 0 unless the index was behind and `wait` was over.
    """

    hits: tuple[Hit, ...]
    next: str | None
    behind: int


def search(
    query: str,
    *contexts: str,
    mode: str = "hybrid",
    limit: int = 20,
    after: str | None = None,
    min_score: float | None = None,
    agent: str | Sequence[str] | None = None,
    type: str | Sequence[str] | None = None,
    meta: Mapping[str, str] | None = None,
    related_to: str | int | None = None,
    since: str | int | None = None,
    until: str | int | None = None,
    wait: int | None = None,
) -> Call[Found]:
    """A page of the units that fit a query best.

    Args:
        contexts: none means all.
        mode: `hybrid`, `keyword` or `semantic`.
        limit: the most hits, up to 1000.
        after: `next` of the page before, or a hit's `cursor`.
        min_score: only hits with at least this score, from 0 to 1.
        agent, type, meta, related_to, since, until: which units, as `list` has it.
        wait: milliseconds to wait for the index where it is behind; 5000 by default.

    Example:
        >>> made = engram.put("notes", "The zebra parser fails on empty files")
        >>> found = engram.search("zebra", "notes")
        >>> [hit.unit.text for hit in found.hits]
        ['The zebra parser fails on empty files']
    """
    filters = _given(agent=agent, type=type, meta=meta, related_to=related_to, since=since, until=until)
    fields = {
        "query": query,
        "mode": mode,
        "limit": limit,
        **_given(contexts=contexts or None, after=after, min_score=min_score, wait=wait),
    }
    return Call("search", fields | filters, lambda page: Found(tuple(map(_hit, page["hits"])), page["next"], page["behind"]))


def _given(**options: Any) -> dict[str, Any]:
    """The options that are not None, as they travel."""
    plain = ((name, value) for name, value in options.items() if value is not None)
    return {name: dict(value) if isinstance(value, Mapping) else [*value] if isinstance(value, tuple) else value for name, value in plain}


def _hit(hit: dict[str, Any]) -> Hit:
    parts, snippet = hit["parts"], hit["snippet"]
    marks = tuple((start, end) for start, end in snippet["marks"])
    return Hit(Unit.from_wire(hit["unit"]), hit["score"], parts["keyword"], parts["semantic"], snippet["text"], marks, hit["cursor"])


@dataclass(frozen=True, slots=True)
class Pack:
    """Units assembled for a prompt.

    Attributes:
        text: the pack, UTF-8.
        manifest: what it was made of: `inputs`, `hash`, `used`, `units` with why each went in, `left_out`.
    """

    text: bytes
    manifest: dict[str, Any]


def pack(
    *contexts: str,
    budget: int,
    unit: str = "tokens",
    counter: str = "estimate",
    query: str | None = None,
    policy: str | Mapping[str, Any] = "default",
    at: str | int | None = None,
    since: str | int | None = None,
    format: str = "md",
    explain: bool = False,
    wait: int | None = None,
) -> Call[Pack]:
    """Assemble units of contexts for a prompt, within a budget.

    Args:
        budget: the largest size of the whole, in `unit`: `tokens`, `chars` (code points) or `bytes`.
        counter: how tokens are counted: `estimate`, or `tokenizer`, where the daemon was given a file of one.
        query: words; what fits them best goes in, too.
        policy: `default`, `errors-first`, or a table of what differs from the default one.
        at: the seq or cursor up to which the log counts; its end by default.
        since: only what the same pack at this seq or cursor has not.
        format: `md`, `json` or `xml`.
        explain: have the manifest name every unit that was left out, not only the first 16.
        wait: milliseconds to wait for the search index where it is behind; 5000 by default.

    Raises:
        EngramError: `invalid` when the budget does not hold what stands around the units, `timeout` when the index is behind for too long.

    Example:
        >>> made = engram.put("plan", "The parser fails on empty files", type="error")
        >>> first = engram.pack("plan", budget=500)
        >>> first.text.decode().startswith("# Context pack: plan")
        True
        >>> later = engram.put("plan", "mended")
        >>> again = engram.pack("plan", budget=500, at=made.seq)
        >>> again.text == first.text, again.manifest["hash"] == first.manifest["hash"]
        (True, True)
    """
    fields = {"contexts": [*contexts], "budget": budget, "unit": unit, "counter": counter, "policy": policy, "format": format}
    fields = _given(**fields, query=query, at=at, since=since, explain=explain or None, wait=wait)
    return Call("pack", fields, lambda answer: Pack(answer["text"].encode(), answer["manifest"]))


@dataclass(frozen=True, slots=True)
class Related:
    """A unit that relationships lead to.

    Attributes:
        distance: how many edges away it is.
        edge: the last one on the way to it.
    """

    unit: Unit
    distance: int
    edge: Edge

    @classmethod
    def from_wire(cls, item: dict[str, Any]) -> Related:
        """Read one as it travels."""
        edge = item["edge"]
        there = Edge(edge["type"], format_id(edge["source"]), format_id(edge["target"]), edge["meta"])
        return cls(Unit.from_wire(item["unit"]), item["distance"], there)


class Relations(NamedTuple):
    """What a walk came to, nearest first; `more` when a limit ended it."""

    found: builtins.list[Related]
    more: bool


def related(
    id: str | int,
    *,
    direction: str = "both",
    type: str | Sequence[str] | None = None,
    depth: int = 1,
    limit: int = 100,
) -> Call[Relations]:
    """Walk relationships from a unit, nearest first; each unit is come to once.

    Args:
        direction: `out` for edges that a unit has, `in` for edges that lead to it, or `both`.
        type: only edges of this type, or these.
        depth: the most edges on the way.
        limit: the most units, up to 1000.

    Example:
        >>> question = engram.put("talk", "ready?")
        >>> answer = engram.put("talk", "yes", relationships=[Relationship("responds_to", question.id)])
        >>> walk = engram.related(question.id, direction="in")
        >>> [(one.unit.text, one.distance, one.edge.type) for one in walk.found]
        [('yes', 1, 'responds_to')]
    """
    fields: dict[str, Any] = {"of": id, "direction": direction, "depth": depth, "limit": limit}
    if type is not None:
        fields["type"] = type if isinstance(type, str) else list(type)
    return Call("related", fields, lambda answer: Relations([Related.from_wire(item) for item in answer["related"]], answer["more"]))


@dataclass(frozen=True, slots=True)
class Change:
    """A change of a file.

    Attributes:
        chain: what led to it, nearest first; `more` when there is more of it.
        leases: what is known of each lease that it was made under; always its `token`.
    """

    unit: Unit
    chain: tuple[Related, ...]
    more: bool
    leases: tuple[dict[str, Any], ...]

    @classmethod
    def from_wire(cls, change: dict[str, Any]) -> Change:
        """Read one as it travels."""
        chain = tuple(Related.from_wire(item) for item in change["chain"])
        return cls(Unit.from_wire(change["unit"]), chain, change["more"], tuple(change["leases"]))


def why(path: str, *, limit: int | None = None, depth: int = 8) -> Pages[Change]:
    """The changes of a file in all contexts, newest first: the `file_change` units whose label `path` names it.

    Args:
        path: absolute, or relative to the working directory. A relative path in a unit counts if it is relative to that directory or one
            above.
        depth: the most edges from a change to what led to it.

    Example:
        >>> made = engram.put("work", "handle empty files", type="file_change", meta={"path": "/p/parser.py"})
        >>> [change.unit.text for change in engram.why("/p/parser.py")]
        ['handle empty files']
    """
    return changes(path, limit, depth, Change.from_wire)


def changes(path: str, limit: int | None, depth: int, read: Callable[[Any], T]) -> Pages[T]:
    """As `why`, with what `read` makes of each change as it travels."""
    return Pages("why", "changes", {"paths": paths.names(path), "depth": depth}, read, limit, limited=True)


def context_create(context: str, *, display_name: str | None = None, meta: Mapping[str, str] | None = None) -> Call[dict[str, Any]]:
    """Create a context; `exists` if there is one.

    Example:
        >>> made = engram.context_create("review", display_name="Review of the parser")
        >>> made["id"], made["display_name"]
        ('review', 'Review of the parser')
    """
    return _described("context_create", context, display_name, meta)


def context_set(context: str, *, display_name: str | None = None, meta: Mapping[str, str | None] | None = None) -> Call[dict[str, Any]]:
    """Change a context's title and labels; a label of None is removed.

    Example:
        >>> changed = engram.context_set("work", meta={"ticket": "T-1", "old": None})
        >>> changed["meta"]
        {'ticket': 'T-1'}
    """
    return _described("context_set", context, display_name, meta)


def context_retain(context: str, **limits: str | int | None) -> Call[dict[str, Any]]:
    """Have a context keep no more than this, oldest entries go first and pinned units stay; and describe it.

    Args:
        limits: `age` (text such as 30d, or microseconds), `units`, `bytes` (a number, or text such as 1G). None takes a limit away; one
            that is not given stays.
    """
    return Call("context_retain", {"context": context, **limits}, lambda answer: dict(answer["context"]))


class Redacted(NamedTuple):
    """What came of a redaction.

    Attributes:
        redacted: the seqs of the units that had not been redacted before.
        erased: whether their bytes are in no file of the store any more; else the daemon goes on erasing, and asking again waits for it.
    """

    redacted: builtins.list[int]
    erased: bool


def redact(*ids: str | int, reason: str) -> Call[Redacted]:
    """Erase the payload and labels of units for good; those that were redacted before are left as they are."""
    return Call("redact", {"ids": list(ids), "reason": reason}, lambda answer: Redacted(answer["redacted"], answer["erased"]))


def context_show(context: str) -> Call[dict[str, Any]]:
    """Describe a context; `not_found` if there is none."""
    return _described("context_show", context, None, None)


def _described(op: str, context: str, display_name: str | None, meta: Mapping[str, str | None] | None) -> Call[dict[str, Any]]:
    fields: dict[str, Any] = {"context": context}
    if display_name is not None:
        fields["display_name"] = display_name
    if meta:
        fields["meta"] = dict(meta)
    return Call(op, fields, lambda answer: dict(answer["context"]))


def context_list() -> Pages[dict[str, Any]]:
    """Describe every context, by name.

    Example:
        >>> made = engram.put("work", "hello")
        >>> "work" in [context["id"] for context in engram.context_list()]
        True
    """
    return Pages("context_list", "contexts", {}, dict)


def context_join(context: str, agent: str | None = None) -> Call[bool]:
    """Make an agent (by default the client's) a member; False if it was one.

    Example:
        >>> engram.context_join("work", "guest")
        True
    """
    return _member("context_join", context, agent)


def context_leave(context: str, agent: str | None = None) -> Call[bool]:
    """End an agent's membership; False if there was none."""
    return _member("context_leave", context, agent)


def _member(op: str, context: str, agent: str | None) -> Call[bool]:
    return _changed(op, {"context": context} if agent is None else {"context": context, "agent": agent})


def context_pin(context: str, *ids: str | int) -> Call[bool]:
    """Pin units; False if all were pinned."""
    return _changed("context_pin", {"context": context, "ids": list(ids)})


def context_unpin(context: str, *ids: str | int) -> Call[bool]:
    """Unpin units; False if none was pinned."""
    return _changed("context_unpin", {"context": context, "ids": list(ids)})


def context_add(context: str, *ids: str | int) -> Call[bool]:
    """Add units of other contexts; False if all were there."""
    return _changed("context_add", {"context": context, "ids": list(ids)})


def context_remove(context: str, *ids: str | int) -> Call[bool]:
    """Remove units from a context; False if none was there."""
    return _changed("context_remove", {"context": context, "ids": list(ids)})


def _changed(op: str, fields: dict[str, Any]) -> Call[bool]:
    return Call(op, fields, lambda answer: bool(answer["changed"]))


def lock(
    *resources: str,
    mode: str = "exclusive",
    slots: int | None = None,
    ttl: float = 60.0,
    session: bool = False,
    reason: str = "",
    wait: bool = False,
    timeout: float | None = None,
) -> tuple[dict[str, Any], float | None]:
    """Take a lease, on all of the resources or on none.

    A wait whose connection is lost asks again, at the end of the queue, until its time is over: the queue does not survive a restart.

    Args:
        resources: paths, globs (`*`, `**`, `?`), and abstract `@names`. Paths are made absolute here.
        mode: exclusive; shared with others that are shared; or one of so many `slots`.
        ttl: seconds it lasts after the grant, and after each renewal.
        session: it ends with the client's session, and needs no renewal while that lasts.
        reason: what for; told to whoever it keeps waiting.
        wait: queue up for it, instead of failing when it is held.
        timeout: seconds to wait at most.

    Raises:
        EngramError: `locked` when another holds one of them, or the wait was in vain; `deadlock` when it would never end.

    Example:
        >>> with engram.lock("@index", ttl=30, reason="reindexing") as lease:
        ...     made = engram.put("work", "reindexed", fences=[lease])
    """
    fields: dict[str, Any] = {"resources": normal(resources), "mode": mode, "ttl": round(ttl * 1e6)}
    options = {"slots": slots, "session": session or None, "reason": reason or None, "wait": wait or None}
    return {**fields, **{name: value for name, value in options.items() if value is not None}}, timeout


def renew(token: int) -> Call[dict[str, Any]]:
    """Have a lease last its full time from now on, and describe it; `stale` when it is over."""
    return Call("renew", {"token": token}, dict)


def unlock(token: int) -> Call[None]:
    """Release a lease; `stale` when it was over already."""
    return Call("unlock", {"token": token}, lambda answer: None)


def steal(*resources: str, token: int | None = None) -> Call[builtins.list[int]]:
    """Take leases away from whoever holds them: the one with this token, or all that overlap the resources. Gives their tokens."""
    wanted: dict[str, Any] = {"resources": normal(resources)} if token is None else {"token": token}
    return Call("unlock", {**wanted, "force": True}, lambda answer: list(answer["released"]))


class _Locks(Pages[dict[str, Any]]):
    """The leases, and on the last page who waits."""

    def take(self, result: Mapping[str, Any]) -> builtins.list[dict[str, Any]]:
        return super().take({**result, "locks": [*result["locks"], *result["waiters"]]})


def locks(*resources: str, explain: bool = False) -> Pages[dict[str, Any]]:
    """The leases that are held, by token, then those who wait, in order: the former have a `token`, the latter a `number`.

    Args:
        resources: only what overlaps one of these.
        explain: each lease with its holder's last `units`; needs resources.
    """
    return lock_pages(normal(resources) if resources else (), explain)


def lock_pages(resources: Sequence[str], explain: bool = False) -> Pages[dict[str, Any]]:
    """As `locks`, of resources that are in normal form."""
    fields: dict[str, Any] = {"resources": [*resources]} if resources else {}
    return _Locks("locks", "locks", {**fields, "explain": True} if explain else fields, dict)


def ack(consumer: str, *entries: Unit | str | int) -> Call[bool]:
    """Say that a consumer is done with units (or cursors, or seqs of entries). On disk when this returns; False if they were done."""
    return _changed("ack", {"consumer": consumer, "entries": [entry_of(entry) for entry in entries]})


def consumer_create(consumer: str, *contexts: str, **settings: Any) -> Call[bool]:
    """Create a consumer; False if there is one with these settings, `conflict` if it has others.

    Args:
        contexts: none means all.
        settings: `agent`, `type` (one or a list), `meta` (a map), `related_to`: which units. `key`: `agent` or `meta:K`, by which units
            go out one at a time, in order. `visibility`: how long a member may have a unit, such as `5m`. `deliveries`: after so many
            a unit is parked. `start`: where it starts: `start` (if nothing is said), `now`, a cursor, a seq, or a time.

    Example:
        >>> engram.consumer_create("reviews", "work", type=["file_change"], visibility="10m", start="now")
        True
    """
    return _changed("consumer_create", consumer_settings(consumer, contexts, settings))


def consumer_settings(consumer: str, contexts: Sequence[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a consumer as members of a request."""
    fields = {"consumer": consumer, **{"from" if name == "start" else name: value for name, value in settings.items()}}
    return {**fields, "contexts": [*contexts]} if contexts else fields


def consumer_show(consumer: str) -> Call[dict[str, Any]]:
    """Describe a consumer; `not_found` if there is none."""
    return Call("consumer_show", {"consumer": consumer}, lambda answer: dict(answer["consumer"]))


def consumer_list() -> Pages[dict[str, Any]]:
    """Describe every consumer, by name."""
    return Pages("consumer_list", "consumers", {}, dict)


def consumer_parked(consumer: str) -> Pages[dict[str, Any]]:
    """A consumer's parked units, with when they were parked after how many deliveries."""
    return Pages("consumer_parked", "parked", {"consumer": consumer}, dict)


def consumer_retry(consumer: str, *entries: Unit | str | int) -> Call[bool]:
    """Deliver parked units again; none means all. False if there was nothing to do."""
    asked = {"entries": [entry_of(entry) for entry in entries]} if entries else {}
    return _changed("consumer_retry", {"consumer": consumer, **asked})


def consumer_reset(consumer: str, to: str | int) -> Call[str]:
    """Have a consumer go on beyond `start`, `now`, a cursor, a seq or a time; gives the cursor."""
    return Call("consumer_reset", {"consumer": consumer, "to": to}, lambda answer: str(answer["cursor"]))


def consumer_delete(consumer: str) -> Call[None]:
    """Forget a consumer, and end its members' streams."""
    return Call("consumer_delete", {"consumer": consumer}, lambda answer: None)


def agents(context: str | None = None) -> Pages[dict[str, Any]]:
    """Every agent that has put a unit, or a context's members, by name."""
    return Pages("agents", "agents", {} if context is None else {"context": context}, dict)


def names(kind: str, prefix: str = "", limit: int = 1000) -> Call[builtins.list[str]]:
    """The names of `contexts`, `agents` or `consumers`, or the tokens of `locks`, that start with a prefix, in order, at most `limit`.

    Example:
        >>> made = engram.put("web/one", "hello")
        >>> engram.names("contexts", "web/")
        ['web/one']
    """
    return Call("names", {"kind": kind, "prefix": prefix, "limit": limit}, lambda found: list(found["names"]))


def token_issue(
    agent: str,
    permissions: Sequence[str] = ("read", "write", "lock"),
    *,
    contexts: Sequence[str] = (),
    paths: Sequence[str] = (),
    expires: str | None = None,
    note: str = "",
) -> Call[dict[str, Any]]:
    """Issue a token: a map with its text, `token`, which is told this once, and what it is, `info`.

    Args:
        permissions: of `read`, `write`, `lock`, `admin` and `act-as`.
        contexts: globs over names of contexts that it is limited to; none means all.
        paths: what it may lock, with all that is beneath; none means all.
        expires: how long it lasts, such as `30d`; None: for ever.
    """
    given = {"contexts": [*contexts], "paths": normal(paths) if paths else [], "expires": expires, "note": note}
    fields = {"agent": agent, "permissions": [*permissions], **{name: value for name, value in given.items() if value}}
    return Call("token_issue", fields, dict)


def token_list() -> Pages[dict[str, Any]]:
    """Describe every token, by name, without its secret."""
    return Pages("token_list", "tokens", {}, dict)


def token_revoke(token: str) -> Call[int]:
    """End a token, by name, and the connections that were made with it. Gives how many those were."""
    return Call("token_revoke", {"token": token}, lambda answer: int(answer["connections"]))


def token_inspect(token: str) -> Call[dict[str, Any]]:
    """Describe a token, by name; `not_found` if there is none."""
    return Call("token_inspect", {"token": token}, lambda answer: dict(answer["info"]))


def status() -> Call[dict[str, Any]]:
    """The daemon's facts about itself."""
    return Call("status", {}, lambda answer: dict(answer["status"]))


def metrics() -> Call[builtins.list[dict[str, Any]]]:
    """What the daemon has counted and timed since its start.

    Returns:
        A map for each metric and set of labels: `name`, `kind` (`counter`, `gauge`, `histogram`), `labels`, and `value`, or for histograms
        `count`, `sum` and `buckets` as `[upper bound or None, cumulative count]`. Times are seconds, sizes bytes.
    """
    return Call("metrics", {}, lambda answer: builtins.list(answer["metrics"]))


def shutdown() -> Call[None]:
    """Ask the daemon to stop."""
    return Call("shutdown", {}, lambda answer: None)
