"""The daemon: composes store, engine and listeners, runs until it is told to stop, and stops in order."""

from __future__ import annotations

import gc
import logging
import os
import resource
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import trio

from . import __version__
from .config import Config
from .protocol.address import DEFAULT_PORT, private_dir
from .protocol.errors import EngramError
from .ready import Ready
from .service.engine import Engine
from .service.memory import give_back_after
from .service.search import Settings
from .storage.home import open_log
from .storage.leveldb import MAX_OPEN_FILES
from .storage.lockfile import DataLock
from .storage.log import Log
from .supervisor import Supervisor
from .transport.arrivals import Arrivals
from .transport.listeners import LOOK, Crowd, NetworkListener, UnixListener, answers, server_tls

if TYPE_CHECKING:
    from .transport.http import HttpListener

logger = logging.getLogger("engramd")

LOOPBACK = (f"tcp://127.0.0.1:{DEFAULT_PORT}", f"tcp://[::1]:{DEFAULT_PORT}")
SPARE_FILES = 128  # for all but clients and the store


def serve(config: Config, ready: Ready, supervisor: Supervisor) -> None:
    """Run a daemon in the foreground until SIGTERM, SIGINT or a client's `shutdown`.

    Raises:
        EngramError: it cannot start, or the disk refused a write.
    """
    directory = config.data_path()
    private_dir(directory)
    try:
        lock = _lock(directory, config.lock_wait)
    except EngramError:
        if _is_served(config.socket_path()):
            ready.say("ready")
        raise
    try:
        log = open_log(directory)
        try:
            with ExitStack() as listening:
                unix = _listen(config, supervisor)
                listening.callback(unix.close)
                network, missed = _listen_on_network(config)
                for listener in network:
                    listening.callback(listener.close)
                http = _http(config.metrics_listen)
                if http is not None:
                    listening.callback(http.close)
                listeners: list[UnixListener | NetworkListener] = [unix, *network]
                trio.run(_run, config, log, listeners, missed, http, ready, lock, supervisor)
        finally:
            log.close()
    finally:
        lock.release()
    logger.info("stopped")


def _http(address: str | None) -> HttpListener | None:
    if address is None:
        return None
    from .transport.http import HttpListener  # its parser is loaded by who wants it

    return HttpListener(address)


def _listen(config: Config, supervisor: Supervisor) -> UnixListener:
    """The Unix socket: an inherited one, else our own."""
    inherited, shared = supervisor.sockets(), bool(config.auth_users)
    if not inherited:
        return UnixListener(config.socket_path(), shared=shared)
    if len(inherited) > 1 or inherited[0].family != socket.AF_UNIX:
        raise EngramError("invalid", "one Unix socket can be inherited, and nothing else: one ListenStream= with a path")
    return UnixListener(inherited[0].getsockname(), inherited[0], shared)


def _listen_on_network(config: Config) -> tuple[list[NetworkListener], dict[str, str]]:
    """Listen on the network; also where that was not asked for by name, and why it could not be done there."""
    if config.listen in ("auto", "off"):
        found, missed = [], {}
        for url in LOOPBACK if config.listen == "auto" else ():
            try:
                found.append(NetworkListener(url, None))
            except EngramError as error:
                missed[url] = error.message
                logger.info("%s", error.message)
        return found, missed
    urls = [url for url in config.listen if url.startswith("tls://")]
    tls = None
    if urls:
        if config.tls_cert is None or config.tls_key is None:
            raise EngramError("invalid", f"to listen at {urls[0]}, the daemon needs a certificate: set tls.cert and tls.key")
        tls = server_tls(config.tls_cert, config.tls_key, config.tls_client_ca)
    with ExitStack() as undo:
        found = []
        for url in config.listen:
            found.append(NetworkListener(url, tls))
            undo.callback(found[-1].close)
        undo.pop_all()
    return found, {}


