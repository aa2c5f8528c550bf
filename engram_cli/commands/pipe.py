"""`engram pipe`: JSON lines in, JSON lines out, over one connection, any number of requests under way.

A connection that is lost is made anew: streams go on behind their last item, and what cannot have done harm is asked again.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import select
import stat
import time
from collections import deque
from typing import Any

from engramd.protocol import render
from engramd.protocol.connection import Answer, Id, Item
from engramd.protocol.errors import EngramError
from engramd.protocol.messages import MAX_PAYLOAD, NOTICES, OPERATIONS, json_schema

from ..client import Client
from ..common import Common
from ..core import RETRY_SECONDS, Bookmark, Membership, Patience, lost, repeatable

MAX_LINE = 2 * MAX_PAYLOAD
MAX_UNREAD = 8 * 1024 * 1024  # bytes of answers and items that nobody reads; then no more is read from stdin or the daemon
_READ_BYTES = 64 * 1024


def run(common: Common, schema: bool) -> None:
    """Carry requests from stdin until its end, then wait for the answers that are due and leave; or print the schema of the lines."""
    if schema:
        print(json.dumps(json_schema(), indent=2, ensure_ascii=False))
        return
    with common.client(opens_session=True, presence=True) as client:
        client.connect()
        Pipe(client).run()


class Asked:
    """A request under way.

    Attributes:
        mark: where a stream stands; None for other requests.
    """

    def __init__(self, op: str, fields: dict[str, Any]) -> None:
        self.op = op
        kind = Membership if op == "consume" else Bookmark
        self.mark = kind(fields) if OPERATIONS[op].stream else None
        self._waits = self.mark is None and OPERATIONS[op].lasts(fields)
        self._again = fields if self._waits or (repeatable(op, fields) and op != "unlock") else None

    @property
    def is_endless(self) -> bool:
        """Whether it goes on until it is cancelled."""
        return self._waits if self.mark is None else self.mark.follows

    def again(self) -> dict[str, Any] | None:
        """The members to ask with on another connection: those of a stream or a wait as often as need be, of what does no harm once."""
        if self.mark is not None:
            return self.mark.fields()
        fields = self._again
        if not self._waits:
            self._again = None
        return fields


class Output:
    """Standard output, which is written to only as far as it takes something without waiting. A stream gets its credit back from what was
    written: one that nobody reads stops, and nothing else does."""

    def __init__(self) -> None:
        self._waiting = bytearray()
        self._written = 0
        self._items: deque[tuple[int, Item]] = deque()  # where each item ends
        # A pipe that is ready takes this much at once: pipe(7).
        self._piece = 2**20 if stat.S_ISREG(os.fstat(1).st_mode) else select.PIPE_BUF

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether nothing more should be added before some of it is written."""
        return len(self._waiting) >= MAX_UNREAD

    def add(self, value: dict[str, Any], item: Item | None = None) -> None:
        """Have a line written some time; of a stream, that of an item."""
        self._waiting += render.json_line(value).encode("utf-8", "backslashreplace") + b"\n"
        if item is not None:
            self._items.append((self._written + len(self._waiting), item))

    def write(self) -> list[Item]:
        """Write a piece, and give the items that are written now."""
        size = os.write(1, self._waiting[: self._piece])
        del self._waiting[:size]
        self._written += size
        done = []
        while self._items and self._items[0][0] <= self._written:
            done.append(self._items.popleft()[1])
        return done


