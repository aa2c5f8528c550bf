"""The engine inside a trio program: the daemon's engine and sessions, the trio client, and memory between them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import trio

from engram_cli.trio_client import Client

from . import config as configuration
from .config import Config
from .protocol.address import private_dir
from .protocol.errors import EngramError
from .service.engine import Engine
from .service.search import Settings
from .storage.home import open_log
from .storage.lockfile import DataLock
from .storage.log import Log
from .transport.memory import MemoryStream, pair
from .transport.session import Session

LAST_WORDS = 0.1  # seconds in which the block can see what its requests came to, before it is cancelled


class LocalClient(Client):
    """A client of an engine in this program. It works inside `async with` only, while the engine is open."""

    def __init__(self, connect: Callable[[], MemoryStream], agent: str | None, timeout: float | None, presence: bool) -> None:
        super().__init__(os.devnull, agent=agent, autostart=False, timeout=timeout, presence=presence, token="")
        self.session, self.owns_session = os.urandom(16).hex(), True  # that of ENGRAM_SESSION is a daemon's
        self._connect = connect

    async def _open(self, start: bool) -> tuple[trio.abc.Stream, int | None]:
        await trio.lowlevel.checkpoint()
        return self._connect(), os.getpid()


class Engram(LocalClient):
    """An engine in this program, and the first client of it."""

    def client(self, agent: str | None = None, *, timeout: float | None = None, presence: bool = False) -> LocalClient:
        """A further client, for another agent: `async with engram.client("reviewer") as reviewer: ...`

        Each client is a session of its own, as if it were another process: its leases exclude those of the others.

        Args:
            agent: who acts; by default ENGRAM_AGENT, else the user's name.
            timeout: seconds that one operation may take; None means no limit.
            presence: whether the agent counts as present while the client is connected.
        """
        return LocalClient(self._connect, agent, timeout, presence)


@asynccontextmanager
async def opened(
    config: Config | str | os.PathLike[str] | None, agent: str | None, timeout: float | None, presence: bool
) -> AsyncIterator[Engram]:
    """As `engramd.open`, which says all about it."""
    chosen = _chosen(config)
    directory = chosen.data_path()
    raised: BaseException | None = None
    with _store(directory) as log:
        engine = Engine(
            log,
            chosen.max_payload,
            {"socket": None, "data_dir": str(directory)},
            search_settings=Settings(directory / "search", chosen.embedder, chosen.tokenizer),
            min_free=chosen.min_free,
            keep_events=None if chosen.keep_events is None else round(chosen.keep_events * 1e6),
            limits=chosen.limits(),
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.run)

            def connect() -> MemoryStream:
                ours, theirs = pair()
                nursery.start_soon(Session(engine, theirs).run)
                return ours

            with trio.CancelScope() as block:
                nursery.start_soon(_watch, engine, block)
                try:
                    async with Engram(connect, agent, timeout, presence) as engram:
                        yield engram
                except (Exception, KeyboardInterrupt, SystemExit) as error:  # raised below as it is, not in a group
                    raised = error
            engine.stopping.set()
            await engine.finish()
            nursery.cancel_scope.cancel()
    if raised is None:
        raised = engine.committer.failed
    if raised is not None:
        raise raised


def _chosen(config: Config | str | os.PathLike[str] | None) -> Config:
    if config is None:
        return configuration.load([])[0]
    if isinstance(config, Config):
        return config
    if not os.fspath(config):  # which would stand for the user's own data
        raise EngramError("invalid", "the data directory must not be empty text; give a path, or None for that of your daemon")
    return Config(data_dir=os.fspath(config))


async def _watch(engine: Engine, block: trio.CancelScope) -> None:
    """End the block when the engine stops by itself."""
    await engine.stopping.wait()
    await engine.finish()
    await trio.sleep(LAST_WORDS)
    block.cancel()


@contextmanager
def _store(directory: Path) -> Iterator[Log]:
    private_dir(directory)
    try:
        lock = DataLock(directory)
    except EngramError as error:
        raise _in_use(directory, error) from None
    try:
        log = open_log(directory)
        try:
            yield log
        finally:
            log.close()
    finally:
        lock.release()


def _in_use(directory: Path, error: EngramError) -> EngramError:
    """The error for a data directory that another has, who cannot be told from here to be a daemon or a program like this one."""
    if error.details.get("pid") == str(os.getpid()):
        return EngramError(
            "busy", f"this program has opened {directory} already; make further clients with engram.client()", **error.details
        )
    return EngramError(
        "busy",
        f"process {error.details.get('pid') or 'unknown'} uses the data directory {directory}. If it is engramd, connect to it with "
        "engram_cli.trio_client.Client, or stop it with: engram daemon stop. Or open another data directory",
        **error.details,
    )
