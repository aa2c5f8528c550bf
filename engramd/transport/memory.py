"""A connection inside one program: what one end sends, the other receives."""

from __future__ import annotations

import trio


class MemoryStream(trio.abc.Stream):
    """One end. One task sends at a time, and one receives.

    A send waits until the other end has taken all of it, so nothing piles up between the two.
    """

    def __init__(self, out: trio.MemorySendChannel[bytes], into: trio.MemoryReceiveChannel[bytes]) -> None:
        self._out = out
        self._into = into
        self._rest = b""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of the data.

        Raises:
            trio.BrokenResourceError: the other end is closed.
        """
        await self._out.send(bytes(data))

    async def wait_send_all_might_not_block(self) -> None:
        """A checkpoint: there is no buffer whose room could be waited for."""
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """What was sent, at most so many bytes of it; none once the other end is closed."""
        if self._rest:
            await trio.lowlevel.checkpoint()
        else:
            try:
                self._rest = await self._into.receive()
            except trio.EndOfChannel:
                return b""
        at = len(self._rest) if max_bytes is None else max_bytes
        taken, self._rest = self._rest[:at], self._rest[at:]
        return taken

    async def aclose(self) -> None:
        """Hang up."""
        self._out.close()
        self._into.close()
        await trio.lowlevel.checkpoint()


def pair() -> tuple[MemoryStream, MemoryStream]:
    """Two ends that are connected to each other."""
    there, from_here = trio.open_memory_channel[bytes](0)
    here, from_there = trio.open_memory_channel[bytes](0)
    return MemoryStream(there, from_there), MemoryStream(here, from_here)
