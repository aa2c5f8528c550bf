"""What a command line leaves unsaid: flag > environment > configuration file."""

from __future__ import annotations

import getpass
import os
import tomllib
from pathlib import Path
from typing import Any

from engramd.protocol.errors import EngramError


def default(name: str) -> str | None:
    """`ENGRAM_NAME`, else `name` in the file's [client] table, else None."""
    return os.environ.get(f"ENGRAM_{name.upper()}") or _from_file("client", name)


def agent() -> str:
    """Who acts, unless a flag says otherwise: the configured agent, else the user's name."""
    return default("agent") or getpass.getuser()


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
        raise EngramError("invalid", "the context '.' stands for $ENGRAM_CONTEXT, which is not set")
    return named


def _from_file(*path: str) -> str | None:
    value: Any = _file()
    for part in path:
        value = value.get(part) if isinstance(value, dict) else None
    if value is not None and not isinstance(value, str):
        raise EngramError("invalid", f"{_file_path()}: {'.'.join(path)} must be text")
    return value


def _file_path() -> Path:
    named = os.environ.get("ENGRAM_CONFIG")
    home = os.environ.get("XDG_CONFIG_HOME")
    return Path(named) if named else (Path(home) if home else Path.home() / ".config") / "engram" / "config.toml"


def _file() -> dict[str, Any]:
    path = _file_path()
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise EngramError("invalid", f"the configuration file {path} cannot be read: {error}") from None
