"""What runs in helper processes, so that neither the load nor the receivers share a processor's time with who measures."""

from __future__ import annotations

import os
from multiprocessing.connection import Connection

from engramd.protocol.framing import encode, frame

from . import loops, wire
from .figures import BenchmarkError
from .loops import LARGE, clock, poller

CREDIT = 64 * 1024 * 1024  # bytes a stream may send at first: more than any round needs


def echo(pipe: Connection, path: str) -> None:
    """A trio server on a Unix socket that sends back what it gets: the floor of any trio daemon. Ends with the pipe."""
    import trio

    async def serve(stream: trio.SocketStream) -> None:
        async for data in stream:
            await stream.send_all(data)

    async def run() -> None:
        listening = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
        await listening.bind(path)
        listening.listen(8)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, serve, [trio.SocketListener(listening)])
            pipe.send("ready")
            await trio.lowlevel.wait_readable(pipe.fileno())
            nursery.cancel_scope.cancel()

    trio.run(run)


def putters(pipe: Connection, path: str, context: str, count: int, seconds: float) -> None:
    """So many clients, each with one put in flight: sends the nanoseconds of each put, and puts per second."""
    clients = [wire.Client(path, f"agent-{number}") for number in range(count)]
    frames = [wire.put_frames(context, f"agent-{number}", 64) for number in range(count)]
    pipe.send(loops.many(wire.ENGRAM, [client.socket for client in clients], frames, seconds))
    for client in clients:
        client.socket.close()


def pipeliner(pipe: Connection, path: str, context: str, window: int, seconds: float) -> None:
    """One client with `window` puts in flight: sends "ready" just before it starts, and puts per second at the end."""
    frames = wire.put_frames(context, "agent-p", 2 * window, range(1, 2 * window + 1))
    with wire.Client(path, "agent-p") as client:
        pipe.send("ready")
        pipe.send(loops.pipelined(wire.ENGRAM, client.socket, frames, window, seconds))


def receivers(pipe: Connection, path: str, context: str, count: int, units: int, seconds: float) -> None:
    """So many subscribers to a context, each on its own connection.

    Sends "ready" when all are live; then, for each subscriber, when (nanoseconds of the monotonic clock) each of the next `units` units
    had been received.
    """
    clients = [wire.Client(path, f"reader-{number}") for number in range(count)]
    request = frame(encode({"id": 1, "op": "tail", "contexts": [context], "follow": True, "credit": CREDIT}))
    for client in clients:
        client.socket.sendall(request)
    for client in clients:
        if b"dlive" not in wire.receive(client.socket):
            raise BenchmarkError("a stream did not start")
    numbers = [client.socket.fileno() for client in clients]
    wait = poller(numbers)
    pieces: dict[int, list[tuple[int, bytes]]] = {number: [] for number in numbers}
    missing = units * count
    pipe.send("ready")
    end = clock() + int(seconds * 1e9)
    read = os.read
    while missing > 0 and clock() < end:
        for number in wait(1.0):
            data = read(number, LARGE)
            pieces[number].append((clock(), data))
            missing -= data.count(wire.ENTRY)
    pipe.send([_arrivals(pieces[number])[:units] for number in numbers])
    for client in clients:
        client.socket.close()


def _arrivals(pieces: list[tuple[int, bytes]]) -> list[int]:
    """When each unit of a stream was whole, from the bytes of each receive and when it returned."""
    found: list[int] = []
    data = b""
    for when, piece in pieces:
        data += piece
        at = 0
        while at + 4 <= len(data):
            stop = at + 4 + int.from_bytes(data[at : at + 4])
            if stop > len(data):
                break
            if wire.ENTRY in data[at:stop]:
                found.append(when)
            at = stop
        data = data[at:]
    return found
