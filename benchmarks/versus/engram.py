"""Engram: its wire over the Unix socket, frames encoded beforehand."""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from engramd.protocol.framing import decode, encode, frame

from .. import helpers, wire
from ..figures import BenchmarkError
from ..loops import Requests
from ..processes import Daemon
from .peer import BATCH, LAST, TEXT, WINDOW, Lock, Server

CONTEXT = "live"
WAITING = frame(encode({"id": 1, "op": "lock", "resources": ["/versus/file.py"], "wait": True}))


def piper(path: str, context: str) -> Requests:
    """A connection, and puts with ids that differ within a window."""
    frames = wire.put_frames(context, "agent-p", 2 * WINDOW, range(1, 2 * WINDOW + 1))
    return Requests(wire.ENGRAM, wire.Client(path, "agent-p").socket, frames)


def batcher(path: str, context: str) -> Requests:
    """A connection, and puts of BATCH units."""
    return Requests(wire.ENGRAM, wire.Client(path, "agent-b").socket, wire.batch_frames(context, "agent-b", 40, BATCH))


def reader(path: str, context: str) -> Requests:
    """A connection, and the request for the last units of the context."""
    return Requests(wire.ENGRAM, wire.Client(path).socket, [wire.list_frame(context, LAST)])


class Lease(Lock):
    """A lease on a path, with the queue of those who wait."""

    def __init__(self, path: str, number: int) -> None:
        self._socket = wire.Client(path, f"holder-{number}").socket
        super().__init__(self._socket.close)
        self._token = 0

    def ask(self) -> None:
        self._socket.sendall(WAITING)

    def granted(self) -> None:
        self._token = self._result()["token"]

    def release(self) -> None:
        self._socket.sendall(frame(encode({"id": 1, "op": "unlock", "token": self._token})))

    def released(self) -> None:
        self._result()

    def _result(self) -> dict[str, Any]:
        answer = wire.receive(self._socket)
        wire.check(answer)
        result: dict[str, Any] = decode(answer[4:])["result"]
        return result


def find() -> str:
    """The engramd of this Python; `engram` is beside it."""
    program = shutil.which(str(Path(sys.executable).with_name("engramd")))
    if program is None:
        raise BenchmarkError(f"Engram is not installed for {sys.executable}")
    return program


class Engram(Server):
    """A daemon of its own."""

    name = "Engram"
    synced = "yes"
    writer = staticmethod(helpers.putter)
    piper = staticmethod(piper)
    batcher = staticmethod(batcher)
    reader = staticmethod(reader)
    stream = staticmethod(helpers.follower)

    def start(self) -> int:
        self.running = daemon = Daemon(self.place, self.data)
        self.address = (daemon.socket, CONTEXT)
        self.variables = {"ENGRAM_SOCKET": daemon.socket, "ENGRAM_CONFIG": os.devnull}
        return daemon.ready_after

    def lock(self) -> Lock:
        return self.kept.enter_context(closing(Lease(self.address[0], next(self.numbers))))

    def commands(self) -> dict[str, list[str]]:
        program = str(Path(self.program).with_name("engram"))
        return {"put": [program, "put", CONTEXT, TEXT], "get": [program, "get", "2"]}
