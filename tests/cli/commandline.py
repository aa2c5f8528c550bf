"""Runs the installed commands as processes of their own, in surroundings of their own. Nothing here outlives its `Shell`."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from engram_cli.client import Client, EngramError

BIN = Path(sys.executable).parent  # where the installer put `engram` and `engramd`
PATIENCE = 30.0  # seconds for what should take one; only a failure waits so long
AGENT = "tester"


def until(done: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
    """Poll until something is so; fail when it takes too long."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(0.01)


@contextmanager
def as_typed() -> Iterator[None]:
    """Have what is started here obey Ctrl-C, as a command does that was typed, even where the tests themselves ignore it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def unescape(field: str) -> str:
    """What a field of a piped line stood for."""
    short = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}

    def one(match: re.Match[str]) -> str:
        code = match[1]
        return short.get(code) or chr(int(code[1:], 16))

    return re.sub(r"\\(x[0-9a-f]{2}|u[0-9a-f]{4}|[ntr\\])", one, field)


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    raw: bytes
    err: str
    seconds: float

    @property
    def out(self) -> str:
        return self.raw.decode()

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def texts(self) -> list[str]:
        """The last column of `list` and `tail`."""
        return [unescape(line.split("\t")[4]) for line in self.lines]

    @property
    def seqs(self) -> list[int]:
        return [int(line.split("\t")[0]) for line in self.lines]

    @property
    def objects(self) -> list[dict[str, Any]]:
        """The lines as JSON."""
        return [json.loads(line) for line in self.lines]


class Running:
    """A command under way. What it prints is collected as it comes."""

    def __init__(self, command: Sequence[str | bytes | Path], env: Mapping[str, str], pipe_stdin: bool) -> None:
        self.lines: list[str] = []
        self.errors: list[str] = []
        self._news = threading.Condition()
        with as_typed():
            self.process = subprocess.Popen(
                command,
                env=dict(env),
                stdin=subprocess.PIPE if pipe_stdin else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._threads = [
            threading.Thread(target=self._collect, args=(stream, lines), daemon=True)
            for stream, lines in ((self.process.stdout, self.lines), (self.process.stderr, self.errors))
        ]
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def objects(self) -> list[dict[str, Any]]:
        """The lines so far as JSON."""
        return [json.loads(line) for line in list(self.lines)]

    def _collect(self, stream: IO[bytes], lines: list[str]) -> None:
        for line in stream:
            with self._news:
                lines.append(line.decode().rstrip("\n"))
                self._news.notify_all()

    def expect(self, met: Callable[[list[str]], bool], what: str) -> None:
        """Wait until the lines of stdout are as they should be."""
        with self._news:
            assert self._news.wait_for(lambda: met(self.lines), PATIENCE), f"waited for {what}; got {self.lines}, {self.errors}"

    def expect_lines(self, count: int) -> list[str]:
        """Wait until at least so many lines were printed."""
        self.expect(lambda lines: len(lines) >= count, f"{count} lines")
        return self.lines

    def say(self, *requests: Mapping[str, Any] | str | bytes) -> None:
        """Write lines to stdin."""
        assert self.process.stdin is not None
        for request in requests:
            line = json.dumps(request) if isinstance(request, Mapping) else request
            self.process.stdin.write((line.encode() if isinstance(line, str) else line) + b"\n")
        self.process.stdin.flush()

    def hang_up(self) -> None:
        """End its stdin."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait for its end, and for all that it said."""
        code = self.process.wait(PATIENCE)
        for thread in self._threads:
            thread.join(PATIENCE)
        return code

    def end(self) -> None:
        """End it, however it stands, and close its pipes."""
        if self.process.poll() is None:
            self.process.kill()
        self.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    pass


