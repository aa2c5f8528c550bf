"""What a monitoring system asks over HTTP: `/metrics`, `/healthz` and `/readyz`, on loopback and for reading only."""

from __future__ import annotations

import ipaddress
import logging
import socket

import h11
import trio

from ..protocol.address import loopback
from ..protocol.errors import EngramError
from ..service.engine import Engine
from ..service.metrics import collect, exposition

logger = logging.getLogger("engramd.http")

MAX_REQUEST = 16 * 1024  # bytes of a request's line and headers
MAX_LINGER = 1024 * 1024  # bytes after it that are read to no purpose
MAX_CONNECTIONS = 16
SECONDS = 10.0  # for one request and its answer
TEXT = "text/plain; charset=utf-8"
METRICS = "text/plain; version=0.0.4; charset=utf-8"


class HttpListener:
    """A listener at `HOST:PORT`; port 0 takes a free one.

    Attributes:
        address: where it listens, with the port.

    Raises:
        EngramError: `invalid` for an address that is not of this machine's loopback, `busy` where another program listens.
    """

    def __init__(self, address: str) -> None:
        host, port = loopback(address, "metrics_listen")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host, port))
            self._socket.listen(MAX_CONNECTIONS)
        except OSError as error:
            self._socket.close()
            raise EngramError("busy", f"cannot listen at {address} for metrics_listen: {error.strerror}; choose another port") from error
        shown = f"[{host}]" if family == socket.AF_INET6 else host
        self.address = f"{shown}:{self._socket.getsockname()[1]}"

    async def serve(self, engine: Engine) -> None:
        """Answer until cancelled. Who comes while all connections are in use waits in the kernel's queue."""
        self._socket.setblocking(False)
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(self._socket))
        free = trio.Semaphore(MAX_CONNECTIONS)

        async def run(stream: trio.SocketStream) -> None:
            try:
                await _answer(engine, stream)
            finally:
                free.release()

        async with trio.open_nursery() as nursery:
            while True:
                await free.acquire()
                try:
                    nursery.start_soon(run, await listener.accept())
                except OSError as error:
                    free.release()
                    logger.error("cannot accept connections for now: %s", error)
                    await trio.sleep(0.1)

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()


async def _answer(engine: Engine, stream: trio.SocketStream) -> None:
    """Answer one request and hang up. What a client does wrong, or what fails here, ends its own connection and nothing else."""
    async with stream:
        with trio.move_on_after(SECONDS):
            try:
                await _exchange(engine, stream)
                await _linger(stream)
            except trio.BrokenResourceError:
                pass
            except Exception:
                logger.exception("a request over HTTP failed")


async def _exchange(engine: Engine, stream: trio.SocketStream) -> None:
    connection, request = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_REQUEST), None
    try:
        request = await _receive(connection, stream)
        if request is None:
            return
        answer = _respond(engine, request)
    except h11.RemoteProtocolError as error:
        answer = error.error_status_hint, TEXT, f"{error}\n"
    await _send(connection, stream, *answer, with_body=request is None or request.method != b"HEAD")


async def _receive(connection: h11.Connection, stream: trio.SocketStream) -> h11.Request | None:
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            return event
        if event is not h11.NEED_DATA:
            return None
        connection.receive_data(await stream.receive_some(MAX_REQUEST))


async def _send(connection: h11.Connection, stream: trio.SocketStream, status: int, kind: str, text: str, with_body: bool) -> None:
    body = text.encode()
    headers = [("Content-Type", kind), ("Content-Length", str(len(body))), ("Connection", "close"), ("Cache-Control", "no-store")]
    events = [h11.Response(status_code=status, headers=headers), *([h11.Data(body)] if with_body else []), h11.EndOfMessage()]
    await stream.send_all(b"".join(connection.send(event) or b"" for event in events))


async def _linger(stream: trio.SocketStream) -> None:
    """Read what still comes: hanging up before it is read would take the answer back (RFC 9112, section 9.6)."""
    await stream.send_eof()
    for _ in range(MAX_LINGER // MAX_REQUEST):
        if not await stream.receive_some(MAX_REQUEST):
            return


def _respond(engine: Engine, request: h11.Request) -> tuple[int, str, str]:
    """Status, content type and text."""
    if request.method not in (b"GET", b"HEAD"):
        return 405, TEXT, "only GET and HEAD are answered here\n"
    hosts = [value.decode("ascii", "replace") for name, value in request.headers if name == b"host"]
    if not all(map(_is_local, hosts)):  # a web page may have a name of its own lead here
        return 403, TEXT, "the Host header must name this machine's loopback\n"
    match request.target.partition(b"?")[0]:
        case b"/metrics":
            return 200, METRICS, exposition(collect(engine))
        case b"/healthz":
            return 200, TEXT, "ok\n"
        case b"/readyz":
            problem = engine.problem()
            return (200, TEXT, "ready\n") if problem is None else (503, TEXT, f"{problem.message}\n")
    return 404, TEXT, "there are /metrics, /healthz and /readyz\n"


def _is_local(host: str) -> bool:
    name = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False
