"""What one agent may use: each limit is an error for that agent alone, says when to try again, and is counted."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock
from wire import Client, Server

from engramd.protocol.errors import EngramError
from engramd.protocol.limits import Limits
from engramd.service import limits
from engramd.transport.session import LARGE


@pytest.fixture(params=[False, True], ids=["memory", "sockets"])
def plain(request: pytest.FixtureRequest) -> bool:
    """What holds here does so over sockets, too, which one task reads for all."""
    return bool(request.param)


async def refused(server: Server, kind: str, error: EngramError) -> None:
    """An error of a limit, as it is counted and shown."""
    assert error.code == "busy"
    assert error.details["retry_after"] > 0
    owner = await server.connect("somebody else")
    assert (await owner.ask("status"))["status"]["limits"]["refused"] == {kind: 1}
    met = [one for one in (await owner.ask("metrics"))["metrics"] if one["name"] == "engram_limits_met_total"]
    assert [(one["labels"], one["value"]) for one in met] == [({"limit": kind}, 1)]
    await owner.ask("put", context="c", text="others are not harmed")


@pytest.mark.parametrize("by_token", [False, True])
async def test_connections(serve: Any, autojump_clock: MockClock, by_token: bool) -> None:
    server: Server = serve(limits=Limits(connections=2))
    token = {"token": await server.issue("bob", "read")} if by_token else {}
    clients = [server.open() for _ in range(3)]
    for client in clients[:2]:
        await client.hello("bob", **token)
    await clients[2].stream.send_all(clients[2].connection.hello({"agent": "bob", **token}))
    await refused(server, "connections", await clients[2].last_words())
    await clients[0].stream.aclose()
    await trio.testing.wait_all_tasks_blocked()
    await server.open().hello("bob", **token)


async def test_requests_over_all_connections(serve: Any, autojump_clock: MockClock) -> None:
    server: Server = serve(limits=Limits(requests=3))
    first, second = await server.connect("bob"), await server.connect("bob")
    waits = [await (first if number % 2 else second).send("tail", follow=True) for number in range(3)]
    await first.settle()
    await second.settle()
    await refused(server, "requests", await second.refused("status"))
    await first.stream.send_all(first.connection.notice(waits[1], "cancel"))
    await first.answer(waits[1])
    await second.ask("status")


async def test_what_a_connection_had_under_way_is_given_back_at_its_end(serve: Any, autojump_clock: MockClock) -> None:
    server: Server = serve(limits=Limits(requests=3, streams=3))
    for _ in range(3):
        client = await server.connect("bob")
        for _ in range(3):
            await client.tail(follow=True)
        await client.settle()
        await client.stream.aclose()
        await trio.testing.wait_all_tasks_blocked()


async def test_streams(serve: Any, autojump_clock: MockClock) -> None:
    server: Server = serve(limits=Limits(streams=2))
    client = await server.connect("bob")
    tails = [await client.tail(follow=True) for _ in range(2)]
    await refused(server, "streams", await client.refused("tail", follow=True))
    await client.ask("status")
    await client.stream.send_all(client.connection.notice(tails[0].id, "cancel"))
    await tails[0].ended()
    await (await client.tail(follow=True)).replayed()


async def test_waits(serve: Any, autojump_clock: MockClock) -> None:
    server: Server = serve(limits=Limits(waits=1))
    owner, client = await server.connect("owner"), await server.connect("bob")
    await owner.ask("lock", resources=["/x"])
    await client.send("lock", resources=["/x"], wait=True)
    await refused(server, "waits", await client.refused("lock", resources=["/x"], wait=True))
    assert (await client.refused("lock", resources=["/x"])).code == "locked", "without a wait it is answered"


async def test_bytes_per_second(serve: Any, autojump_clock: MockClock) -> None:
    server: Server = serve(limits=Limits(bytes_per_second=1000))
    client = await server.connect("bob")

    async def put(size: int) -> None:
        await client.ask("put", context="c", text="x" * size)

    await put(3000)
    error = await client.refused("put", context="c", text="more")
    assert 0.9 < error.details["retry_after"] < 1.5
    await refused(server, "bytes_per_second", error)
    await trio.sleep(error.details["retry_after"] + 0.2)
    await put(10)
    await trio.sleep(10)
    await put(1900)
    await put(10)


async def test_who_comes_back_has_not_got_anew_what_was_used_up(serve: Any, autojump_clock: MockClock) -> None:
    """Commands have a connection each."""
    server: Server = serve(limits=Limits(bytes_per_second=1000))
    for size in (3000, 3000):
        client = await server.connect("bob")
        await client.ask("put", context="c", text="x" * size)
        await client.stream.aclose()
        await trio.sleep(0.1)
        client = await server.connect("bob")
        assert (await client.refused("put", context="c", text="more")).code == "busy"
        await client.stream.aclose()
        await trio.sleep(10)
    await server.connect("somebody else")
    assert set(server.engine.accounts._accounts) == {"agent somebody else"}, "who owes nothing is forgotten"


async def test_accounts_that_are_remembered_are_not_too_many(
    serve: Any, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_REMEMBERED", 5)
    server: Server = serve(limits=Limits(bytes_per_second=1000))
    for number in range(20):
        client = await server.connect(f"agent {number}")
        await client.ask("put", context="c", text="x" * 3000)
        await client.stream.aclose()
        await trio.sleep(0.01)
    assert len(server.engine.accounts._accounts) <= 6


async def test_what_is_malformed_counts_too_and_a_flood_of_it_is_read_slowly(serve: Any, autojump_clock: MockClock) -> None:
    server: Server = serve(limits=Limits(bytes_per_second=10_000))
    client = await server.connect("bob")
    began = trio.current_time()
    for _ in range(12):
        assert (await client.refused("fly", wings="x" * 5000)).code == "unknown_op"
    assert trio.current_time() - began == pytest.approx(4, abs=1.2)


async def test_notices_count_too(serve: Any, autojump_clock: MockClock) -> None:
    server: Server = serve(limits=Limits(bytes_per_second=1000))
    client = await server.connect("bob")
    await client.stream.send_all(client.connection.notice(7, "credit", bytes=1) * 200)
    assert (await client.refused("status")).code == "busy"


async def test_large_frames_that_arrive_at_a_time(serve: Any, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """One agent cannot have a large frame begun on each of very many connections. Nothing is refused, and others go on."""
    monkeypatch.setattr(limits, "LARGE_FRAMES", 2)
    server: Server = serve(plain=False)  # whose streams take all of it, read or not
    clients = [await server.connect("bob") for _ in range(6)]
    whole = clients[0].frame("put", context="c", text="x" * 900_000)[1]
    for client in clients:
        await client.stream.send_all(whole[:-1])
    await trio.sleep(1)
    held = [session._connection.partial for session in server.sessions]
    assert sorted(size > 2 * LARGE for size in held) == [False] * 4 + [True] * 2
    other = await server.connect("other")
    await other.ask("put", context="c", text="x" * 900_000)
    await clients[0].stream.aclose()
    for client in clients[1:]:
        await client.stream.send_all(whole[-1:])
    for client in clients[1:]:
        assert (await client.answer(1))["seq"]


async def test_searches(serve: Any, autojump_clock: MockClock) -> None:
    """Packs are searches too. Those of one agent keep others from nothing."""
    server: Server = serve(limits=Limits(searches=1))
    client, owner = await server.connect("bob"), await server.connect("owner")
    for number in range(600):
        await owner.send("put", context="c", text=str(number))
    await owner.settle()
    pack = client.frame("pack", contexts=["c"], budget=8000)[1]
    request_id, search = client.frame("search", query="x")
    await client.stream.send_all(pack + search)
    await refused(server, "searches", await client.failure(request_id))


async def test_no_limit_of_bytes(serve: Any, autojump_clock: MockClock) -> None:
    server: Server = serve(limits=Limits(bytes_per_second=0))
    client: Client = await server.connect("bob")
    for _ in range(50):
        await client.ask("put", context="c", text="x" * 100_000)


async def test_the_same_is_not_logged_every_time(serve: Any, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    server: Server = serve(limits=Limits(streams=0))
    client = await server.connect("bob")
    for _ in range(30):
        await client.refused("tail")
    assert len(caplog.records) == 1
    await trio.sleep(11)
    await client.refused("tail")
    assert "29 more" in caplog.records[-1].getMessage()
    assert server.engine.accounts.refused["streams"] == 31
