"""Filters: which units a reader wants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..shapes import NamedTuple


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

    def to_map(self) -> dict[str, Any]:
        """The conditions as plain values, for an event. Equal for filters that want the same."""
        made: dict[str, Any] = {}
        for name, wanted in self._asdict().items():
            if wanted != self._field_defaults[name]:
                made[name] = sorted(wanted) if isinstance(wanted, frozenset) else dict(wanted) if isinstance(wanted, tuple) else wanted
        return made

    @classmethod
    def from_map(cls, made: dict[str, Any]) -> Filter:
        """The filter that `to_map` made it of."""
        kinds: dict[type, Callable[[Any], Any]] = {dict: lambda wanted: tuple(wanted.items()), list: frozenset}
        return cls(**{name: kinds.get(type(wanted), lambda same: same)(wanted) for name, wanted in made.items()})


EVERYTHING = Filter()
