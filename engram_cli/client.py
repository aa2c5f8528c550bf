"""The Python client: one connection, one method per operation, units as objects.

    from engram_cli.client import Client

    with Client(agent="builder") as engram:
        made = engram.put("build", "tests pass", type="task_status")
        for unit in engram.list("build"):
            print(unit.seq, unit.agent, unit.text)

A `Client` is for one thread. Every method raises EngramError, whose `code` is one of engramd.protocol.errors.CODES.
"""

from __future__ import annotations

import builtins
import itertools
import os
import select
import socket as sockets
import struct
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from engramd import __version__
from engramd.protocol.address import socket_path
from engramd.protocol.connection import Answer, ClientConnection, Id, Item
from engramd.protocol.errors import EngramError
from engramd.protocol.messages import DEFAULT_CREDIT, MAX_PAYLOAD, OPERATIONS, frame_limit
from engramd.protocol.unit import Relationship, Unit, format_id

from . import LOST, settings

__all__ = ["Client", "EngramError", "Event", "Found", "Hit", "PutResult", "Relationship", "Tail", "Unit"]

ANSWER_SECONDS = 1.5  # a daemon that does not greet within this is reported
STARTING_SECONDS = 5.0  # how long a connection that is closed before the greeting is tried again: a daemon is being replaced
RETRY_SECONDS = 0.05
_READ_BYTES = 256 * 1024
_UCRED = struct.Struct("3i")  # pid, uid, gid: struct ucred of unix(7)


class _Lost(Exception):
    """The connection ended."""


@dataclass(frozen=True, slots=True)
class PutResult:
    """What a put made, or found.

    Attributes:
        id, seq: of the unit; of several, the last one's.
        ts: microseconds since the Unix epoch.
        deduped: whether an earlier put with the same dedupe key is answered.
        ids: all ids, in order.
    """

    id: str
    seq: int
    ts: int
    deduped: bool
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Hit:
    """A unit that a search found.

    Attributes:
        score: how well it fits, of the search's mode; `keyword` and `semantic` are what the parts gave.
        snippet: the part of the text that shows why, on one line; `marks` are its characters to be marked, from and to before.
        cursor: search on with `after=cursor` for what fits next best.
    """

    unit: Unit
    score: float
    keyword: float
    semantic: float
    snippet: str
    marks: tuple[tuple[int, int], ...]
    cursor: str


@dataclass(frozen=True, slots=True)
class Found:
    """A page of a search.

    Attributes:
        next: `after` of the next page; None at the end.
        behind: how many events the search did not see: 0 unless the index was behind and `wait` was over.
    """

    hits: tuple[Hit, ...]
    next: str | None
    behind: int


@dataclass(frozen=True, slots=True)
class Event:
    """One item of a stream.

    Attributes:
        kind: `unit_put` or `unit_added` for entries; `live` where replay ends; `heartbeat`; else the kind of another event of the log.
        cursor: resume with `after=cursor` to get what follows this item.
        unit: the entry's unit, or None.
        fields: the item as it was sent.
    """

    kind: str
    cursor: str
    unit: Unit | None
    fields: dict[str, Any]


