"""The tools, declared once: what a host is told of each, and what it does. No word of MCP is spoken here."""

from __future__ import annotations

import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import trio

from engramd.protocol.errors import EngramError
from engramd.protocol.messages import (
    MAX_BUDGET,
    MAX_META,
    MAX_META_KEY,
    MAX_META_VALUE,
    MAX_NAME,
    MAX_QUERY,
    MODES,
    POLICIES,
    SEARCH_MODES,
)
from engramd.protocol.render import json_line, plain
from engramd.protocol.times import format_ts
from engramd.protocol.unit import RELATIONSHIPS, TYPES

from ..trio_client import Client, Lease, Pack, Relationship, Unit
from . import budget
from .budget import Answer, Place

Schema = dict[str, Any]

SECONDS = 30.0  # for an operation that does not wait for others
AGAIN_SECONDS = 1.0  # until what needs the daemon is tried again
LEASE_SECONDS = 60.0  # that a lease outlives the server, or a daemon that is away
LONGEST_TEXT = 1 << 20
MOST = 2**63 - 1  # of a seq or token
MOST_NAMED = 100  # contexts that `who` names
MOST_LISTED = 1000  # agents, and locks, that `who` looks at
PACK_TOKENS = 8000  # of a pack, unless said otherwise


@dataclass(frozen=True)
class Tool:
    """One tool.

    Attributes:
        properties, required: of its arguments, as JSON Schema.
        run: carries it out, with arguments that fit the schema.
        reads: whether it changes nothing.
    """

    name: str
    title: str
    description: str
    properties: Mapping[str, Schema]
    required: tuple[str, ...]
    run: Callable[[Toolbox, dict[str, Any]], Awaitable[Answer]]
    reads: bool = True

    def schema(self) -> Schema:
        """What its arguments must be."""
        return {
            "type": "object",
            "properties": dict(self.properties),
            "required": list(self.required),
            "additionalProperties": False,
        }


@dataclass(frozen=True)
class Held:
    """A lease that the agent has.

    Attributes:
        asked: the mode and paths it was asked for with.
        time: its deadline is when the lease is released by itself.
    """

    lease: Lease
    asked: tuple[str, frozenset[str]]
    time: trio.CancelScope


