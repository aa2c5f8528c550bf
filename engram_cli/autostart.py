"""Starting the daemon on first use, so that many commands at the same instant start one."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time

from engramd.protocol.address import socket_dir
from engramd.protocol.errors import EngramError

LOCK_WAIT = "15s"  # how long the new daemon waits for one that is still stopping
STARTER_SECONDS = 10.0  # how long to wait for another command that is starting a daemon
_started: list[subprocess.Popen[bytes]] = []  # kept, so that in a long-lived program those that have ended are reaped some time


def start(path: str) -> None:
    """Start a daemon that listens at `path`, unless one does by now, and wait until it is ready.

    Every starter takes the same lock, and looks for a daemon again once it has it. The kernel frees the lock of a starter that dies.

    Raises:
        EngramError: `unavailable` with the daemon's own words when it cannot start.
    """
    socket_dir(path)
    try:
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise EngramError("unavailable", f"no daemon runs, and none can be started: {path}.lock: {error.strerror}") from error
    try:
        _take(lock, path)
        if not listening(path):
            _spawn(path)
    finally:
        os.close(lock)


def _take(lock: int, path: str) -> None:
    """Take the starters' lock. One that was stopped in the middle must not block the others for ever."""
    deadline = time.monotonic() + STARTER_SECONDS
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise EngramError(
                    "unavailable",
                    f"another command has been starting a daemon for {STARTER_SECONDS:g} s and holds {path}.lock; it may be stopped: "
                    "look for it with ps, continue or kill it, or run: engram daemon run",
                ) from None
        if listening(path):
            return None
        time.sleep(0.01)


def listening(path: str) -> bool:
    """Whether something accepts connections at the path."""
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except (TimeoutError, BlockingIOError):
            return True  # its backlog is full
        except OSError:
            return False
        return True


def _spawn(path: str) -> None:
    """Start engramd in a session of its own, with nothing of ours but the ready pipe, and wait for its word."""
    ready, told = os.pipe()
    try:
        command = [sys.executable, "-P", "-m", "engramd", "--socket", path, "--ready-fd", str(told)]
        command += ["--lock-wait", LOCK_WAIT]
        if "ENGRAM_LOG_FILE" not in os.environ:
            command += ["--log-file", "auto"]
        try:
            daemon = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                cwd="/",
                env=environment(),
                pass_fds=(told,),
            )
        except OSError as error:
            raise EngramError("unavailable", f"the daemon cannot be started: {error}") from error
        finally:
            os.close(told)
        with os.fdopen(ready, "rb", closefd=False) as pipe:
            said = pipe.read().decode(errors="replace").strip()
    finally:
        os.close(ready)
    _started[:] = [daemon, *(earlier for earlier in _started if earlier.poll() is None)]
    if said != "ready":
        raise EngramError("unavailable", f"the daemon did not start: {said or 'it ended at once; try: engram daemon run'}")


def environment() -> dict[str, str]:
    """Ours, with the paths that are relative to where we stand made absolute: the daemon stands elsewhere; and without our token."""
    ours = {name: value for name, value in os.environ.items() if name != "ENGRAM_TOKEN"}
    named = ("ENGRAM_DATA_DIR", "ENGRAM_CONFIG", "ENGRAM_TLS_CERT", "ENGRAM_TLS_KEY", "ENGRAM_TLS_CLIENT_CA")
    paths = {name: os.environ.get(name) for name in named}
    return {**ours, **{name: os.path.abspath(path) for name, path in paths.items() if path}}
