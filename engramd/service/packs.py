"""`pack`, and what is remembered between packs. What makes them is loaded with the first: most daemons are never asked for one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..protocol.connection import Id
from .peer import Peer

if TYPE_CHECKING:
    from ..protocol.packs import Json, Markdown, Xml
    from ..state.packs import Found
    from .engine import Engine

MEMORY = 8 * 1024 * 1024  # bytes, about, that are remembered; then the memory is emptied
OVERHEAD = 200  # bytes of what is remembered, besides its characters


def pack(engine: Engine, peer: Peer, request_id: Id, fields: dict[str, Any]) -> None:
    """Answer with a pack and its manifest."""
    from .assembly import assemble

    assemble(engine, peer, request_id, fields)


class Memory:
    """Units as they are written, and the sizes of texts by the built-in estimate: most units of a pack were in the last one, too."""

    def __init__(self) -> None:
        self._blocks: dict[tuple[Any, ...], str] = {}
        self._sizes: dict[str, int] = {}
        self._left = MEMORY

    def block(self, format: str, found: Found, writer: Markdown | Json | Xml) -> str:
        """A whole unit with its heading. Everything that it is written of is what it is remembered by."""
        key = format, found.entry, found.unit.raw, found.unit.edges
        block = self._blocks.get(key)
        if block is None:
            block = writer.block(found.unit, found.entry, None, "whole")
            self._make_room(len(found.unit.raw) + len(block))
            self._blocks[key] = block
        return block

    def size(self, text: str, estimate: Callable[[str], int]) -> int:
        """A text's size by the built-in estimate."""
        size = self._sizes.get(text)
        if size is None:
            size = estimate(text)
            self._make_room(len(text))
            self._sizes[text] = size
        return size

    def _make_room(self, characters: int) -> None:
        if self._left < characters + OVERHEAD:
            self.forget()
        self._left -= characters + OVERHEAD

    def forget(self) -> None:
        """Forget all."""
        self._blocks.clear()
        self._sizes.clear()
        self._left = MEMORY
