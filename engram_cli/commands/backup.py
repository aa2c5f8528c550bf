"""`engram backup`: keep the log in a directory, from a daemon that goes on working."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from engramd.protocol.backup import Manifest, advised
from engramd.protocol.errors import EngramError

from .. import offline, settings
from ..client import Client
from ..common import Common, directory_of
from ..output import note
from ..progress import bar
from ..vault import Vault

DAMAGED = "The store is not touched by that; make a new backup of it in another directory: engram backup DIR"


def run(common: Common, directory: str, verify: bool) -> None:
    """Bring a backup up to the end of the log; with `verify`, read it whole afterwards."""
    path = Path(directory_of("DIR", directory))
    with advised(DAMAGED), Vault(path) as vault, common.client() as client, bar("backup") as told:
        client.connect()
        facts = _update(vault, client, told)
    settings.done = f"the log up to seq {facts['last_seq']} is in {path}"
    out = common.output()
    if verify:
        check(path)
    if out.json:
        out.object(facts)
    else:
        again = f", {facts['rewritten']} segments anew" if facts["rewritten"] else ""
        note(f"the log up to seq {facts['last_seq']} is in {path}: {facts['added']} events more than before{again}")


def check(path: Path) -> dict[str, Any]:
    """Read a backup whole. Raises EngramError("storage") when it is damaged."""
    with advised(DAMAGED), bar("verify") as told:
        for said in offline.run("verify", str(path)):
            if "progress" in said:
                told(*said["progress"])
    done: dict[str, Any] = said["done"]
    return done


def run_verify(common: Common, directory: str) -> None:
    """Only read a backup whole; no daemon is asked."""
    facts = check(Path(directory_of("DIR", directory)))
    out = common.output()
    if out.json:
        out.object(facts)
    else:
        note(f"the backup in {directory} is sound: {facts['events']} events, up to seq {facts['last']}")


def _update(vault: Vault, client: Client, told: Callable[[int, int], None]) -> dict[str, Any]:
    """Bring it up to the end of the log; again, if retention has removed meanwhile what was not read yet: only the event behind says so."""
    facts, whole = _round(vault, client, told)
    while whole > facts["last_seq"]:
        more, whole = _round(vault, client, told)
        facts = {**more, "added": facts["added"] + more["added"], "rewritten": facts["rewritten"] + more["rewritten"]}
    return facts


def _round(vault: Vault, client: Client, told: Callable[[int, int], None]) -> tuple[dict[str, Any], int]:
    """Bring it up to where the log ends now. Gives the facts, and up to where it has to go to be whole."""
    history, server = client.server["history"], client.server["server"]
    had = vault.manifest or Manifest(history, 0, 0)
    _same_log(vault, had, history)
    reading = _Reading(client, history, told)

    def noted(manifest: Manifest) -> Manifest:
        stale = {*had.stale, *(seq for seq in reading.changed if seq <= had.last)}  # what was read now is as it is now
        if reading.gone > had.last:  # what such an event changed, nobody can say any more
            stale |= {one.first for one in had.segments}
        return replace(manifest, made_at=time.time_ns() // 1000, server=server, stale=tuple(sorted(stale)))

    manifest = noted(vault.extend(had, reading.chunks(had.last), noted))
    rewritten = {}
    for one in manifest.segments:
        if any(one.first <= seq <= one.last for seq in manifest.stale):
            rewritten[one] = vault.write(one.first, reading.chunks(one.first - 1, one.last))
    vault.commit(replace(manifest, segments=tuple(rewritten.get(one, one) for one in manifest.segments), stale=()))
    facts = {
        "last_seq": manifest.last,
        "added": manifest.last - had.last,
        "rewritten": len(rewritten),
        "segments": len(manifest.segments),
        "history": history,
    }
    return facts, reading.whole


def _same_log(vault: Vault, had: Manifest, history: str) -> None:
    if had.salvaged:
        raise EngramError(
            "conflict", f"what is in {vault.path} was saved from a damaged store; restore it, and back up into another directory"
        )
    if had.history != history:
        raise EngramError(
            "conflict",
            f"the backup in {vault.path} is of another history ({had.history}) than the daemon's log ({history}); give another directory",
            history=had.history,
        )


class _Reading:
    """The log as the daemon gives it, page by page.

    Attributes:
        changed: seqs whose records are no more what they were when they were read.
        whole: the seq of the last event that removed or changed others, as far as is known.
        gone: the last seq of an event that was removed, and was no entry.
    """

    def __init__(self, client: Client, history: str, told: Callable[[int, int], None]) -> None:
        self.changed: set[int] = set()
        self.whole = 0
        self.gone = 0
        self._client = client
        self._history = history
        self._told = told

    def chunks(self, after: int, last: int | None = None) -> Iterator[tuple[bytes, int]]:
        """Frames behind a seq, and how far they reach; up to what was the end of the log when this began."""
        while last is None or after < last:
            page = self._client.request("backup", {"after": after} if last is None else {"after": after, "last": last})
            if page["history"] != self._history:
                raise EngramError("conflict", "the daemon was started on another store meanwhile; the backup ends with what it had before")
            self.changed.update(page["changed"])
            self.gone = max(self.gone, page["gone"])
            self.whole = max(self.whole, page["whole"])
            before, after, last = after, page["reached"], int(page["last"])
            self._told(after, last)
            if after > before:
                yield page["frames"], after
