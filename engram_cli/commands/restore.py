"""`engram restore`: make a store from a backup, while no daemon runs."""

from __future__ import annotations

import os

from engramd.protocol.backup import advised
from engramd.protocol.errors import EngramError

from .. import autostart, offline, settings
from ..common import Common, directory_of
from ..output import note
from ..progress import bar
from .daemon import path as socket_of

DAMAGED = "Nothing was restored. Use another backup, or make a new one from the store, if there still is one: engram backup DIR"


def run(common: Common, directory: str, data_dir: str | None) -> None:
    """Restore; the data directory is the one that a daemon started here would use, unless it is named."""
    directory_of("DIR", directory)
    if data_dir is not None:
        directory_of("--data-dir", data_dir)
    if data_dir is None and autostart.listening(socket_of(common)):
        raise EngramError(
            "busy",
            "a daemon runs; stop it first, with: engram daemon stop. Or restore beside it, with --data-dir",
            socket=socket_of(common),
        )
    where = [] if data_dir is None else ["--data-dir", os.path.abspath(data_dir)]
    with advised(DAMAGED), bar("restore") as told:
        for said in offline.run("restore", os.path.abspath(directory), *where):
            if "progress" in said:
                told(*said["progress"])
    made = said["done"]
    settings.done = f"the store is restored in {made['data_dir']}"
    out = common.output()
    if out.json:
        out.object(made)
        return
    ended = f"; leases that ended: {made['leases']}" if made["leases"] else ""
    note(f"{made['events']} events, up to seq {made['last']}, are restored in {made['data_dir']}; history {made['history']}{ended}")
    if made["lost"]:
        ranges = ", ".join(f"{first} to {last}" for first, last in made["lost"][:5])
        note(
            f"engram: what was saved from a damaged store has holes: events {ranges}{' and more' if len(made['lost']) > 5 else ''} are lost"
        )
    if made["skipped"]:
        note(f"engram: {made['skipped']} events do not follow from what is left before them; they are in the log, and change nothing")
