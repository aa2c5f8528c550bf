"""Turns on the loop: an agent's connections, however many, take turns with everybody else as if they were one."""

from __future__ import annotations

from collections import Counter

import pytest
import trio
from trio.testing import MockClock
from wire import Client, Server

from engramd.service import turns
from engramd.service.turns import Turn

REQUESTS = 200  # in one chunk


@pytest.fixture(params=[False, True], ids=["memory", "sockets"])
def plain(request: pytest.FixtureRequest) -> bool:
    """What holds here does so over sockets, too, which one task reads for all."""
    return bool(request.param)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices so small that every message ends one."""
    monkeypatch.setattr(turns, "SLICE", 0.0)


def chunk(client: Client) -> bytes:
    return b"".join(client.frame("get", ids=[10_000])[1] for _ in range(REQUESTS))


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("connections", [1, 10])
async def test_a_flood_of_one_agent_keeps_nobody_waiting(server: Server, autojump_clock: MockClock, connections: int) -> None:
    """Counted in work: how many requests of the flood are answered until another agent has its answer."""
    flood = [await server.connect("greedy") for _ in range(connections)]
    other = await server.connect("other")
    for client in flood:
        await client.stream.send_all(chunk(client))
    request_id = await other.send("status")
    with trio.fail_after(5):
        while request_id not in other.answers:
            await other.pump()
    answered = sum(server.engine.counters.requests["get", code] for code in ("ok", "not_found"))
    assert answered < REQUESTS / 2
    for client in flood:
        for number in range(1, REQUESTS + 1):
            assert (await client.failure(number)).code == "not_found", "and all of it is answered in the end"


@pytest.mark.usefixtures("tiny")
async def test_streams_of_one_agent_take_turns_too(server: Server, autojump_clock: MockClock) -> None:
    owner = await server.connect("owner")
    for number in range(30):
        await owner.ask("put", context="c", text=str(number))
    greedy = await server.connect("greedy", lockstep=True)
    framed = [greedy.frame("tail", after=0, contexts=["c"], follow=False) for _ in range(10)]
    await greedy.stream.send_all(b"".join(frame for _, frame in framed))
    await owner.ask("status")
    written = server.sessions[1].outbox.written
    for request_id, _ in framed:
        await greedy.answer(request_id)
    assert written < server.sessions[1].outbox.written / 2, "another agent was answered long before the streams were through"


@pytest.mark.usefixtures("tiny")
async def test_a_connection_that_ends_in_the_queue_keeps_nobody_in_it(server: Server, autojump_clock: MockClock) -> None:
    clients = [await server.connect("greedy") for _ in range(6)]
    for client in clients:
        await client.stream.send_all(chunk(client))
    for client in clients[:4]:
        await client.stream.aclose()
    for client in clients[4:]:
        for number in range(1, REQUESTS + 1):
            await client.failure(number)


async def test_who_does_little_never_waits(autojump_clock: MockClock) -> None:
    turn = Turn()
    with trio.CancelScope() as scope:
        scope.cancel()  # any checkpoint would raise
        for _ in range(3):
            await turn.begin()
            turn.end()
        return
    raise AssertionError("it waited")


async def test_none_is_passed_over(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "SLICE", -1.0)
    turn, done = Turn(), Counter[str]()

    async def work(name: str) -> None:
        await turn.begin()
        for _ in range(20):
            done[name] += 1
            assert done[name] - min(done[other] for other in "abc") <= 2, "nobody is more than a turn ahead"
            await turn.next()
        turn.end()

    async with trio.open_nursery() as nursery:
        for name in "abc":
            nursery.start_soon(work, name)
    assert set(done.values()) == {20}
