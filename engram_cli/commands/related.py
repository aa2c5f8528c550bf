"""`engram related`: the units that relationships lead to."""

from __future__ import annotations

from .. import calls
from .. import common as c
from ..output import note


def run(common: c.Common, id: str, direction: str, types: list[str] | None, depth: int, limit: int) -> None:
    """Print them, nearest first."""
    out = common.output()
    call = calls.related(id, direction=direction, type=types, depth=depth, limit=limit)
    with common.client() as client:
        answer = client.request(call.op, call.fields)
    for item in answer["related"]:
        out.related(item)
    if answer["more"]:
        out.flush()
        note(f"engram: the walk ended after {len(answer['related'])} units, and there are more; ask for fewer types, or a greater --limit")
