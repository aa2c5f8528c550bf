"""The full program behind `engram`: Typer's tree. Signals and pipes behave as in coreutils; an error is one line on stderr and a code."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from engramd.protocol.errors import EngramError

from . import LITERAL_DASH
from .fast import leave
from .output import note


def main() -> NoReturn:
    """Run this process's command line and exit."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from .app import app

    end(lambda: app(list(_literal(sys.argv[1:])), prog_name="engram"))


def finish(verb: str, values: dict[str, Any]) -> NoReturn:
    """Do what the quick way has left of a command, and exit."""
    from .app import COMMANDS

    missing: int = values.pop("missing", 0)
    end(lambda: COMMANDS[verb](**values), missing)


def end(action: Callable[[], object], at_least: int = 0) -> NoReturn:
    """Carry out a command, print what went wrong, and exit with its code."""
    code = guarded(action)
    try:
        sys.stdout.flush()
    except OSError as error:
        note(f"engram: cannot write the output: {error.strerror}")
        code = code or 1
    sys.stderr.flush()
    leave(code or at_least)


def guarded(action: Callable[[], object]) -> int:
    """The exit code of an action; what went wrong is one line on stderr."""
    try:
        action()
        return 0
    except EngramError as error:
        note(f"engram: {error.message}")
        return error.exit_code
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1 if stop.code else 0
    except OSError as error:
        note(f"engram: {error}")
        return 1


def _literal(arguments: Sequence[str]) -> Sequence[str]:
    """Mark a `-` after `--`, which Typer would hand on like any other."""
    if "--" not in arguments:
        return arguments
    at = list(arguments).index("--")
    return [*arguments[: at + 1], *(LITERAL_DASH if word == "-" else word for word in arguments[at + 1 :])]


if __name__ == "__main__":
    main()
