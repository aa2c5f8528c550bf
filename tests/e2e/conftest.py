"""Surroundings for the end-to-end tests: those of the command-line tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "cli"))

from commandline import Shell


@pytest.fixture
def alone() -> Iterator[Shell]:
    """Surroundings of one test, without a daemon."""
    with Shell() as made:
        yield made


@pytest.fixture
def served() -> Iterator[Shell]:
    """Surroundings of one test, with a daemon."""
    with Shell() as made:
        made.daemon()
        yield made
