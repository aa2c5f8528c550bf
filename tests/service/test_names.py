"""`names`: what completion offers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from trio.testing import MockClock
from wire import Client, Gate, Server

from engramd.protocol.messages import MAX_NAME, MAX_UNITS, OPERATIONS

CONTEXTS = ("a", "a:b", "ab", "b c", "é", "éa", "z" * MAX_NAME, "\U0001f600")


async def names(client: Client, kind: str, **fields: object) -> list[str]:
    """The names that are found, which must fit their own declaration."""
    result = await client.ask("names", kind=kind, **fields)
    OPERATIONS["names"].result.check(result)
    found: list[str] = result["names"]
    return found


async def test_contexts_are_found_by_prefix_in_order(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect("alice")
    for context in reversed(CONTEXTS):
        await client.ask("context_create", context=context)
    assert await names(client, "contexts") == sorted(CONTEXTS, key=str.encode)
    for prefix in ("", "a", "a:", "ab", "b ", "é", "z", "z" * MAX_NAME, "\U0001f600", "c", "A", "\0", "\n"):
        assert await names(client, "contexts", prefix=prefix) == sorted(name for name in CONTEXTS if name.startswith(prefix))
    assert await names(client, "agents") == [], "who only creates a context has put nothing"


async def test_agents_are_those_that_have_put_a_unit(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect("bob")
    for agent in ("bob", "bo", "alice b"):
        await client.ask("put", context="c", text="x", agent=agent)
    await client.ask("context_join", context="c", agent="never acted")
    assert await names(client, "agents") == ["alice b", "bo", "bob"]
    assert await names(client, "agents", prefix="bo") == ["bo", "bob"]
    assert await names(client, "contexts", prefix="bo") == []


async def test_the_limit_holds(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    every = [f"{number:04}" for number in range(120)]
    for context in every:
        await client.ask("context_create", context=context)
    assert await names(client, "contexts") == every[:100], "a hundred, unless said otherwise"
    assert await names(client, "contexts", limit=MAX_UNITS) == every
    assert await names(client, "contexts", prefix="01", limit=3) == every[100:103]


@pytest.mark.parametrize(
    "fields",
    [{}, {"kind": "cars"}, {"kind": 1}, {"prefix": b"a"}, {"prefix": "a" * (MAX_NAME + 1)}, {"limit": 0}, {"limit": MAX_UNITS + 1}],
)
async def test_what_fits_no_request_is_refused(server: Server, autojump_clock: MockClock, fields: dict[str, object]) -> None:
    client = await server.connect()
    asked = fields if "kind" in fields or not fields else {"kind": "contexts", **fields}
    assert (await client.refused("names", **asked)).code in ("invalid", "too_large")
    assert await names(client, "contexts") == [], "the connection goes on"


async def test_only_what_is_on_disk_is_found(serve: Callable[..., Server], autojump_clock: MockClock) -> None:
    gate = Gate()
    client = await serve(gate=gate).connect()
    put = await client.send("put", context="c", text="x")
    assert await names(client, "contexts") == []
    gate.open()
    await client.answer(put)
    assert await names(client, "contexts") == ["c"]
