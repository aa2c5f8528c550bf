"""`engram daemon …`: start, stop and look at the daemon."""

from __future__ import annotations

import os
import sys
import time

from engramd.protocol.address import socket_path
from engramd.protocol.errors import EngramError

from .. import autostart, settings
from ..common import Common
from ..output import note

STOP_SECONDS = 10.0
_POLL_SECONDS = 0.02


def path(common: Common) -> str:
    """The socket's path, of a daemon on this machine."""
    return socket_path(common.socket or settings.socket())


def run(common: Common, arguments: list[str]) -> None:
    """Become engramd, in the foreground."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-P", "-m", "engramd", "--socket", path(common), *arguments])


def start(common: Common) -> None:
    """Start the daemon unless it runs."""
    where = path(common)
    running = autostart.listening(where)
    if not running:
        autostart.start(where)
    said = f"engramd {'runs' if running else 'started'} at {where}"
    try:
        with common.client(autostart=False) as client:
            client.connect()  # a daemon that accepts but does not answer is reported
    except EngramError as error:
        if error.code == "denied":  # it runs, and asks for a token
            note(said)
        raise
    note(said)


def stop(common: Common) -> None:
    """Stop the daemon, and return when its process is gone."""
    try:
        with common.client(autostart=False) as client:
            pid = int(client.status()["pid"])
            client.shutdown()
    except EngramError as error:
        if error.code != "unavailable" or autostart.listening(path(common)):
            raise
        note("engramd does not run")
        return
    _wait_for_end(pid, common.seconds or STOP_SECONDS)
    note(f"engramd (pid {pid}) stopped")


def _wait_for_end(pid: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while _lives(pid):
        if time.monotonic() > deadline:
            raise EngramError(
                "timeout",
                f"engramd (pid {pid}) is still stopping after {seconds:g} s; kill -KILL {pid} loses nothing that was acknowledged",
            )
        time.sleep(_POLL_SECONDS)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat", "rb") as stat:  # a zombie has ended, whoever may yet wait for it
            return stat.read().rpartition(b")")[2].split()[0] != b"Z"
    except ProcessLookupError:
        return False
    except OSError:
        return not os.path.isdir("/proc/self")


def restart(common: Common) -> None:
    """Stop the daemon if it runs, then start one."""
    stop(common)
    start(common)


def status(common: Common) -> None:
    """Say whether the daemon runs: exit 0 when it does, 69 when not."""
    with common.client(autostart=False) as client:
        facts = client.status()
    out = common.output()
    if out.json:
        told = ("pid", "server", "socket", "listening", "data_dir", "started_at", "uptime", "last_seq")
        out.object({name: facts[name] for name in told if name in facts})
    else:
        out.line(
            f"{facts['server']} (pid {facts['pid']}) runs at {client.address}, up {facts['uptime']:.0f} s, log at seq {facts['last_seq']}"
        )


def socket(common: Common) -> None:
    """Print the socket's path."""
    common.output().line(path(common))
