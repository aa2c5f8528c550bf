"""The engine: the log, the committer and the fan-out together, and the table from operation to handler."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import cbor2
import trio

from .. import __version__
from ..protocol.connection import Id, Request
from ..protocol.errors import EngramError
from ..protocol.limits import Limits
from ..protocol.messages import MAX_UNITS, VERSION, frame_limit
from ..protocol.times import elapsed
from ..state.machine import Command
from ..state.outcome import Refused
from ..storage.log import Appended, Batch, Log
from ..storage.records import Record
from . import (
    backup,
    check,
    consumers,
    contexts,
    locks,
    metrics,
    packs,
    redaction,
    relationships,
    retention,
    search,
    status,
    subscriptions,
    tokens,
    units,
)
from .access import guard
from .committer import Committer, Done, Result, wall_clock
from .counters import Counters
from .fanout import Fanout
from .leases import Leases
from .limits import Accounts
from .manager import LockManager
from .peer import Flusher, Peer
from .presence import Presence
from .space import Space

logger = logging.getLogger("engramd.engine")

STOP_SECONDS = 5.0  # how long clients may take to read their last answers
LOOK = 1.0  # seconds between two looks at the loop and the store

Handler = Callable[["Engine", Peer, Id, dict[str, Any]], None]

_HANDLERS: Mapping[str, Handler] = {
    "put": units.put,
    "get": units.get,
    "list": units.list_,
    "tail": subscriptions.tail,
    "search": search.search,
    "pack": packs.pack,
    "related": relationships.related,
    "why": relationships.why,
    "consumer_create": consumers.create,
    "consume": consumers.consume,
    "ack": consumers.ack,
    "consumer_show": consumers.show,
    "consumer_list": consumers.list_,
    "consumer_parked": consumers.parked,
    "consumer_retry": consumers.retry,
    "consumer_reset": consumers.reset,
    "consumer_delete": consumers.delete,
    "context_create": contexts.create,
    "context_show": contexts.show,
    "context_list": contexts.list_,
    "context_set": contexts.change,
    "context_join": contexts.member(True),
    "context_leave": contexts.member(False),
    "context_pin": contexts.pins(True),
    "context_unpin": contexts.pins(False),
    "context_add": contexts.places(True),
    "context_remove": contexts.places(False),
    "lock": locks.lock,
    "renew": locks.renew,
    "unlock": locks.unlock,
    "locks": locks.locks,
    "agents": contexts.agents,
    "names": contexts.names,
    "context_retain": retention.retain,
    "redact": redaction.redact,
    "status": status.status,
    "metrics": metrics.metrics,
    "shutdown": status.shutdown,
    "backup": backup.backup,
    "check": check.check,
    "token_issue": tokens.issue,
    "token_list": tokens.list_,
    "token_revoke": tokens.revoke,
    "token_inspect": tokens.inspect,
}


class Engine:
    """Everything a daemon does, without a socket.

    Args:
        log: the open store.
        max_payload: bytes a unit's payload may have.
        facts: what `status` should say besides what the engine knows (socket, data directory).
        clock, elapsed: the wall clock in microseconds; and the seconds by which leases expire.
        write: how a batch is synced.
        search_settings: what to search with; None for an engine that cannot.
        min_free: bytes of the disk that puts leave free.
        keep_events: microseconds that events which are no entries stay; None means for ever.
        offload: runs what blocks for long beside the loop. Not cancellable.
        limits: of each agent.
        require_token, users: see `Tokens`.
        lost: called when a write has failed in such a way that this process must end at once, when its clients have been told.

    Attributes:
        peers: who is connected.
        counters: what is counted and timed.
        checking: held while a client has the store checked: what is erased would stay in the files for its snapshot.
        stopping: set when someone asked the daemon to stop.
    """

    def __init__(
        self,
        log: Log,
        max_payload: int,
        facts: Mapping[str, Any] | None = None,
        clock: Callable[[], int] = wall_clock,
        write: Callable[[Batch], Awaitable[None]] | None = None,
        search_settings: search.Settings | None = None,
        min_free: int = 0,
        elapsed: Callable[[], float] = elapsed,
        keep_events: int | None = None,
        offload: Callable[[Callable[[], None]], Awaitable[None]] = trio.to_thread.run_sync,
        limits: Limits | None = None,
        require_token: bool = False,
        users: Sequence[str] = (),
        lost: Callable[[EngramError], None] = lambda because: None,
    ) -> None:
        self.log = log
        self.max_payload = max_payload
        self.max_frame = frame_limit(max_payload)
        self.facts = dict(facts or {})
        self.space = Space(log.free, min_free)
        self.fanout = Fanout(log)
        self.flusher = Flusher()
        self.counters = Counters()
        self.committer = Committer(log, self._publish, self.flusher.flush, self.counters, clock, write)
        self.leases: LockManager = Leases(self, elapsed)
        self.committer.on_failure = self._failed
        self._lost = lost
        self.consumers = consumers.Consumers(self)
        self.presence = Presence(self)
        self.offload = offload
        self.retention = retention.Retainer(self, keep_events, clock, elapsed)
        self.erasures = redaction.Erasures(self)
        self.accounts = Accounts(limits or Limits())
        self.tokens = tokens.Tokens(self, require_token, users)
        self.search = search.Search(log, search_settings, self.heed)
        self.written = packs.Memory()
        self.peers: set[Peer] = set()
        self.checking = trio.Lock()
        self.stopping = trio.Event()
        self.started_at = clock()
        self.started = time.monotonic()

    async def run(self) -> None:
        """Do what goes on beside the requests, until cancelled. A disk that refuses a write sets `stopping`."""
        async with trio.open_nursery() as nursery:
            tasks = (
                self._commit,
                self.watch,
                self.search.run,
                self.leases.run,
                self.presence.run,
                self.tokens.run,
                self.retention.run,
                self.erasures.run,
            )
            for task in tasks:
                nursery.start_soon(task)

    async def _commit(self) -> None:
        try:
            await self.committer.run()
        except EngramError:
            self.stopping.set()

    async def watch(self) -> None:
        """Look again and again how late the loop is, and whether the store is in its place, until cancelled."""
        while True:
            due = trio.current_time() + LOOK
            await trio.sleep_until(due)
            self.counters.loop_late.observe(trio.current_time() - due)
            try:
                self.log.free()
            except EngramError as error:
                self.heed(error)

    async def finish(self) -> None:
        """Let what is in flight reach the disk, and its answers their clients. Call it when `stopping` is set."""
        await self.committer.drained()
        because = EngramError("unavailable", "the daemon is stopping")

        async def finish(peer: Peer) -> None:
            await peer.finish(because)
            await peer.outbox.drained()

        with trio.move_on_after(STOP_SECONDS):
            async with trio.open_nursery() as nursery:
                for peer in list(self.peers):
                    nursery.start_soon(finish, peer)

    def _publish(self, events: Sequence[Appended]) -> None:
        self.fanout.publish(events)
        self.tokens.follow(events)
        self.search.notice()

    def _failed(self, because: EngramError) -> None:
        """No more writes are taken."""
        self.leases.give_up_all(because)
        if self.log.is_lost:
            self.flusher.flush()
            self._lost(because)

    def problem(self) -> EngramError | None:
        """Why no put is taken, if none is: the daemon stops, the store is damaged, or the disk is almost full."""
        if self.stopping.is_set():
            return EngramError("unavailable", "the daemon is stopping")
        return self.committer.failed or self.space.problem()

    def greeting(self) -> dict[str, Any]:
        """The answer to `hello`."""
        return {
            "version": list(VERSION),
            "server": f"engramd {__version__}",
            "history": self.log.history,
            "limits": {"max_payload": self.max_payload, "max_frame": self.max_frame, "max_units": MAX_UNITS},
            "pid": os.getpid(),
        }

    def handle(self, peer: Peer, request: Request) -> None:
        """Carry out one validated request. It is answered, now or later; nothing is raised."""
        peer.began(request)
        request_id, op = request.id, request.op
        try:
            if self.stopping.is_set():
                raise EngramError("unavailable", "the daemon is stopping; nothing was done")
            assert peer.account is not None, "a peer is welcomed first"
            peer.takes(request_id, self.accounts.admit(peer.account, peer.account_name, request))
            _HANDLERS[op](self, peer, request_id, guard(self, peer, op, request.fields))
        except EngramError as error:
            self.fail(peer, request_id, error)
        except Exception:
            self._bug(peer, request_id)

    def welcome(self, peer: Peer) -> None:
        """A connection was greeted. Raises EngramError("busy") when its agent has too many."""
        peer.account = self.accounts.open(peer.account_name)
        self.peers.add(peer)
        self.tokens.arrived(peer)
        self.leases.arrived(peer)
        if peer.presence:
            self.presence.arrive(peer.agent)

    def farewell(self, peer: Peer) -> None:
        """A connection has ended."""
        peer.gone = True
        self.peers.discard(peer)
        peer.release()
        self.accounts.close(peer.account_name)
        self.tokens.left(peer)
        self.leases.left(peer)
        if peer.presence:
            self.presence.leave(peer.agent)

    def submit(
        self,
        peer: Peer,
        request_id: Id,
        command: Command,
        now: int,
        answer: Callable[[Result], None],
    ) -> None:
        """Have a command decided. `answer` gets what came of it when that is on disk; refusals and failures are answered here."""
        self.leases.follow(self.committer.submit(command, now, self._done(peer, request_id, answer)))

    def settled(self, peer: Peer, request_id: Id, answer: Callable[[], None]) -> None:
        """Answer when everything that was decided so far is on disk: for what rests on it and is no write."""
        self.committer.settled(self._done(peer, request_id, lambda _: answer()))

    def _done(self, peer: Peer, request_id: Id, answer: Callable[[Result], None]) -> Done:
        def done(result: Result | EngramError) -> None:
            if isinstance(result, EngramError):
                peer.fail(request_id, result)
            elif isinstance(result, Refused):
                peer.fail(request_id, EngramError(result.code, result.message, **result.details))
            else:
                try:  # as in `handle`, and in the open there and here: each put goes through both
                    answer(result)
                except EngramError as error:
                    self.fail(peer, request_id, error)
                except Exception:
                    self._bug(peer, request_id)

        return done

    def carry_out(self, command: Command) -> None:
        """Have a command of the daemon's own decided. If it fails, the daemon takes no more writes at all."""
        self.leases.follow(self.committer.submit(command, self.committer.now(), lambda _: None))

    def spawn(self, peer: Peer, request_id: Id, task: Callable[[], Awaitable[None]]) -> None:
        """Run a task that answers the request, as long as the connection lives; what it raises becomes the answer."""

        async def run() -> None:
            try:
                await task()
            except EngramError as error:
                self.fail(peer, request_id, error)
            except Exception:
                self._bug(peer, request_id)
            peer.outbox.flush()

        peer.spawn(run)

    def fail(self, peer: Peer, request_id: Id, error: EngramError) -> None:
        """Answer with an error, and heed it."""
        self.heed(error)
        peer.fail(request_id, error)

    def heed(self, error: EngramError) -> None:
        """Writing ends where a read comes upon damage in the store."""
        if error.code == "storage":
            self.committer.refuse_writes(error)

    @staticmethod
    def _bug(peer: Peer, request_id: Id) -> None:
        logger.exception("an operation failed")
        peer.fail(request_id, EngramError("internal", "the daemon failed at this; its log has the details"))

    @staticmethod
    def context_of(record: Record) -> str | None:
        """The context an event belongs to."""
        context: str | None = cbor2.loads(record.body).get("context")
        return context
