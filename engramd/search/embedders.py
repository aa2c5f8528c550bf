"""Which embedder an option names."""

from __future__ import annotations

from .embedder import Embedder, StaticEmbedder


def made(option: str) -> Embedder:
    """The embedder that `--embedder` names."""
    return StaticEmbedder()
