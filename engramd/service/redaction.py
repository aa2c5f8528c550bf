"""`redact`, and the erasure of what was redacted from every file.

The steps, numbered as in docs/storage.md. What was put before is moved into table files (1), so that the event (2), which replaces it in
the log, stands in others; compacting the keys (3) then leaves only what is newest. The search worker does likewise with its index (4). At
last it is noted that nothing is left to do (5). A start goes on with what is not noted.
"""

from __future__ import annotations

import logging
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import trio

from ..protocol.connection import Id
from ..protocol.errors import EngramError
from ..state.redaction import FinishErasures, Redact, UnitRedacted
from ..state.view import ERASURES, UNITS, Erasure
from ..storage import keys
from .access import Sight
from .peer import Peer
from .refs import unit_id

if TYPE_CHECKING:
    from .engine import Engine

logger = logging.getLogger("engramd.redaction")

PATIENCE = 60.0  # seconds that an answer waits for the erasure
STEP = 100  # units erased at a time


def redact(engine: Engine, peer: Peer, request_id: Id, fields: dict[str, Any]) -> None:
    """Redact units; answered when their bytes are in no file any more, or that takes too long."""

    async def work() -> None:
        sight = Sight(engine.log, peer.access)
        units = tuple(dict.fromkeys(unit_id(sight, ref) for ref in fields["ids"]))
        command = Redact(peer.agent, units, fields["reason"])
        done = await engine.erasures.redact(command)
        with trio.move_on_after(PATIENCE):
            await engine.erasures.finished()
        peer.answer(request_id, {"redacted": done, "erased": engine.erasures.is_finished})

    engine.spawn(peer, request_id, work)


class Erasures:
    """Sees to it that redacted bytes leave the files."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._wake = trio.Event()
        self._done = trio.Event()

    @property
    def is_finished(self) -> bool:
        """Whether nothing that was redacted is left in a file."""
        return next(self._engine.log.durable.keys(ERASURES), None) is None

    async def redact(self, command: Redact) -> list[int]:
        """Have units redacted, on disk when this returns; gives the seqs of those that had not been.

        Raises:
            EngramError: the refusal, or that the disk failed.
        """
        engine = self._engine
        heads = [engine.log.pending.get(UNITS, unit) for unit in command.units]
        if any(head is not None and not head.redacted for head in heads):
            written = trio.Event()
            engine.committer.settled(lambda _: written.set())
            await written.wait()
            await engine.offload(engine.log.flush)  # 1
        events = [appended.event for appended in await engine.committer.carry_out(command)]  # 2
        engine.written.forget()
        self._wake.set()
        return [event.unit for event in events if isinstance(event, UnitRedacted)]

    async def finished(self) -> None:
        """Wait until nothing is left to do."""
        while not self.is_finished:
            await self._done.wait()

    async def run(self) -> None:
        """Erase what there is to erase, until cancelled or no write is taken any more."""
        while True:
            self._wake = trio.Event()
            rows = list(islice(self._engine.log.durable.scan(ERASURES), STEP))
            if not rows:
                await self._wake.wait()
                continue
            try:
                async with self._engine.checking:
                    for span in self._spans(rows):
                        await self._engine.offload(partial(self._engine.log.compact, *span))  # 3
                await self._engine.search.absorbed(max(row.event for _, row in rows))  # 4
                await self._engine.committer.carry_out(FinishErasures(tuple(keys.seq_of(key) for key, _ in rows)))  # 5
            except EngramError as error:
                logger.error("redacted units cannot be erased: %s", error.message)
                self._engine.heed(error)
                return
            self._done.set()
            self._done = trio.Event()

    def _spans(self, rows: list[tuple[bytes, Erasure]]) -> list[tuple[bytes, bytes]]:
        """The keys that had the units' records and entries, and those among which were the keys that found their labels and paths."""
        found, prefixes = set[tuple[bytes, bytes]](), {keys.BY_PATH}
        for tail, row in rows:
            found |= {(key, key) for key in (keys.LOG + tail, keys.entries(row.context) + tail)}
            contexts = {row.context, *self._engine.log.additions(keys.seq_of(tail)).values()}
            prefixes |= {keys.by_labels(context) for context in contexts}
        return sorted(found | {(prefix, prefix + b"\xff" * 24) for prefix in prefixes})
