"""The Unix socket: whose it is, what stands at its path, and a session over it."""

from __future__ import annotations

import os
import socket
import stat
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio
from wire import Client, texts

from engramd.protocol.address import MAX_SOCKET_PATH
from engramd.protocol.errors import EngramError
from engramd.protocol.messages import MIB
from engramd.service.engine import Engine
from engramd.storage.log import Log
from engramd.transport import listeners
from engramd.transport.arrivals import Arrivals
from engramd.transport.listeners import Crowd, UnixListener


def until(done: Callable[[], bool]) -> None:
    """Wait for something that happens by itself."""
    while not done():
        time.sleep(0.005)


Connect = Callable[[], Awaitable[Client]]


@asynccontextmanager
async def serving(log: Log, path: str, max_connections: int = 100) -> AsyncIterator[Connect]:
    """A daemon's engine and listener, in real time, syncing in threads; gives what connects to it."""
    engine = Engine(log, MIB)
    listener = UnixListener(path)
    async with AsyncExitStack() as clients:

        async def connect() -> Client:
            stream = await clients.enter_async_context(await trio.open_unix_socket(path))
            client = Client(stream)
            await client.hello()
            return client

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(engine.committer.run)
                arrivals = Arrivals(engine.committer.together)
                nursery.start_soon(arrivals.run)
                nursery.start_soon(listener.serve, engine, Crowd(max_connections), arrivals, nursery)
                yield connect
                nursery.cancel_scope.cancel()
        finally:
            listener.close()


async def test_a_session_over_a_real_socket(log: Log, socket_dir: Path) -> None:
    path = str(socket_dir / "s")
    with trio.fail_after(20):
        async with serving(log, path) as connect:
            writer, listener = await connect(), await connect()
            tail = await listener.tail(contexts=["c"], follow=True)
            assert await tail.replayed() == []
            tail.refill = True
            large = "x" * (MIB // 2)
            for number in range(8):
                await writer.ask("put", context="c", text=f"{number}{large}")
            for number in range(8):
                assert (await tail.next())["unit"]["text"] == f"{number}{large}"
            assert texts((await writer.ask("list", context="c"))["units"])[0].startswith("0x")
            assert (await writer.refused("put", context="c", text=large * 3)).code == "too_large"
            await writer.stream.send_eof()
            assert await writer.stream.receive_some(1) == b""


async def test_more_connections_than_allowed_are_refused(log: Log, socket_dir: Path) -> None:
    path = str(socket_dir / "s")
    with trio.fail_after(20):
        async with serving(log, path, max_connections=2) as connect:
            clients = [await connect() for _ in range(2)]
            with pytest.raises(EngramError) as refused:
                await connect()
            assert refused.value.code == "busy"
            assert refused.value.details == {"limit": 2, "retry_after": 1.0}
            assert (await clients[0].ask("status"))["status"]["connections"] == 2
            await clients[1].stream.send_eof()
            assert await clients[1].stream.receive_some(1) == b"", "the server has hung up"
            again = await connect()
            assert (await again.ask("status"))["status"]["connections"] == 2


def test_the_socket_is_the_user_s_own(socket_dir: Path) -> None:
    path = socket_dir / "s"
    listener = UnixListener(str(path))
    mode = path.stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600
    assert os.listdir(socket_dir) == ["s"], "no temporary name is left"
    listener.close()
    assert not path.exists()


def test_a_socket_is_shared_only_where_the_kernel_says_who_connects(socket_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listener = UnixListener(str(socket_dir / "s"), shared=True)
    assert stat.S_IMODE(os.stat(socket_dir / "s").st_mode) == 0o666
    listener.close()
    monkeypatch.delattr(socket, "SO_PEERCRED")
    with pytest.raises(EngramError, match=r"auth\.users") as refused:
        UnixListener(str(socket_dir / "s"), shared=True)
    assert refused.value.code == "denied"
    assert not (socket_dir / "s").exists()


def test_a_directory_is_made_for_the_socket_alone(socket_dir: Path) -> None:
    listener = UnixListener(str(socket_dir / "d" / "s"))
    assert stat.S_IMODE((socket_dir / "d").stat().st_mode) == 0o700
    listener.close()


def test_a_stale_socket_is_replaced(socket_dir: Path) -> None:
    path = str(socket_dir / "s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(path)
    assert os.path.exists(path), "what a daemon leaves that was killed"
    listener = UnixListener(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(path)
    listener.close()


def test_a_live_socket_is_refused_and_left_alone(socket_dir: Path) -> None:
    path = str(socket_dir / "s")
    listener = UnixListener(path)
    with pytest.raises(EngramError) as refused:
        UnixListener(path)
    assert refused.value.code == "busy"
    assert path in refused.value.message
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(path)
    listener.close()


def test_a_file_in_the_way_is_not_lost(socket_dir: Path) -> None:
    path = socket_dir / "notes.txt"
    path.write_text("precious")
    with pytest.raises(EngramError) as refused:
        UnixListener(str(path))
    assert refused.value.code == "denied"
    assert path.read_text() == "precious"


def test_a_directory_in_the_way_is_refused(socket_dir: Path) -> None:
    (socket_dir / "d").mkdir()
    with pytest.raises(EngramError) as refused:
        UnixListener(str(socket_dir / "d"))
    assert refused.value.code == "denied"
    assert os.listdir(socket_dir / "d") == []


def test_close_removes_only_its_own_socket(socket_dir: Path) -> None:
    path = str(socket_dir / "s")
    first = UnixListener(path)
    os.unlink(path)
    second = UnixListener(path)
    first.close()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(path)
    second.close()
    assert not os.path.exists(path)


def test_a_second_close_harms_no_successor(socket_dir: Path) -> None:
    """The file system may give the successor's socket the same inode number."""
    path = str(socket_dir / "s")
    first = UnixListener(path)
    first.close()
    second = UnixListener(path)
    first.close()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(path)
    second.close()


def test_the_longest_path_that_is_allowed_works(socket_dir: Path) -> None:
    room = MAX_SOCKET_PATH - len(os.fsencode(socket_dir)) - 1
    path = str(socket_dir / ("s" * room))
    assert len(os.fsencode(path)) == MAX_SOCKET_PATH
    listener = UnixListener(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(path)
    listener.close()


async def test_a_socket_that_is_removed_comes_back_and_harms_no_connection(
    log: Log, socket_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listeners, "LOOK", 0.01)
    path = socket_dir / "s"
    with trio.fail_after(20):
        async with serving(log, str(path)) as connect:
            early = await connect()
            for round in range(3):
                path.unlink()
                await trio.to_thread.run_sync(until, path.exists)
                assert stat.S_IMODE(path.stat().st_mode) == 0o600
                late = await connect()
                await late.ask("put", context="c", text=str(round))
                assert len((await early.ask("list", context="c"))["units"]) == round + 1
    assert not path.exists(), "it is still removed in the end"


async def test_what_took_the_place_of_a_socket_is_left_alone(log: Log, socket_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listeners, "LOOK", 0.01)
    path = socket_dir / "s"
    async with serving(log, str(path)):
        path.unlink()
        path.write_text("mine")
        await trio.sleep(0.1)
    assert path.read_text() == "mine"