def _is_served(path: str) -> bool:
    """Whether somebody listens at a path, or soon will: a daemon whose socket was removed makes it anew."""
    deadline = time.monotonic() + 2 * LOOK
    while not answers(path):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


async def _bark(supervisor: Supervisor, seconds: float) -> None:
    """Show the supervisor that the loop turns."""
    while True:
        supervisor.tell("WATCHDOG=1")
        await trio.sleep(seconds / 3)


def _lock(directory: Path, wait: float) -> DataLock:
    deadline = time.monotonic() + wait
    while True:
        try:
            return DataLock(directory)
        except EngramError as error:
            if time.monotonic() >= deadline or not error.details["stopping"]:
                raise
        time.sleep(0.02)


async def _run(
    config: Config,
    log: Log,
    listeners: Sequence[UnixListener | NetworkListener],
    missed: Mapping[str, str],
    http: HttpListener | None,
    ready: Ready,
    lock: DataLock,
    supervisor: Supervisor,
) -> None:
    crowd = Crowd(_room_for(config.max_connections))
    unix, *network = (listener.address for listener in listeners)
    told = {"socket": unix, "listening": network, "not_listening": missed, "data_dir": str(config.data_path())}
    engine = Engine(
        log,
        config.max_payload,
        {**told, **({"metrics": http.address} if http else {})},
        search_settings=Settings(config.data_path() / "search", config.embedder, config.tokenizer),
        min_free=config.min_free,
        keep_events=None if config.keep_events is None else round(config.keep_events * 1e6),
        limits=config.limits(),
        require_token=config.auth_require_token,
        users=config.auth_users,
        lost=partial(_leave, listeners),
    )
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_watch, signals, engine)
            nursery.start_soon(engine.run)
            nursery.start_soon(give_back_after, crowd.gone)
            if supervisor.watchdog is not None:
                nursery.start_soon(_bark, supervisor, supervisor.watchdog)
            if http is not None:
                nursery.start_soon(http.serve, engine)
            arrivals = Arrivals(engine.committer.together)
            nursery.start_soon(arrivals.run)
            async with trio.open_nursery() as sessions:
                async with trio.open_nursery() as accepting:
                    for listener in listeners:
                        accepting.start_soon(listener.serve, engine, crowd, arrivals, sessions)
                    where = ", ".join([unix, *network])
                    logger.info("engramd %s (pid %d) listens at %s, log at seq %d", __version__, os.getpid(), where, log.last_seq)
                    gc.freeze()  # what was made until now is there to stay, and not to be looked through in the middle of a request
                    gc.enable()
                    ready.say("ready")
                    supervisor.tell("READY=1", f"STATUS=at {unix}, log at seq {log.last_seq}")
                    await engine.stopping.wait()
                    supervisor.tell("STOPPING=1")
                    lock.stopping()
                    accepting.cancel_scope.cancel()
                for listener in listeners:
                    listener.close()
                await engine.finish()
                sessions.cancel_scope.cancel()
            nursery.cancel_scope.cancel()
    if engine.committer.failed is not None:
        raise engine.committer.failed


def _leave(listeners: Sequence[UnixListener | NetworkListener], because: EngramError) -> NoReturn:
    """End at once. What there was to say to clients is on its way to them."""
    logger.error("%s", because.message)
    for listener in listeners:
        listener.close()
    os._exit(because.exit_code)


def _room_for(connections: int) -> int:
    """How many connections the limit on open files leaves room for, raised as far as it may be. The store's own files come first: running
    out of them would end the daemon."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + MAX_OPEN_FILES + SPARE_FILES
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft >= wanted:
        return connections
    left = max(1, soft - MAX_OPEN_FILES - SPARE_FILES)
    logger.warning("only %d of %d connections fit the limit of %d open files", left, connections, soft)
    return left


async def _watch(signals: object, engine: Engine) -> None:
    async for number in signals:  # type: ignore[attr-defined]
        logger.info("%s: stopping", signal.Signals(number).name)
        engine.stopping.set()
