"""What the shells offer at a TAB: where each value comes from, and the files for bash, zsh and fish."""

from __future__ import annotations

from collections.abc import Callable

from . import bash

SHELLS: dict[str, Callable[[], str]] = {"bash": bash.source}


def files() -> dict[str, str]:
    """The files of `completions/`."""
    return {"engram.bash": bash.source()}
