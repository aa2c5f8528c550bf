"""A server and clients for tests: the real engine and sessions over streams in memory, or over sockets, in one task tree.

A `Client` reads from its stream only while a test asks it for something, so a test decides who reads and who does not. One task uses a
client at a time.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from typing import Any

import trio
import trio.testing

from engramd.protocol.connection import Answer, ClientConnection, Id, Item
from engramd.protocol.errors import EngramError
from engramd.protocol.framing import LENGTH
from engramd.protocol.messages import MIB, frame_limit
from engramd.service.committer import AdaptiveWriter, write_inline
from engramd.service.engine import Engine
from engramd.service.peer import Origin
from engramd.storage.log import Batch, Log
from engramd.transport.arrivals import Arrivals
from engramd.transport.session import OWN, Session

NETWORK = Origin(host="192.0.2.7")
EPOCH = 1_700_000_000_000_000  # microseconds: what the wall clock says when a test's server starts
Write = Callable[[Batch], Awaitable[None]]
Event = dict[str, Any]


class HungUpError(Exception):
    """The server closed the connection."""


class Client:
    """One connection, speaking `ClientConnection`.

    Attributes:
        answers: what has arrived and was not asked for yet.
        order: the ids of answers and items, as they arrived.
        fatal: the error with which the server ended the connection, if it did.
    """

    def __init__(self, stream: trio.abc.HalfCloseableStream, max_frame: int = frame_limit(MIB)) -> None:
        self.stream = stream
        self.connection = ClientConnection(max_frame)
        self.answers: dict[Id, Answer] = {}
        self.items: dict[Id, list[Item]] = {}
        self.order: list[Id] = []
        self.fatal: EngramError | None = None

    async def hello(self, agent: str | None = "tester", **said: Any) -> dict[str, Any]:
        """Greet, and give what the server says of itself."""
        await self.stream.send_all(self.connection.hello(said if agent is None else {"agent": agent, **said}))
        return await self.answer(0)

    def frame(self, op: str, **fields: Any) -> tuple[Id, bytes]:
        """A request's id and frame, for tests that put several into one chunk."""
        return self.connection.request(op, fields)

    async def send(self, op: str, **fields: Any) -> Id:
        """Send a request, and give its id."""
        request_id, frame = self.frame(op, **fields)
        await self.stream.send_all(frame)
        return request_id

    async def answer(self, request_id: Id) -> dict[str, Any]:
        """Wait for the answer to a request. Raises what the server answered."""
        while request_id not in self.answers:
            await self.pump()
        answer = self.answers.pop(request_id)
        if answer.error is not None:
            raise answer.error
        assert answer.result is not None
        return answer.result

    async def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        """Send a request and wait for its answer."""
        return await self.answer(await self.send(op, **fields))

    async def refused(self, op: str, **fields: Any) -> EngramError:
        """Send a request that must fail, and give its error."""
        return await self.failure(await self.send(op, **fields))

    async def failure(self, request_id: Id) -> EngramError:
        """Wait for the answer to a request that must fail, and give its error."""
        try:
            result = await self.answer(request_id)
        except EngramError as error:
            return error
        raise AssertionError(f"this should have been refused: {result}")

    async def tail(self, **fields: Any) -> Tail:
        """Start a stream."""
        return Tail(self, await self.send("tail", **fields))

    async def pump(self) -> None:
        """Take what arrives next."""
        data = await self.stream.receive_some(65536)
        if not data:
            raise HungUpError
        try:
            for message in self.connection.receive(bytes(data)):
                self.order.append(message.id)
                if isinstance(message, Answer):
                    self.answers[message.id] = message
                else:
                    self.items.setdefault(message.id, []).append(message)
        except EngramError as error:
            self.fatal = error
            raise

    async def settle(self, seconds: float = 0.01) -> None:
        """Read until nothing arrives for a moment. Under an autojump clock the moment ends when every task waits."""
        with trio.move_on_after(seconds):
            while True:
                await self.pump()

    async def last_words(self) -> EngramError:
        """Read to the end of a connection that the server ends with an error."""
        try:
            while True:
                await self.pump()
        except EngramError as error:
            found = error
        assert await self.stream.receive_some(1) == b"", "the server must hang up after its last frame"
        return found


class Tail:
    """A stream under way.

    Attributes:
        refill: give back each item's credit as it is taken.
    """

    def __init__(self, client: Client, request_id: Id) -> None:
        self.client = client
        self.id = request_id
        self.refill = False
        self._items = client.items.setdefault(request_id, [])

    async def next(self) -> Event:
        """The next item's event. Raises the error with which the server ended the stream, if it did."""
        while not self._items:
            await self.client.pump()
            if not self._items and self.id in self.client.answers:
                raise self.client.answers[self.id].error or AssertionError(f"the stream ended: {self.client.answers[self.id]}")
        item = self._items.pop(0)
        if self.refill:
            await self.grant(item.size + LENGTH.size)
        return item.event

    async def take(self, count: int) -> list[Event]:
        """The next `count` events."""
        return [await self.next() for _ in range(count)]

    async def replayed(self) -> list[Event]:
        """The events before the live mark, which is taken too."""
        found = []
        while (event := await self.next())["kind"] != "live":
            found.append(event)
        return found

    async def arrived(self) -> list[Event]:
        """Every event that arrives before nothing happens any more."""
        found = []
        await self.client.settle()
        while self._items:
            found.append(await self.next())
            await self.client.settle()
        return found

    async def ended(self) -> tuple[list[Event], dict[str, Any]]:
        """The remaining events, and the answer that ends the stream."""
        result = await self.client.answer(self.id)
        events = [item.event for item in self._items]
        self._items.clear()
        return events, result

    async def grant(self, size: int) -> None:
        """Give the stream more credit."""
        await self.client.stream.send_all(self.client.connection.notice(self.id, "credit", bytes=size))

    async def cancel(self) -> None:
        """Ask for the stream's end."""
        await self.client.stream.send_all(self.client.connection.notice(self.id, "cancel"))


