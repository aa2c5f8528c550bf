"""Surroundings for the command-line tests."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from commandline import Shell

from engram_cli import settings
from engram_cli.client import Client

_numbers = itertools.count(1)


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """What a line that is read in this process sets for the whole of it is not set for the tests behind it."""
    before = settings.verbose, settings.token_file, settings.resumed, settings.done
    yield
    settings.verbose, settings.token_file, settings.resumed, settings.done = before


@pytest.fixture(scope="module")
def shell() -> Iterator[Shell]:
    """Surroundings with a daemon, shared by the tests of a file: each uses contexts of its own."""
    with Shell() as made:
        made.daemon()
        yield made


@pytest.fixture
def alone() -> Iterator[Shell]:
    """Surroundings of one test, without a daemon."""
    with Shell() as made:
        yield made


@pytest.fixture
def client(shell: Shell) -> Client:
    """A Python client of the shared daemon."""
    return shell.client()


@pytest.fixture
def name() -> str:
    """A context that nobody else uses."""
    return f"context {next(_numbers)}"
