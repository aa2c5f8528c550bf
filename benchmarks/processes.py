"""The other processes of a benchmark: daemons and helpers. Each ends with the benchmark, by its own process id."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from engramd.protocol.errors import EngramError

from .figures import BenchmarkError

START_SECONDS = 60.0
_PR_SET_PDEATHSIG = 1  # prctl(2): the signal to get when the parent dies
_CPUCLOCK_SCHED = 2  # the kind of the clock of a process' time, in the clock ids that Linux makes of process ids


_libc = ctypes.CDLL(None)


def _end_with_parent() -> None:
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _environment() -> dict[str, str]:
    """This environment without what would configure a daemon, or have it compile all of its sources again at each start, as none does that
    was installed."""
    return {name: value for name, value in os.environ.items() if not name.startswith("ENGRAM_") and name != "PYTHONDONTWRITEBYTECODE"}


class Overtime(BenchmarkError):
    """A benchmark takes longer than it may."""


class Place:
    """Temporary directories: a short one for sockets, one for stores on the file system to measure. Removed at the end.

    Args:
        directory: where the stores go; None means the system's temporary directory.
    """

    def __init__(self, directory: str | None = None) -> None:
        self.sockets = tempfile.mkdtemp(prefix="egb-")
        self.stores = tempfile.mkdtemp(prefix="engram-bench-", dir=directory)
        self._names = 0

    def __enter__(self) -> Place:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        shutil.rmtree(self.sockets, ignore_errors=True)
        shutil.rmtree(self.stores, ignore_errors=True)

    def socket(self) -> str:
        """A path for a new socket."""
        self._names += 1
        return os.path.join(self.sockets, f"s{self._names}")

    def store(self, name: str) -> Path:
        """The directory of a store."""
        return Path(self.stores, name)


class Running:
    """A process that was started, to the end of a block."""

    _process: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """Ask it to end, and see that it does."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._process.kill()
        self._process.wait()

    def memory(self) -> tuple[int, int]:
        """Resident memory and the part of it that no file backs, in bytes. LevelDB maps its files, so the first holds clean file pages."""
        try:
            lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        except OSError:
            shown = subprocess.run(["ps", "-o", "rss=", "-p", str(self._process.pid)], capture_output=True, text=True, check=False)
            size = int(shown.stdout or 0) * 1024
            return size, size
        sizes = {line.partition(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith(("VmRSS:", "RssAnon:"))}
        return sizes["VmRSS"], sizes["RssAnon"]

    def peak(self) -> int:
        """The most resident memory it has had, in bytes; where the system does not tell, what it has now."""
        try:
            lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        except OSError:
            return self.memory()[0]
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))

    def worked(self) -> int:
        """Nanoseconds of the processor that its loop has used, without LevelDB's thread; 0 where the system does not tell (proc(5))."""
        try:
            return int(Path(f"/proc/{self._process.pid}/schedstat").read_text().split()[0])
        except OSError:
            return 0

    def processor(self) -> int:
        """The processor time that it has taken, in nanoseconds; 0 where the system does not tell."""
        return time.clock_gettime_ns((~self._process.pid << 3) | _CPUCLOCK_SCHED) if sys.platform == "linux" else 0


