"""A command in a process group of its own, which has the terminal while it runs, as a shell does with its jobs."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence

from engramd.protocol.errors import EngramError

PASSED_ON = ("TERM", "HUP", "INT", "QUIT", "USR1", "USR2", "WINCH", "CONT", "TSTP")
_STOPS = {signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
_POLL = 0.01  # seconds between looks at a group that is to end
_KILL_AT = 0.8  # of the grace: the rest is for the kernel to end what was killed


class Terminal:
    """The controlling terminal, if there is one. Whoever uses it must have SIGTTOU blocked: who gives it away is in the background."""

    def __init__(self) -> None:
        self._fd = -1
        try:
            self._fd = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY)
        except OSError:
            pass

    @property
    def exists(self) -> bool:
        """Whether there is one."""
        return self._fd >= 0

    def belongs_to(self, group: int) -> bool:
        """Whether a process group is in the foreground."""
        try:
            return self.exists and os.tcgetpgrp(self._fd) == group
        except OSError:
            return False

    def give(self, group: int) -> None:
        """Put a process group into the foreground. A terminal that has gone is nobody's."""
        try:
            os.tcsetpgrp(self._fd, group)
        except OSError:
            pass

    def close(self) -> None:
        """Let go of it."""
        if self.exists:
            os.close(self._fd)
            self._fd = -1


class Signals:
    """The signals of PASSED_ON and SIGCHLD, which are waited for from now on instead of being obeyed. Those that are ignored stay so."""

    def __init__(self) -> None:
        self._passed = {number for name in PASSED_ON if signal.getsignal(number := signal.Signals[f"SIG{name}"]) != signal.SIG_IGN}
        self._before = {number: signal.signal(number, _ignore) for number in (*self._passed, signal.SIGCHLD)}
        self.mask = signal.pthread_sigmask(signal.SIG_BLOCK, {*self._before, signal.SIGTTOU, signal.SIGTTIN})

    def wait(self) -> int:
        """The next one."""
        return signal.sigwait(set(self._before))

    def restore(self) -> None:
        """Have them obeyed as before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, self.mask)


class Group:
    """A command under way, in its own process group. Nothing else in this process may wait for children or take the signals of PASSED_ON.

    A signal that this process gets is passed on to the group. Where the terminal is in the foreground and standard input and output are on
    it, the group gets it from the start; else when it reaches for it, so that another member of our pipeline may go on using it. When the
    command is stopped by the terminal, so are we, with all of our own group.

    Args:
        command: the program and its arguments.
        env: its environment.
        stdout, stderr: files for its output; by default our own.
        leads: this process leads the session of a terminal that is there for the command alone.

    Raises:
        NotStarted: it cannot be started.
    """

    def __init__(
        self, command: Sequence[str], env: Mapping[str, str], stdout: int | None = None, stderr: int | None = None, leads: bool = False
    ) -> None:
        self._signals = Signals()
        self._leads = leads
        self._terminal = Terminal()
        self._had_terminal = False
        self._status: int | None = None
        self._own = os.getpgrp()
        eager = leads or (self._terminal.belongs_to(self._own) and os.isatty(0) and os.isatty(1))

        def begin() -> None:
            if eager:
                self._terminal.give(os.getpid())
            signal.pthread_sigmask(signal.SIG_SETMASK, self._signals.mask)

        try:
            # What was inherited is passed on, such as the pipes of <(...); our own files are not inheritable.
            self._process = subprocess.Popen(
                command, env=dict(env), stdout=stdout, stderr=stderr, close_fds=False, process_group=0, preexec_fn=begin
            )
        except OSError as error:
            self._end()
            raise NotStarted(command[0], error) from None
        self.id = self._process.pid
        self._had_terminal = eager

    def wait(self, other: int, ended: Callable[[], None]) -> int:
        """Pass signals on until the command has ended, and return its status as waitpid gives it.

        Args:
            other: another child, during whose life this one may run.
            ended: called if that ends first.
        """
        try:
            while True:
                number = self._signals.wait()
                if number != signal.SIGCHLD:
                    self._pass_on(number)
                    continue
                status = self._look()
                if status is not None:
                    return status
                if other and os.waitid(os.P_PID, other, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                    other = 0
                    ended()
                    if self._status is not None:
                        return self._status
        finally:
            self._end()

    def end(self, grace: float) -> bool:
        """As the function `end`. The command's status is kept for `wait`, which must still be called."""
        return end(self.id, grace, self._reap)

    def _reap(self) -> None:
        if self._status is None:
            pid, status = os.waitpid(self.id, os.WNOHANG)
            if pid:
                self._ended(status)

    def _ended(self, status: int) -> None:
        self._status = status
        self._process.returncode = os.waitstatus_to_exitcode(status)

    def _look(self) -> int | None:
        """The status of the command if it has ended; when it was stopped, stop as well."""
        while self._status is None:
            pid, status = os.waitpid(self.id, os.WNOHANG | os.WUNTRACED)
            if pid == 0:
                return None
            if not os.WIFSTOPPED(status):
                self._ended(status)
                break
            self._stopped(signal.Signals(os.WSTOPSIG(status)))
        return self._status

    def _stopped(self, by: signal.Signals) -> None:
        """The command was stopped: by the terminal it reached for, which it may have if it is ours; or with us, as by Ctrl-Z."""
        if not self._terminal.exists or by not in _STOPS:
            return
        has_it = self._terminal.belongs_to(self.id)
        if by == signal.SIGTSTP or not (has_it or self._terminal.belongs_to(self._own)):
            if has_it:
                self._terminal.give(self._own)
            self._stop_too()
        self._go_on()

    def _stop_too(self) -> None:
        """Stop, with whoever else the terminal would have stopped; returns when somebody continues us."""
        if self._leads:
            os.kill(os.getpid(), signal.SIGSTOP)  # nothing else stops a session's leader; who waits for us takes it from there
        else:
            stop_own_group()

    def _go_on(self) -> None:
        """Continue the command, with the terminal if that is ours."""
        if self._terminal.belongs_to(self._own):
            self._terminal.give(self.id)
            self._had_terminal = True
        send(self.id, signal.SIGCONT)

    def _pass_on(self, number: int) -> None:
        if number == signal.SIGCONT and self._had_terminal:
            self._go_on()  # the shell has put us into the foreground, perhaps
        else:
            send(self.id, number)

    def _end(self) -> None:
        """Take the terminal back, and signals as they were."""
        if self._had_terminal and self._terminal.belongs_to(self.id):
            self._terminal.give(self._own)
        self._terminal.close()
        self._signals.restore()

    def die_of_interrupt(self) -> None:
        """As the function."""
        die_of_interrupt(self._had_terminal)


