"""How a pack is made: reads what may go into it as the log stood at a seq, has it chosen, and writes it out.

Everything is taken as of that seq: entries, removals, pins, relationships, and what the search worker ranks. Work is done in small steps,
with other tasks let in between.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import cbor2
import trio

from ..protocol.connection import Id
from ..protocol.cursor import parse_cursor
from ..protocol.errors import EngramError
from ..protocol.framing import encode, encode_map
from ..protocol.packs import LABEL, MAX_EDGES, NAMED, WRITERS, Omitted, Opening, Unit, digest, pack_hash, text_of
from ..protocol.schema import invalid
from ..protocol.unit import format_id
from ..state.filters import EVERYTHING
from ..state.packs import POLICIES, Chosen, Found, Item, Measuring, Packing, Policy, unseen
from ..state.sizes import COUNTERS, TOKENS, Counter, estimate
from ..state.view import PAST_PINS, PINS, UNITS, Table
from ..storage import keys
from ..storage.past import was_present
from ..storage.query import Range, step
from ..storage.records import UNIT_PUT, is_trimmed
from .peer import Peer
from .search import WAIT_MILLISECONDS

if TYPE_CHECKING:
    from .engine import Engine

T = TypeVar("T")

VERSION = 1  # of manifests: what changes the bytes of packs changes it
EMBEDDER = "engram-static 384-1"  # the built-in one: others do not give the same vectors everywhere
MAX_PINNED = 512  # pinned units of a context that are looked at: those pinned last
MAX_RECENT = 4096
MAX_RELATED = 128
MAX_HITS = 128
SEEDS = 64  # units in the pack whose relationships are walked: those chosen first
SOURCES = 64  # units of a context with a relationship to another that are looked at: the newest
STEP_ROWS = 64  # what is read before others are let in
STEP_BYTES = 128 * 1024
STEP_CHARS = 128 * 1024  # and what is measured
NAMED_LEFT = 16  # units left out that a manifest names, unless all are asked for
TOKENIZED = 128  # characters that a token of a model has at most


def assemble(engine: Engine, peer: Peer, request_id: Id, fields: dict[str, Any]) -> None:
    """Answer with a pack and its manifest."""
    at, since = _seq(engine, fields, "at", engine.log.last_seq), _seq(engine, fields, "since", 0)
    if "since" in fields and since >= at:
        raise invalid("since", f"must be before the seq that the pack is of, {at}; it is {since}")
    if "query" in fields and engine.search.embedder not in ("", "builtin"):
        raise invalid(
            "query",
            f"the embedder {engine.search.embedder} does not give the same vectors everywhere, so a pack could not be made again; pack "
            "without a query, or start the daemon with --embedder builtin",
        )
    if fields.get("counter", "estimate") != "estimate" and fields.get("unit", TOKENS) != TOKENS:
        raise invalid("counter", f"counts tokens, and the budget is in {fields['unit']}")
    policy = _policy(fields.get("policy", "default"))

    async def go() -> None:
        made = Assembly(engine, fields, policy, at)
        await made.choose()
        if "since" in fields:
            before = Assembly(engine, fields, policy, since)
            await before.choose()
            made.keep(unseen(made.packing.chosen.values(), before.packing.chosen), since)
        answer = await made.written()
        peer.answer_encoded(request_id, encode_map({name: encode(value) for name, value in answer.items()}))

    engine.spawn(peer, request_id, go)


def _seq(engine: Engine, fields: Mapping[str, Any], name: str, default: int) -> int:
    seq, last = parse_cursor(fields.get(name, default), engine.log.history), engine.log.last_seq
    if seq > last:
        raise EngramError("cursor", f"{name}: the log ends at {last}; nothing stands at {seq}", last=last)
    return seq


def _policy(given: str | dict[str, Any]) -> Policy:
    if isinstance(given, str) and given not in POLICIES:
        raise invalid("policy", f"{given!r} is not built in; there are {', '.join(POLICIES)}, or give a table")
    return Policy(POLICIES[given] if isinstance(given, str) else given)


class Assembly:
    """The making of one pack.

    Args:
        fields: the request.
        at: the seq up to which the log counts.

    Attributes:
        packing: what was chosen, and what was not.
    """

    def __init__(self, engine: Engine, fields: Mapping[str, Any], policy: Policy, at: int) -> None:
        self._engine, self._log, self._policy, self._at = engine, engine.log, policy, at
        self._contexts = list(dict.fromkeys(fields["contexts"]))
        self._query: str | None = fields.get("query")
        self._wait: float = fields.get("wait", WAIT_MILLISECONDS) / 1000
        self._explain: bool = fields.get("explain", False)
        self._budget: int = fields["budget"]
        self._unit: str = fields.get("unit", TOKENS)
        self._format: str = fields.get("format", "md")
        self._writer = WRITERS[self._format]
        self._counter = COUNTERS[self._unit]
        if fields.get("counter", "estimate") != "estimate":
            self._counter = Counter("", None, TOKENIZED)
        self._opening = Opening(self._contexts, at)
        self._before = 0
        self._unmeasured = 0
        self._units: dict[int, Found] = {}
        self.packing = Packing(policy, self._budget, self._counter.most, self)

    def block(self, found: Found, kept: int | None, keep: str) -> str:
        """A unit as it stands in the pack; see `state.packs.Shape`."""
        if kept is None:
            return self._engine.written.block(self._format, found, self._writer)
        return self._writer.block(found.unit, found.entry, kept, keep)

    # Choosing

    async def choose(self) -> None:
        """Choose the units.

        Raises:
            EngramError: `invalid` when the budget holds nothing, `timeout` when the search index is behind for too long.
        """
        packing, most = self.packing, [self._at] * NAMED
        fixed = await self._measured(packing.reserve(self._frame(Omitted(99_999, most, self._at))))
        if packing.room < 0:
            raise invalid("budget", f"{self._budget} {self._unit} are too few: what stands around the units takes {fixed}")
        await self._fill("pinned", self._pinned())
        await self._measured(packing.fill("recent", await self._recent()))
        await self._fill("related", self._related())
        if self._query is not None:
            await self._fill(
                "query", self._each((seq, f"query, rank {rank}") for rank, seq in enumerate(await self._ranked(self._query), 1))
            )
        await self._measured(packing.rest())

    async def _fill(self, lane: str, found: Iterable[Found | None]) -> None:
        """Fill a lane with what is found; None stands for the end of a step."""
        items: list[Item] = []
        for one in found:
            if one is None:
                await trio.lowlevel.checkpoint()
            elif one.seq not in self.packing.chosen:
                items.append(await self._measured(self.packing.weigh(one)))
        await self._measured(self.packing.fill(lane, items))

    async def _measured(self, measuring: Measuring[T]) -> T:
        try:
            text = next(measuring)
            while True:
                text = measuring.send(await self._size(text))
        except StopIteration as stop:
            result: T = stop.value
            return result

    async def _size(self, text: str) -> int:
        self._unmeasured += len(text)
        if self._unmeasured > STEP_CHARS:
            self._unmeasured = 0
            await trio.lowlevel.checkpoint()
        if self._counter.count is not None:
            return self._engine.written.size(text, estimate) if self._counter.count is estimate else self._counter.count(text)
        name, (size,) = (await self._engine.search.ask({"count": [text]}, self._wait, upto=0))["page"]
        self._counter = Counter(name, None, TOKENIZED)
        return int(size)

    def _found(self, seq: int, why: str) -> Found | None:
        """The unit that was born at a seq, if it was in the contexts then and may be in a pack."""
        if (known := self._units.get(seq)) is not None:
            return known._replace(why=why)
        record = self._log.record(seq)
        if record is None or record.code != UNIT_PUT:
            return None
        fields = cbor2.loads(record.body)
        entry = self._entry(seq, None if is_trimmed(record) else fields["context"])
        return None if entry is None else self._made(record.body, fields, entry, why)

    def _made(self, raw: bytes, fields: dict[str, Any], entry: int, why: str) -> Found | None:
        if fields["type"] == "system" and fields["meta"].get(LABEL[0]) == LABEL[1] and not self._policy.manifests:
            return None
        seq = fields["seq"]
        heads = ((edge["type"], self._log.durable.get(UNITS, edge["target"])) for edge in fields["relationships"])
        edges = [(type, head.seq) for type, head in heads if head is not None]
        unit = Unit(fields, tuple(edges[:MAX_EDGES]), raw)
        found = self._units[seq] = Found(seq, entry, fields["type"], why, len(text_of(fields) or ""), unit)
        return found

    def _entry(self, seq: int, birth: str | None) -> int | None:
        """The last entry by which a unit was in the contexts; `birth` is where it was born, if it is still kept there."""
        places = self._log.additions(seq) | ({} if birth is None else {seq: birth})
        here = (entry for entry, context in places.items() if context in self._contexts)
        return max((entry for entry in here if was_present(self._log, places[entry], entry, self._at)), default=None)

    def _pinned(self) -> Iterator[Found | None]:
        """What was pinned, last first."""
        pins: list[tuple[int, int, str]] = []
        for context in self._contexts:
            here: list[tuple[int, int, str]] = []
            for pin in self._pins(context):
                if pin is None:
                    yield None
                elif pin[1] <= self._at:
                    here.append((pin[1], pin[0], context))
            pins += sorted(here)[-MAX_PINNED:]
        yield from self._each((seq, f"pinned in {context}") for _, seq, context in sorted(pins, reverse=True))

    def _pins(self, context: str) -> Iterator[tuple[int, int] | None]:
        """The units that are pinned, or were at the pack's seq and no more since, each with since when."""
        for row in self._paged(PINS, context, None):
            yield None if row is None else (keys.seq_of(row[0]), row[1].since)
        for past in self._paged(PAST_PINS, context, keys.pack_seq(self._at)):
            yield None if past is None else (past[1].unit, past[1].since)

    def _paged(self, table: Table[Any, T], context: str, after: bytes | None) -> Iterator[tuple[bytes, T] | None]:
        """A context's rows of a table, and None after each page of them."""
        while True:
            page = list(islice(self._log.durable.scan(table, keys.name(context), after), STEP_ROWS))
            yield from page
            yield None
            if len(page) < STEP_ROWS:
                return
            after = page[-1][0]

    def _each(self, wanted: Iterable[tuple[int, str]]) -> Iterator[Found | None]:
        """The units with some seqs, with why they are wanted."""
        for nth, (seq, why) in enumerate(wanted, 1):
            if (found := self._found(seq, why)) is not None:
                yield found
            if nth % STEP_ROWS == 0:
                yield None

    async def _recent(self) -> list[Item]:
        """The last entries, until they would fill the budget alone."""
        items: list[Item] = []
        seen: set[int] = set()
        total, oldest = 0, 0
        for row in self._entries():
            if row is None:
                await trio.lowlevel.checkpoint()
                continue
            entry, unit = row
            if total >= self._budget or len(seen) >= MAX_RECENT:
                self._before = oldest
                break
            oldest = entry
            fields = cbor2.loads(unit)
            if fields["seq"] in seen:
                continue
            seen.add(fields["seq"])
            found = self._made(unit, fields, entry, "recent")
            if found is not None:
                items.append(await self._measured(self.packing.weigh(found)))
                total += self.packing.want(items[-1])
        return items

    def _entries(self) -> Iterator[tuple[int, bytes] | None]:
        """What was in the contexts, last first."""
        wanted = Range(self._contexts, EVERYTHING, 1, self._at, reverse=True, present=True, at=self._at)
        while wanted.first <= wanted.last:
            found = step(self._log, wanted, limit=STEP_ROWS, size=STEP_BYTES)
            for entry in found.entries:
                yield entry.seq, entry.unit
            wanted = wanted._replace(last=found.reached - 1)
            yield None

    def _related(self) -> Iterator[Found | None]:
        """What relationships lead to from the units chosen so far, nearest first."""
        if not self._policy.edges:
            return
        ahead = [chosen.found for chosen in islice(self.packing.chosen.values(), SEEDS)]
        seen, count = set(self.packing.chosen), 0
        for _ in range(self._policy.depth):
            behind, ahead = ahead, []
            for nth, one in enumerate(behind):
                if nth % 8 == 0:
                    yield None
                for seq, why in self._neighbours(one):
                    if seq in seen or count >= MAX_RELATED:
                        continue
                    seen.add(seq)
                    if (found := self._found(seq, why)) is not None:
                        count += 1
                        ahead.append(found)
                        yield found

    def _neighbours(self, one: Found) -> Iterator[tuple[int, str]]:
        """The seqs of units at the other ends of a unit's relationships, and why they matter."""
        for type, seq in one.unit.edges:
            if type in self._policy.edges:
                yield seq, f"{one.seq} {type} this"
        unit_id = one.unit.fields["id"]
        for context in self._contexts:
            scan = self._log.scan(keys.by_target(context, unit_id), 1, self._at, reverse=True)
            for key, value in islice(scan, SOURCES):
                seq = keys.seq_of(value or key)
                unit = self._log.unit(seq)
                for edge in () if unit is None else cbor2.loads(unit)["relationships"]:
                    if edge["target"] == unit_id and edge["type"] in self._policy.edges:
                        yield seq, f"{edge['type']} {one.seq}"

    async def _ranked(self, query: str) -> list[int]:
        """The seqs of what fits the query, best first."""
        asked = {"query": query, "contexts": self._contexts, "at": self._at, "limit": MAX_HITS, "manifests": self._policy.manifests}
        page: list[int] = (await self._engine.search.ask({"rank": asked}, self._wait, upto=self._at))["page"]
        return page

    # Writing

    def keep(self, seqs: list[int], since: int) -> None:
        """Have only some of what was chosen in the pack: what one at an earlier seq has not."""
        wanted = set(seqs)
        self.packing.chosen = {seq: chosen for seq, chosen in self.packing.chosen.items() if seq in wanted}
        self._opening = self._opening._replace(since=since)

    async def written(self) -> dict[str, Any]:
        """The answer: the pack's bytes and its manifest."""
        frame = self._frame if self._counter.count is not None else None
        await self._measured(self.packing.fit(frame, self._whole))
        text = self._whole().encode("utf-8", "surrogatepass")
        inputs = self._inputs()
        left = list(self.packing.left.values())
        manifest = {
            "version": VERSION,
            "inputs": inputs,
            "hash": pack_hash(inputs, text),
            "used": self._budget - self.packing.room,
            "units": [_entry_of(chosen) for chosen in self.packing.in_order()],
            "left_out": {
                "count": len(left),
                "before": self._before,
                "units": [
                    {"seq": one.found.entry, "lane": one.lane, "why": one.why} for one in left[: None if self._explain else NAMED_LEFT]
                ],
            },
        }
        return {"text": text.decode(), "manifest": manifest}

    def _whole(self) -> str:
        blocks = (chosen.block for chosen in self.packing.in_order())
        return "".join([self._writer.opening(self._opening), *blocks, self._writer.closing(self._opening, self._omitted())])

    def _frame(self, omitted: Omitted | None = None) -> str:
        return self._writer.opening(self._opening) + self._writer.closing(self._opening, omitted or self._omitted())

    def _omitted(self) -> Omitted:
        left = [one.found.entry for one in islice(self.packing.left.values(), NAMED)]
        return Omitted(len(self.packing.left), left, self._before)

    def _inputs(self) -> dict[str, Any]:
        """What the bytes depend on, besides the log."""
        made: dict[str, Any] = {
            "contexts": self._contexts,
            "at": self._at,
            "budget": self._budget,
            "unit": self._unit,
            "counter": self._counter.name,
            "policy": self._policy.table,
            "format": self._format,
        }
        if self._query is not None:
            made |= {"query": self._query, "embedder": EMBEDDER}
        return {**made, "since": self._opening.since} if self._opening.since else made


def _entry_of(chosen: Chosen) -> dict[str, Any]:
    """A unit as a manifest names it."""
    found = chosen.found
    made = {"seq": found.entry, "id": format_id(found.unit.fields["id"]), "lane": chosen.lane, "why": found.why}
    made |= {"size": chosen.size, "digest": digest(chosen.block)}
    return made if chosen.kept is None else {**made, "kept": chosen.kept, "of": found.length}
