"""The log's place in a data directory, and a mark beside it by which a log that has vanished is missed."""

from __future__ import annotations

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
    place, mark = directory / LOG, directory / MARK
    known = mark.read_text(errors="replace").strip() if mark.exists() else ""
    if known and (not place.exists() or (place.is_dir() and not any(place.iterdir()))):
        raise EngramError(
            "storage",
            f"the store in {place} is gone: it had the history {known[:40]}. Nothing was changed; put it back (is its disk mounted?) or "
            f"restore a backup. To begin with an empty one, remove {mark}",
            path=str(place),
        )
    log = Log(place)
    if log.history != known:
        with suppress(OSError):  # of a full disk, which others speak of
            mark.write_text(f"{log.history}\n")
    return log