class Toolbox:
    """What the tools work with.

    Args:
        context: the one that is meant when none is given, if any.
        most: bytes that an answer may have.
        nursery: for what goes on beside the calls: leases that run out.
    """

    def __init__(self, client: Client, context: str | None, most: int, nursery: trio.Nursery) -> None:
        self.client = client
        self.context = context
        self.most = most
        self._nursery = nursery
        self._held: dict[int, Held] = {}

    async def call(self, tool: Tool, arguments: dict[str, Any]) -> str:
        """Carry out a tool, and give its answer as JSON that keeps to the budget. Raises EngramError."""
        return (await tool.run(self, arguments)).fit(self.most)

    def chosen(self, arguments: Mapping[str, Any]) -> str:
        """The context that a call is about."""
        context: str | None = arguments.get("context", self.context)
        if context is None:
            raise EngramError("invalid", "context: is required; who shows which there are")
        return context

    def several(self, arguments: Mapping[str, Any]) -> Sequence[str]:
        """The contexts that a call is about; none means all."""
        named: Sequence[str] = arguments.get("contexts", [self.context] if self.context else [])
        return named

    def unit(self, found: Unit, offset: int = 0) -> dict[str, Any]:
        """A unit as an answer has it."""
        return budget.unit(found, self.most, offset)

    async def packed(self, contexts: Sequence[str], budget: int, size: Callable[[Pack], int], **options: Any) -> Pack:
        """A pack of at most `budget` tokens. One whose size in bytes does not fit an answer is made again, smaller, as of the same seq."""
        made = await self.client.pack(*contexts, budget=budget, **options)
        options["at"] = made.manifest["inputs"]["at"]
        while (large := size(made)) > self.most:
            budget = made.manifest["used"] * self.most // large * 15 // 16
            try:
                made = await self.client.pack(*contexts, budget=budget, **options)
            except EngramError as error:
                if error.code != "invalid":
                    raise
                raise EngramError(
                    "too_large", f"not even an empty pack of these contexts fits {self.most} bytes; name fewer, or read with recent"
                ) from None
        return made

    # Leases

    def holds(self, mode: str, resources: frozenset[str]) -> Held | None:
        """The lease that was asked for in the same words, if it is held."""
        return next((held for held in self._held.values() if held.asked == (mode, resources)), None)

    def hold(self, lease: Lease, seconds: float, asked: tuple[str, frozenset[str]]) -> Held:
        """Keep a lease for so long."""
        held = self._held[lease.token] = Held(lease, asked, trio.CancelScope(deadline=trio.current_time() + seconds))
        self._nursery.start_soon(self._end, held)
        return held

    async def _end(self, held: Held) -> None:
        """Release a lease when its time is over; one that was forgotten has ended already."""
        with held.time:
            await trio.sleep_forever()
        if self._held.pop(held.lease.token, None) is None:
            return
        while True:
            try:
                return await held.lease.release()
            except EngramError as error:
                if error.code == "stale":
                    return
            await trio.sleep(AGAIN_SECONDS)

    def hint(self, error: EngramError) -> str | None:
        """What to do about an error that hangs on what this agent did before."""
        if error.code in ("locked", "deadlock") and error.details.get("token") in self._held:
            return f"you hold this lock yourself: go on under it, or unlock {error.details['token']} first"
        if error.code == "timeout" and "seq" in error.details:
            return f'look for an answer later: related {{"id": {error.details["seq"]}, "direction": "in"}}'
        return None

    def mine(self, token: int) -> Held:
        """The lease with a token. Raises EngramError if it is not one of this agent's."""
        held = self._held.get(token)
        if held is None:
            mine = ", ".join(map(str, self._held)) or "none"
            raise EngramError("stale", f"you hold no lock with token {token} (yours: {mine}): it has ended, or another took it")
        return held

    async def watch(self) -> None:
        """Stay connected, so that the session lasts and the agent is present, and notice leases that others end; until cancelled."""
        while True:
            with suppress(EngramError):
                async for event in self.client.tail(kinds=["lock_expired", "lock_stolen"]).events():
                    held = self._held.get(event.fields.get("data", {}).get("token", 0))
                    if held is not None:
                        self.forget(held)
            await trio.sleep(AGAIN_SECONDS)

    def forget(self, held: Held) -> None:
        """A lease has ended."""
        self._held.pop(held.lease.token, None)
        held.time.cancel()


# What arguments are made of


def _text(description: str, most: int = MAX_NAME, **more: Any) -> Schema:
    return {"type": "string", "minLength": 1, "maxLength": most, "description": description, **more}


def _count(description: str, most: int, default: int, least: int = 1) -> Schema:
    return {"type": "integer", "minimum": least, "maximum": most, "default": default, "description": description}


def _seconds(description: str, most: int, default: int, least: int = 0) -> Schema:
    return {"type": "number", "minimum": least, "maximum": most, "default": default, "description": description}


def _list(item: Schema, most: int, description: str) -> Schema:
    return {"type": "array", "items": item, "minItems": 1, "maxItems": most, "description": description}


def _one_of(options: Sequence[str], description: str, **more: Any) -> Schema:
    return {"type": "string", "enum": list(options), "description": description, **more}


def _labels(description: str) -> Schema:
    return {
        "type": "object",
        "propertyNames": {"minLength": 1, "maxLength": MAX_META_KEY},
        "additionalProperties": {"type": "string", "maxLength": MAX_META_VALUE},
        "maxProperties": MAX_META,
        "description": description,
    }


