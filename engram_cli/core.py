"""What every client of the daemon does, without I/O: greet, ask, sort what arrives, resume streams, and decide what may be tried again.

The blocking client and the trio client move the bytes and wait; all else is here. Times are seconds of the caller's monotonic clock.
"""

from __future__ import annotations

import itertools
import math
import os
import socket
import struct
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from engramd import __version__
from engramd.protocol.connection import Answer, ClientConnection, Id, Item
from engramd.protocol.doubt import ADVICE, in_doubt
from engramd.protocol.errors import EngramError
from engramd.protocol.messages import DEFAULT_CREDIT, MAX_PAYLOAD, frame_limit
from engramd.protocol.unit import Unit

from . import LOST, settings

ANSWER_SECONDS = 1.5  # a daemon that does not greet within this is reported
CONNECT_SECONDS = 10.0  # the same over a network, or where it first looks at a token
STARTING_SECONDS = 5.0  # how long a connection that is closed before the greeting is tried again: a daemon is being replaced
RETRY_SECONDS = 0.05
ACKS = 500  # entries in one request, and requests without an answer before answers are looked at
_UCRED = struct.Struct("3i")  # pid, uid, gid: struct ucred of unix(7)


class Lost(Exception):
    """The connection ended."""


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

    @classmethod
    def from_wire(cls, fields: dict[str, Any]) -> Event:
        """Read an item as it travels."""
        unit = fields.get("unit")
        return cls(fields["kind"], fields["cursor"], None if unit is None else Unit.from_wire(unit), fields)


# What arrives


class Box:
    """Where what arrives for one request is kept: the items of a stream, then the answer.

    Attributes:
        is_lost: the connection ended before the answer. What had arrived is still here.
    """

    def __init__(self, request_id: Id, op: str) -> None:
        self.id = request_id
        self.op = op
        self.items: deque[Item] = deque()
        self.answer: Answer | None = None
        self.is_lost = False

    def wake(self) -> None:
        """Something has changed; for a client that sleeps."""

    def result(self) -> dict[str, Any]:
        """The result that the answer holds.

        Raises:
            EngramError: the answer is a failure.
            Lost: there is none, nor will there be.
        """
        if self.answer is None:
            raise Lost
        if self.answer.error is not None:
            raise self.answer.error
        return self.answer.result or {}


