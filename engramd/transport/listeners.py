"""Listeners: a list of addresses from the start, of which the Unix socket is the first kind."""

from __future__ import annotations

import errno
import logging
import os
import socket
import ssl
import stat
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from ..protocol.address import socket_dir, split
from ..protocol.errors import EngramError
from ..service.engine import Engine
from ..service.peer import Origin
from .arrivals import READ_BYTES, Arrivals
from .session import CLOSE_SECONDS, HELLO_SECONDS, Session

logger = logging.getLogger("engramd.listeners")

BACKLOG = 1024
LOOK = 1.0  # seconds between two looks at the socket's file
WAITING_ROOM = 32  # connections beyond the most, which are told so
LARGE_CROWD = 64  # connections that leave noteworthy memory behind
STRANGERS, STRANGERS_OF_A_HOST = 256, 64  # connections over a network that have not greeted
LAST_READS = 16  # from a client that is to hear why it is not served
RECEIVED = 256 * 1024  # bytes that wait in the kernel for each TCP connection: by itself it keeps megabytes of tiny requests
OVERFLOW_UID = 65534  # what the kernel shows for a uid that this user namespace does not map
_UCRED = struct.Struct("3i")  # pid, uid, gid: struct ucred of unix(7)


class UnixListener:
    """A Unix stream socket that only this user may use, or others too whom the kernel names.

    It is bound under a temporary name and renamed into place, so the path never leads to a socket that nobody listens on while a
    daemon starts, and a stale one is replaced in one step. Where its file is removed, it is bound anew.

    Args:
        inherited: a socket that listens already, whose path is another's business.
        shared: whether others may connect; who of them is served is decided then.

    Raises:
        EngramError: `busy` when a live daemon listens at the path, `denied` when its directory cannot be used, or it cannot be shared.
    """

    def __init__(self, path: str, inherited: socket.socket | None = None, shared: bool = False) -> None:
        self.address = path
        self._shared = shared
        self._inode: int | None = None
        if shared and not hasattr(socket, "SO_PEERCRED"):
            raise EngramError("denied", "auth.users cannot be used here: the kernel does not say who connects, so all would be the owner")
        if inherited is None and answers(path):
            raise EngramError("busy", f"another daemon listens at {path}; stop it, or give this one another --socket")
        self._listening = inherited or self._bind()

    def _bind(self) -> socket.socket:
        path = self.address
        socket_dir(path)
        temporary = os.path.join(os.path.dirname(path), f".{os.getpid()}")  # short: a path may have the most bytes there are
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            Path(temporary).unlink(missing_ok=True)
            bound.bind(temporary)
            os.chmod(temporary, 0o666 if self._shared else 0o600)
            bound.listen(BACKLOG)
            bound.setblocking(False)
            os.rename(temporary, path)
            self._inode = os.stat(path).st_ino
        except OSError as error:
            bound.close()
            raise EngramError("denied", f"cannot listen at {path}: {error.strerror or error}") from error
        return bound

    async def serve(self, engine: Engine, crowd: Crowd, arrivals: Arrivals, nursery: trio.Nursery) -> None:
        """Accept until cancelled; each connection becomes a task of `nursery`."""
        async with trio.open_nursery() as own:
            if self._inode is not None:
                own.start_soon(self._stay, engine)
            await serve(self._accept, engine, crowd, arrivals, nursery, _origin_of)

    async def _accept(self) -> socket.socket:
        while True:
            try:
                await trio.lowlevel.wait_readable(self._listening)
                return self._listening.accept()[0]
            except (trio.ClosedResourceError, BlockingIOError):
                pass  # it was bound anew, or whoever knocked has left

    async def _stay(self, engine: Engine) -> None:
        """Bind the path anew when it is gone: whoever removed it did not mean the daemon to go on where nobody finds it."""
        complained = ""
        while True:
            await trio.sleep(LOOK)
            if _is_there(self.address):
                continue
            try:
                renewed = self._bind()
            except EngramError as error:
                if error.message != complained:
                    complained = error.message
                    logger.error("%s was removed, and %s", self.address, complained)
                continue
            complained = ""
            logger.warning("%s was removed; it is there again", self.address)
            engine.counters.sockets_renewed += 1
            former, self._listening = self._listening, renewed
            trio.lowlevel.notify_closing(former)
            former.close()

    def close(self) -> None:
        """Stop listening and remove the path, if it is still this socket's."""
        inode, self._inode = self._inode, None  # once closed, its number may be another socket's
        try:
            if inode is not None and os.stat(self.address).st_ino == inode:
                os.unlink(self.address)
        except OSError:
            pass
        self._listening.close()


def _is_there(path: str) -> bool:
    return os.path.lexists(path)


