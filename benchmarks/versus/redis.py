"""Redis streams over a Unix socket: requests encoded beforehand, the append-only file synced before each answer, or each second."""

from __future__ import annotations

import re
import shutil
import socket
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import ClassVar

from .. import wire
from ..figures import BenchmarkError
from ..helpers import Stream
from ..loops import LARGE, SMALL, Dialect, Requests, connect
from ..processes import Foreign, Place
from .peer import BATCH, TEXT, WINDOW, Absent, Lock, Server

STREAM = "stream"
RANGE = 100  # entries asked of a range
MEMBER = b"\r\n$4\r\ntext\r\n"  # the name of the last member of each entry
ID = re.compile(rb"\r\n(\d+-\d+)\r\n")
RELEASE = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end"


def find(named: str | None) -> str | None:
    """The redis-server to run, or None."""
    return shutil.which(named or "redis-server")


class Redis(Foreign):
    """A Redis of its own, from start to stop.

    Args:
        program: what to run.
        fsync: when it syncs its append-only file (`always`, `everysec`); with None it has none, which fills a stream fast.
    """

    def __init__(self, place: Place, program: str, data: Path, fsync: str | None = "always") -> None:
        self.socket = place.socket()
        data.mkdir(parents=True, exist_ok=True)
        options = ["--port", "0", "--unixsocket", self.socket, "--dir", str(data), "--save", "", "--loglevel", "warning"]
        options += ["--appendonly", "yes", "--appendfsync", fsync] if fsync else ["--appendonly", "no"]
        super().__init__([program, *options], self._answers)

    def _answers(self) -> None:
        with connect(self.socket) as sock:
            sock.sendall(command("PING"))
            if sock.recv(SMALL) != b"+PONG\r\n":
                raise OSError("it is loading")


def command(*words: str | bytes) -> bytes:
    """A request: an array of bulk strings."""
    raw = [word if isinstance(word, bytes) else word.encode() for word in words]
    return b"*%d\r\n" % len(raw) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in raw)


def add_frames(count: int, agent: str = "agent-0") -> list[bytes]:
    """XADD of the same units that the puts have, with the members a client would give."""
    frames = []
    for draft in wire.drafts(count):
        label = f"task={draft['meta']['task']}"
        members = ("context", "live", "agent", agent, "type", draft["type"], "meta", label, "text", draft["text"])
        frames.append(command("XADD", STREAM, "*", *members))
    return frames


def receive(sock: socket.socket) -> bytes:
    """An id: one bulk string, which comes in one piece."""
    return sock.recv(SMALL)


def receive_range(sock: socket.socket) -> bytes:
    """A range of entries, which is whole when the last one's last text is; the texts of `wire.drafts` hold no line ends."""
    data = sock.recv(LARGE)
    while not data.endswith(b"\r\n") or data.endswith(b"text\r\n") or data.count(b"\r\n$4\r\ntext\r\n") < RANGE:
        data += sock.recv(LARGE)
    return data


def check(answer: bytes) -> None:
    """Raise unless the answer is whole, and a success."""
    if answer[:1] not in (b"$", b"*") or not answer.endswith(b"\r\n"):
        raise BenchmarkError(f"Redis refused a request, or cut an answer in two: {answer[:100]!r}")


def cut(data: bytes) -> tuple[int, bytes]:
    """How many ids the bytes hold, and what follows them."""
    found = data.count(b"\r\n") // 2  # an id is two lines: its length and itself
    at = 0
    for _ in range(2 * found):
        at = data.index(b"\r\n", at) + 2
    if b"-" in (data[:1], data[at : at + 1]):
        raise BenchmarkError(f"Redis refused a request: {data[:100]!r}")
    return found, data[at:]


REDIS = Dialect(receive, check, cut)
REDIS_RANGE = Dialect(receive_range, check, cut)


# As a peer


def writer(number: int, path: str) -> Requests:
    """A connection, and additions of single entries."""
    return Requests(REDIS, connect(path), add_frames(64, f"agent-{number}"))


def piper(path: str) -> Requests:
    """The same for many in flight."""
    return Requests(REDIS, connect(path), add_frames(2 * WINDOW))


def reader(path: str) -> Requests:
    """A connection, and the request for the last entries."""
    return Requests(REDIS_RANGE, connect(path), [command("XREVRANGE", STREAM, "+", "-", "COUNT", str(RANGE))])


def receive_batch(sock: socket.socket) -> bytes:
    """The answers to a transaction of BATCH additions: two lines for it, one for each addition, and an array of ids."""
    data = sock.recv(LARGE)
    while data.count(b"\r\n") < 2 + BATCH + 2 * BATCH:
        data += sock.recv(LARGE)
    return data


