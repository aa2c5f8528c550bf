"""`status` and `shutdown`."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..protocol.connection import Id
from ..state.access import ADMIN
from .peer import Peer

if TYPE_CHECKING:
    from .engine import Engine


SUBSCRIBERS = 100  # those that are farthest behind are described


def status(engine: Engine, peer: Peer, request_id: Id, fields: dict[str, Any]) -> None:
    """Describe the daemon: what it is, what it holds, who is connected. Where things are and who reads what is for admins."""
    everything = peer.access.may(ADMIN)
    problem = engine.problem()
    subscribers = sorted(engine.fanout.subscribers(), key=lambda subscriber: -subscriber.lag)
    facts = {
        "server": f"engramd {__version__}",
        "pid": os.getpid(),
        **({"problem": problem.message if everything else problem.code} if problem is not None else {}),
        **(engine.facts if everything else {}),
        "history": engine.log.history,
        "last_seq": engine.fanout.durable_seq,
        "started_at": engine.started_at,
        "uptime": round(time.monotonic() - engine.started, 3),
        "connections": len(engine.peers),
        "subscriptions": len(subscribers),
        "leases": len(engine.log.pending.held.leases),
        "waiters": engine.leases.waiting,
        "lag": subscribers[0].lag if subscribers else 0,
        "store_bytes": engine.log.size(),
        "free_bytes": engine.space.left(),
        "memory_bytes": memory(),
        "max_payload": engine.max_payload,
        "search": engine.search.status(),
        "limits": engine.accounts.status(),
        "subscribers": [subscriber.describe() for subscriber in subscribers[:SUBSCRIBERS]] if everything else [],
    }
    peer.answer(request_id, {"status": facts})


def memory(pid: int | str = "self") -> int:
    """Resident memory of a process in bytes, or 0 where the system does not tell (proc(5): the second number of statm)."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def shutdown(engine: Engine, peer: Peer, request_id: Id, fields: dict[str, Any]) -> None:
    """Answer, then stop as on SIGTERM."""
    peer.answer(request_id, {})
    engine.stopping.set()
