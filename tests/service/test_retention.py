"""Retention as clients see it: what is kept, what is said of the rest, and who notices."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock
from wire import Client, Serve, Server, texts, unit_texts

from engramd.protocol.errors import EngramError
from engramd.service import retention
from engramd.state.retention import UnitsTrimmed
from engramd.storage import keys
from engramd.storage.log import Batch, Log

LOOK = retention.INTERVAL + 1


async def put(client: Client, *names: str, context: str = "c", **members: Any) -> list[int]:
    """Put units; gives their seqs."""
    return [(await client.ask("put", context=context, text=name, **members))["seq"] for name in names]


async def listed(client: Client, context: str = "c") -> list[str]:
    return texts((await client.ask("list", context=context))["units"])


async def events(client: Client, *kinds: str) -> list[dict[str, Any]]:
    tail = await client.tail(after=0, credit=10**6, **({"kinds": list(kinds)} if kinds else {"events": True}))
    return await tail.replayed()


async def test_the_newest_units_stay_and_pinned_ones(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    seqs = await put(client, *"0123456789")
    await client.ask("context_pin", context="c", ids=[seqs[2]])
    shown = (await client.ask("context_retain", context="c", units=4))["context"]
    assert shown["keep"] == {"units": 4}
    await trio.sleep(LOOK)
    assert await listed(client) == ["2", "7", "8", "9"]
    await put(client, "10", "11")
    await trio.sleep(LOOK)
    assert await listed(client) == ["2", "9", "10", "11"]
    await client.ask("context_unpin", context="c", ids=[seqs[2]])
    await put(client, "12")
    await trio.sleep(LOOK)
    assert await listed(client) == ["9", "10", "11", "12"]
    shown = (await client.ask("context_show", context="c"))["context"]
    assert (shown["units"], shown["bytes"], shown["pinned"]) == (4, 7, [])
    assert (await client.refused("get", ids=[seqs[0]])).code == "trimmed"
    assert (await client.refused("context_pin", context="c", ids=[seqs[0]])).code == "trimmed"


async def test_limits_of_age_and_bytes(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    await client.ask("context_create", context="c")
    await client.ask("context_retain", context="c", age="1m", bytes="10")
    await put(client, "a" * 4, "b" * 4, "c" * 4)
    await trio.sleep(LOOK)
    assert await listed(client) == ["bbbb", "cccc"]
    await trio.sleep(40)
    await put(client, "d")
    await trio.sleep(20)
    assert await listed(client) == ["d"]
    await client.ask("context_retain", context="c", age=None)
    assert (await client.ask("context_show", context="c"))["context"]["keep"] == {"bytes": 10}
    await trio.sleep(600)
    assert await listed(client) == ["d"]


async def test_a_clock_that_is_set_ahead_makes_nothing_old(serve: Serve, log: Log, autojump_clock: MockClock) -> None:
    first = serve(keep_events=1_800_000_000)
    client = await first.connect()
    await put(client, "a")
    await client.ask("context_retain", context="c", age="1h")
    first.skew = 400 * 86_400_000_000
    await trio.sleep(1000)
    assert await listed(client) == ["a"]
    await put(client, "b")
    first.running.cancel()
    await first.engine.committer.drained()
    client = await serve(keep_events=1_800_000_000).connect()  # whose clock is right again, and the log is ahead of it
    await trio.sleep(1000)
    assert await listed(client) == ["a", "b"]
    assert "context_created" in {event["kind"] for event in await events(client)}
    await trio.sleep(3600)
    assert await listed(client) == ["b"], "what was put by the wrong clock is old by that"


async def test_a_clock_that_stays_ahead_is_believed(server: Server, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "LASTING", 100)
    client = await server.connect()
    await put(client, "a")
    await client.ask("context_retain", context="c", age="30d")
    for skew, seconds, left in ((400, 50, 1), (0, 20, 1), (-400, 20, 1), (0, 200, 1), (400, 90, 1), (400, 20, 0)):
        server.skew = skew * 86_400_000_000
        await trio.sleep(seconds)
        assert len(await listed(client)) == left


@pytest.mark.parametrize("limits", [{"age": "0s"}, {"age": "x"}, {"bytes": "0"}, {"bytes": "1X"}, {"units": 0}, {"bytes": "-1"}])
async def test_a_limit_that_makes_no_sense_is_refused(server: Server, autojump_clock: MockClock, limits: dict[str, Any]) -> None:
    client = await server.connect()
    await put(client, "x")
    with pytest.raises(EngramError) as refused:
        await client.ask("context_retain", context="c", **limits)
    assert refused.value.code == "invalid"
    assert (await client.refused("context_retain", context="no", units=1)).code == "not_found"


async def test_every_missing_seq_is_covered(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    await put(client, *map(str, range(300)))
    await client.ask("context_retain", context="c", units=10)
    await trio.sleep(LOOK)
    found = await events(client)
    there = {event["seq"] if "seq" in event else event["unit"]["seq"] for event in found}
    trims = [event["data"] for event in found if event["kind"] == "units_trimmed"]
    covered = {seq for trim in trims for seq in trim["removed"]}
    assert there | covered == set(range(1, server.log.last_seq + 1))
    assert not there & covered
    assert len(covered) == 290
    assert max(len(trim["entries"]) for trim in trims) <= 32, "a step is bounded"


async def test_an_entry_whose_unit_is_lost_ends_writing_and_not_the_daemon(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    seqs = await put(client, "lost", "here")
    batch = server.log._store.batch()
    batch.put(keys.entries("c") + keys.pack_seq(seqs[0]), b"\1" + keys.pack_seq(99))
    server.log._store.write(batch)
    await client.ask("context_retain", context="c", units=1)
    await trio.sleep(LOOK)
    error = await client.refused("put", context="c", text="x")
    assert (error.code, "engram doctor" in error.message) == ("storage", True)
    assert (await client.ask("get", ids=[seqs[1]]))["units"][0]["text"] == "here"


async def test_writers_get_between_the_steps(server: Server, autojump_clock: MockClock) -> None:
    client, writer = await server.connect(), await server.connect()
    await put(client, *map(str, range(600)))
    await client.ask("context_retain", context="c", units=10)
    await trio.sleep(retention.PAUSE * 2.5)
    await put(writer, "between")
    await trio.sleep(LOOK)
    kinds = [event["kind"] for event in await events(client)]
    at = len(kinds) - 1 - kinds[::-1].index("unit_put")
    assert "units_trimmed" in kinds[:at]
    assert "units_trimmed" in kinds[at:]


async def test_a_cursor_behind_which_something_is_missing_is_refused(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    seqs = await put(client, *"01234")
    await put(client, "other", context="d")
    cursors = [event["cursor"] for event in await (await client.tail(contexts=["c"], after=0)).replayed()]
    await client.ask("context_retain", context="c", units=2)
    await trio.sleep(LOOK)
    for contexts in (["c"], ["c", "d"], []):
        for after in (cursors[0], cursors[1], seqs[1]):
            error = await client.refused("tail", contexts=contexts, after=after)
            assert error.code == "trimmed"
            tail = await client.tail(contexts=contexts, after=error.details["cursor"])
            assert unit_texts(await tail.replayed())[:2] == ["3", "4"]
    assert unit_texts(await (await client.tail(contexts=["c"], after=cursors[2])).replayed()) == ["3", "4"], "nothing is missing here"
    assert unit_texts(await (await client.tail(contexts=["d"], after=seqs[0])).replayed()) == ["other"], "nor in another context"
    assert unit_texts(await (await client.tail(after=0)).replayed()) == ["3", "4", "other"], "0 is wherever the log begins"
    assert unit_texts(await (await client.tail(contexts=["c"], last=10)).replayed()) == ["3", "4"]
    assert (await client.ask("list", context="c", after=cursors[0]))["units"][0]["text"] == "3", "list is the present"


async def test_a_reader_that_is_overtaken_is_told(server: Server, autojump_clock: MockClock) -> None:
    client, reader = await server.connect(), await server.connect()
    await put(client, *(f"{number}" * 100 for number in range(200)))
    tail = await reader.tail(contexts=["c"], after=0, credit=500, follow=True)
    assert len(await tail.arrived()) < 10
    live = await client.tail(contexts=["c"], follow=True, last=0)
    await live.replayed()
    await client.ask("context_retain", context="c", units=5)
    await trio.sleep(LOOK)
    await tail.grant(10**6)
    error = await reader.failure(tail.id)
    assert error.code == "trimmed"
    await put(client, "new")
    assert unit_texts([event for event in await live.arrived() if "unit" in event]) == ["new"], "who has seen all of it is not bothered"


async def test_a_reader_of_what_is_there_is_told_what_went_since(server: Server, autojump_clock: MockClock) -> None:
    """Also where something later had gone before it began: in another context, or since the older was pinned."""
    client = await server.connect()
    await put(client, *(f"{number}" * 100 for number in range(40)))
    pinned = await put(client, "pinned", "unpinned", context="d")
    await put(client, *"0123456789", context="d")
    await put(client, "once", "more", context="e")
    await client.ask("context_pin", context="d", ids=pinned)
    await client.ask("context_retain", context="d", units=6)
    await trio.sleep(LOOK)
    asked = (["c", "d"], ["c"], ["d"], ["e"])
    readers = [await server.connect() for _ in asked]
    tails = [await reader.tail(contexts=one, after=0, credit=1, follow=True) for reader, one in zip(readers, asked, strict=True)]
    assert [len(await tail.arrived()) for tail in tails] == [1] * 4
    await client.ask("context_unpin", context="d", ids=pinned[1:])
    await client.ask("context_retain", context="d", units=5)
    await client.ask("context_retain", context="c", units=20)
    await trio.sleep(LOOK)
    for tail in tails:
        await tail.grant(10**6)
    with trio.fail_after(60):
        errors = [await reader.failure(tail.id) for reader, tail in zip(readers[:3], tails, strict=False)]
    assert [error.code for error in errors] == ["trimmed"] * 3
    rest = await (await client.tail(contexts=["d"], after=errors[2].details["cursor"])).replayed()
    assert unit_texts(rest) == list("6789"), "of what it was told, nothing is missing"
    assert unit_texts([event for event in await tails[3].arrived() if "unit" in event]) == ["more"], "nothing went from this context"


@pytest.mark.parametrize("fails", [False, True])
async def test_what_is_about_to_go_is_not_passed_over(serve: Serve, autojump_clock: MockClock, fails: bool) -> None:
    """The store lacks it before anybody knows that this is on disk; which it may never be."""
    gate = trio.Event()
    gate.set()

    async def write(batch: Batch) -> None:
        batch.commit()
        await gate.wait()
        if fails and any(isinstance(appended.event, UnitsTrimmed) for appended in batch.events):
            raise EngramError("storage", "the disk refused a write")

    server = serve(write=write)
    client, reader = await server.connect(), await server.connect()
    await put(client, *(f"{number}" * 100 for number in range(40)))
    await client.ask("context_retain", context="c", units=10**6)
    tail = await reader.tail(contexts=["c"], after=0, credit=1, follow=True)
    (first,) = await tail.arrived()
    gate = trio.Event()
    await client.send("context_retain", context="c", units=20)
    await client.settle()
    server.engine.retention.wake()
    await trio.sleep(LOOK)
    await tail.grant(10**6)
    later = await (await server.connect()).tail(contexts=["c"], after=first["cursor"], credit=10**6, follow=True)
    before = [*await tail.arrived(), *await later.arrived()]
    gate.set()
    with trio.fail_after(60):
        for one in (tail, later):
            assert (await one.client.failure(one.id)).code == ("storage" if fails else "trimmed")
    assert before == []


async def test_a_unit_lives_while_a_context_keeps_it(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    seqs = await put(client, "shared", "not")
    await client.ask("context_add", context="d", ids=[seqs[0]])
    await put(client, "last")
    await client.ask("context_retain", context="c", units=1)
    await trio.sleep(LOOK)
    assert await listed(client) == ["last"]
    assert await listed(client, "d") == ["shared"]
    assert (await client.ask("get", ids=[seqs[0]]))["units"][0]["text"] == "shared"
    whole = await (await client.tail(after=0)).replayed()
    assert [(event["unit"]["text"], event["kind"]) for event in whole] == [("shared", "unit_added"), ("last", "unit_put")]
    await client.ask("context_add", context="c", ids=[seqs[0]])
    assert await listed(client) == ["last", "shared"], "it can come back"
    await client.ask("context_retain", context="d", age=1_000_000)
    await trio.sleep(LOOK)
    assert await listed(client) == ["shared"]
    assert await listed(client, "d") == []
    await put(client, "newer")
    await trio.sleep(LOOK)
    assert (await client.refused("get", ids=[seqs[0]])).code == "trimmed"


async def test_a_dedupe_key_lasts_as_long_as_its_unit(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    first = await client.ask("put", context="c", units=[{"text": "1"}, {"text": "2"}], dedupe="k")
    await client.ask("context_pin", context="c", ids=[first["ids"][0]])
    await put(client, "3")
    await client.ask("context_retain", context="c", units=2)
    await trio.sleep(LOOK)
    assert await listed(client) == ["1", "3"]
    assert (await client.refused("put", context="c", text="1", dedupe="k")).code == "trimmed", "it was put, and part of it is gone"
    await client.ask("context_unpin", context="c", ids=[first["ids"][0]])
    await put(client, "4")
    await trio.sleep(LOOK)
    again = await client.ask("put", context="c", text="1", dedupe="k")
    assert not again["deduped"]


async def test_relationships_may_lead_to_what_is_gone(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    first = await client.ask("put", context="c", text="first")
    edge = {"type": "responds_to", "target": first["seq"]}
    reply = await client.ask("put", context="d", text="reply", relationships=[edge])
    await put(client, "second")
    await client.ask("context_retain", context="c", units=1)
    await trio.sleep(LOOK)
    unit = (await client.ask("get", ids=[reply["seq"]]))["units"][0]
    assert [edge["target"] for edge in unit["relationships"]] == [first["id"]]
    assert (await client.ask("related", of=reply["seq"]))["related"] == []
    assert (await client.refused("put", context="d", text="x", relationships=[edge])).code == "trimmed"


async def test_consumers_pass_over_what_is_gone(server: Server, autojump_clock: MockClock) -> None:
    client, member = await server.connect(), await server.connect()
    await put(client, *"0123")
    stream = await member.send("consume", consumer="w", contexts=["c"], deliveries=1, visibility="1s", prefetch=1, follow=True)
    await trio.sleep(1.5)
    assert (await client.ask("consumer_show", consumer="w"))["consumer"]["parked"] >= 1
    await client.ask("context_retain", context="c", units=1)
    await trio.sleep(LOOK)
    await put(client, "4")
    await trio.sleep(LOOK)
    await member.settle()
    got = [item.event["unit"]["text"] for item in member.items[stream] if "unit" in item.event]
    assert got[0] == "0"
    assert got[-1] == "4"
    parked = (await client.ask("consumer_parked", consumer="w"))["parked"]
    assert None in [row["unit"] for row in parked]
    await client.ask("consumer_retry", consumer="w")
    await trio.sleep(LOOK)
    left = (await client.ask("consumer_parked", consumer="w"))["parked"]
    assert None not in [row["unit"] for row in left], "there is nothing to deliver again"


async def test_a_consumer_is_told_what_it_missed(server: Server, autojump_clock: MockClock) -> None:
    client, member = await server.connect(), await server.connect()
    seqs = [(await put(client, str(number), type="error" if number % 2 else "message"))[0] for number in range(6)]
    await client.ask("consumer_create", consumer="errors", contexts=["c"], type=["error"])
    await client.ask("consumer_create", consumer="elsewhere", contexts=["d"])
    await client.ask("consumer_create", consumer="done", contexts=["c"], **{"from": "now"})
    stream = await member.send("consume", consumer="all", prefetch=1, follow=True)
    await member.settle()
    assert "missed" not in member.items[stream][0].event
    await client.ask("ack", consumer="all", entries=[seqs[0], seqs[2]])
    await client.ask("context_pin", context="c", ids=[seqs[1]])
    await client.ask("context_retain", context="c", units=2)
    await trio.sleep(LOOK)
    await client.ask("ack", consumer="all", entries=[seqs[1]])
    await member.settle()
    last = [item.event for item in member.items[stream] if "unit" in item.event][-1]
    assert (last["unit"]["text"], last["missed"]) == ("5", 2), "3 and 4; 0 and 2 were done, 1 is pinned"
    missed = {row["id"]: row["missed"] for row in (await client.ask("consumer_list"))["consumers"]}
    assert missed == {"all": 2, "errors": 1, "elsewhere": 0, "done": 0}
    assert [event["data"] for event in await events(client, "consumer_missed")] == [
        {"consumer": "all", "entries": [seqs[3], seqs[4]]},
        {"consumer": "errors", "entries": [seqs[3]]},
    ]
    assert server.engine.counters.consumers_missed == 3
    await put(client, "6")
    await client.ask("ack", consumer="all", entries=[seqs[5]])
    await member.settle()
    last = [item.event for item in member.items[stream] if "unit" in item.event][-1]
    assert (last["unit"]["text"], last["missed"]) == ("6", 2), "it was not alone in missing 5"
    await client.ask("consumer_reset", consumer="all", to="start")
    assert (await client.ask("consumer_show", consumer="all"))["consumer"]["missed"] == 0


async def test_old_events_go_when_nothing_rests_on_them(serve: Serve, log: Log, autojump_clock: MockClock) -> None:
    server = serve(keep_events=60_000_000)
    client = await server.connect("me")
    held = await client.ask("lock", resources=["/held"], session=False, ttl="1h")
    released = await client.ask("lock", resources=["/x"])
    await client.ask("unlock", token=released["token"])
    unit = (await put(client, "unit"))[0]
    await client.ask("context_pin", context="c", ids=[unit])
    other = (await put(client, "other"))[0]
    await client.ask("context_pin", context="c", ids=[other])
    await client.ask("context_unpin", context="c", ids=[other])
    await client.ask("context_leave", context="c", agent="me")
    tokens = [(await client.ask("token_issue", agent="bob", permissions=["read"]))["info"]["token"] for _ in range(2)]
    await client.ask("token_revoke", token=tokens[0])
    end = log.last_seq
    cursor = (await events(client))[0]["cursor"]
    await trio.sleep(60 + LOOK)
    kinds = [event["kind"] for event in await events(client)]
    there = ["lock_granted", "context_created", "unit_put", "unit_pinned", "unit_put", "agent_left", "token_issued", "token_revoked"]
    assert kinds == [*there, "events_trimmed"], "a log that is folded again brings back nothing that has ended"
    trim = (await events(client))[-1]["data"]
    there = {event["seq"] if "seq" in event else event["unit"]["seq"] for event in await events(client)}
    assert there | set(trim["removed"]) == set(range(1, log.last_seq + 1))
    assert trim["last"] == end
    assert (await client.ask("locks"))["locks"][0]["token"] == held["token"]
    assert (await client.refused("tail", events=True, after=cursor)).code == "trimmed"
    assert len(unit_texts(await (await client.tail(after=cursor)).replayed())) == 2, "entries are all there"
    await client.ask("unlock", token=held["token"])
    await trio.sleep(60 + LOOK)
    await trio.sleep(60 + LOOK)
    assert [event["kind"] for event in await events(client)].count("events_trimmed") <= 2, "they do not gather either"


async def test_a_restart_goes_on(serve: Serve, log: Log, autojump_clock: MockClock) -> None:
    first = serve()
    client = await first.connect()
    await put(client, *map(str, range(400)))
    await client.ask("context_retain", context="c", units=10)
    await trio.sleep(retention.PAUSE * 1.5)
    first.running.cancel()
    await first.engine.committer.drained()
    assert (await client.ask("context_show", context="c"))["context"]["units"] > 10
    client = await serve().connect()
    await trio.sleep(LOOK)
    assert await listed(client) == [str(number) for number in range(390, 400)]
