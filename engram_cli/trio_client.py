"""The Python client for trio: the same methods as `engram_cli.client`, to be awaited, any number at a time on one connection.

    from engram_cli.trio_client import Client

    async with Client(agent="builder") as engram:
        made = await engram.put("build", "tests pass", type="task_status")
        async for unit in engram.tail("build", after=made.seq, follow=True):
            print(unit.seq, unit.agent, unit.text)

Every method raises EngramError, whose `code` is one of engramd.protocol.errors.CODES.

Cancelling: a method that is cancelled while it waits for its answer tells the daemon, which ends what can be ended. A write that was sent
may still happen; put it with a dedupe key to be able to ask. A lock that was granted just then is released. The connection and everything
else on it go on.
"""

from __future__ import annotations

import itertools
import math
import re
import socket as sockets
import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import GenericAlias, TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

import trio

from engramd.protocol.address import endpoint, is_network
from engramd.protocol.connection import Id, Item
from engramd.protocol.errors import EngramError
from engramd.protocol.times import elapsed
from engramd.protocol.unit import Relationship, Unit

from . import calls, core, settings
from .calls import Call, Change, Found, Hit, Pack, Pages, PutResult, Redacted, Related, Relations
from .connect import check, dismissed, tls_context, untrusted
from .core import (
    ANSWER_SECONDS,
    RETRY_SECONDS,
    STARTING_SECONDS,
    Acks,
    Asking,
    Attempts,
    Bookmark,
    Box,
    Conversation,
    Event,
    Lost,
    Membership,
    Patience,
)
from .lease import Term

__all__ = [
    "Change",
    "Client",
    "Consuming",
    "EngramError",
    "Event",
    "Found",
    "Hit",
    "Lease",
    "Pack",
    "PutResult",
    "Redacted",
    "Related",
    "Relations",
    "Relationship",
    "Tail",
    "Unit",
]

_READ_BYTES = 64 * 1024

P = ParamSpec("P")
T = TypeVar("T")


def _awaited(doc: str) -> str:
    """A method's documentation, whose examples call a blocking client, with examples for this one."""
    doc = re.sub(r"\bfor (\w+) in engram\.", r"async for \1 in engram.", doc)
    doc = re.sub(r"\bwith engram\.", "async with engram.", doc)
    return re.sub(r"(?<!\bin )\bengram\.(\w+\()", r"await engram.\1", doc)


def _asked(declared: Callable[P, Call[T]]) -> Callable[Concatenate[Client, P], Awaitable[T]]:
    """A method that carries out a call."""

    async def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._do(declared(*args, **kwargs))

    calls.as_method(method, declared, lambda result: result, _awaited)
    return method


def _paged(declared: Callable[P, Pages[T]]) -> Callable[Concatenate[Client, P], AsyncIterator[T]]:
    """A method that gives what pages list, one after the other."""

    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
        return self.each(declared(*args, **kwargs))

    calls.as_method(method, declared, lambda item: GenericAlias(AsyncIterator, (item,)), _awaited)
    return method


def _leased(
    declared: Callable[P, tuple[dict[str, Any], float | None]],
) -> Callable[Concatenate[Client, P], Awaitable[Lease]]:
    """A method that takes a lease."""

    async def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Lease:
        return await self.acquire(*declared(*args, **kwargs))

    calls.as_method(method, declared, change=_awaited)
    return method


def _streamed(declared: Callable[P, dict[str, Any]]) -> Callable[Concatenate[Client, P], Tail]:
    """A method that begins a stream."""

    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Tail:
        return Tail(self, declared(*args, **kwargs))

    calls.as_method(method, declared, change=_awaited)
    return method


def _consuming(declared: Callable[P, tuple[dict[str, Any], str]]) -> Callable[Concatenate[Client, P], Consuming]:
    """A method that takes part in a consumer."""

    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Consuming:
        return Consuming(self, *declared(*args, **kwargs))

    calls.as_method(method, declared, change=_awaited)
    return method


class _Box(Box):
    """A box that tasks can wait at."""

    def __init__(self, request_id: Id, op: str) -> None:
        super().__init__(request_id, op)
        self._waiting = trio.lowlevel.ParkingLot()

    def wake(self) -> None:
        self._waiting.unpark_all()

    async def change(self) -> None:
        """Wait until something arrives, or the connection ends."""
        await self._waiting.park()


