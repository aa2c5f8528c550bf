"""NATS JetStream over TCP: requests encoded beforehand, every message synced before it is acknowledged (`sync_interval: always`)."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from ..figures import BenchmarkError
from ..helpers import Stream
from ..loops import LARGE, SMALL, Dialect, Requests, clock, tcp
from ..processes import Foreign, Helper, Place, free_port
from .peer import BATCH, LAST, RECORDS, WINDOW, Absent, Lock, Server

STREAM = "units"
INBOX = "_INBOX.benchmark{}"  # one for each connection
CONFIG = """
listen: "127.0.0.1:{port}"
ping_interval: "1h"
jetstream {{ store_dir: "{data}", sync_interval: always }}
"""
STREAMS = (
    {"name": STREAM, "subjects": [STREAM], "storage": "file", "allow_direct": True, "allow_atomic": True},
    {"name": "locks", "subjects": ["locks.*"], "storage": "file", "max_msgs_per_subject": 1},
)
IN_USE = b"10058"  # the code of an error: a stream of this name is there, with other settings
MARK = b'"text"'
SEQ = re.compile(rb'"seq": ?(\d+)')


def find(named: str | None) -> str | None:
    """The nats-server to run, or None."""
    return shutil.which(named or "nats-server")


def inbox(number: int) -> bytes:
    """Where acknowledgements go."""
    return INBOX.format(number).encode()


def connect(port: int, number: int = 0) -> socket.socket:
    """A connection that is greeted, and to which acknowledgements come."""
    made = tcp(port)
    try:
        greeting = b""
        while not greeting.endswith(b"\r\n"):
            greeting += heard(made)
        made.sendall(b'CONNECT {"verbose": false, "pedantic": false, "headers": true}\r\nSUB %s 1\r\nPING\r\n' % inbox(number))
        if heard(made) != b"PONG\r\n":
            raise BenchmarkError("nats-server does not answer")
    except BaseException:
        made.close()
        raise
    return made


def heard(sock: socket.socket, size: int = LARGE) -> bytes:
    """What comes next."""
    data = sock.recv(size)
    if not data:
        raise OSError("nats-server hung up")
    return data


def published(subject: str, body: bytes, answers: bytes = b"", **headers: object) -> bytes:
    """PUB or HPUB."""
    if not headers:
        return b"PUB %s %s %d\r\n%s\r\n" % (subject.encode(), answers, len(body), body)
    lines = "".join(f"Nats-{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    head = f"NATS/1.0\r\n{lines}\r\n".encode()
    return b"HPUB %s %s %d %d\r\n%s%s\r\n" % (subject.encode(), answers, len(head), len(head) + len(body), head, body)


def asked(sock: socket.socket, subject: str, body: object, number: int = 0) -> bytes:
    """The answer of the server's own interface to a request in JSON."""
    sock.sendall(published(subject, json.dumps(body).encode(), inbox(number)))
    return receive(sock)


def receive(sock: socket.socket) -> bytes:
    """One answer in JSON. The server asks once, two seconds after the start, whether anybody is there."""
    data = b""
    while not data.endswith(b"}\r\n"):
        data = (data + heard(sock, SMALL)).replace(b"PING\r\n", b"")
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


def cut_messages(data: bytes) -> tuple[int, bytes]:
    """How many messages the bytes hold, and what follows them."""
    at = data.rfind(b"}\r\n") + 3
    return (0, data) if at == 2 else (data.count(b"}\r\n", 0, at), data[at:])


NATS = Dialect(receive, check, cut)


def bodies() -> list[bytes]:
    """The records."""
    return [json.dumps(record).encode() for record in RECORDS]


# Requests


def writer(number: int, port: int) -> Requests:
    """A connection, and messages that are acknowledged one by one."""
    return Requests(NATS, connect(port, number), [published(STREAM, body, inbox(number)) for body in bodies()[:256]])


def piper(port: int) -> Requests:
    """The same for many in flight."""
    return Requests(NATS, connect(port, 98), [published(STREAM, body, inbox(98)) for body in 2 * bodies()[:WINDOW]])


def batches(number: int) -> Iterator[bytes]:
    """Atomic batches of BATCH messages, of which the last one is acknowledged."""
    pool = itertools.cycle(bodies())
    for batch in itertools.count(1):
        frames = []
        for place in range(1, BATCH + 1):
            more = {"Batch_Commit": 1} if place == BATCH else {}
            answers = inbox(number) if place in (1, BATCH) else b""
            frames.append(published(STREAM, next(pool), answers, Batch_Id=f"b{number}-{batch}", Batch_Sequence=place, **more))
        yield b"".join(frames)


def receive_batch(sock: socket.socket) -> bytes:
    """The acknowledgement of a batch: the last answer, which says how many it held."""
    data = b""
    while b'"count"' not in data or not data.endswith(b"}\r\n"):
        data = (data + heard(sock, SMALL)).replace(b"PING\r\n", b"")
        if b'"error"' in data:
            raise BenchmarkError(f"NATS refused a batch: {data[:200]!r}")
    return data


