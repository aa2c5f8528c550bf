"""What a command line leaves unsaid: flag > environment > configuration file. Imports almost nothing: every command starts here."""

from __future__ import annotations

import os

CLIENT = ("context", "agent", "token_file", "ca_file", "cert_file", "key_file", "daemon_user")  # the options of the file's [client] table

verbose = False  # set by --verbose: say more about an error
token_file: str | None = None  # set by --token-file
done = ""  # what the command has changed so far, in words
resumed = False  # set by the quick way when it leaves the rest of a command whose connection was lost

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def default(name: str) -> str | None:
    """`ENGRAM_NAME`, else `name` in the file's [client] table, else None."""
    return os.environ.get("ENGRAM_" + name.upper()) or _from_file("client", name)


def agent() -> str:
    """Who acts, unless a flag says otherwise: the configured agent, else the user's name."""
    return default("agent") or _user()


def socket() -> str | None:
    """The configured socket; None means the usual place."""
    return os.environ.get("ENGRAM_SOCKET") or _from_file("socket")


def token() -> str | None:
    """The token to greet with, if there is one: from the file of --token-file, ENGRAM_TOKEN, or the file that ENGRAM_TOKEN_FILE or the
    configuration names. It is no argument: those can be seen by everybody who lists the processes.

    Raises:
        EngramError: `invalid` when the file cannot be read.
    """
    if token_file is None and (found := os.environ.get("ENGRAM_TOKEN", "").strip()):
        return found
    path = token_file or default("token_file")
    if path is None:
        return None
    try:
        with open(os.path.expanduser(path), encoding="utf-8") as file:
            found = file.read(4096).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise _invalid(f"the token file {path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not found:
        raise _invalid(f"the token file {path} is empty")
    return found


def inherited() -> dict[str, str]:
    """The environment of a command that we start, which is to show the same token: the file of --token-file takes ENGRAM_TOKEN's place."""
    ours = dict(os.environ)
    if token_file is not None:
        ours.pop("ENGRAM_TOKEN", None)
        ours["ENGRAM_TOKEN_FILE"] = os.path.abspath(os.path.expanduser(token_file))
    return ours


def files() -> tuple[str | None, ...]:
    """The PEM files for TLS that are configured: the authority to trust, and the certificate to show with its key."""
    named = [default(name) for name in ("ca_file", "cert_file", "key_file")]
    return tuple(None if path is None else os.path.expanduser(path) for path in named)


def trusted_uid() -> int:
    """Whose daemon may be talked to on a Unix socket: that of the user whom ENGRAM_DAEMON_USER or the file names, else one's own.

    Raises:
        EngramError: `invalid` when there is no such user.
    """
    name = default("daemon_user")
    if name is None:
        return os.getuid()
    import pwd

    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise _invalid(f"there is no user {name!r}, as daemon_user names") from None


def context(given: str) -> str:
    """The context that an argument names; `.` stands for the configured one.

    Raises:
        EngramError: `invalid` when `.` is given and nothing is configured.
    """
    if given != ".":
        return given
    named = default("context")
    if named is None:
        raise _invalid("the context '.' stands for $ENGRAM_CONTEXT, which is not set")
    return named


def _user() -> str:
    """The user's name, as getpass.getuser finds it."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        if found := os.environ.get(name):
            return found
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid-{os.getuid()}"


def _from_file(*path: str) -> str | None:
    value: Any = _file(path[0])
    for part in path:
        value = value.get(part) if isinstance(value, dict) else None
    if value is not None and not isinstance(value, str):
        raise _invalid(f"{_file_path()}: {'.'.join(path)} must be text")
    return value


def _file_path() -> str:
    home = os.environ.get("XDG_CONFIG_HOME", "")
    base = home if os.path.isabs(home) else os.path.expanduser("~/.config")
    return os.environ.get("ENGRAM_CONFIG") or f"{base}/engram/config.toml"


def _file(wanted: str) -> dict[str, Any]:
    """The configuration file's tables, or nothing where `wanted` does not even occur: a TOML reader costs as much as a Python start."""
    path = _file_path()
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        if os.environ.get("ENGRAM_CONFIG"):
            raise _invalid(f"the configuration file {path} does not exist") from None
        return {}
    except OSError as error:
        raise _invalid(f"the configuration file {path} cannot be read: {error.strerror}") from None
    if wanted.encode() not in data:
        return {}
    import tomllib

    try:
        tables = tomllib.loads(data.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise _invalid(f"the configuration file {path} cannot be read: {error}") from None
    client = tables.get("client", {})
    if not isinstance(client, dict):
        raise _invalid(f"{path}: client must be a table")
    for name in client:
        if name not in CLIENT:
            raise _invalid(f"{path}: unknown option in [client]: {name!r}; known are {', '.join(CLIENT)}")
    return tables


def _invalid(message: str) -> Exception:
    from engramd.protocol.errors import EngramError

    return EngramError("invalid", message)