def answers(path: str) -> bool:
    """Whether somebody listens at a path.

    Raises:
        EngramError: `denied` when something else is there.
    """
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise EngramError("denied", f"{path} is no socket; move it away, or choose another --socket")
    except FileNotFoundError:
        return False
    except OSError as error:
        raise EngramError("denied", f"{path} cannot be looked at: {error.strerror or error}") from error
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except OSError as error:
            if isinstance(error, TimeoutError | BlockingIOError):
                return True
            raise EngramError("denied", f"{path} is in the way of the socket: {error.strerror or error}") from error
        return True


def _origin_of(peer: socket.socket) -> Origin:
    """Who is at the other end of a Unix socket. The kernel says it; where it does not, the socket's permissions have."""
    if not hasattr(socket, "SO_PEERCRED"):
        return Origin(is_owner=True)
    _, uid, _ = _UCRED.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return Origin() if uid == OVERFLOW_UID else Origin(uid, is_owner=uid == os.getuid())


class NetworkListener:
    """A TCP socket, with or without TLS.

    Args:
        url: `tcp://HOST:PORT` or `tls://HOST:PORT`; port 0 is any that is free.
        tls: the certificate and what goes with it; needed for `tls`.

    Attributes:
        address: the URL with the port that it is.

    Raises:
        EngramError: `busy` when the port is taken, `denied` when it cannot be listened at.
    """

    def __init__(self, url: str, tls: ssl.SSLContext | None) -> None:
        scheme, host, port = split(url)
        self._tls = tls if scheme == "tls" else None
        try:
            family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
            self._socket = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            raise EngramError("denied", f"cannot listen at {url}: {error.strerror or error}") from error
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVED)
            if family == socket.AF_INET6:
                self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            self._socket.bind(where)
            self._socket.listen(BACKLOG)
        except OSError as error:
            self._socket.close()
            if error.errno == errno.EADDRINUSE:
                raise EngramError("busy", f"cannot listen at {url}: another program has the port") from error
            raise EngramError("denied", f"cannot listen at {url}: {error.strerror or error}") from error
        shown = f"[{host}]" if ":" in host else host
        self.address = f"{scheme}://{shown}:{self._socket.getsockname()[1]}"

    async def serve(self, engine: Engine, crowd: Crowd, arrivals: Arrivals, nursery: trio.Nursery) -> None:
        """Accept until cancelled; each connection becomes a task of `nursery`."""
        self._socket.setblocking(False)
        await serve(self._accept, engine, crowd, arrivals, nursery, _host_of, self._tls)

    async def _accept(self) -> socket.socket:
        while True:
            try:
                await trio.lowlevel.wait_readable(self._socket)
                return self._socket.accept()[0]
            except BlockingIOError:
                pass  # whoever knocked has left

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()


def _host_of(peer: socket.socket) -> Origin:
    """The host at the other end of a TCP connection. One that is gone without a word is noticed in about two minutes."""
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):
            peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return Origin(host=str(peer.getpeername()[0]))


def server_tls(certificate: str, key: str, client_ca: str | None) -> ssl.SSLContext:
    """What a daemon shows, and what it asks of clients.

    Args:
        certificate, key: PEM files.
        client_ca: a PEM file; clients must show a certificate of one of these authorities.

    Raises:
        EngramError: `invalid` for files that cannot be used.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        made.load_cert_chain(certificate, key)
        if client_ca is not None:
            made.verify_mode = ssl.CERT_REQUIRED
            made.load_verify_locations(client_ca)
    except (OSError, ValueError) as error:
        files = ", ".join(name for name in (certificate, key, client_ca) if name)
        raise EngramError("invalid", f"the files for TLS ({files}) cannot be used: {error}") from error
    return made


class Crowd:
    """Who is connected, over all listeners, and how many have come over a network and not said who they are.

    Args:
        most: connections at once. A quarter of them is for the Unix socket alone.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.open = 0
        self._most_open = 0  # since it was last small
        self._is_small = trio.Event()
        self._strangers: Counter[str] = Counter()

    def arrived(self, origin: Origin) -> None:
        """One more connection."""
        self.open += 1
        self._most_open = max(self._most_open, self.open)
        if origin.is_network:
            self._strangers[origin.host] += 1

    def known(self, origin: Origin) -> None:
        """A stranger has greeted, or is gone."""
        if origin.is_network:
            self._strangers[origin.host] -= 1
            if not self._strangers[origin.host]:
                del self._strangers[origin.host]

    def left(self) -> None:
        """One connection less."""
        self.open -= 1
        if self._most_open >= LARGE_CROWD and self.open < self._most_open / 4:
            self._is_small.set()

    async def gone(self) -> None:
        """Wait until most of a large crowd has left, and a moment more for what it leaves behind."""
        await self._is_small.wait()
        await trio.sleep(LOOK)
        self._is_small, self._most_open = trio.Event(), self.open

    @property
    def is_flooded(self) -> bool:
        """Whether there is not even room to say so."""
        return self.open >= self.most + WAITING_ROOM

    def problem(self, origin: Origin) -> tuple[str, str, int] | None:
        """The limit that one more connection is over, if it is: its name, words, and how many there may be."""
        most = self.most - self.most // 4 if origin.is_network else self.most
        if self.open > most:
            kind = " over a network" if origin.is_network else ""
            return "connections", f"all {most} connections{kind} are in use, as many as max_connections allows", most
        if self._strangers[origin.host] > STRANGERS_OF_A_HOST or self._strangers.total() > STRANGERS:
            return "strangers", f"too many clients of {origin.host} have connected and not greeted", STRANGERS_OF_A_HOST
        return None


