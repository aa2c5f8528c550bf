"""`engram token …`: who may connect, and what they may do."""

from __future__ import annotations

import re
from typing import Any

from engramd.protocol import render
from engramd.protocol.tokens import NAME, PREFIX

from ..common import Common
from ..lease import normal
from ..output import note, when

COLUMNS = ("token", "agent", "permissions", "contexts", "paths", "expires_at", "connections", "note")
USUAL = ("read", "write", "lock")
NEVER = "never"


def issue(common: Common, agent: str, may: list[str], contexts: list[str], paths: list[str], expires: str, remark: str | None) -> None:
    """Issue a token: its text alone on stdout, the words on stderr."""
    permissions = [right for given in may or USUAL for right in given.split(",")]
    limits = {"contexts": contexts, "paths": normal(paths) if paths else [], "note": remark}
    given: dict[str, Any] = {name: value for name, value in limits.items() if value}
    with common.client() as client:
        issued = client.token_issue(agent, permissions, expires=None if expires == NEVER else expires, **given)
    if common.json:
        common.output().object(issued)
        return
    common.output().line(issued["token"])
    info = issued["info"]
    ends = "for ever" if info["expires_at"] is None else f"until {when(info['expires_at'])}"
    where = f" in {' '.join(info['contexts'])}" if info["contexts"] else ""
    locks = f", locking no more than {' '.join(info['paths'])}," if info["paths"] else ""
    note(f"engram: {agent} may {', '.join(info['permissions'])}{where}{locks} {ends}; to end it: engram token revoke {info['token']}")


def list_(common: Common) -> None:
    """List the tokens."""
    with common.client() as client:
        rows = client.token_list()
        common.output().table(rows if common.json else map(_for_people, rows), COLUMNS)


def revoke(common: Common, token: str) -> None:
    """End a token."""
    with common.client() as client:
        ended = client.token_revoke(_name(token))
    note(f"engram: revoked; {ended} connection{'' if ended == 1 else 's'} ended")


def inspect(common: Common, token: str) -> None:
    """Describe a token."""
    with common.client() as client:
        info = client.token_inspect(_name(token))
    common.output().mapping(info if common.json else _for_people(info))


def _name(typed: str) -> str:
    """The name of a token; whoever gives the whole text means that one."""
    return typed[len(PREFIX) :][:NAME] if re.match(PREFIX, typed) else typed


def _for_people(info: dict[str, Any]) -> dict[str, Any]:
    ends = NEVER if info["expires_at"] is None else render.plain(info)["expires_at"]
    words = {name: " ".join(info[name]) or "all" for name in ("permissions", "contexts", "paths")}
    return {**info, **words, "expires_at": "expired" if info["expired"] else ends}