class Client:
    """A blocking connection to the daemon, made at first use.

    Args:
        socket: path of the daemon's Unix socket; by default where every command looks for it.
        agent: who acts; by default ENGRAM_AGENT, else the user's name.
        autostart: whether to start a daemon when none runs. A connection that was lost is never a reason to start one.
        timeout: seconds that one operation may take; None means no limit. For a stream it bounds each reconnect.
    """

    def __init__(
        self, socket: str | None = None, *, agent: str | None = None, autostart: bool = True, timeout: float | None = None
    ) -> None:
        self.address = socket_path(socket or settings.socket())
        self.agent = settings.agent() if agent is None else agent
        self.autostart = autostart
        self.timeout = timeout
        self.server: dict[str, Any] = {}
        self._socket: sockets.socket | None = None
        self._connection = ClientConnection(frame_limit(MAX_PAYLOAD))
        self._answers: dict[Id, Answer] = {}
        self._streams: dict[Id, deque[Item]] = {}
        self._arrived: builtins.list[Answer | Item] = []
        self._awaited: set[Id] = set()
        self._broken: EngramError | None = None  # what ended the connection, once all that came before it is used
        self._ids = itertools.count(1)
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
            except _Lost:
                if time.monotonic() > deadline:
                    raise EngramError("unavailable", f"the daemon at {self.address} hangs up before it answers") from None
                time.sleep(RETRY_SECONDS)

    def resume(self) -> None:
        """Go on for a connection that was lost before this client was made: wait for a daemon as after a loss, and start none."""
        self._was_connected = self._resumes = True

    def close(self) -> None:
        """Hang up, and forget what has not been asked for yet. The client may be used again; it connects anew."""
        self._hang_up()
        self._answers.clear()
        self._arrived = []

    def _hang_up(self) -> None:
        """The connection is over. What has arrived stays: an answer counts, however the connection ended."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._connection = ClientConnection(frame_limit(MAX_PAYLOAD))
        self._streams.clear()
        self._broken = None

    def fileno(self) -> int:
        """The socket's file descriptor, to wait on it beside others.

        Raises:
            EngramError: as `connect` does.
        """
        self.connect()
        assert self._socket is not None
        return self._socket.fileno()

    def _open(self, start: bool) -> sockets.socket:
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
                    raise EngramError("unavailable", f"no daemon runs at {self.address}; start one with: engram daemon start") from None
                from .autostart import start as start_daemon

                start_daemon(self.address)
            except OSError as error:
                opened.close()
                if not isinstance(error, BlockingIOError | TimeoutError):
                    raise EngramError("unavailable", f"cannot connect to {self.address}: {error.strerror or error}") from error
                if time.monotonic() > deadline:
                    raise EngramError(
                        "unavailable", f"the daemon at {self.address} does not accept connections: it is stopped or overloaded"
                    ) from None
                time.sleep(RETRY_SECONDS)

    def _greet(self, opened: sockets.socket) -> None:
        pid, uid = _peer(opened)
        if uid not in (None, os.getuid()):
            opened.close()
            raise EngramError("denied", f"the daemon at {self.address} belongs to uid {uid}, not to you")
        self._socket = opened
        try:
            hello = {"agent": self.agent, "client": f"engram {__version__}"}
            if session := os.environ.get("ENGRAM_SESSION"):
                hello["session"] = session
            self._awaited.add(0)
            self._send(self._connection.hello(hello))
            answer = self._wait(0, time.monotonic() + ANSWER_SECONDS)
        except _Lost:
            raise
        except EngramError as error:
            self.close()
            if error.code != "timeout":
                raise
            raise EngramError(
                "unavailable",
                f"the daemon at {self.address} (pid {pid}) accepts connections but does not answer. It may be stopped "
                f"(try: kill -CONT {pid}) or hung (try: kill -KILL {pid}; nothing acknowledged is lost, and the next command starts "
                "a new one)",
                pid=pid,
            ) from None
        self.server = answer
        self._was_connected = True

    # Requests

    def request(self, op: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Carry out any operation of the wire and return its result as it travels.

        A request that cannot have done harm (a read, a put with a dedupe key, one that the daemon refused while stopping) is sent
        again when the connection is lost, for up to STARTING_SECONDS.

        Raises:
            EngramError: the daemon's error; `outcome_unknown` when the connection was lost after a write was sent; `timeout`.
        """
        deadline = None if self.timeout is None else time.monotonic() + self.timeout
        retry_until = time.monotonic() + STARTING_SECONDS
        repeatable = OPERATIONS[op].permission == "read" or (op == "put" and "dedupe" in fields)
        again = self._resumes
        while True:
            try:
                self.connect()
                request_id = self.send(op, fields)
                return self._wait(request_id, deadline)
            except _Lost:
                if not repeatable or time.monotonic() > retry_until:
                    raise lost(op) from None
            except EngramError as error:
                is_away = again and error.code == "unavailable" and not self._starts
                if not (is_away or self._is_being_replaced(error)) or time.monotonic() > retry_until:
                    raise
                self.close()
            if deadline is not None and time.monotonic() > deadline:
                raise EngramError("timeout", "the connection was lost, and no daemon answered in time")
            again = True
            time.sleep(RETRY_SECONDS)

    def send(self, op: str, fields: Mapping[str, Any], request_id: Id | None = None) -> Id:
        """Send a request without waiting for its answer, and return its id; `receive` gives what comes back.

        Raises:
            EngramError: `too_large` for a request that the daemon would take no byte of; and as `connect`.
        """
        self.connect()
        request_id = next(self._ids) if request_id is None else request_id
        _, frame = self._connection.request(op, fields, request_id)
        self._check_size(fields, len(frame))
        self._awaited.add(request_id)
        self._send(frame)
        return request_id

    def _check_size(self, fields: Mapping[str, Any], frame: int) -> None:
        """Refuse what the daemon would, before sending a frame that it cannot even read."""
        limits, payload = self.server["limits"], fields.get("payload", b"")
        for size, limit, what in ((len(payload), limits["max_payload"], "payload"), (frame - 4, limits["max_frame"], "request")):
            if size > limit:
                raise EngramError(
                    "too_large",
                    f"{what}: {size} bytes are over the daemon's limit of {limit}; put a reference to a file instead, or raise "
                    "max_payload in its configuration",
                    limit=limit,
                    size=size,
                )

    def notify(self, request_id: Id, op: str, **fields: Any) -> None:
        """Send `credit` or `cancel` for a stream."""
        self._send(self._connection.notice(request_id, op, **fields))

    def receive(self, timeout: float | None = None) -> builtins.list[Answer | Item]:
        """Wait for bytes and return the answers and items that they complete, perhaps none.

        Raises:
            EngramError: `unavailable` when the connection ends, `timeout` after `timeout` seconds of nothing.
        """
        try:
            return self._read(None if timeout is None else time.monotonic() + timeout)
        except _Lost:
            raise EngramError("unavailable", "the daemon closed the connection") from None

    def _is_being_replaced(self, error: EngramError) -> bool:
        """Whether the error is a daemon's last word before another takes over: nothing was done, and asking again is safe."""
        if error.code != "unavailable" or self._socket is None:
            return False
        self._was_connected = not self.autostart
        return True

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
                    except _Lost:
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

    def _read(self, deadline: float | None) -> builtins.list[Answer | Item]:
        if self._arrived:
            messages, self._arrived = self._arrived, []
            return messages
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise EngramError("timeout", "no answer came in time")
        return self._take(left)

    def _take(self, timeout: float | None) -> builtins.list[Answer | Item]:
        if self._broken is not None:
            error = self._broken
            self._hang_up()
            raise error
        if self._socket is None:
            raise _Lost
        try:
            self._socket.settimeout(timeout)
            data = self._socket.recv(_READ_BYTES)
        except (TimeoutError, BlockingIOError):
            raise EngramError("timeout", "no answer came in time") from None
        except OSError:
            data = b""
        if not data:
            self._hang_up()
            raise _Lost
        messages: builtins.list[Answer | Item] = []
        try:
            messages.extend(self._connection.receive(data))
        except EngramError as error:
            self._broken = error
            return messages or self._take(timeout)
        return messages

    def _wait(self, request_id: Id, deadline: float | None) -> dict[str, Any]:
        """The result of a request; what arrives for others is kept for them."""
        try:
            while request_id not in self._answers:
                for message in self._read(deadline):
                    self._keep(message)
        finally:
            self._awaited.discard(request_id)
        answer = self._answers.pop(request_id)
        if answer.error is not None:
            raise answer.error
        return answer.result or {}

    def _keep(self, message: Answer | Item) -> None:
        if isinstance(message, Answer):
            if message.id in self._awaited:
                self._answers[message.id] = message
        elif message.id in self._streams:
            self._streams[message.id].append(message)

    # Operations

    def put(
        self,
        context: str,
        payload: str | bytes,
        *,
        type: str = "message",
        meta: Mapping[str, str] | None = None,
        relationships: Iterable[Relationship] = (),
        dedupe: str | None = None,
        expect_seq: int | None = None,
    ) -> PutResult:
        """Append a unit; returns when it is on disk.

        Args:
            payload: text, or bytes that are kept as they are.
            dedupe: a key; a put seen before in the context is answered with its unit.
            expect_seq: refuse with `conflict` unless the context's last entry has this seq (0: it has none).
        """
        fields: dict[str, Any] = {"context": context, "type": type, **_payload(payload)}
        if meta:
            fields["meta"] = dict(meta)
        edges = [{"type": edge.type, "target": edge.target, "meta": edge.meta} for edge in relationships]
        if edges:
            fields["relationships"] = edges
        return self._put(fields, dedupe, expect_seq)

    def put_many(
        self, context: str, units: Sequence[Mapping[str, Any]], *, dedupe: str | None = None, expect_seq: int | None = None
    ) -> PutResult:
        """Append several units in one batch, all or none.

        Args:
            units: maps with `text` or `payload`, and `type`, `meta`, `relationships` if wanted.
        """
        return self._put({"context": context, "units": [dict(unit) for unit in units]}, dedupe, expect_seq)

    def _put(self, fields: dict[str, Any], dedupe: str | None, expect_seq: int | None) -> PutResult:
        if dedupe is not None:
            fields["dedupe"] = dedupe
        if expect_seq is not None:
            fields["expect_seq"] = expect_seq
        made = self.request("put", fields)
        ids = tuple(format_id(unit) for unit in made.get("ids", [made["id"]]))
        return PutResult(ids[-1], made["seq"], made["ts"], made["deduped"], ids)

    def get(self, *ids: str | int) -> builtins.list[Unit]:
        """The units with these ids or seqs, in this order; `not_found` if one is missing."""
        return [Unit.from_wire(unit) for unit in self.request("get", {"ids": list(ids)})["units"]]

    def list(self, context: str, *, limit: int | None = None, **filters: Any) -> Iterator[Unit]:
        """A context's present units, oldest first, read page by page as they are used.

        Args:
            filters: `agent`, `type` (one or a list), `meta` (a map), `since`, `until`, `after`, `related_to`, `reverse`.
        """
        for unit in self.pages(context, limit, filters):
            yield Unit.from_wire(unit)

    def pages(self, context: str, limit: int | None, filters: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """As `list`, with the units as they travel."""
        fields = {"context": context, **filters}
        left = limit
        while left is None or left > 0:
            page = self.request("list", fields if left is None else {**fields, "limit": min(left, 1000)})
            yield from page["units"]
            left = None if left is None else left - len(page["units"])
            if page["next"] is None:
                return
            fields["after"] = page["next"]

    def search(self, query: str, *contexts: str, **options: Any) -> Found:
        """A page of the units that fit a query best.

        Args:
            contexts: none means all.
            options: `mode` (`hybrid`, `keyword` or `semantic`), `limit`, `after`, `min_score`, `wait` (milliseconds), and `list`'s filters
                but `reverse`.
        """
        page = self.request("search", {"query": query, **({"contexts": [*contexts]} if contexts else {}), **options})
        hits = (
            Hit(
                Unit.from_wire(hit["unit"]),
                hit["score"],
                hit["parts"]["keyword"],
                hit["parts"]["semantic"],
                hit["snippet"]["text"],
                tuple((start, end) for start, end in hit["snippet"]["marks"]),
                hit["cursor"],
            )
            for hit in page["hits"]
        )
        return Found(tuple(hits), page["next"], page["behind"])

    def tail(self, *contexts: str, follow: bool = True, **options: Any) -> Tail:
        """Stream the entries of contexts (none: of all): `for unit in client.tail("build", last=10): ...`

        Args:
            follow: go on with new entries instead of ending where the log ends now.
            options: where to start: `last` (a count), `since` (a time), `after` (a cursor or seq); none of these means now. Which:
                `agent`, `type`, `meta`, `related_to`, `until`, and `events=True` for every event.
        """
        return Tail(self, {"contexts": list(contexts), "follow": follow, **options})

    def context_create(self, context: str, *, display_name: str | None = None, meta: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Create a context; `exists` if there is one."""
        return self._described("context_create", context, display_name, meta)

    def context_set(self, context: str, *, display_name: str | None = None, meta: Mapping[str, str | None] | None = None) -> dict[str, Any]:
        """Change a context's title and labels; a label of None is removed."""
        return self._described("context_set", context, display_name, meta)

    def _described(self, op: str, context: str, display_name: str | None, meta: Mapping[str, str | None] | None) -> dict[str, Any]:
        fields: dict[str, Any] = {"context": context}
        if display_name is not None:
            fields["display_name"] = display_name
        if meta:
            fields["meta"] = dict(meta)
        described: dict[str, Any] = self.request(op, fields)["context"]
        return described

    def context_show(self, context: str) -> dict[str, Any]:
        """Describe a context; `not_found` if there is none."""
        described: dict[str, Any] = self.request("context_show", {"context": context})["context"]
        return described

    def context_list(self) -> Iterator[dict[str, Any]]:
        """Describe every context, by name."""
        return self._named("context_list", "contexts", {})

    def context_join(self, context: str, agent: str | None = None) -> bool:
        """Make an agent (by default the client's) a member; False if it was one."""
        return self._changed("context_join", {"context": context, "agent": self.agent if agent is None else agent})

    def context_leave(self, context: str, agent: str | None = None) -> bool:
        """End an agent's membership; False if there was none."""
        return self._changed("context_leave", {"context": context, "agent": self.agent if agent is None else agent})

    def context_pin(self, context: str, *ids: str | int) -> bool:
        """Pin units; False if all were pinned."""
        return self._changed("context_pin", {"context": context, "ids": list(ids)})

    def context_unpin(self, context: str, *ids: str | int) -> bool:
        """Unpin units; False if none was pinned."""
        return self._changed("context_unpin", {"context": context, "ids": list(ids)})

    def context_add(self, context: str, *ids: str | int) -> bool:
        """Add units of other contexts; False if all were there."""
        return self._changed("context_add", {"context": context, "ids": list(ids)})

    def context_remove(self, context: str, *ids: str | int) -> bool:
        """Remove units from a context; False if none was there."""
        return self._changed("context_remove", {"context": context, "ids": list(ids)})

    def _changed(self, op: str, fields: dict[str, Any]) -> bool:
        changed: bool = self.request(op, fields)["changed"]
        return changed

    def agents(self, context: str | None = None) -> Iterator[dict[str, Any]]:
        """Every agent that has put a unit, or a context's members, by name."""
        return self._named("agents", "agents", {} if context is None else {"context": context})

    def names(self, kind: str, prefix: str = "", limit: int = 1000) -> builtins.list[str]:
        """The names of `contexts` or `agents` that start with a prefix, in order, at most `limit`."""
        found: builtins.list[str] = self.request("names", {"kind": kind, "prefix": prefix, "limit": limit})["names"]
        return found

    def _named(self, op: str, member: str, fields: dict[str, Any]) -> Iterator[dict[str, Any]]:
        while True:
            page = self.request(op, fields)
            yield from page[member]
            if page["next"] is None:
                return
            fields = {**fields, "after": page["next"]}

    def status(self) -> dict[str, Any]:
        """The daemon's facts about itself."""
        facts: dict[str, Any] = self.request("status", {})["status"]
        return facts

    def shutdown(self) -> None:
        """Ask the daemon to stop."""
        self.request("shutdown", {})


class Tail:
    """A stream of entries that survives a lost connection: it reconnects and goes on after the last item, without a gap or a repeat.

    Iterating gives units; `events()` gives every item. Reconnecting takes as long as it must, or the client's `timeout`; a stream that does
    not follow waits STARTING_SECONDS at most. A daemon that cannot be reached in the first place is an error at once.

    Attributes:
        cursor: where the stream stands: after the item that was given last. None before the first.
    """

    def __init__(self, client: Client, fields: dict[str, Any]) -> None:
        self.cursor: str | None = None
        self._client = client
        self._fields = fields
        self._id: Id | None = None
        self._items: deque[Item] = deque()
        self._used = 0
        self._started = client._resumes

    def __iter__(self) -> Iterator[Unit]:
        for event in self.events():
            if event.unit is not None:
                yield event.unit

    def events(self) -> Iterator[Event]:
        """Every item: entries, other events if asked for, the mark `live`, heartbeats."""
        for fields in self.raw():
            unit = fields.get("unit")
            yield Event(fields["kind"], fields["cursor"], None if unit is None else Unit.from_wire(unit), fields)

    def raw(self) -> Iterator[dict[str, Any]]:
        """Every item as it travels."""
        try:
            while True:
                try:
                    item = self._next()
                except _Lost:
                    self._reconnect()
                    continue
                except EngramError as error:
                    if error.code != "unavailable" or not self._started:
                        raise
                    self._client.close()
                    self._reconnect()
                    continue
                if item is None:
                    return
                self.cursor = item.event["cursor"]
                yield item.event
                self._pay(item)
        finally:
            self.close()

    def close(self) -> None:
        """End the stream. The daemon is told, and the connection stays."""
        request_id, self._id = self._id, None
        self._client._awaited.discard(request_id or 0)
        if request_id is not None and self._client._streams.pop(request_id, None) is not None:
            self._client.notify(request_id, "cancel")

    def pending(self) -> bool:
        """Whether an item is at hand without waiting."""
        return bool(self._items)

    def _start(self) -> None:
        fields = self._fields
        if self.cursor is not None:
            fields = {name: value for name, value in fields.items() if name not in ("last", "since")} | {"after": self.cursor}
        client = self._client
        client.connect()
        self._used = 0
        self._id = client.send("tail", fields)
        self._items = client._streams[self._id] = deque()
        self._started = True

    def _next(self) -> Item | None:
        client = self._client
        if self._id is None or self._id not in client._streams:
            if self._id is not None:
                raise _Lost
            self._start()
        assert self._id is not None
        while not self._items:
            if self._id in client._answers:
                client._streams.pop(self._id, None)
                request_id, self._id = self._id, None
                client._wait(request_id, None)
                return None
            for message in client._read(None):
                client._keep(message)
        return self._items.popleft()

    def _pay(self, item: Item) -> None:
        """Give the credit back in large steps, once the items are used."""
        self._used += item.size + 4
        if self._used >= DEFAULT_CREDIT // 4 and self._id is not None and self._id in self._client._streams:
            self._client.notify(self._id, "credit", bytes=self._used)
            self._used = 0

    def _reconnect(self) -> None:
        """Wait for a daemon, as long as the client's timeout allows; never start one."""
        self._id = None
        self._items.clear()
        timeout = self._client.timeout
        patience = STARTING_SECONDS if timeout is None and not self._fields["follow"] else timeout
        deadline = None if patience is None else time.monotonic() + patience
        while True:
            try:
                self._client._connect(False)
                return
            except EngramError as error:
                if error.code != "unavailable":
                    raise
                if deadline is not None and time.monotonic() > deadline:
                    if timeout is None:
                        raise
                    raise EngramError("timeout", f"no daemon came back within {timeout:g} s: {error.message}") from None
                time.sleep(RETRY_SECONDS)


def lost(op: str) -> EngramError:
    """The error of an operation whose connection ended before its answer."""
    if OPERATIONS[op].permission == "read":
        return EngramError("unavailable", "the daemon closed the connection before it answered")
    return EngramError(
        "outcome_unknown",
        LOST.format(op=op),
    )


def _payload(payload: str | bytes) -> dict[str, str | bytes]:
    return {"text": payload} if isinstance(payload, str) else {"payload": payload}


def _peer(opened: sockets.socket) -> tuple[int | None, int | None]:
    """The pid and uid of who listens, where the kernel tells."""
    if not hasattr(sockets, "SO_PEERCRED"):
        return None, None
    pid, uid, _ = _UCRED.unpack(opened.getsockopt(sockets.SOL_SOCKET, sockets.SO_PEERCRED, _UCRED.size))
    return pid, uid
