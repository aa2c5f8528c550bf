"""`engram`: the entry point. Signals and pipes behave as in coreutils; an error is one line on stderr and an exit code."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

from engramd.protocol.errors import EngramError

from .common import LITERAL_DASH


def main() -> None:
    """Run one command line and exit."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except OSError as error:
        print(f"engram: cannot write the output: {error.strerror}", file=sys.stderr)
        code = code or 1
    # Nothing is left to do but tear the interpreter down, which costs more than most commands.
    sys.stderr.flush()
    os._exit(code)


def run(arguments: Sequence[str]) -> int:
    """Carry out a command line and return its exit code."""
    from .app import app

    try:
        result = app(list(_literal(arguments)), prog_name="engram", standalone_mode=True)
        return result if isinstance(result, int) else 0
    except EngramError as error:
        print(f"engram: {error.message}", file=sys.stderr)
        return error.exit_code
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1 if stop.code else 0
    except OSError as error:
        print(f"engram: {error}", file=sys.stderr)
        return 1


def _literal(arguments: Sequence[str]) -> Sequence[str]:
    """Mark a `-` after `--`, which Typer would hand on like any other."""
    if "--" not in arguments:
        return arguments
    at = list(arguments).index("--")
    return [*arguments[: at + 1], *(LITERAL_DASH if word == "-" else word for word in arguments[at + 1 :])]


if __name__ == "__main__":
    main()
