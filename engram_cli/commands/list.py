"""`engram list`: print a context's units."""

from __future__ import annotations

from typing import Any

from .. import common as c


def run(common: c.Common, context: str, limit: int | None, reverse: bool, filters: dict[str, Any]) -> None:
    """Print the units that fit, page by page."""
    out = common.output()
    name = c.context(context)
    if reverse:
        filters["reverse"] = True
    with common.client() as client:
        for unit in client.pages(name, limit, filters):
            out.unit(unit)
