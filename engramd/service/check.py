"""`check`: the store is checked while it is used, on a snapshot, in steps between which others get their turn."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import trio

from ..protocol.connection import Id
from ..protocol.errors import EngramError
from ..storage.leveldb import Reader
from .peer import Peer

if TYPE_CHECKING:
    from .engine import Engine


def check(engine: Engine, peer: Peer, request_id: Id, fields: dict[str, Any]) -> None:
    """Answer with what is wrong. One check is made at a time; it ends with its connection."""

    async def run() -> None:
        try:
            engine.checking.acquire_nowait()
        except trio.WouldBlock:
            raise EngramError("busy", "another check of the store is under way, or an erasure; wait for its end") from None
        try:
            with closing(engine.log.snapshot()) as store:
                await _check(engine, store, peer, request_id)
        finally:
            engine.checking.release()

    engine.spawn(peer, request_id, run)


async def _check(engine: Engine, store: Reader, peer: Peer, request_id: Id) -> None:
    from ..storage.check import Check  # most daemons are never asked for it

    found = Check(store)
    began = trio.current_time()
    for _ in found.run():
        await trio.sleep(trio.current_time() - began)  # half of the time is for others
        if engine.checking.statistics().tasks_waiting:
            raise EngramError("busy", "units are being erased, from the files too, which cannot wait for this check; repeat it")
        began = trio.current_time()
    peer.answer(request_id, found.report())
