"""`engram redact`: erase units for good."""

from __future__ import annotations

from engramd.protocol.messages import MAX_REDACTED

from ..common import Common
from ..output import note


def run(common: Common, ids: list[str], reason: str) -> None:
    """Redact the units; exit 1 when their bytes are not yet out of every file."""
    redacted: list[int] = []
    erased = True
    with common.client() as client:
        for at in range(0, len(ids), MAX_REDACTED):
            done = client.redact(*ids[at : at + MAX_REDACTED], reason=reason)
            redacted += done.redacted
            erased = done.erased
    if common.json:
        out = common.output()
        out.object({"redacted": redacted, "erased": erased})
        out.flush()
    elif not redacted:
        note("engram: nothing changed: all of them were redacted already")
    if not erased:
        note(
            "engram: the units are redacted, but some files still have their bytes; the daemon goes on. To wait for it, repeat the command"
        )
        raise SystemExit(1)
