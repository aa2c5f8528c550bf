"""A real `engramd` process for tests, and a blocking client for it."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from engramd.protocol.connection import Answer, ClientConnection, Id, Item
from engramd.protocol.messages import MIB, frame_limit

WAIT = 20.0  # seconds after which a process that should have answered counts as hanging

# `python -m MODULE`, which Linux ends with its parent, so that even a test runner that is killed leaves no process behind.
_MODULE = """
import ctypes, runpy, signal
prctl = getattr(ctypes.CDLL(None), "prctl", None)
if prctl is not None:
    prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG of prctl(2)
runpy.run_module("{}", run_name="__main__", alter_sys=True)
"""


def python(module: str, *arguments: object, first: str = "") -> list[str]:
    """The command that runs a module.

    Args:
        first: Python to run before anything else.
    """
    return [sys.executable, "-c", first + _MODULE.format(module), *map(str, arguments)]


class Daemon:
    """One daemon's socket and data directory, and the process that serves them at the moment.

    Attributes:
        stderr: everything its processes have said.
    """

    def __init__(self, socket_path: Path, data_dir: Path) -> None:
        self.socket_path = socket_path
        self.data_dir = data_dir
        self.stderr = data_dir.with_name(data_dir.name + ".stderr")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *flags: str, env: dict[str, str] | None = None, first: str = "") -> str:
        """Start a process, and give the line it writes to its ready pipe.

        Args:
            first: Python to run in it before anything else.
        """
        assert self.process is None, "the last process was not waited for"
        reading, writing = os.pipe()
        command = python("engramd", "--socket", self.socket_path, "--data-dir", self.data_dir, first=first)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ENGRAM_")}
        with self.stderr.open("ab") as stderr:
            self.process = subprocess.Popen(
                [*command, "--ready-fd", str(writing), *flags],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                pass_fds=(writing,),
                env={**kept, "ENGRAM_LISTEN": "off", "XDG_CONFIG_HOME": str(self.data_dir.parent), **(env or {})},  # many run at once
                process_group=0,  # Ctrl-C is for who started it
            )
        os.close(writing)
        try:
            return _read_all(reading)
        finally:
            os.close(reading)

    def connect(self, agent: str = "tester") -> Blocking:
        """A client that has greeted."""
        return Blocking(self.socket_path, agent)

    def signal(self, number: int) -> None:
        """Send a signal to the process."""
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait for the process to end, and give its exit code (negative: the signal that ended it)."""
        assert self.process is not None
        code = self.process.wait(WAIT)
        self.process = None
        return code

    def kill(self) -> None:
        """SIGKILL: no warning, no last words."""
        self.signal(signal.SIGKILL)
        assert self.wait() == -signal.SIGKILL

    def stop(self) -> None:
        """Stop as an init system does."""
        self.signal(signal.SIGTERM)
        assert self.wait() == 0, self.said()

    def end(self) -> None:
        """Make sure that nothing is left running."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def files_with(self, text: str) -> list[str]:
        """The files of the data directory that have a text somewhere."""
        found = []
        for path in sorted(self.data_dir.rglob("*")):
            try:
                if path.is_file() and text.encode() in path.read_bytes():
                    found.append(str(path.relative_to(self.data_dir)))
            except FileNotFoundError:  # LevelDB removes files in the background
                continue
        return found

    def said(self) -> str:
        """What its processes have written to stderr."""
        return self.stderr.read_text()


def _read_all(fd: int) -> str:
    said = b""
    while True:
        if not select.select([fd], [], [], WAIT)[0]:
            raise TimeoutError(f"the daemon neither started nor gave up; it said {said!r}")
        data = os.read(fd, 4096)
        if not data:
            return said.decode().strip()
        said += data


class Blocking:
    """A blocking connection, speaking `ClientConnection`."""

    def __init__(self, path: Path, agent: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(WAIT)
        self.answers: dict[Id, Answer] = {}
        self.items: dict[Id, list[Item]] = {}
        try:
            self.socket.connect(str(path))
            self.connection = ClientConnection(frame_limit(MIB))
            self.socket.sendall(self.connection.hello({"agent": agent}))
            self.greeting = self.answer(0)
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self) -> Blocking:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.socket.close()

    def send(self, op: str, **fields: Any) -> Id:
        """Send a request, and give its id."""
        request_id, frame = self.connection.request(op, fields)
        self.socket.sendall(frame)
        return request_id

    def answer(self, request_id: Id) -> dict[str, Any]:
        """Wait for the answer to a request.

        Raises:
            EngramError: what the daemon answered.
            ConnectionError: the daemon is gone.
        """
        while request_id not in self.answers:
            self.take()
        answer = self.answers.pop(request_id)
        if answer.error is not None:
            raise answer.error
        assert answer.result is not None
        return answer.result

    def take(self) -> None:
        """Wait until something arrives, and keep it. Raises ConnectionError: the daemon is gone."""
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionResetError("the daemon hung up")
        for message in self.connection.receive(data):
            self.keep(message)

    def keep(self, message: Answer | Item) -> None:
        """Keep what has arrived."""
        if isinstance(message, Answer):
            self.answers[message.id] = message
        else:
            self.items.setdefault(message.id, []).append(message)

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        """Send a request and wait for its answer."""
        return self.answer(self.send(op, **fields))

    def replay(self, **fields: Any) -> list[dict[str, Any]]:
        """The events of a stream that does not follow, without the live mark."""
        request_id = self.send("tail", **{"after": 0, "credit": 64 * MIB, **fields})
        self.answer(request_id)
        return [item.event for item in self.items.pop(request_id) if item.event["kind"] != "live"]