class NotStarted(Exception):
    """A command that cannot be started; `exit_code` is a shell's for that."""

    def __init__(self, program: str, error: OSError) -> None:
        self.errno = error.errno or 0
        self.exit_code = 127 if isinstance(error, FileNotFoundError) else 126
        self.error = EngramError("not_found", f"{program}: {error.strerror}")
        super().__init__(str(self.error))


def _ignore(*_: object) -> None:
    """A handler for signals that are waited for: one that is ignored might never arrive."""


def stop_own_group() -> None:
    """Stop all of our process group, as Ctrl-Z does; returns when somebody continues us. SIGTSTP is one of Signals."""
    signal.signal(signal.SIGTSTP, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTSTP})
    os.killpg(0, signal.SIGTSTP)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTSTP})
    signal.signal(signal.SIGTSTP, _ignore)


def die_of_interrupt(together: bool) -> None:
    """Die of SIGINT as the command did, so that a loop around us stops too.

    Args:
        together: with all of our process group, to which the terminal would have sent it, had the command not had one of its own.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if together:
        os.killpg(0, signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)


def send(group: int, number: int) -> bool:
    """Send a signal to all of a group. False if none of it may be signalled by us; those who have gone are no trouble."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        pass
    except PermissionError:
        return False
    return True


def end(group: int, grace: float, reap: Callable[[], None] | None = None) -> bool:
    """End a group: SIGTERM, and before `grace` seconds are over SIGKILL. Returns when nothing of it runs any more.

    Args:
        reap: waits for our child in it without blocking, where nobody else does: without a /proc, who has ended seems to run until then.

    Returns:
        False, at once, if it cannot be ended, since all of it runs as another user.
    """
    if not send(group, signal.SIGTERM):
        return False
    send(group, signal.SIGCONT)  # what is stopped must go on to end
    kill_at = time.monotonic() + grace * _KILL_AT
    while True:
        if reap is not None:
            reap()
        if not runs(group):
            return True
        if time.monotonic() >= kill_at and not send(group, signal.SIGKILL):
            return False
        time.sleep(_POLL)


def runs(group: int) -> bool:
    """Whether any process of the group still runs. One that has ended and was not waited for does not."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    try:
        processes = [name for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return True
    return not processes or any(_runs_in(name, group) for name in processes)


def _runs_in(process: str, group: int) -> bool:
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            state, _, its_group = file.read().rpartition(b")")[2].split()[:3]
    except (OSError, ValueError):
        return False
    return int(its_group) == group and state not in (b"Z", b"X")
