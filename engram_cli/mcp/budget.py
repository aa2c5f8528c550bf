"""Answers as JSON that keeps to a number of bytes, whatever they hold; what was left out is said, and how to get it."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from engramd.protocol.render import json_line
from engramd.protocol.times import format_ts
from engramd.protocol.unit import Unit

FEW = 5  # members of other lists, when items are left out
FLOOR = 40  # bytes of every text, and members of every list and map, below which whole items are left out instead


class Payload:
    """What a unit holds, from a byte on. No more of it is kept than a budget could show."""

    def __init__(self, unit: Unit, offset: int, most: int) -> None:
        self._seq = unit.seq
        self._offset = min(offset, len(unit.payload))
        self._total = len(unit.payload)
        self._is_text = _is_text(unit.payload)
        self._kept = unit.payload[self._offset : self._offset + most + 4]

    def shown(self, cap: int) -> dict[str, Any]:
        """At most so many bytes, as members of a unit in JSON."""
        if self._is_text:
            piece = self._kept[: _at_character(self._kept, cap)]
            made = {"text": piece.decode(errors="ignore")}  # an offset may be inside a character
        else:
            piece = self._kept[: cap // 4 * 3]
            made = {"payload_base64": base64.b64encode(piece).decode()}
        end = self._offset + len(piece)
        if self._offset == 0 and end == self._total:
            return made
        rest = f'; the rest: get {{"ids": [{self._seq}], "offset": {end}}}' if end < self._total else ""
        return {**made, "cut": f"bytes {self._offset} to {end} of {self._total}{rest}"}


def _is_text(payload: bytes) -> bool:
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True


def _at_character(data: bytes, most: int) -> int:
    """The last place up to `most` that is not inside a UTF-8 character."""
    if most >= len(data):
        return len(data)
    while most and data[most] & 0xC0 == 0x80:
        most -= 1
    return most


def unit(found: Unit, most: int, offset: int = 0) -> dict[str, Any]:
    """A unit as JSON has it everywhere, but for its payload, which is cut when the answer is."""
    made: dict[str, Any] = {
        "seq": found.seq,
        "id": found.id,
        "ts": format_ts(found.ts),
        "context": found.context,
        "agent": found.agent,
        "type": found.type,
        "meta": found.meta,
        "payload": Payload(found, offset, most),
        "relationships": [{"type": edge.type, "target": edge.target, "meta": edge.meta} for edge in found.relationships],
    }
    if found.entry != found.seq:
        made |= {"entry": found.entry, "entry_context": found.entry_context}
    return {name: value for name, value in made.items() if value not in ({}, [])}


@dataclass(frozen=True)
class Place:
    """Where the next call goes on behind an item; of what is shown, the last one's becomes the answer's `after`."""

    after: str | int


@dataclass(frozen=True)
class Answer:
    """What a tool has found.

    Attributes:
        members: what is shown. Units have a Payload in them, and items may have a Place.
        items: the member that is the list of what was asked for, if there is one.
        keep: which of the items stay when some have to go.
    """

    members: dict[str, Any]
    items: str | None = None
    keep: Literal["first", "last"] = "first"

    def fit(self, most: int) -> str:
        """The answer as JSON of at most `most` bytes. First the longest texts are cut, all to the same length; then items are left out."""
        cap = _largest(lambda cap: _fits(_cut(self.members, cap), most), FLOOR, most)
        if cap is not None:
            return json_line(_cut(self.members, cap))
        count = (
            None if self.items is None else _largest(lambda count: _fits(self._some(count, most), most), 0, len(self.members[self.items]))
        )
        if count is None:
            return json_line({"error": {"code": "too_large", "message": f"the answer does not fit {most} bytes"}})
        return json_line(self._some(count, most))

    def _some(self, count: int, most: int) -> dict[str, Any]:
        """The answer with so many items, as short as can be."""
        assert self.items is not None
        found = self.members[self.items]
        start = 0 if self.keep == "first" else len(found) - count
        shown = [_shortest(item, most // 2) for item in found[start : start + count]]
        others = {name: value if not isinstance(value, list) else value[:FEW] for name, value in self.members.items()}
        made: dict[str, Any] = {**_cut(others, FLOOR), self.items: shown}
        if count and self.keep == "first" and isinstance(place := found[count - 1].get("place"), Place):
            made["after"] = place.after
        if count == len(found):
            return made
        said = f"{len(found) - count} more did not fit {most} bytes; ask for less at a time, more closely, or with this `after`"
        return {**made, "omitted": said}


def _shortest(item: Any, most: int) -> Any:
    """An item as short as can be, or just its name where that is still too long."""
    made = _cut(item, FLOOR, False)
    if not isinstance(item, dict) or _fits(made, most):
        return made
    return {name: item[name] for name in ("seq", "id") if name in item} | {
        "omitted": "too large to be shown here; use the command line: engram get --json"
    }


def _fits(answer: dict[str, Any], most: int) -> bool:
    return len(json_line(answer).encode()) <= most


def _largest(holds: Callable[[int], bool], least: int, most: int) -> int | None:
    """The largest number of a range for which something holds that holds for all below it; None if it holds for none."""
    if most >= least and holds(most):
        return most
    if most < least or not holds(least):
        return None
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if holds(middle) else (least, middle)
    return least


def _cut(value: Any, cap: int, outermost: bool = True) -> Any:
    """A value with texts of at most `cap` bytes, and as many members of its lists and maps, but for the outermost ones."""
    if isinstance(value, str):
        data = value.encode()
        return value if len(data) <= cap else f"{data[: _at_character(data, cap)].decode()}… ({len(data)} bytes)"
    if isinstance(value, list):
        some = [_cut(member, cap, False) for member in (value if outermost else value[:cap])]
        return some if len(some) == len(value) else [*some, f"… ({len(value)} in all)"]
    if isinstance(value, dict):
        made: dict[str, Any] = {}
        for name, member in list(value.items()) if outermost else list(value.items())[: max(cap, 16)]:
            if isinstance(member, Payload):
                made |= member.shown(cap)
            elif not isinstance(member, Place):
                made[name] = _cut(member, cap, outermost and isinstance(member, list))
        return made if outermost or len(value) <= max(cap, 16) else {**made, "…": f"({len(value)} in all)"}
    return value
