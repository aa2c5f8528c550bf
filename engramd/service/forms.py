"""Units written out by the daemon, for clients that only print: a command that need not decode and format starts much faster."""

from __future__ import annotations

from collections.abc import Iterable

import cbor2

from ..protocol import render
from ..protocol.unit import unit_json


def written(form: str, units: Iterable[bytes]) -> bytes:
    """Encoded units as `json` or `line` lines, or as `raw` payloads."""
    return b"".join(unit_text(form, unit) for unit in units)


def unit_text(form: str, encoded: bytes) -> bytes:
    """One encoded unit in a form."""
    unit = cbor2.loads(encoded)
    if form == "raw":
        return unit["text"].encode() if "text" in unit else bytes(unit["payload"])
    line = render.json_line(unit_json(unit)) if form == "json" else render.unit_line(unit)
    return line.encode() + b"\n"
