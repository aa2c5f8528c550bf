"""The log's place in a data directory, and a mark beside it by which a log that has vanished is missed."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from ..protocol.errors import EngramError
from .log import Log

LOG, MARK = "log", "history"


def open_log(directory: Path) -> Log:
    """Open the log of a data directory, whose lock must be held; make one where there never was any.

    Raises:
        EngramError: `storage` when there was one, and there is none; or as of `Log`.
    """
    if vanished := missed(directory):
        raise vanished
    log = Log(directory / LOG)
    if log.history != _known(directory):
        with suppress(OSError):  # of a full disk, which others speak of
            mark = os.open(directory / MARK, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            os.write(mark, f"{log.history}\n".encode())
            os.close(mark)
    return log


def missed(directory: Path) -> EngramError | None:
    """That the log has vanished which a data directory once had, although the directory itself is there."""
    place, known = directory / LOG, _known(directory)
    if not known or (place.exists() and (not place.is_dir() or any(place.iterdir()))):
        return None
    return EngramError(
        "storage",
        f"the store in {place} is gone: it had the history {known}. Nothing was changed; put it back, or restore a backup. "
        f"To begin with an empty one, remove {directory / MARK}",
        path=str(place),
    )


def _known(directory: Path) -> str:
    """The history of the log that the directory had last; nothing where none is known."""
    with suppress(OSError):
        return "" if not (directory / MARK).is_file() else (directory / MARK).read_text(errors="replace").strip()[:40]
    return ""
