"""Fixtures that more than one room's tests use."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import fuzzing
import pytest
import trio
from daemons import Daemon
from hypothesis import settings
from wire import Serve, Server

from engramd.storage.log import Log

settings.load_profile(fuzzing.PROFILE)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    """A new log."""
    log = Log(tmp_path / "log")
    yield log
    log.close()


@pytest.fixture
def plain() -> bool:
    """Whether servers serve over sockets. The files whose tests are to hold for both say so."""
    return False


@pytest.fixture
async def serve(log: Log, nursery: trio.Nursery, plain: bool) -> AsyncIterator[Serve]:
    """Makes a server over `log`; takes `Server`'s options."""
    made: list[Server] = []

    def make(**options: Any) -> Server:
        made.append(Server(log, nursery, **{"plain": plain, **options}))
        return made[-1]

    yield make
    for server in made:
        server.hang_up()
        if server.gate is not None:
            server.gate.open()  # a write under way cannot be cancelled, not even by a test that failed


@pytest.fixture
async def server(serve: Serve) -> Server:
    """A server over `log`."""
    return serve()


@pytest.fixture
def socket_dir(tmp_path: Path) -> Iterator[Path]:
    """A directory whose path is short enough for a Unix socket in it."""
    if len(os.fsencode(tmp_path)) < 70:
        yield tmp_path
        return
    short = Path(tempfile.mkdtemp(prefix="engram-", dir="/tmp"))
    yield short
    shutil.rmtree(short)


@pytest.fixture
def daemon(socket_dir: Path, tmp_path: Path) -> Iterator[Daemon]:
    """A real daemon, not started yet; it is killed at the end if it still runs."""
    daemon = Daemon(socket_dir / "s", tmp_path / "data")
    yield daemon
    daemon.end()
