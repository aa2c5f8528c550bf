"""The process that records a run: it has the daemon's connection, and with it the run's session and presence, and puts what it is told.

It is a process beside the one that was typed, in a session of its own, so that the command is not slowed by what it costs to record it, a
job that Ctrl-Z stopped stays present, and what had been read is still recorded when the typed one is killed.
"""

from __future__ import annotations

import json
import os
import select
import signal
import struct
import sys
import termios
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engramd.protocol.errors import EngramError
from engramd.protocol.messages import MAX_META_VALUE

from .chunks import LINE, SIZE, Chunk, Cutter, Lines
from .client import Client
from .core import RETRY_SECONDS
from .keeper import let_go
from .output import remark
from .spool import Spool

STREAMS = ("", "stdout", "stderr", "terminal", "output")  # by number; the first is for what is said of the run itself
PATIENCE = 5.0  # seconds without a daemon after which what is left is given up once the command has ended
BATCH = 100  # units in one put
BATCH_BYTES = 768 * 1024  # of their payloads: a frame has room for one more payload and 1 MiB
PIPE_BYTES = 1024 * 1024
_FRAME = struct.Struct("<BI")  # the stream, and how many bytes of it follow
MAX_RETRY_SECONDS = 0.5
_WAIT_SECONDS = 1.0  # after this much of what is left, say how much that is


@dataclass(frozen=True)
class Plan:
    """What is recorded, and how.

    Attributes:
        run: the run's id: a label of each of its units, and the beginning of their dedupe keys.
        lines: whether standard output is JSON lines.
        terminal: whether the terminal on standard input is set anew meanwhile.
        patience: seconds to wait for a daemon once the command has ended.
    """

    run: str
    context: str
    lines: bool
    terminal: bool
    patience: float


class Recorder:
    """A recorder at work, as the typed process sees it.

    Attributes:
        problem: why the daemon could not be reached at first, if it could not. The recorder goes on trying.
    """

    def __init__(self, pid: int, pipe: int, problem: EngramError | None) -> None:
        self.problem = problem
        self._pid = pid
        self._pipe = pipe
        self._lock = threading.Lock()

    @classmethod
    def start(cls, client: Client, plan: Plan) -> Recorder:
        """Start one, and wait until it is connected or knows that it cannot be. The caller has no other threads.

        Raises:
            OSError: there is no room for another process.
        """
        reading, pipe = os.pipe()
        told, tells = os.pipe()
        widen(pipe)
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                _Recording(client, plan, reading, tells, pipe).run()
                code = 0
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(code)
        os.close(reading)
        os.close(tells)
        with os.fdopen(told, "rb") as file:
            said = file.read()
        return cls(pid, pipe, EngramError.from_wire(json.loads(said)) if said else None)

    def record(self, stream: str, data: bytes) -> None:
        """Have output recorded. When the recorder is gone, so is what it is given."""
        frame = _FRAME.pack(STREAMS.index(stream), len(data)) + data
        with self._lock:
            try:
                write_all(self._pipe, frame)
            except OSError:
                pass

    def tell(self, **fields: Any) -> None:
        """Say something of the run itself."""
        self.record("", json.dumps(fields).encode())

    def started(self, command: str) -> None:
        """The command has been started, or was meant to be."""
        self.tell(kind="started", command=command, cwd=_cwd())

    def ended(self, text: str, seconds: float, **labels: str) -> None:
        """The command has ended."""
        self.tell(kind="ended", text=text, labels={**labels, "duration_ms": str(round(seconds * 1000))})

    def finish(self) -> bool:
        """Wait until all is recorded, or given up, of which the recorder itself tells people. False if it was killed."""
        with self._lock:  # output may still come of processes that the command left behind
            os.close(self._pipe)
            self._pipe = -1
        _, status = os.waitpid(self._pid, 0)
        return os.waitstatus_to_exitcode(status) == 0


