"""What the service knows of a connected client: who it is, and where its answers go."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import trio

from ..protocol.connection import Id, Request, ServerConnection, answer_frame, failure_frame
from ..protocol.doubt import ADVICE
from ..protocol.errors import EngramError
from ..protocol.framing import encode
from ..state.access import NOTHING, OWNER, Access
from .counters import Counters
from .limits import Account
from .turns import Turn


class Outbox(Protocol):
    """Bytes on their way to one client. Writing never waits; whoever produces on its own account looks at `pending` first."""

    pending: int  # bytes that the kernel has not taken yet
    written: int  # bytes that were ever written
    taken: int  # those of them that the kernel has taken; where it is less in the end, the rest has reached nobody

    def write(self, data: bytes) -> None:
        """Queue bytes; `flush` sends them. Bytes for a closed connection vanish."""

    def flush(self) -> None:
        """Hand what is queued to the kernel, without waiting."""

    async def room(self) -> None:
        """Wait until little enough is pending to produce more."""

    async def drained(self) -> None:
        """Wait until nothing is pending."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a connection comes from.

    Attributes:
        uid: of the process at its other end, where the kernel tells: on a Unix socket.
        host: of a connection over a network, else nothing.
        is_owner: it is the daemon's own user's, on a Unix socket.
    """

    uid: int | None = None
    host: str = ""
    is_owner: bool = False

    @property
    def is_network(self) -> bool:
        """Whether nobody but a token tells who it is."""
        return bool(self.host)


class Flusher:
    """Remembers which outboxes were written to, so that a burst of answers costs one system call for each client."""

    def __init__(self) -> None:
        self._dirty: dict[Outbox, None] = {}

    def mark(self, outbox: Outbox) -> None:
        """Note that the outbox has something to flush."""
        self._dirty[outbox] = None

    def flush(self) -> None:
        """Flush every marked outbox, in the order in which they were marked."""
        if self._dirty:
            dirty, self._dirty = self._dirty, {}
            for outbox in dirty:
                outbox.flush()


class Stream(Protocol):
    """A stream under way, as notices reach it."""

    def grant(self, credit: int) -> None:
        """The client can take `credit` more bytes."""

    def cancel(self, because: EngramError | None = None) -> None:
        """The client wants no more, or there is a reason why it gets no more; the stream answers and ends."""


class Peer:
    """One client of the service.

    Args:
        agent: who acts on this connection.
        session: the session it belongs to, if any.
        owns_session: whether the session lasts as long as this connection.
        presence: whether the agent counts as present because of it.
        connection: the protocol state, which is told when a request is answered.
        outbox: where frames go.
        spawn: starts a task that lives at most as long as the connection.
        counters: told of every answer.
        access: what it may do.
        hang_up: ends the connection, with the reason as its last word.

    Attributes:
        token: the name of the token that it greeted with, if any.
        account_name: under what name it is accounted for.
        account: what its agent uses, from `Engine.welcome` on.
    """

    def __init__(
        self,
        agent: str,
        connection: ServerConnection,
        outbox: Outbox,
        spawn: Callable[[Callable[[], Awaitable[Any]]], None],
        counters: Counters,
        session: str | None = None,
        owns_session: bool = False,
        presence: bool = False,
        access: Access = OWNER,
        hang_up: Callable[[EngramError], None] = lambda because: None,
    ) -> None:
        self.agent = agent
        self.access = access
        self.token = access.token
        self.account_name = f"agent {agent}" if access.token is None else f"token {access.token}"
        self.account: Account | None = None
        self._hang_up = hang_up
        self.session = session
        self.owns_session = owns_session
        self.presence = presence
        self.gone = False  # whether its connection has ended
        self.grants: dict[int, int] = {}  # tokens of leases, with what had been written when they were answered
        self.outbox = outbox
        self.spawn = spawn
        self.streams: dict[Id, Stream] = {}
        self._connection = connection
        self._counters = counters
        self._under_way: dict[Id, _UnderWay] = {}
        self._fewer = trio.Event()
        self._most = -1

    def began(self, request: Request) -> None:
        """A request is being carried out from now on."""
        self._under_way[request.id] = _UnderWay(request.op, None if request.lasts else time.monotonic())

    def answer(self, request_id: Id, result: Mapping[str, Any]) -> None:
        """Answer with plain CBOR values."""
        self.answer_encoded(request_id, encode(result))

    def answer_encoded(self, request_id: Id, result: bytes) -> None:
        """Answer with a map that is already encoded."""
        self._finish(request_id)
        self.outbox.write(answer_frame(request_id, result))

    def fail(self, request_id: Id, error: EngramError) -> None:
        """Answer with an error. Where the outcome is unknown, what to do depends on what was asked."""
        op = self._under_way[request_id].op
        if error.code == "outcome_unknown" and op in ADVICE:
            error = EngramError(error.code, f"{error.message}. {ADVICE[op]}", **error.details)
        self._finish(request_id, error)
        self.outbox.write(failure_frame(request_id, error))

    @property
    def in_flight(self) -> int:
        """Requests without an answer, streams included."""
        return len(self._under_way)

    async def settled(self, most: int) -> None:
        """Wait until at most so many requests, streams included, are without an answer. One task waits at a time."""
        while self.in_flight > most:
            self._most, self._fewer = most, trio.Event()
            await self._fewer.wait()
        self._most = -1

    async def finish(self, because: EngramError | None = None) -> None:
        """End the streams, for a reason if there is one, and wait until every request is answered."""
        for stream in list(self.streams.values()):
            stream.cancel(because)
        await self.settled(0)

    @property
    def turn(self) -> Turn:
        """What it shares of the loop with its agent's other connections."""
        assert self.account is not None, "a peer is welcomed first"
        return self.account.turn

    def charge(self, size: int) -> None:
        """It has sent bytes that are no request to admit."""
        if self.account is not None:
            self.account.charge(size)

    def pause(self) -> float:
        """Seconds in which not to read from it: it goes on sending too much, though it was refused."""
        return 0.0 if self.account is None else self.account.pause()

    @property
    def has_to_pause(self) -> bool:
        """Whether `pause` may say so."""
        return self.account is not None and self.account.has_to_pause

    def takes(self, request_id: Id, what: tuple[str, ...]) -> None:
        """A request takes up what is limited, as long as it has no answer."""
        self._under_way[request_id].takes = what

    def release(self) -> None:
        """The connection has ended: nothing of it takes up anything."""
        for under_way in self._under_way.values():
            self._give_back(under_way)

    def _give_back(self, under_way: _UnderWay) -> None:
        if under_way.takes:
            assert self.account is not None, "only the admitted take up anything"
            used = self.account.used
            for kind in under_way.takes:
                used[kind] -= 1
            under_way.takes = ()

    def dismiss(self, because: EngramError) -> None:
        """It may do nothing any more: its streams end, what is under way is answered, and then the connection ends."""
        self.access = NOTHING
        self._hang_up(because)

    def _finish(self, request_id: Id, error: EngramError | None = None) -> None:
        self._connection.finish(request_id)
        under_way = self._under_way.pop(request_id)
        self._give_back(under_way)
        began = under_way.began
        self._counters.answered(under_way.op, None if began is None else time.monotonic() - began, error)
        if len(self._under_way) <= self._most:
            self._fewer.set()


class _UnderWay:
    """A request without an answer: its operation, when it began if it is timed, and what it takes up of what is limited."""

    __slots__ = ("began", "op", "takes")

    def __init__(self, op: str, began: float | None) -> None:
        self.op = op
        self.began = began
        self.takes: tuple[str, ...] = ()
