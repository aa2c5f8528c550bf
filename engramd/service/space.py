"""The room on the disk: puts end before it does, so that a full disk stops only writers, and only until there is room again."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from ..protocol.errors import EngramError
from ..protocol.messages import MIB

LOOK_BYTES = MIB  # put since the last look after which the next is due; LevelDB may write them several times over
LOOK_SECONDS = 1.0


class Space:
    """What is left on the disk of the store.

    Args:
        free: bytes that may still be written there; raises EngramError("storage") when the store is gone.
        least: bytes that puts leave free. LevelDB needs some to tidy up, and what makes room again (unlocking, redacting, trimming) is
            written too.
    """

    def __init__(self, free: Callable[[], int], least: int) -> None:
        self.free = free
        self.least = least
        self._left = 0
        self._put = 0
        self._looked = -LOOK_SECONDS

    def take(self, size: int) -> None:
        """Note that so many bytes are about to be put.

        Raises:
            EngramError: `busy` when there is no room for them, `storage` when the store is gone.
        """
        if not self.least:
            return
        self._put += size
        if self._put >= LOOK_BYTES or self._left - size < self.least or time.monotonic() - self._looked >= LOOK_SECONDS:
            self._look()
        if self._left - size < self.least:
            raise self._refusal()

    def problem(self) -> EngramError | None:
        """Why no put is taken now, be it empty; None where some are."""
        try:
            self._look()
        except EngramError as error:
            return error
        return self._refusal() if self._left < self.least else None

    def left(self) -> int:
        """Bytes that are free now; 0 where the store is gone."""
        with suppress(EngramError):
            return self.free()
        return 0

    def _look(self) -> None:
        self._left, self._put, self._looked = self.free(), 0, time.monotonic()

    def _refusal(self) -> EngramError:
        return EngramError(
            "busy",
            f"the disk is almost full: {self._left // MIB} MiB are free where the log is, and {self.least // MIB} MiB of them are kept "
            "(min_free). Nothing is lost; free some, then try again",
            free=self._left,
            min_free=self.least,
        )
