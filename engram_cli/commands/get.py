"""`engram get`: print payloads as cat does, or whole units as JSON."""

from __future__ import annotations

from engramd.protocol.errors import EngramError
from engramd.protocol.render import redacted_message

from ..common import Common
from ..output import report


def run(common: Common, ids: list[str]) -> None:
    """Print each unit in turn; what is missing is reported, the rest is printed."""
    out = common.output()
    failure: EngramError | None = None
    with common.client() as client:
        for unit_id in ids:
            try:
                unit = client.request("get", {"ids": [unit_id]})["units"][0]
                if "redacted" in unit and not out.json:
                    raise EngramError("redacted", redacted_message(unit))
            except EngramError as error:
                if error.code not in ("not_found", "trimmed", "redacted") or len(ids) == 1:
                    raise
                report(error)
                failure = error
                continue
            out.payload(unit)
    if failure is not None:
        out.flush()
        raise SystemExit(failure.exit_code)