class _Recording:
    """The recorder's own side: a thread takes what arrives and queues it, so that nobody waits for the daemon; this one puts it."""

    def __init__(self, client: Client, plan: Plan, pipe: int, tells: int, other: int) -> None:
        os.close(other)
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        self._client = client
        self._plan = plan
        self._pipe = pipe
        self._spool = Spool()
        self._room = threading.Event()
        self._news, self._tell = os.pipe()
        os.set_blocking(self._tell, False)
        self._start_id: bytes | None = None  # of the unit that all others respond to
        self._has_begun = False
        self._number = 0
        self._lost = 0  # bytes of output
        self._why: EngramError | None = None  # what was the matter when the last request failed, while no other has succeeded
        self._blame = ""
        self._first: EngramError | None = None  # why no daemon could be reached at all, while that is so
        self._well = time.monotonic()  # when the daemon was last seen
        self._ended = 0.0  # when the last word came, or should have
        self._has_waited = False
        self._is_over = False
        self._terminal = (os.dup(0), termios.tcgetattr(0)) if plan.terminal else None
        self._greet(tells)
        kept = [client.fileno()] if client.connected else []
        let_go(pipe, self._news, self._tell, *kept, *([self._terminal[0]] if self._terminal else []))
        client.autostart = False
        client.timeout = PATIENCE
        most = client.server.get("limits", {}).get("max_payload", LINE)
        self._cutters = {stream: Cutter({"run": plan.run, "stream": stream}, min(SIZE, most)) for stream in STREAMS[1:]}
        if plan.lines:
            self._cutters["stdout"] = Lines({"run": plan.run, "stream": "stdout"}, min(SIZE, most), min(LINE, most))

    def _greet(self, tells: int) -> None:
        try:
            self._client.connect()
        except EngramError as error:
            self._why = self._first = error
            os.write(tells, json.dumps(error.to_wire(), default=str).encode())
        os.close(tells)

    # The thread that takes

    def _take(self) -> None:
        kept = bytearray()
        while True:
            due = min(cutter.due for cutter in self._cutters.values())
            timeout = max(0.0, due - time.monotonic()) if due < float("inf") else None
            if select.select([self._pipe], [], [], timeout)[0]:
                data = os.read(self._pipe, PIPE_BYTES)
                if not data:
                    return
                kept += data
                self._frames(kept)
            now = time.monotonic()
            for cutter in self._cutters.values():
                if cutter.due <= now:
                    self._queue(cutter.flush())

    def _frames(self, kept: bytearray) -> None:
        at = 0
        while len(kept) - at >= _FRAME.size:
            number, length = _FRAME.unpack_from(kept, at)
            if len(kept) - at - _FRAME.size < length:
                break
            at += _FRAME.size
            body = bytes(kept[at : at + length])
            at += length
            if number:
                self._queue(self._cutters[STREAMS[number]].take(body, time.monotonic()))
            else:
                self._said(**json.loads(body))
        del kept[:at]

    def _said(self, kind: str, **fields: Any) -> None:
        if kind == "started":
            self._queue([self._word(f"started: {fields['command']}", {"status": "started", **fields})])
        else:
            self._ended = time.monotonic()
            self._end(fields["text"], fields["labels"])

    def _take_all(self) -> None:
        """Take what arrives until nothing more comes. Without a last word, the typed process was killed."""
        try:
            self._take()
            if not self._ended:
                self._ended = time.monotonic()
                if self._terminal is not None:
                    termios.tcsetattr(self._terminal[0], termios.TCSANOW, self._terminal[1])
                self._end("ended unseen: engram run was killed, and the command lost whoever read its output", {"status": "unknown"})
        finally:
            os.close(self._pipe)
            self._is_over = True
            self._wake()

    def _end(self, text: str, labels: dict[str, str]) -> None:
        for cutter in self._cutters.values():
            self._queue(cutter.end())
        lost = {"lost_bytes": str(self._lost)} if self._lost else {}
        self._queue([self._word(text, {**labels, **lost})])

    def _word(self, text: str, labels: Mapping[str, str]) -> Chunk:
        meta = {name: _short(label) for name, label in labels.items()}
        return Chunk("task_status", {"run": self._plan.run, **meta}, text.encode(errors="backslashreplace")[:SIZE], 0)

    def _queue(self, chunks: Iterable[Chunk]) -> None:
        """Put chunks into the queue. Where it is full, wait while the daemon takes any; while it does not, nothing may wait for it."""
        for chunk in chunks:
            while not self._spool.put(chunk):
                if self._why is not None:
                    self._lose(chunk.size, self._why)
                    break
                self._room.clear()
                self._room.wait(RETRY_SECONDS)
            self._wake()

    def _wake(self) -> None:
        try:
            os.write(self._tell, b".")
        except BlockingIOError:
            pass

    def _lose(self, size: int, error: EngramError) -> None:
        self._lost += size
        self._blame = self._blame or error.message

    # The thread that puts

    def run(self) -> None:
        """Record until there is nothing left to be recorded, or nobody to record it."""
        threading.Thread(target=self._take_all, daemon=True).start()
        while True:
            is_over = self._is_over  # looked at first, so that nothing can be queued afterwards
            batch = self._spool.head(BATCH_BYTES, BATCH if self._has_begun else 1)
            if batch:
                self._put(batch)
            elif is_over:
                break
            elif self._connect():
                self._went_well()
                self._rest()
            if self._is_hopeless():
                self._lose(self._spool.size, self._first or self._why or EngramError("unavailable", "nobody took it"))
                break
        self._client.close()
        if self._lost:
            remark(f"engram: {_bytes(self._lost)} of the command's output were not recorded: {self._blame}")
        elif self._blame:
            remark(f"engram: the run was not recorded: {self._blame}")

    def _rest(self) -> None:
        """Sleep until something is to be put, or the connection ends: it has to be made anew for the session's and presence's sake."""
        ready, _, _ = select.select([self._news, self._client.fileno()], [], [])
        if self._news in ready:
            os.read(self._news, 4096)
        else:
            try:
                self._client.receive()
            except EngramError as error:
                self._failed(error)

    def _connect(self) -> bool:
        if not self._client.connected:
            try:
                self._client.connect()
            except EngramError as error:
                self._failed(error)
        return self._client.connected

    def _put(self, batch: Sequence[Chunk]) -> None:
        """Put chunks as one batch, which is the same one however often it takes."""
        key = f"run:{self._plan.run}:{self._number}"
        edges = [{"type": "responds_to", "target": self._start_id}] if self._start_id else []
        units = [{"type": one.type, "meta": one.meta, "payload": one.data, "relationships": edges} for one in batch]
        fields = {"context": self._plan.context, "units": units, "dedupe": key}
        while not self._is_hopeless():
            if not self._connect():
                continue
            try:
                result = self._client.request("put", fields)
                self._start_id = self._start_id if self._has_begun else result["id"]
                self._went_well()
                break
            except EngramError as error:
                if error.code in ("unavailable", "outcome_unknown", "timeout", "busy"):
                    self._client.close()  # what was sent in part can be followed by nothing
                    self._failed(error)
                    continue
                for chunk in batch:
                    self._lose(chunk.size, error)
                self._blame = error.message
                break
        else:
            return
        self._number += 1
        self._has_begun = True
        self._spool.drop(len(batch))
        self._room.set()

    def _went_well(self) -> None:
        self._well, self._why, self._first = time.monotonic(), None, None
        if self._ended and not self._has_waited and self._spool.size and self._well > self._ended + _WAIT_SECONDS:
            self._has_waited = True
            remark(f"engram: {_bytes(self._spool.size)} of output are still to be recorded; Ctrl-C leaves that to the background")

    def _failed(self, error: EngramError) -> None:
        """A request failed that may succeed some time: wait a little, and a little more when it was long ago that one did."""
        self._why = error
        time.sleep(min(MAX_RETRY_SECONDS, max(RETRY_SECONDS, (time.monotonic() - self._well) / 10)))

    def _is_hopeless(self) -> bool:
        """Whether the command has ended, and there has been no daemon for so long that none is waited for."""
        return self._is_over and self._why is not None and time.monotonic() > max(self._ended, self._well) + self._plan.patience


def write_all(fd: int, data: bytes) -> None:
    """Write all of it, however the file takes it."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:  # somebody has made it so
            select.select([], [fd], [])


def widen(pipe: int) -> None:
    """Have a pipe hold as much as it may: who writes much then waits less often."""
    import fcntl

    try:
        fcntl.fcntl(pipe, getattr(fcntl, "F_SETPIPE_SZ", 0), PIPE_BYTES)
    except OSError:
        pass


def _cwd() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return ""


def _short(text: str) -> str:
    """A label's value: no longer than one may be, and Unicode."""
    return text.encode(errors="backslashreplace")[:MAX_META_VALUE].decode(errors="ignore")


def _bytes(size: int) -> str:
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size} bytes"
