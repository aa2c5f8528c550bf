"""Presence: who is there, in virtual time, over restarts, and however connections flap."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import trio
from trio.testing import MockClock
from wire import Client, Server

from engramd.protocol.messages import OPERATIONS
from engramd.service.presence import GRACE, SETTLE
from engramd.storage.log import Log


async def arrive(server: Server, agent: str) -> Client:
    """A connection that says that its agent is there."""
    client = server.open()
    await client.hello(agent, presence=True)
    await client.settle(2 * SETTLE)
    return client


async def agents(client: Client, **fields: Any) -> dict[str, dict[str, Any]]:
    """The agents by name."""
    result = await client.ask("agents", **fields)
    OPERATIONS["agents"].result.check(result)
    return {agent["id"]: agent for agent in result["agents"]}


async def present(client: Client) -> list[str]:
    """Who is there."""
    return [name for name, agent in (await agents(client)).items() if agent["present_since"] is not None]


async def told(client: Client) -> list[tuple[str, Any]]:
    """What the log says of presence."""
    tail = await client.tail(after=0, events=True, credit=10**6)
    kinds = {"agent_present": "agent", "agents_gone": "agents"}
    return [(event["kind"], event["data"][kinds[event["kind"]]]) for event in await tail.replayed() if event["kind"] in kinds]


async def test_an_agent_is_there_while_any_of_its_connections_is(server: Server, autojump_clock: MockClock) -> None:
    watcher = await server.connect("watcher")
    first, second = await arrive(server, "ann"), await arrive(server, "ann")
    assert await present(watcher) == ["ann"]
    since = (await agents(watcher))["ann"]["present_since"]
    await first.stream.aclose()
    await trio.sleep(2 * GRACE)
    assert (await agents(watcher))["ann"]["present_since"] == since
    await second.stream.aclose()
    left = server.clock()
    await trio.sleep(2 * GRACE)
    gone = (await agents(watcher))["ann"]
    assert (gone["present_since"], gone["units"]) == (None, 0)
    assert left <= gone["last_seen"] < left + 100_000
    assert await told(watcher) == [("agent_present", "ann"), ("agents_gone", ["ann"])]


async def test_who_does_not_say_so_is_not_there(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect("ann")
    await client.ask("put", context="c", text="x")
    await client.ask("context_join", context="c", agent="bob")
    assert await present(client) == []
    assert await told(client) == []
    there = await arrive(server, "bob")
    assert list(await agents(client, context="c")) == ["ann", "bob"]
    assert (await agents(client, context="c"))["bob"]["present_since"] is not None
    await client.ask("context_leave", context="c", agent="bob")
    assert await present(there) == ["bob"], "to leave a context is not to be gone"


async def test_a_connection_that_flaps_writes_nothing(server: Server, autojump_clock: MockClock) -> None:
    watcher = await server.connect("watcher")
    for _ in range(50):
        client = await arrive(server, "ann")
        await client.stream.aclose()
        await trio.sleep(GRACE * 0.9)
    assert await told(watcher) == [("agent_present", "ann")]
    await trio.sleep(GRACE)
    assert len(await told(watcher)) == 2


async def test_a_connection_for_one_request_is_nobodys_presence(server: Server, autojump_clock: MockClock) -> None:
    watcher = await server.connect("watcher")
    for _ in range(3):
        client = server.open()
        await client.hello("ann", presence=True)
        await client.ask("put", context="c", text="x")
        await client.stream.aclose()
    await trio.sleep(2 * GRACE)
    assert await told(watcher) == []


async def test_those_who_go_together_go_in_one_event(server: Server, autojump_clock: MockClock) -> None:
    watcher = await server.connect("watcher")
    clients = [await arrive(server, f"agent{number}") for number in range(20)]
    assert len(await present(watcher)) == 20
    for client in clients:
        await client.stream.aclose()
    await trio.sleep(2 * GRACE)
    assert await present(watcher) == []
    gone = [names for kind, names in await told(watcher) if kind == "agents_gone"]
    assert len(gone) <= 3
    assert sorted(name for names in gone for name in names) == sorted(f"agent{number}" for number in range(20))


async def test_a_restart_marks_everyone_gone_in_one_event(tmp_path: Path, autojump_clock: MockClock) -> None:
    log = Log(tmp_path / "log")
    async with trio.open_nursery() as nursery:
        server = Server(log, nursery)
        ann, _ = await arrive(server, "ann"), await arrive(server, "bob")
        await ann.ask("put", context="c", text="x")
        last = server.clock()
        nursery.cancel_scope.cancel()
    log.close()
    log = Log(tmp_path / "log")
    async with trio.open_nursery() as nursery:
        server = Server(log, nursery)
        server.skew = 10**9
        watcher = await server.connect("watcher")
        assert await present(watcher) == []
        await arrive(server, "ann")
        assert await present(watcher) == ["ann"]
        assert await told(watcher) == [
            ("agent_present", "ann"),
            ("agent_present", "bob"),
            ("agents_gone", ["ann", "bob"]),
            ("agent_present", "ann"),
        ]
        assert (await agents(watcher))["bob"]["last_seen"] <= last, "not when the daemon came back"
        nursery.cancel_scope.cancel()
    log.close()


async def test_what_an_agent_holds_is_shown(server: Server, autojump_clock: MockClock) -> None:
    ann = await arrive(server, "ann")
    granted = await ann.ask("lock", resources=["/src", "/doc"])
    assert sorted((await agents(ann))["ann"]["holds"]) == ["/doc", "/src"]
    await ann.ask("unlock", token=granted["token"])
    assert (await agents(ann))["ann"]["holds"] == []
