"""What the options of these programs may say, looked at before anything is measured, and how such a program ends."""

from __future__ import annotations

import math
import os
import shutil
import sys
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from typing import NoReturn

from engramd.protocol.errors import EngramError

from .figures import BenchmarkError, around_region

INTERRUPTED = 130  # as shells have it: 128 and the number of SIGINT


def positive(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or int(text) == 0:
        raise ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def finite(text: str) -> float:
    """A finite number that is not below 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ArgumentTypeError(f"{text!r} is not a finite number from 0 on")
    return value


def directory(path: str) -> str:
    """A directory that takes files."""
    if not os.path.isdir(path):
        raise ArgumentTypeError(f"there is no directory {path!r}")
    if not os.access(path, os.W_OK | os.X_OK):
        raise ArgumentTypeError(f"{path!r} takes no files from you")
    return path


def output(path: str) -> str:
    """A file that can be written, whether it is there or not."""
    if os.path.isdir(path):
        raise ArgumentTypeError(f"{path!r} is a directory")
    if not os.path.exists(path):
        directory(os.path.dirname(path) or ".")
    elif not os.access(path, os.W_OK):
        raise ArgumentTypeError(f"{path!r} may not be written by you")
    return path


def document(region: str) -> Callable[[str], str]:
    """A document that has the lines between which this region goes."""

    def checked(path: str) -> str:
        try:
            around_region(output(path), region)
        except (BenchmarkError, OSError, UnicodeDecodeError) as error:
            raise ArgumentTypeError(str(error)) from None
        return path

    return checked


def add_dir(parser: ArgumentParser) -> None:
    """Where the stores go."""
    words = "put the stores on this directory's file system (default: the temporary directory)"
    parser.add_argument("--dir", type=directory, metavar="DIR", help=words)


def add_json(parser: ArgumentParser) -> None:
    """Where the figures go."""
    parser.add_argument("--json", type=output, metavar="FILE", help="write the figures here too; times in nanoseconds")


def installed(named: str) -> str:
    """A program, by its path or as one that is on PATH."""
    if shutil.which(named) is None:
        raise ArgumentTypeError(f"there is no program {named!r}")
    return named


def run_main(name: str, main: Callable[[], int | None]) -> NoReturn:
    """End the process with what `main` returns. What a user or the machine did costs one line, and is no traceback.

    What was noted on the exception by which an interrupted `main` ends is printed too.
    """
    try:
        code = main() or 0
    except (KeyboardInterrupt, SystemExit) as error:
        for note in getattr(error, "__notes__", ()):
            print(f"{name}: {note}", file=sys.stderr)
        if isinstance(error, SystemExit):
            raise
        code = INTERRUPTED
    except (BenchmarkError, EngramError, OSError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        code = 1
    sys.exit(code)
