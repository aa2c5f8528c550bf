"""Memory: what the allocator keeps of what was freed is the system's again after a burst."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from ..allocator import give_back


async def give_back_after(burst: Callable[[], Awaitable[None]]) -> None:
    """Give memory back after each burst, until cancelled. `burst` returns when one is over."""
    while True:
        await burst()
        await trio.to_thread.run_sync(give_back)
