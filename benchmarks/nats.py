"""The same loads against a NATS JetStream, where there is a `nats-server`: every message synced (`sync_interval: always`), over TCP."""

from __future__ import annotations

import json
import shutil
import socket
import time
from multiprocessing.connection import Connection
from pathlib import Path

from . import wire
from .figures import BenchmarkError
from .loops import LARGE, SMALL, WAIT_SECONDS, Dialect, many
from .processes import START_SECONDS, Foreign, Place

STREAM = "units"
INBOX = "_INBOX.benchmark{}"  # one for each connection
CONFIG = """
listen: "127.0.0.1:-1"
ports_file_dir: "{ports}"
ping_interval: "1h"
jetstream {{ store_dir: "{data}", sync_interval: always }}
"""


def find(named: str | None) -> str | None:
    """The nats-server to run, or None."""
    return shutil.which(named or "nats-server")


class Nats(Foreign):
    """A NATS server of its own with one stream on disk, from start to stop.

    Attributes:
        port: where it listens, on loopback.
    """

    def __init__(self, place: Place, program: str, data: Path) -> None:
        ports = Path(place.sockets, "nats")
        for directory in (ports, data):
            directory.mkdir(parents=True)
        configuration = ports / "nats.conf"
        configuration.write_text(CONFIG.format(ports=ports, data=data))
        super().__init__([program, "--config", str(configuration)])
        try:
            self.port = self._listens(ports)
            self._create()
        except BaseException:
            self.stop()
            raise

    def _listens(self, ports: Path) -> int:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self._process.poll() is None:
            for found in ports.glob("*.ports"):
                try:
                    return int(json.loads(found.read_text())["nats"][0].rpartition(":")[2])
                except ValueError:  # it is being written
                    pass
            time.sleep(0.02)
        raise BenchmarkError("nats-server did not start")

    def _create(self) -> None:
        wanted = json.dumps({"name": STREAM, "subjects": [STREAM], "storage": "file"}).encode()
        with connect(self.port) as sock:
            sock.sendall(b"PUB $JS.API.STREAM.CREATE.%s %s %d\r\n%s\r\n" % (STREAM.encode(), inbox(0), len(wanted), wanted))
            answer = b""
            while not answer.endswith(b"}\r\n"):
                answer += sock.recv(LARGE)
            if b'"error"' in answer:
                raise BenchmarkError(f"nats-server made no stream: {answer[:300]!r}")


def inbox(number: int) -> bytes:
    """Where acknowledgements go."""
    return INBOX.format(number).encode()


def connect(port: int, number: int = 0, stays: bool = False) -> socket.socket:
    """A connection that is greeted, and to which acknowledgements come.

    Args:
        stays: whether it lasts longer than two seconds, after which the server asks once whether anybody is there.
    """
    made = socket.create_connection(("127.0.0.1", port), WAIT_SECONDS)
    made.setblocking(True)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    greeting = b""
    while not greeting.endswith(b"\r\n"):
        greeting += made.recv(LARGE)
    made.sendall(b'CONNECT {"verbose": false, "pedantic": false}\r\nSUB %s 1\r\nPING\r\n' % inbox(number))
    if made.recv(LARGE) != b"PONG\r\n":
        raise BenchmarkError("nats-server does not answer")
    if stays:
        made.recv(LARGE)
        made.sendall(b"PONG\r\n")
    return made


def publish_frames(count: int, number: int = 0) -> list[bytes]:
    """PUB of the same units that the puts have, as JSON, with a request for an acknowledgement."""
    bodies = [json.dumps({"context": "live", "agent": "agent-0", **draft}).encode() for draft in wire.drafts(count)]
    return [b"PUB %s %s %d\r\n%s\r\n" % (STREAM.encode(), inbox(number), len(body), body) for body in bodies]


def receive(sock: socket.socket) -> bytes:
    """One acknowledgement."""
    data = sock.recv(SMALL)
    while not data.endswith(b"}\r\n"):
        data += sock.recv(SMALL)
    return data


def check(answer: bytes) -> None:
    """Raise unless the answer is a success."""
    if not answer.startswith(b"MSG ") or b'"seq"' not in answer:
        raise BenchmarkError(f"NATS refused a message: {answer[:200]!r}")


def cut(data: bytes) -> tuple[int, bytes]:
    """How many acknowledgements the bytes hold, and what follows them."""
    if b'"error"' in data:
        raise BenchmarkError(f"NATS refused a message: {data[:200]!r}")
    at = data.rfind(b"}\r\n") + 3
    return (0, data) if at == 2 else (data.count(b"}\r\n"), data[at:])


NATS = Dialect(receive, check, cut)


def putters(pipe: Connection, port: int, count: int, seconds: float) -> None:
    """As `helpers.putters`."""
    socks = [connect(port, number) for number in range(1, count + 1)]
    pipe.send(many(NATS, socks, [publish_frames(64, number) for number in range(1, count + 1)], seconds))
    for sock in socks:
        sock.close()
