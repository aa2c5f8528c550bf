"""Connections to a daemon that listens on a network: TCP on this machine, TLS anywhere. The blocking and the trio client share the rules.

TLS runs over memory here, and the bytes go through our own `send` and `recv`: a daemon that hangs up must not end a command with SIGPIPE.
"""

from __future__ import annotations

import select
import socket
import ssl
import time

from engramd.protocol.address import is_loopback, split
from engramd.protocol.errors import EngramError

from . import core

_CHUNK = 64 * 1024
_NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)


def tls_context(files: core.Files) -> ssl.SSLContext:
    """What a client trusts, and what it shows.

    Raises:
        EngramError: `invalid` for files that cannot be used.
    """
    try:
        made = ssl.create_default_context(cafile=files.ca)
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        if files.cert is not None:
            made.load_cert_chain(files.cert, files.key)
    except (OSError, ValueError) as error:
        named = ", ".join(name for name in files if name)
        keyless = "; the certificate's key may be in another file: ENGRAM_KEY_FILE" if files.cert and not files.key else ""
        raise EngramError("invalid", f"the files for TLS ({named}) cannot be used: {error}{keyless}") from error
    return made


def check(address: str, token: str | None) -> tuple[str, str, int]:
    """The parts of an address that a token may be sent to.

    Raises:
        EngramError: `denied` for TCP without TLS to another machine, or without a token.
    """
    scheme, host, port = split(address)
    if scheme == "tcp" and not is_loopback(host):
        raise EngramError("denied", f"{address} is another machine: over tcp:// anybody on the way could read the token; use tls://")
    if token is None:
        raise EngramError("denied", f"{address} asks for a token: set ENGRAM_TOKEN or ENGRAM_TOKEN_FILE; to get one: engram token issue")
    return scheme, host, port


def open_socket(address: str, token: str | None, files: core.Files) -> socket.socket | TlsSocket:
    """A connection to an address, ready to greet.

    Raises:
        EngramError: `unavailable` when nobody listens there, `denied` when it is not who it should be.
    """
    scheme, host, port = check(address, token)
    context = tls_context(files) if scheme == "tls" else None
    try:
        plain = socket.create_connection((host, port), core.CONNECT_SECONDS)
    except OSError as error:
        raise core.unreachable(address, error) from error
    try:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return plain if context is None else TlsSocket(plain, context, host)
    except (OSError, ssl.CertificateError) as error:
        plain.close()
        raise untrusted(address, error) from error


def untrusted(address: str, error: BaseException) -> EngramError:
    """TLS could not be agreed on."""
    why = getattr(error, "verify_message", "") or (getattr(error, "reason", "") or str(error)).replace("_", " ").lower()
    return EngramError("denied", f"no TLS with {address}: {why}; the authority to trust is named by ENGRAM_CA_FILE")


def dismissed(error: ssl.SSLError) -> EngramError:
    """The other side has ended TLS, and said why: with TLS 1.3 a client hears only after its greeting what its certificate lacks."""
    why = (error.reason or str(error)).lower().replace("_", " ")
    return EngramError("denied", f"the daemon ends TLS: {why}; a certificate is shown with ENGRAM_CERT_FILE and ENGRAM_KEY_FILE")


class TlsSocket:
    """As much of a socket as the client needs, with TLS on it.

    Raises:
        OSError: the handshake failed, or took too long.
    """

    def __init__(self, plain: socket.socket, context: ssl.SSLContext, host: str) -> None:
        self._plain = plain
        self._timeout: float | None = core.CONNECT_SECONDS
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname=host)
        self._leaving = b""
        self._taken = 0
        plain.setblocking(False)
        deadline = time.monotonic() + core.CONNECT_SECONDS
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._wait(deadline)
                if not self._fill():
                    raise ConnectionResetError("the other side hung up") from None
        self._flush()

    def fileno(self) -> int:
        """The file descriptor. It can be read when there is something to `recv`: no byte is kept back here."""
        return self._plain.fileno()

    def settimeout(self, seconds: float | None) -> None:
        """How long `recv` waits; 0: not at all."""
        self._timeout = seconds

    def setblocking(self, blocking: bool) -> None:
        """As of a socket. `send` never waits."""
        self._timeout = None if blocking else 0.0

    def close(self) -> None:
        """Hang up, without a farewell: another process may go on with the connection."""
        self._plain.close()

    def send(self, data: memoryview | bytes, flags: int = 0) -> int:
        """Send some bytes, and give how many. Raises BlockingIOError if called again with the same bytes might do it."""
        if not self._taken:
            self._taken = self._tls.write(data[:_CHUNK])
        self._flush()
        if self._leaving:
            raise BlockingIOError
        taken, self._taken = self._taken, 0
        return taken

    def recv(self, size: int) -> bytes:
        """What has arrived, at least a byte; nothing at the end. Raises TimeoutError, and EngramError when the other side refuses."""
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        while True:
            data = self._read()
            if data:
                return data
            self._wait(deadline)
            if not self._fill():
                return self._read()

    def _read(self) -> bytes:
        """Everything that is decrypted or can be."""
        parts = []
        try:
            while part := self._tls.read(_CHUNK):
                parts.append(part)
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            pass
        except ssl.SSLError as error:
            raise dismissed(error) from error
        return b"".join(parts)

    def _fill(self) -> bool:
        """Take what the network has; False at the end."""
        try:
            data = self._plain.recv(_CHUNK)
        except BlockingIOError:
            return True
        self._in.write(data)
        return bool(data)

    def _flush(self) -> None:
        self._leaving += self._out.read()
        while self._leaving:
            try:
                self._leaving = self._leaving[self._plain.send(self._leaving, _NO_SIGNAL) :]
            except BlockingIOError:
                return

    def _wait(self, deadline: float | None) -> None:
        """Wait until there is something to read, and send meanwhile what is to leave. Raises TimeoutError."""
        while True:
            self._flush()
            poll = select.poll()
            poll.register(self._plain, select.POLLIN | (select.POLLOUT if self._leaving else 0))
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            events = poll.poll(None if left is None else left * 1000)
            if not events:
                raise TimeoutError
            if events[0][1] & ~select.POLLOUT:
                return
