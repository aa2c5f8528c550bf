"""Memory: what the allocator keeps of what was freed is the system's again after a burst."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio


async def give_back_after(burst: Callable[[], Awaitable[None]]) -> None:
    """Give memory back after each burst, until cancelled. `burst` returns when one is over."""
    while True:
        await burst()
        await trio.to_thread.run_sync(give_back)


def give_back() -> bool:
    """Give back what was freed between pieces that are still in use; False where the C library has no way to (it is glibc's).

    It takes milliseconds, and blocks whoever allocates meanwhile no longer than one arena takes.
    """
    import ctypes  # a megabyte that most daemons never need

    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return False
    trim(0)
    return True
