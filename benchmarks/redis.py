"""The same loads against Redis streams, where there is a `redis-server`: every write synced (`appendfsync always`), over a Unix socket."""

from __future__ import annotations

import shutil
import socket
import time
from multiprocessing.connection import Connection
from pathlib import Path

from . import wire
from .figures import BenchmarkError
from .loops import LARGE, SMALL, Dialect, connect, many
from .processes import START_SECONDS, Foreign, Place

STREAM = "stream"
RANGE = 100  # entries asked of a range


def find(named: str | None) -> str | None:
    """The redis-server to run, or None."""
    return shutil.which(named or "redis-server")


class Redis(Foreign):
    """A Redis of its own, from start to stop.

    Args:
        program: what to run.
        always: sync every write; without it nothing is written to disk, which fills a stream fast.
    """

    def __init__(self, place: Place, program: str, data: Path, always: bool = True) -> None:
        self.socket = place.socket()
        data.mkdir(parents=True)
        options = ["--port", "0", "--unixsocket", self.socket, "--dir", str(data), "--save", "", "--loglevel", "warning"]
        options += ["--appendonly", "yes", "--appendfsync", "always"] if always else ["--appendonly", "no"]
        super().__init__([program, *options])
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self._process.poll() is None:
            try:
                connect(self.socket).close()
                return
            except OSError:
                time.sleep(0.02)
        self.stop()
        raise BenchmarkError(f"{program} did not start")


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


def putters(pipe: Connection, path: str, count: int, seconds: float) -> None:
    """As `helpers.putters`."""
    socks = [connect(path) for _ in range(count)]
    pipe.send(many(REDIS, socks, [add_frames(64, f"agent-{number}") for number in range(count)], seconds))
    for sock in socks:
        sock.close()
