"""The timed loops, for any protocol of requests and answers over a Unix socket. Times are nanoseconds of the monotonic clock."""

from __future__ import annotations

import itertools
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from .figures import BenchmarkError

WAIT_SECONDS = 60  # the longest any receive waits
WARM = 20  # requests that are not timed, before those that are
WARM_SECONDS = 0.05  # that several clients run before they are looked at
SMALL, LARGE = 4096, 65536  # bytes asked of one receive

clock = time.monotonic_ns


class Dialect(NamedTuple):
    """What the loops know of a protocol.

    Attributes:
        receive: waits for one whole answer, when nothing else is under way.
        check: raises BenchmarkError unless the bytes are one whole answer, and a success.
        cut: how many whole answers the bytes hold, and the bytes after them; raises BenchmarkError when one is no success.
    """

    receive: Callable[[socket.socket], bytes]
    check: Callable[[bytes], None]
    cut: Callable[[bytes], tuple[int, bytes]]


class Requests(NamedTuple):
    """A connection, and what can be asked on it: again and again, in this order."""

    dialect: Dialect
    socket: socket.socket
    frames: Iterable[bytes]


def connect(path: str) -> socket.socket:
    """A connection to a Unix socket."""
    return _connected(socket.AF_UNIX, path)


def tcp(port: int) -> socket.socket:
    """A connection on loopback that sends at once."""
    made = _connected(socket.AF_INET, ("127.0.0.1", port))
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def _connected(family: int, address: str | tuple[str, int]) -> socket.socket:
    """A blocking socket with a bound on its waits that costs nothing per call, as `settimeout` would."""
    made = socket.socket(family, socket.SOCK_STREAM)
    bound = struct.pack("ll", WAIT_SECONDS, 0)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, bound)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, bound)
    try:
        made.connect(address)
    except OSError:
        made.close()
        raise
    return made


def serial(dialect: Dialect, sock: socket.socket, frames: Iterable[bytes], most: int, seconds: float, warm: int = WARM) -> list[int]:
    """The time from before each request is sent until its answer is whole, one after the other.

    Args:
        most, seconds: the loop ends at whichever comes first.
        warm: so many are done before, uncounted.
    """
    send, receive, check = sock.sendall, dialect.receive, dialect.check
    taken = []
    end = clock() + int(seconds * 1e9)
    for done, frame in enumerate(itertools.cycle(frames), 1 - warm):
        start = clock()
        send(frame)
        answer = receive(sock)
        now = clock()
        check(answer)
        if done > 0:
            taken.append(now - start)
            if done >= most or now > end:
                break
    return taken


def pipelined(dialect: Dialect, sock: socket.socket, frames: Sequence[bytes], window: int, seconds: float, most: int = 2**63) -> float:
    """Answers per second with `window` requests in flight on one connection: for each answer, the next request is sent at once.

    The ids of `frames` must differ within any `window` of them, taken in a ring.
    """
    ring = [*frames, *frames[:window]]
    answered, sent, rest = 0, min(window, most), b""
    start = clock()
    end = start + int(seconds * 1e9)
    sock.sendall(b"".join(ring[:sent]))
    while answered < sent:
        data = sock.recv(LARGE)
        if not data:
            raise BenchmarkError("the server hung up")
        found, rest = dialect.cut(rest + data)
        answered += found
        more = min(found, most - sent) if clock() < end else 0
        if more:
            first = sent % len(frames)
            sock.sendall(b"".join(ring[first : first + more]))
            sent += more
    return answered / ((clock() - start) / 1e9)


def many(clients: Sequence[Requests], seconds: float, warm: float = WARM_SECONDS) -> tuple[list[int], float]:
    """One request in flight on each of several connections of one dialect, with small answers.

    Returns:
        The time of each request, and answers per second; both without the first `warm` seconds.
    """
    cut = clients[0].dialect.cut
    rings: dict[int, Iterator[bytes]] = {client.socket.fileno(): itertools.cycle(client.frames) for client in clients}
    wait = poller([*rings])
    rests = dict.fromkeys(rings, b"")
    started: dict[int, int] = {}
    taken: list[int] = []
    counting = last = clock() + int(warm * 1e9)
    end = counting + int(seconds * 1e9)
    for number, ring in rings.items():
        frame = next(ring)
        started[number] = clock()
        os.write(number, frame)
    while started:
        ready = wait(WAIT_SECONDS)
        if not ready:
            raise BenchmarkError("the server said nothing")
        for number in ready:
            data = os.read(number, SMALL)
            now = clock()
            if not data:
                raise BenchmarkError("the server hung up")
            found, rests[number] = cut(rests[number] + data)
            if not found:
                continue
            start = started.pop(number)
            if now < end or not taken:  # one at least
                frame = next(rings[number])
                started[number] = clock()
                os.write(number, frame)
                if start >= counting:
                    taken.append(now - start)
                    last = now
    return taken, len(taken) / ((last - counting) / 1e9) if taken else 0.0


def timed(work: Callable[[], object], most: int, seconds: float = WAIT_SECONDS) -> list[int]:
    """How long each call takes, in nanoseconds, up to `most` calls or for `seconds`, but one at least."""
    taken: list[int] = []
    end = clock() + int(seconds * 1e9)
    while not taken or (len(taken) < most and clock() < end):
        start = clock()
        work()
        taken.append(clock() - start)
    return taken


def poller(numbers: Sequence[int]) -> Callable[[float], Sequence[int]]:
    """A function that waits so many seconds and gives the descriptors that can be read."""
    if sys.platform == "linux":
        epoll = select.epoll()
        for number in numbers:
            epoll.register(number, select.EPOLLIN)
        return lambda seconds: [number for number, _ in epoll.poll(seconds)]
    waiting = select.poll()
    for number in numbers:
        waiting.register(number, select.POLLIN)
    return lambda seconds: [number for number, _ in waiting.poll(seconds * 1000)]
