"""The operations on contexts, `agents`, `status` and `shutdown` over a connection."""

from __future__ import annotations

import os

import trio
from trio.testing import MockClock
from wire import EPOCH, Client, Server, texts

SECOND = 1_000_000


async def show(client: Client, name: str) -> dict[str, object]:
    found: dict[str, object] = (await client.ask("context_show", context=name))["context"]
    return found


async def test_a_context_is_created_changed_and_shown(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect("alice")
    made = (await client.ask("context_create", context="c", display_name="The C", meta={"a": "1", "b": "2"}))["context"]
    assert made == {
        "id": "c",
        "display_name": "The C",
        "meta": {"a": "1", "b": "2"},
        "agents": [],
        "pinned": [],
        "units": 0,
        "bytes": 0,
        "last_seq": 0,
        "created_at": EPOCH,
        "updated_at": EPOCH,
        "keep": {},
    }
    assert (await client.refused("context_create", context="c")).code == "exists"
    await trio.sleep(1)
    changed = (await client.ask("context_set", context="c", display_name="C", meta={"a": None, "c": "3"}))["context"]
    assert changed == {**made, "display_name": "C", "meta": {"b": "2", "c": "3"}, "updated_at": EPOCH + SECOND}
    await trio.sleep(1)
    same = (await client.ask("context_set", context="c", display_name="C", meta={"b": "2", "a": None}))["context"]
    assert same == changed, "what changes nothing leaves no trace"
    assert (await client.ask("status"))["status"]["last_seq"] == 2
    assert await show(client, "c") == changed


async def test_a_put_makes_its_context_and_its_agent_a_member(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect("alice")
    await client.ask("put", context="c", text="x")
    put = await client.ask("put", context="c", text="y", agent="bob")
    shown = await show(client, "c")
    assert (shown["display_name"], shown["agents"], shown["units"], shown["last_seq"]) == ("c", ["alice", "bob"], 2, put["seq"])


async def test_what_is_not_there_is_named(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    for op in ("context_show", "context_set", "context_join", "context_leave", "agents"):
        refused = await client.refused(op, context="nowhere")
        assert (refused.code, refused.details) == ("not_found", {"context": "nowhere"})
        assert "nowhere" in refused.message
    for op in ("context_pin", "context_unpin", "context_remove"):
        assert (await client.refused(op, context="nowhere", ids=[bytes(16)])).code == "not_found"
    assert (await client.refused("context_add", context="nowhere", ids=[bytes(16)])).code == "not_found"
    assert (await client.refused("context_add", context="nowhere", ids=[7])).details == {"seq": 7}
    assert (await client.ask("context_list"))["contexts"] == []


async def test_members_join_and_leave(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect("alice")
    await client.ask("context_create", context="c")
    assert await client.ask("context_join", context="c") == {"changed": True}
    assert await client.ask("context_join", context="c") == {"changed": False}
    await trio.sleep(1)
    assert await client.ask("context_join", context="c", agent="bob") == {"changed": True}
    assert (await show(client, "c"))["agents"] == ["alice", "bob"]
    listed = (await client.ask("agents", context="c"))["agents"]
    assert [(agent["id"], agent["units"], agent["since"]) for agent in listed] == [("alice", 0, EPOCH), ("bob", 0, EPOCH + SECOND)]
    assert await client.ask("context_leave", context="c", agent="alice") == {"changed": True}
    assert await client.ask("context_leave", context="c", agent="alice") == {"changed": False}
    assert (await show(client, "c"))["agents"] == ["bob"]
    await client.ask("put", context="c", text="back")
    assert (await show(client, "c"))["agents"] == ["alice", "bob"], "who puts a unit is a member again"


async def test_pins_hold_while_the_unit_is_there(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    one, two = [await client.ask("put", context="c", text=text) for text in ("one", "two")]
    other = await client.ask("put", context="d", text="other")
    assert await client.ask("context_pin", context="c", ids=[two["seq"], one["id"]]) == {"changed": True}
    assert await client.ask("context_pin", context="c", ids=[one["id"]]) == {"changed": False}
    assert (await show(client, "c"))["pinned"] == [one["id"], two["id"]]
    assert (await client.refused("context_pin", context="c", ids=[other["id"]])).code == "not_found"
    assert await client.ask("context_unpin", context="c", ids=[one["id"]]) == {"changed": True}
    assert await client.ask("context_unpin", context="c", ids=[one["id"]]) == {"changed": False}
    await client.ask("context_remove", context="c", ids=[two["id"]])
    assert (await show(client, "c"))["pinned"] == [], "a unit that is removed is no longer pinned"
    assert (await show(client, "c"))["units"] == 1


async def test_one_bad_unit_of_several_changes_nothing(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    good = await client.ask("put", context="c", text="good")
    for op in ("context_add", "context_remove", "context_pin"):
        assert (await client.refused(op, context="c", ids=[good["id"], bytes(16)])).code == "not_found"
    assert texts((await client.ask("list", context="c"))["units"]) == ["good"]
    assert (await client.ask("status"))["status"]["last_seq"] == good["seq"]


async def test_contexts_are_listed_by_name_in_pages(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    names = sorted(f"{letter}{number}" for letter in ("a", "a:", "b") for number in range(45))
    for name in names:
        await client.send("context_create", context=name)
    found: list[str] = []
    pages = []
    more: dict[str, object] = {}
    while True:
        answer = await client.ask("context_list", limit=50, **more)
        pages.append(len(answer["contexts"]))
        found += [context["id"] for context in answer["contexts"]]
        if answer["next"] is None:
            break
        more = {"after": answer["next"]}
    assert found == names
    assert pages == [50, 50, 35]
    assert [context["id"] for context in (await client.ask("context_list", after="b43"))["contexts"]] == names[-6:]


async def test_agents_are_listed_with_what_they_did(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect("alice")
    await client.ask("put", context="c", text="1")
    await trio.sleep(1)
    await client.ask("put", context="d", text="2")
    await client.ask("put", context="c", text="3", agent="bob")
    await client.ask("context_join", context="c", agent="carol")
    absent = {"present_since": None, "holds": []}
    alice = {"id": "alice", "units": 2, "first_seen": EPOCH, "last_seen": EPOCH + SECOND, **absent}
    bob = {"id": "bob", "units": 1, "first_seen": EPOCH + SECOND, "last_seen": EPOCH + SECOND, **absent}
    assert (await client.ask("agents")) == {"agents": [alice, bob], "next": None}
    assert [agent["id"] for agent in (await client.ask("agents", context="c"))["agents"]] == ["alice", "bob", "carol"]
    assert [agent["id"] for agent in (await client.ask("agents", context="c", after="alice"))["agents"]] == ["bob", "carol"]
    assert (await client.ask("agents", context="d"))["agents"] == [{**alice, "since": EPOCH + SECOND}]


async def test_many_agents_come_in_pages(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    names = sorted(f"agent{number}" for number in range(150))
    for name in names:
        await client.send("put", context="c", text="x", agent=name)
    for fields in ({}, {"context": "c"}):
        first = await client.ask("agents", **fields)
        second = await client.ask("agents", after=first["next"], **fields)
        assert [agent["id"] for agent in first["agents"] + second["agents"]] == names
        assert second["next"] is None


async def test_status_says_what_the_daemon_holds(server: Server, autojump_clock: MockClock) -> None:
    client, other = await server.connect(), await server.connect()
    put = await client.ask("put", context="c", text="x" * 1000)
    tail = await other.tail(follow=True)
    await tail.replayed()
    status = (await client.ask("status"))["status"]
    assert (status["connections"], status["subscriptions"], status["lag"], status["last_seq"]) == (2, 1, 0, put["seq"])
    assert (status["pid"], status["history"], status["socket"]) == (os.getpid(), server.log.history, "none")
    assert status["store_bytes"] > 1000
    assert status["started_at"] == EPOCH


async def test_shutdown_is_answered_and_then_nothing_is_done(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    framed = [client.frame("put", context="c", text="before"), client.frame("shutdown"), client.frame("put", context="c", text="after")]
    await client.stream.send_all(b"".join(frame for _, frame in framed))
    before, shutdown, after = (request for request, _ in framed)
    assert (await client.answer(before))["seq"] == 2
    assert await client.answer(shutdown) == {}
    assert (await client.failure(after)).code == "unavailable"
    assert server.engine.stopping.is_set()
