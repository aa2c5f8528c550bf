"""TCP and TLS on loopback: who gets in, and what happens to those who do not."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from trio.testing import MockClock
from wire import Client, HungUpError

from engramd import daemon
from engramd.config import Config
from engramd.protocol.address import split
from engramd.protocol.errors import EngramError
from engramd.protocol.messages import MIB
from engramd.protocol.tokens import new_token, read_token
from engramd.service.committer import write_inline
from engramd.service.engine import Engine
from engramd.service.peer import Origin
from engramd.state.tokens import IssueToken
from engramd.state.view import Token
from engramd.storage.log import Log
from engramd.transport import listeners, session
from engramd.transport.arrivals import Arrivals
from engramd.transport.listeners import LARGE_CROWD, Crowd, NetworkListener, server_tls


class Pems:
    """A certificate of this machine, one for a client, and one of a stranger, as files."""

    def __init__(self, directory: Path) -> None:
        authority, other = trustme.CA(), trustme.CA()
        self.ca, self.other_ca = directory / "ca.pem", directory / "other.pem"
        authority.cert_pem.write_to_path(str(self.ca))
        other.cert_pem.write_to_path(str(self.other_ca))
        self.server, self.client = authority.issue_cert("localhost", "127.0.0.1", "::1"), authority.issue_cert("client@example.org")
        self.stranger = other.issue_cert("client@example.org")
        self.cert, self.key = directory / "cert.pem", directory / "key.pem"
        for number, blob in enumerate(self.server.cert_chain_pems):
            blob.write_to_path(str(self.cert), append=number > 0)
        self.server.private_key_pem.write_to_path(str(self.key))

    def tls(self, client_ca: bool = False) -> ssl.SSLContext:
        return server_tls(str(self.cert), str(self.key), str(self.ca) if client_ca else None)


@pytest.fixture(scope="module")
def pems(tmp_path_factory: pytest.TempPathFactory) -> Pems:
    return Pems(tmp_path_factory.mktemp("pems"))


class Served:
    """An engine behind a listener."""

    def __init__(self, engine: Engine, listener: NetworkListener) -> None:
        self.engine = engine
        self.listener = listener
        self._opened: list[trio.SocketStream] = []
        _, self.host, self.port = split(listener.address)

    async def token(self, *rights: str) -> str:
        """A token that was issued."""
        text = new_token()
        name, digest = read_token(text)
        row = Token("bob", digest, rights or ("read", "write"), (), (), None, "", 0)
        self.engine.carry_out(IssueToken("owner", name, row))
        await self.engine.committer.drained()
        return text

    async def open(self) -> trio.SocketStream:
        """A connection, which is closed at the end of the test."""
        self._opened.append(await trio.open_tcp_stream(self.host, self.port))
        return self._opened[-1]

    async def close(self) -> None:
        """Close what was opened."""
        for stream in self._opened:
            await trio.aclose_forcefully(stream)


@asynccontextmanager
async def serving(log: Log, url: str = "tcp://127.0.0.1:0", tls: ssl.SSLContext | None = None, most: int = 400) -> AsyncIterator[Served]:
    engine = Engine(log, MIB, write=write_inline)
    listener = NetworkListener(url, tls)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.committer.run)
            arrivals = Arrivals(engine.committer.together)
            nursery.start_soon(arrivals.run)
            nursery.start_soon(listener.serve, engine, Crowd(most), arrivals, nursery)
            served = Served(engine, listener)
            try:
                yield served
            finally:
                listener.close()
                with trio.CancelScope(shield=True):
                    await served.close()
            nursery.cancel_scope.cancel()


async def greeted(stream: Any, token: str) -> Client:
    client = Client(stream)
    assert (await client.hello(None, token=token))["agent"] == "bob"
    return client


@pytest.mark.parametrize("url", ["tcp://127.0.0.1:0", "tcp://[::1]:0", "tcp://localhost:0"])
async def test_a_session_over_tcp(log: Log, url: str) -> None:
    if "::1" in url and not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    async with serving(log, url) as served:
        client = await greeted(await served.open(), await served.token())
        made = await client.ask("put", context="c", text="x" * (MIB // 2))
        assert len((await client.ask("get", ids=[made["id"]]))["units"][0]["text"]) == MIB // 2
        await client.stream.send_eof()
        assert await client.stream.receive_some(1) == b""


async def secured(served: Served, pems: Pems, cert: trustme.LeafCert | None = None, ca: Path | None = None) -> trio.SSLStream[Any]:
    context = ssl.create_default_context(cafile=str(ca or pems.ca))
    if cert is not None:
        cert.configure_cert(context)
    stream = trio.SSLStream(await served.open(), context, server_hostname="localhost")
    await stream.do_handshake()
    return stream


async def test_a_session_over_tls(log: Log, pems: Pems) -> None:
    async with serving(log, "tls://127.0.0.1:0", pems.tls()) as served:
        client, reader = [await greeted(await secured(served, pems), await served.token()) for _ in range(2)]
        tail = await reader.tail(follow=True)
        assert await tail.replayed() == []
        large = "x" * (MIB // 2)
        tail.refill = True
        for number in range(6):
            await client.ask("put", context="c", text=f"{number}{large}")
        assert [event["unit"]["text"][0] for event in await tail.take(6)] == list("012345")
        with pytest.raises(trio.BrokenResourceError):
            await secured(served, pems, ca=pems.other_ca)


async def test_clients_show_a_certificate_where_they_must(log: Log, pems: Pems) -> None:
    async with serving(log, "tls://127.0.0.1:0", pems.tls(client_ca=True)) as served:
        token = await served.token()
        await greeted(await secured(served, pems, pems.client), token)
        for cert in (None, pems.stranger):
            with pytest.raises((trio.BrokenResourceError, HungUpError)):  # with TLS 1.3 it is noticed at the first answer
                await greeted(await secured(served, pems, cert), token)
        assert served.engine.accounts.refused["handshakes"] == 2


async def test_plain_words_to_a_tls_port_and_the_reverse(log: Log, pems: Pems) -> None:
    async with serving(log, "tls://127.0.0.1:0", pems.tls()) as served:
        stream = await served.open()
        await stream.send_all(Client(stream).connection.hello({"agent": "bob"}))
        await hung_up(stream)
        assert served.engine.accounts.refused["handshakes"] == 1
    async with serving(log) as served:
        with pytest.raises(trio.BrokenResourceError):
            await secured(served, pems)


async def hung_up(stream: trio.abc.ReceiveStream) -> bytes:
    """Read to the end."""
    heard = b""
    try:
        while data := bytes(await stream.receive_some(65536)):
            heard += data
    except trio.BrokenResourceError:
        pass
    return heard


async def test_who_says_nothing_is_sent_away(log: Log, pems: Pems, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (session, listeners):
        monkeypatch.setattr(module, "HELLO_SECONDS", 0.2)
    async with serving(log) as served:
        assert b"no hello came" in await hung_up(await served.open())
        stream = await served.open()
        await stream.send_all(b"\0\0\0\x20\xa4")  # and no more of it
        assert b"no hello came" in await hung_up(stream)
    async with serving(log, "tls://127.0.0.1:0", pems.tls()) as served:
        await hung_up(await served.open())
        stream = await secured(served, pems)
        assert b"no hello came" in await hung_up(stream)


async def test_strangers_are_few_and_those_who_are_known_unharmed(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listeners, "STRANGERS_OF_A_HOST", 8)
    async with serving(log) as served:
        client, token = await greeted(await served.open(), await served.token()), await served.token()
        silent = [await served.open() for _ in range(30)]
        last = await served.open()
        assert b"not greeted" in await hung_up(last)
        for number in range(20):
            await client.ask("put", context="c", text=str(number))
        assert served.engine.accounts.refused["strangers"] >= 20
        for stream in silent:
            await stream.aclose()
        while True:  # the daemon notices in its own time
            try:
                await greeted(await served.open(), token)
                break
            except EngramError:
                await trio.sleep(0.01)


async def test_a_network_cannot_take_every_connection(log: Log) -> None:
    async with serving(log, most=8) as served:
        token = await served.token()
        clients = [await greeted(await served.open(), token) for _ in range(6)]
        with pytest.raises(EngramError) as refused:
            await greeted(await served.open(), token)
        assert (refused.value.code, refused.value.details["limit"]) == ("busy", 6)
        await clients[0].ask("status")


async def test_a_crowd_that_has_left_is_noticed_once(autojump_clock: MockClock) -> None:
    crowd, gone = Crowd(1000), list[float]()

    async def watch() -> None:
        while True:
            await crowd.gone()
            gone.append(trio.current_time())

    def come_and_go(count: int) -> None:
        for _ in range(count):
            crowd.arrived(Origin())
        for _ in range(count):
            crowd.left()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        for _ in range(3):
            come_and_go(LARGE_CROWD - 1)
            await trio.sleep(10)
        assert gone == []
        come_and_go(500)
        await trio.sleep(10)
        come_and_go(3)
        await trio.sleep(10)
        assert len(gone) == 1
        come_and_go(LARGE_CROWD)
        await trio.sleep(10)
        assert len(gone) == 2
        nursery.cancel_scope.cancel()


def test_a_port_that_is_taken_is_said(pems: Pems) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(EngramError) as refused:
            NetworkListener(f"tcp://127.0.0.1:{taken.getsockname()[1]}", None)
    assert refused.value.code == "busy"
    with pytest.raises(EngramError):
        NetworkListener("tls://192.0.2.1:7412", pems.tls())


def test_the_usual_port_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        url = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setattr(daemon, "LOOPBACK", (url, "tcp://127.0.0.1:0"))
        found, missed = daemon._listen_on_network(Config())
    assert list(missed) == [url]
    assert "another program has the port" in missed[url]
    assert len(found) == 1
    found[0].close()


@pytest.mark.parametrize(("certificate", "key", "client_ca"), [("key", "cert", None), ("cert", "none", None), ("cert", "key", "key")])
def test_files_that_are_no_certificates_are_named(pems: Pems, certificate: str, key: str, client_ca: str | None) -> None:
    files = [None if name is None else str(pems.key.with_name(f"{name}.pem")) for name in (certificate, key, client_ca)]
    with pytest.raises(EngramError) as refused:
        server_tls(*files)  # type: ignore[arg-type]
    assert refused.value.code == "invalid"
    assert str(files[0]) in refused.value.message
