"""Listeners: a list of addresses from the start, of which the Unix socket is the first kind."""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
import struct
from collections.abc import Callable
from pathlib import Path

import trio

from ..protocol.address import socket_dir
from ..protocol.errors import EngramError
from ..service.engine import Engine
from .session import Session

logger = logging.getLogger("engramd.listeners")

BACKLOG = 1024
OVERFLOW_UID = 65534  # what the kernel shows for a uid that this user namespace does not map
_UCRED = struct.Struct("3i")  # pid, uid, gid: struct ucred of unix(7)


class UnixListener:
    """A Unix stream socket that only this user may use.

    It is bound under a temporary name and renamed into place, so the path never leads to a socket that nobody listens on while a
    daemon starts, and a stale one is replaced in one step.

    Raises:
        EngramError: `busy` when a live daemon listens at the path, `denied` when its directory cannot be used.
    """

    def __init__(self, path: str) -> None:
        self.address = path
        socket_dir(path)
        if _answers(path):
            raise EngramError("busy", f"another daemon listens at {path}; stop it, or give this one another --socket")
        temporary = os.path.join(os.path.dirname(path), f".{os.getpid()}")  # short: a path may have the most bytes there are
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            Path(temporary).unlink(missing_ok=True)
            self._socket.bind(temporary)
            os.chmod(temporary, 0o600)
            self._socket.listen(BACKLOG)
            os.rename(temporary, path)
            self._inode: int | None = os.stat(path).st_ino
        except OSError as error:
            self._socket.close()
            raise EngramError("denied", f"cannot listen at {path}: {error.strerror or error}") from error

    async def serve(self, engine: Engine, max_connections: int, nursery: trio.Nursery) -> None:
        """Accept until cancelled; each connection becomes a task of `nursery`."""
        await serve(self._socket, engine, max_connections, nursery, _same_user)

    def close(self) -> None:
        """Stop listening and remove the path, if it is still this socket's."""
        inode, self._inode = self._inode, None  # once closed, its number may be another socket's
        try:
            if os.stat(self.address).st_ino == inode:
                os.unlink(self.address)
        except OSError:
            pass
        self._socket.close()


def _answers(path: str) -> bool:
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
    listening: socket.socket,
    engine: Engine,
    max_connections: int,
    nursery: trio.Nursery,
    refuse: Callable[[socket.socket], str | None],
) -> None:
    """Accept on a listening socket until cancelled.

    Args:
        refuse: says why a peer may not connect, or None.
    """
    listening.setblocking(False)
    listener = trio.socket.from_stdlib_socket(listening)
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
            accepted, _ = await listener.accept()
        except OSError as error:
            if error.errno == errno.EBADF:
                raise
            logger.error("cannot accept connections for now: %s", error)
            await trio.sleep(0.1)
            continue
        plain = socket.socket(fileno=accepted.detach())
        plain.setblocking(False)
        nursery.start_soon(run, plain)
