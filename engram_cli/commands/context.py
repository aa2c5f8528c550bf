"""`engram context …`: contexts, their members, pins and added units."""

from __future__ import annotations

from collections.abc import Callable

from engramd.protocol.errors import EngramError

from .. import common as c
from ..client import Client
from ..output import note

COLUMNS = ("id", "display_name", "units", "last_seq", "updated_at", "agents")


def create(common: c.Common, context: str, display_name: str | None, meta: list[str] | None) -> None:
    """Create a context."""
    with common.client() as client:
        described = client.context_create(c.context(context), display_name=display_name, meta=c.labels(meta))
    if common.json:
        common.output().object(described)


def show(common: c.Common, context: str) -> None:
    """Describe a context."""
    with common.client() as client:
        common.output().mapping(client.context_show(c.context(context)))


def list_(common: c.Common) -> None:
    """List contexts."""
    with common.client() as client:
        common.output().table(client.context_list(), COLUMNS)


def set_(common: c.Common, context: str, display_name: str | None, meta: list[str] | None, unset: list[str] | None) -> None:
    """Change a context."""
    labels = c.labels(meta)
    if both := labels.keys() & set(unset or ()):
        raise EngramError("invalid", f"--meta {min(both)}=... and --unset {min(both)}: give only one of them")
    meta_changes: dict[str, str | None] = {**labels, **dict.fromkeys(unset or ())}
    if display_name is None and not meta_changes:
        raise EngramError("invalid", "nothing to set: give --display-name, --meta or --unset")
    with common.client() as client:
        described = client.context_set(c.context(context), display_name=display_name, meta=meta_changes)
    if common.json:
        common.output().object(described)


def retain(common: c.Common, context: str, age: str | None, units: str | None, size: str | None) -> None:
    """Set what a context keeps."""
    given = {"age": age, "units": units, "bytes": size}
    limits: dict[str, str | int | None] = {name: None if value == "none" else value for name, value in given.items() if value is not None}
    if not limits:
        raise EngramError("invalid", "nothing to set: give --age, --units or --bytes; none takes a limit away")
    if (most := limits.get("units")) is not None:
        if not str(most).isdecimal() or not 0 < int(most) < 10**18:
            raise EngramError("invalid", f"--units: must be a number from 1 on or none, not {most}", field="units")
        limits["units"] = int(most)
    with common.client() as client:
        described = client.context_retain(c.context(context), **limits)
    if common.json:
        common.output().object(described)


def member(common: c.Common, context: str, agent: str | None, joined: bool) -> None:
    """Join or leave."""
    _change(
        common,
        "a member" if joined else "not a member",
        lambda client: (client.context_join if joined else client.context_leave)(c.context(context), agent),
    )


def units(common: c.Common, verb: str, context: str, ids: list[str]) -> None:
    """Pin, unpin, add or remove units."""
    states = {"pin": "pinned", "unpin": "not pinned", "add": "in the context", "remove": "not in the context"}
    _change(common, states[verb], lambda client: getattr(client, f"context_{verb}")(c.context(context), *ids))


def _change(common: c.Common, state: str, change: Callable[[Client], bool]) -> None:
    with common.client() as client:
        changed = change(client)
    if common.json:
        common.output().object({"changed": changed})
    elif not changed:
        note(f"engram: nothing changed: it was {state} already")
