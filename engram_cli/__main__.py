"""The full program behind `engram`: Typer's tree. Signals and pipes behave as in coreutils; an error is one line on stderr and a code."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from engramd.protocol.errors import EngramError

from . import COMMAND_FOLLOWS, LITERAL_DASH, WITH_COMMAND, settings
from .done import unwritten
from .fast import leave
from .output import note, report


def main() -> NoReturn:
    """Run this process's command line and exit."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    arguments = sys.argv[1:]
    if arguments == ["--version"]:
        end(version)
    end(lambda: tree(arguments) if arguments else welcome())


_OUTPUT = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)  # of writes; where a file has a name, the error says it
WELCOME = """\
Engram keeps what agents do in one durable log, and streams it to all of them.

  engram demo                  see it work, in 15 seconds
  engram put work 'hello'      append a unit to the context "work"
  engram tail -f work          watch it, live
  engram list work             read it from the start
  engram help                  everything else; engram help VERB for one command
"""


def welcome() -> None:
    """What `engram` alone prints: where to start."""
    sys.stdout.write(WELCOME)


def version() -> None:
    """What `engram --version` prints."""
    from engramd import __version__

    sys.stdout.write(f"engram {__version__}\n")


def tree(arguments: Sequence[str]) -> None:
    """Have Typer carry out a command line.

    Raises:
        EngramError: `invalid` for a line that it does not understand, with what to do.
    """
    from .app import GROUPS, app

    words = list(_literal(arguments))
    if words in [[name] for name in GROUPS]:
        words.append("--help")
    try:
        code = app(words, prog_name="engram", standalone_mode=False)
    except Exception as error:
        if not hasattr(error, "format_message"):  # what Typer raises for bad usage, whatever it is called in its version
            raise
        raise _usage(words, error.format_message()) from None
    if isinstance(code, int) and code:
        raise SystemExit(code)


def _usage(words: Sequence[str], problem: str) -> EngramError:
    """The error for a line that Typer refuses: its reason, the nearest verb for a typo, and where the help is."""
    from difflib import get_close_matches

    from .app import COMMANDS, GROUPS, SHARED
    from .table import VERBS

    group = words[0] if words and words[0] in GROUPS else ""
    typed = words[len(group.split())] if len(words) > len(group.split()) else ""
    command = f"{group} {typed}".strip()
    if command in COMMANDS:
        return EngramError("invalid", f"{problem.rstrip('.')} (see: engram help {command})")
    option = typed.partition("=")[0]
    if VERBS["get"][0].get(option, ("",))[0] in SHARED:  # every verb has these
        return EngramError("invalid", f"{option} goes after the command: engram {group} COMMAND ... {typed}".replace("  ", " "))
    siblings = {name.removeprefix(group).split()[0] for name in COMMANDS if name.startswith(f"{group} " if group else "")}
    near = get_close_matches(typed, siblings, n=1)
    if typed.startswith("-") or not near:
        return EngramError("invalid", f"{problem.rstrip('.')} (see: engram help {group}".rstrip() + ")")
    return EngramError("invalid", f"there is no command {command!r}; did you mean: engram {group} {near[0]}".replace("  ", " "))


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
        note(unwritten(error, settings.done))
        code = code or 1
    sys.stderr.flush()
    leave(code or at_least)


def guarded(action: Callable[[], object]) -> int:
    """The exit code of an action; what went wrong is one line on stderr."""
    try:
        action()
        return 0
    except EngramError as error:
        return report(error)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1 if stop.code else 0
    except UnicodeEncodeError as error:
        note(f"engram: {error.object!r} is not UTF-8, as names, labels and options must be; only a payload may be any bytes")
        return 2
    except OSError as error:
        if error.filename:
            note(f"engram: {os.fsdecode(error.filename)}: {error.strerror or error}")
        elif error.errno in _OUTPUT or (settings.done and error.errno == errno.EBADF):
            note(unwritten(error, settings.done))
        else:
            note(f"engram: {error.strerror or error}")
        return 1


def _literal(arguments: Sequence[str]) -> Sequence[str]:
    """Mark a `-` after `--`, and the `--` before a command: Typer would hand on the first like any other, and drop the second."""
    if "--" not in arguments:
        return arguments
    at = list(arguments).index("--")
    if arguments[0] in WITH_COMMAND:
        return [*arguments[: at + 1], COMMAND_FOLLOWS, *arguments[at + 1 :]]
    return [*arguments[: at + 1], *(LITERAL_DASH if word == "-" else word for word in arguments[at + 1 :])]


if __name__ == "__main__":
    main()
