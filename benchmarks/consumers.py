"""Figures of consumers: what one member and eight get and acknowledge, beside a plain subscriber in the same process.

python -m benchmarks.consumers [--units N] [--rounds N] [--dir DIR] [--json FILE]
"""

from __future__ import annotations

import argparse
import select
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection

from engramd.protocol.connection import Answer, ClientConnection, Item
from engramd.protocol.errors import EngramError
from engramd.protocol.messages import MAX_CREDIT, MAX_PAYLOAD, frame_limit

from . import figures, wire
from .figures import BenchmarkError, Rounds, Row, row
from .loops import LARGE, clock, connect
from .options import add_dir, add_json, positive, run_main
from .processes import Daemon, Helper, Place, bounded

BATCH = 1000  # units a put
PREFETCH = 64
MEMBERS = (1, 8)
LIMIT = 300.0  # seconds for everything


class Reader:
    """A connection with one stream, which reads only when it is told to."""

    def __init__(self, path: str, op: str, **fields: object) -> None:
        self.socket = connect(path)
        self._connection = ClientConnection(frame_limit(MAX_PAYLOAD))
        self.socket.sendall(self._connection.hello({"agent": "reader", "client": "benchmarks"}))
        self._id, frame = self._connection.request(op, {"credit": MAX_CREDIT, **fields})
        self._frames = [frame]
        self.socket.sendall(frame)

    def read(self) -> list[int]:
        """The seqs of the units that come next; their credit is given back."""
        data = self.socket.recv(LARGE)
        if not data:
            raise BenchmarkError("the daemon hung up")
        seqs, used = [], 0
        for message in self._connection.receive(data):
            if isinstance(message, Item):
                used += message.size + 4
                if "unit" in message.event:
                    seqs.append(int(message.event["cursor"].rpartition(".")[2]))
            elif isinstance(message, Answer) and message.error is not None:
                raise message.error
        if used:
            self.socket.sendall(self._connection.notice(self._id, "credit", bytes=used))
        return seqs

    def ack(self, consumer: str, entries: list[int]) -> None:
        """Acknowledge, without waiting."""
        self.socket.sendall(self._connection.request("ack", {"consumer": consumer, "entries": entries})[1])


def take_part(pipe: Connection, path: str, consumer: str | None, count: int, units: int) -> None:
    """So many members of a consumer, or one plain subscriber, until they have had all units; sends the nanoseconds that took."""
    fields: dict[str, object] = {"contexts": ["work"], "follow": True}
    if consumer is None:
        readers = [Reader(path, "tail", after=0, **fields)]
    else:
        readers = [Reader(path, "consume", consumer=consumer, prefetch=PREFETCH, **fields) for _ in range(count)]
    started, got = clock(), 0
    by_number = {reader.socket.fileno(): reader for reader in readers}
    poll = select.poll()
    for number in by_number:
        poll.register(number, select.POLLIN)
    while got < units:
        for number, _ in poll.poll(10_000):
            seqs = by_number[number].read()
            got += len(seqs)
            if consumer is not None and seqs:
                by_number[number].ack(consumer, seqs)
    pipe.send(clock() - started)
    for reader in readers:
        reader.socket.close()


def _put(client: wire.Client, frame: bytes) -> None:
    client.socket.sendall(frame)
    wire.check(wire.receive(client.socket))


def shared(place: Place, units: int, number: int, rows: list[Row]) -> None:
    """The members of a consumer, all in one process, and one plain subscriber in the same process, in turn."""
    rounds = Rounds()
    with Daemon(place, place.store("shared")) as daemon, wire.Client(daemon.socket) as writer, Helper() as helper:
        for frame in wire.batch_frames("work", "agent-0", units // BATCH, BATCH):
            _put(writer, frame)
        for round_ in range(number):
            each = {"plain.rate": units / (helper.run(take_part, daemon.socket, None, 1, units) / 1e9)}
            for count in MEMBERS:
                took = helper.run(take_part, daemon.socket, f"round {round_}, {count}", count, units)
                each[f"members.{count}.rate"] = units / (took / 1e9)
            rounds.add(each)
    rows.append(row(rounds, "units to one subscriber", "plain"))
    for count in MEMBERS:
        name = f"members.{count}"
        ratio = rounds.ratio(f"{name}.rate", "plain.rate")
        rows.append(row(rounds, f"units to {count} members, acknowledged", name, ratio=ratio, against="one subscriber"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return 0, or 1 when something could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.consumers", description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--units", type=positive, default=20_000, help="units to share (20000)")
    parser.add_argument("--rounds", type=positive, default=3, help="how often (3)")
    add_dir(parser)
    add_json(parser)
    options = parser.parse_args(arguments)
    rows: list[Row] = []
    failed = None
    try:
        with bounded(LIMIT), Place(options.dir) as place:
            shared(place, options.units, options.rounds, rows)
    except (BenchmarkError, EngramError, OSError) as error:
        failed = str(error)
    print(figures.table(rows))
    if options.json:
        figures.save(options.json, rows, failed=failed)
    if failed:
        print(f"benchmarks.consumers: {failed}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    run_main("benchmarks.consumers", main)
