"""etcd over gRPC on TCP: HTTP/2 frames and messages made by hand, which takes the client less time than a library.

A record is a key, whose number counts down: so the newest come first in the order of keys, which is the only one that needs no sorting.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

from ..figures import BenchmarkError
from ..helpers import Stream
from ..loops import LARGE, Dialect, Requests, clock, tcp
from ..processes import Foreign, Helper, Place, free_port
from .peer import BATCH, LAST, RECORDS, TEXT, WINDOW, Absent, Lock, Server

PUT, RANGE, TXN = b"/etcdserverpb.KV/Put", b"/etcdserverpb.KV/Range", b"/etcdserverpb.KV/Txn"
WATCH, GRANT = b"/etcdserverpb.Watch/Watch", b"/etcdserverpb.Lease/LeaseGrant"
LOCK, UNLOCK = b"/v3lockpb.Lock/Lock", b"/v3lockpb.Lock/Unlock"
FIRST, BEYOND = b"live/", b"live0"  # the keys of records
MARK = b'"text"'
NEVER = 2**63
LEASE_SECONDS = 3600  # longer than any run

# Protocol buffers


def varint(number: int) -> bytes:
    """A number in groups of seven bits."""
    made = bytearray()
    while number > 127:
        made.append(number & 127 | 128)
        number >>= 7
    return bytes([*made, number])


def text(field: int, value: bytes) -> bytes:
    """A member of bytes."""
    return varint(field << 3 | 2) + varint(len(value)) + value


def number(field: int, value: int) -> bytes:
    """A member that is a number."""
    return varint(field << 3) + varint(value)


def members(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The members of a message: numbers and bytes."""
    at = 0

    def read() -> int:
        nonlocal at
        value = shift = 0
        while True:
            value |= (data[at] & 127) << shift
            at, shift = at + 1, shift + 7
            if data[at - 1] < 128:
                return value

    while at < len(data):
        key = read()
        value = read()
        if key & 7 == 2:
            yield key >> 3, data[at : at + value]
            at += value
        else:
            yield key >> 3, value


# HTTP/2

DATA, HEADERS, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
FRAME = 16_384  # bytes of the largest frame that all take
SENT_FREELY = 65_535  # bytes that one may send before the other has given more room
MOST = 2**31 - 1  # room for all that etcd may send in a run
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
CALL = b"\x83\x86"  # method POST, scheme http


