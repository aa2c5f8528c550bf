"""`lock`, `renew`, `unlock` and `locks` over connections, in virtual time."""

from __future__ import annotations

import trio
from trio.testing import MockClock
from wire import Client, Server

SECOND = 1_000_000


async def kinds(client: Client) -> list[str]:
    """The kinds of the log's events so far that have to do with locks."""
    tail = await client.tail(after=0, events=True)
    return [event["kind"] for event in await tail.replayed() if event["kind"].startswith("lock_")]


async def test_a_lease_is_granted_listed_and_released(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect("builder")
    lease = await client.ask("lock", resources=["/src", "@deploy"], ttl="90s", reason="refactoring")
    assert lease["resources"] == ["/src", "@deploy"]
    assert lease["mode"] == "exclusive"
    assert lease["ttl"] == 90 * SECOND
    assert lease["expires_at"] == server.clock() + 90 * SECOND
    listed = await client.ask("locks")
    assert listed["next"] is None
    assert listed["waiters"] == []
    [info] = listed["locks"]
    assert (info["token"], info["holder"], info["reason"], info["renewals"]) == (lease["token"], "builder", "refactoring", 0)
    assert await client.ask("unlock", token=lease["token"]) == {"released": [lease["token"]]}
    assert (await client.ask("locks"))["locks"] == []
    assert await kinds(client) == ["lock_granted", "lock_released"]


async def test_a_held_lock_answers_at_once_with_who_how_and_how_long(server: Server, autojump_clock: MockClock) -> None:
    builder, reviewer = await server.connect("builder"), await server.connect("reviewer")
    lease = await builder.ask("lock", resources=["/src/**"], reason="refactoring")
    await trio.sleep(10)
    error = await reviewer.refused("lock", resources=["/src/app.rs"])
    assert error.code == "locked"
    assert error.details["holder"] == "builder"
    assert error.details["token"] == lease["token"]
    assert error.details["age"] == 10 * SECOND
    assert error.details["remaining"] == 50 * SECOND
    assert error.message == (
        "/src/app.rs overlaps /src/**, which is locked by builder (exclusive, token "
        f"{lease['token']}) since 10s, for another 50s unless renewed: refactoring. To queue up: --wait"
    )