class Conversation:
    """One connection to a daemon, from the greeting to its end.

    Args:
        ids: gives each request its id. Shared by all connections of a client, so that no id means two things.
        make: makes the boxes. They are held by who waits; what arrives for nobody is dropped.

    Attributes:
        server: what the daemon said of itself in its greeting.
        broken: what ended the connection, once all that came before it is used.
    """

    def __init__(self, ids: itertools.count[int], make: Callable[[Id, str], Box] = Box) -> None:
        self.server: dict[str, Any] = {}
        self.broken: EngramError | None = None
        self._ids = ids
        self._make = make
        self._connection = ClientConnection(frame_limit(MAX_PAYLOAD))
        self._boxes: weakref.WeakValueDictionary[Id, Box] = weakref.WeakValueDictionary()
        self._left: dict[Id, str] = {}  # requests under way that nobody waits for, whose success has to be undone

    def greet(
        self, agent: str, session: str | None = None, owner: bool = False, presence: bool = False, token: str | None = None
    ) -> tuple[Box, bytes]:
        """The box of the daemon's greeting, and the bytes that ask for it. With a token, an empty agent stands for its holder."""
        hello: dict[str, Any] = {"client": f"engram {__version__}"}
        if agent or token is None:
            hello["agent"] = agent
        if token is not None:
            hello["token"] = token
        if presence:
            hello["presence"] = True
        if session is not None:
            hello["session"] = session
        if owner:
            hello["owner"] = True
        return self._open(0, "hello"), self._connection.hello(hello)

    def ask(self, op: str, fields: Mapping[str, Any], request_id: Id | None = None) -> tuple[Box, bytes]:
        """A request's box and bytes.

        Raises:
            EngramError: `too_large` for a request that the daemon would take no byte of.
        """
        chosen, frame = self._connection.request(op, fields, next(self._ids) if request_id is None else request_id)
        self._check_size(fields, len(frame))
        return self._open(chosen, op), frame

    def _open(self, request_id: Id, op: str) -> Box:
        box = self._boxes[request_id] = self._make(request_id, op)
        return box

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

    def notice(self, request_id: Id, op: str, **fields: Any) -> bytes:
        """The bytes of `credit` or `cancel` for a request under way."""
        return self._connection.notice(request_id, op, **fields)

    def receive(self, data: bytes) -> list[Answer | Item]:
        """Take what arrived, no bytes meaning the end, and give the messages that it completes.

        Raises:
            Lost: the connection has ended.
            EngramError: so it has, and the daemon said why, or broke the protocol. What came before that is given first.
        """
        if self.broken is not None:
            raise self.broken
        if not data:
            raise Lost
        messages: list[Answer | Item] = []
        try:
            messages.extend(self._connection.receive(data))
        except EngramError as error:
            self.broken = error
            if not messages:
                raise
        return messages

    def keep(self, message: Answer | Item) -> bool:
        """Put a message into its box; False when nobody waits for it any more."""
        box = self._boxes.get(message.id)
        if box is None:
            return False
        if isinstance(message, Item):
            box.items.append(message)
        else:
            box.answer = message
            del self._boxes[message.id]
        box.wake()
        return True

    def forget(self, box: Box) -> bool:
        """Nobody waits for this any more; False if it had been answered, or lost."""
        if self._boxes.pop(box.id, None) is None:
            return False
        if box.op in UNDO:
            self._left[box.id] = box.op
        return True

    def leave(self, box: Box) -> bytes:
        """The bytes to send when nobody waits for this any more: the daemon is to end it, or what it has done is undone."""
        if self.forget(box):
            return self.notice(box.id, "cancel")
        if box.op not in UNDO or box.answer is None:
            return b""
        self._left[box.id] = box.op
        return self.undo(box.answer)

    def undo(self, message: Answer | Item) -> bytes:
        """The bytes that undo what was done for nobody: a lock that was granted just as its wait was given up is released."""
        op = self._left.pop(message.id, None) if isinstance(message, Answer) else None
        if op is None or not isinstance(message, Answer) or message.result is None:
            return b""
        return self._connection.request(*UNDO[op](message.result), next(self._ids))[1]

    def end(self) -> None:
        """The connection is over: what was not answered will not be."""
        for box in list(self._boxes.values()):
            box.is_lost = True
            box.wake()
        self._boxes.clear()


class Files(NamedTuple):
    """PEM files: the authority to trust (None: those of the system), and the certificate to show with its key."""

    ca: str | None = None
    cert: str | None = None
    key: str | None = None


def files(ca: str | None, cert: str | None, key: str | None) -> Files:
    """The files for TLS: those that are given, else those that are configured."""
    return Files(*(given or configured for given, configured in zip((ca, cert, key), settings.files(), strict=True)))


def named(agent: str | None, token: str | None) -> str | None:
    """Who is said to act, if anybody is: with a token nobody need be."""
    if agent is not None or token is None:
        return settings.agent() if agent is None else agent
    return settings.default("agent")


def patience(token: str | None) -> float:
    """Seconds in which a daemon must greet. It takes its time to say that a token is wrong, and so may a network."""
    return ANSWER_SECONDS if token is None else CONNECT_SECONDS


def session(opens: bool) -> tuple[str | None, bool]:
    """The session that a client is in, and whether it is its owner: the one of ENGRAM_SESSION, else if it `opens` one, one of its own."""
    joined = os.environ.get("ENGRAM_SESSION") or None
    return (new_session(), True) if opens and joined is None else (joined, False)


def new_session() -> str:
    """A session that nobody else can guess."""
    return os.urandom(16).hex()


# Trying again