def batcher(port: int) -> Requests:
    """A connection, and atomic batches."""
    return Requests(Dialect(receive_batch, check_batch, cut), connect(port, 99), batches(99))


def check_batch(answer: bytes) -> None:
    """Raise unless all of the batch is there."""
    if b'"count":%d' % BATCH not in answer:
        raise BenchmarkError(f"NATS refused a batch: {answer[:200]!r}")


def receive_last(sock: socket.socket) -> bytes:
    """The newest message, whose number tells where the last ones begin; and then these, until the server says that they were all."""
    data = b""
    while b"Nats-Sequence: " not in data or not data.endswith(b"}\r\n"):
        data = (data + heard(sock)).replace(b"PING\r\n", b"")
    newest = int(re.search(rb"Nats-Sequence: (\d+)", data)[1])  # type: ignore[index]
    sock.sendall(published(f"$JS.API.DIRECT.GET.{STREAM}", b'{"seq": %d, "batch": %d}' % (newest - LAST + 1, LAST), inbox(97)))
    data = b""
    while b"NATS/1.0 204" not in data or not data.endswith(b"\r\n\r\n\r\n"):
        data += heard(sock)
    return data


def check_last(answer: bytes) -> None:
    """Raise unless all are there."""
    if answer.count(MARK) != LAST:
        raise BenchmarkError(f"NATS gave {answer.count(MARK)} messages: {answer[-300:]!r}")


def reader(port: int) -> Requests:
    """A connection, and the request for the newest message."""
    newest = published(f"$JS.API.DIRECT.GET.{STREAM}", b'{"last_by_subj": "%s"}' % STREAM.encode(), inbox(97))
    return Requests(Dialect(receive_last, check_last, cut), connect(port, 97), [newest])


def stream(number: int, port: int) -> Stream:
    """A consumer that the server pushes to, and that acknowledges nothing."""
    sock = connect(port, number)
    subject = f"_pushed.{number}.{clock()}"  # that no consumer of before pushes to
    sock.sendall(b"SUB %s 2\r\n" % subject.encode())
    wanted = {"deliver_subject": subject, "deliver_policy": "new", "ack_policy": "none", "mem_storage": True, "inactive_threshold": 10**8}
    made = asked(sock, f"$JS.API.CONSUMER.CREATE.{STREAM}", {"stream_name": STREAM, "config": wanted}, number)
    if b'"error"' in made:
        raise BenchmarkError(f"NATS made no consumer: {made[:300]!r}")
    return Stream(sock, MARK, cut_messages)


class Claim(Lock):
    """A subject whose last message says whether it is held; a message is refused unless it follows the one that its sender knows of."""

    def __init__(self, port: int, number: int) -> None:
        self._socket = connect(port, 1000 + number)
        super().__init__(self._socket.close)
        self._number = 1000 + number
        self._subject = f"locks.{number}"
        self._newest = 0

    def ask(self) -> None:
        self._send(b"held")

    def granted(self) -> None:
        answer = receive(self._socket)
        check(answer)
        self._newest = int(SEQ.search(answer)[1])  # type: ignore[index]

    def release(self) -> None:
        self._send(b"")

    def released(self) -> None:
        self.granted()

    def _send(self, body: bytes) -> None:
        self._socket.sendall(published(self._subject, body, inbox(self._number), Expected_Last_Subject_Sequence=self._newest))


# As a peer


class JetStream(Server):
    """A NATS server of its own, with streams on disk."""

    name = "NATS JetStream"
    synced = "yes"
    writer = staticmethod(writer)
    piper = staticmethod(piper)
    batcher = staticmethod(batcher)
    reader = staticmethod(reader)
    stream = staticmethod(stream)

    def __init__(self, place: Place, program: str, data: Path, load: Helper) -> None:
        self.address = (free_port(),)
        super().__init__(place, program, data, load)

    def start(self) -> int:
        self.data.mkdir(parents=True, exist_ok=True)
        configuration = self.data / "nats.conf"
        configuration.write_text(CONFIG.format(port=self.address[0], data=self.data))
        self.running = server = Foreign([self.program, "--config", str(configuration)], self._answers)
        return server.ready_after

    def _answers(self) -> None:
        with connect(*self.address) as sock:
            for wanted in STREAMS:
                made = asked(sock, f"$JS.API.STREAM.CREATE.{wanted['name']}", wanted)
                if b'"error"' in made:
                    raise OSError(f"nats-server made no stream: {made[:300]!r}")

    def lock(self) -> Lock:
        return self.kept.enter_context(closing(Claim(self.address[0], next(self.numbers))))

    def queue(self) -> tuple[Lock, Lock]:
        raise Absent("no queue: waiters watch and race")

    def commands(self) -> dict[str, list[str]]:
        raise Absent("its package has no command line")
