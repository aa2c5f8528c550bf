"""Every option of the daemon, in one typed place: its flag, environment variable, key in the TOML file, default and meaning.

Flag > environment > file > default. A bad value is reported with where it came from.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __version__
from .protocol import address
from .protocol.errors import EngramError
from .protocol.limits import Limits
from .protocol.messages import MAX_PAYLOAD, MIB
from .protocol.sizes import parse_size
from .protocol.times import parse_duration

if TYPE_CHECKING:
    import argparse

_LIMITS = Limits()


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("must be a text that is not empty")
    return value


def _size(value: object) -> int:
    """Bytes, with an optional binary suffix: 4096, 64KiB, 1MiB."""
    return parse_size(value.strip(), "size", 0) if isinstance(value, str) else _whole(value)


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, str)) or (isinstance(value, str) and not value.isdecimal()):
        raise ValueError("must be a whole number")
    return int(value)


def _seconds(value: object) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, str):
        raise ValueError("must be a duration such as 10s")
    return parse_duration(value) / 1e6


def _within(parse: Callable[[object], Any], least: float, most: float) -> Callable[[object], Any]:
    def check(value: object) -> Any:
        parsed = parse(value)
        if not least <= parsed <= most:
            raise ValueError(f"must be from {least} to {most}")
        return parsed

    return check


def _flag(value: object) -> bool:
    if value in (True, "true", "yes", "on", "1"):
        return True
    if value in (False, "false", "no", "off", "0"):
        return False
    raise ValueError("must be true or false")


def _words(value: object) -> tuple[str, ...]:
    """A list, or a text with commas."""
    found = value.split(",") if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(word, str) and word.strip() for word in found):
        raise ValueError("must be a list of texts")
    return tuple(word.strip() for word in found)


def _addresses(value: object) -> tuple[str, ...] | str:
    """Where to listen: `auto`, `off`, or addresses. Beyond this machine only with TLS."""
    if value in ("auto", "off"):
        return str(value)
    found = _words(value)
    for url in found:
        scheme, host, _ = address.split(url)
        if scheme == "tcp" and not address.is_loopback(host):
            raise ValueError(
                f"{url} is reached from other machines, where anybody could listen in: write tls:// and set tls.cert and tls.key"
            )
    return found


def _metrics_address(value: object) -> str:
    address.loopback(_text(value), "metrics_listen")
    return _text(value)


def _one_of(*options: str) -> Callable[[object], str]:
    def check(value: object) -> str:
        if value not in options:
            raise ValueError(f"must be one of {', '.join(options)}")
        return str(value)

    return check


def _option(
    parse: Callable[[object], Any], doc: str, example: str, default: Any = None, *, flag_only: bool = False, table: str = ""
) -> Any:
    return field(default=default, metadata={"parse": parse, "doc": doc, "example": example, "flag_only": flag_only, "table": table})


def _key(option: Field[Any]) -> str:
    """The key of an option in the file: that of a table has a dot."""
    table: str = option.metadata["table"]
    return f"{table}.{option.name.removeprefix(table + '_')}" if table else option.name


@dataclass(frozen=True)
class Config:
    """The options of one daemon. Sizes are bytes, times are seconds."""

    socket: str | None = _option(
        _text,
        "Path of the Unix socket. Default: engramd.sock in $XDG_RUNTIME_DIR/engram, /run/user/UID/engram or /tmp/engram-UID.",
        '"/run/user/1000/engram/engramd.sock"',
    )
    data_dir: str | None = _option(
        _text, "Directory of the log. Default: $XDG_DATA_HOME/engram, else ~/.local/share/engram.", '"/home/me/.local/share/engram"'
    )
    max_payload: int = _option(
        _within(_size, 1024, MAX_PAYLOAD), "The largest payload of a unit, in bytes or with a suffix; 16MiB at most.", '"1MiB"', MIB
    )
    min_free: int = _option(
        _within(_size, 0, 2**50),
        "Free bytes of the disk that puts leave: below that they are refused until there is room again. LevelDB needs some to "
        "tidy up and to start: less than 16MiB may be too little. 0 writes until the disk refuses.",
        '"32MiB"',
        32 * MIB,
    )
    max_connections: int = _option(_within(_whole, 1, 65536), "How many clients may be connected at once.", "1024", 1024)
    listen: tuple[str, ...] | str = _option(
        _addresses,
        "Where to listen besides: tcp://HOST:PORT on this machine, tls://HOST:PORT anywhere; off; or auto: tcp://127.0.0.1:7411 and "
        "tcp://[::1]:7411, where those are free.",
        '["tcp://127.0.0.1:7411", "tls://[::]:7412"]',
        "auto",
    )
    tls_cert: str | None = _option(
        _text, "PEM file of the certificate, and of those that vouch for it.", '"/etc/engram/cert.pem"', table="tls"
    )
    tls_key: str | None = _option(_text, "PEM file of its key.", '"/etc/engram/key.pem"', table="tls")
    tls_client_ca: str | None = _option(
        _text,
        "PEM file of authorities: clients over TLS must show a certificate of one of them, besides a token.",
        '"/etc/engram/ca.pem"',
        table="tls",
    )
    auth_require_token: bool = _option(_flag, "Ask for a token on the Unix socket, too.", "true", False, table="auth")
    auth_users: tuple[str, ...] = _option(
        _words, "Other users who may use the Unix socket, each as the agent of their name, without admin.", '["alice"]', (), table="auth"
    )
    limits_connections: int = _option(
        _within(_whole, 1, 65536), "Connections of one agent, or of one token.", "512", _LIMITS.connections, table="limits"
    )
    limits_requests: int = _option(
        _within(_whole, 1, 10**7), "Requests of one agent without an answer.", "16384", _LIMITS.requests, table="limits"
    )
    limits_streams: int = _option(_within(_whole, 1, 10**6), "Streams of one agent.", "1024", _LIMITS.streams, table="limits")
    limits_waits: int = _option(_within(_whole, 1, 1024), "Waits of one agent for locks.", "256", _LIMITS.waits, table="limits")
    limits_searches: int = _option(
        _within(_whole, 1, 1024),
        "Searches and packs of one agent under way; all agents together may have 64.",
        "32",
        _LIMITS.searches,
        table="limits",
    )
    limits_bytes_per_second: int = _option(
        _within(_size, 0, 2**40),
        "Bytes of requests of one agent in a second, or with a suffix; 0: no limit.",
        '"64MiB"',
        _LIMITS.bytes_per_second,
        table="limits",
    )
    log_level: str = _option(
        _one_of("debug", "info", "warning", "error"), "The least severe messages to log: debug, info, warning or error.", '"info"', "info"
    )
    log_format: str = _option(
        _one_of("auto", "human", "json"), "human, json, or auto: human on a terminal and json otherwise.", '"auto"', "auto"
    )
    log_file: str | None = _option(
        _text,
        "Append log messages to this file instead of stderr; auto means engramd.log in the data directory.",
        '"auto"',
    )
    metrics_listen: str | None = _option(
        _metrics_address,
        "Answer /metrics, /healthz and /readyz over HTTP at this loopback address and port. Default: nowhere.",
        '"127.0.0.1:9464"',
    )
    lock_wait: float = _option(
        _within(_seconds, 0, 3600),
        "How long to wait for another daemon to leave the data directory, in seconds or as a duration.",
        '"0s"',
        0.0,
    )
    embedder: str = _option(
        _text,
        "What turns texts into vectors for search: builtin, or another one as docs/search.md describes.",
        '"builtin"',
        "builtin",
    )
    tokenizer: str = _option(
        _text,
        "A file that counts the tokens of packs: a tokenizer.json, or cl100k_base.tiktoken or o200k_base.tiktoken.",
        '"/path/to/tokenizer.json"',
        "",
    )
    keep_events: float | None = _option(
        _within(_seconds, 1, 10**9),
        "How long events that are no units stay, such as locks, acknowledgements and presence. Default: for ever.",
        '"30d"',
    )
    ready_fd: int | None = _option(
        _within(_whole, 0, 65536), "File descriptor that gets the line 'ready', or what went wrong; then it is closed.", "3", flag_only=True
    )

    def socket_path(self) -> str:
        """Where to listen."""
        return address.socket_path(self.socket)

    def data_path(self) -> Path:
        """Where the log is."""
        return address.data_dir(self.data_dir)

    def limits(self) -> Limits:
        """Of each agent."""
        return Limits(**{name: getattr(self, f"limits_{name}") for name in Limits._fields})

    def log_path(self) -> Path | None:
        """Where log messages go; None means stderr."""
        if self.log_file == "auto":
            return self.data_path() / "engramd.log"
        return None if self.log_file is None else Path(self.log_file)


def _env_name(name: str) -> str:
    return f"ENGRAM_{name.upper()}"


def _flag_name(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def parser() -> argparse.ArgumentParser:
    """The flags of engramd, made from Config."""
    import argparse  # slow to load

    made = argparse.ArgumentParser(
        prog="engramd",
        description="The daemon of Engram: a durable, ordered log of work units, streamed to every agent. Runs in the foreground.",
        epilog="Every option can also stand in the configuration file or the environment; a flag wins, then the environment. "
        "SIGTERM and SIGINT finish what is in flight and exit with 0.",
        allow_abbrev=False,
    )
    made.add_argument("--version", action="version", version=f"engramd {__version__}")
    made.add_argument(
        "--config",
        metavar="FILE",
        help="Configuration file (ENGRAM_CONFIG). Default: $XDG_CONFIG_HOME/engram/config.toml, if there is one.",
    )
    made.add_argument("--check-config", action="store_true", help="Print the options in force and where each came from, then exit.")
    for option in fields(Config):
        env = "" if option.metadata["flag_only"] else f" ({_env_name(option.name)})"
        made.add_argument(_flag_name(option.name), metavar="VALUE", help=f"{option.metadata['doc']}{env}".replace("%", "%%"))
    return made


def read_flags(arguments: Sequence[str]) -> Mapping[str, Any]:
    """The flags that are given, by name: what `parser` finds, which is asked only where the line is more than flags with their values."""
    names = {_flag_name(name): name for name in ("config", *(option.name for option in fields(Config)))}
    found: dict[str, Any] = {}
    words = iter(arguments)
    for word in words:
        flag, joined, value = word.partition("=")
        if not joined:
            value = next(words, "-")
        if flag not in names or value == "--" or (not joined and value.startswith("-")):
            return {name: value for name, value in vars(parser().parse_args(arguments)).items() if value not in (None, False)}
        found[names[flag]] = value
    return found


def load(arguments: Sequence[str] | None = None, env: Mapping[str, str] = os.environ) -> tuple[Config, dict[str, str], bool]:
    """Read flags, environment and file.

    Returns:
        The configuration, the source of each option in words, and whether it is only to be shown.

    Raises:
        EngramError: `invalid`, naming the option, its source and what is wrong.
        SystemExit: for --help, --version and unknown flags, as argparse does.
    """
    flags = read_flags(sys.argv[1:] if arguments is None else arguments)
    path, in_file = _read_file(flags.get("config"), env)
    known = {option.name: option for option in fields(Config)}
    keys = {_key(option): option.name for option in known.values() if not option.metadata["flag_only"]}
    for key in in_file:
        if key not in keys:
            raise EngramError("invalid", f"{path}: unknown option {key!r}; known are {', '.join(keys)}")
    in_file = {keys[key]: value for key, value in in_file.items()}
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for name, option in known.items():
        raw, source = _find(name, flags, env, in_file, path, option.metadata["flag_only"])
        sources[name] = source
        if source == "default":
            continue
        try:
            values[name] = option.metadata["parse"](raw)
        except (ValueError, EngramError) as error:
            raise EngramError("invalid", f"{source}: {name} = {raw!r}: {error}") from None
    return Config(**values), sources, "check_config" in flags


def _find(
    name: str, flags: Mapping[str, Any], env: Mapping[str, str], in_file: Mapping[str, Any], path: Path | None, flag_only: bool
) -> tuple[Any, str]:
    if name in flags:
        return flags[name], f"flag {_flag_name(name)}"
    if not flag_only and env.get(_env_name(name)):
        return env[_env_name(name)], f"environment variable {_env_name(name)}"
    if name in in_file:
        return in_file[name], f"file {path}"
    return None, "default"


def _read_file(flag: str | None, env: Mapping[str, str]) -> tuple[Path | None, dict[str, Any]]:
    named = flag or env.get("ENGRAM_CONFIG")
    path = Path(named) if named else config_path(env)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if named:
            raise EngramError("invalid", f"the configuration file {path} does not exist") from None
        return None, {}
    except (OSError, UnicodeDecodeError) as error:
        raise EngramError("invalid", f"the configuration file {path} cannot be read: {error}") from None
    tables = _tables(text, path) if text else {}
    tables.pop("client", None)  # the command line's own table
    flat: dict[str, Any] = {}
    for name, value in tables.items():
        flat.update({f"{name}.{key}": inner for key, inner in value.items()} if isinstance(value, dict) else {name: value})
    return path, flat


def _tables(text: str, path: Path) -> dict[str, Any]:
    import tomllib  # slow to load, and most daemons have no file

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise EngramError("invalid", f"{path}: not valid TOML: {error}") from None


def config_path(env: Mapping[str, str]) -> Path:
    """Where the configuration file is looked for."""
    home = env.get("XDG_CONFIG_HOME")
    base = Path(home) if home and os.path.isabs(home) else Path.home() / ".config"
    return base / "engram" / "config.toml"


def example() -> str:
    """An annotated configuration file with every option at its default, or an example where the default depends on the user."""
    lines = ["# Configuration of Engram: ~/.config/engram/config.toml. Flags and the environment win over this file.", ""]
    for option in fields(Config):
        if not option.metadata["flag_only"]:
            lines += [f"# {option.metadata['doc']}", f"# Flag {_flag_name(option.name)}, environment {_env_name(option.name)}."]
            lines += [f"#{_key(option)} = {option.metadata['example']}", ""]
    lines += [
        "# Defaults of the command line; flags and ENGRAM_CONTEXT, ENGRAM_AGENT, ENGRAM_TOKEN_FILE, ENGRAM_CA_FILE, ... win.",
        "#[client]",
        '#context = "build"',
        '#agent = "me"',
        '#token_file = "/home/me/.config/engram/token"',
        '#ca_file = "/etc/engram/ca.pem"',
        '#cert_file = "/home/me/.config/engram/cert.pem"',
        '#key_file = "/home/me/.config/engram/key.pem"',
        '#daemon_user = "alice"',
        "",
    ]
    return "\n".join(lines)