# op: the request that undoes it, from its result. The daemon ends what is cancelled before it is done; this is for what was done by then.
UNDO: Mapping[str, Callable[[dict[str, Any]], tuple[str, dict[str, Any]]]] = {
    "lock": lambda lease: ("unlock", {"token": lease["token"]}),
}


def repeatable(op: str, fields: Mapping[str, Any]) -> bool:
    """Whether a request may be sent again when nobody knows what became of it.

    A lease that was granted to nobody ends by itself, and a wait has its own way; what was released cannot be released by mistake.
    """
    if op in ("lock", "renew", "unlock"):
        return not (fields.get("wait") or fields.get("force"))
    if op == "put":
        return "dedupe" in fields or any("id" in unit for unit in fields.get("units", ()))
    return op not in ADVICE or op == "ack"


def lost(op: str) -> EngramError:
    """The error of an operation whose connection ended before its answer."""
    if op not in ADVICE:
        return EngramError("unavailable", "the daemon closed the connection before it answered")
    return EngramError("outcome_unknown", in_doubt(op, LOST))


class Attempts:
    """The attempts at one request: what cannot have done harm is sent again for up to STARTING_SECONDS.

    Args:
        timeout: seconds that all of it may take; None means no limit.
        resumes: a connection was lost before the first attempt.

    Attributes:
        deadline: when that time is over.
    """

    def __init__(self, op: str, fields: Mapping[str, Any], timeout: float | None, now: float, resumes: bool = False) -> None:
        self.deadline = math.inf if timeout is None else now + timeout
        self._op = op
        self._repeatable = repeatable(op, fields)
        self._until = now + STARTING_SECONDS
        self._again = resumes
        self._unsure = False

    def lost(self, now: float) -> None:
        """The connection ended before the answer. Returns if the request may be sent again after RETRY_SECONDS.

        Raises:
            EngramError: `unavailable` or `outcome_unknown`; `timeout`.
        """
        if not self._repeatable or now > self._until:
            raise lost(self._op) from None
        self._unsure = True
        self._next(now)

    def failed(self, error: EngramError, now: float, connected: bool, starts: bool) -> dict[str, Any] | None:
        """The request failed: it was refused, or there was nobody to ask. Returns if it may be sent again after RETRY_SECONDS.

        Returns:
            The result, if the failure tells that an attempt whose answer was lost has done what was asked: a lease was released.

        Args:
            connected: the daemon itself gave the error. `unavailable` is then its last word before another takes over, and `busy` says
                that a limit was met: nothing was done, and asking again is safe.
            starts: a daemon would be started now, if none ran.

        Raises:
            EngramError: the error itself; `timeout`.
        """
        if self._op == "unlock" and error.code == "stale" and self._unsure:
            return {"released": []}
        if error.code == "busy" and connected and "retry_after" in error.details and now < self._until:
            self._next(now)
            return None
        is_away = self._again and not starts
        if error.code != "unavailable" or not (connected or is_away) or now > self._until:
            raise error
        self._next(now)
        return None

    def _next(self, now: float) -> None:
        if now > self.deadline:
            raise self.late(False, "the connection was lost, and no daemon answered in time")
        self._again = True

    def late(self, is_sent: bool, why: str = "no answer came in time") -> EngramError:
        """The error for when the time is over.

        Args:
            is_sent: whether the last attempt was sent, and has no answer.
        """
        return late(self._op if is_sent or self._unsure else "", why)