class Shell:
    """A home of its own for commands, their daemon and its data; removed with everything that runs in it.

    Attributes:
        env: what the commands see: nothing of the tester's own but PATH.
    """

    def __init__(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="egt-"))
        self.socket = self.home / "s"
        self.data = self.home / "data"
        assert len(os.fsencode(self.socket)) < 100
        self.env = {
            "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "ENGRAM_SOCKET": str(self.socket),
            "ENGRAM_DATA_DIR": str(self.data),
            "ENGRAM_AGENT": AGENT,
            "ENGRAM_LISTEN": "off",  # many daemons run at once, and a port is one daemon's
        } | {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
        self._running: list[Running] = []
        self._clients: list[Client] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            for client in self._clients:
                client.close()
            for running in self._running:
                running.end()
        finally:
            self._kill_strays()
            shutil.rmtree(self.home)

    # Commands

    def run(
        self,
        *arguments: str | bytes | Path,
        program: str = "engram",
        input: bytes | None = None,
        stdin: IO[bytes] | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Done:
        """Run a command to its end. Its stdin is empty unless something is given."""
        began = time.monotonic()
        given: dict[str, Any] = {"input": input} if input is not None else {"stdin": stdin or subprocess.DEVNULL}
        done = subprocess.run(
            [BIN / program, *arguments],
            env={**self.env, **(env or {})},
            capture_output=True,
            timeout=PATIENCE,
            cwd=cwd or self.home,
            check=False,
            **given,
        )
        err = done.stderr.decode(errors="backslashreplace")
        assert "Traceback" not in err, err
        return Done(done.returncode, done.stdout, err, time.monotonic() - began)

    def ok(self, *arguments: str | bytes | Path, **given: Any) -> Done:
        """Run a command that must succeed and have nothing to say on stderr."""
        done = self.run(*arguments, **given)
        assert (done.code, done.err) == (0, ""), f"{arguments}: exit {done.code}, {done.err}"
        return done

    def put(self, *arguments: str | bytes | Path, **given: Any) -> str:
        """`engram put`; returns the new unit's id."""
        made = self.ok("put", *arguments, **given).out
        assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\n", made), made
        return made.strip()

    def fails(self, code: int, *arguments: str | bytes | Path, **given: Any) -> str:
        """Run a command that must fail with this exit code and print nothing; returns what it says on stderr."""
        done = self.run(*arguments, **given)
        assert (done.code, done.raw) == (code, b""), f"{arguments}: exit {done.code}, {done.raw!r}, {done.err}"
        assert done.err
        return done.err

    def script(self, text: str, **env: str) -> Done:
        """Run a shell script, with the commands on its PATH."""
        began = time.monotonic()
        done = subprocess.run(
            ["bash", "-c", text],
            env={**self.env, **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE,
            cwd=self.home,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr.decode(), time.monotonic() - began)

    def start(self, *arguments: str | bytes | Path, program: str = "engram", pipe_stdin: bool = False, **env: str) -> Running:
        """Start a command and leave it running."""
        running = Running([BIN / program, *arguments], {**self.env, **env}, pipe_stdin)
        self._running.append(running)
        return running

    def client(self, agent: str = AGENT, timeout: float | None = PATIENCE) -> Client:
        """A Python client, which never starts a daemon."""
        client = Client(str(self.socket), agent=agent, autostart=False, timeout=timeout)
        self._clients.append(client)
        return client

    # The daemon

    def daemon(self, *options: str, **env: str) -> Running:
        """Start `engramd` as a child, and wait until it serves."""
        daemon = self.start(*options, program="engramd", **env)
        until(lambda: self.serves() or daemon.process.poll() is not None, "the daemon")
        assert daemon.process.poll() is None, daemon.errors
        return daemon

    def serves(self) -> bool:
        """Whether a daemon answers."""
        with Client(str(self.socket), agent=AGENT, autostart=False) as client:
            try:
                client.connect()
            except EngramError as error:
                if error.code != "unavailable":
                    raise
                return False
            return True

    def metric(self, name: str) -> dict[str, Any]:
        """A metric of the daemon that has no labels."""
        return next(one for one in self.ok("metrics", "--json").objects if one["name"] == name)

    def daemon_pid(self) -> int | None:
        """The pid of the daemon that has the data directory, or None. The kernel says whether there is one, its lock file who."""
        try:
            lock = os.open(self.data / "lock", os.O_RDWR)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            until(lambda: os.pread(lock, 32, 0).split()[:1] != [], "the daemon to write its pid", 5)
            return int(os.pread(lock, 32, 0).split()[0])
        finally:
            os.close(lock)
        return None

    def kill_daemon(self) -> None:
        """End whichever daemon has the data directory, at once, as a power cut would."""
        pid = self.daemon_pid()
        if pid is not None:
            environ = Path(f"/proc/{pid}/environ")
            assert not environ.exists() or os.fsencode(self.data) in environ.read_bytes(), f"{pid} is not the daemon of {self.data}"
            os.kill(pid, signal.SIGKILL)
            until(lambda: self.daemon_pid() != pid, "the daemon's end")

    def _kill_strays(self) -> None:
        """End what still runs in this home, which nothing else has: daemons, and whatever a test that failed left behind."""
        if not Path("/proc/self/environ").exists():
            return self.kill_daemon()
        mine = os.fsencode(f"HOME={self.home}")
        for environ in Path("/proc").glob("[0-9]*/environ"):
            try:
                if mine in environ.read_bytes().split(b"\0"):
                    os.kill(int(environ.parent.name), signal.SIGKILL)
            except OSError:  # it has ended, or is somebody else's
                pass
        until(lambda: self.daemon_pid() is None, "the daemon's end")

    def reader(self, *arguments: str) -> Running:
        """Start a `tail -f`, and wait until it listens."""
        with Client(str(self.socket), agent=AGENT, autostart=False) as client:
            before = client.status()["subscriptions"]
            reader = self.start("tail", "-f", *arguments)
            until(lambda: client.status()["subscriptions"] > before or reader.process.poll() is not None, "the reader to listen")
        assert reader.process.poll() is None, reader.errors
        return reader
