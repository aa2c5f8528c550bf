"""`engram run`: an agent, with its identity, its session, its presence and what it prints."""

from __future__ import annotations

import fcntl
import os
import select
import shlex
import signal
import struct
import termios
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from engramd.protocol.errors import EngramError
from engramd.protocol.messages import NAME

from .. import settings
from ..client import Client
from ..common import Common, split_command
from ..core import new_session
from ..group import Group, NotStarted
from ..output import note
from ..recorder import PATIENCE, Plan, Recorder, widen, write_all
from ..screen import Screen

CONTEXT = "runs"  # where nothing else is configured
FORMS = ("text", "jsonl")
AFTERMATH = 1.0  # seconds for which the output of processes that the command left behind is still passed on
_READ = 256 * 1024
_LOOK = 0.02  # seconds between looks at whether all is passed on

Way = Callable[[Sequence[str], Mapping[str, str], Recorder], tuple[int, Group | Screen]]  # to run a command


def run(common: Common, words: list[str], context: str | None, agent: str | None, stdio: str) -> None:
    """Run the command that follows `--`, and exit as it does."""
    before, command = split_command(words, "engram run -- COMMAND")
    if before or command is None:
        raise EngramError("invalid", f"run: {before[0] if before else 'the command'} must follow --: engram run -- COMMAND")
    if stdio not in FORMS:
        raise EngramError("invalid", f"--stdio {stdio!r}: must be one of {', '.join(FORMS)}")
    if agent is not None and common.agent is not None:
        raise EngramError("invalid", "--agent and --as: give only one of them")
    place = settings.context(context) if context is not None else settings.default("context") or CONTEXT
    client = Client(common.socket, agent=agent or common.name, autostart=not common.no_autostart, opens_session=False, presence=True)
    client.session, client.owns_session = new_session(), True
    NAME.check(place, "--context")
    NAME.check(client.agent, "--agent")
    on_terminal = os.isatty(1) and stdio == "text"
    patience = PATIENCE if common.seconds is None else common.seconds
    plan = Plan(os.urandom(8).hex(), place, stdio == "jsonl", on_terminal and os.isatty(0), patience)
    recorder = Recorder.start(client, plan)
    if recorder.problem is not None and common.no_autostart:
        recorder.finish()
        raise recorder.problem
    environment = {
        **settings.inherited(),
        "ENGRAM_AGENT": client.agent,
        "ENGRAM_CONTEXT": place,
        "ENGRAM_SESSION": client.session,
        "ENGRAM_SOCKET": client.address,
    }
    way = _on_screen if on_terminal else partial(_in_pipes, together=stdio == "text" and _is_same_file())
    raise SystemExit(_carry_out(command, environment, recorder, way))


