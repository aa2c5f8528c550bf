"""The filters of `list` and `tail`, asked over the wire of a real engine, page by page: against a plain loop over all that was put."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trio
from fuzzing import fuzz, nasty_text
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock
from wire import Client, Server

from engramd.protocol.times import format_ts
from engramd.storage.log import Log

pytestmark = pytest.mark.fuzz


# Names that begin with one another, look like one another, or mean something to a key, a path or a glob.
NAMES = ("a", "a:", "ab", "a b", "a/b", "*", "?", "\u00e9", "e\u0301", "\U0001f9d3", "0", "error", "a" * 256)
names = st.sampled_from(NAMES) | nasty_text().map(lambda text: "n" + "".join(filter(str.isprintable, text)))
types = st.sampled_from(("message", "error", "tool_call"))
labels = st.dictionaries(
    st.sampled_from(("k", "kk", "k=", "path", "é")), st.sampled_from(("", "v", "vv", "\0", "=", "é", "x" * 4096)), max_size=3
)
contexts = st.sampled_from(("c", "c:", "cc"))
draft = st.fixed_dictionaries(
    {
        "context": contexts,
        "agent": names,
        "type": types,
        "meta": labels,
        "back": st.lists(st.integers(0, 9), max_size=2),
        "later": st.sampled_from((0, 0, 1, 1000)),
    }
)
some = st.integers(0, 30)
question = st.fixed_dictionaries(
    {"context": contexts | st.just("none")},
    optional={
        "agent": names | st.lists(names, min_size=1, max_size=40),
        "type": types | st.lists(types, min_size=1, max_size=3),
        "meta": labels,
        "related_to": some,
        "since": some,
        "until": some,
        "after": some,
        "limit": st.integers(1, 4),
        "reverse": st.booleans(),
    },
)


class Put(NamedTuple):
    """What was put, as it was answered."""

    seq: int
    ts: int
    fields: dict[str, Any]
    id: bytes
    targets: frozenset[bytes]


def one_of(wanted: str | list[str] | None, value: str) -> bool:
    return wanted is None or value in ([wanted] if isinstance(wanted, str) else wanted)


def wants(asked: dict[str, Any], put: Put) -> bool:
    """Whether a unit fits, by the words of the documentation."""
    return (
        put.fields["context"] == asked["context"]
        and one_of(asked.get("agent"), put.fields["agent"])
        and one_of(asked.get("type"), put.fields["type"])
        and all(put.fields["meta"].get(key) == value for key, value in asked.get("meta", {}).items())
        and asked.get("related_to", next(iter(put.targets), None)) in (None, *put.targets)
        and ("since" not in asked or put.ts >= asked["since"])
        and ("until" not in asked or put.ts < asked["until"])
    )


async def fill(server: Server, client: Client, drafts: list[dict[str, Any]]) -> list[Put]:
    puts: list[Put] = []
    for one in drafts:
        server.skew += one["later"]
        targets = [puts[-1 - back % len(puts)].id for back in one["back"]] if puts else []
        fields = {name: one[name] for name in ("context", "agent", "type", "meta")}
        edges = [{"type": "causes", "target": target} for target in targets]
        made = await client.ask("put", text="x", relationships=edges, **fields)
        puts.append(Put(made["seq"], made["ts"], fields, made["id"], frozenset(targets)))
    return puts


def asked_of(drawn: dict[str, Any], puts: list[Put], last: int) -> dict[str, Any]:
    """The members of a request: numbers stand for some unit of those that were put, and its time."""
    asked = dict(drawn)
    if "related_to" in asked:
        asked["related_to"] = puts[asked["related_to"] % len(puts)].id
    for name in ("since", "until"):
        if name in asked:
            asked[name] = puts[asked[name] % len(puts)].ts + asked[name] % 3 - 1
    if "after" in asked:
        asked["after"] = asked["after"] % (last + 1)
    return asked


async def pages(client: Client, asked: dict[str, Any]) -> list[int]:
    """The seqs of all pages."""
    found: list[int] = []
    while True:
        page = await client.ask("list", **asked)
        assert len(page["units"]) <= asked.get("limit", 1000)
        found += [unit["seq"] for unit in page["units"]]
        if page["next"] is None:
            return found
        asked = {**asked, "after": page["next"]}


async def held_to_the_loop(drafts: list[dict[str, Any]], questions: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        log = Log(Path(directory, "log"))
        try:
            async with trio.open_nursery() as nursery:
                server = Server(log, nursery)
                client = await server.connect()
                puts = await fill(server, client, drafts)
                for drawn in questions:
                    asked = asked_of(drawn, puts, log.last_seq)
                    fitting = [put for put in puts if wants(asked, put)]
                    after, reverse = asked.get("after"), asked.get("reverse", False)
                    if after is not None:
                        fitting = [put for put in fitting if (put.seq < after if reverse else put.seq > after)]
                    expected = [put.seq for put in fitting][:: -1 if reverse else 1]
                    assert await pages(client, asked) == expected, asked
                    for name in ("since", "until"):
                        if name in asked:
                            asked[name] = format_ts(asked[name])
                    assert await pages(client, asked) == expected, "as an instant in words"
                    if not reverse:
                        await streamed(client, asked, expected)
                nursery.cancel_scope.cancel()
        finally:
            log.close()


async def streamed(client: Client, asked: dict[str, Any], expected: list[int]) -> None:
    """The same of a stream that ends."""
    wanted = {name: asked[name] for name in ("agent", "type", "meta", "related_to", "until", "after", "since") if name in asked}
    if {"after", "since"} <= wanted.keys():
        return
    if not {"after", "since"} & wanted.keys():
        wanted["after"] = 0
    tail = await client.tail(contexts=[asked["context"]], **wanted)
    events, _ = await tail.ended()
    assert [event["unit"]["seq"] for event in events if "unit" in event] == expected


@given(st.lists(draft, min_size=1, max_size=14), st.lists(question, min_size=1, max_size=8))
@fuzz(12)
def test_filters_find_what_a_plain_loop_finds(drafts: list[dict[str, Any]], questions: list[dict[str, Any]]) -> None:
    trio.run(held_to_the_loop, drafts, questions, clock=MockClock(autojump_threshold=0))