def check_batch(answer: bytes) -> None:
    """Raise unless the transaction was carried out."""
    if b"\r\n*%d\r\n" % BATCH not in answer:
        raise BenchmarkError(f"Redis refused a transaction: {answer[:100]!r}")


def batcher(path: str) -> Requests:
    """A connection, and transactions of BATCH additions."""
    adds = add_frames(10 * BATCH)
    frames = [command("MULTI") + b"".join(adds[start : start + BATCH]) + command("EXEC") for start in range(0, len(adds), BATCH)]
    return Requests(Dialect(receive_batch, check_batch, cut), connect(path), frames)


def stream(number: int, path: str) -> Stream:
    """A reader that waits in XREAD; each answer makes it ask again, from the entry it got."""
    sock = connect(path)
    sock.sendall(command("XREVRANGE", STREAM, "+", "-", "COUNT", "1"))
    newest = ID.search(sock.recv(SMALL))
    sock.sendall(wait_after(newest[1] if newest else b"0"))
    return Stream(sock, MEMBER, cut_entries, lambda data: wait_after(ID.findall(data)[-1]))


def wait_after(entry: bytes) -> bytes:
    """A request for what comes after that entry."""
    return command("XREAD", "BLOCK", "0", "STREAMS", STREAM, entry)


def cut_entries(data: bytes) -> tuple[int, bytes]:
    """How many entries the bytes hold, if the last one is whole."""
    return (data.count(MEMBER), b"") if data.endswith(b"\r\n") else (0, data)


class Key(Lock):
    """A key that is set if it is not there, with an expiry, and deleted by who has set it; nobody can wait for it."""

    def __init__(self, path: str, number: int) -> None:
        self._socket = connect(path)
        super().__init__(self._socket.close)
        self._socket.sendall(command("SCRIPT", "LOAD", RELEASE))
        digest = self._socket.recv(SMALL).split(b"\r\n")[1]
        value = f"holder-{number}"
        self._set = command("SET", "lock", value, "NX", "PX", "60000")
        self._delete = command("EVALSHA", digest, "1", "lock", value)

    def ask(self) -> None:
        self._socket.sendall(self._set)

    def granted(self) -> None:
        expect(self._socket, b"+OK\r\n")

    def release(self) -> None:
        self._socket.sendall(self._delete)

    def released(self) -> None:
        expect(self._socket, b":1\r\n")


class List(Lock):
    """A list with one element that whoever holds the lock has taken: BLPOP waits in a queue, and nothing expires."""

    def __init__(self, path: str) -> None:
        self._socket = connect(path)
        super().__init__(self._socket.close)

    def ask(self) -> None:
        self._socket.sendall(command("BLPOP", "queue", "0"))

    def granted(self) -> None:
        expect(self._socket, b"*2\r\n$5\r\nqueue\r\n$1\r\n1\r\n")

    def release(self) -> None:
        self._socket.sendall(command("LPUSH", "queue", "1"))

    def released(self) -> None:
        expect(self._socket, b":1\r\n")


def expect(sock: socket.socket, wanted: bytes) -> None:
    """Raise unless that is the answer."""
    if (answer := sock.recv(SMALL)) != wanted:
        raise BenchmarkError(f"Redis answered {answer[:100]!r}")


class Always(Server):
    """Synced before each answer."""

    name = "Redis, `always`"
    synced = "yes"
    fsync: ClassVar[str] = "always"
    writer = staticmethod(writer)
    piper = staticmethod(piper)
    batcher = staticmethod(batcher)
    reader = staticmethod(reader)
    stream = staticmethod(stream)

    def start(self) -> int:
        self.running = server = Redis(self.place, self.program, self.data, self.fsync)
        self.address = (server.socket,)
        return server.ready_after

    def lock(self) -> Lock:
        return self.kept.enter_context(closing(Key(self.address[0], next(self.numbers))))

    def queue(self) -> tuple[Lock, Lock]:
        with connect(self.address[0]) as sock:
            sock.sendall(command("DEL", "queue") + command("LPUSH", "queue", "1"))
            while not sock.recv(SMALL).endswith(b":1\r\n"):
                pass
        return List(self.address[0]), List(self.address[0])

    def commands(self) -> dict[str, list[str]]:
        program = shutil.which("redis-cli")
        if program is None:
            raise Absent("no redis-cli on PATH")
        head = [program, "-s", self.address[0]]
        return {"put": [*head, "XADD", STREAM, "*", "text", TEXT], "get": [*head, "XREVRANGE", STREAM, "+", "-", "COUNT", "1"]}


class Everysec(Always):
    """Synced once a second: what is acknowledged may be lost for that long."""

    name = "Redis, `everysec`"
    synced = "**no**: once a second"
    unlike: ClassVar[Mapping[str, str]] = dict.fromkeys(("one", "several", "piped", "batch", "fan", "lease", "handed"), "not synced")
    fsync = "everysec"