class _Link:
    """One connection, with the task that reads from it and the one that writes to it. Asking and notifying never wait."""

    def __init__(self, stream: trio.abc.Stream, ids: itertools.count[int]) -> None:
        self.is_over = False
        self.conversation = Conversation(ids, _Box)
        self._stream = stream
        self._outgoing: list[bytes] = []
        self._more = trio.Event()
        self._scope = trio.CancelScope()

    async def run(self) -> None:
        """Move bytes until the connection ends, or is closed."""
        try:
            with self._scope:
                async with self._stream, trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    await self._read()
                    nursery.cancel_scope.cancel()
        finally:
            self.is_over = True
            self.conversation.end()

    def close(self) -> None:
        """Hang up."""
        self.is_over = True
        self._scope.cancel()

    def greet(self, agent: str, session: str | None, owner: bool, presence: bool, token: str | None) -> Box:
        """Send the greeting."""
        box, data = self.conversation.greet(agent, session, owner, presence, token)
        self._send(data)
        return box

    def ask(self, op: str, fields: Mapping[str, Any]) -> Box:
        """Send a request."""
        box, data = self.conversation.ask(op, fields)
        self._send(data)
        return box

    def notify(self, request_id: Id, op: str, **fields: Any) -> None:
        """Send `credit` or `cancel`."""
        self._send(self.conversation.notice(request_id, op, **fields))

    def leave(self, box: Box) -> None:
        """Nobody waits for this any more: have the daemon end it, or undo it."""
        if data := self.conversation.leave(box):
            self._send(data)

    async def wait(self, box: Box) -> dict[str, Any]:
        """The result of a request. Cancelling leaves it."""
        assert isinstance(box, _Box)
        try:
            while box.answer is None and not box.is_lost:
                await box.change()
        except BaseException:
            self.leave(box)
            raise
        if box.answer is None and self.conversation.broken is not None:
            raise self.conversation.broken
        return box.result()

    def _send(self, data: bytes) -> None:
        self._outgoing.append(data)
        self._more.set()

    async def _write(self) -> None:
        """Send what is asked. A connection that breaks is noticed when it is read: what the daemon said before matters more."""
        try:
            while True:
                await self._more.wait()
                self._more = trio.Event()
                data, self._outgoing = b"".join(self._outgoing), []
                await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async def _read(self) -> None:
        """Sort what arrives. A stream that nobody holds any more is ended."""
        ended: set[Id] = set()
        while True:
            try:
                data = bytes(await self._stream.receive_some(_READ_BYTES))
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                data = b""
                if isinstance(error.__cause__, ssl.SSLError):
                    self.conversation.broken = dismissed(error.__cause__)
            try:
                for message in self.conversation.receive(data):
                    if self.conversation.keep(message):
                        continue
                    if not isinstance(message, Item):
                        ended.discard(message.id)
                        self._send(self.conversation.undo(message))
                    elif message.id not in ended:
                        ended.add(message.id)
                        self.notify(message.id, "cancel")
            except (Lost, EngramError):
                return


