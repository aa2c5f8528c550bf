"""What runs in helper processes, so that neither the load nor the receivers share a processor's time with who measures."""

from __future__ import annotations

import itertools
import os
import socket
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from engramd.protocol.framing import encode, frame

from . import loops, wire
from .figures import BenchmarkError
from .loops import LARGE, Requests, clock, poller

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


def writers(pipe: Connection, make: Callable[..., Requests], address: Sequence[Any], count: int, seconds: float) -> None:
    """So many clients, each with one request in flight: sends the nanoseconds of each request, and requests per second.

    Args:
        make: a client of this number, from 1, at this address.
    """
    clients = [make(number, *address) for number in range(1, count + 1)]
    pipe.send(loops.many(clients, seconds))
    for client in clients:
        client.socket.close()


def putter(number: int, path: str, context: str) -> Requests:
    """A client of the daemon that puts single units."""
    agent = f"agent-{number}"
    return Requests(wire.ENGRAM, wire.Client(path, agent).socket, wire.put_frames(context, agent, 64))


def putters(pipe: Connection, path: str, context: str, count: int, seconds: float) -> None:
    """So many writers of the daemon."""
    writers(pipe, putter, (path, context), count, seconds)


class Writer(NamedTuple):
    """A file or a connection of one's own: `put` writes records, all or none, and syncs them."""

    put: Callable[[Sequence[Any]], None]
    close: Callable[[], None]


def threads(pipe: Connection, make: Callable[[str], Writer], path: str, records: Sequence[Any], count: int, seconds: float) -> None:
    """So many threads that write single records to one file, each with what `make` makes for it: sends as `writers` does."""
    taken: list[int] = []
    opened = [make(path) for _ in range(count)]
    began = clock()
    end = began + int(seconds * 1e9)

    def write(put: Callable[[Sequence[Any]], None]) -> None:
        for record in itertools.cycle(records):
            start = clock()
            put([record])
            taken.append(clock() - start)
            if clock() >= end:
                break

    running = [threading.Thread(target=write, args=(writer.put,)) for writer in opened]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    for writer in opened:
        writer.close()
    pipe.send((taken, len(taken) / ((clock() - began) / 1e9)))


def pipeliner(pipe: Connection, path: str, context: str, window: int, seconds: float) -> None:
    """One client with `window` puts in flight: sends "ready" just before it starts, and puts per second at the end."""
    frames = wire.put_frames(context, "agent-p", 2 * window, range(1, 2 * window + 1))
    with wire.Client(path, "agent-p") as client:
        pipe.send("ready")
        pipe.send(loops.pipelined(wire.ENGRAM, client.socket, frames, window, seconds))


class Stream(NamedTuple):
    """A connection to which units come.

    Attributes:
        mark: bytes that every unit has once.
        cut: how many whole units the bytes hold, and the bytes after them.
        again: where every answer must be asked for, the next request, made of the answer before.
    """

    socket: socket.socket
    mark: bytes
    cut: Callable[[bytes], tuple[int, bytes]]
    again: Callable[[bytes], bytes] | None = None


def gather(pipe: Connection, make: Callable[..., Stream], address: Sequence[Any], count: int, units: int, seconds: float) -> None:
    """So many subscribers, each on its own connection.

    Sends "ready" when all are live; then, for each subscriber, when (nanoseconds of the monotonic clock) each of the next `units` units
    had been received.

    Args:
        make: a live stream of this number, from 1, at this address.
    """
    streams = {stream.socket.fileno(): stream for stream in (make(number, *address) for number in range(1, count + 1))}
    wait = poller([*streams])
    pieces: dict[int, list[tuple[int, bytes]]] = {number: [] for number in streams}
    first = next(iter(streams.values()))
    mark, again = first.mark, first.again
    missing = units * count
    pipe.send("ready")
    end = clock() + int(seconds * 1e9)
    read = os.read
    while missing > 0 and clock() < end:
        for number in wait(1.0):
            data = read(number, LARGE)
            pieces[number].append((clock(), data))
            if not data:
                raise BenchmarkError("a stream ended")
            missing -= data.count(mark)
            if again is not None:
                os.write(number, again(data))
    pipe.send([_arrivals(pieces[number], stream.cut)[:units] for number, stream in streams.items()])
    for stream in streams.values():
        stream.socket.close()


def _arrivals(pieces: list[tuple[int, bytes]], cut: Callable[[bytes], tuple[int, bytes]]) -> list[int]:
    """When each unit of a stream was whole, from the bytes of each receive and when it returned."""
    arrived: list[int] = []
    data = b""
    for when, piece in pieces:
        found, data = cut(data + piece)
        arrived += [when] * found
    return arrived


def follower(number: int, path: str, context: str) -> Stream:
    """A subscriber of a context."""
    client = wire.Client(path, f"reader-{number}")
    client.socket.sendall(frame(encode({"id": 1, "op": "tail", "contexts": [context], "follow": True, "credit": CREDIT})))
    if b"dlive" not in wire.receive(client.socket):
        raise BenchmarkError("a stream did not start")
    return Stream(client.socket, wire.ENTRY, wire.cut_entries)


def receivers(pipe: Connection, path: str, context: str, count: int, units: int, seconds: float) -> None:
    """So many subscribers of a context."""
    gather(pipe, follower, (path, context), count, units, seconds)
