"""What a decision can be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

from .view import Deduped


@dataclass(slots=True)  # frozen would be slow to make, and slow at each decision
class Refused:
    """The command may not happen; `code` is an error code of the wire."""

    code: str
    message: str
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Seen:
    """A put with this dedupe key happened before."""

    units: Deduped


Decision: TypeAlias = "list[Any] | Refused | Seen"  # a list of events; an empty one means that nothing needs to change
