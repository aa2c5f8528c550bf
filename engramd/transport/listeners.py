"""Listeners: a list of addresses from the start, of which the Unix socket is the first kind."""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from ..protocol.address import socket_dir
from ..protocol.errors import EngramError
from ..service.engine import Engine
from .session import Session

logger = logging.getLogger("engramd.listeners")

BACKLOG = 1024
LOOK = 1.0  # seconds between two looks at the socket's file
OVERFLOW_UID = 65534  # what the kernel shows for a uid that this user namespace does not map
_UCRED = struct.Struct("3i")  # pid, uid, gid: struct ucred of unix(7)


class UnixListener:
    """A Unix stream socket that only this user may use.

    It is bound under a temporary name and renamed into place, so the path never leads to a socket that nobody listens on while a
    daemon starts, and a stale one is replaced in one step. Where its file is removed, it is bound anew.

    Args:
        inherited: a socket that listens already, whose path is another's business.

    Raises:
        EngramError: `busy` when a live daemon listens at the path, `denied` when its directory cannot be used.
    """

    def __init__(self, path: str, inherited: socket.socket | None = None) -> None:
        self.address = path
        self._inode: int | None = None
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
            os.chmod(temporary, 0o600)
            bound.listen(BACKLOG)
            bound.setblocking(False)
            os.rename(temporary, path)
            self._inode = os.stat(path).st_ino
        except OSError as error:
            bound.close()
            raise EngramError("denied", f"cannot listen at {path}: {error.strerror or error}") from error
        return bound

    async def serve(self, engine: Engine, max_connections: int, nursery: trio.Nursery) -> None:
        """Accept until cancelled; each connection becomes a task of `nursery`."""
        async with trio.open_nursery() as own:
            if self._inode is not None:
                own.start_soon(self._stay)
            await serve(self._accept, engine, max_connections, nursery, _same_user)

    async def _accept(self) -> socket.socket:
        while True:
            try:
                await trio.lowlevel.wait_readable(self._listening)
                return self._listening.accept()[0]
            except (trio.ClosedResourceError, BlockingIOError):
                pass  # it was bound anew, or whoever knocked has left

    async def _stay(self) -> None:
        """Bind the path anew when it is gone: whoever removed it did not mean the daemon to go on where nobody finds it."""
        while True:
            await trio.sleep(LOOK)
            if _is_there(self.address):
                continue
            try:
                renewed = self._bind()
            except EngramError as error:
                logger.error("%s was removed, and %s", self.address, error.message)
                continue
            logger.warning("%s was removed; it is there again", self.address)
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


def _same_user(peer: socket.socket) -> str | None:
    """Why the peer may not connect, or None. The kernel says who it is."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    _, uid, _ = _UCRED.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    if uid == os.getuid() and uid != OVERFLOW_UID:
        return None
    return f"uid {uid} may not use this daemon, which belongs to uid {os.getuid()}"


async def serve(
    accept: Callable[[], Awaitable[socket.socket]],
    engine: Engine,
    max_connections: int,
    nursery: trio.Nursery,
    refuse: Callable[[socket.socket], str | None],
) -> None:
    """Accept until cancelled.

    Args:
        accept: waits for the next connection.
        refuse: says why a peer may not connect, or None.
    """
    open_connections = 0

    async def run(accepted: socket.socket) -> None:
        nonlocal open_connections
        open_connections += 1
        try:
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(accepted))
            session = Session(engine, stream, accepted.send)
            reason = refuse(accepted)
            if reason is not None:
                await session.refuse(EngramError("denied", reason))
            elif open_connections > max_connections:
                await session.refuse(
                    EngramError(
                        "busy", f"all {max_connections} connections are in use; try again, or raise max_connections", limit=max_connections
                    )
                )
            else:
                await session.run()
        finally:
            open_connections -= 1

    while True:
        try:
            accepted = await accept()
        except OSError as error:
            if error.errno == errno.EBADF:
                raise
            logger.error("cannot accept connections for now: %s", error)
            await trio.sleep(0.1)
            continue
        accepted.setblocking(False)
        nursery.start_soon(run, accepted)
