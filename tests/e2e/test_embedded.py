"""The engine inside a trio program, on a real store: the same methods as over a socket, and what ends it."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import trio
from commandline import Shell

import engramd
from engram_cli.trio_client import Client, EngramError, Relationship
from engramd.config import Config
from engramd.service import search
from engramd.transport.memory import pair


async def test_it_is_a_client_with_everything_that_one_over_a_socket_has(tmp_path: Path) -> None:
    async with engramd.open(tmp_path, agent="me", timeout=20) as engram:
        assert isinstance(engram, Client)
        first = await engram.put("c", "text", meta={"k": "v"}, dedupe="key")
        assert (await engram.put("c", "again", dedupe="key")).deduped
        large = bytes(range(256)) * 4000
        await engram.put("c", large)
        assert [unit.payload async for unit in engram.list("c")] == [b"text", large]
        assert [unit.payload async for unit in engram.tail(after=0, follow=False)] == [b"text", large]
        with pytest.raises(EngramError) as refused:
            await engram.put("c", b"x" * (1 << 20) + b"x")
        assert refused.value.code == "too_large"
        found = await engram.search("text")
        assert [hit.unit.id for hit in found.hits] == [first.id]
        status = await engram.status()
        assert (status["socket"], status["data_dir"], status["connections"]) == (None, str(tmp_path), 1)
    assert not engram.connected
    with pytest.raises(RuntimeError, match="async with"):
        await engram.status()


async def test_texts_that_are_large_together_are_searched_in_several_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "TEXTS_CHARACTERS", 20)
    async with engramd.open(tmp_path, timeout=60) as engram:
        await engram.put_many("c", [{"text": f"a broken pipe {number}"} for number in range(150)])
        for query in ("pipe", '"broken pipe"'):
            found = await engram.search(query, limit=150, wait=60_000)
            assert len({hit.unit.id for hit in found.hits}) == 150


async def test_several_agents_share_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGRAM_SESSION", "of a daemon elsewhere")
    async with engramd.open(tmp_path, agent="planner", timeout=20) as engram, engram.client("builder", timeout=20) as builder:
        lease = await engram.lock("/src", session=True)
        with pytest.raises(EngramError) as held:
            await builder.lock("/src/parser.py")
        assert (held.value.code, held.value.details["holder"]) == ("locked", "planner")

        async with trio.open_nursery() as nursery:

            async def answer() -> None:
                async for question in builder.tail("c", after=0):
                    await builder.put("c", "yes", relationships=[Relationship("responds_to", question.id)])
                    return

            nursery.start_soon(answer)
            assert (await engram.ask("c", "ready?", to="builder")).agent == "builder"
        await lease.release()
        await (await builder.lock("/src/parser.py")).release()


async def test_a_token_is_for_a_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is outside: what ENGRAM_TOKEN says is not for this engine, and everything is allowed."""
    monkeypatch.setenv("ENGRAM_TOKEN", "of a daemon elsewhere")
    async with engramd.open(tmp_path, agent="me", timeout=20) as engram, engram.client(timeout=20) as other:
        made = await engram.put("c", "text")
        assert other.agent
        assert (await other.redact(made.id, reason="a slip")).redacted == [made.seq]
        await engram.token_issue("bob")
        assert [token["agent"] async for token in engram.token_list()] == ["bob"]


async def test_a_program_that_comes_again_goes_on(tmp_path: Path) -> None:
    for number in range(3):
        async with engramd.open(Config(data_dir=str(tmp_path), max_payload=2048), agent="me", timeout=20) as engram:
            await engram.put("c", str(number))
            assert [unit.text async for unit in engram.list("c")] == [str(number) for number in range(number + 1)]


async def test_the_data_directory_has_one_user(served: Shell, tmp_path: Path) -> None:
    with pytest.raises(EngramError) as taken:
        async with engramd.open(served.data):
            raise AssertionError("a daemon has this one")
    assert taken.value.code == "busy"
    assert f"process {served.daemon_pid()} uses the data directory {served.data}" in taken.value.message

    async with engramd.open(tmp_path / "mine", agent="me"):
        with pytest.raises(EngramError, match="this program has opened") as twice:
            async with engramd.open(tmp_path / "mine"):
                raise AssertionError("it is open already")
        assert twice.value.code == "busy"
        assert "uses the data directory" in served.fails(75, "--data-dir", tmp_path / "mine", "--socket", tmp_path / "s", program="engramd")
    async with engramd.open(tmp_path / "mine"):
        pass


async def test_the_options_are_those_of_the_users_daemon_where_none_are_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGRAM_CONFIG", "/dev/null")
    monkeypatch.setenv("ENGRAM_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("ENGRAM_AGENT", "someone")
    async with engramd.open() as engram:
        made = await engram.put("c", "x")
        assert (await engram.get(made.id))[0].agent == "someone"
    assert (tmp_path / "data" / "log").is_dir()


async def test_no_path_is_not_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGRAM_DATA_DIR", str(tmp_path / "data"))
    with pytest.raises(EngramError, match="must not be empty"):
        async with engramd.open(""):
            raise AssertionError("nothing was named")
    assert not (tmp_path / "data").exists()


async def test_what_the_block_raises_comes_out_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(EngramError, match="there is no unit"):
        async with engramd.open(tmp_path) as engram:
            await engram.get(99)
    with pytest.raises(KeyboardInterrupt):
        async with engramd.open(tmp_path):
            raise KeyboardInterrupt
    with trio.move_on_after(0.3) as scope:
        async with engramd.open(tmp_path) as engram:
            async for _ in engram.tail("c"):
                raise AssertionError("nothing comes")
    assert scope.cancelled_caught


async def test_shutdown_ends_the_block(tmp_path: Path) -> None:
    async with engramd.open(tmp_path, agent="me") as engram:
        await engram.put("c", "kept")
        await engram.shutdown()
        await trio.sleep_forever()
    async with engramd.open(tmp_path) as engram:
        assert [unit.text async for unit in engram.list("c")] == ["kept"]


async def test_what_was_acknowledged_before_a_cancellation_is_there(tmp_path: Path) -> None:
    acknowledged = set()
    for number in range(5):
        with trio.CancelScope() as scope:
            async with engramd.open(tmp_path, agent="me") as engram, trio.open_nursery() as nursery:

                async def put(engram: Client, text: str) -> None:
                    acknowledged.add((await engram.put("c", text)).id)

                await put(engram, f"{number} first")
                for nth in range(50):
                    nursery.start_soon(put, engram, f"{number} {nth}")
                for _ in range(2 * number):
                    await trio.lowlevel.checkpoint()
                scope.cancel()
    async with engramd.open(tmp_path, agent="me") as engram:
        found = [unit.id async for unit in engram.list("c")]
        assert len(acknowledged) >= 5
        assert acknowledged <= set(found)
        assert (await engram.put("c", "after")).id not in found


async def test_a_stream_in_memory_keeps_order_and_says_when_it_ends() -> None:
    one, other = pair()
    sent = bytes(range(256)) * 100

    async def send() -> None:
        for at in range(0, len(sent), 1000):
            await one.send_all(sent[at : at + 1000])
        await one.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        received = b""
        while data := await other.receive_some(700):
            assert len(data) <= 700
            received += data
    assert received == sent
    with pytest.raises(trio.BrokenResourceError):
        await other.send_all(b"x")
    with pytest.raises(trio.ClosedResourceError):
        await one.send_all(b"x")


def test_help_says_how_it_is_used() -> None:
    assert "async with engramd.open" in inspect.getdoc(engramd.open)  # type: ignore[operator]
