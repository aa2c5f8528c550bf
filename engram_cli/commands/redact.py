"""`engram redact`: erase units for good."""

from __future__ import annotations

from ..common import Common
from ..output import note


def run(common: Common, ids: list[str], reason: str) -> None:
    """Redact the units; exit 1 when their bytes are not yet out of every file."""
    with common.client() as client:
        done = client.redact(*ids, reason=reason)
    if common.json:
        out = common.output()
        out.object(done._asdict())
        out.flush()
    elif not done.redacted:
        note("engram: nothing changed: all of them were redacted already")
    if not done.erased:
        note(
            "engram: the units are redacted, but some files still have their bytes; the daemon goes on. To wait for it, repeat the command"
        )
        raise SystemExit(1)
