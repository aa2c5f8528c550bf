"""A command on a terminal of its own, which is shown on ours: what it prints is seen on the way, and nothing is different for it.

The command runs in the session of that terminal, led by a process of ours (the leader) whose only work is a shell's: it gives the terminal
to the command, passes signals on, and stops when the command is stopped. This process then gives our terminal back and stops too.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import struct
import sys
import termios
import threading
import tty
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from .group import Group, NotStarted, Signals, Terminal, die_of_interrupt, stop_own_group
from .recorder import write_all

_STATUS = struct.Struct("ii")  # 0 and the command's status as waitpid gives it, or an errno: it was not started
_KEYS = 4096
_LOOK_SECONDS = 0.25


class Screen:
    """A command under way on a terminal of its own. Nothing else in this process may wait for children or take the signals of PASSED_ON.

    Args:
        command: the program and its arguments.
        env: its environment.
        stderr: a file for its standard error; None means the terminal.

    Attributes:
        output: what it prints, to be read.

    Raises:
        NotStarted: it cannot be started.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str], stderr: int | None) -> None:
        self._keys = os.isatty(0)
        self._program = command[0]
        self._own = Terminal()
        self._modes: list[Any] | None = None
        self._is_ours = threading.Event()
        self._is_wanted = False
        self._claiming = threading.Lock()
        self.output, theirs = os.openpty()
        self._told, tells = os.pipe()
        self._resize()
        modes = termios.tcgetattr(1)
        if not self._keys:
            modes[1] &= ~termios.OPOST  # our own terminal goes on doing that
        termios.tcsetattr(theirs, termios.TCSANOW, modes)
        sys.stdout.flush()
        sys.stderr.flush()
        self._leader = os.fork()
        if self._leader == 0:
            _lead(command, env, self._keys, theirs, stderr, tells)
        os.close(theirs)
        os.close(tells)
        self._signals = Signals()
        self._want()
        if self._keys:
            threading.Thread(target=self._type, daemon=True).start()

    def wait(self) -> int:
        """Pass signals on until the command has ended, and return its status as waitpid gives it.

        Raises:
            NotStarted: it could not be started.
        """
        while True:
            number = self._signals.wait()
            if number == signal.SIGCHLD:
                pid, status = os.waitpid(self._leader, os.WNOHANG | os.WUNTRACED)
                if pid and not os.WIFSTOPPED(status):
                    return self._status(status)
                if pid:
                    self._release()
                    stop_own_group()
                    self._go_on()
            elif number == signal.SIGWINCH:
                self._resize()
            elif number == signal.SIGCONT:
                self._go_on()
            else:
                os.kill(self._leader, number)

    def _status(self, of_leader: int) -> int:
        """The command's status, by the leader's word; if that was killed, its own."""
        said = os.read(self._told, _STATUS.size)
        os.close(self._told)
        if len(said) < _STATUS.size:
            return of_leader
        failure, status = _STATUS.unpack(said)
        if failure:
            raise NotStarted(self._program, OSError(failure, os.strerror(failure)))
        return int(status)

    def close(self) -> None:
        """Give our terminal back as it was, and have signals obeyed again."""
        self._release()
        self._own.close()
        self._signals.restore()

    def die_of_interrupt(self) -> None:
        """As the function of `group`."""
        die_of_interrupt(self._keys)

    # Our terminal

    def _want(self) -> None:
        """From now on have our terminal hand every key on, while it is ours."""
        self._is_wanted = self._keys
        self._claim()

    def _claim(self) -> None:
        with self._claiming:
            if not (self._is_wanted and self._own.belongs_to(os.getpgrp())):
                return
            try:
                if self._modes is None:
                    self._modes = termios.tcgetattr(0)
                tty.setraw(0, termios.TCSANOW)
                self._is_ours.set()
            except termios.error:  # it has gone
                pass

    def _release(self) -> None:
        with self._claiming:
            self._is_wanted = False
            self._is_ours.clear()
            if self._modes is not None:
                try:
                    termios.tcsetattr(0, termios.TCSADRAIN, self._modes)
                except termios.error:
                    pass
                self._modes = None

    def _go_on(self) -> None:
        """Somebody has continued us, in the foreground or in the background: so does the command."""
        self._want()
        self._resize()
        os.kill(self._leader, signal.SIGCONT)

    def _resize(self) -> None:
        try:
            fcntl.ioctl(self.output, termios.TIOCSWINSZ, fcntl.ioctl(1, termios.TIOCGWINSZ, bytes(8)))
        except OSError:
            pass

    def _type(self) -> None:
        """Hand keys on while our terminal is ours. SIGTTIN is blocked, so that reading it just then fails.

        Nobody says so when a job that runs in the background is brought to the foreground.
        """
        while True:
            while not self._is_ours.wait(_LOOK_SECONDS):
                self._claim()
            select.select([0], [], [])
            if not self._is_ours.is_set():
                continue
            try:
                keys = os.read(0, _KEYS)
                write_all(self.output, keys)
            except OSError as error:
                if error.errno != errno.EIO:
                    return
                keys = b""
            if not keys:
                self._is_ours.clear()


def _lead(command: Sequence[str], env: Mapping[str, str], keys: bool, terminal: int, stderr: int | None, tells: int) -> NoReturn:
    """The leader's own side: run the command on the terminal, and tell how it ended."""
    try:
        os.setsid()
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
        for fd in ([0] if keys else []) + [1] + ([2] if stderr is None else []):
            os.dup2(terminal, fd)
        if stderr is not None:
            os.dup2(stderr, 2)
        _close_own(tells)
        try:
            said = _STATUS.pack(0, Group(command, env, leads=True).wait(0, lambda: None))
        except NotStarted as failed:
            said = _STATUS.pack(failed.errno, 0)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        os.write(tells, said)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(0)


def _close_own(kept: int) -> None:
    """Let go of the files that are ours alone, above all of the other end of the terminal: its end is that of the session."""
    for fd in map(int, os.listdir("/dev/fd")):
        try:
            if fd > 2 and fd != kept and not os.get_inheritable(fd):
                os.close(fd)
        except OSError:  # the listing's own
            pass
