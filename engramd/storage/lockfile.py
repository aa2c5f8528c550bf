"""The lifelong lock on a data directory: one daemon each, and the kernel releases it however the daemon ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from ..protocol.errors import EngramError


class DataLock:
    """Holds an flock on `lock` in the data directory, which names the holder's pid.

    Raises:
        EngramError: `busy` at once when another process holds it.
    """

    def __init__(self, directory: Path) -> None:
        self._take(directory)
        while not os.fstat(self._fd).st_nlink:  # a restore that was refused has removed it meanwhile
            os.close(self._fd)
            self._take(directory)
        self._say("running")

    def _take(self, directory: Path) -> None:
        self._fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder, _, state = os.pread(self._fd, 32, 0).decode(errors="replace").strip().partition(" ")
            os.close(self._fd)
            raise EngramError(
                "busy",
                f"another engramd (pid {holder or 'unknown'}) uses the data directory {directory}; if nothing answers at its socket, "
                f"stop it with: kill {holder or 'PID'}. Or give this one another --data-dir",
                pid=holder,
                stopping=state != "running",
            ) from None

    def stopping(self) -> None:
        """Tell who waits for the directory that it will be free soon."""
        self._say("stopping")

    def _say(self, state: str) -> None:
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()} {state}\n".encode(), 0)

    def release(self) -> None:
        """Let another daemon have the directory."""
        os.close(self._fd)
