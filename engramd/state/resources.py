"""Resources: what a lease is on, and when two of them meet.

A resource is the text of an absolute, normalised path, of a glob over such paths, or of an abstract `@name`. It stands for a set of
paths: those that its components match one by one, and everything beneath them. Globs are `*` (any run of characters within a component),
`?` (one such character) and `**` as a whole component (any number of components, none too); nothing else is special. Two resources
overlap when some path is in both sets, so a path overlaps its ancestors and descendants. A `@name` overlaps itself alone.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from functools import lru_cache
from typing import Generic, TypeVar

from ..shapes import NamedTuple

K = TypeVar("K", bound=Hashable)


class Resource(NamedTuple):
    """A parsed resource: its components, of which the first `fixed` hold no wildcard. Every path starts with the component ''."""

    parts: tuple[str, ...]
    fixed: int

    @property
    def is_literal(self) -> bool:
        """Whether it is one path or name, not a glob."""
        return self.fixed == len(self.parts)


@lru_cache(16384)
def parse(text: str) -> Resource:
    """Read a resource that is normal already: `/`, `/a/b`, `/a/*.c`, or `@name`."""
    if text.startswith("@"):
        return Resource((text,), 1)
    parts = ("",) if text == "/" else tuple(part if part == "**" else _squeezed(part) for part in text.split("/"))
    fixed = next((at for at, part in enumerate(parts) if _is_glob(part)), len(parts))
    return Resource(parts, fixed)


def overlap(a: str, b: str) -> bool:
    """Whether some path is in both. Symmetric."""
    return _overlap(parse(a), parse(b))


def covers(a: str, b: str) -> bool:
    """Whether every path of `b` is in `a`. Exact for a literal `b`; for a glob it may say no where yes were right, never the reverse."""
    if a.startswith("@") or b.startswith("@"):
        return a == b
    outer, inner = parse(a).parts, parse(b).parts
    frontier, seen = [(0, 0)], set[tuple[int, int]]()
    while frontier:
        at = i, j = frontier.pop()
        if at in seen:
            continue
        seen.add(at)
        if i == len(outer):
            return True
        if outer[i] == "**":
            frontier.append((i + 1, j))
            if j < len(inner):
                frontier.append((i, j + 1))
        elif j < len(inner) and _admits(outer[i], inner[j]):
            frontier.append((i + 1, j + 1))
    return False


def _overlap(a: Resource, b: Resource) -> bool:
    shorter = min(a.fixed, b.fixed)
    if a.parts[:shorter] != b.parts[:shorter]:
        return False
    if len(a.parts) == shorter or len(b.parts) == shorter:
        return True
    return _meet_beyond(a.parts[shorter:], b.parts[shorter:])


def _meet_beyond(a: tuple[str, ...], b: tuple[str, ...]) -> bool:
    """Whether the two sequences of components have a path in common: a walk over the product of both automata.

    Both go on with everything beneath, so it is enough that one of them comes to its end.
    """
    frontier, seen = [(0, 0)], set[tuple[int, int]]()
    while frontier:
        at = i, j = frontier.pop()
        if i == len(a) or j == len(b):
            return True
        if at in seen:
            continue
        seen.add(at)
        if a[i] == "**" or b[j] == "**":
            frontier += ((i + 1, j), (i, j + 1))
        elif _meets(a[i], b[j]):
            frontier.append((i + 1, j + 1))
    return False


def _is_glob(part: str) -> bool:
    return "*" in part or "?" in part


def _squeezed(part: str) -> str:
    while "**" in part:
        part = part.replace("**", "*")
    return part


def _admits(outer: str, inner: str) -> bool:
    """Whether a component matches all that another one does."""
    if _is_glob(inner):
        return outer == inner or (outer == "*" and inner != "**")
    return _meets(outer, inner)


@lru_cache(65536)
def _meets(a: str, b: str) -> bool:
    """Whether some component matches both: positions in `b` that are reachable after each character of `a`, as bits of an integer."""
    if not (_is_glob(a) or _is_glob(b)):
        return a == b
    stars = sum(1 << at for at, char in enumerate(b) if char == "*")
    plain = ((1 << len(b)) - 1) & ~stars
    full = (1 << (len(b) + 1)) - 1
    matching: dict[str, int] = {}
    for at, char in enumerate(b):
        if char != "*":
            matching[char] = matching.get(char, 0) | 1 << at
    any_char = matching.get("?", 0)
    reached = 1 | (stars & 1) << 1
    for char in a:
        if char == "*":
            reached = full & -(reached & -reached)
            continue
        takes = plain if char == "?" else matching.get(char, 0) | any_char
        reached = (reached & takes) << 1 | reached & stars
        reached |= (reached & stars) << 1
        if not reached:
            return False
    return bool(reached >> len(b) & 1)


class _Node(Generic[K]):
    """What ends at one path: keys, by how the first component with a wildcard starts ('' where there is none)."""

    __slots__ = ("children", "here")

    def __init__(self) -> None:
        self.children: dict[str, _Node[K]] = {}
        self.here: dict[str, dict[K, list[Resource]]] = {}


class Index(Generic[K]):
    """Keys by their resources: a tree over the components before the first wildcard.

    What can overlap a resource stands on the way to it, or beneath it; only globs that start as it goes on need a closer look.
    """

    def __init__(self) -> None:
        self._root: _Node[K] = _Node()

    def add(self, key: K, resources: Iterable[str]) -> None:
        """File a key under each of its resources."""
        for resource in map(parse, resources):
            node = self._root
            for part in resource.parts[: resource.fixed]:
                node = node.children.setdefault(part, _Node())
            node.here.setdefault(_start(resource), {}).setdefault(key, []).append(resource)

    def remove(self, key: K, resources: Iterable[str]) -> None:
        """Take a key out again; `resources` as they were added."""
        for resource in map(parse, resources):
            way = [self._root]
            for part in resource.parts[: resource.fixed]:
                way.append(way[-1].children[part])
            here, start = way[-1].here, _start(resource)
            here[start][key].remove(resource)
            if not here[start][key]:
                del here[start][key]
            if not here[start]:
                del here[start]
            for depth in range(len(way) - 1, 0, -1):
                if way[depth].here or way[depth].children:
                    break
                del way[depth - 1].children[resource.parts[depth - 1]]

    def overlapping(self, text: str) -> Iterator[K]:
        """The keys that have a resource which overlaps this one; a key may come more than once."""
        resource = parse(text)
        node = self._root
        for part in resource.parts[: resource.fixed]:
            for end in range(len(part) + 1) if node.here else ():
                yield from _overlapping(node.here.get(part[:end]), resource)
            below = node.children.get(part)
            if below is None:
                return
            node = below
        beneath = [node]
        while beneath:
            node = beneath.pop()
            for filed in node.here.values():
                yield from _overlapping(filed, resource)
            beneath += node.children.values()


def _overlapping(filed: dict[K, list[Resource]] | None, resource: Resource) -> Iterator[K]:
    for key, theirs in filed.items() if filed else ():
        if any(_overlap(one, resource) for one in theirs):
            yield key


def _start(resource: Resource) -> str:
    """What is fixed of the first component with a wildcard."""
    if resource.is_literal:
        return ""
    part = resource.parts[resource.fixed]
    return part[: next(at for at, char in enumerate(part) if char in "*?")]
