"""`engram pipe`: JSON lines in, JSON lines out, over one connection, any number of requests under way.

A connection that is lost is made anew: streams go on behind their last item, and what cannot have done harm is asked again.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import selectors
import sys
import time
from typing import Any

from engramd.protocol import render
from engramd.protocol.connection import Answer, Id, Item
from engramd.protocol.errors import EngramError
from engramd.protocol.messages import MAX_PAYLOAD, NOTICES, OPERATIONS

from ..client import Client
from ..common import Common
from ..core import RETRY_SECONDS, Bookmark, Patience, lost, repeatable

MAX_LINE = 2 * MAX_PAYLOAD
_READ_BYTES = 64 * 1024


def run(common: Common) -> None:
    """Carry requests from stdin until its end, then wait for the answers that are due and leave."""
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
        self.mark = Bookmark(fields) if OPERATIONS[op].stream else None
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


class Pipe:
    """The traffic between standard input and output and the daemon."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._under_way: dict[Id, Asked] = {}
        self._selector = selectors.DefaultSelector()
        self._daemon = -1
        self._stdin_open = True
        self._buffer = bytearray()
        self._number = 0
        self._too_long = False

    def run(self) -> None:
        """Serve until stdin has ended and every request is answered."""
        client = self._client
        self._watch_daemon()
        self._watch_stdin()
        while self._stdin_open or self._under_way:
            at_hand = client.arrived() or not client.connected
            ready = {key.fd for key, _ in self._selector.select(0 if at_hand else None)}
            if at_hand or self._daemon in ready:
                self._receive()
            if 0 in ready and self._stdin_open:
                data = os.read(0, _READ_BYTES)
                self._take(data)
                if not data:
                    self._selector.unregister(0)
                    self._end()

    def _receive(self) -> None:
        try:
            for message in self._client.receive():
                self._show(message)
        except EngramError as error:
            if error.code != "unavailable":
                self._give_up()
                raise
            self._recover()
        sys.stdout.flush()

    def _watch_daemon(self) -> None:
        self._daemon = self._client.fileno()
        self._selector.register(self._daemon, selectors.EVENT_READ)

    def _watch_stdin(self) -> None:
        try:
            self._selector.register(0, selectors.EVENT_READ)
        except PermissionError:  # a regular file is always readable, and epoll refuses it
            while data := os.read(0, _READ_BYTES):
                self._take(data)
            self._take(b"")
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
        self._selector.unregister(self._daemon)
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
        self._watch_daemon()
        for request_id, fields in again.items():
            self._client.send(self._under_way[request_id].op, fields, request_id)

    def _give_up(self) -> None:
        """Nothing under way will be answered."""
        for request_id, asked in self._under_way.items():
            self._refuse(request_id, lost(asked.op))

    # Requests

    def _take(self, data: bytes) -> None:
        if not data and self._buffer:
            data = b"\n"
        *ends, rest = data.split(b"\n")
        for end in ends:
            line, self._buffer = bytes(self._buffer + end), bytearray()
            self._number += 1
            if self._too_long:
                self._too_long = False
            elif line.strip():
                self._line(line)
            if self._client.arrived():
                self._receive()
        self._buffer += rest
        if len(self._buffer) > MAX_LINE:
            if not self._too_long:
                self._refuse(
                    None, EngramError("too_large", f"line {self._number + 1}: longer than {MAX_LINE} bytes", line=self._number + 1)
                )
            self._too_long, self._buffer = True, bytearray()

    def _line(self, line: bytes) -> None:
        request_id: Any = None
        try:
            request = self._parse(line)
            request_id = request.pop("id", None)
            self._request(request_id, request)
        except RecursionError:
            self._refuse(request_id, EngramError("invalid", f"line {self._number}: nested too deep", line=self._number))
        except UnicodeEncodeError:
            self._refuse(None, EngramError("invalid", f"line {self._number}: a text is not valid Unicode", line=self._number))
        except EngramError as error:
            error.details["line"] = self._number
            error.message = f"line {self._number}: {error.message}"
            self._refuse(request_id, error)

    def _parse(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise EngramError("invalid", f"not JSON: {error}") from None
        if not isinstance(request, dict):
            raise EngramError("invalid", "must be a JSON object")
        return request

    def _request(self, request_id: Any, request: dict[str, Any]) -> None:
        op = request.pop("op", None)
        if not (
            (type(request_id) is int and 0 <= request_id < 2**63)
            or (type(request_id) is str and 0 < len(request_id.encode(errors="replace")) <= 64)
        ):
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
        OPERATIONS[op].request.check(fields)
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
            self._print({"id": message.id, "event": render.plain(message.event)})
            self._client.notify(message.id, "credit", bytes=message.size + 4)
            return
        if message.error is not None and message.error.code == "unavailable" and asked is not None and asked.mark is not None:
            return  # the daemon stops, and will hang up: the stream goes on with the next one
        self._under_way.pop(message.id, None)
        if message.error is not None:
            self._refuse(message.id, message.error)
        else:
            self._print({"id": message.id, "ok": True, "result": render.plain(message.result)})

    def _refuse(self, request_id: Any, error: EngramError) -> None:
        shown = request_id if isinstance(request_id, int | str) else None
        self._print({"id": shown, "ok": False, "error": render.plain(error.to_wire())})
        sys.stdout.flush()

    def _print(self, value: dict[str, Any]) -> None:
        sys.stdout.buffer.write(render.json_line(value).encode("utf-8", "backslashreplace") + b"\n")


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