class Daemon(Running):
    """A daemon of its own, from start to stop.

    Args:
        place: where its socket goes.
        data: its data directory.
        listen: where it listens besides its socket.
        launcher: arguments for `benchmarks.launcher`, which changes how the daemon runs; None runs `python -m engramd` as it is.

    Attributes:
        socket: the path of its socket.
        ready_after: nanoseconds from before the process was started until it said that it is ready.
    """

    def __init__(self, place: Place, data: Path, launcher: Sequence[str] | None = None, listen: str = "off") -> None:
        self.socket = place.socket()
        self._log = Path(place.sockets, f"{Path(self.socket).name}.log")
        readable, writable = os.pipe()
        module = ["engramd"] if launcher is None else ["benchmarks.launcher", *launcher, "--"]
        options = [
            "--config",
            os.devnull,
            "--socket",
            self.socket,
            "--data-dir",
            str(data),
            "--ready-fd",
            str(writable),
            "--listen",
            listen,
        ]
        try:
            with self._log.open("wb") as log:
                started = time.monotonic_ns()
                self._process = subprocess.Popen(
                    [sys.executable, "-m", *module, *options],
                    pass_fds=(writable,),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=_environment(),
                    process_group=0,  # Ctrl-C is for this process, which then ends them in order
                    preexec_fn=_end_with_parent,
                )
            os.close(writable)
            try:
                said = os.read(readable, 4096) if select.select([readable], [], [], START_SECONDS)[0] else b""
            except BaseException:
                self.stop()
                raise
            self.ready_after = time.monotonic_ns() - started
        finally:
            os.close(readable)
        if said != b"ready\n":
            self.stop()
            raise BenchmarkError(f"the daemon did not start: {said.decode().strip() or self._log.read_text() or 'it said nothing'}")


class Foreign(Running):
    """A server of somebody else's, from start to stop.

    Args:
        answers: asks it something, and raises OSError as long as it is not ready.

    Attributes:
        ready_after: nanoseconds from before the process was started until it had answered.

    Raises:
        BenchmarkError: if it does not start.
    """

    def __init__(self, command: Sequence[str], answers: Callable[[], None]) -> None:
        null = subprocess.DEVNULL
        started = time.monotonic_ns()
        self._process = subprocess.Popen(command, stdin=null, stdout=null, stderr=null, start_new_session=True, preexec_fn=_end_with_parent)
        try:
            self._wait(answers, command[0])
        except BaseException:
            self.stop()
            raise
        self.ready_after = time.monotonic_ns() - started

    def _wait(self, answers: Callable[[], None], program: str) -> None:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self._process.poll() is None:
            try:
                return answers()
            except OSError:
                time.sleep(0.001)
        raise BenchmarkError(f"{program} did not start")


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


class Helper:
    """A process that runs functions of a pipe and some arguments, one after the other: the load, or the other end of a floor.

    A function must end when its pipe does.
    """

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe: Connection
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        with _without_interrupts():
            self._process.start()
        theirs.close()
        self._doing = "nothing"

    def __enter__(self) -> Helper:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pipe.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def run(self, work: Callable[..., None], *arguments: Any) -> Any:
        """Have it call `work` with its end of the pipe and the arguments; returns the first object that comes back."""
        self._doing = work.__name__
        self._pipe.send((work, arguments))
        return self.get()

    def say(self, word: Any) -> None:
        """Send an object to what it runs."""
        self._pipe.send(word)

    def get(self, seconds: float = 60.0) -> Any:
        """The next object it sends."""
        if not self._pipe.poll(seconds):
            raise BenchmarkError(f"the helper for {self._doing} said nothing for {seconds:g} s")
        try:
            found = self._pipe.recv()
        except EOFError:
            raise BenchmarkError(f"the helper for {self._doing} failed") from None
        if isinstance(found, BenchmarkError):
            raise BenchmarkError(f"the helper for {self._doing} failed: {found}")
        return found


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Block Ctrl-C, for good in what is started meanwhile: it reaches the whole group, and the pipe's end says when to end."""
    resource_tracker.ensure_running()  # which unblocks it when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(pipe: Connection) -> None:
    try:
        while True:
            work, arguments = pipe.recv()
            try:
                work(pipe, *arguments)
            except (BenchmarkError, EngramError, OSError) as error:
                pipe.send(BenchmarkError(str(error)))
    except (EOFError, ConnectionError):
        pass


@contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """Raise Overtime in the block when it takes longer than that, and let SIGTERM end the program in order."""

    def over(number: int, _frame: object) -> None:
        raise Overtime(f"stopped after {seconds:g} s")

    def ended(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGALRM, over)
    signal.signal(signal.SIGTERM, ended)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
