"""The C library's allocator: what it keeps of what was freed can be the system's again."""

from __future__ import annotations


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
