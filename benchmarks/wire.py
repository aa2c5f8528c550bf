"""Engram's wire, for timing: frames are encoded before the clock starts, and answers are looked at as little as can be."""

from __future__ import annotations

import itertools
import random
import socket
import time
from collections.abc import Sequence
from typing import Any

from engramd.protocol.connection import Answer, ClientConnection
from engramd.protocol.framing import decode, encode, encode_array, encode_map, frame
from engramd.protocol.messages import MAX_PAYLOAD, frame_limit
from engramd.protocol.unit import TYPES

from .figures import BenchmarkError
from .loops import LARGE, WAIT_SECONDS, Dialect, clock, connect

SUCCESS = b"bok\xf5"  # the member `ok: true` of an answer
ENTRY = b"hunit_put"  # the kind of a stream's item that is a unit
TEXT = (
    "the file was read again because a test that writes to it failed with an error in line 214 of parser.py and so the "
    "agent will patch build check search open run function module value cache path lock token stream event order"
)


class Client:
    """One connection: requests for control, and its socket for the timed loops, between which nothing may be under way."""

    def __init__(self, path: str, agent: str = "benchmark") -> None:
        self.socket = connect(path)
        self._connection = ClientConnection(frame_limit(MAX_PAYLOAD))
        self.socket.sendall(self._connection.hello({"agent": agent, "client": "benchmarks"}))
        self.answer()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def request(self, op: str, **fields: Any) -> dict[str, Any]:
        """Ask and wait for the result."""
        self.send(op, **fields)
        return self.answer()

    def send(self, op: str, **fields: Any) -> None:
        """Ask; `answer` waits for the result."""
        self.socket.sendall(self._connection.request(op, fields)[1])

    def answer(self) -> dict[str, Any]:
        """Wait for the result of what was sent."""
        while True:
            data = self.socket.recv(LARGE)
            if not data:
                raise BenchmarkError("the daemon hung up")
            for message in list(self._connection.receive(data)):
                if isinstance(message, Answer):
                    if message.error is not None:
                        raise message.error
                    return message.result or {}


# What is put


def drafts(count: int, seed: int = 1) -> list[dict[str, Any]]:
    """Units to put: about 300 bytes each once they are stored, of every type, with one label."""
    chance, words = random.Random(seed), TEXT.split()
    made = []
    for _ in range(count):
        text = " ".join(chance.choices(words, k=40))[:150]
        made.append({"text": text, "type": chance.choice(TYPES), "meta": {"task": f"T-{chance.randrange(1000)}"}})
    return made


def put_frames(context: str, agent: str, count: int, ids: Sequence[int] = (1,)) -> list[bytes]:
    """Frames of single puts, with the request ids in turn."""
    numbers = itertools.cycle(ids)
    return [
        frame(encode({"id": next(numbers), "op": "put", "context": context, "agent": agent, **draft}))
        for draft in drafts(count, seed=len(context + agent))
    ]


def batch_frames(context: str, agent: str, count: int, units: int, ids: Sequence[int] = (1,)) -> list[bytes]:
    """Frames of puts of several units each, with the request ids in turn."""
    pool = [encode(draft) for draft in drafts(max(2 * units, 1000))]
    arrays = [encode_array(pool[start : start + units]) for start in range(0, len(pool) - units + 1, max(1, units // 4))]
    head = {"op": encode("put"), "context": encode(context), "agent": encode(agent)}
    numbers, bodies = itertools.cycle(ids), itertools.cycle(arrays)
    return [frame(encode_map({"id": encode(next(numbers)), **head, "units": next(bodies)})) for _ in range(count)]


def list_frame(context: str, limit: int) -> bytes:
    """A request for the last units of a context."""
    return frame(encode({"id": 1, "op": "list", "context": context, "limit": limit, "reverse": True}))


# Answers


def receive(sock: socket.socket) -> bytes:
    """One whole frame, when nothing else is under way."""
    data = sock.recv(LARGE)
    while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4]):
        more = sock.recv(LARGE)
        if not more:
            raise BenchmarkError("the daemon hung up")
        data += more
    return data


def check(answer: bytes) -> None:
    """Raise unless the one whole frame is a success."""
    if SUCCESS not in answer[:64]:
        raise BenchmarkError(f"the daemon refused: {decode(answer[4:]).get('error')}")


def cut(data: bytes) -> tuple[int, bytes]:
    """How many whole answers the bytes hold, and what follows them."""
    found = at = 0
    while (stop := _end(data, at)) is not None:
        found += 1
        at = stop
    if data.count(SUCCESS, 0, at) < found:
        raise BenchmarkError("the daemon refused a request")
    return found, data[at:]


def cut_entries(data: bytes) -> tuple[int, bytes]:
    """How many whole items of a stream that are units the bytes hold, and what follows the last whole frame."""
    found = at = 0
    while (stop := _end(data, at)) is not None:
        found += data.find(ENTRY, at, stop) >= 0
        at = stop
    return found, data[at:]


def _end(data: bytes, at: int) -> int | None:
    """Where the frame ends that begins there, or None if the bytes do not hold all of it."""
    if at + 4 > len(data):
        return None
    stop = at + 4 + int.from_bytes(data[at : at + 4])
    return stop if stop <= len(data) else None


ENGRAM = Dialect(receive, check, cut)


def paced(sock: socket.socket, each: bytes, count: int, gap: float, seconds: float = WAIT_SECONDS) -> list[tuple[int, int, int]]:
    """Send a put, wait for its answer and then for `gap` seconds, up to `count` times or for `seconds`.

    Returns:
        When each was sent, when it was answered, and its seq.
    """
    taken: list[tuple[int, int, int]] = []
    end = clock() + int(seconds * 1e9)
    while len(taken) < count and clock() < end:
        time.sleep(gap)
        sent = clock()
        sock.sendall(each)
        answer = receive(sock)
        now = clock()
        check(answer)
        taken.append((sent, now, int(decode(answer[4:])["result"]["seq"])))
    return taken
