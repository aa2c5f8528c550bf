"""Surroundings for the tests of the search worker's parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from naive import Ledger

from engramd.search.embedder import StaticEmbedder
from engramd.search.index import Index

Open = Callable[[], Index]


@pytest.fixture(scope="session")
def embedder() -> StaticEmbedder:
    """The built-in one, whose weights take a moment to load."""
    return StaticEmbedder()


@pytest.fixture
def ledger() -> Ledger:
    """An empty one."""
    return Ledger()


@pytest.fixture
def open_index(tmp_path: Path, embedder: StaticEmbedder) -> Iterator[Open]:
    """Opens the test's index; the one opened before is left as a crash leaves it."""
    opened: list[Index] = []

    def make() -> Index:
        if opened:
            opened.pop().close()
        opened.append(Index(tmp_path / "search", embedder, "0123456789ab"))
        return opened[-1]

    yield make
    for index in opened:
        index.close()
