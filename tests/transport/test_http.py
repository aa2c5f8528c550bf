"""The HTTP listener: three answers for reading, for this machine alone."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
import trio
from stores import temporary_log

from engramd.protocol.errors import EngramError
from engramd.protocol.messages import MIB
from engramd.service.engine import Engine
from engramd.transport import http
from engramd.transport.http import HttpListener


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    with temporary_log() as log:
        yield Engine(log, MIB)


@pytest.fixture
async def url(engine: Engine, nursery: trio.Nursery) -> AsyncIterator[str]:
    listener = HttpListener("127.0.0.1:0")
    nursery.start_soon(listener.serve, engine)
    yield f"http://{listener.address}"
    listener.close()


async def exchange(url: str, data: bytes) -> bytes:
    """Send bytes as they are, and read to the end."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        await stream.send_all(data)
        with trio.fail_after(5):
            return b"".join([bytes(part) async for part in stream])


async def test_metrics_and_health(url: str, engine: Engine) -> None:
    async with httpx.AsyncClient(base_url=url) as client:
        metrics = await client.get("/metrics?x=1")
        assert metrics.status_code == 200
        assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert "engram_last_seq 0.0\n" in metrics.text
        assert (await client.get("/healthz")).text == "ok\n"
        assert (await client.get("/readyz")).text == "ready\n"
        assert (await client.get("/")).status_code == 404
        assert (await client.post("/metrics", content="x")).status_code == 405
        engine.space.least, engine.space.free = MIB, lambda: 0
        assert "almost full" in (await client.get("/readyz")).text
        engine.space.least = 0
        engine.committer.refuse_writes(EngramError("storage", "a block is damaged"))
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.text.startswith("a block is damaged")) == (503, True)
        assert (await client.get("/healthz")).status_code == 200


@pytest.mark.parametrize(("path", "status"), [("/metrics", 200), ("/healthz", 200), ("/nothing", 404)])
async def test_a_head_is_the_answer_without_its_body(url: str, path: str, status: int) -> None:
    async with httpx.AsyncClient(base_url=url) as client:
        answer = await client.head(path)
        assert (answer.status_code, answer.content, int(answer.headers["content-length"]) > 0) == (status, b"", True)
        assert (await client.get("/healthz")).text == "ok\n"


@pytest.mark.parametrize("method", ["POST", "CONNECT", "OPTIONS", "PRI", "TRACE", "HEAD", "x"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_whatever_is_asked_ends_nothing(url: str, method: str, version: str) -> None:
    for target in ("/metrics", "*", "localhost:80", "http://localhost/metrics"):
        answer = await exchange(url, f"{method} {target} HTTP/{version}\r\nHost: localhost\r\nUpgrade: h2c\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 ")
    assert (await exchange(url, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")).endswith(b"\r\n\r\nok\n")


async def test_what_cannot_be_told_ends_its_own_connection(url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.log, "size", lambda: 1 // 0)
    assert await exchange(url, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n") == b""
    assert (await exchange(url, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")).endswith(b"\r\n\r\nok\n")


@pytest.mark.parametrize(
    ("host", "status"), [("localhost:1", 200), ("[::1]:80", 200), ("[::1]", 200), ("127.0.0.9", 200), ("evil.net", 403)]
)
async def test_only_this_machine_may_be_meant(url: str, host: str, status: int) -> None:
    async with httpx.AsyncClient(base_url=url) as client:
        assert (await client.get("/healthz", headers={"Host": host})).status_code == status


@pytest.mark.parametrize(
    ("data", "start"),
    [
        (b"nonsense\r\n\r\n", b"HTTP/1.1 400"),
        (b"\x16\x03\x01\x02\x00\x01\xfc\x03\x03\r\n\r\n", b"HTTP/1.1 400"),
        (b"GET /healthz HTTP/1.1\r\n\r\n", b"HTTP/1.1 400"),  # without Host
        (b"GET /" + b"x" * 3 * http.MAX_REQUEST + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", b"HTTP/1.1 431"),
    ],
)
async def test_what_is_no_request_is_refused(url: str, data: bytes, start: bytes) -> None:
    assert (await exchange(url, data)).startswith(start)
    assert (await exchange(url, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")).endswith(b"\r\n\r\nok\n")


@pytest.mark.parametrize("address", ["0.0.0.0:1", "example.org:1", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:65536", "", ":1", "10.0.0.1:9"])
def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(EngramError) as caught:
        HttpListener(address)
    assert caught.value.code == "invalid"
    assert "loopback" in caught.value.message


def test_a_taken_port_is_said() -> None:
    first = HttpListener("127.0.0.1:0")
    with pytest.raises(EngramError) as caught:
        HttpListener(first.address)
    first.close()
    assert caught.value.code == "busy"


async def test_those_who_say_nothing_keep_others_waiting_only_for_a_while(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "SECONDS", 0.2)
    host, _, port = url.removeprefix("http://").rpartition(":")
    silent = [await trio.open_tcp_stream(host, int(port)) for _ in range(3 * http.MAX_CONNECTIONS)]
    assert (await exchange(url, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")).endswith(b"\r\n\r\nok\n")
    for stream in silent:
        await stream.aclose()
