"""Ways to sync a batch, to hold against each other; each makes a `write` for the committer."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from queue import SimpleQueue

import outcome
import trio

from engramd.service.committer import AdaptiveWriter, write_in_thread, write_inline
from engramd.storage.log import Batch

Write = Callable[[Batch], Awaitable[None]]


async def write_now(batch: Batch) -> None:
    """Sync on the loop at once: nothing else is served until it is done, not even what has arrived already."""
    batch.commit()


class OwnThread:
    """Sync in one thread that only does this; it wakes the loop through `TrioToken.run_sync_soon`."""

    def __init__(self) -> None:
        self._work: SimpleQueue[tuple[Callable[[], None], trio.lowlevel.Task, trio.lowlevel.TrioToken]] = SimpleQueue()
        self._thread: threading.Thread | None = None

    async def __call__(self, batch: Batch, commit: Callable[[Batch], None] | None = None) -> None:
        """Not cancellable: a write under way always ends."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="sync", daemon=True)
            self._thread.start()
        self._work.put(
            (batch.commit if commit is None else partial(commit, batch), trio.lowlevel.current_task(), trio.lowlevel.current_trio_token())
        )
        await trio.lowlevel.wait_task_rescheduled(lambda _raise_cancel: trio.lowlevel.Abort.FAILED)

    def _run(self) -> None:
        while True:
            commit, task, token = self._work.get()
            token.run_sync_soon(trio.lowlevel.reschedule, task, outcome.capture(commit))


WAYS: Mapping[str, Callable[[], Write]] = {
    "loop": lambda: write_inline,
    "loop-now": lambda: write_now,
    "to_thread": lambda: write_in_thread,
    "own-thread": OwnThread,
    "adaptive": AdaptiveWriter,
}