async def serve(
    accept: Callable[[], Awaitable[socket.socket]],
    engine: Engine,
    crowd: Crowd,
    arrivals: Arrivals,
    nursery: trio.Nursery,
    where: Callable[[socket.socket], Origin],
    tls: ssl.SSLContext | None = None,
) -> None:
    """Accept until cancelled.

    Args:
        accept: waits for the next connection.
        arrivals: reads those that are plain; it has to run.
        where: says who is at the other end.
        tls: what to speak TLS with; None for none.
    """

    async def run(accepted: socket.socket, origin: Origin) -> None:
        is_stranger = True

        def known() -> None:
            nonlocal is_stranger
            if is_stranger:
                is_stranger = False
                crowd.known(origin)

        try:
            await _admit(engine, crowd, arrivals, accepted, origin, tls, known)
        finally:
            known()
            crowd.left()

    while True:
        try:
            accepted = await accept()
        except OSError as error:
            if error.errno == errno.EBADF:
                raise
            engine.accounts.note("accept", f"cannot accept connections for now: {error}")
            await trio.sleep(0.1)
            continue
        try:
            accepted.setblocking(False)
            origin = where(accepted)
        except OSError:  # it is gone already
            accepted.close()
            continue
        if crowd.is_flooded:
            accepted.close()
            engine.accounts.note("flood", "a client, without a word: there are far too many connections")
            continue
        crowd.arrived(origin)
        nursery.start_soon(run, accepted, origin)


async def _admit(
    engine: Engine,
    crowd: Crowd,
    arrivals: Arrivals,
    accepted: socket.socket,
    origin: Origin,
    tls: ssl.SSLContext | None,
    known: Callable[[], None],
) -> None:
    """Serve a connection, or say why not."""
    plain = trio.SocketStream(trio.socket.from_stdlib_socket(accepted))
    stream: trio.abc.Stream = plain
    problem, began = crowd.problem(origin), trio.current_time()
    if tls is not None:
        if problem is not None:  # a handshake is dear
            engine.accounts.note(*problem[:2])
            await trio.aclose_forcefully(plain)
            return
        secured = trio.SSLStream(plain, tls, server_side=True)
        if not await _shake_hands(engine, secured, origin):
            try:
                await _last_words(plain, secured)
            finally:
                await trio.aclose_forcefully(plain)
            return
        stream = secured
    session = Session(engine, stream, (accepted, arrivals) if tls is None else None, origin, known, trio.current_time() - began)
    if not engine.tokens.admits(origin):
        await session.refuse(
            EngramError("denied", f"uid {origin.uid} may not use this daemon, which belongs to uid {os.getuid()} (it could, by auth.users)")
        )
    elif problem is not None:
        await session.refuse(engine.accounts.busy(problem[0], problem[1], limit=problem[2]))
    else:
        await session.run()


async def _shake_hands(engine: Engine, stream: trio.SSLStream[trio.SocketStream], origin: Origin) -> bool:
    """Whether TLS could be agreed on in time."""
    why = f"it took more than {HELLO_SECONDS:g} s"
    with trio.move_on_after(HELLO_SECONDS):
        try:
            await stream.do_handshake()
            return True
        except (trio.BrokenResourceError, ssl.CertificateError) as error:
            why = str(error.__cause__ or error)
    engine.accounts.note("handshakes", f"no TLS with {origin.host}: {why}")
    return False


async def _last_words(plain: trio.SocketStream, stream: trio.SSLStream[trio.SocketStream]) -> None:
    """Tell the client why TLS has failed: trio keeps OpenSSL's alert. What the client has sent is read, or the alert would be lost."""
    alert = stream._outgoing.read()
    with trio.move_on_after(CLOSE_SECONDS if alert else 0):
        try:
            await plain.send_all(alert)
            await plain.send_eof()
            for _ in range(LAST_READS):
                if not await plain.receive_some(READ_BYTES):
                    return
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
