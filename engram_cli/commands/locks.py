"""`engram locks`: who holds what, and who waits."""

from __future__ import annotations

from typing import Any

from engramd.protocol.times import format_duration

from ..common import Common

COLUMNS = ("state", "token", "mode", "holder", "age", "remaining", "resources", "reason")


def run(common: Common, paths: list[str]) -> None:
    """Print the leases and then the waiters; with paths, those that have to do with them."""
    out = common.output()
    with common.client() as client:
        found = client.locks(*paths)
        out.table((_as_json(one) for one in found) if out.json else map(row, found), COLUMNS)


def row(info: dict[str, Any]) -> dict[str, Any]:
    """A lease or a waiter as a row of COLUMNS."""
    holds = "token" in info
    mode = f"{info['mode']}:{info['slots']}" if "slots" in info else info["mode"]
    left = "" if not holds else "session" if info["remaining"] is None else format_duration(info["remaining"])
    return {
        "state": "held" if holds else "waiting",
        "token": info.get("token", ""),
        "mode": mode,
        "holder": info["holder" if holds else "agent"],
        "age": format_duration(info["age" if holds else "waited"]),
        "remaining": left,
        "resources": info["resources"],
        "reason": info["reason"],
    }


def _as_json(info: dict[str, Any]) -> dict[str, Any]:
    return {"state": "held" if "token" in info else "waiting", **info}
