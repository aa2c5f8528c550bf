"""The outbox: what the kernel takes at once, what waits, and who waits for it."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
import trio
from trio.testing import MockClock, lockstep_stream_pair, memory_stream_pair, wait_all_tasks_blocked

from engramd.service.peer import Flusher
from engramd.transport.outbox import LOW, StreamOutbox

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Two ends of a socket whose buffers are small; neither blocks."""
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    yield ours, theirs
    ours.close()
    theirs.close()


def outbox_over(ours: socket.socket, most: int | None = None) -> StreamOutbox:
    """An outbox over a socket, of which each `send_now` takes at most `most` bytes."""
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    return StreamOutbox(stream, Flusher(), lambda data: ours.send(data[:most]))


async def receive(stream: trio.abc.ReceiveStream, size: int) -> bytes:
    found = b""
    while len(found) < size:
        found += await stream.receive_some(65536)
    return found


async def test_a_flush_sends_without_a_task(pair: Pair) -> None:
    outbox = outbox_over(pair[0])
    outbox.write(b"one ")
    outbox.write(b"two")
    assert outbox.pending == 7
    outbox.flush()
    assert outbox.pending == 0
    assert pair[1].recv(100) == b"one two"
    outbox.flush()
    with pytest.raises(BlockingIOError):
        pair[1].recv(100)


async def test_what_send_now_does_not_take_follows(pair: Pair, nursery: trio.Nursery) -> None:
    outbox = outbox_over(pair[0], most=3)
    nursery.start_soon(outbox.run)
    theirs = trio.SocketStream(trio.socket.from_stdlib_socket(pair[1]))
    sent = b""
    for number in range(200):
        data = f"<{number}>".encode() * 20
        sent += data
        outbox.write(data)
        outbox.flush()
        if number % 7 == 0:
            await trio.lowlevel.checkpoint()
    assert await receive(theirs, len(sent)) == sent
    await outbox.drained()
    assert outbox.pending == 0


async def test_a_full_socket_leaves_everything_to_the_task(pair: Pair, nursery: trio.Nursery) -> None:
    outbox = outbox_over(pair[0])
    sent = bytes(range(256)) * 4096
    outbox.write(sent)
    outbox.flush()
    before = outbox.pending
    assert 0 < before < len(sent), "the socket took what it could"
    outbox.flush()
    assert outbox.pending == before, "a second try meets BlockingIOError, and changes nothing"
    nursery.start_soon(outbox.run)
    theirs = trio.SocketStream(trio.socket.from_stdlib_socket(pair[1]))
    assert await receive(theirs, len(sent)) == sent


async def test_a_broken_socket_closes_the_outbox(pair: Pair, nursery: trio.Nursery) -> None:
    outbox = outbox_over(pair[0])
    pair[1].close()
    outbox.write(b"lost")
    outbox.flush()
    assert outbox.pending == 0
    outbox.write(b"vanishes")
    assert outbox.pending == 0
    await outbox.drained()
    await outbox.room()
    await outbox.run()  # and there is nothing left to run


async def test_a_peer_that_goes_while_the_task_sends(nursery: trio.Nursery) -> None:
    ours, theirs = lockstep_stream_pair()
    outbox = StreamOutbox(ours, Flusher())
    outbox.write(b"x" * (LOW + 1))
    nursery.start_soon(outbox.run)
    outbox.flush()
    await wait_all_tasks_blocked()
    assert outbox.pending == LOW + 1
    nursery.start_soon(theirs.aclose)
    await outbox.room()
    await outbox.drained()
    assert outbox.pending == 0


async def test_room_waits_until_the_peer_has_read(nursery: trio.Nursery) -> None:
    ours, theirs = lockstep_stream_pair()
    outbox = StreamOutbox(ours, Flusher())
    nursery.start_soon(outbox.run)
    woken: list[str] = []

    async def wait(name: str) -> None:
        await outbox.room()
        woken.append(name)

    outbox.write(b"a" * LOW)
    await outbox.room()
    await wait_all_tasks_blocked()
    outbox.write(b"b" * LOW)  # while the task is sending the first part
    for name in ("one", "two"):
        nursery.start_soon(wait, name)
    await wait_all_tasks_blocked()
    assert woken == [], "twice as much is pending as there is room for"
    assert await receive(theirs, LOW) == b"a" * LOW
    await wait_all_tasks_blocked()
    assert sorted(woken) == ["one", "two"]
    assert await receive(theirs, LOW) == b"b" * LOW


async def test_drained_waits_for_the_last_byte_without_spinning(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """In virtual time: a task that spun would keep the clock from jumping, and the test from ending."""
    ours, theirs = lockstep_stream_pair()
    outbox = StreamOutbox(ours, Flusher())
    nursery.start_soon(outbox.run)
    outbox.write(b"abc")
    with trio.move_on_after(5) as waiting:
        await outbox.drained()
    assert waiting.cancelled_caught
    assert trio.current_time() == pytest.approx(5)
    nursery.start_soon(receive, theirs, 3)
    await outbox.drained()
    assert outbox.pending == 0


async def test_who_waits_is_woken_by_a_flush_that_sends_everything() -> None:
    """No task runs here: it is the second `send_now` that makes room."""
    taken: list[bytes] = []
    full = True

    def send_now(data: bytes) -> int:
        if full:
            raise BlockingIOError
        taken.append(data)
        return len(data)

    ours, _ = memory_stream_pair()
    outbox = StreamOutbox(ours, Flusher(), send_now)
    outbox.write(b"x" * (LOW + 1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.room)
        nursery.start_soon(outbox.drained)
        await wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 2
        full = False
        outbox.flush()
    assert len(taken) == 1


async def test_nothing_follows_a_frame_that_was_cut_off() -> None:
    """A task that is cancelled may have sent half a frame; the rest of the connection would be read as its end."""
    ours, _ = lockstep_stream_pair()
    outbox = StreamOutbox(ours, Flusher())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.run)
        outbox.write(b"first")
        outbox.flush()
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    outbox.write(b"second")
    assert outbox.pending == 0


async def test_nothing_follows_the_last_bytes(pair: Pair) -> None:
    outbox = outbox_over(pair[0])
    outbox.write(b"one ")
    outbox.finish(b"last")
    outbox.write(b"too late")
    assert outbox.pending == 8
    outbox.flush()
    assert pair[1].recv(100) == b"one last"


async def test_a_flusher_flushes_each_outbox_once(pair: Pair) -> None:
    flusher = Flusher()
    calls: list[bytes] = []
    ours, _ = memory_stream_pair()

    def send_now(data: bytes) -> int:
        calls.append(data)
        return len(data)

    outbox = StreamOutbox(ours, flusher, send_now)
    other = StreamOutbox(ours, flusher, send_now)
    outbox.write(b"1")
    other.write(b"2")
    outbox.write(b"3")
    flusher.flush()
    assert calls == [b"13", b"2"]
    flusher.flush()
    assert len(calls) == 2
