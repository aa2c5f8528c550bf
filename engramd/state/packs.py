"""Packs: which units go into a prompt of a bounded size, and why. Pure: whoever packs brings the units and measures the texts.

Units are offered in lanes: the pinned ones, the recent ones, what relates to those, what a query finds. Each lane may first take its
share of the budget, in this order; what is left then goes around once more, in the same order. Within a lane, a unit's turn comes by its
place and the weight of its type: one of weight 40 stands where one of weight 10 would that is four times as near.

Methods that measure are generators: they yield a text and are sent its size.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from ..shapes import NamedTuple

LANES = ("pinned", "recent", "related", "query")
KEEPS = ("start", "end", "ends", "whole")  # what a unit that is too large keeps of its text; whole: it is left out instead
MAX_WEIGHT = 1000
MAX_DEPTH = 8  # edges between a unit and those that relate to it
MAX_BYTES = 4 * 1024 * 1024  # of a pack, whatever the budget
MIN_KEPT = 40  # characters: less of a unit than this is not worth its heading
TRIES = 8  # texts measured to find out how much of a unit fits

Table = Mapping[str, Any]
T = TypeVar("T")
Measuring = Generator[str, int, T]

DEFAULT: Table = {
    "manifests": False,
    "shares": {"pinned": 100, "recent": 40, "related": 20, "query": 40},
    "related": {"types": ["responds_to", "causes", "depends_on"], "depth": 2},
    "types": {
        "default": {"weight": 10, "max": 25, "keep": "start"},
        "error": {"weight": 40, "keep": "ends"},
        "tool_result": {"keep": "ends"},
        "file_change": {"weight": 15},
        "task_status": {"weight": 5},
        "system": {"weight": 2},
    },
}
POLICIES: Mapping[str, Table] = {
    "default": {},
    "errors-first": {
        "shares": {"recent": 50, "query": 30},
        "types": {"error": {"weight": 200, "max": 40}, "tool_result": {"weight": 20}, "reasoning": {"weight": 5}},
    },
}


class Rule(NamedTuple):
    """What holds for the units of a type.

    Attributes:
        weight: how soon its turn comes; 0 leaves it out.
        max: percent of the budget that one unit may take.
        keep: one of KEEPS.
    """

    weight: int
    max: int
    keep: str


class Policy:
    """How a pack is chosen.

    Args:
        given: what differs from the default policy; its form has been checked.

    Attributes:
        table: the whole of it.
    """

    def __init__(self, given: Table) -> None:
        kinds = given.get("types", {})
        default = {**DEFAULT["types"]["default"], **kinds.get("default", {})}
        named = sorted({*DEFAULT["types"], *kinds} - {"default"})
        types = {"default": default, **{name: {**default, **DEFAULT["types"].get(name, {}), **kinds.get(name, {})} for name in named}}
        self.table: dict[str, Any] = {
            "manifests": given.get("manifests", DEFAULT["manifests"]),
            "shares": {**DEFAULT["shares"], **given.get("shares", {})},
            "related": {**DEFAULT["related"], **given.get("related", {})},
            "types": types,
        }
        self.shares: dict[str, int] = self.table["shares"]
        self.edges: tuple[str, ...] = tuple(self.table["related"]["types"])
        self.depth: int = self.table["related"]["depth"]
        self.manifests: bool = self.table["manifests"]
        self._rules = {name: Rule(**rule) for name, rule in types.items()}

    def rule(self, type: str) -> Rule:
        """The rule of a type."""
        return self._rules.get(type, self._rules["default"])


class Found(NamedTuple):
    """A unit that may go in.

    Attributes:
        seq: its own.
        entry: the seq at which it arrived in the contexts, by which the pack is ordered.
        why: in a few words.
        length: characters of its text.
        unit: what the shape makes its block of.
    """

    seq: int
    entry: int
    type: str
    why: str
    length: int
    unit: Any


class Shape(Protocol):
    """How a unit stands in a pack."""

    def block(self, found: Found, kept: int | None, keep: str) -> str:
        """A unit with its heading; with so many characters of its text, or all of them for None. Ends with a newline."""


class Item(NamedTuple):
    """A unit that was measured. `size` is None where it is too large for its type, and nobody needs to know by how much."""

    found: Found
    block: str
    size: int | None


class Chosen(NamedTuple):
    """A unit that is in, as it stands there. `kept`: how many characters of its text; None for all."""

    found: Found
    lane: str
    block: str
    size: int
    kept: int | None


class Left(NamedTuple):
    """A unit that is not in."""

    found: Found
    lane: str
    why: str


class Packing:
    """The choosing of one pack.

    Args:
        budget: the largest size of the whole.
        most: characters that are of size 1 at most.

    Attributes:
        room: what is left of the budget.
        chosen: by the unit's seq, in the order of choosing.
        left: by the unit's seq.
    """

    def __init__(self, policy: Policy, budget: int, most: int, shape: Shape) -> None:
        self._policy, self._budget, self._most, self._shape = policy, budget, most, shape
        self.room = budget
        self._bytes = MAX_BYTES
        self.chosen: dict[int, Chosen] = {}
        self.left: dict[int, Left] = {}
        self._waiting: dict[str, list[Item]] = {lane: [] for lane in LANES}
        self._known: dict[str, tuple[Rule, int]] = {}

    def reserve(self, frame: str) -> Measuring[int]:
        """Set aside what the pack needs besides its units; gives how much that is. The room may be below nothing then."""
        size = yield frame
        self.room -= size
        self._bytes -= len(frame.encode("utf-8", "surrogatepass"))
        return size

    def _rule(self, found: Found) -> tuple[Rule, int]:
        """The rule for a unit, and the most that it may take."""
        known = self._known.get(found.type)
        if known is None:
            rule = self._policy.rule(found.type)
            known = self._known[found.type] = rule, self._budget * rule.max // 100
        return known

    def weigh(self, found: Found) -> Measuring[Item]:
        """Measure a unit."""
        _, cap = self._rule(found)
        if found.length > cap * self._most:
            return Item(found, "", None)
        block = self._shape.block(found, None, "whole")
        return Item(found, block, (yield block))

    def want(self, item: Item) -> int:
        """The most that a unit can take; nothing for one that the policy leaves out."""
        rule, cap = self._rule(item.found)
        if rule.weight == 0:
            return 0
        if item.size is not None and item.size <= cap:
            return item.size
        return 0 if rule.keep == "whole" else cap

    def fill(self, lane: str, items: Sequence[Item]) -> Measuring[None]:
        """Offer a lane's units, nearest first. It takes up to its share; the others wait."""
        left = min(self._budget * self._policy.shares[lane] // 100, self.room)
        for item in self._in_turn(item for item in items if item.found.seq not in self.chosen):
            found = item.found
            rule, cap = self._rule(found)
            if rule.weight == 0:
                self._leave(item, lane, f"the policy leaves out {found.type}")
            elif (item.size is None or item.size > cap) and rule.keep == "whole":
                self._leave(item, lane, f"larger than {rule.max} % of the budget")
            elif self.want(item) > left:
                self._leave(item, lane, "no room")
                self._waiting[lane].append(item)
            else:
                before = self.room
                yield from self._take(item, lane, left)
                left -= before - self.room

    def rest(self) -> Measuring[None]:
        """Give what is left to those who wait."""
        for lane, waiting in self._waiting.items():
            for item in waiting:
                if item.found.seq not in self.chosen and self.room > 0:
                    yield from self._take(item, lane, self.room)

    def _in_turn(self, items: Iterable[Item]) -> list[Item]:
        def turn(placed: tuple[int, Item]) -> tuple[int, int]:
            place, item = placed
            return (place + 1) * MAX_WEIGHT // max(self._rule(item.found)[0].weight, 1), place

        return [item for _, item in sorted(enumerate(items), key=turn)]

    def _take(self, item: Item, lane: str, room: int) -> Measuring[None]:
        rule, cap = self._rule(item.found)
        cap, keep = min(cap, room), rule.keep
        if item.size is not None and item.size <= cap:
            self._choose(item, lane, item.block, item.size, None)
        elif keep == "whole":
            self._leave(item, lane, "no room")
        else:
            cut = yield from self._cut(item.found, cap, keep)
            if cut is None:
                self._leave(item, lane, "no room")
            else:
                self._choose(item, lane, *cut)

    def _cut(self, found: Found, cap: int, keep: str) -> Measuring[tuple[str, int, int] | None]:
        """As much of a unit as fits: its block, that one's size, and how many characters are kept. Not always the very most."""
        low, high = MIN_KEPT - 1, min(found.length, cap * self._most + 1)
        best: tuple[str, int, int] | None = None
        kept = min(high - 1, max(MIN_KEPT, cap * min(self._most, 3)))
        for _ in range(TRIES):
            if not low < kept < high:
                break
            block = self._shape.block(found, kept, keep)
            size = yield block
            if size <= cap:
                low, best = kept, (block, size, kept)
                if (cap - size) * 32 <= cap:
                    break
            else:
                high = kept
            kept = min(max(kept * cap // max(size, 1), low + 1), high - 1)
            if size > cap and kept * 16 > high * 15:
                kept = (low + high) // 2
        return best

    def _choose(self, item: Item, lane: str, block: str, size: int, kept: int | None) -> None:
        raw = len(block.encode("utf-8", "surrogatepass"))
        if raw > self._bytes:
            self._leave(item, lane, "no room")
            return
        self.room -= size
        self._bytes -= raw
        self.left.pop(item.found.seq, None)
        self.chosen[item.found.seq] = Chosen(item.found, lane, block, size, kept)

    def _leave(self, item: Item, lane: str, why: str) -> None:
        self.left.setdefault(item.found.seq, Left(item.found, lane, why))

    def drop(self) -> None:
        """Take out what was chosen last."""
        _, chosen = self.chosen.popitem()
        self.left[chosen.found.seq] = Left(chosen.found, chosen.lane, "no room")

    def in_order(self) -> list[Chosen]:
        """What is in, in log order."""
        return sorted(self.chosen.values(), key=lambda chosen: chosen.found.entry)

    def fit(self, frame: Callable[[], str] | None, whole: Callable[[], str]) -> Measuring[None]:
        """Make sure of the size, and have `room` say what is left. As long as it is too large, what was chosen last is taken out.

        Args:
            frame: what stands around the units, where the whole is no larger than the sum of its pieces; else the whole is measured.
            whole: the whole.
        """
        while True:
            text = whole() if frame is None else frame()
            size = yield text
            if frame is not None:
                size += sum(chosen.size for chosen in self.chosen.values())
            self.room = self._budget - size
            if self.room >= 0 or not self.chosen:
                return
            self.drop()


def unseen(now: Iterable[Chosen], before: Mapping[int, Chosen]) -> list[int]:
    """The seqs of units that a reader of an earlier pack has not seen, or has seen less or another part of."""
    found = []
    for chosen in now:
        had = before.get(chosen.found.seq)
        if had is None or (had.kept is not None and had.block != chosen.block):
            found.append(chosen.found.seq)
    return found
