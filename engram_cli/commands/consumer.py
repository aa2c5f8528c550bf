"""`engram consumer …`: readers whose place the daemon keeps."""

from __future__ import annotations

from typing import Any

from engramd.protocol import render

from .. import common as c
from ..output import note

COLUMNS = ("id", "contexts", "cursor", "lag", "waiting", "held", "parked", "missed", "members")
PARKED = ("entry", "parked_at", "agent", "deliveries", "text")


def create(
    common: c.Common,
    consumer: str,
    contexts: list[str],
    filters: dict[str, Any],
    key: str | None,
    visibility: str | None,
    deliveries: int | None,
    start: str | None,
) -> None:
    """Create a consumer."""
    settings = {"key": key, "visibility": visibility, "deliveries": deliveries, "start": start}
    given = {name: value for name, value in settings.items() if value is not None}
    with common.client() as client:
        _report(common, client.consumer_create(consumer, *map(c.context, contexts), **filters, **given), "it exists already, as asked")


def list_(common: c.Common) -> None:
    """List consumers."""
    with common.client() as client:
        rows = client.consumer_list()
        common.output().table(rows if common.json else map(_for_people, rows), COLUMNS)


def show(common: c.Common, consumer: str) -> None:
    """Describe a consumer."""
    with common.client() as client:
        described = client.consumer_show(consumer)
    common.output().mapping(described if common.json else _for_people(described))


def _for_people(described: dict[str, Any]) -> dict[str, Any]:
    members = [f"{member['agent']}({member['held']})" for member in described["members"]]
    return {**described, "members": members, "visibility": f"{described['visibility'] / 1e6:g}s"}


def ack(common: c.Common, consumer: str, entries: list[str]) -> None:
    """Acknowledge units."""
    with common.client() as client:
        _report(common, client.ack(consumer, *entries), "they were done already")


def parked(common: c.Common, consumer: str) -> None:
    """List parked units; those that are to be delivered again are not parked any more."""
    with common.client() as client:
        rows = (row for row in client.consumer_parked(consumer) if not row["again"])
        if common.json:
            common.output().table(rows, ())
        else:
            common.output().table(map(_parked, rows), PARKED)


def _parked(row: dict[str, Any]) -> dict[str, Any]:
    unit = row["unit"] or {"agent": "", "text": ""}
    return {**row, "entry": row["cursor"].rpartition(".")[2], "agent": unit["agent"], "text": render.unit_text(unit)}


def retry(common: c.Common, consumer: str, entries: list[str]) -> None:
    """Deliver parked units again."""
    with common.client() as client:
        _report(common, client.consumer_retry(consumer, *entries), "there was nothing to deliver again")


def reset(common: c.Common, consumer: str, to: str) -> None:
    """Move a consumer."""
    with common.client() as client:
        cursor = client.consumer_reset(consumer, to)
    if common.json:
        common.output().object({"cursor": cursor})


def delete(common: c.Common, consumer: str) -> None:
    """Forget a consumer."""
    with common.client() as client:
        client.consumer_delete(consumer)


def _report(common: c.Common, changed: bool, otherwise: str) -> None:
    if common.json:
        common.output().object({"changed": changed})
    elif not changed:
        note(f"engram: nothing changed: {otherwise}")
