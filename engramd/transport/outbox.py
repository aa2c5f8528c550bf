"""The bytes on their way to one client."""

from __future__ import annotations

from collections.abc import Callable

import trio

from ..service.peer import Flusher

LOW = 256 * 1024  # bytes pending below which producers go on


class StreamOutbox:
    """An outbox over a trio stream.

    A flush first tries `send_now`, one system call without a task switch, which is what makes fan-out cheap; what the kernel does not
    take is left to the `run` task.

    Args:
        send_now: sends bytes without blocking and returns how many were taken, or raises OSError; None where there is no such thing (TLS).
    """

    def __init__(self, stream: trio.abc.SendStream, flusher: Flusher, send_now: Callable[[bytes], int] | None = None) -> None:
        self.pending = 0
        self.written = 0
        self.taken = 0
        self._stream = stream
        self._flusher = flusher
        self._send_now = send_now
        self._queue: list[bytes] = []
        self._sending = False
        self._closed = False
        self._finished = False
        self._work = trio.Event()
        self._less = trio.lowlevel.ParkingLot()  # who waits until less is pending

    @property
    def is_closed(self) -> bool:
        """Whether nobody will get what is written."""
        return self._closed

    def write(self, data: bytes) -> None:
        """Queue bytes; `flush` sends them. Bytes for a closed connection vanish."""
        self.written += len(data)
        if self._closed or self._finished:
            return
        self._queue.append(data)
        self.pending += len(data)
        self._flusher.mark(self)

    def finish(self, data: bytes) -> None:
        """Queue the last bytes: what is written after them vanishes."""
        self.write(data)
        self._finished = True

    def flush(self) -> None:
        """Hand what is queued to the kernel, without waiting."""
        if not self._queue or self._sending or self._closed:
            return
        if self._send_now is not None:
            data = b"".join(self._queue)
            try:
                sent = self._send_now(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.close()
                return
            self._queue = [data[sent:]] if sent < len(data) else []
            self.taken += sent
            self._sent(sent)
        if self._queue:
            self._work.set()

    async def room(self) -> None:
        """Wait until little enough is pending to produce more."""
        await self._below(LOW)

    async def drained(self) -> None:
        """Wait until nothing is pending."""
        await self._below(0)

    async def _below(self, most: int) -> None:
        self.flush()
        while self.pending > most:
            await self._less.park()

    def _sent(self, size: int) -> None:
        self.pending -= size
        if self._less:
            self._less.unpark_all()

    async def run(self) -> None:
        """Send what the kernel did not take at once, until cancelled or the peer is gone."""
        try:
            while not self._closed:
                await self._work.wait()
                self._work = trio.Event()
                while self._queue and not self._closed:
                    data, self._queue, self._sending = b"".join(self._queue), [], True
                    await self._stream.send_all(data)
                    self._sending = False
                    self.taken += len(data)
                    if not self._closed:
                        self._sent(len(data))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self.close()  # a frame may be cut off, and nothing can follow it

    def close(self) -> None:
        """Drop what is queued and take no more."""
        self._closed = True
        self._queue = []
        self._sent(self.pending)
        self._work.set()
