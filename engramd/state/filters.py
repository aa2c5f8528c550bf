"""Filters: which units a reader wants."""

from __future__ import annotations

from typing import Any, NamedTuple


class Filter(NamedTuple):
    """Every condition must hold; within `agents` and `types`, any one of them. Empty means no condition.

    Attributes:
        related_to: the id of a unit that the unit must have a relationship to.
    """

    agents: frozenset[str] = frozenset()
    types: frozenset[str] = frozenset()
    meta: tuple[tuple[str, str], ...] = ()
    related_to: bytes | None = None

    def is_empty(self) -> bool:
        """Whether every unit fits."""
        return self == EVERYTHING

    def matches(self, unit: dict[str, Any]) -> bool:
        """Whether a decoded unit map fits."""
        if self.types and unit["type"] not in self.types:
            return False
        if self.agents and unit["agent"] not in self.agents:
            return False
        meta = unit["meta"]
        if any(meta.get(key) != value for key, value in self.meta):
            return False
        return self.related_to is None or any(edge["target"] == self.related_to for edge in unit["relationships"])


EVERYTHING = Filter()
