"""`put`, `get` and `list`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cbor2

from ..protocol.connection import Id
from ..protocol.cursor import format_cursor
from ..protocol.errors import EngramError
from ..protocol.framing import encode, encode_array, encode_map
from ..protocol.messages import DRAFT, MAX_UNITS, PAGE_BYTES
from ..protocol.render import redacted_message
from ..protocol.schema import invalid, require_one
from ..protocol.unit import is_id, new_id, parse_ref
from ..state.locks import Fence
from ..state.outcome import Refused, Seen
from ..state.units import Draft, Edge, Put, UnitPut
from ..storage.query import Range, page
from .access import Sight
from .filters import read_after, read_filter, read_instant
from .forms import written
from .peer import Peer
from .refs import find_unit, unit_id

if TYPE_CHECKING:
    from .committer import Result
    from .engine import Engine

WRITTEN_BYTES = 64 * 1024  # a page that is written out ends earlier: writing blocks the loop
MAX_NOTES = 128 * 1024  # bytes of meta on one unit's relationships; with its other limits, a unit and a page before it fit a frame


def put(engine: Engine, peer: Peer, request_id: Id, fields: dict[str, Any]) -> None:
    """Append units; answered when they are on disk."""
    if "fences" in fields:
        engine.leases.expire()  # what ends now does so before the instant of the put, or time would fall from that to this
    now = engine.committer.now()
    several, sight = "units" in fields, Sight(engine.log, peer.access)
    if several:
        drafts, keeps_ids = _drafts(engine, sight, fields, now)
    else:
        drafts, keeps_ids = (_draft(engine, sight, fields, now, ""),), False
    engine.space.take(sum([len(draft.payload) for draft in drafts]))
    fences = tuple([Fence(fence["resource"], fence["token"]) for fence in fields["fences"]]) if "fences" in fields else ()
    release = fields.get("release", False)
    if release and not fences:
        raise invalid("release", "needs fences: they name the leases")
    agent, dedupe, expected = fields.get("agent", peer.agent), fields.get("dedupe"), fields.get("expect_seq")
    command = Put(fields["context"], agent, drafts, dedupe, expected, fences, release, keeps_ids)

    def answer(result: Result) -> None:
        if isinstance(result, Seen):
            made = _seen(engine, result, several)
        else:
            assert not isinstance(result, Refused), "refusals are answered for us"
            ids, put = [draft.id for draft in drafts], [appended.seq for appended in result if type(appended.event) is UnitPut]
            made = _kept(sight, ids, len(put)) if keeps_ids else _answer(ids, put[-1], now, False, several)
        peer.answer(request_id, made)

    engine.submit(peer, request_id, command, now, answer)


def _drafts(engine: Engine, sight: Sight, fields: dict[str, Any], now: int) -> tuple[tuple[Draft, ...], bool]:
    """The units of a put that has several, and whether they bring their ids."""
    stray = [name for name in DRAFT if name in fields]
    if stray:
        raise EngramError("invalid", f"{stray[0]}: belongs inside each of units", field=stray[0])
    keeps_ids = _keeps_ids(fields)
    if keeps_ids and sight.is_limited:  # whether an id is known tells of contexts that are out of sight
        raise EngramError("denied", "units that bring their ids need a token without limits on contexts")
    return tuple([_draft(engine, sight, draft, now, f"units[{index}].") for index, draft in enumerate(fields["units"])]), keeps_ids


def _keeps_ids(fields: dict[str, Any]) -> bool:
    """Whether the units of a put bring their ids."""
    units = fields["units"]
    if not any("id" in unit for unit in units):
        return False
    for index, unit in enumerate(units):
        known = parse_ref(unit.get("id", 0))
        if not isinstance(known, bytes) or not is_id(known):
            raise invalid(f"units[{index}].id", "must be a UUID of version 7; all units of a put have one, or none")
    for name in ("dedupe", "expect_seq", "fences", "release"):
        if name in fields:
            raise invalid(name, "cannot go with ids, by which units are recognised anyway")
    return True


def _seen(engine: Engine, seen: Seen, several: bool) -> dict[str, Any]:
    """The answer to a put that happened before."""
    first, count = seen.units
    units = [cbor2.loads(unit) for seq in range(first, first + count) if (unit := engine.log.unit(seq)) is not None]
    if len(units) < count:
        raise EngramError("trimmed", f"this put was seen before, at seq {first}; retention has removed some of its units since", seq=first)
    return _answer([unit["id"] for unit in units], units[-1]["seq"], units[-1]["ts"], True, several)


def _kept(sight: Sight, ids: list[bytes], fresh: int) -> dict[str, Any]:
    """The answer to a put whose units brought their ids, when they are on disk."""
    last = cbor2.loads(find_unit(sight, ids[-1]))
    return {**_answer(ids, last["seq"], last["ts"], not fresh, True), "fresh": fresh}


def _draft(engine: Engine, sight: Sight, fields: dict[str, Any], now: int, where: str) -> Draft:
    if ("text" in fields) == ("payload" in fields):
        require_one(fields, "text", "payload")
    payload: str | bytes = fields["text"] if "text" in fields else fields["payload"]
    size = len(payload) if isinstance(payload, bytes) or payload.isascii() else len(payload.encode())
    if size > engine.max_payload:
        raise EngramError(
            "too_large",
            f"{where}payload: {size} bytes are over the limit of {engine.max_payload}; put a reference to a file instead, or "
            "raise max_payload in the daemon's configuration",
            limit=engine.max_payload,
            size=size,
        )
    if isinstance(payload, bytes):
        try:
            payload = payload.decode()
        except UnicodeDecodeError:
            pass
    edges = _edges(sight, fields["relationships"], where) if "relationships" in fields else ()
    known = parse_ref(fields["id"]) if "id" in fields else new_id(now)
    assert type(known) is bytes, "this was checked"
    return Draft(known, fields.get("type", "message"), fields.get("meta", {}), payload, edges)


def _edges(sight: Sight, wanted: list[dict[str, Any]], where: str) -> tuple[Edge, ...]:
    edges = tuple(Edge(edge["type"], unit_id(sight, edge["target"]), edge.get("meta", {})) for edge in wanted)
    notes = len(encode([edge.meta for edge in edges]))
    if notes > MAX_NOTES:
        raise EngramError(
            "too_large",
            f"{where}relationships: {notes} bytes of meta are over the limit of {MAX_NOTES} for one unit",
            field=f"{where}relationships",
            limit=MAX_NOTES,
            size=notes,
        )
    return edges


def _answer(ids: list[bytes], seq: int, ts: int, deduped: bool, several: bool) -> dict[str, Any]:
    answer = {"id": ids[-1], "seq": seq, "ts": ts, "deduped": deduped}
    return {**answer, "ids": ids} if several else answer


def get(engine: Engine, peer: Peer, request_id: Id, fields: dict[str, Any]) -> None:
    """Answer with units in the order asked, or fail if one is missing."""
    units: list[bytes] = []
    left, sight = engine.max_frame - 1024, Sight(engine.log, peer.access)
    for ref in fields["ids"]:
        units.append(find_unit(sight, ref))
        if fields.get("form") == "raw":
            refuse_redacted(units[-1])
        left -= len(units[-1])
        if left < 0 and len(units) > 1:
            raise EngramError(
                "too_large", f"the first {len(units)} of these units are more than an answer holds; ask for fewer", units=len(units)
            )
    peer.answer_encoded(request_id, encode_map(shown(units, fields.get("form"))))


def refuse_redacted(unit: bytes) -> None:
    """Say of a redacted unit that its payload is gone. Raises EngramError("redacted")."""
    decoded = cbor2.loads(unit)
    if (redacted := decoded.get("redacted")) is not None:
        raise EngramError("redacted", redacted_message(decoded), seq=decoded["seq"], reason=redacted["reason"])


def shown(units: list[bytes], form: str | None) -> dict[str, bytes]:
    """Units as a member of an answer: as they are, or written out."""
    return {"units": encode_array(units)} if form is None else {"text": encode(written(form, units))}


def list_(engine: Engine, peer: Peer, request_id: Id, fields: dict[str, Any]) -> None:
    """Answer with one page. A page that takes more than a step goes on as a task."""
    page = _Page(engine, Sight(engine.log, peer.access), fields)
    if page.advance():
        peer.answer_encoded(request_id, page.encoded())
        return

    async def go_on() -> None:
        async with peer.turn:
            while not page.advance():
                await peer.turn.next()
            peer.answer_encoded(request_id, page.encoded())

    engine.spawn(peer, request_id, go_on)


class _Page:
    def __init__(self, engine: Engine, sight: Sight, fields: dict[str, Any]) -> None:
        log = engine.log
        self._engine = engine
        self._limit: int = fields.get("limit", MAX_UNITS)
        self._form: str | None = fields.get("form")
        self._room = PAGE_BYTES if self._form is None else WRITTEN_BYTES
        self._found: list[bytes] = []
        reverse: bool = fields.get("reverse", False)
        first, last = 1, log.last_seq
        want = read_filter(sight, fields)
        since, until = read_instant(engine, fields, "since"), read_instant(engine, fields, "until")
        if since is not None:
            first = log.first_at(since)
        if until is not None:
            last = log.first_at(until) - 1
        after = read_after(engine, fields)
        if after is not None:
            if reverse:
                last = min(last, after - 1)
            else:
                first = max(first, after + 1)
        self._wanted = Range([fields["context"]], want, first, last, reverse, present=True)
        self._is_whole = False

    def advance(self) -> bool:
        """Read one step; True when the page is complete. One unit more than asked is read, to know whether there are more."""
        wanted = self._wanted
        units, reached = page(self._engine.log, wanted, self._limit + 1 - len(self._found), self._room)
        self._found += units
        self._is_whole = reached == (wanted.first if wanted.reverse else wanted.last)
        if len(self._found) > self._limit or self._is_whole:
            return True
        self._room -= sum(map(len, units))
        self._wanted = wanted._replace(last=reached - 1) if wanted.reverse else wanted._replace(first=reached + 1)
        return self._room <= 0

    def encoded(self) -> bytes:
        units = self._found[: self._limit]
        more = len(self._found) > self._limit or not self._is_whole
        cursor = format_cursor(self._engine.log.history, _place(units[-1])) if more and units else None
        return encode_map({**shown(units, self._form), "next": encode(cursor)})


def _place(unit: bytes) -> int:
    """The seq of the entry that a unit was read from."""
    decoded = cbor2.loads(unit)
    seq: int = decoded.get("entry", decoded["seq"])
    return seq