class Asking:
    """The requests for one lease. A wait whose connection was lost asks again, at the end of the queue, until its time is over.

    All of them have one key, so a lease that was granted and whose answer was lost is found again.

    Args:
        fields: the request's members, without `timeout`.
        timeout: seconds that a wait may take; None means no limit.
    """

    def __init__(self, fields: Mapping[str, Any], timeout: float | None, now: float) -> None:
        self._fields = {"key": os.urandom(8).hex(), **fields}
        self._timeout = timeout
        self._until = math.inf if timeout is None else now + timeout

    def next(self, now: float, timeout: float | None) -> tuple[Mapping[str, Any], float | None]:
        """The members of the next request, and the seconds in which the daemon must answer, which are `timeout` if it does not wait."""
        if not self._fields.get("wait"):
            return self._fields, timeout
        if self._timeout is None:
            return self._fields, None
        left = max(0.0, self._until - now)
        return {**self._fields, "timeout": round(left * 1e6)}, left + ANSWER_SECONDS

    def failed(self, error: EngramError, now: float, reached: bool) -> None:
        """The request failed. Returns if it is to be sent again after RETRY_SECONDS.

        Args:
            reached: a daemon was there before.

        Raises:
            EngramError: the error itself; `locked` when the time is over.
        """
        is_away = error.code in ("unavailable", "outcome_unknown")
        if not (self._fields.get("wait") and reached and (is_away or error.code == "timeout")):
            raise error
        if self._timeout is None:
            if is_away:
                return
            raise error
        if now >= self._until or not is_away:
            raise EngramError("locked", f"waited {self._timeout:g} s in vain, the last of it for a daemon: {error.message}") from None


def late(op: str = "", why: str = "no answer came in time") -> EngramError:
    """The error of what was not answered before its deadline.

    Args:
        op: what was sent, if anything was: what changes something may have done so.
    """
    if op in ADVICE:
        return EngramError("timeout", in_doubt(op, why), outcome="unknown")
    return EngramError("timeout", why)


# Streams


class Bookmark:
    """Where a stream stands, across connections, and what credit it owes the daemon.

    Attributes:
        op: the operation that begins the stream.
        cursor: after the item that was used last; None before the first.
        started: the daemon was reached once; from then on it is waited for when it is away.
    """

    op = "tail"

    def __init__(self, fields: Mapping[str, Any], started: bool = False) -> None:
        self.cursor: str | None = None
        self.started = started
        self._fields = dict(fields)
        self._step: int = min(self._fields.get("credit", DEFAULT_CREDIT), DEFAULT_CREDIT) // 4
        self._owed = 0

    @property
    def follows(self) -> bool:
        """Whether the stream goes on with live entries."""
        return bool(self._fields.get("follow"))

    def fields(self) -> dict[str, Any]:
        """The members of the request that begins the stream, or takes it up again."""
        self.started = True
        self._owed = 0
        if self.cursor is None:
            return self._fields
        return {name: value for name, value in self._fields.items() if name not in ("last", "since")} | {"after": self.cursor}

    def turn(self, item: Item) -> dict[str, Any]:
        """Take an item: the stream stands behind it from now on."""
        self.cursor = item.event["cursor"]
        return item.event

    def used(self, item: Item) -> int:
        """An item was used. Returns the bytes of credit to give to the daemon now: it is given back in large steps."""
        self._owed += item.size + 4
        if self._owed < self._step:
            return 0
        owed, self._owed = self._owed, 0
        return owed


class Membership(Bookmark):
    """A member of a consumer, across connections: the daemon knows where it stands."""

    op = "consume"

    def fields(self) -> dict[str, Any]:
        """The members of the request that begins the stream, or takes it up again."""
        super().fields()
        return self._fields


class Acks:
    """Acknowledgements of a member, across connections: what was not answered is sent again."""

    def __init__(self, consumer: str) -> None:
        self._consumer = consumer
        self._unsent: list[str | int] = []
        self._sent: list[tuple[Box, list[str | int]]] = []

    def add(self, entries: Iterable[Unit | str | int]) -> None:
        """Units (or cursors, or seqs of entries) are done."""
        self._unsent += map(entry_of, entries)

    def send(self, ask: Callable[[str, dict[str, Any]], Box]) -> None:
        """Ask for what has not been sent yet."""
        while self._unsent:
            fields = self._next()
            self._sent.append((ask("ack", fields), fields["entries"]))
        if len(self._sent) > ACKS:
            self.settle()

    def settle(self) -> list[Box]:
        """Forget what was answered, and give what was not. Raises what was refused, as EngramError."""
        answered = [box for box, _ in self._sent if box.answer is not None]
        self._sent = [(box, entries) for box, entries in self._sent if box.answer is None]
        for box in answered:
            box.result()
        return [box for box, _ in self._sent]

    def again(self) -> None:
        """The connection was lost: what was not answered is to be sent again."""
        self._unsent[:0] = [entry for box, entries in self._sent if box.answer is None for entry in entries]
        self._sent = [(box, entries) for box, entries in self._sent if box.answer is not None]

    def rest(self) -> Iterator[dict[str, Any]]:
        """The members of requests for all that has not been sent."""
        while self._unsent:
            yield self._next()

    def _next(self) -> dict[str, Any]:
        some = self._unsent[:ACKS]
        del self._unsent[:ACKS]
        return {"consumer": self._consumer, "entries": some}


