"""What arrives on plain sockets, read by one task for all of them.

A task for each socket would take turns of the loop, and the committer one behind them. Here one task looks at all sockets at once: what a
client has sent is carried out as soon as it is read, and what all of that comes to is committed when everybody was heard. That is how
the puts of many clients come to share a sync.
"""

from __future__ import annotations

import selectors
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager

import trio

READ_BYTES = 8 * 1024  # what one client may have done before others get their turn: about thirty puts


class Arrivals:
    """The sockets that are listened to.

    Args:
        together: entered around what everybody has sent by now.
    """

    def __init__(self, together: AbstractContextManager[object]) -> None:
        self._together = together
        self._selector = selectors.DefaultSelector()
        self._heard: dict[int, _Waiting] = {}

    async def run(self) -> None:
        """Listen until cancelled."""
        selector = self._selector
        try:
            while True:
                await trio.lowlevel.wait_readable(selector.fileno())
                with self._together:
                    self._hear_all()
        finally:
            selector.close()
            self._heard.clear()  # who still waits is cancelled, and is in no selector any more

    def _hear_all(self) -> None:
        """Hear whoever has sent something. In a function of its own, so that nothing of who has gone is kept until then."""
        for waiting in self._ready():
            if self._heard.get(waiting.number) is waiting:  # else what was heard before it has ended it
                self._hear(waiting)

    def _ready(self) -> list[_Waiting]:
        """Who has sent something."""
        if len(self._heard) == 1:  # nobody has to ask who it was
            return [*self._heard.values()]
        return [key.data for key, _ in self._selector.select(0)]

    async def hear(self, sock: socket.socket, take: Callable[[bytes], bool]) -> bool:
        """Give `take` what arrives, as long as it returns True and raises nothing.

        Args:
            sock: one that does not block, and that nobody else reads from or closes meanwhile.
            take: gets at least one byte, at most READ_BYTES; what it raises is raised here.

        Returns:
            Whether there may be more: False once the other side has hung up.

        Raises:
            trio.BrokenResourceError: the connection is broken.
        """
        waiting = _Waiting(sock, take)
        self._selector.register(sock, selectors.EVENT_READ, waiting)
        self._heard[waiting.number] = waiting

        def give_up(_: object) -> trio.lowlevel.Abort:
            if self._heard.get(waiting.number) is waiting:
                self._forget(waiting)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(give_up)
        if waiting.error is not None:
            raise waiting.error
        return not waiting.has_ended

    def _hear(self, waiting: _Waiting) -> None:
        try:
            data = waiting.socket.recv(READ_BYTES)
        except BlockingIOError:  # it was told too early
            return
        except OSError as error:
            waiting.error = trio.BrokenResourceError(str(error))
            waiting.error.__cause__ = error
        else:
            waiting.has_ended = not data
            try:
                if data and waiting.take(data):
                    return
            except Exception as error:
                waiting.error = error
        if self._heard.get(waiting.number) is waiting:  # and was not cancelled by what it has sent
            self._forget(waiting)
            trio.lowlevel.reschedule(waiting.task)

    def _forget(self, waiting: _Waiting) -> None:
        self._selector.unregister(waiting.socket)
        del self._heard[waiting.number]


class _Waiting:
    """A task that has what arrives on its socket taken."""

    def __init__(self, sock: socket.socket, take: Callable[[bytes], bool]) -> None:
        self.socket = sock
        self.number = sock.fileno()
        self.take = take
        self.task = trio.lowlevel.current_task()
        self.error: Exception | None = None
        self.has_ended = False
