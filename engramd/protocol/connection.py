"""The sans-I/O connection: bytes in, messages out; the same file for both roles, so that they cannot drift apart.

A peer is in one of three states. What it may receive in each, and where that leads, is this table:
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..shapes import NamedTuple
from .errors import EngramError
from .framing import FrameDecoder, decode, encode, frame
from .messages import HELLO, NOTICES, OPERATIONS, VERSION
from .schema import invalid

State = Literal["greeting", "open", "closed"]

# role: {(state, what is received): next state}. Anything else is a protocol error, which closes.
TRANSITIONS: Mapping[str, Mapping[tuple[State, str], State]] = {
    "server": {
        ("greeting", "hello"): "open",
        ("open", "request"): "open",
        ("open", "notice"): "open",
    },
    "client": {
        ("greeting", "answer"): "open",
        ("greeting", "failure"): "closed",
        ("open", "answer"): "open",
        ("open", "failure"): "open",
        ("open", "item"): "open",
    },
}

MAX_IN_FLIGHT = 1024  # requests of one connection without an answer; then no more are read for a while
MAX_HELLO = 64 * 1024  # bytes of a first frame: nobody has said who they are yet
MAX_STREAMS = 256  # of them, streams and waits; one more is refused
Id = int | str
_ID, _OK, _RESULT, _ERROR, _EVENT = (encode(key) for key in ("id", "ok", "result", "error", "event"))


class Hello(NamedTuple):
    """A client's first frame, validated."""

    id: Id
    fields: dict[str, Any]


@dataclass(slots=True)  # frozen would be slow to make
class Request:
    """A validated request for an operation of `OPERATIONS`.

    Attributes:
        size: of its frame's body, in bytes.
        lasts: whether it is under way until someone ends it.
    """

    id: Id
    op: str
    fields: dict[str, Any]
    size: int = field(default=0, compare=False)
    lasts: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Notice:
    """`credit` or `cancel`: a word on a stream under way, which has no answer of its own; `size` as of a request."""

    id: Id
    op: str
    fields: dict[str, Any]
    size: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Rejected:
    """A request that was refused before it reached an operation; the connection goes on. `size` as of a request."""

    id: Id
    error: EngramError
    size: int = field(default=0, compare=False)


def answer_frame(request_id: Id, result: bytes) -> bytes:
    """A success, around a result that is already encoded."""
    return frame(b"\xa3" + _ID + encode(request_id) + _OK + b"\xf5" + _RESULT + result)


def failure_frame(request_id: Id | None, error: EngramError) -> bytes:
    """A failure; without an id it is the connection's own, and its last frame."""
    return frame(b"\xa3" + _ID + encode(request_id) + _OK + b"\xf4" + _ERROR + encode(error.to_wire()))


def item_frame(request_id: Id, event: bytes) -> bytes:
    """A stream's item, around an event that is already encoded."""
    return frame(b"\xa2" + _ID + encode(request_id) + _EVENT + event)


class _Connection:
    role: str

    def __init__(self, max_frame: int) -> None:
        self.state: State = "greeting"
        self._frames = FrameDecoder(max_frame)

    def _step(self, kind: str) -> None:
        after = TRANSITIONS[self.role].get((self.state, kind))
        if after is None:
            raise EngramError("protocol", f"{kind} is not allowed here: the connection is {self.state}")
        self.state = after

    def _bodies(self, data: bytes) -> Iterator[bytes]:
        if self.state == "closed":
            raise EngramError("protocol", "the connection is closed")
        return self._frames.feed(data)

    @property
    def partial(self) -> int:
        """The peer's bytes so far that are of a frame which has not arrived whole."""
        return self._frames.partial

    def close(self) -> None:
        """The connection has ended: nothing of it is kept."""
        self.state = "closed"
        self._frames.clear()


