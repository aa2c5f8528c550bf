"""The Python client: one connection, one method per operation, units as objects.

    from engram_cli.client import Client

    with Client(agent="builder") as engram:
        made = engram.put("build", "tests pass", type="task_status")
        for unit in engram.list("build"):
            print(unit.seq, unit.agent, unit.text)

A `Client` is for one thread. Every method raises EngramError, whose `code` is one of engramd.protocol.errors.CODES. For trio there is
`engram_cli.trio_client`, with the same methods.
"""

from __future__ import annotations

import builtins
import itertools
import math
import select
import socket as sockets
import time
from collections.abc import Callable, Iterator, Mapping
from types import GenericAlias, TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar

from engramd.protocol.address import endpoint, is_network
from engramd.protocol.connection import Answer, Id, Item
from engramd.protocol.errors import EngramError
from engramd.protocol.times import elapsed
from engramd.protocol.unit import Relationship, Unit

from . import calls, core, settings
from .calls import Call, Change, Found, Hit, Pack, Pages, PutResult, Redacted, Related, Relations
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
    lost,
)
from .lease import Term

if TYPE_CHECKING:
    from .connect import TlsSocket

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
    "lost",
]

_READ_BYTES = 256 * 1024

P = ParamSpec("P")
T = TypeVar("T")


def _asked(declared: Callable[P, Call[T]]) -> Callable[Concatenate[Client, P], T]:
    """A method that carries out a call."""

    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._do(declared(*args, **kwargs))

    calls.as_method(method, declared, lambda result: result)
    return method


def _paged(declared: Callable[P, Pages[T]]) -> Callable[Concatenate[Client, P], Iterator[T]]:
    """A method that gives what pages list, one after the other."""

    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return self.each(declared(*args, **kwargs))

    calls.as_method(method, declared, lambda item: GenericAlias(Iterator, (item,)))
    return method


def _leased(
    declared: Callable[P, tuple[dict[str, Any], float | None]],
) -> Callable[Concatenate[Client, P], Lease]:
    """A method that takes a lease."""

    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Lease:
        return self.acquire(*declared(*args, **kwargs))

    calls.as_method(method, declared)
    return method


def _streamed(declared: Callable[P, dict[str, Any]]) -> Callable[Concatenate[Client, P], Tail]:
    """A method that begins a stream."""

    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Tail:
        return Tail(self, declared(*args, **kwargs))

    calls.as_method(method, declared)
    return method


def _consuming(declared: Callable[P, tuple[dict[str, Any], str]]) -> Callable[Concatenate[Client, P], Consuming]:
    """A method that takes part in a consumer."""

    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Consuming:
        return Consuming(self, *declared(*args, **kwargs))

    calls.as_method(method, declared)
    return method


