"""`engram search`: print what fits a query best."""

from __future__ import annotations

from typing import Any

from .. import common as c
from ..output import note

PAGE = 100
PATIENCE = 0.8  # of --timeout, that the daemon may wait for its index: the rest is for its answer


def run(
    common: c.Common, query: str, contexts: list[str], mode: str | None, limit: int, min_score: float | None, filters: dict[str, Any]
) -> None:
    """Print the hits, best first; none is exit code 1."""
    out = common.output()
    fields: dict[str, Any] = {"query": query, **filters}
    given = {"contexts": [c.context(name) for name in contexts], "mode": mode, "min_score": min_score}
    fields |= {name: value for name, value in given.items() if value not in (None, [])}
    if common.seconds is not None:
        fields["wait"] = int(common.seconds * PATIENCE * 1000)
    left, behind, more = limit, 0, None
    found = False
    with common.client() as client:
        while left > 0:
            page = client.request("search", {**fields, "limit": min(left, PAGE)})
            for hit in page["hits"]:
                out.hit(hit, len(contexts) != 1)
            found, left, more = found or bool(page["hits"]), left - len(page["hits"]), page["next"]
            behind = max(behind, page["behind"])
            if more is None:
                break
            fields["after"] = more
    if behind:
        note(
            f"engram: the search index is behind: {behind} of the newest events were not searched; ask again, or allow more with --timeout"
        )
    if more is not None and out.human:
        note(f"engram: there is more: --after {more}")
    if not found:
        out.flush()
        raise SystemExit(1)