REF: Schema = {
    "type": ["integer", "string"],
    "minimum": 1,
    "maximum": MOST,
    "minLength": 1,
    "maxLength": 64,
    "description": "A unit's seq (such as 42) or id.",
}
CONTEXT = _text("The context: the named group of units that belong together, such as the name of the project or task.")
CONTEXTS = _list(_text("A context."), 64, "Only these contexts; all of them unless said otherwise.")
TYPE = _one_of(TYPES, "Only units of this type.")
AGENT = _text("Only units of this agent.")
SINCE = _text("Only units from this time on: 10m (ago), 2h, 2026-01-31, 2026-01-31T14:30:00Z.", 64)
UNTIL = _text("Only units before this time.", 64)
META = _labels('Only units with all of these labels, such as {"path": "src/app.py"}.')


def _given(arguments: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: arguments[name] for name in names if name in arguments}


# The tools


async def put(box: Toolbox, arguments: dict[str, Any]) -> Answer:
    """Append a unit."""
    edges = [Relationship(edge["type"], edge["target"]) for edge in arguments.get("relationships", ())]
    if "reply_to" in arguments:
        edges.append(Relationship("responds_to", arguments["reply_to"]))
    made = await box.client.put(
        box.chosen(arguments),
        arguments["text"],
        type=arguments.get("type", "message"),
        meta=arguments.get("meta"),
        relationships=edges,
        dedupe=arguments.get("dedupe"),
        expect_seq=arguments.get("expect_seq"),
        fences=[box.mine(token).lease for token in arguments.get("fences", ())],
    )
    return Answer({"seq": made.seq, "id": made.id, "ts": format_ts(made.ts), "deduped": made.deduped})


async def recent(box: Toolbox, arguments: dict[str, Any]) -> Answer:
    """The last units, or those after a cursor; waits for one if asked to."""
    limit, wait = arguments.get("limit", 20), arguments.get("wait", 0)
    wanted = _given(arguments, "agent", "type", "since", "after", "related_to")
    meta = dict(arguments.get("meta", {}))
    if "to" in arguments:
        meta["to"] = box.client.agent if arguments["to"] == "me" else arguments["to"]
    if meta:
        wanted["meta"] = meta
    if "after" not in wanted and "since" not in wanted:
        wanted["last"] = limit
    units: list[dict[str, Any]] = []
    async with box.client.tail(*box.several(arguments), follow=wait > 0, **wanted) as stream:
        with trio.CancelScope() as waiting:
            async for event in stream.events():
                if event.unit is not None:
                    units.append({**box.unit(event.unit), "place": Place(event.cursor)})
                elif event.kind == "live" and wait > 0:
                    waiting.deadline = trio.current_time() + wait
                if len(units) == limit or (units and waiting.deadline < math.inf):
                    break
        return Answer({"units": units, "after": stream.cursor}, "units", "last" if "last" in wanted else "first")


async def get(box: Toolbox, arguments: dict[str, Any]) -> Answer:
    """Whole units."""
    offset = arguments.get("offset", 0)
    return Answer({"units": [box.unit(found, offset) for found in await box.client.get(*arguments["ids"])]}, "units")


async def search(box: Toolbox, arguments: dict[str, Any]) -> Answer:
    """The units that fit a query best."""
    wanted = _given(arguments, "mode", "agent", "type", "meta", "since", "until", "after")
    found = await box.client.search(arguments["query"], *box.several(arguments), limit=arguments.get("limit", 10), **wanted)
    hits = []
    for hit in found.hits:
        shown = box.unit(hit.unit)
        del shown["payload"]
        place = Place(hit.cursor)
        hits.append({"score": round(hit.score, 3), "snippet": hit.snippet, "bytes": len(hit.unit.payload), **shown, "place": place})
    answer: dict[str, Any] = {"hits": hits}
    if found.next is not None:
        answer["after"] = found.next
    if found.behind:
        answer["behind"] = f"{found.behind} of the newest events were not searched yet; ask again in a moment"
    return Answer(answer, "hits")


