"""`pack` over the wire: what goes in, and that later events change nothing."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import temporary_log
from trio.testing import MockClock
from wire import Client, Server

from engramd.protocol.errors import EngramError
from engramd.protocol.packs import LABEL, pack_hash
from engramd.service import assembly

POLICY = {"types": {"default": {"max": 100}}}


async def put(client: Client, text: str | bytes, context: str = "c", reply_to: int | None = None, **fields: Any) -> int:
    edges = [] if reply_to is None else [{"type": "responds_to", "target": reply_to}]
    payload = {"text": text} if isinstance(text, str) else {"payload": text}
    return int((await client.ask("put", context=context, relationships=edges, **payload, **fields))["seq"])


async def pack(client: Client, *contexts: str, budget: int = 4000, **fields: Any) -> dict[str, Any]:
    answer = await client.ask("pack", contexts=[*(contexts or "c")], budget=budget, **fields)
    assert answer["manifest"]["hash"] == pack_hash(answer["manifest"]["inputs"], answer["text"].encode())
    assert answer["manifest"]["used"] <= budget
    return answer


def lanes(answer: dict[str, Any]) -> dict[int, str]:
    return {unit["seq"]: unit["why"] for unit in answer["manifest"]["units"]}


async def test_what_goes_in_and_why(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    pinned = await put(client, "the plan " * 20)
    cause = await put(client, "the cause " * 20)
    noise = [await put(client, f"noise {number} " * 20) for number in range(30)]
    answer = await put(client, "the answer " * 20, reply_to=cause)
    await client.ask("context_pin", context="c", ids=[pinned])
    found = await pack(client, budget=1000)
    assert lanes(found) == {
        pinned: "pinned in c",
        cause: f"{answer} responds_to this",
        **dict.fromkeys(noise[-len(found["manifest"]["units"]) + 3 :], "recent"),
        answer: "recent",
    }
    assert found["text"].index("the plan") < found["text"].index("the cause")
    left = found["manifest"]["left_out"]
    assert left["before"] in noise
    assert f"Entries before {left['before']} were not looked at: engram list c --reverse --after {left['before']}" in found["text"]


async def test_places_are_those_of_the_seq(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    first = await put(client, "born here")
    other = await put(client, "from elsewhere", context="d")
    await client.ask("context_add", context="c", ids=[other])
    added = (await pack(client))["manifest"]
    await client.ask("context_remove", context="c", ids=[first])
    removed = (await pack(client))["manifest"]
    assert [unit["seq"] for unit in added["units"]] == [first, added["inputs"]["at"]]
    assert [unit["seq"] for unit in removed["units"]] == [added["inputs"]["at"]]
    assert (await pack(client, at=added["inputs"]["at"]))["manifest"] == added
    both = await pack(client, "c", "d")
    assert [unit["seq"] for unit in both["manifest"]["units"]] == [added["inputs"]["at"]], "once, by its last entry"


async def test_a_recorded_manifest_stays_out(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    await put(client, "a message")
    before = await pack(client)
    recorded = await put(client, json.dumps({}), type="system", meta=dict([LABEL]))
    assert lanes(await pack(client)) == lanes(before)
    assert recorded in lanes(await pack(client, policy={"manifests": True}))


async def test_the_difference_is_what_a_reader_has_not_seen(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    for number in range(4):
        await put(client, f"old {number}")
    at = server.log.last_seq
    new = [await put(client, f"new {number}") for number in range(3)]
    found = await pack(client, since=at)
    assert list(lanes(found)) == new
    assert "old" not in found["text"]
    assert found["manifest"]["inputs"]["since"] == at
    await put(client, "elsewhere", context="d")
    assert lanes(await pack(client, since=server.log.last_seq - 1)) == {}


async def test_a_unit_that_was_cut_is_new_when_more_of_it_fits(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    pins = [await put(client, letter * 3000) for letter in "ab"]
    await client.ask("context_pin", context="c", ids=[pins[0]])
    large = await put(client, "c" * 3000)
    at = server.log.last_seq
    first = await pack(client, budget=4500, unit="chars", policy=POLICY, at=at)
    assert {unit["seq"]: unit.get("kept") is None for unit in first["manifest"]["units"]} == {pins[0]: True, large: False}
    await client.ask("context_unpin", context="c", ids=[pins[0]])
    assert lanes(await pack(client, budget=4500, unit="chars", policy=POLICY, since=at)) == {pins[1]: "recent", large: "recent"}


@pytest.mark.parametrize("form", ["md", "json", "xml"])
@pytest.mark.parametrize("unit", ["tokens", "chars", "bytes"])
async def test_a_small_budget_is_kept_or_refused(server: Server, autojump_clock: MockClock, form: str, unit: str) -> None:
    client = await server.connect()
    for number in range(30):
        await put(client, f"é {number} " * (1 + number % 7 * 40))
    refused = await client.refused("pack", contexts=["c"], budget=1, unit=unit, format=form)
    assert refused.code == "invalid"
    least = int(refused.message.split()[-1])
    for budget in (least, least + 1, least + 60, least + 200, least * 4):
        found = await pack(client, budget=budget, unit=unit, format=form)
        if unit != "tokens":
            assert len(found["text"] if unit == "chars" else found["text"].encode()) == found["manifest"]["used"]


async def test_bad_requests_are_told_what_is_wrong(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    await put(client, "x")
    for fields, word in (
        ({"policy": "none"}, "errors-first"),
        ({"policy": {"types": {"error": {"weight": 1001}}}}, "policy.types.error.weight"),
        ({"policy": {"types": {"eror": {}}}}, "policy.types"),
        ({"policy": {"shares": {"pinned": "a"}}}, "policy.shares.pinned"),
        ({"policy": {"shares": {"others": 1}}}, "policy.shares.others"),
        ({"since": 2, "at": 2}, "since"),
        ({"counter": "tokenizer", "unit": "chars"}, "counter"),
        ({"at": 10**6}, "ends at 2"),
    ):
        refused = await client.refused("pack", contexts=["c"], budget=500, **fields)
        assert word in refused.message, refused.message
        assert refused.code in ("invalid", "cursor")
    assert (await client.refused("pack", contexts=["c"], budget=500, query="x")).code == "unavailable"


async def test_a_context_that_is_not_there_gives_an_empty_pack(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    before = await pack(client, "later", at=0)
    await put(client, "x", context="later")
    assert await pack(client, "later", at=0) == before
    assert before["manifest"]["units"] == []


async def test_cycles_and_crowds_of_relationships_end(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    root = await put(client, "root")
    for _ in range(3):
        await client.ask("put", context="c", units=[{"text": "answer", "relationships": [{"type": "responds_to", "target": root}]}] * 200)
    with trio.fail_after(20):
        found = await pack(client, budget=100_000)
    assert len(found["manifest"]["units"]) == 601


async def test_others_are_let_in_while_a_large_pack_is_made(server: Server, autojump_clock: MockClock) -> None:
    client, other = await server.connect(), await server.connect()
    for _ in range(20):
        await client.ask("put", context="c", units=[{"text": "word " * 20}] * 200)
    asked = await client.send("pack", contexts=["c"], budget=1_000_000)
    await other.ask("status")
    assert asked not in client.answers
    found = await client.answer(asked)
    assert len(found["manifest"]["units"]) > 3000


class History:
    """Writes at random, and the packs of every moment."""

    def __init__(self, client: Client, server: Server) -> None:
        self.client, self.server = client, server
        self.units: list[int] = []

    async def write(self, kind: str, context: str, nth: int, size: int) -> None:
        target = self.units[nth % len(self.units)] if self.units else None
        if kind == "put" or target is None:
            unit = ("message", "error", "task_status")[size % 3]
            self.units.append(await put(self.client, "word " * size, context, reply_to=target if nth % 2 else None, type=unit))
            return
        op = {"pin": "context_pin", "unpin": "context_unpin", "add": "context_add", "remove": "context_remove"}[kind]
        answer = await self.client.send(op, context=context, ids=[target])
        with suppress(EngramError):  # there may be nothing to unpin or remove
            await self.client.answer(answer)


WRITE = st.tuples(
    st.sampled_from(("put", "put", "put", "pin", "unpin", "add", "remove")), st.sampled_from("cd"), st.integers(0, 30), st.integers(0, 60)
)


@settings(max_examples=40)
@given(
    st.lists(WRITE, min_size=1, max_size=30), st.lists(WRITE, min_size=1, max_size=15), st.integers(150, 2500), st.sampled_from(("c", "cd"))
)
def test_a_pack_is_blind_to_what_came_later(early: list[Any], late: list[Any], budget: int, contexts: str) -> None:
    async def run() -> None:
        with temporary_log() as log:
            async with trio.open_nursery() as nursery:
                server = Server(log, nursery)
                client = await server.connect()
                history = History(client, server)
                for write in early:
                    await history.write(*write)
                at = log.last_seq
                before = await pack(client, *contexts, budget=budget)
                seqs = [unit["seq"] for unit in before["manifest"]["units"]]
                assert seqs == sorted(set(seqs))
                ids = [unit["id"] for unit in before["manifest"]["units"]]
                assert len(ids) == len(set(ids))
                present = {unit["id"] for context in contexts for unit in (await client.ask("list", context=context))["units"]}
                assert {bytes.fromhex(one.replace("-", "")) for one in ids} <= present
                for write in late:
                    await history.write(*write)
                assert await pack(client, *contexts, budget=budget, at=at) == before
                server.engine.written.forget()
                assert await pack(client, *contexts, budget=budget, at=at) == before
                nursery.cancel_scope.cancel()

    trio.run(run, clock=MockClock(autojump_threshold=0))


def test_bounds_are_where_the_docs_say() -> None:
    assert (assembly.MAX_PINNED, assembly.MAX_RECENT, assembly.MAX_RELATED, assembly.MAX_HITS) == (512, 4096, 128, 128)
