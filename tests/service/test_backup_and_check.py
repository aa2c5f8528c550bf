"""`backup` and `check` on an engine that goes on working, and puts that bring their ids."""

from __future__ import annotations

import trio.lowlevel
import trio.testing
from daemons import MIB
from wire import Server

from engramd.protocol.backup import Frames
from engramd.protocol.unit import instant_of, new_id
from engramd.storage import keys
from engramd.storage.log import Log


async def test_the_pages_of_a_backup_are_the_log(autojump_clock: object, server: Server, log: Log) -> None:
    client = await server.connect()
    for number in range(40):
        await client.ask("put", context="c", text="x" * 40_000, meta={"n": str(number)})
    frames, after, last, pages = Frames(), 0, None, 0
    found: list[tuple[int, bytes]] = []
    while last is None or after < last:
        page = await client.ask("backup", after=after, **({} if last is None else {"last": last}))
        found += frames.feed(page["frames"])
        assert len(page["frames"]) <= MIB
        after, last, pages = page["reached"], page["last"], pages + 1
        await client.ask("put", context="c", text="later")
    assert pages > 2
    assert found == [(keys.seq_of(key), value) for key, value in log.scan(keys.LOG, 1, last)]
    assert last == 41, "what came later is not part of it"


async def test_a_backup_of_what_is_not_there(autojump_clock: object, server: Server) -> None:
    client = await server.connect()
    assert (await client.ask("backup", after=0))["frames"] == b""
    assert (await client.refused("backup", after=1)).code == "cursor"


async def test_a_check_beside_writes(autojump_clock: object, server: Server) -> None:
    client, other = await server.connect(), await server.connect()
    for _ in range(300):
        await client.ask("put", context="c", text="x", meta={"k": "v"})
    asked = await client.send("check")
    second = await other.send("check")
    for _ in range(50):
        await other.ask("put", context="c", text="meanwhile")
    assert (await other.failure(second)).code == "busy"
    report = await client.answer(asked)
    assert report["findings"] == []
    assert {check["result"] for check in report["checks"]} == {"ok"}
    assert report["last_seq"] == 301, "it looks at what there was when it began"
    assert (await client.ask("check"))["last_seq"] == 351


async def test_a_check_ends_with_its_connection(autojump_clock: object, server: Server) -> None:
    client, other = await server.connect(), await server.connect()
    for _ in range(300):
        await other.ask("put", context="c", text="x")
    await client.send("check")
    await client.stream.aclose()
    await trio.testing.wait_all_tasks_blocked()
    assert (await other.ask("check"))["findings"] == []


# Puts that bring their ids

ONE, TWO, THREE = (new_id(1_600_000_000_000_000 + number) for number in range(3))


async def test_a_unit_with_an_id_is_put_once(autojump_clock: object, server: Server, log: Log) -> None:
    client = await server.connect()
    units = [{"id": ONE, "text": "one"}, {"id": TWO, "text": "two", "relationships": [{"type": "causes", "target": ONE}]}]
    made = await client.ask("put", context="c", units=units)
    assert (made["ids"], made["fresh"], made["deduped"]) == ([ONE, TWO], 2, False)
    end = log.last_seq
    again = await client.ask("put", context="c", units=units)
    assert (again["ids"], again["fresh"], again["deduped"], again["seq"], log.last_seq) == ([ONE, TWO], 0, True, made["seq"], end)
    more = await client.ask(
        "put", context="other", units=[{"id": THREE, "text": "3"}, {"id": ONE, "text": "else"}, {"id": THREE, "text": "3"}]
    )
    assert (more["fresh"], more["deduped"], log.last_seq) == (1, False, end + 2)
    assert (await client.ask("get", ids=[ONE]))["units"][0]["text"] == "one"
    assert instant_of(THREE) == 1_600_000_000_000_002


async def test_what_an_id_must_be(autojump_clock: object, server: Server) -> None:
    client = await server.connect()
    for units in (
        [{"id": bytes(16), "text": ""}],
        [{"id": ONE, "text": ""}, {"text": ""}],
        [{"id": "7", "text": ""}],
        [{"id": "x", "text": ""}],
    ):
        assert (await client.refused("put", context="c", units=units)).code == "invalid"
    assert (await client.refused("put", context="c", units=[{"id": ONE, "text": ""}], dedupe="d")).code == "invalid"
    lost = [{"id": ONE, "text": "", "relationships": [{"type": "causes", "target": TWO}]}, {"id": TWO, "text": ""}]
    assert (await client.refused("put", context="c", units=lost)).code == "not_found", "a relationship leads back"


async def test_an_erasure_ends_a_check_and_lets_none_begin(autojump_clock: object, server: Server) -> None:
    """The check's snapshot would keep in the files what is erased."""
    client, checking = await server.connect(), server.engine.checking
    for _ in range(600):
        await client.ask("put", context="c", text="x")
    asked = await client.send("check")
    while not checking.locked():
        await trio.lowlevel.checkpoint()
    async with checking:
        assert (await client.failure(asked)).code == "busy"
        assert (await client.refused("check")).code == "busy"
    assert (await client.ask("check"))["findings"] == []