class Here(AdaptiveWriter):
    """Writes on the loop, as on a fast disk, whatever this disk is like: threads and virtual time do not mix."""

    def is_short(self, batch: Batch) -> bool:
        return True


class Server:
    """An engine with its committer running, in virtual time, which its wall clock follows.

    Args:
        plain: serve over sockets, which are read as a daemon reads them, and commit as it does; else over memory.

    Attributes:
        gate: what its writes wait for, if anything.
        sessions: one for each connection, in order.
        failed: with what the committer ended, if it did.
        running: what to cancel before another server takes over the log.
    """

    def __init__(
        self,
        log: Log,
        nursery: trio.Nursery,
        write: Write = write_inline,
        gate: Gate | None = None,
        max_payload: int = MIB,
        keep_events: int | None = None,
        plain: bool = False,
        **options: Any,
    ) -> None:
        assert isinstance(trio.lowlevel.current_clock(), trio.testing.MockClock), "a test with a server takes the fixture autojump_clock"
        self.nursery = nursery
        self.log = log
        self.skew = 0
        self._started = trio.current_time()
        self.gate = gate
        self.engine = Engine(
            log,
            max_payload,
            {"socket": "none"},
            self.clock,
            gate.write if gate is not None else Here() if plain else write,
            elapsed=trio.current_time,
            keep_events=keep_events,
            offload=_inline,
            **options,
        )
        self._arrivals = Arrivals(self.engine.committer.together) if plain else None
        if self._arrivals is not None:
            nursery.start_soon(self._arrivals.run)
        self._ends: list[socket.socket] = []
        self.sessions: list[Session] = []
        self.failed: EngramError | None = None
        self.running = trio.CancelScope()
        nursery.start_soon(self._commit)
        nursery.start_soon(self._expire)

    def clock(self) -> int:
        """The wall clock, in microseconds; `skew` moves it."""
        return EPOCH + self.skew + round((trio.current_time() - self._started) * 1e6)

    async def _commit(self) -> None:
        try:
            await self.engine.committer.run()
        except EngramError as error:
            self.failed = error

    async def _expire(self) -> None:
        with self.running:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.engine.leases.run)
                nursery.start_soon(self.engine.presence.run)
                nursery.start_soon(self.engine.retention.run)
                nursery.start_soon(self.engine.erasures.run)
                nursery.start_soon(self.engine.tokens.run)

    def open(self, lockstep: bool = False, origin: Origin = OWN) -> Client:
        """A connection on which nothing was said yet.

        Args:
            origin: where it comes from.
            lockstep: a stream that holds nothing: who sends waits until the other side has read everything.
        """
        ours: trio.abc.HalfCloseableStream
        if self._arrivals is not None and not lockstep:
            ends = socket.socketpair()
            self._ends.append(ends[0])
            for end in ends:
                end.setblocking(False)
            ours, theirs = [trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in ends]
            session = Session(self.engine, theirs, (ends[1], self._arrivals), origin)
        else:
            ours, memory = trio.testing.lockstep_stream_pair() if lockstep else trio.testing.memory_stream_pair()
            session = Session(self.engine, memory, None, origin)
        self.sessions.append(session)
        self.nursery.start_soon(session.run)
        return Client(ours, self.engine.max_frame)

    def hang_up(self) -> None:
        """Close the clients' ends of all sockets."""
        for end in self._ends:
            end.close()

    async def connect(self, agent: str = "tester", lockstep: bool = False, **hello: Any) -> Client:
        """A connection that has greeted."""
        client = self.open(lockstep)
        await client.hello(agent, **hello)
        return client

    async def issue(self, agent: str, *permissions: str, **limits: Any) -> str:
        """A new token."""
        owner = await self.connect("owner")
        issued = await owner.ask("token_issue", agent=agent, permissions=list(permissions), **limits)
        return str(issued["token"])

    async def bearer(self, agent: str, *permissions: str, **limits: Any) -> Client:
        """A connection over a network that has greeted with a new token."""
        client = self.open(origin=NETWORK)
        await client.hello(None, token=await self.issue(agent, *permissions, **limits))
        return client


async def _inline(work: Callable[[], None]) -> None:
    """Run what blocks, on the loop: threads and virtual time do not mix."""
    await trio.lowlevel.checkpoint()
    work()


class Gate:
    """A `write` for the committer that holds every batch until it is opened, or fails it.

    Attributes:
        batches: how many events each batch had that reached the disk's door.
        error: raised instead of writing, once the gate is open.
    """

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.error: EngramError | None = None
        self._open = trio.Event()

    async def write(self, batch: Batch) -> None:
        self.batches.append(len(batch.events))
        await self._open.wait()
        if self.error is not None:
            raise self.error
        batch.commit()

    def open(self) -> None:
        """Let everything through from now on."""
        self._open.set()

    def close(self) -> None:
        """Hold what comes from now on."""
        self._open = trio.Event()

    def let_one_through(self) -> None:
        """Write the batch that waits, and hold the next."""
        self.open()
        self.close()


def texts(units: list[dict[str, Any]]) -> list[str]:
    """The payloads of decoded units."""
    return [unit["text"] for unit in units]


def unit_texts(events: list[Event]) -> list[str]:
    """The payloads of stream items."""
    return texts([event["unit"] for event in events])


Serve = Callable[..., Server]
