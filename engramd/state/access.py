"""What a connection may do: permissions, and the contexts and paths that it is limited to."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from ..shapes import NamedTuple
from .resources import covers, overlap

ACT_AS = "act-as"
ADMIN = "admin"
RIGHTS = ("read", "write", "lock", ADMIN, ACT_AS)


class Access(NamedTuple):
    """What a connection may do.

    Attributes:
        rights: of `RIGHTS`.
        contexts: globs over names of contexts; none means all.
        paths: resources that cover what may be locked; none means all.
        token: the name of the token that gave it, if one did.
    """

    rights: frozenset[str]
    contexts: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    token: str | None = None

    def may(self, right: str) -> bool:
        """Whether it has a right."""
        return right in self.rights

    def sees(self, context: str) -> bool:
        """Whether it reaches a context."""
        return not self.contexts or any(matches(glob, context) for glob in self.contexts)

    def prefixes(self) -> list[str]:
        """What the names of the contexts that it reaches start with: as few texts as can be, in order."""
        starts = sorted(glob[: next((at for at, char in enumerate(glob) if char in "*?"), len(glob))] for glob in self.contexts or ("*",))
        return [start for at, start in enumerate(starts) if not any(start.startswith(other) for other in starts[:at])]

    def names_contexts(self) -> bool:
        """Whether its contexts are plain names, with no wildcard among them."""
        return not any("*" in glob or "?" in glob for glob in self.contexts)

    def covers(self, resource: str) -> bool:
        """Whether it may lock a resource."""
        return not self.paths or any(_reaches(path, resource) for path in self.paths)

    def touches(self, resources: Sequence[str]) -> tuple[str, ...]:
        """Those of some resources that have to do with what it may lock."""
        if not self.paths:
            return tuple(resources)
        return tuple(resource for resource in resources if any(overlap(path, resource) or _reaches(path, resource) for path in self.paths))

    def sees_event(self, kind: str, context: str | None) -> bool:
        """Whether it is shown an event: those of tokens are for admins, those of no context for who has no limits."""
        if kind.startswith("token_"):
            return self.may(ADMIN)
        if context is None:
            return not self.contexts and not (self.paths and kind.startswith("lock_"))
        return self.sees(context)


def _reaches(path: str, resource: str) -> bool:
    """Whether a path or glob of a token takes in all of a resource. In its names there are wildcards, too, as in those of no lease."""
    return matches(path, resource) if path.startswith("@") else covers(path, resource)


OWNER = Access(frozenset(RIGHTS))
GUEST = Access(frozenset(("read", "write", "lock")))  # another user who is let in by name
NOTHING = Access(frozenset())


@lru_cache(16384)
def matches(glob: str, name: str) -> bool:
    """Whether a name fits a glob: `*` is any run of characters, `?` one; nothing else is special. Linear but for one step back."""
    at = other = 0
    star, after = -1, 0
    while other < len(name):
        if at < len(glob) and glob[at] == "*":
            star, after = at, other
            at += 1
        elif at < len(glob) and glob[at] in ("?", name[other]):
            at += 1
            other += 1
        elif star >= 0:
            at, after = star + 1, after + 1
            other = after
        else:
            return False
    return all(char == "*" for char in glob[at:])