def _carry_out(command: Sequence[str], environment: Mapping[str, str], recorder: Recorder, way: Way) -> int:
    """Run it in one of the ways below, and give what to exit with."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # an output that nobody reads is the command's to notice; it gets the signal as it was
    recorder.started(shlex.join(command))
    began = time.monotonic()
    try:
        status, job = way(command, environment, recorder)
    except NotStarted as failed:
        recorder.ended(f"not started: {failed.error.message}", 0, status="failed", exit_code=str(failed.exit_code))
        recorder.finish()
        note(f"engram: {failed.error.message}")
        return failed.exit_code
    _say_end(recorder, status, time.monotonic() - began)
    if not recorder.finish():
        note("engram: the process that records was killed, so not all of this run is recorded")
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGINT:
        job.die_of_interrupt()
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _say_end(recorder: Recorder, status: int, seconds: float) -> None:
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        recorder.ended(f"ended: exit {code} after {seconds:.1f} s", seconds, status="failed" if code else "done", exit_code=str(code))
        return
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    recorder.ended(f"ended: {name} after {seconds:.1f} s", seconds, status="failed", exit_code=str(128 - code), signal=name)


class Pump(threading.Thread):
    """Has output recorded, and passes it on. When nobody takes it any more, whoever writes it notices.

    Args:
        source: where it comes from; closed at the end.
        sink: where it goes.
        stream: what it is called.
    """

    def __init__(self, source: int, sink: int, stream: str, recorder: Recorder) -> None:
        super().__init__(daemon=True)
        self.problem: OSError | None = None
        self._lock = threading.Lock()
        self._taken = self._passed = 0
        self._source, self._sink, self._stream, self._recorder = source, sink, stream, recorder

    def run(self) -> None:
        """Do so until its end."""
        while data := self._take():
            self._recorder.record(self._stream, data)  # first: what anyone has seen is recorded, whenever this process is killed
            try:
                write_all(self._sink, data)
            except OSError as error:
                self.problem = error
            self._passed += len(data)
            if self.problem is not None:
                break
        os.close(self._source)

    def _take(self) -> bytes:
        select.select([self._source], [], [])
        with self._lock:
            try:
                data = os.read(self._source, _READ)
            except OSError:  # how a terminal says that nobody has it open any more
                return b""
            self._taken += len(data)
            return data

    def finish(self, until: float) -> None:
        """The command has ended: return when all it has printed is passed on, however long that takes.

        Args:
            until: up to when more is passed on of what processes print that it has left behind, by the monotonic clock.
        """
        with self._lock:
            printed = self._taken + self._waiting()
        while self.is_alive() and (self._passed < printed or time.monotonic() < until or self._is_hung_up()):
            self.join(_LOOK)

    def _waiting(self) -> int:
        """Bytes that can be read now."""
        try:
            return int(struct.unpack("i", fcntl.ioctl(self._source, termios.FIONREAD, bytes(4)))[0])
        except OSError:
            return 0

    def _is_hung_up(self) -> bool:
        """Whether nobody is left who could print more."""
        poll = select.poll()
        poll.register(self._source, 0)
        return bool(poll.poll(0))


def _in_pipes(command: Sequence[str], environment: Mapping[str, str], recorder: Recorder, together: bool) -> tuple[int, Group]:
    """Run it with pipes for its output: two of them, or one for both, which keeps the order."""
    out, out_end = _pipe()
    err, err_end = (-1, out_end) if together else _pipe()
    try:
        job = Group(command, environment, stdout=out_end, stderr=err_end)
    finally:
        for end in {out_end, err_end}:
            os.close(end)
    pumps = [Pump(out, 1, "output" if err < 0 else "stdout", recorder)]
    if err >= 0:
        pumps.append(Pump(err, 2, "stderr", recorder))
    _start(pumps)
    status = job.wait(0, lambda: None)
    _finish(pumps)
    return status, job


def _on_screen(command: Sequence[str], environment: Mapping[str, str], recorder: Recorder) -> tuple[int, Screen]:
    """Run it on a terminal of its own. Standard error that leads elsewhere goes on doing so."""
    err, err_end = (-1, None) if os.isatty(2) else _pipe()
    try:
        job = Screen(command, environment, err_end)
    finally:
        if err_end is not None:
            os.close(err_end)
    pumps = [Pump(job.output, 1, "terminal", recorder)]
    if err >= 0:
        pumps.append(Pump(err, 2, "stderr", recorder))
    _start(pumps)
    try:
        status = job.wait()
        _finish(pumps)
    finally:
        job.close()
    return status, job


def _start(pumps: Sequence[Pump]) -> None:
    for pump in pumps:
        pump.start()


def _finish(pumps: Sequence[Pump]) -> None:
    """Pass on what is left, and for a moment what processes still print that the command has left behind."""
    until = time.monotonic() + AFTERMATH
    for pump in pumps:
        pump.finish(until)
        if pump.problem is not None and not isinstance(pump.problem, BrokenPipeError):
            note(f"engram: the command's output cannot be written: {pump.problem.strerror}")


def _pipe() -> tuple[int, int]:
    reading, writing = os.pipe()
    widen(reading)
    return reading, writing


def _is_same_file() -> bool:
    """Whether standard output and standard error lead to one file or pipe, in which their order is seen."""
    try:
        out, err = os.fstat(1), os.fstat(2)
    except OSError:
        return False
    return os.path.samestat(out, err) and not os.path.samestat(out, os.stat(os.devnull))
