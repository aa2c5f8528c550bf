"""One connection, from hello to the last answer."""

from __future__ import annotations

import logging
import math
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from ..protocol.connection import MAX_IN_FLIGHT, Hello, Notice, Rejected, Request, ServerConnection, answer_frame, failure_frame
from ..protocol.errors import EngramError
from ..protocol.framing import encode
from ..service.engine import Engine
from ..service.peer import Origin, Peer
from ..service.turns import Turn
from .arrivals import READ_BYTES, Arrivals
from .outbox import LOW, StreamOutbox

OWN = Origin(is_owner=True)
CLOSE_SECONDS = 1.0
logger = logging.getLogger("engramd.session")

LARGE = 64 * 1024  # bytes of a frame that arrive without leave
HELLO_SECONDS = 5.0
FRAME_SECONDS = 30.0  # between two pieces of one frame
WRONG_SECONDS = 1.0  # how long a stranger waits to be told that a token is wrong, so that guessing is slow
LINGER_SECONDS = 5.0  # a client that has hung up may take so long to read its last answers


class Session:
    """Serves one client over a stream.

    Args:
        stream: both directions; closed when the session ends.
        plain: the socket of the stream, and who reads it, where nothing is between them as TLS is: then there are no detours.
        origin: where the client is.
        greeted: called when it has said who it is, and may come in.
        waited: seconds that were waited for the client already, of those in which it has to greet.
    """

    def __init__(
        self,
        engine: Engine,
        stream: trio.abc.Stream,
        plain: tuple[socket.socket, Arrivals] | None = None,
        origin: Origin = OWN,
        greeted: Callable[[], None] = lambda: None,
        waited: float = 0.0,
    ) -> None:
        self._engine = engine
        self._stream = stream
        self._connection = ServerConnection(engine.max_frame)
        self._plain = plain
        self._messages: Iterator[Hello | Request | Notice | Rejected] = iter(())  # that have arrived and are not carried out
        self.outbox = StreamOutbox(stream, engine.flusher, None if plain is None else plain[0].send)
        self._peer: Peer | None = None
        self._turn = Turn()
        self._grows = False  # a large frame, by leave of its account
        self._patience = trio.CancelScope()
        self._origin = origin
        self._greeted = greeted
        self._waited = waited
        self._showed_token = False
        self._serving = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self._dismissed: EngramError | None = None

    async def run(self) -> None:
        """Serve until the client hangs up, breaks the protocol, or the task is cancelled. Does not raise for what a client does."""
        try:
            async with _closing(self._stream), trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._send)
                try:
                    with self._serving:
                        await self._serve()
                    if self._dismissed is not None:
                        raise self._dismissed
                except EngramError as error:
                    self._engine.counters.refused[error.code] += 1
                    await self._turn_away(error)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    self.outbox.close()
                with trio.move_on_after(LINGER_SECONDS):
                    await self.outbox.drained()
                nursery.cancel_scope.cancel()
        except Exception:
            logger.exception("a connection failed")
        finally:
            self.outbox.close()
            if self._peer is not None:
                if self._grows and self._peer.account is not None:
                    self._peer.account.large.release()
                self._engine.farewell(self._peer)
            self._connection.close()
            self._peer = None  # it knows the session, so either would keep the other

    async def _send(self) -> None:
        """Send until the peer is gone. Then its streams end."""
        await self.outbox.run()
        for stream in list(self._peer.streams.values()) if self._peer is not None else ():
            stream.cancel()

    async def _turn_away(self, error: EngramError) -> None:
        """The client is told, when what it has under way is answered. A stranger has to wait for it; the same is not logged every time."""
        if self._dismissed is not None:
            logger.info("a connection ends: %s", error.message)
        elif self._peer is not None:
            self._engine.accounts.note("faults", f"{self._peer.account_name}: {error.message}")
        elif error.code != "busy":
            kind = "tokens" if self._showed_token and error.code == "denied" else "strangers"
            self._engine.accounts.note(kind, f"{self._origin.host or 'a client'}, who has not greeted: {error.message}")
            if kind == "tokens":
                await trio.sleep(WRONG_SECONDS)
        await self._end_requests(self._dismissed)
        self.outbox.finish(failure_frame(None, error))

    def hang_up(self, because: EngramError) -> None:
        """End the session, with the reason as its last word."""
        self._dismissed = because
        self._serving.cancel()

    async def refuse(self, error: EngramError) -> None:
        """Say why this client is not served, and hang up."""
        self._engine.counters.refused[error.code] += 1
        async with _closing(self._stream):
            with trio.move_on_after(1):
                try:
                    await self._stream.send_all(failure_frame(None, error))
                except trio.BrokenResourceError:
                    pass

    async def _serve(self) -> None:
        engine = self._engine
        with trio.move_on_after(max(0.0, HELLO_SECONDS - self._waited)) as self._patience:
            while self._peer is None:
                if not await self._receive():
                    return
        peer = self._peer
        if peer is None:
            raise EngramError("timeout", f"no hello came within {HELLO_SECONDS:g} s")
        while await self._receive():
            await self._may_grow(peer)
            await engine.committer.room()
            await self.outbox.room()
            await peer.settled(MAX_IN_FLIGHT)
            if pause := peer.pause():
                await trio.sleep(pause)
            if self.outbox.is_closed:  # who hung up without hearing the answers may have megabytes of requests on the way
                return
        await self._finish()

    async def _may_grow(self, peer: Peer) -> None:
        """Wait before there is more of a large frame, if its agent sends many: they are bounded together, not one by one."""
        assert peer.account is not None, "a peer is welcomed first"
        is_large = self._connection.partial > LARGE
        if is_large and not self._grows:
            await peer.account.large.acquire()
        elif self._grows and not is_large:
            peer.account.large.release()
        self._grows = is_large

    async def _receive(self) -> bool:
        """Carry out what the client sends next, or more; False once it has hung up."""
        if self._connection.partial:
            with trio.move_on_after(FRAME_SECONDS) as waited:
                more = await self._hear()
            if waited.cancelled_caught:
                raise EngramError("timeout", f"the rest of a frame did not come within {FRAME_SECONDS:g} s")
        else:
            more = await self._hear()
        await self._go_on()
        return more

    async def _hear(self) -> bool:
        """Wait for what comes next, and take it; False once the client has hung up."""
        if self._plain is not None:
            sock, arrivals = self._plain
            return await arrivals.hear(sock, self._carry_out)
        data = bytes(await self._stream.receive_some(READ_BYTES))
        self._messages = self._connection.receive(data)
        return bool(data)

    def _carry_out(self, data: bytes) -> bool:
        """Carry out what was read, unless something has to be waited for before, in the middle or behind it: then False."""
        waits = bool(self._connection.partial) or self._peer is None
        self._messages = self._connection.receive(data)
        if self._turn.is_queued:
            return False
        self._turn.start()
        try:
            return self._advance() and not waits and not self._has_to_wait()
        finally:
            self._turn.end()

    def _advance(self) -> bool:
        """Carry out what has arrived; False where others have to come first: it can ask for more than memory holds, and for more work than
        is good for them."""
        for message in self._messages:
            self._take(message)
            if self.outbox.pending > LOW or self._turn.is_over:
                return False
        return True

    async def _go_on(self) -> None:
        """Carry out the rest of what has arrived."""
        await self._turn.begin()
        try:
            while not self._advance():
                self._turn.end()
                self._engine.flusher.flush()
                await self.outbox.room()
                await self._turn.begin()
        finally:
            self._turn.end()
        self._engine.flusher.flush()

    def _has_to_wait(self) -> bool:
        """Whether `_serve` has to wait for something before more is read."""
        peer = self._peer
        assert peer is not None, "who has not greeted always waits"
        return (
            self._connection.partial > 0
            or not self._engine.committer.has_room
            or self.outbox.pending > LOW
            or self.outbox.is_closed
            or peer.in_flight > MAX_IN_FLIGHT
            or peer.has_to_pause
        )

    def _take(self, message: Hello | Request | Notice | Rejected) -> None:
        if isinstance(message, Request):
            assert self._peer is not None, "a request follows hello"
            self._engine.handle(self._peer, message)
            return
        if isinstance(message, Hello):
            self._greet(message)
            return
        assert self._peer is not None, "notices follow hello"
        self._peer.charge(message.size)
        if isinstance(message, Rejected):
            self._engine.counters.answered("rejected", None, message.error)
            if message.error.code == "busy":
                self._engine.accounts.refused["streams"] += 1
            self.outbox.write(failure_frame(message.id, message.error))
        else:
            self._notice(message)

    def _greet(self, hello: Hello) -> None:
        def spawn(task: Callable[[], Awaitable[Any]]) -> None:
            assert self._nursery is not None, "it runs"
            self._nursery.start_soon(task)

        self._patience.deadline = math.inf  # requests that came with hello may take their time
        said = hello.fields
        session, owner, presence = said.get("session"), said.get("owner", False), said.get("presence", False)
        self._showed_token = "token" in said
        agent, access = self._engine.tokens.identify(self._origin, said)
        peer = Peer(agent, self._connection, self.outbox, spawn, self._engine.counters, session, owner, presence, access, self.hang_up)
        self._engine.welcome(peer)
        self._peer = peer
        self._turn = peer.turn
        self._turn.start()
        self._greeted()
        greeting = self._engine.greeting()
        self.outbox.write(answer_frame(hello.id, encode(greeting if "agent" in said else {**greeting, "agent": agent})))

    def _notice(self, notice: Notice) -> None:
        """Notices for streams that have just ended are normal, and ignored."""
        stream = self._peer.streams.get(notice.id) if self._peer else None
        if stream is None:
            return
        if notice.op == "credit":
            stream.grant(notice.fields["bytes"])
        else:
            stream.cancel()

    async def _finish(self) -> None:
        """The client will ask nothing more: end its streams, let its writes finish."""
        if self._connection.partial:
            raise EngramError("protocol", "the connection ended inside a frame")
        await self._end_requests()

    async def _end_requests(self, because: EngramError | None = None) -> None:
        """End the streams, for a reason if there is one, and let the other requests be answered."""
        if self._peer is not None:
            with trio.move_on_after(LINGER_SECONDS):
                await self._peer.finish(because)


@asynccontextmanager
async def _closing(stream: trio.abc.Stream) -> AsyncIterator[None]:
    """Close a stream at the end, whether or not its other side takes the last words of TLS."""
    try:
        yield
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_SECONDS):
            await stream.aclose()
