"""The room on the disk."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock
from wire import Serve

from engramd.protocol.errors import EngramError
from engramd.protocol.messages import MIB
from engramd.service.space import LOOK_BYTES, Space

SIZES = st.integers(0, 2 * MIB)


@given(st.integers(0, 40 * MIB), st.integers(1, 16 * MIB), st.lists(SIZES, max_size=60))
def test_puts_that_are_let_through_leave_what_is_to_be_left(disk: int, least: int, sizes: list[int]) -> None:
    left = disk
    space = Space(lambda: left, least)
    for size in sizes:
        try:
            space.take(size)
        except EngramError:
            assert left - size < least, "there was room"
        else:
            left -= size
            assert left >= least - LOOK_BYTES or size == 0, "no more than what may go unseen between two looks"


def test_it_looks_no_more_than_it_must() -> None:
    looks = 0

    def look() -> int:
        nonlocal looks
        looks += 1
        return 1000 * MIB

    space = Space(look, MIB)
    for _ in range(1000):
        space.take(100)
    assert looks < 5


async def test_a_put_is_refused_and_all_else_goes_on(serve: Serve, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve()
    space = server.engine.space
    client = await server.connect()
    await client.ask("put", context="c", text="before")
    space.least, space.free = 10 * MIB, lambda: 5 * MIB
    refused = await client.refused("put", context="c", text="x")
    assert (refused.code, refused.details) == ("busy", {"free": 5 * MIB, "min_free": 10 * MIB})
    assert "5 MiB are free" in refused.message
    assert "5 MiB are free" in (await client.ask("status"))["status"]["problem"]
    await client.ask("context_pin", context="c", ids=[2])
    lock = await client.ask("lock", resources=["/a"])
    await client.ask("unlock", token=lock["token"])
    space.free = lambda: 50 * MIB
    await client.ask("put", context="c", text="after")
    assert "problem" not in (await client.ask("status"))["status"]