class ServerConnection(_Connection):
    """The daemon's side.

    `receive` raises EngramError for what ends the connection (bad framing, bad CBOR, no hello): send `failure_frame(None, error)`
    and close.
    """

    role = "server"

    def __init__(self, max_frame: int) -> None:
        super().__init__(min(max_frame, MAX_HELLO))
        self._max_frame = max_frame
        self.in_flight: set[Id] = set()
        self.streams: set[Id] = set()

    def receive(self, data: bytes) -> Iterator[Hello | Request | Notice | Rejected]:
        """Take bytes, yield what they complete; exhaust it before the next call. Requests count as in flight until `finish`."""
        return map(self._read, self._bodies(data))

    def finish(self, request_id: Id) -> None:
        """Note that the request has been answered; its id may be used again."""
        self.in_flight.discard(request_id)
        if self.streams:
            self.streams.discard(request_id)

    def _read(self, body: bytes) -> Hello | Request | Notice | Rejected:
        message = decode(body)
        if type(message) is not dict:
            raise EngramError("protocol", "a frame must hold a map")
        request_id, op = message.pop("id", None), message.pop("op", None)
        if not ((type(request_id) is int and 0 <= request_id < 2**63) or (type(request_id) is str and 0 < len(request_id.encode()) <= 64)):
            raise EngramError("protocol", "every frame needs an id: an integer from 0, or a text of 1 to 64 bytes")
        if op == "hello":
            return self._hello(request_id, message)
        if type(op) is str and op in NOTICES:
            return self._notice(request_id, op, message, len(body))
        if self.state != "open":  # where requests change nothing
            self._step("request")
        return self._request(request_id, op, message, len(body))

    def _hello(self, request_id: Id, message: dict[str, Any]) -> Hello:
        self._step("hello")
        version = message.get("version")
        if isinstance(version, list) and version and version[0] != VERSION[0]:
            raise EngramError(
                "version",
                f"the client speaks protocol version {str(version[0])[:20]!r}, this daemon version {VERSION[0]}; if the daemon is older "
                "than the program, run: engram daemon restart",
                daemon=list(VERSION),
            )
        # A newer client of the same major version may say more about itself; that is no reason to refuse it.
        known = {key: value for key, value in message.items() if key in HELLO.fields}
        HELLO.check(known)
        if "agent" not in known and "token" not in known:
            raise invalid("agent", "is required, unless a token says who acts")
        self._frames.max_frame = self._max_frame
        return Hello(request_id, known)

    def _notice(self, request_id: Id, op: str, message: dict[str, Any], size: int) -> Notice:
        """A notice has no answer of its own, so a malformed one is the connection's fault."""
        self._step("notice")
        NOTICES[op].check(message, op)
        return Notice(request_id, op, message, size)

    def _request(self, request_id: Id, op: object, message: dict[str, Any], size: int) -> Request | Rejected:
        if request_id in self.in_flight:
            raise EngramError("protocol", f"the id {request_id!r} is in use by a request under way")
        operation = OPERATIONS.get(op) if type(op) is str else None
        if type(op) is not str or operation is None:
            unknown = f"there is no operation {str(op)[:60]!r}; there are {', '.join(OPERATIONS)}"
            return Rejected(request_id, EngramError("unknown_op", unknown, version=list(VERSION)), size)
        lasts = operation.lasts(message)
        if lasts and len(self.streams) >= MAX_STREAMS:
            busy = f"this connection has {MAX_STREAMS} streams and waits already; end one, or open another connection"
            return Rejected(request_id, EngramError("busy", busy, limit=MAX_STREAMS, retry_after=1.0), size)
        try:
            operation.request.check(message)
        except EngramError as error:
            return Rejected(request_id, error, size)
        self.in_flight.add(request_id)
        if lasts:
            self.streams.add(request_id)
        return Request(request_id, op, message, size, lasts)


class Answer(NamedTuple):
    """The end of a request: its result, or its error."""

    id: Id
    result: dict[str, Any] | None
    error: EngramError | None


class Item(NamedTuple):
    """One item of a stream; `size` is its body's, in bytes. It costs as much credit, and the 4 bytes of the frame's length."""

    id: Id
    event: dict[str, Any]
    size: int


class ClientConnection(_Connection):
    """The client's side: numbers the requests, reads the answers.

    `receive` raises EngramError when the daemon refuses the connection as a whole or breaks the protocol.
    """

    role = "client"

    def __init__(self, max_frame: int) -> None:
        super().__init__(max_frame)
        self._next_id = 0

    def hello(self, fields: Mapping[str, Any]) -> bytes:
        """The first frame. Requests may follow without waiting for its answer, whose id is 0."""
        return frame(encode({"id": 0, "op": "hello", "version": list(VERSION), **fields}))

    def request(self, op: str, fields: Mapping[str, Any], request_id: Id | None = None) -> tuple[Id, bytes]:
        """A request's id and frame."""
        if request_id is None:
            self._next_id += 1
            request_id = self._next_id
        return request_id, frame(encode({"id": request_id, "op": op, **fields}))

    def notice(self, request_id: Id, op: str, **fields: Any) -> bytes:
        """A `credit` or `cancel` frame for a stream."""
        return frame(encode({"id": request_id, "op": op, **fields}))

    def receive(self, data: bytes) -> Iterator[Answer | Item]:
        """Take bytes, yield the answers and items they complete; exhaust it before the next call."""
        return map(self._read, self._bodies(data))

    def _read(self, body: bytes) -> Answer | Item:
        message = decode(body)
        if type(message) is not dict or "id" not in message:
            raise EngramError("protocol", "the daemon sent a frame that is no map with an id")
        request_id = message["id"]
        if "event" in message and isinstance(message["event"], dict):
            self._step("item")
            return Item(request_id, message["event"], len(body))
        if message.get("ok") is True and isinstance(message.get("result"), dict):
            self._step("answer")
            return Answer(request_id, message["result"], None)
        if message.get("ok") is not False:
            raise EngramError("protocol", "the daemon sent a frame that is neither answer nor item")
        error = EngramError.from_wire(message.get("error"))
        if request_id is None or self.state == "greeting":
            self.state = "closed"
            raise error
        self._step("failure")
        return Answer(request_id, None, error)
