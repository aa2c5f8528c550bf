"""Where the daemon is: the one function that decides the socket's path for both sides, and the one for the data directory."""

from __future__ import annotations

import os

TYPE_CHECKING = False  # `typing` and `pathlib` cost more than the rest of a command's start
if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .errors import EngramError

DEFAULT_PORT = 7411
NETWORK = ("tcp://", "tls://")
MAX_SOCKET_PATH = 107  # bytes: sockaddr_un.sun_path less its NUL (unix(7))


def socket_path(flag: str | None = None, env: Mapping[str, str] = os.environ) -> str:
    """The Unix socket's path: `flag`, else `ENGRAM_SOCKET`, else `engramd.sock` in the first runtime directory there is:
    `$XDG_RUNTIME_DIR/engram`, `/run/user/UID/engram`, `/tmp/engram-UID`.

    Raises:
        EngramError: `invalid` when the path is longer than a socket's may be (107 bytes).
    """
    chosen = flag or env.get("ENGRAM_SOCKET") or os.path.join(_runtime_dir(env), "engramd.sock")
    if _is_url(chosen):
        raise _error("invalid", f"{chosen} is no path of a Unix socket; a daemon listens elsewhere with its option listen")
    path = os.path.abspath(chosen)
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise _error(
            "invalid",
            f"the socket path is longer than the {MAX_SOCKET_PATH} bytes that a Unix socket may have: {path}; choose a shorter one with "
            "--socket or ENGRAM_SOCKET",
        )
    return path


def endpoint(flag: str | None = None, env: Mapping[str, str] = os.environ) -> str:
    """Where a client finds the daemon: `tcp://HOST:PORT` or `tls://HOST:PORT`, in full, if that is what it is told; else the socket's path.

    Raises:
        EngramError: `invalid` for what is neither.
    """
    chosen = flag or env.get("ENGRAM_SOCKET") or ""
    if not _is_url(chosen):
        return socket_path(flag, env)
    scheme, host, port = split(chosen)
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def _is_url(text: str) -> bool:
    """Whether a text is an address of some kind, and no path; which kinds there are is for `split` to say."""
    return text.partition("://")[0].isalpha() and "://" in text


def is_network(address: str) -> bool:
    """Whether an address is that of a network, and not a path."""
    return address.startswith(NETWORK)


def split(url: str) -> tuple[str, str, int]:
    """`tcp://HOST:PORT` in parts: scheme, host and port (7411 if none is said). An IPv6 address stands in brackets.

    Raises:
        EngramError: `invalid`.
    """
    scheme, _, rest = url.partition("://")
    if rest.startswith("["):
        host, closed, port = rest[1:].partition("]")
    else:
        host, closed, port = rest.partition(":")
        port = closed + port
    number = port[1:] or str(DEFAULT_PORT)
    is_port = port[:1] in ("", ":") and number.isascii() and number.isdigit() and int(number) < 65536
    is_host = host and host.isprintable() and not {*" /@"} & {*host} and (closed or rest[:1] != "[")
    if f"{scheme}://" not in NETWORK or not is_port or not is_host:
        raise _error("invalid", f"{url!r} is no address; one is tcp://HOST:PORT or tls://HOST:PORT, an IPv6 address in brackets")
    return scheme, host, int(number)


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, and nobody else hears what is said to it."""
    return host in ("localhost", "::1") or (host.startswith("127.") and host.replace(".", "").isdigit() and host.count(".") == 3)


def loopback(address: str, name: str) -> tuple[str, int]:
    """`HOST:PORT` of this machine in parts.

    Raises:
        EngramError: `invalid`, naming the option, for anything else.
    """
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    host = "127.0.0.1" if host == "localhost" else host
    if is_loopback(host) and port.isascii() and port.isdigit() and int(port) < 65536:
        return host, int(port)
    raise _error("invalid", f"{name}: {address!r} is no loopback address with a port, such as 127.0.0.1:9464")


def _runtime_dir(env: Mapping[str, str]) -> str:
    xdg = env.get("XDG_RUNTIME_DIR")
    if xdg and os.path.isabs(xdg):
        return os.path.join(xdg, "engram")
    run = f"/run/user/{os.getuid()}"
    if os.path.isdir(run):
        return os.path.join(run, "engram")
    return f"/tmp/engram-{os.getuid()}"


def data_dir(flag: str | None = None, env: Mapping[str, str] = os.environ) -> Path:
    """The data directory: `flag`, else `ENGRAM_DATA_DIR`, else `$XDG_DATA_HOME/engram`, else `~/.local/share/engram`."""
    from pathlib import Path

    chosen = flag or env.get("ENGRAM_DATA_DIR")
    if chosen:
        return Path(chosen).absolute()
    home = env.get("XDG_DATA_HOME")
    base = Path(home) if home and os.path.isabs(home) else Path.home() / ".local" / "share"
    return base / "engram"


def socket_dir(path: str, env: Mapping[str, str] = os.environ) -> None:
    """Make sure that the directory of a socket is there. The usual one must also be this user's, and closed to others.

    Raises:
        EngramError: `denied` when it cannot be made, or the usual one is someone else's.
    """
    directory = os.path.dirname(path)
    if directory == _runtime_dir(env) or not os.path.isdir(directory):
        private_dir(directory)


def private_dir(path: str | Path) -> None:
    """Create a directory that only this user can enter, or check that it is one and close it to others.

    Raises:
        EngramError: `denied` when it (or the link to it) belongs to someone else, is no directory, or cannot be made.
    """
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        link, found = os.lstat(path), os.stat(path)
        if link.st_uid != os.getuid() or found.st_uid != os.getuid():
            raise _error("denied", f"{path} belongs to another user (uid {found.st_uid}); choose another place")
        if found.st_mode & 0o077:
            os.chmod(path, 0o700)
    except OSError as error:
        raise _error("denied", f"the directory {path} cannot be used: {error.strerror or error}") from error


def _error(code: str, message: str) -> EngramError:
    from .errors import EngramError

    return EngramError(code, message)
