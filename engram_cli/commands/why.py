"""`engram why`: the changes of a file, and what led to each."""

from __future__ import annotations

from .. import calls
from .. import common as c


def run(common: c.Common, path: str, depth: int, limit: int | None) -> None:
    """Print the changes, newest first, page by page."""
    out = common.output()
    with common.client() as client:
        for change in client.each(calls.changes(path, limit, depth, dict)):
            out.change(change)
