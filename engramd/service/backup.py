"""`backup`: a page of the log's records, as they stand on disk. The client keeps them: the daemon writes in its own directory alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from ..protocol.connection import Id
from ..protocol.errors import EngramError
from ..protocol.messages import PAGE_BYTES
from ..state.view import TRIMMED, Trimmed
from .peer import Peer

if TYPE_CHECKING:
    from .engine import Engine


def backup(engine: Engine, peer: Peer, request_id: Id, fields: dict[str, Any]) -> None:
    """Answer with the records behind a seq, read in steps between which others get their turn."""
    from ..storage.backup import read_chunk  # most daemons are never asked for it

    end = engine.fanout.durable_seq
    after, last = fields["after"], min(fields.get("last", end), end)
    if after > end:
        raise EngramError("cursor", f"the log ends at {end}; nothing stands at {after}", last=end)

    async def read() -> None:
        frames, reached, changed = bytearray(), after, []
        while reached < last and len(frames) < PAGE_BYTES:
            began = trio.current_time()
            chunk = read_chunk(engine.log, reached, last)
            frames += chunk.frames
            changed += chunk.changed
            reached = chunk.reached
            await trio.sleep(trio.current_time() - began)  # half of the time is for others
        answer = {"frames": bytes(frames), "reached": reached, "last": last, "changed": changed, "history": engine.log.history}
        answer["gone"] = (engine.log.durable.get(TRIMMED, "") or Trimmed()).gone
        answer["whole"] = engine.log.last_rewrite  # looked at after the records: what is not among them, this event may have removed
        peer.answer(request_id, answer)

    engine.spawn(peer, request_id, read)