def entry_of(entry: Unit | str | int) -> str | int:
    """The cursor or seq of an entry."""
    return entry.entry if isinstance(entry, Unit) else entry


class Patience:
    """How long a stream waits for a daemon to come back: as long as it must, or the client's timeout; one that does not follow
    STARTING_SECONDS at most."""

    def __init__(self, timeout: float | None, follows: bool, now: float) -> None:
        self._timeout = timeout
        seconds = STARTING_SECONDS if timeout is None and not follows else timeout
        self._until = math.inf if seconds is None else now + seconds

    def failed(self, error: EngramError, now: float) -> None:
        """No connection could be made. Returns if it may be tried again after RETRY_SECONDS.

        Raises:
            EngramError: the error itself; `timeout`.
        """
        if error.code != "unavailable":
            raise error
        if now > self._until:
            if self._timeout is None:
                raise error
            raise EngramError("timeout", f"no daemon came back within {self._timeout:g} s: {error.message}") from None


# Connecting


def peer(connected: socket.socket) -> tuple[int | None, int | None]:
    """The pid and uid of who listens, where the kernel tells."""
    if connected.family != socket.AF_UNIX or not hasattr(socket, "SO_PEERCRED"):
        return None, None
    pid, uid, _ = _UCRED.unpack(connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return pid, uid


def is_foreign(uid: int | None) -> bool:
    """Whether a daemon belongs to somebody whom nobody said to trust."""
    return uid not in (None, os.getuid()) and uid != settings.trusted_uid()


def absent(address: str) -> EngramError:
    """Nobody listens."""
    return EngramError("unavailable", f"no daemon runs at {address}; start one with: engram daemon start")


def _may_be_hung(pid: int | None) -> str:
    """What to do with a daemon that says nothing."""
    if pid is None:
        return "look at it on its machine"
    return (
        f"it may be stopped (try: kill -CONT {pid}) or hung (try: kill -KILL {pid}; nothing acknowledged is lost, and the next command "
        "starts a new one)"
    )


def deaf(address: str) -> EngramError:
    """Somebody listens and accepts nobody."""
    return EngramError("unavailable", f"the daemon at {address} does not accept connections: it is stopped or overloaded")


def unreachable(address: str, error: Exception) -> EngramError:
    """The socket cannot be connected to for another reason."""
    return EngramError("unavailable", f"cannot connect to {address}: {getattr(error, 'strerror', None) or error or 'it takes too long'}")


def abrupt(address: str) -> EngramError:
    """Somebody accepts and hangs up."""
    return EngramError("unavailable", f"the daemon at {address} hangs up before it answers")


def silent(address: str, pid: int | None) -> EngramError:
    """Somebody accepts and says nothing."""
    return EngramError(
        "unavailable",
        f"the daemon at {address}{'' if pid is None else f' (pid {pid})'} accepts connections but does not answer: {_may_be_hung(pid)}",
        pid=pid,
    )


def foreign(address: str, uid: int | None) -> EngramError:
    """The daemon belongs to another user."""
    return EngramError("denied", f"the daemon at {address} belongs to uid {uid}, not to you; to use it all the same: ENGRAM_DAEMON_USER")