async def pack(box: Toolbox, arguments: dict[str, Any]) -> Answer:
    """Units assembled for the next step."""
    contexts, budget = box.several(arguments), arguments.get("budget", PACK_TOKENS)
    if not contexts:
        raise EngramError("invalid", "contexts: are required; who shows which there are")

    def shown(made: Pack) -> dict[str, Any]:
        manifest, left = made.manifest, made.manifest["left_out"]
        members = {
            "at": manifest["inputs"]["at"],
            "hash": manifest["hash"],
            "tokens": manifest["used"],
            "units": len(manifest["units"]),
            "left_out": {"count": left["count"], "seqs": [unit["seq"] for unit in left["units"]], "before": left["before"]},
        }
        if manifest["inputs"]["budget"] < budget:
            members["omitted"] = (
                f"{budget} tokens do not fit {box.most} bytes: this was made with a budget of {manifest['inputs']['budget']}"
            )
        if not manifest["units"]:
            members["note"] = "no unit of these contexts is in it; who shows which contexts there are"
        return {**members, "text": made.text.decode()}

    wanted = _given(arguments, "query", "policy", "at", "since")
    return Answer(shown(await box.packed(contexts, budget, lambda made: len(json_line(shown(made)).encode()), **wanted)))


async def related(box: Toolbox, arguments: dict[str, Any]) -> Answer:
    """The units that relationships lead to."""
    wanted = _given(arguments, "direction", "type", "depth")
    found = await box.client.related(arguments["id"], limit=arguments.get("limit", 20), **wanted)
    shown = [
        {
            "distance": one.distance,
            "edge": {"type": one.edge.type, "source": one.edge.source, "target": one.edge.target},
            **box.unit(one.unit),
        }
        for one in found.found
    ]
    return Answer({"related": shown, "more": found.more}, "related")


async def lock(box: Toolbox, arguments: dict[str, Any]) -> Answer:
    """Take a lease, or have one that is held last longer."""
    paths, mode, seconds = arguments["paths"], arguments.get("mode", "exclusive"), arguments.get("ttl", 600)
    asked = (mode, frozenset(paths))
    held = box.holds(*asked)
    if held is not None:
        try:
            await held.lease.renew()
        except EngramError as error:
            if error.code == "stale":
                box.forget(held)
            raise
        held.time.deadline = trio.current_time() + seconds
    else:
        wait = arguments.get("wait", 0)
        lease = await box.client.lock(
            *paths,
            mode=mode,
            ttl=LEASE_SECONDS,
            session=True,
            reason=arguments.get("reason", ""),
            wait=wait > 0,
            timeout=wait or None,
        )
        held = box.hold(lease, seconds, asked)
    ends = f"when you call unlock, in {seconds:g} s unless you call lock with the same paths again, or when this program ends"
    return Answer({"token": held.lease.token, "resources": list(held.lease.resources), "mode": held.lease.mode, "ends": ends})


async def unlock(box: Toolbox, arguments: dict[str, Any]) -> Answer:
    """Release a lease."""
    held = box.mine(arguments["token"])
    try:
        await held.lease.release()
    except EngramError as error:
        if error.code == "stale":
            box.forget(held)
        raise
    box.forget(held)
    return Answer({"released": arguments["token"]})


async def ask(box: Toolbox, arguments: dict[str, Any]) -> Answer:
    """Put a question, and wait for the answer."""
    found = await box.client.ask(
        box.chosen(arguments), arguments["text"], to=arguments["to"], meta=arguments.get("meta"), timeout=arguments.get("timeout", 50)
    )
    return Answer({"answer": box.unit(found)})


async def who(box: Toolbox, arguments: dict[str, Any]) -> Answer:
    """The agents, those who are there now first, and what is locked, and the contexts."""
    agents = [plain(agent) async for agent in _first(box.client.agents(arguments.get("context")))]
    agents.sort(key=lambda agent: (agent.get("present_since") is None, agent["id"]))
    locks = [_lock(lock) async for lock in _first(box.client.locks())]
    contexts = await box.client.names("contexts", limit=MOST_NAMED)
    return Answer({"you": box.client.agent, "agents": agents, "locks": locks, "contexts": contexts}, "agents")


