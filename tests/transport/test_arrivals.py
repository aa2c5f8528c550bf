"""One task that reads for all: who is heard, how often, and what ends it."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, cast

import pytest
import trio
import trio.testing

from engramd.transport.arrivals import READ_BYTES, Arrivals

Pair = tuple[socket.socket, socket.socket]


class Noted:
    """What is entered around everything that has arrived at a time."""

    def __init__(self) -> None:
        self.is_entered = False
        self.times = 0

    def __enter__(self) -> None:
        assert not self.is_entered
        self.is_entered = True
        self.times += 1

    def __exit__(self, *_: object) -> None:
        self.is_entered = False


@pytest.fixture
def together() -> Noted:
    return Noted()


@pytest.fixture
async def arrivals(nursery: trio.Nursery, together: Noted) -> AsyncIterator[Arrivals]:
    """One that runs, in real time: it waits for the kernel."""
    made = Arrivals(together)
    nursery.start_soon(made.run)
    with trio.fail_after(10):
        yield made


@pytest.fixture
def pairs() -> Iterator[list[Pair]]:
    """Pairs of connected sockets, the first end of which does not block."""
    made = [socket.socketpair() for _ in range(3)]
    for ours, _ in made:
        ours.setblocking(False)
    yield made
    for ends in made:
        for end in ends:
            end.close()


class Listener:
    """A task that has what arrives taken, until `enough` bytes have come."""

    def __init__(self, arrivals: Arrivals, sock: socket.socket, enough: int, also: Callable[[], Any] = lambda: None) -> None:
        self.data = b""
        self.pieces = 0
        self.result: bool | BaseException | None = None
        self.scope = trio.CancelScope()
        self._arrivals, self._socket, self._enough, self._also = arrivals, sock, enough, also

    async def run(self) -> None:
        with self.scope:
            try:
                self.result = await self._arrivals.hear(self._socket, self._take)
            except Exception as error:
                self.result = error

    def _take(self, data: bytes) -> bool:
        assert cast(Noted, self._arrivals._together).is_entered
        self.data += data
        self.pieces += 1
        self._also()
        return len(self.data) < self._enough


async def heard(*listeners: Listener) -> None:
    """Run listeners to their ends."""
    async with trio.open_nursery() as nursery:
        for listener in listeners:
            nursery.start_soon(listener.run)


async def test_it_hears_until_something_has_to_be_waited_for(arrivals: Arrivals, pairs: list[Pair]) -> None:
    ours, theirs = pairs[0]
    listener = Listener(arrivals, ours, enough=4)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener.run)
        for byte in (b"a", b"b", b"cd"):
            theirs.send(byte)
            await trio.testing.wait_all_tasks_blocked(0.02)
    assert (listener.data, listener.pieces, listener.result) == (b"abcd", 3, True)
    theirs.send(b"later")
    await trio.testing.wait_all_tasks_blocked(0.02)
    assert listener.data == b"abcd", "nobody reads what nobody waits for"
    again = Listener(arrivals, ours, enough=1)
    await heard(again)
    assert again.data == b"later"


async def test_it_reads_a_bounded_piece_at_a_time(arrivals: Arrivals, pairs: list[Pair]) -> None:
    ours, theirs = pairs[0]
    theirs.send(bytes(READ_BYTES + 1))
    listener = Listener(arrivals, ours, enough=1)
    await heard(listener)
    assert len(listener.data) == READ_BYTES


async def test_what_everybody_has_sent_is_taken_together(arrivals: Arrivals, together: Noted, pairs: list[Pair]) -> None:
    listeners = [Listener(arrivals, ours, enough=1) for ours, _ in pairs]
    async with trio.open_nursery() as nursery:
        for listener in listeners:
            nursery.start_soon(listener.run)
        await trio.testing.wait_all_tasks_blocked(0.02)
        before = together.times
        for _, theirs in pairs:
            theirs.send(b"x")
    assert together.times == before + 1
    assert [listener.data for listener in listeners] == [b"x"] * 3


async def test_it_tells_who_hung_up(arrivals: Arrivals, pairs: list[Pair]) -> None:
    ours, theirs = pairs[0]
    theirs.send(b"last words")
    theirs.close()
    listener = Listener(arrivals, ours, enough=1000)
    await heard(listener)
    assert (listener.data, listener.result) == (b"last words", False)


async def test_a_broken_connection_is_an_error_for_its_own_task(arrivals: Arrivals, pairs: list[Pair]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    with ours:
        ours.setblocking(False)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        theirs.close()  # with a reset
        broken, other = Listener(arrivals, ours, enough=1), Listener(arrivals, pairs[0][0], enough=1)
        pairs[0][1].send(b"x")
        await heard(broken, other)
    assert isinstance(broken.result, trio.BrokenResourceError)
    assert other.result is True


@pytest.mark.parametrize("kind", [ValueError, OSError, BlockingIOError])
async def test_what_taking_raises_is_raised_in_its_own_task(arrivals: Arrivals, pairs: list[Pair], kind: type[Exception]) -> None:
    def fail() -> None:
        raise kind("no")

    failing, other = Listener(arrivals, pairs[0][0], 1, fail), Listener(arrivals, pairs[1][0], 2)
    for _, theirs in pairs[:2]:
        theirs.send(b"xy")
    await heard(failing, other)
    assert type(failing.result) is kind
    assert other.result is True


async def test_what_is_done_with_all_of_it_may_fail(pairs: list[Pair]) -> None:
    """Which nothing should; then the error is the one that is told, whoever still waits."""

    class Failing(Noted):
        def __exit__(self, *_: object) -> None:
            raise ValueError("no")

    listener = Listener(made := Arrivals(Failing()), pairs[0][0], 2)
    with pytest.RaisesGroup(ValueError):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.run)
            nursery.start_soon(listener.run)
            pairs[0][1].send(b"x")
    assert listener.result is None


async def test_who_is_cancelled_hears_no_more(arrivals: Arrivals, pairs: list[Pair]) -> None:
    ours, theirs = pairs[0]
    listener = Listener(arrivals, ours, enough=10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener.run)
        await trio.testing.wait_all_tasks_blocked(0.02)
        listener.scope.cancel()
    theirs.send(b"x")
    await trio.testing.wait_all_tasks_blocked(0.02)
    assert listener.data == b""
    again = Listener(arrivals, ours, enough=1)
    await heard(again)
    assert again.data == b"x"


async def test_what_one_has_sent_may_end_another(arrivals: Arrivals, pairs: list[Pair]) -> None:
    """As a revoked token does. Both have sent something in the same moment, so whoever is heard first ends the other."""
    first: Listener = Listener(arrivals, pairs[0][0], 1, lambda: second.scope.cancel())
    second: Listener = Listener(arrivals, pairs[1][0], 1, lambda: first.scope.cancel())
    async with trio.open_nursery() as nursery:
        for listener in (first, second):
            nursery.start_soon(listener.run)
        await trio.testing.wait_all_tasks_blocked(0.02)
        for _, theirs in pairs[:2]:
            theirs.send(b"x")
    assert sorted([first.data, second.data]) == [b"", b"x"]
    assert sorted([first.result is True, second.result is True]) == [False, True]


async def test_one_may_end_itself(arrivals: Arrivals, pairs: list[Pair]) -> None:
    ours, theirs = pairs[0]
    listener: Listener = Listener(arrivals, ours, 10, lambda: listener.scope.cancel())
    theirs.send(b"x")
    await heard(listener)
    assert (listener.data, listener.result) == (b"x", None)