class Pipe:
    """The traffic between standard input and output and the daemon."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._under_way: dict[Id, Asked] = {}
        self._output = Output()
        self._stdin_open = True  # whether more may be asked
        self._stdin_ended = False
        self._lines: deque[bytes | None] = deque()  # that were read; None for one that was too long
        self._buffer = bytearray()
        self._number = 0
        self._too_long = False

    def run(self) -> None:
        """Serve until stdin has ended and every request is answered."""
        try:
            while self._stdin_open or self._under_way:
                self._step()
        finally:
            while self._output:
                self._output.write()

    def _step(self) -> None:
        """Do what can be done without waiting for more than one side."""
        client, is_full = self._client, self._output.is_full
        at_hand = not is_full and (client.arrived() or not client.connected)
        daemon = [client.fileno()] if client.connected else []
        to_read = [] if is_full else daemon + ([0] if self._stdin_open and not self._lines else [])
        to_write = ([1] if self._output else []) + (daemon if self._lines and not is_full else [])
        readable, writable, _ = select.select(to_read, to_write, [], 0 if at_hand else None)
        if 1 in writable:
            self._pay(self._output.write())
        if at_hand or (daemon and daemon[0] in readable):
            self._receive()
        if 0 in readable:
            self._read()
        if daemon and daemon[0] in writable:
            self._take(self._lines.popleft())
            self._look_for_end()

    def _receive(self) -> None:
        try:
            for message in self._client.receive():
                self._show(message)
        except EngramError as error:
            if error.code != "unavailable":
                self._give_up()
                raise
            self._recover()

    def _pay(self, written: list[Item]) -> None:
        for item in written:
            asked = self._under_way.get(item.id)
            if asked is not None and asked.mark is not None and (credit := asked.mark.used(item)):
                self._client.notify(item.id, "credit", bytes=credit)

    def _look_for_end(self) -> None:
        if self._stdin_ended and not self._lines and self._stdin_open:
            self._end()

    def _end(self) -> None:
        """Nothing more will be asked: end the streams that would go on for ever, let the rest be answered."""
        self._stdin_open = False
        for request_id, asked in self._under_way.items():
            if asked.is_endless:
                self._client.notify(request_id, "cancel")

    # A connection that is lost

    def _recover(self) -> None:
        """Connect anew, and ask again what may be asked again. The rest is told, and so is everything if nobody comes back.

        Raises:
            EngramError: `unavailable`, or `timeout` where --timeout says how long to wait.
        """
        again: dict[Id, dict[str, Any]] = {}
        for request_id, asked in list(self._under_way.items()):
            fields = None if asked.is_endless and not self._stdin_open else asked.again()
            if fields is None:
                self._refuse(request_id, lost(self._under_way.pop(request_id).op))
            else:
                again[request_id] = fields
        if not self._stdin_open and not again:
            return
        self._client.close()
        follows = any(asked.is_endless for asked in self._under_way.values())
        patience = Patience(self._client.timeout, follows, time.monotonic())
        while True:
            try:
                self._client.connect()
                break
            except EngramError as error:
                try:
                    patience.failed(error, time.monotonic())
                except EngramError:
                    self._give_up()
                    raise
                time.sleep(RETRY_SECONDS)
        for request_id, fields in again.items():
            self._client.send(self._under_way[request_id].op, fields, request_id)

    def _give_up(self) -> None:
        """Nothing under way will be answered."""
        for request_id, asked in self._under_way.items():
            self._refuse(request_id, lost(asked.op))

    # Requests

    def _read(self) -> None:
        """Read from stdin, and split it into lines. No more than one that is too long is kept in memory."""
        data = os.read(0, _READ_BYTES)
        if not data:
            self._stdin_ended = True
            data = b"\n" if self._buffer else b""
        *ends, rest = data.split(b"\n")
        for end in ends:
            self._lines.append(None if self._too_long else bytes(self._buffer + end))
            self._too_long, self._buffer = False, bytearray()
        if not self._too_long:
            self._buffer += rest
        if len(self._buffer) > MAX_LINE:
            self._too_long, self._buffer = True, bytearray()
        self._look_for_end()

    def _take(self, line: bytes | None) -> None:
        self._number += 1
        if line is None:
            self._fault(None, EngramError("too_large", f"longer than {MAX_LINE} bytes"))
        elif line.strip():
            self._line(line)

    def _line(self, line: bytes) -> None:
        request_id: Any = None
        try:
            request = self._parse(line)
            request_id = request.pop("id", None)
            self._request(request_id, request)
        except RecursionError:
            self._fault(request_id, EngramError("invalid", "nested too deep"))
        except UnicodeEncodeError:
            self._fault(None, EngramError("invalid", "a text is not valid Unicode"))
        except EngramError as error:
            self._fault(request_id, error)

    def _fault(self, request_id: Any, error: EngramError) -> None:
        """Refuse a line."""
        error.details["line"] = self._number
        error.message = f"line {self._number}: {error.message}"
        self._refuse(request_id, error)

    def _parse(self, line: bytes) -> dict[str, Any]:
        request = read_json(line)
        if not isinstance(request, dict):
            raise EngramError("invalid", "must be a JSON object")
        return request

    def _request(self, request_id: Any, request: dict[str, Any]) -> None:
        op = request.pop("op", None)
        if not is_id(request_id):
            raise EngramError("invalid", "id: every request needs one: an integer from 0, or a text of 1 to 64 bytes")
        fields = from_json(request)
        if isinstance(op, str) and op in NOTICES:
            NOTICES[op].check(fields)
            if request_id in self._under_way:
                self._client.notify(request_id, op, **fields)
            return
        if not isinstance(op, str) or op not in OPERATIONS:
            raise EngramError("unknown_op", f"there is no operation {str(op)[:60]!r}; there are {', '.join(OPERATIONS)}")
        if request_id in self._under_way:
            raise EngramError("invalid", f"id: {request_id!r} is in use by a request under way")
        record = OPERATIONS[op].request
        for name, field in record.fields.items():
            if field.wire and name in fields:
                raise EngramError("invalid", f"{name}: pipe shows everything as JSON; leave it out")
        record.check(fields)
        while not self._client.connected:
            self._receive()  # what had arrived, and then that it is lost
        self._client.send(op, fields, request_id)
        self._under_way[request_id] = Asked(op, fields)

    # Answers

    def _show(self, message: Answer | Item) -> None:
        asked = self._under_way.get(message.id)
        if isinstance(message, Item):
            if asked is not None and asked.mark is not None:
                asked.mark.turn(message)
            self._output.add({"id": message.id, "event": render.plain(message.event)}, message)
            return
        if message.error is not None and message.error.code == "unavailable" and asked is not None and asked.mark is not None:
            return  # the daemon stops, and will hang up: the stream goes on with the next one
        self._under_way.pop(message.id, None)
        if message.error is not None:
            self._refuse(message.id, message.error)
        else:
            self._output.add({"id": message.id, "ok": True, "result": render.plain(message.result)})

    def _refuse(self, request_id: Any, error: EngramError) -> None:
        shown = request_id if is_id(request_id) else None
        self._output.add({"id": shown, "ok": False, "error": render.plain(error.to_wire())})


def is_id(value: Any) -> bool:
    """Whether a value may be the id of a request."""
    if type(value) is int:
        return 0 <= value < 2**63
    return type(value) is str and 0 < len(value.encode(errors="replace")) <= 64


def read_json(line: bytes) -> Any:
    """The value of a line of JSON: UTF-8, no member twice, numbers that are ones.

    Raises:
        EngramError: `invalid`.
    """
    try:
        return json.loads(line.decode(), object_pairs_hook=_members, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise EngramError("invalid", f"not JSON: {error}") from None


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose members have different names."""
    made = dict(pairs)
    if len(made) < len(pairs):
        seen = set[str]()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the member {twice[:60]!r} is there twice")
    return made


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is no number of JSON")


def from_json(value: Any) -> Any:
    """A request's members as the wire has them: `payload_base64` becomes `payload`. Labels stay as they are.

    Raises:
        EngramError: `invalid` for base64 that is none.
    """
    if isinstance(value, list):
        return [from_json(member) for member in value]
    if not isinstance(value, dict):
        return value
    made = {name: member if name == "meta" else from_json(member) for name, member in value.items()}
    encoded = made.pop("payload_base64", None)
    if encoded is not None:
        try:
            made["payload"] = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError, TypeError):
            raise EngramError("invalid", "payload_base64: not base64") from None
    return made