class Client:
    """A blocking connection to the daemon, made at first use.

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
        self._socket: sockets.socket | TlsSocket | None = None
        self._conversation = Conversation(self._ids)
        self._arrived: builtins.list[Answer | Item] = []
        self._was_connected = False
        self._resumes = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # Connecting

    def connect(self) -> None:
        """Connect and greet, if not connected. Other methods do this themselves.

        Raises:
            EngramError: `unavailable` when no daemon runs or it does not answer; `version`, `denied`, `busy` when it refuses.
        """
        self._connect(self._starts)

    @property
    def server(self) -> dict[str, Any]:
        """What the daemon said of itself when it was last connected to."""
        return self._conversation.server

    @property
    def _starts(self) -> bool:
        """Whether connecting may start a daemon."""
        return self.autostart and not self._was_connected

    def _connect(self, start: bool) -> None:
        if self._socket is not None:
            return
        deadline = time.monotonic() + STARTING_SECONDS
        while True:
            try:
                self._greet(self._open(start))
                return
            except Lost:
                if time.monotonic() > deadline:
                    raise core.abrupt(self.address) from None
                time.sleep(RETRY_SECONDS)

    def resume(self) -> None:
        """Go on for a connection that was lost before this client was made: wait for a daemon as after a loss, and start none."""
        self._was_connected = self._resumes = True

    def close(self) -> None:
        """Hang up, and forget what has not been asked for yet. The client may be used again; it connects anew."""
        self._hang_up()
        self._arrived = []

    def _hang_up(self) -> None:
        """The connection is over. What has arrived stays: an answer counts, however the connection ended."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._keep(self._arrived)
        self._conversation.end()

    def fileno(self) -> int:
        """The socket's file descriptor, to wait on it beside others.

        Raises:
            EngramError: as `connect` does.
        """
        self.connect()
        assert self._socket is not None
        return self._socket.fileno()

    def _open(self, start: bool) -> sockets.socket | TlsSocket:
        if is_network(self.address):
            from .connect import open_socket

            return open_socket(self.address, self._token, self._files)
        return self._open_unix(start)

    def _open_unix(self, start: bool) -> sockets.socket:
        deadline = time.monotonic() + ANSWER_SECONDS
        while True:
            opened = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
            try:
                opened.settimeout(ANSWER_SECONDS)
                opened.connect(self.address)
                return opened
            except (FileNotFoundError, ConnectionRefusedError):
                opened.close()
                if not start:
                    raise core.absent(self.address) from None
                from .autostart import start as start_daemon

                start_daemon(self.address)
            except OSError as error:
                opened.close()
                if not isinstance(error, BlockingIOError | TimeoutError):
                    raise core.unreachable(self.address, error) from error
                if time.monotonic() > deadline:
                    raise core.deaf(self.address) from None
                time.sleep(RETRY_SECONDS)

    def _greet(self, opened: sockets.socket | TlsSocket) -> None:
        pid, uid = core.peer(opened) if isinstance(opened, sockets.socket) else (None, None)
        if core.is_foreign(uid):
            opened.close()
            raise core.foreign(self.address, uid)
        self._socket = opened
        conversation = self._conversation = Conversation(self._ids)
        try:
            box, data = conversation.greet(self.agent, self.session, self.owns_session, self.presence, self._token)
            self._send(data)
            conversation.server = self._wait(box, time.monotonic() + core.patience(self._token))
            self.agent = conversation.server.get("agent", self.agent)
        except EngramError as error:
            self.close()
            if error.code != "timeout":
                raise
            raise core.silent(self.address, pid) from None
        self._was_connected = True

    # Requests

    def request(self, op: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Carry out any operation of the wire and return its result as it travels.

        A request that cannot have done harm (a read, a put with a dedupe key, a renewal, one that the daemon refused while stopping) is
        sent again when the connection is lost, for up to STARTING_SECONDS.

        Raises:
            EngramError: the daemon's error; `outcome_unknown` when the connection was lost after a write was sent; `timeout`, which for
                a write leaves open whether it happens.
        """
        return self._request(op, fields, self.timeout)

    def _request(self, op: str, fields: Mapping[str, Any], timeout: float | None) -> dict[str, Any]:
        attempts = Attempts(op, fields, timeout, time.monotonic(), self._resumes)
        while True:
            try:
                return self._wait(self._ask(op, fields), attempts.deadline)
            except Lost:
                attempts.lost(time.monotonic())
            except EngramError as error:
                connected = self.connected
                result = attempts.failed(error, time.monotonic(), connected, self._starts)
                if result is not None:
                    return result
                if error.code == "busy":
                    time.sleep(min(error.details["retry_after"], max(0.0, attempts.deadline - time.monotonic())))
                    continue
                if connected:
                    self._was_connected = not self.autostart
                self.close()
            time.sleep(RETRY_SECONDS)

    def send(self, op: str, fields: Mapping[str, Any], request_id: Id | None = None) -> Id:
        """Send a request without waiting for its answer, and return its id; `receive` gives what comes back.

        Raises:
            EngramError: `too_large` for a request that the daemon would take no byte of; and as `connect`.
        """
        return self._ask(op, fields, request_id).id

    def _ask(self, op: str, fields: Mapping[str, Any], request_id: Id | None = None) -> Box:
        self.connect()
        box, data = self._conversation.ask(op, fields, request_id)
        self._send(data)
        return box

    def notify(self, request_id: Id, op: str, **fields: Any) -> None:
        """Send `credit` or `cancel` for a request under way."""
        self._send(self._conversation.notice(request_id, op, **fields))

    def receive(self, timeout: float | None = None) -> builtins.list[Answer | Item]:
        """Wait for bytes and return the answers and items that they complete, perhaps none.

        Raises:
            EngramError: `unavailable` when the connection ends, `timeout` after `timeout` seconds of nothing.
        """
        try:
            return self._read(math.inf if timeout is None else time.monotonic() + timeout)
        except Lost:
            raise EngramError("unavailable", "the daemon closed the connection") from None

    def _send(self, data: bytes) -> None:
        """Send everything, and take what arrives meanwhile, so that two full buffers never wait for each other.

        A connection that breaks is noticed when it is read: what the daemon said before it hung up matters more than that it did.
        """
        if self._socket is None:
            return
        self._socket.setblocking(False)
        ready = select.poll()
        ready.register(self._socket, select.POLLIN | select.POLLOUT)
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._socket.send(rest, getattr(sockets, "MSG_NOSIGNAL", 0)) :]
            except BlockingIOError:
                events = ready.poll(None if self.timeout is None else self.timeout * 1000)
                if not events:
                    raise EngramError("timeout", "the daemon does not take what is sent") from None
                if events[0][1] & ~select.POLLOUT:
                    try:
                        self._arrived += self._take(0)
                    except Lost:
                        return
            except OSError:
                return

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return self._socket is not None

    def arrived(self) -> bool:
        """Whether messages are at hand that `receive` gives without waiting."""
        return bool(self._arrived)

    def _read(self, deadline: float, op: str = "") -> builtins.list[Answer | Item]:
        """What arrives before a deadline; `op` is what it should answer."""
        if self._arrived:
            messages, self._arrived = self._arrived, []
            return messages
        left = deadline - time.monotonic()
        if left <= 0:
            raise core.late(op)
        return self._take(None if math.isinf(left) else left, op)

    def _take(self, timeout: float | None, op: str = "") -> builtins.list[Answer | Item]:
        if self._socket is None:
            raise Lost
        data = b""
        if self._conversation.broken is None:
            try:
                self._socket.settimeout(timeout)
                data = self._socket.recv(_READ_BYTES)
            except (TimeoutError, BlockingIOError):
                raise core.late(op) from None
            except OSError:
                pass
        try:
            return self._conversation.receive(data)
        except (Lost, EngramError):
            self._hang_up()
            raise

    def _keep(self, messages: builtins.list[Answer | Item]) -> None:
        for message in messages:
            if not self._conversation.keep(message) and (data := self._conversation.undo(message)):
                self._send(data)

    def _wait(self, box: Box, deadline: float) -> dict[str, Any]:
        """The result of a request; what arrives for others is kept for them."""
        try:
            while box.answer is None and not box.is_lost:
                self._keep(self._read(deadline, box.op))
        except BaseException:
            if box.op in core.UNDO:
                self._send(self._conversation.leave(box))
            raise
        return box.result()

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

    def _do(self, call: Call[T]) -> T:
        return call.read(self.request(call.op, call.fields))

    def acquire(self, fields: Mapping[str, Any], timeout: float | None = None) -> Lease:
        """As `lock`, with the request's members as they travel, but for the `timeout` of a wait, in seconds."""
        asking = Asking(fields, timeout, time.monotonic())
        while True:
            sent = elapsed()
            try:
                lease = Lease(self, self._request("lock", *asking.next(time.monotonic(), self.timeout)), sent)
                break
            except EngramError as error:
                asking.failed(error, time.monotonic(), self._was_connected or self._resumes)
            time.sleep(RETRY_SECONDS)
        if lease.is_doubtful:
            try:
                lease.renew()
            except BaseException:
                if self._socket is not None:
                    self._ask("unlock", {"token": lease.token})  # who asked will never know of it
                raise
        return lease

    def pages(self, context: str, limit: int | None, filters: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """As `list`, with the units as they travel."""
        return self.each(calls.pages(context, limit, filters, dict))

    def each(self, pages: Pages[T]) -> Iterator[T]:
        """What pages of `engram_cli.calls` list, one after the other, asked for as they are used."""
        while (fields := pages.fields()) is not None:
            yield from pages.take(self.request(pages.op, fields))

    def ask(
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
        return Unit.from_wire(self.ask_raw(context, payload, to=to, type=type, meta=meta, timeout=timeout))

    def ask_raw(
        self,
        context: str,
        payload: str | bytes,
        *,
        to: str,
        type: str = "message",
        meta: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        """As `ask`, with the answer as it travels."""
        seconds = self.timeout if timeout is None else timeout
        deadline = math.inf if seconds is None else time.monotonic() + seconds
        asked = self._do(calls.question(context, payload, to=to, type=type, meta=meta))
        try:
            for item in Tail(self, calls.answers(asked), deadline).raw():
                if "unit" in item and calls.is_answer(item["unit"], asked):
                    return dict(item["unit"])
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

    def renew(self) -> None:
        """Have it last its full time from now on.

        Raises:
            EngramError: `stale` when it is over; others when the daemon cannot be asked, and the lease may go on.
        """
        sent = elapsed()
        try:
            self._renewed(self._client.renew(self.token), sent)
        except EngramError as error:
            self._failed(error)
            raise

    def release(self) -> None:
        """Give it up.

        Raises:
            EngramError: `stale` when it was over already: others may have held it meanwhile.
        """
        try:
            self._client.unlock(self.token)
            self._is_over = True
        except EngramError as error:
            self._failed(error)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Release it. That it was lost is raised, unless an exception is on its way already."""
        if self._is_over:
            return
        try:
            self.release()
        except EngramError:
            if error is None:
                raise


class Tail:
    """A stream of entries that survives a lost connection: it reconnects and goes on after the last item, without a gap or a repeat.

    Iterating gives units; `events()` gives every item. Reconnecting takes as long as it must, or the client's `timeout`; a stream that does
    not follow waits STARTING_SECONDS at most. A daemon that cannot be reached in the first place is an error at once.
    """

    def __init__(self, client: Client, fields: Mapping[str, Any], deadline: float = math.inf) -> None:
        self._client = client
        self._deadline = deadline
        self._mark = Bookmark(fields, client._resumes)
        self._box: Box | None = None

    @property
    def cursor(self) -> str | None:
        """Where the stream stands: after the item that was given last. None before the first."""
        return self._mark.cursor

    def __iter__(self) -> Iterator[Unit]:
        for event in self.events():
            if event.unit is not None:
                yield event.unit

    def events(self) -> Iterator[Event]:
        """Every item: entries, other events if asked for, the mark `live`, heartbeats."""
        for fields in self.raw():
            yield Event.from_wire(fields)

    def raw(self) -> Iterator[dict[str, Any]]:
        """Every item as it travels."""
        try:
            while (item := self._next()) is not None:
                yield self._mark.turn(item)
                self._pay(item)
        finally:
            self.close()

    def close(self) -> None:
        """End the stream. The daemon is told, and the connection stays."""
        box, self._box = self._box, None
        if box is not None and self._client._conversation.forget(box):
            self._client.notify(box.id, "cancel")

    def pending(self) -> bool:
        """Whether an item is at hand without waiting."""
        return self._box is not None and bool(self._box.items)

    def _next(self) -> Item | None:
        """The next item, from this connection or a later one; None at the stream's end."""
        client = self._client
        while True:
            try:
                if self._box is None:
                    client.connect()
                    self._box = self._begin()
                box = self._box
                while not (box.items or box.answer or box.is_lost):
                    client._keep(client._read(self._deadline))
                if box.items:
                    return box.items.popleft()
                self._box = None
                box.result()
                return None
            except Lost:
                pass
            except EngramError as error:
                if error.code != "unavailable" or not self._mark.started:
                    raise
                client.close()
            self._reconnect()

    def _begin(self) -> Box:
        """Ask for the stream, on a connection that there is."""
        return self._client._ask(self._mark.op, self._mark.fields())

    def _pay(self, item: Item) -> None:
        credit = self._mark.used(item)
        if credit and self._box is not None and self._box.answer is None and not self._box.is_lost:
            self._client.notify(self._box.id, "credit", bytes=credit)

    def _reconnect(self) -> None:
        """Wait for a daemon, as long as the client's timeout allows; never start one."""
        self._box = None
        now = time.monotonic()
        timeout = self._client.timeout if math.isinf(self._deadline) else max(0.0, self._deadline - now)
        patience = Patience(timeout, self._mark.follows, now)
        while True:
            try:
                self._client._connect(False)
                return
            except EngramError as error:
                patience.failed(error, time.monotonic())
                time.sleep(RETRY_SECONDS)


class Consuming(Tail):
    """A member's part of a consumer's units. Like `Tail`, it survives a lost connection; what was not acknowledged comes again.

    What `events()` gives has `deliveries` in its fields: how often the unit was delivered, this time included; and `missed`, once
    retention has removed units before they were done: how many, in all.
    """

    def __init__(self, client: Client, fields: Mapping[str, Any], ack: str) -> None:
        if ack not in ("auto", "manual"):
            raise EngramError("invalid", f"ack: must be auto or manual, not {ack!r}")
        super().__init__(client, fields)
        self._mark: Bookmark = Membership(fields, client._resumes)
        self._acks = Acks(fields["consumer"])
        self._auto = ack == "auto"

    def raw(self) -> Iterator[dict[str, Any]]:
        """Every item as it travels."""
        yield from super().raw()
        self.flush()

    def ack(self, *entries: Unit | str | int) -> None:
        """Say that units (or cursors, or seqs of entries) are done, without waiting for the answer: `flush` does.

        Raises:
            EngramError: an earlier acknowledgement was refused.
        """
        self._acks.add(entries)
        if self._box is not None and not self._box.is_lost and self._client.connected:
            self._acks.send(self._client._ask)

    def flush(self) -> None:
        """Wait until every acknowledgement is on disk.

        Raises:
            EngramError: one was refused, or no daemon answers.
        """
        try:
            for box in self._acks.settle():
                self._client._wait(box, math.inf)
        except Lost:
            self._acks.again()
        self._acks.settle()
        for fields in self._acks.rest():
            self._client.request("ack", fields)

    def _begin(self) -> Box:
        """What was not answered goes first, so that it does not come again."""
        self._acks.again()
        self._acks.send(self._client._ask)
        return super()._begin()

    def _pay(self, item: Item) -> None:
        super()._pay(item)
        if self._auto and "unit" in item.event:
            self.ack(item.event["cursor"])
