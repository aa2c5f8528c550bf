"""`engram export`: print the units that are in contexts, for `engram import`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cbor2

from engramd.protocol import render
from engramd.protocol.errors import EngramError
from engramd.protocol.unit import unit_json

from .. import common as c
from ..client import Client
from ..progress import bar

CODINGS = ("jsonl", "cbor")
MOVES = ["unit_added", "unit_removed", "unit_pinned", "unit_unpinned"]


def run(common: c.Common, contexts: list[str], format: str, filters: dict[str, Any]) -> None:
    """Print everything that fits, a line or a CBOR item each."""
    if format not in CODINGS:
        raise EngramError("invalid", f"--format {format!r}: must be one of {', '.join(CODINGS)}")
    names = [c.context(name) for name in contexts]
    out = common.output()
    with common.client() as client, bar("export") as told:
        for item in _items(client, names, filters, told):
            out.raw(cbor2.dumps(item) if format == "cbor" else render.json_line(_json(item)).encode("utf-8", "backslashreplace") + b"\n")


def _json(item: dict[str, Any]) -> dict[str, Any]:
    if "type" not in item:
        return item
    return unit_json(item) | {name: item[name] for name in ("contexts", "pinned") if name in item}


def _items(client: Client, names: list[str], filters: dict[str, Any], told: Any) -> Iterator[dict[str, Any]]:
    """The contexts, then their units in the order of the log, each once."""
    described = [client.context_show(name) for name in names] if names else list(client.context_list())
    for context in described:
        yield {"context": {name: context[name] for name in ("id", "display_name", "meta")}}
    end = int(client.status()["last_seq"])
    moved = _Moved(client, names)
    given: set[int] = set()
    start = {} if "since" in filters else {"after": 0}
    for item in client.tail(*names, follow=False, kinds=["unit_put", "unit_added"], **{**start, **filters}).raw():
        if "unit" not in item:
            continue
        unit = item["unit"]
        told(unit.pop("entry", unit["seq"]), end)
        unit.pop("entry_context", None)
        seq = unit["seq"]
        places, pinned = moved.places(unit), moved.pins(seq)
        if seq in given or not places:
            continue
        if moved.knows(seq):
            given.add(seq)
        if places != [unit["context"]]:
            unit["contexts"] = places
        if pinned:
            unit["pinned"] = pinned
        yield unit


class _Moved:
    """Where the units are that were ever added to, removed from or pinned in a context; there are few of them."""

    def __init__(self, client: Client, names: list[str]) -> None:
        self._wanted = frozenset(names)
        self._places: dict[int, dict[str, bool]] = {}
        self._pins: dict[int, dict[str, bool]] = {}
        for item in client.tail(*names, follow=False, events=True, kinds=MOVES, after=0).raw():
            kind = item["kind"]
            if kind == "unit_added":
                self._places.setdefault(item["unit"]["seq"], {})[item["unit"]["entry_context"]] = True
            elif "data" in item:
                of = self._places if kind == "unit_removed" else self._pins
                of.setdefault(item["data"]["unit"], {})[item["data"]["context"]] = kind == "unit_pinned"

    def knows(self, unit: int) -> bool:
        """Whether the unit may have more than one entry."""
        return unit in self._places

    def places(self, unit: dict[str, Any]) -> list[str]:
        """The exported contexts that the unit is in: the one it was born in first, then in the order in which it came there."""
        born = unit["context"]
        places = {**({born: True} if not self._wanted or born in self._wanted else {}), **self._places.get(unit["seq"], {})}
        return [context for context, present in places.items() if present]

    def pins(self, unit: int) -> list[str]:
        """The exported contexts that the unit is pinned in."""
        return [context for context, pinned in self._pins.get(unit, {}).items() if pinned]
