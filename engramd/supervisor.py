"""What systemd, or another supervisor that speaks its protocols, gives a daemon and is told by it: sockets, readiness, a watchdog.

The protocols are those of sd_listen_fds(3), sd_notify(3) and sd_watchdog_enabled(3): environment variables and datagrams.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import MutableMapping

from .protocol.errors import EngramError

logger = logging.getLogger("engramd")

FIRST_FD = 3  # SD_LISTEN_FDS_START


class Supervisor:
    """Whoever started this process, if it takes notice. What it said in the environment is taken out, so that no child believes it.

    Attributes:
        watchdog: seconds after which it takes a daemon for hung that has not said `WATCHDOG=1`, or None.
    """

    def __init__(self, env: MutableMapping[str, str] = os.environ) -> None:
        self._address = env.pop("NOTIFY_SOCKET", "")
        usec, pid = env.pop("WATCHDOG_USEC", ""), env.pop("WATCHDOG_PID", str(os.getpid()))
        self.watchdog = int(usec) / 1e6 if usec.isdecimal() and int(usec) and pid == str(os.getpid()) else None
        count, pid = env.pop("LISTEN_FDS", ""), env.pop("LISTEN_PID", "")
        env.pop("LISTEN_FDNAMES", None)
        self._fds = range(FIRST_FD, FIRST_FD + int(count)) if count.isdecimal() and pid == str(os.getpid()) else range(0)

    def sockets(self) -> list[socket.socket]:
        """The listening sockets that it has handed over.

        Raises:
            EngramError: `invalid` when one is no listening stream socket.
        """
        taken = []
        for fd in self._fds:
            os.set_inheritable(fd, False)
            try:
                inherited = socket.socket(fileno=fd)
                listens = inherited.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            except OSError as error:
                raise EngramError("invalid", f"the inherited file descriptor {fd} is no socket: {error.strerror}") from error
            if not listens or inherited.type != socket.SOCK_STREAM:
                raise EngramError("invalid", f"the inherited socket {fd} is no listening stream socket: use ListenStream=")
            inherited.setblocking(False)
            taken.append(inherited)
        return taken

    def tell(self, *assignments: str) -> None:
        """Tell it, such as `READY=1`; nobody may be listening, and that is no failure."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as telling:
            try:
                telling.sendto("\n".join(assignments).encode(), address)
            except OSError as error:
                logger.warning("the supervisor at %s cannot be told: %s", self._address, error)