def framed(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame."""
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


def cut_frames(data: bytes) -> tuple[list[tuple[int, int, bytes]], bytes]:
    """The kind, flags and payload of the whole frames in the bytes, and what follows them."""
    found, at = [], 0
    while at + 9 <= len(data) and (stop := at + 9 + int.from_bytes(data[at : at + 3])) <= len(data):
        found.append((data[at + 3], data[at + 4], data[at + 9 : stop]))
        if data[at + 3] == GOAWAY:
            raise BenchmarkError(f"etcd hung up: {data[at:stop]!r}")
        at = stop
    return found, data[at:]


class Channel:
    """One connection, and the requests for it, which must be sent in the order they were made."""

    def __init__(self, port: int) -> None:
        self.socket = tcp(port)
        self._stream = -1
        self._fields = [
            b"\x41" + self._string(b"127.0.0.1"),
            b"\x5f" + self._string(b"application/grpc"),
            b"\x40\x02te" + self._string(b"trailers"),
        ]
        self._known: list[bytes] = []
        room = framed(SETTINGS, 0, 0, b"\0\4" + MOST.to_bytes(4)) + framed(WINDOW_UPDATE, 0, 0, (MOST - SENT_FREELY).to_bytes(4))
        self.socket.sendall(GREETING + room)
        data = b""
        while SETTINGS not in [kind for kind, _, _ in cut_frames(data)[0]]:
            more = self.socket.recv(LARGE)
            if not more:
                raise OSError("etcd hung up")
            data += more
        self.socket.sendall(framed(SETTINGS, ACK, 0, b""))

    def request(self, path: bytes, message: bytes, ends: bool = True) -> bytes:
        """A call of a method, on a stream of its own."""
        self._stream += 2
        head = CALL + b"".join(self._field(field) for field in (b"\x44" + self._string(path), *self._fields))
        body = b"\0" + len(message).to_bytes(4) + message
        made = framed(HEADERS, END_HEADERS, self._stream, head)
        for start in range(0, len(body), FRAME):
            last = start + FRAME >= len(body)
            made += framed(DATA, END_STREAM if ends and last else 0, self._stream, body[start : start + FRAME])
        return made

    def call(self, path: bytes, message: bytes) -> dict[int, int | bytes]:
        """Ask, and wait for the members of the answer."""
        self.socket.sendall(self.request(path, message))
        return answer(receive(self.socket))

    def _field(self, field: bytes) -> bytes:
        """A header, in full the first time; then by its place among those that came in full, the last of which has number 62."""
        if field not in self._known:
            self._known.append(field)
            return field
        return bytes((128 | 62 + len(self._known) - 1 - self._known.index(field),))

    @staticmethod
    def _string(value: bytes) -> bytes:
        return bytes((len(value),)) + value


def receive(sock: socket.socket) -> bytes:
    """One answer, to the end of its stream."""
    data = b""
    while True:
        more = sock.recv(LARGE)
        if not more:
            raise OSError("etcd hung up")
        data += more
        if cut(data)[0]:
            return data


def check(data: bytes) -> None:
    """Raise unless the answer has a message, which a refusal has not."""
    if DATA not in [kind for kind, _, _ in cut_frames(data)[0]]:
        raise BenchmarkError(f"etcd refused a request: {data!r}")


def cut(data: bytes) -> tuple[int, bytes]:
    """How many answers end in the bytes, and what follows the last whole frame."""
    frames, rest = cut_frames(data)
    return sum(kind == HEADERS and flags & END_STREAM for kind, flags, _ in frames), rest


def cut_events(data: bytes) -> tuple[int, bytes]:
    """How many records the whole frames have brought, and what follows them."""
    frames, rest = cut_frames(data)
    return sum(payload.count(MARK) for kind, _, payload in frames if kind == DATA), rest


def answer(data: bytes) -> dict[int, int | bytes]:
    """The members of an answer's message."""
    check(data)
    return dict(members(b"".join(payload for kind, _, payload in cut_frames(data)[0] if kind == DATA)[5:]))


GRPC = Dialect(receive, check, cut)


# Requests


def puts(agent: int) -> Iterator[bytes]:
    """Records of one agent, newest first in the order of keys."""
    values = itertools.cycle([json.dumps({**record, "agent": f"agent-{agent}"}).encode() for record in RECORDS[:256]])
    for place, value in enumerate(values):
        yield text(1, b"%s%016x-%d" % (FIRST, NEVER - clock(), agent) + b"%x" % (place % 16)) + text(2, value)


def asked(channel: Channel, path: bytes, messages: Iterable[bytes]) -> Requests:
    """The channel, and calls of a method that are encoded as they are sent, since each needs a number of its own."""
    return Requests(GRPC, channel.socket, (channel.request(path, message) for message in messages))


def writer(agent: int, port: int) -> Requests:
    """A connection, and puts of single records."""
    return asked(Channel(port), PUT, puts(agent))


def transactions(agent: int) -> Iterator[bytes]:
    """Transactions of BATCH puts."""
    records = puts(agent)
    while True:
        yield b"".join(text(2, text(2, put)) for put in itertools.islice(records, BATCH))


def batcher(port: int) -> Requests:
    """A connection, and transactions."""
    return asked(Channel(port), TXN, transactions(99))


def reader(port: int) -> Requests:
    """A connection, and the request for the newest records."""
    return asked(Channel(port), RANGE, itertools.repeat(text(1, FIRST) + text(2, BEYOND) + number(3, LAST)))


def stream(agent: int, port: int) -> Stream:
    """A watcher of all records."""
    channel = Channel(port)
    channel.socket.sendall(channel.request(WATCH, text(1, text(1, FIRST) + text(2, BEYOND)), ends=False))
    data = b""
    while DATA not in [kind for kind, _, _ in cut_frames(data)[0]]:  # it says that it watches
        data += channel.socket.recv(LARGE)
    return Stream(channel.socket, MARK, cut_events)


class Mutex(Lock):
    """etcd's own lock service: a key under a lease, and a queue in the order of creation."""

    def __init__(self, port: int, name: bytes) -> None:
        self._channel = Channel(port)
        super().__init__(self._channel.socket.close)
        lease = self._channel.call(GRANT, number(1, LEASE_SECONDS))[2]
        assert isinstance(lease, int)
        self._wanted = text(1, name) + number(2, lease)
        self._held = b""

    def ask(self) -> None:
        self._channel.socket.sendall(self._channel.request(LOCK, self._wanted))

    def granted(self) -> None:
        key = answer(receive(self._channel.socket))[2]
        assert isinstance(key, bytes)
        self._held = key

    def release(self) -> None:
        self._channel.socket.sendall(self._channel.request(UNLOCK, text(1, self._held)))

    def released(self) -> None:
        check(receive(self._channel.socket))


# As a peer


def find(named: str | None) -> str | None:
    """The etcd to run, or None."""
    return shutil.which(named or "etcd")


class Etcd(Server):
    """An etcd of its own, of one member."""

    name = "etcd"
    synced = "yes"
    queue_seconds = 0.15  # it looks for what a new waiter waits for every 100 ms, until it has caught up
    variables: Mapping[str, str] = {"ETCDCTL_API": "3"}
    writer = staticmethod(writer)
    batcher = staticmethod(batcher)
    reader = staticmethod(reader)
    stream = staticmethod(stream)

    def __init__(self, place: Place, program: str, data: Path, load: Helper) -> None:
        self.address = (free_port(),)
        self._url, self._others = (f"http://127.0.0.1:{port}" for port in (self.address[0], free_port()))
        super().__init__(place, program, data, load)

    def start(self) -> int:
        options = [
            "--name",
            "versus",
            "--data-dir",
            str(self.data),
            "--logger",
            "zap",
            "--log-level",
            "error",
            "--log-outputs",
            os.devnull,
        ]
        options += ["--listen-client-urls", self._url, "--advertise-client-urls", self._url]
        options += ["--listen-peer-urls", self._others, "--initial-advertise-peer-urls", self._others]
        options += ["--initial-cluster", f"versus={self._others}"]
        self.running = server = Foreign([self.program, *options], self._answers)
        return server.ready_after

    def _answers(self) -> None:
        channel = Channel(*self.address)
        try:
            channel.call(RANGE, text(1, b"nothing"))
        finally:
            channel.socket.close()

    def piped(self, seconds: float) -> float:
        """As `loops.pipelined`, within the room that etcd gives for what is sent to it."""
        channel = Channel(*self.address)
        messages = puts(98)
        sent = answered = messages_back = 0
        room, rest, waiting = SENT_FREELY, b"", b""
        start = clock()
        end = start + int(seconds * 1e9)
        while True:
            ready = []
            while sent - answered < WINDOW and clock() < end:
                waiting = waiting or channel.request(PUT, next(messages))
                if len(waiting) > room:  # headers do not count, so there is a little more room than this
                    break
                room -= len(waiting)
                ready.append(waiting)
                sent, waiting = sent + 1, b""
            channel.socket.sendall(b"".join(ready))
            if sent == answered:
                break
            frames, rest = cut_frames(rest + channel.socket.recv(LARGE))
            for kind, flags, payload in frames:
                if kind == HEADERS:
                    answered += flags & END_STREAM
                elif kind == DATA:
                    messages_back += 1
                elif kind == WINDOW_UPDATE:
                    room += int.from_bytes(payload)
                elif kind == PING and not flags & ACK:
                    channel.socket.sendall(framed(PING, ACK, 0, payload))
        channel.socket.close()
        if messages_back != answered:
            raise BenchmarkError("etcd refused a request")
        return answered / ((clock() - start) / 1e9)

    def lock(self) -> Lock:
        return self.kept.enter_context(closing(Mutex(self.address[0], b"lock-%d" % next(self.numbers))))

    def queue(self) -> tuple[Lock, Lock]:
        return Mutex(self.address[0], b"queue"), Mutex(self.address[0], b"queue")

    def commands(self) -> dict[str, list[str]]:
        program = shutil.which("etcdctl")
        if program is None:
            raise Absent("no etcdctl on PATH")
        head = [program, "--endpoints", self._url]
        return {"put": [*head, "put", "command", TEXT], "get": [*head, "get", "command"]}
