"""A subscriber that reads nothing costs the daemon no memory, delays nobody, and gets everything in the end.

ENGRAM_TEST_UNITS sets how many units are written meanwhile; benchmarks/readers.py does it with a million and prints figures.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from daemons import Blocking, Daemon

from engramd.protocol.connection import Answer
from engramd.protocol.messages import MAX_CREDIT

UNITS = int(os.environ.get("ENGRAM_TEST_UNITS", "40000"))
BATCH = 1000
SIZE = 500  # bytes of a unit's text: what is written is many times what may be kept for a reader
MOST = 24 * 1024 * 1024  # bytes by which the daemon may grow: LevelDB's buffers, and 1 MiB for the reader


def anonymous_memory(daemon: Daemon) -> int:
    """Bytes of the daemon's memory that no file backs; LevelDB maps its files."""
    assert daemon.process is not None
    lines = Path(f"/proc/{daemon.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell what memory a process has")
def test_a_reader_that_reads_nothing_costs_no_memory_and_misses_nothing(daemon: Daemon) -> None:
    assert daemon.start() == "ready"
    with daemon.connect() as writer, daemon.connect("slow") as slow, daemon.connect("quick") as quick:
        writer.ask("put", context="c", text="0")
        stalled = slow.send("tail", contexts=["c"], after=2, follow=True, credit=MAX_CREDIT)
        live = quick.send("tail", contexts=["c"], after=2, follow=True, credit=MAX_CREDIT)
        before = anonymous_memory(daemon)
        seen: list[int] = []
        for start in range(1, UNITS, BATCH):
            texts = range(start, min(start + BATCH, UNITS))
            writer.ask("put", context="c", units=[{"text": str(number).ljust(SIZE)} for number in texts])
            while len(seen) < start - 1:
                seen += receive(quick, live)
        assert anonymous_memory(daemon) - before < MOST
        lag = writer.ask("status")["status"]["lag"]
        assert lag > UNITS / 2, "it is behind, and the daemon says so"
        got: list[int] = []
        while len(got) < UNITS - 1:
            got += receive(slow, stalled)
        assert got == list(range(1, UNITS))
        assert anonymous_memory(daemon) - before < MOST
    daemon.stop()


def receive(client: Blocking, stream: object) -> list[int]:
    """The numbers of the units that come next on a stream, whose credit is given back."""
    data = client.socket.recv(1 << 20)
    assert data, "the daemon hung up"
    found, used = [], 0
    for message in client.connection.receive(data):
        assert not isinstance(message, Answer), message
        used += message.size + 4
        if "unit" in message.event:
            found.append(int(message.event["unit"]["text"]))
    client.socket.sendall(client.connection.notice(stream, "credit", bytes=used))  # type: ignore[arg-type]
    return found