def _lock(found: dict[str, Any]) -> dict[str, Any]:
    """What is held, or waited for, in an agent's terms."""
    shown: dict[str, Any] = {
        name: plain(found[name], name) for name in ("token", "mode", "resources", "holder", "reason", "granted_at") if name in found
    }
    if "token" not in found:
        return {"waits": found["agent"], **shown, "seconds": round(found["waited"] / 1e6)}
    left = found["remaining"]
    return {**shown, "until": "its holder unlocks it or ends" if left is None else f"{left / 1e6:.0f} s from now, unless renewed"}


async def _first(found: AsyncIterator[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
    """The first MOST_LISTED of what pages list."""
    count = 0
    async for one in found:
        yield one
        count += 1
        if count == MOST_LISTED:
            return


def tools(context: str | None) -> dict[str, Tool]:
    """Every tool, by name.

    Args:
        context: the one that is meant where none is given, if there is one.
    """
    one = {**CONTEXT, "default": context} if context else CONTEXT
    several = {**CONTEXTS, "default": [context], "description": "Only these contexts."} if context else CONTEXTS
    needed = () if context else ("context",)
    here = os.getcwd()
    declared = (
        Tool(
            "put",
            "Record something",
            "Record one unit of work in the shared log, for the other agents and for later: a message, a decision, a result, a change "
            "of a file. "
            "It is on disk when this returns. Gives its seq and id.",
            {
                "context": one,
                "text": _text("What to record, as text or Markdown. Units cannot be changed later.", LONGEST_TEXT, minLength=0),
                "type": _one_of(TYPES, "What kind of unit it is.", default="message"),
                "meta": _labels('Labels to find it by, such as {"path": "src/app.py"}; {"to": "NAME"} addresses an agent.'),
                "reply_to": {**REF, "description": "The seq or id of the unit that this one answers."},
                "relationships": _list(
                    {
                        "type": "object",
                        "properties": {"type": _one_of(RELATIONSHIPS, "What the edge means."), "target": REF},
                        "required": ["type", "target"],
                        "additionalProperties": False,
                    },
                    16,
                    "Edges to earlier units.",
                ),
                "dedupe": _text("A key of your own: when the same put is tried twice with it, it happens once."),
                "expect_seq": {
                    "type": "integer",
                    "minimum": 0,
                    "maximum": MOST,
                    "description": "Refuse (conflict) unless the context's last unit has this seq; 0: unless it is empty.",
                },
                "fences": _list(
                    {"type": "integer", "minimum": 1, "maximum": MOST},
                    16,
                    "Tokens from lock: refuse (stale) unless you still hold each of these locks.",
                ),
            },
            (*needed, "text"),
            put,
            reads=False,
        ),
        Tool(
            "recent",
            "Read the latest",
            "Read the latest units, oldest of them first. The answer's `after` given to the next call gives only what came since: call "
            "it so to "
            "keep up without missing anything. With `wait`, it waits for the next unit if there is none yet.",
            {
                "contexts": several,
                "limit": _count("How many units at most.", 100, 20),
                "after": {
                    **REF,
                    "minimum": 0,
                    "description": "Only what comes after: `after` of an earlier answer, or a seq. 0: from the start.",
                },
                "to": _text("Only units addressed to this agent; me stands for you."),
                "agent": AGENT,
                "type": TYPE,
                "meta": META,
                "since": SINCE,
                "related_to": {**REF, "description": "Only units with a relationship to this one."},
                "wait": _seconds("Seconds to wait for a unit if there is none yet.", 600, 0),
            },
            (),
            recent,
        ),
        Tool(
            "get",
            "Read units",
            "Read units by seq or id. Long texts come in pieces: `cut` then says which bytes these are, and with which `offset` to go on.",
            {
                "ids": _list(REF, 50, "The units."),
                "offset": _count("From which byte of the text on.", 1 << 24, 0, 0),
            },
            ("ids",),
            get,
        ),
        Tool(
            "search",
            "Search",
            "Find what was recorded, by words and by meaning, best first. Gives snippets; `get` reads the whole unit. No hit is an "
            "empty list.",
            {
                "query": _text('Words or a question; "phrases" and -exclusions count.', MAX_QUERY),
                "contexts": several,
                "mode": _one_of(SEARCH_MODES, "By words, by meaning, or by both.", default="hybrid"),
                "limit": _count("How many hits at most.", 50, 10),
                "agent": AGENT,
                "type": TYPE,
                "meta": META,
                "since": SINCE,
                "until": UNTIL,
                "after": _text("`after` of an earlier answer to the same query: the hits behind it.", 64),
            },
            ("query",),
            search,
        ),
        Tool(
            "pack",
            "Assemble a context",
            "Read what matters for the next step as one text, within a budget: what is pinned, what is recent, what relates to that, and "
            "what a query finds. Says what was left out. `hash` names it, and the same arguments with its `at` give it again.",
            {
                "contexts": {**several, "description": "The contexts that it is made of."},
                "budget": _count("How many tokens at most, estimated.", MAX_BUDGET, PACK_TOKENS),
                "query": _text("Words: what fits them best goes in, too.", MAX_QUERY),
                "policy": _one_of(POLICIES, "Which units go first; errors-first: errors and results.", default="default"),
                "at": {**REF, "minimum": 0, "description": "As of this seq, instead of now."},
                "since": {
                    **REF,
                    "minimum": 0,
                    "description": "Only what the same pack at this seq, such as `at` of an earlier one, has not.",
                },
            },
            () if context else ("contexts",),
            pack,
        ),
        Tool(
            "related",
            "Follow relationships",
            "Read the units that relationships connect with one: what it answers, what answers it, what caused it. Nearest first.",
            {
                "id": REF,
                "direction": _one_of(
                    ("in", "out", "both"), "out: edges that the unit has; in: edges that lead to it, such as answers.", default="both"
                ),
                "type": _one_of(RELATIONSHIPS, "Only edges of this type."),
                "depth": _count("How many edges away at most.", 20, 1),
                "limit": _count("How many units at most.", 100, 20),
            },
            ("id",),
            related,
        ),
        Tool(
            "lock",
            "Lock files",
            "Take a lock before you change files that other agents may work on; all of the paths or none. It keeps out only who asks. "
            "When another "
            "has it, the error `locked` says who, why and until when: work on something else, or call again with `wait`. Call unlock "
            "when done.",
            {
                "paths": _list(
                    _text("A path, a glob such as /p/src/**, or an abstract @name.", 4096),
                    50,
                    f"What to lock; a directory covers all in it. Use absolute paths: relative ones count from {here}.",
                ),
                "mode": _one_of([mode for mode in MODES if mode != "slots"], "shared: with others who are shared.", default="exclusive"),
                "reason": _text("What for: told to whoever it keeps waiting.", 1024),
                "ttl": _seconds(
                    "Seconds after which it is released by itself, so that a lock you forget does not block others. Calling lock with "
                    "the same "
                    "paths and mode again, before that, gives it this long from then on.",
                    86400,
                    600,
                    1,
                ),
                "wait": _seconds("Seconds to wait in the queue when another holds it.", 600, 0),
            },
            ("paths",),
            lock,
            reads=False,
        ),
        Tool(
            "unlock",
            "Unlock files",
            "Release a lock that you have taken with lock.",
            {"token": {"type": "integer", "minimum": 1, "maximum": MOST, "description": "The token that lock gave."}},
            ("token",),
            unlock,
            reads=False,
        ),
        Tool(
            "ask",
            "Ask an agent",
            "Put a question to another agent and wait for its answer. who shows who is there. If no answer comes in time, the error "
            "`timeout` has the "
            "question's seq; look later with related, direction in.",
            {
                "context": one,
                "text": _text("The question.", LONGEST_TEXT),
                "to": _text("The agent who is asked."),
                "meta": _labels("Further labels."),
                "timeout": _seconds("Seconds to wait for the answer.", 600, 50, 1),
            },
            (*needed, "text", "to"),
            ask,
            reads=False,
        ),
        Tool(
            "who",
            "See who is there",
            "List the agents, those who are there now first (present_since), what they have done (units, last_seen), and what is locked "
            "by whom.",
            {"context": _text("Only members of this context.")},
            (),
            who,
        ),
    )
    return {tool.name: tool for tool in declared}
