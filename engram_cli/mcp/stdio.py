"""Lines of JSON-RPC on standard input and output, without threads, and with a bound on each line. Nothing else may write to that output."""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress

import anyio
import mcp_types as types
import trio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import SessionMessage
from pydantic import ValidationError

MAX_LINE = 8 << 20  # bytes: the largest text there may be, with most of it escaped
READ_BYTES = 64 * 1024
WRITE_BYTES = 4096  # PIPE_BUF: what a pipe that is writable takes without blocking
LAST_SECONDS = 1.0  # what is under way when the input ends may take so long; hosts wait twice that

Incoming = MemoryObjectReceiveStream[SessionMessage | Exception]
Outgoing = MemoryObjectSendStream[SessionMessage]


class Lines:
    """Cuts what is received into lines, and keeps no more of one than it may have."""

    def __init__(self, most: int = MAX_LINE) -> None:
        self._most = most
        self._line = bytearray()
        self._skips = False

    def feed(self, data: bytes) -> Iterator[bytes | None]:
        """Each line that ends in the data; None for one that is too long, as soon as it is."""
        *ends, rest = data.split(b"\n")
        for end in ends:
            yield from self._add(end)
            if not self._skips:
                yield bytes(self._line)
            self._line, self._skips = bytearray(), False
        yield from self._add(rest)

    def _add(self, data: bytes) -> Iterator[None]:
        if not self._skips:
            self._line += data
            if len(self._line) > self._most:
                self._line, self._skips = bytearray(), True
                yield None


class Stdio:
    """The two streams of this process, as the SDK wants them."""

    def __init__(self) -> None:
        self._input = 0
        self._output = os.dup(1)
        os.dup2(2, 1)  # what anybody prints must not be taken for the protocol
        self._under_way = 0
        self._changed = trio.Event()
        self._writing = trio.Lock()

    async def run(self, serve: Callable[[Incoming, Outgoing], Awaitable[None]]) -> None:
        """Serve until the input ends."""
        to_server, incoming = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        outgoing, from_server = anyio.create_memory_object_stream[SessionMessage](0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read, to_server)
            nursery.start_soon(self._write, from_server)
            await serve(incoming, outgoing)
            nursery.cancel_scope.cancel()

    async def _read(self, to_server: MemoryObjectSendStream[SessionMessage | Exception]) -> None:
        lines = Lines()
        async with to_server:
            while data := await self._receive():
                for line in lines.feed(data):
                    async with self._writing:  # who does not take answers is not read any further
                        pass
                    if line is None:
                        await self._refuse(types.INVALID_REQUEST, f"a line is longer than {MAX_LINE} bytes")
                    elif line.strip():
                        await self._take(line, to_server)
            with trio.move_on_after(LAST_SECONDS):
                while self._under_way > 0:
                    self._changed = trio.Event()
                    await self._changed.wait()

    async def _take(self, line: bytes, to_server: MemoryObjectSendStream[SessionMessage | Exception]) -> None:
        try:
            message = types.jsonrpc_message_adapter.validate_json(line, by_name=False)
        except ValidationError as error:
            if error.errors(include_input=False)[0]["type"] == "json_invalid":
                await self._refuse(types.PARSE_ERROR, "not JSON")
            else:
                await self._refuse(types.INVALID_REQUEST, "not a JSON-RPC message")
            return
        self._under_way += isinstance(message, types.JSONRPCRequest)
        await to_server.send(SessionMessage(message))

    async def _receive(self) -> bytes:
        with suppress(PermissionError):  # a regular file is always readable, and epoll refuses it
            await trio.lowlevel.wait_readable(self._input)
        return os.read(self._input, READ_BYTES)

    async def _write(self, from_server: MemoryObjectReceiveStream[SessionMessage]) -> None:
        async with from_server:
            async for item in from_server:
                message = item.message
                await self._send(message.model_dump_json(by_alias=True, exclude_unset=True))
                self._under_way -= isinstance(message, types.JSONRPCResponse | types.JSONRPCError)
                self._changed.set()

    async def _refuse(self, code: int, words: str) -> None:
        await self._send(json.dumps({"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": words}}))

    async def _send(self, line: str) -> None:
        rest = memoryview(line.encode("utf-8", "backslashreplace") + b"\n")
        async with self._writing:
            while rest:
                with suppress(PermissionError):
                    await trio.lowlevel.wait_writable(self._output)
                rest = rest[os.write(self._output, rest[:WRITE_BYTES]) :]
