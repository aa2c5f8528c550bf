"""What a command line leaves unsaid: flag > environment > configuration file. Imports almost nothing: every command starts here."""

from __future__ import annotations

import os

CLIENT = ("context", "agent")  # the options of the file's [client] table

verbose = False  # set by --verbose: say more about an error
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
