"""`engram renew`: have a lease go on."""

from __future__ import annotations

from engramd.protocol.times import format_ts

from ..common import Common
from ..fast import WITH_SESSION
from .unlock import as_token


def run(common: Common, token: str) -> None:
    """Renew a lease and print when it ends."""
    number = as_token(token)
    with common.client() as client:
        renewed = client.renew(number)
    out = common.output()
    if out.json:
        out.object(renewed)
    else:
        out.line(WITH_SESSION if renewed["expires_at"] is None else format_ts(renewed["expires_at"]))
