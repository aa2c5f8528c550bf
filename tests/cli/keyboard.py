"""Someone at a terminal with a shell that has job control."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

from commandline import PATIENCE, Shell

BASH = shutil.which("bash") or ""
CTRL_C, CTRL_Z = "\x03", "\x1a"
PROMPT = "go on> "
# A session leader can only take a terminal that it has no other; then it becomes the shell.
LEADER = "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"


class Typing:
    """Someone at a terminal with a shell. What is shown is kept, and looked at from where the last look ended."""

    def __init__(self, shell: Shell) -> None:
        self._fd, theirs = pty.openpty()
        env = {**shell.env, "TERM": "dumb", "INPUTRC": "/dev/null", "PS1": PROMPT, "HISTFILE": ""}
        command = [sys.executable, "-c", LEADER, BASH, "--noprofile", "--norc", "--noediting", "-i"]
        self._process = subprocess.Popen(command, env=env, cwd=shell.home, stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)
        self._shown = b""
        self.type("stty -echo; echo REA''DY")
        self.see("READY")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._fd)

    @property
    def foreground(self) -> int:
        """The process group that has the terminal."""
        return os.tcgetpgrp(self._fd)

    def type(self, line: str) -> None:
        """Type a line."""
        self.press(line + "\n")

    def press(self, keys: str) -> None:
        """Press keys."""
        os.write(self._fd, keys.encode())

    def see(self, wanted: str) -> str:
        """Wait until something is shown; returns its last group, or all of it."""
        deadline = time.monotonic() + PATIENCE
        while (found := re.search(wanted.encode(), self._shown)) is None:
            ready = select.select([self._fd], [], [], max(0.0, deadline - time.monotonic()))[0]
            assert ready, f"waited for {wanted!r}; got {self._shown!r}"
            self._shown += os.read(self._fd, 65536)
        self._shown = self._shown[found.end() :]
        return found[found.lastindex or 0].decode()


def is_stopped(pid: int) -> bool:
    """Whether a process stands still."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
