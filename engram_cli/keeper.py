"""The process that keeps the lease of `engram lock -- CMD`: it renews it, ends CMD in time when it is lost, and releases it.

It is a process beside the one that was typed, in a session of its own, so that nothing that stops or ends that one keeps it from its work:
a job that Ctrl-Z stopped keeps its lock, and when the command that was typed is killed, CMD does not run on without one.
"""

from __future__ import annotations

import math
import os
import select
import signal
import sys
import threading
from collections.abc import Callable

from engramd.protocol.errors import EngramError
from engramd.protocol.times import elapsed, format_duration

from . import group
from .client import Client, Lease
from .output import remark

RELEASED, LOST, UNRELEASED, STUCK = range(4)  # with what a keeper exits
_LOOK = 1.0  # seconds after which the clock is looked at again: while the machine sleeps, select stands still and the lease runs on
_RELEASE_SECONDS = 3.0  # a daemon that does not take a release within this may do without: the lease runs out


class Keeper:
    """A keeper at work.

    Attributes:
        pid: its process, a child of this one.
    """

    def __init__(self, pid: int, pipe: int) -> None:
        self.pid = pid
        self._pipe = pipe

    @classmethod
    def start(cls, lease: Lease, client: Client, command: int, grace: float) -> Keeper:
        """Start one, and leave it the client's connection. The caller has no other threads.

        Args:
            command: the process group to end when the lease is lost.
            grace: seconds before the lease's end at which it counts as lost.

        Raises:
            OSError: there is no room for another process.
        """
        reading, writing = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            pid = os.fork()
        except OSError:
            os.close(reading)
            os.close(writing)
            raise
        if pid:
            os.close(reading)
            client.close()
            return cls(pid, writing)
        code = STUCK
        try:
            os.setsid()
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE):
                signal.signal(number, signal.SIG_IGN)
            let_go(reading, client.fileno())
            code = _Keeping(lease, client, command, grace, reading).run()
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)

    def finish(self) -> int:
        """CMD has ended: have the lease released, and give what the keeper exits with. One that was killed has lost it."""
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        try:
            os.write(self._pipe, b".")
        except BrokenPipeError:
            pass
        os.close(self._pipe)
        _, status = os.waitpid(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        return code if code >= 0 else STUCK


class Renewals(threading.Thread):
    """Renews a lease until told to release it. A thread of its own, since a daemon that hangs must not keep the keeper from looking at the
    clock.

    Attributes:
        lost_at: when the lease counts as lost unless a renewal succeeds, by `elapsed`.
        problem: why the last renewal failed, if it did.
        news: a file descriptor that can be read when something has changed.
    """

    def __init__(self, lease: Lease, client: Client, grace: float) -> None:
        super().__init__(daemon=True)
        self._lease = lease
        self._client = client
        self._grace = grace
        self._over = threading.Event()
        self.news, self._tell = os.pipe()
        self.problem: EngramError | None = None
        self.lost_at = self._ends()

    def _ends(self) -> float:
        return elapsed() + self._lease.left - self._grace

    @property
    def is_stale(self) -> bool:
        """Whether the daemon says that the lease is over."""
        return self.problem is not None and self.problem.code == "stale"

    @property
    def is_given_up(self) -> bool:
        """Whether somebody who had the token, such as CMD itself, has released it."""
        return self.is_stale and self.problem is not None and self.problem.details.get("ended") == "released"

    def run(self) -> None:
        """Renew at a third of the time; after a failure again soon."""
        ttl = self._lease.ttl
        self._client.timeout = ttl / 6
        while not self._over.wait(ttl / 3 if self.problem is None else min(1.0, ttl / 30)) and not self.is_stale:
            self._attempt(self._lease.renew)
        if not self.is_stale:
            self._client.timeout = _RELEASE_SECONDS
            self._attempt(self._lease.release)
        os.close(self._tell)

    def _attempt(self, action: Callable[[], None]) -> None:
        try:
            action()
            self.problem = None
            self.lost_at = self._ends()
        except EngramError as error:
            self.problem = error
            os.write(self._tell, b".")

    def release(self) -> int:
        """Release the lease after the renewal under way, and say what came of it."""
        self._over.set()
        self.join(_RELEASE_SECONDS)
        if self.is_stale:
            return RELEASED if self.is_given_up else LOST
        return UNRELEASED if self.is_alive() or self.problem is not None else RELEASED


class _Keeping:
    """The keeper's own side."""

    def __init__(self, lease: Lease, client: Client, command: int, grace: float, pipe: int) -> None:
        client.autostart = False
        self._lease = lease
        self._command = command
        self._grace = grace
        self._pipe = pipe
        self._renewals = Renewals(lease, client, grace)

    def run(self) -> int:
        """Keep the lease until CMD has ended, and give what to exit with."""
        renewals = self._renewals
        renewals.start()
        waited: list[int] = [self._pipe, renewals.news]
        while True:
            left = math.inf if renewals.is_given_up else renewals.lost_at - elapsed()
            if left <= 0 or (renewals.is_stale and not renewals.is_given_up):
                return self._lose()
            ready, _, _ = select.select(waited, [], [], min(left, _LOOK))
            if self._pipe in ready:
                return self._finish() if os.read(self._pipe, 1) else self._abandon()
            if renewals.news in ready:
                os.read(renewals.news, 64)

    def _finish(self) -> int:
        code = self._renewals.release()
        if code == LOST:
            remark(f"engram: {self._what()} was lost while the command ran: {self._why()}")
        elif code == UNRELEASED:
            problem = self._renewals.problem
            why = problem.message if problem else "the daemon does not answer"
            remark(f"engram: {self._what()} could not be released, and ends within {self._lease.ttl:g} s: {why}")
        return code

    def _lose(self) -> int:
        """What is said comes after the end: who reads it may keep us waiting."""
        said = f"engram: {self._what()} was lost, so the command is ended: {self._why()}"
        has_ended = self._end()
        remark(said)
        return LOST if has_ended else STUCK

    def _abandon(self) -> int:
        code = self._renewals.release() if self._end() else STUCK
        remark(f"engram: `engram lock` was killed, so its command is ended: nobody is left to say how it went ({self._what()})")
        return code

    def _end(self) -> bool:
        if group.end(self._command, self._grace):
            return True
        remark("engram: the command cannot be ended, since it runs as another user; it runs on without the lock")
        return False

    def _what(self) -> str:
        more = len(self._lease.resources) - 1
        return f"the lock on {self._lease.resources[0]}{f' and {more} more' * bool(more)} (token {self._lease.token})"

    def _why(self) -> str:
        problem = self._renewals.problem
        if problem is None or problem.code != "timeout":
            return problem.message if problem else "it was not renewed in time"
        return f"the daemon has not answered for {format_duration(round((self._lease.ttl - self._lease.left) * 1e6))}"


def let_go(*kept: int) -> None:
    """Let go of every other file: whoever waits for its end must not wait for us. Only standard error leads somewhere from now on."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    for fd in map(int, os.listdir("/dev/fd")):
        if fd > 2 and fd not in kept:
            try:
                os.close(fd)
            except OSError:  # the listing's own
                pass
