"""The trio client against real daemons that are killed, stopped and started."""

from __future__ import annotations

import os
import signal

import pytest
import trio
from commandline import AGENT, Shell

from engram_cli.trio_client import Client, EngramError


def client_of(shell: Shell, timeout: float | None = 30) -> Client:
    return Client(str(shell.socket), agent=AGENT, autostart=False, timeout=timeout)


async def test_readers_and_writers_go_on_when_the_daemon_is_killed(served: Shell) -> None:
    count, found = 60, list[str]()
    with trio.fail_after(60):
        async with client_of(served) as client, trio.open_nursery() as nursery:

            async def read() -> None:
                async for unit in client.tail("c", after=0):
                    found.append(unit.text)
                    if len(found) == count:
                        return

            nursery.start_soon(read)
            for number in range(count):
                if number % 20 == 10:
                    served.kill_daemon()
                    served.daemon()
                await client.put("c", str(number), dedupe=str(number))
    assert found == [str(number) for number in range(count)]


async def test_a_write_without_a_key_is_not_repeated(served: Shell) -> None:
    async with client_of(served) as client:
        await client.connect()
        pid = served.daemon_pid()
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        codes: list[str] = []

        async def put() -> None:
            with pytest.raises(EngramError) as caught:
                await client.put("c", "x")
            codes.append(caught.value.code)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(put)
            await trio.testing.wait_all_tasks_blocked()
            served.kill_daemon()
        assert codes == ["outcome_unknown"]
        assert not client.connected


async def test_the_first_connection_starts_a_daemon(alone: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in alone.env.items():
        monkeypatch.setenv(name, value)
    async with Client() as client:
        made = await client.put("c", "x")
        assert alone.daemon_pid() is not None
        assert (await client.get(made.id))[0].agent == AGENT
        alone.kill_daemon()
        with pytest.raises(EngramError):
            await client.put("c", "y")
        with pytest.raises(EngramError, match="no daemon"):
            await client.put("c", "z")
        assert alone.daemon_pid() is None


async def test_a_stop_is_survived_by_what_is_asked_meanwhile(served: Shell) -> None:
    async with client_of(served) as client, client_of(served) as other:
        await client.put("c", "x")
        await other.connect()
        await other.shutdown()

        async def put() -> None:
            await client.put("c", "y", dedupe="y")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(put)
            await trio.to_thread.run_sync(served.daemon)
        assert [unit.text async for unit in client.list("c")] == ["x", "y"]


async def test_a_socket_that_nobody_serves_is_said_at_once(alone: Shell) -> None:
    async with client_of(alone) as client:
        with trio.fail_after(2), pytest.raises(EngramError) as caught:
            await client.status()
    assert caught.value.code == "unavailable"


async def test_members_of_a_consumer_share_its_units_across_a_kill(served: Shell) -> None:
    units, acked = 300, list[str]()
    with trio.fail_after(60):
        async with client_of(served) as writer, client_of(served) as one, client_of(served) as other, trio.open_nursery() as nursery:
            await writer.consumer_create("work", "c")

            async def take_part(client: Client, mode: str) -> None:
                stream = client.consume("work", ack=mode, prefetch=5)
                async for unit in stream:
                    acked.append(unit.text)
                    if mode == "manual":
                        stream.ack(unit)

            nursery.start_soon(take_part, one, "auto")
            nursery.start_soon(take_part, other, "manual")
            for number in range(units):
                if number == units // 2:
                    served.kill_daemon()
                    served.daemon()
                await writer.put("c", str(number), dedupe=str(number))
            last = (await writer.context_show("c"))["last_seq"]
            for pause in [0.05] * 400:
                if int((await writer.consumer_show("work"))["cursor"].split(".")[1]) >= last:
                    break
                await trio.sleep(pause)
            else:
                raise AssertionError("not everything was acknowledged")
            nursery.cancel_scope.cancel()
    assert set(acked) == {str(number) for number in range(units)}
    assert len(acked) < units + 40, "what was acknowledged before the kill does not come again"
    async with client_of(served) as client:
        assert [unit async for unit in client.consume("work", follow=False)] == []
        with pytest.raises(EngramError, match="auto or manual"):
            client.consume("work", ack="never")
