"""What the shells offer at a TAB: the files of `completions/`, under the names that each shell looks for."""

from __future__ import annotations

from collections.abc import Callable

from . import bash, fish, values, zsh

SHELLS: dict[str, Callable[[], str]] = dict(zip(values.SHELLS, (bash.source, zsh.source, fish.source), strict=True))
_NAMES = {"bash": "engram.bash", "zsh": "_engram", "fish": "engram.fish"}


def files() -> dict[str, str]:
    """The name and the text of each file."""
    return {_NAMES[shell]: source() for shell, source in SHELLS.items()}