class Client:
    """A connection to the daemon, made at first use, for any number of tasks. It works inside `async with` only.

    Args:
        socket: path of the daemon's Unix socket, or tcp://HOST:PORT or tls://HOST:PORT; by default where every command looks for it.
        agent: who acts; by default ENGRAM_AGENT, else the holder of the token, else the user's name.
        autostart: whether to start a daemon when none runs. A connection that was lost is never a reason to start one.
        timeout: seconds that one operation may take; None means no limit. For a stream it bounds each reconnect. A wait for a lock has its
            own.
        opens_session: whether to open a session when ENGRAM_SESSION names none to join. It lasts as long as the client is connected, and
            goes on after a reconnect.
        presence: whether the agent counts as present while this client is connected.
        token: what to greet with; by default ENGRAM_TOKEN, or the file of ENGRAM_TOKEN_FILE; an empty one stands for none.
        ca_file, cert_file, key_file: PEM files for TLS: whom to trust, and what to show; by default ENGRAM_CA_FILE and so on.

    Attributes:
        agent: who acts; where only a token says it, that is known once connected.
        session: the session it is in, if any: leases may end with it, and a wait for another lease of the same session is a deadlock.
        owns_session: whether the client has opened it.
    """

    def __init__(
        self,
        socket: str | None = None,
        *,
        agent: str | None = None,
        autostart: bool = True,
        timeout: float | None = None,
        opens_session: bool = True,
        presence: bool = False,
        token: str | None = None,
        ca_file: str | None = None,
        cert_file: str | None = None,
        key_file: str | None = None,
    ) -> None:
        self.address = endpoint(socket or settings.socket())
        self._token = settings.token() if token is None else token or None
        self.agent = core.named(agent, self._token) or ""
        self._files = core.files(ca_file, cert_file, key_file)
        self.autostart = autostart
        self.timeout = timeout
        self.session, self.owns_session = core.session(opens_session)
        self.presence = presence
        self._ids = itertools.count(1)
        self._link: _Link | None = None
        self._connecting = trio.Lock()
        self._was_connected = False
        self._tasks: tuple[Any, trio.Nursery] | None = None

    async def __aenter__(self) -> Self:
        manager = trio.open_nursery()
        self._tasks = manager, await manager.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Hang up. What the block raised goes on as it is, not in a group."""
        assert self._tasks is not None
        (manager, nursery), self._tasks, self._link = self._tasks, None, None
        nursery.cancel_scope.cancel()
        await manager.__aexit__(None, None, None)

    # Connecting

    async def connect(self) -> None:
        """Connect and greet, if not connected. Other methods do this themselves.

        Raises:
            EngramError: `unavailable` when no daemon runs or it does not answer; `version`, `denied`, `busy` when it refuses.
        """
        await self._linked(self._starts)

    @property
    def server(self) -> dict[str, Any]:
        """What the daemon said of itself, while there is a connection."""
        return {} if self._link is None else self._link.conversation.server

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return self._link is not None and not self._link.is_over

    @property
    def _starts(self) -> bool:
        """Whether connecting may start a daemon."""
        return self.autostart and not self._was_connected

    async def _linked(self, start: bool) -> _Link:
        """The connection; the first task that needs one makes it."""
        if self._tasks is None:
            raise RuntimeError("use the client inside `async with Client() as engram:`")
        async with self._connecting:
            deadline = trio.current_time() + STARTING_SECONDS
            while self._link is None or self._link.is_over:
                try:
                    self._link = await self._greet(*await self._open(start))
                except Lost:
                    if trio.current_time() > deadline:
                        raise core.abrupt(self.address) from None
                    await trio.sleep(RETRY_SECONDS)
            return self._link

    async def _open(self, start: bool) -> tuple[trio.abc.Stream, int | None]:
        """A stream to the daemon, and the daemon's pid."""
        if is_network(self.address):
            return await self._open_network(), None
        deadline = trio.current_time() + ANSWER_SECONDS
        while True:
            opened = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
            try:
                opened.setblocking(False)
                opened.connect(self.address)  # at once, or not at all: it is a Unix socket
                pid, uid = core.peer(opened)
                if core.is_foreign(uid):
                    raise core.foreign(self.address, uid)
                return trio.SocketStream(trio.socket.from_stdlib_socket(opened)), pid
            except (FileNotFoundError, ConnectionRefusedError):
                opened.close()
                if not start:
                    raise core.absent(self.address) from None
                from .autostart import start as start_daemon

                await trio.to_thread.run_sync(start_daemon, self.address)
            except BlockingIOError:
                opened.close()
                if trio.current_time() > deadline:
                    raise core.deaf(self.address) from None
                await trio.sleep(RETRY_SECONDS)
            except OSError as error:
                opened.close()
                raise core.unreachable(self.address, error) from error
            except EngramError:
                opened.close()
                raise

    async def _open_network(self) -> trio.abc.Stream:
        scheme, host, port = check(self.address, self._token)
        context = tls_context(self._files) if scheme == "tls" else None
        try:
            with trio.fail_after(core.CONNECT_SECONDS):
                plain = await trio.open_tcp_stream(host, port)
                if context is None:
                    return plain
                secured = trio.SSLStream(plain, context, server_hostname=host)
                try:
                    await secured.do_handshake()
                    return secured
                except BaseException:
                    await trio.aclose_forcefully(plain)
                    raise
        except trio.BrokenResourceError as error:
            raise untrusted(self.address, error.__cause__ or error) from error
        except (OSError, trio.TooSlowError) as error:
            raise core.unreachable(self.address, error) from error

    async def _greet(self, stream: trio.abc.Stream, pid: int | None) -> _Link:
        assert self._tasks is not None
        link = _Link(stream, self._ids)
        self._tasks[1].start_soon(link.run)
        try:
            with trio.move_on_after(core.patience(self._token)):
                greeting = link.greet(self.agent, self.session, self.owns_session, self.presence, self._token)
                link.conversation.server = await link.wait(greeting)
                self.agent = link.conversation.server.get("agent", self.agent)
                self._was_connected = True
                return link
        finally:
            if not link.conversation.server:
                link.close()
        raise core.silent(self.address, pid)

    def _retire(self, link: _Link | None) -> None:
        """Ask nothing more on a connection; what is under way there is still answered."""
        if link is not None and self._link is link:
            self._link = None

    # Requests

    async def request(self, op: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Carry out any operation of the wire and return its result as it travels.

        A request that cannot have done harm (a read, a put with a dedupe key, a renewal, one that the daemon refused while stopping) is
        sent again when the connection is lost, for up to STARTING_SECONDS. So long any request waits for a daemon that was there before.

        Raises:
            EngramError: the daemon's error; `outcome_unknown` when the connection was lost after a write was sent; `timeout`, which for
                a write leaves open whether it happens.
        """
        return await self._request(op, fields, self.timeout)

    async def _request(self, op: str, fields: Mapping[str, Any], timeout: float | None) -> dict[str, Any]:
        attempts = Attempts(op, fields, timeout, trio.current_time(), self._was_connected)
        link: _Link | None = None
        with trio.CancelScope(deadline=attempts.deadline):
            while True:
                link = None
                try:
                    link = await self._linked(self._starts)
                    return await link.wait(link.ask(op, fields))
                except Lost:
                    attempts.lost(trio.current_time())
                except EngramError as error:
                    result = attempts.failed(error, trio.current_time(), link is not None, self._starts)
                    if result is not None:
                        return result
                    if error.code == "busy":
                        link = None
                        await trio.sleep(error.details["retry_after"])
                        continue
                    if link is not None:
                        self._was_connected = not self.autostart
                    self._retire(link)
                    link = None
                await trio.sleep(RETRY_SECONDS)
        raise attempts.late(link is not None)

    # Operations

    put = _asked(calls.put)
    put_many = _asked(calls.put_many)
    get = _asked(calls.get)
    list = _paged(calls.list_)
    search = _asked(calls.search)
    pack = _asked(calls.pack)
    related = _asked(calls.related)
    why = _paged(calls.why)
    context_create = _asked(calls.context_create)
    context_set = _asked(calls.context_set)
    context_retain = _asked(calls.context_retain)
    context_show = _asked(calls.context_show)
    context_list = _paged(calls.context_list)
    context_join = _asked(calls.context_join)
    context_leave = _asked(calls.context_leave)
    context_pin = _asked(calls.context_pin)
    context_unpin = _asked(calls.context_unpin)
    context_add = _asked(calls.context_add)
    context_remove = _asked(calls.context_remove)
    redact = _asked(calls.redact)
    lock = _leased(calls.lock)
    renew = _asked(calls.renew)
    unlock = _asked(calls.unlock)
    steal = _asked(calls.steal)
    locks = _paged(calls.locks)
    tail = _streamed(calls.tail)
    consume = _consuming(calls.consume)
    ack = _asked(calls.ack)
    consumer_create = _asked(calls.consumer_create)
    consumer_show = _asked(calls.consumer_show)
    consumer_list = _paged(calls.consumer_list)
    consumer_parked = _paged(calls.consumer_parked)
    consumer_retry = _asked(calls.consumer_retry)
    consumer_reset = _asked(calls.consumer_reset)
    consumer_delete = _asked(calls.consumer_delete)
    agents = _paged(calls.agents)
    names = _asked(calls.names)
    token_issue = _asked(calls.token_issue)
    token_list = _paged(calls.token_list)
    token_revoke = _asked(calls.token_revoke)
    token_inspect = _asked(calls.token_inspect)
    status = _asked(calls.status)
    metrics = _asked(calls.metrics)
    shutdown = _asked(calls.shutdown)

    async def _do(self, call: Call[T]) -> T:
        return call.read(await self.request(call.op, call.fields))

    async def acquire(self, fields: Mapping[str, Any], timeout: float | None = None) -> Lease:
        """As `lock`, with the request's members as they travel, but for the `timeout` of a wait, in seconds."""
        asking = Asking(fields, timeout, trio.current_time())
        while True:
            sent = elapsed()
            try:
                lease = Lease(self, await self._request("lock", *asking.next(trio.current_time(), self.timeout)), sent)
                break
            except EngramError as error:
                asking.failed(error, trio.current_time(), self._was_connected)
            await trio.sleep(RETRY_SECONDS)
        if lease.is_doubtful:
            try:
                await lease.renew()
            except BaseException:
                if self._link is not None and not self._link.is_over:
                    self._link.ask("unlock", {"token": lease.token})  # who asked will never know of it
                raise
        return lease

    def pages(self, context: str, limit: int | None, filters: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """As `list`, with the units as they travel."""
        return self.each(calls.pages(context, limit, filters, dict))

    def each(self, pages: Pages[T]) -> AsyncIterator[T]:
        """What pages of `engram_cli.calls` list, one after the other, asked for as they are used."""
        return _Each(self, pages)

    async def ask(
        self,
        context: str,
        payload: str | bytes,
        *,
        to: str,
        type: str = "message",
        meta: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Unit:
        """Put a question to an agent, and wait for the first unit that responds to it, in any context.

        The question is a unit with the label `to`. It is put once, and its answer found, also when the daemon is restarted meanwhile.

        Args:
            to: who is asked.
            timeout: seconds to wait for the answer; None means the client's timeout.

        Raises:
            EngramError: `timeout` when none came, with the question's `id` and `seq`; and as `put`.
        """
        seconds = self.timeout if timeout is None else timeout
        deadline = math.inf if seconds is None else trio.current_time() + seconds
        asked = await self._do(calls.question(context, payload, to=to, type=type, meta=meta))
        try:
            with trio.CancelScope(deadline=deadline):
                async with Tail(self, calls.answers(asked)) as stream:
                    async for event in stream.events():
                        if event.unit is not None and calls.is_answer(event.fields["unit"], asked):
                            return event.unit
        except EngramError as error:
            if error.code != "timeout":
                raise
        raise calls.unanswered(asked, to, seconds or 0)


class Lease(Term):
    """A lease that was granted. As a context manager it is released at the end.

    It lasts `ttl` seconds from its last good renewal, or, taken with `session=True`, as long as the session. Nobody renews it for you: call
    `renew` well before `left` comes to 0. A lease that ran out or was taken away is noticed when the daemon is asked, by `renew` and
    `release`, and they say so (`stale`). What is written must not depend on noticing in time: name the lease as a fence of the put
    (`client.put(..., fences=[lease])`), which the daemon refuses once it is over.
    """

    def __init__(self, client: Client, granted: dict[str, Any], sent: float) -> None:
        super().__init__(granted, sent)
        self._client = client

    async def renew(self) -> None:
        """Have it last its full time from now on.

        Raises:
            EngramError: `stale` when it is over; others when the daemon cannot be asked, and the lease may go on.
        """
        sent = elapsed()
        try:
            self._renewed(await self._client.renew(self.token), sent)
        except EngramError as error:
            self._failed(error)
            raise

    async def release(self) -> None:
        """Give it up.

        Raises:
            EngramError: `stale` when it was over already: others may have held it meanwhile.
        """
        try:
            await self._client.unlock(self.token)
            self._is_over = True
        except EngramError as error:
            self._failed(error)
            raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Release it. That it was lost is raised, unless an exception is on its way already."""
        if self._is_over:
            return
        try:
            await self.release()
        except EngramError:
            if error is None:
                raise


class _Each(AsyncIterator[T], Generic[T]):
    """What pages list, one after the other."""

    def __init__(self, client: Client, pages: Pages[T]) -> None:
        self._client = client
        self._pages = pages
        self._found: deque[T] = deque()

    async def __anext__(self) -> T:
        while not self._found:
            fields = self._pages.fields()
            if fields is None:
                raise StopAsyncIteration
            self._found.extend(self._pages.take(await self._client.request(self._pages.op, fields)))
        return self._found.popleft()


class Tail(AsyncIterator[Unit]):
    """A stream of entries that survives a lost connection: it reconnects and goes on after the last item, without a gap or a repeat.

    Iterating gives units; `events()` gives every item. Reconnecting takes as long as it must, or the client's `timeout`; a stream that does
    not follow waits STARTING_SECONDS at most. A daemon that cannot be reached in the first place is an error at once.

    One task at a time may wait for an item; cancelling it loses none. A stream that is dropped is ended when its next item comes; `aclose`,
    or leaving `async with client.tail(...) as stream:`, ends it at once. Iterating again takes it up where it was left.
    """

    def __init__(self, client: Client, fields: Mapping[str, Any]) -> None:
        self._client = client
        self._mark = Bookmark(fields)
        self._link: _Link | None = None
        self._box: Box | None = None
        self._used: Item | None = None

    @property
    def cursor(self) -> str | None:
        """Where the stream stands: after the item that was given last. None before the first."""
        return self._mark.cursor

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    async def __anext__(self) -> Unit:
        while True:
            event = Event.from_wire(await self._next())
            if event.unit is not None:
                return event.unit

    def events(self) -> AsyncIterator[Event]:
        """Every item: entries, other events if asked for, the mark `live`, heartbeats."""
        return _Events(self)

    async def aclose(self) -> None:
        """End the stream. The daemon is told, and the connection stays."""
        if self._box is not None and self._link is not None:
            self._link.leave(self._box)
        self._box = self._link = self._used = None
        await trio.lowlevel.checkpoint()

    async def _next(self) -> dict[str, Any]:
        """The next item as it travels, from this connection or a later one. Raises StopAsyncIteration at the stream's end."""
        self._pay()
        while True:
            try:
                if self._box is None or self._link is None:
                    self._link = await self._client._linked(self._client._starts)
                    self._box = self._begin(self._link)
                item = await self._arrival(self._box)
                if item is not None:
                    self._used = item
                    return self._mark.turn(item)
                box, self._box = self._box, None
                box.result()
                raise StopAsyncIteration
            except Lost:
                pass
            except EngramError as error:
                if error.code != "unavailable" or not self._mark.started:
                    raise
                self._client._retire(self._link)
            await self._reconnect()

    def _begin(self, link: _Link) -> Box:
        """Ask for the stream."""
        return link.ask(self._mark.op, self._mark.fields())

    async def _arrival(self, box: Box) -> Item | None:
        """The next item of this connection, or None when there will be none."""
        assert isinstance(box, _Box)
        await trio.lowlevel.checkpoint()
        while not box.items:
            if box.answer is not None or box.is_lost:
                return None
            await box.change()
        return box.items.popleft()

    def _pay(self) -> None:
        """Give back the credit of the item that was given last."""
        used, self._used = self._used, None
        credit = 0 if used is None else self._mark.used(used)
        if credit and self._link is not None and self._box is not None and self._box.answer is None:
            self._link.notify(self._box.id, "credit", bytes=credit)

    async def _reconnect(self) -> None:
        """Wait for a daemon, as long as the client's timeout allows; never start one."""
        self._box = self._link = None
        patience = Patience(self._client.timeout, self._mark.follows, trio.current_time())
        while True:
            try:
                await self._client._linked(False)
                return
            except EngramError as error:
                patience.failed(error, trio.current_time())
            await trio.sleep(RETRY_SECONDS)


class Consuming(Tail):
    """A member's part of a consumer's units. Like `Tail`, it survives a lost connection; what was not acknowledged comes again.

    What `events()` gives has `deliveries` in its fields: how often the unit was delivered, this time included; and `missed`, once
    retention has removed units before they were done: how many, in all.
    """

    def __init__(self, client: Client, fields: Mapping[str, Any], ack: str) -> None:
        if ack not in ("auto", "manual"):
            raise EngramError("invalid", f"ack: must be auto or manual, not {ack!r}")
        super().__init__(client, fields)
        self._mark: Bookmark = Membership(fields)
        self._acks = Acks(fields["consumer"])
        self._auto = ack == "auto"

    def ack(self, *entries: Unit | str | int) -> None:
        """Say that units (or cursors, or seqs of entries) are done. Never waits: `flush` does.

        Raises:
            EngramError: an earlier acknowledgement was refused.
        """
        self._acks.add(entries)
        if self._link is not None and not self._link.is_over:
            self._acks.send(self._link.ask)

    async def flush(self) -> None:
        """Wait until every acknowledgement is on disk. Cancelling loses none.

        Raises:
            EngramError: one was refused, or no daemon answers.
        """
        for box in self._acks.settle():
            assert isinstance(box, _Box)
            while box.answer is None and not box.is_lost:
                await box.change()
        self._acks.again()
        self._acks.settle()
        for fields in self._acks.rest():
            await self._client.request("ack", fields)

    async def _next(self) -> dict[str, Any]:
        try:
            return await super()._next()
        except StopAsyncIteration:
            await self.flush()
            raise

    def _begin(self, link: _Link) -> Box:
        """What was not answered goes first, so that it does not come again."""
        self._acks.again()
        self._acks.send(link.ask)
        return super()._begin(link)

    def _pay(self) -> None:
        used = self._used
        super()._pay()
        if self._auto and used is not None and "unit" in used.event:
            self.ack(used.event["cursor"])


class _Events(AsyncIterator[Event]):
    """Every item of a stream."""

    def __init__(self, tail: Tail) -> None:
        self._tail = tail

    async def __anext__(self) -> Event:
        return Event.from_wire(await self._tail._next())
