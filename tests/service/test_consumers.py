"""Consumers: each unit to one member, again until it is acknowledged, and a place that survives everything."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from wire import Client, Event, Gate, Serve, Server, Tail

from engramd.protocol.messages import OPERATIONS
from engramd.service import consumers as service
from engramd.service import groups
from engramd.storage.log import Log

NAME = "w"


async def put(client: Client, *texts: str, context: str = "c", **fields: Any) -> int:
    """Put units as one batch; gives the last one's seq."""
    made = await client.ask("put", context=context, units=[{"text": text, **fields} for text in texts])
    return int(made["seq"])


async def consume(client: Client, **fields: Any) -> Tail:
    """Take part in the consumer, and follow."""
    return Tail(client, await client.send("consume", **{"consumer": NAME, "follow": True, **fields}))


async def ack(client: Client, *events: Event) -> bool:
    """Acknowledge delivered items."""
    result = await client.ask("ack", consumer=NAME, entries=[event["cursor"] for event in events])
    OPERATIONS["ack"].result.check(result)
    return bool(result["changed"])


async def show(client: Client) -> dict[str, Any]:
    """The consumer, described."""
    result: dict[str, Any] = await client.ask("consumer_show", consumer=NAME)
    return dict(result["consumer"])


async def arrived(member: Tail) -> list[str]:
    """The texts of the units that arrive before nothing happens any more."""
    return [event["unit"]["text"] for event in await member.arrived() if "unit" in event]


async def events(client: Client, kind: str) -> list[dict[str, Any]]:
    """What the log says of a kind of event."""
    tail = await client.tail(after=0, events=True, credit=10**7)
    return [event["data"] for event in await tail.replayed() if event["kind"] == kind]


async def test_units_come_one_at_a_time_until_acknowledged(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect("ann")
    await put(client, "1", "2", "3")
    member = await consume(client)
    first = await member.next()
    assert (first["unit"]["text"], first["kind"], first["deliveries"]) == ("1", "unit_put", 1)
    assert await arrived(member) == []
    assert await ack(client, first)
    second = await member.next()
    assert second["unit"]["text"] == "2"
    assert not await ack(client, first), "that was done already"
    assert await ack(client, second)
    assert await arrived(member) == ["3"]
    await put(client, "4")
    assert await arrived(member) == []


async def test_a_consumer_goes_on_where_it_was(tmp_path: Path, autojump_clock: MockClock) -> None:
    left: list[str] = []
    for round_ in range(3):
        log = Log(tmp_path / "log")
        async with trio.open_nursery() as nursery:
            client = await Server(log, nursery).connect()
            new = [f"{round_}.{number}" for number in range(4)]
            await put(client, *new)
            got = await (await consume(client, prefetch=20)).take(len(left) + 4)
            assert [event["unit"]["text"] for event in got] == [*left, *new], "what was not acknowledged comes again, in order"
            left = [*left[:1], new[1], new[3]]
            assert await ack(client, *(event for event in got if event["unit"]["text"] not in left))
            nursery.cancel_scope.cancel()
        log.close()


async def test_each_unit_goes_to_one_member(server: Server, autojump_clock: MockClock) -> None:
    writer = await server.connect()
    clients = [await server.connect(f"member{number}") for number in range(5)]
    got: Counter[str] = Counter()
    share: Counter[int] = Counter()
    async with trio.open_nursery() as nursery:

        async def work(number: int) -> None:
            member = await consume(clients[number], prefetch=1 + number, visibility="1h")
            member.refill = True
            while sum(got.values()) < 300:
                event = await member.next()
                if "unit" in event:
                    got[event["unit"]["text"]] += 1
                    share[number] += 1
                    await trio.sleep(0.01)
                    await ack(clients[number], event)
            nursery.cancel_scope.cancel()

        for number in range(5):
            nursery.start_soon(work, number)
        for batch in range(30):
            await put(writer, *(f"{batch}.{number}" for number in range(10)))
            await trio.sleep(0.02)
    assert set(got.values()) == {1}
    assert min(share.values()) > 10, "everyone has something to do"


async def test_what_a_member_had_goes_to_another_when_it_dies(server: Server, autojump_clock: MockClock) -> None:
    writer, first, second = [await server.connect(name) for name in ("writer", "first", "second")]
    await put(writer, *"abcd")
    one = await consume(first, prefetch=3)
    assert [event["unit"]["text"] for event in await one.take(3)] == list("abc")
    two = await consume(second, prefetch=9)
    assert await arrived(two) == ["d"]
    await first.stream.aclose()
    again = await two.take(3)
    assert [(event["unit"]["text"], event["deliveries"]) for event in again] == [("a", 2), ("b", 1), ("c", 1)], "only the first was begun"


async def test_a_unit_that_is_held_too_long_goes_to_another(server: Server, autojump_clock: MockClock) -> None:
    writer, first, second = [await server.connect(name) for name in ("writer", "first", "second")]
    await put(writer, *"ab")
    one = await consume(first, prefetch=2, visibility="60s")
    held = await one.take(2)
    two = await consume(second)
    await trio.sleep(59)
    assert await arrived(two) == []
    await trio.sleep(2)
    event = await two.next()
    while "unit" not in event:
        event = await two.next()
    assert (event["unit"]["text"], event["deliveries"]) == ("a", 2)
    assert await ack(first, held[0]), "a late acknowledgement counts"
    assert not await ack(second, event)
    assert (await two.next())["unit"]["text"] == "b"


async def test_the_time_of_a_unit_begins_when_those_before_it_are_done(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    await put(client, *"abc")
    member = await consume(client, prefetch=3, visibility="10s")
    held = await member.take(3)
    for event in held:
        await trio.sleep(8)
        assert await ack(client, event)
    assert await arrived(member) == []


async def test_a_unit_that_fails_too_often_is_parked_and_can_be_retried(server: Server, autojump_clock: MockClock) -> None:
    watcher = await server.connect("watcher")
    await put(watcher, "good", "poison", "fine")
    seen = []
    for _ in range(4):
        client = await server.connect()
        member = await consume(client, prefetch=2, deliveries=3)
        event = await member.next()
        while event["unit"]["text"] != "poison":
            seen.append((event["unit"]["text"], event["deliveries"]))
            if event["unit"]["text"] == "fine":
                break
            await ack(client, event)
            event = await member.next()
        else:
            seen.append((event["unit"]["text"], event["deliveries"]))
        await client.stream.aclose()
        await watcher.settle()
    assert seen == [("good", 1), ("poison", 1), ("poison", 2), ("poison", 3), ("fine", 1)]
    described = await show(watcher)
    assert (described["parked"], described["waiting"]) == (1, 1)
    parked = (await watcher.ask("consumer_parked", consumer=NAME))["parked"]
    assert [(row["unit"]["text"], row["deliveries"], row["again"]) for row in parked] == [("poison", 3, False)]

    assert (await watcher.ask("consumer_retry", consumer=NAME))["changed"]
    assert not (await watcher.ask("consumer_retry", consumer=NAME))["changed"]
    assert (await watcher.refused("consumer_retry", consumer=NAME, entries=[1])).code == "not_found"
    client = await server.connect()
    member = await consume(client, prefetch=2)
    again = await member.take(2)
    assert [(event["unit"]["text"], event["deliveries"]) for event in again] == [("poison", 1), ("fine", 2)]
    await ack(client, *again)
    described = await show(watcher)
    assert (described["parked"], described["waiting"], described["held"]) == (0, 0, 0)
    assert (await watcher.ask("consumer_parked", consumer=NAME)) == {"parked": [], "next": None}


async def test_a_parked_unit_can_be_given_up(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    seq = await put(client, "poison")
    member = await consume(await server.connect(), deliveries=1)
    await member.next()
    await member.client.stream.aclose()
    await client.settle()
    assert (await show(client))["parked"] == 1
    assert (await client.ask("ack", consumer=NAME, entries=[seq]))["changed"]
    assert (await show(client))["parked"] == 0
    assert not (await client.ask("ack", consumer=NAME, entries=[seq]))["changed"]


@pytest.mark.parametrize("key", ["agent", "meta:k"])
async def test_units_of_one_key_go_out_one_at_a_time_in_order(server: Server, autojump_clock: MockClock, key: str) -> None:
    clients = [await server.connect(f"member{number}") for number in range(4)]
    writers = [await server.connect(f"writer{number}") for number in range(3)]
    for number in range(60):
        await put(writers[number % 3], str(number), meta={"k": f"writer{number % 3}"})
    await put(writers[0], *(f"free{number}" for number in range(3)))
    order: dict[str, list[int]] = {}
    running: set[str] = set()
    async with trio.open_nursery() as nursery:

        async def work(client: Client, pause: float) -> None:
            member = await consume(client, key=key, prefetch=5)
            member.refill = True
            while True:
                event = await member.next()
                if "unit" not in event or event["unit"]["text"].startswith("free"):
                    continue
                name = event["unit"]["meta"]["k"]
                assert name not in running
                running.add(name)
                await trio.sleep(pause)
                running.remove(name)
                order.setdefault(name, []).append(int(event["unit"]["text"]))
                await ack(client, event)
                if sum(map(len, order.values())) == 60:
                    nursery.cancel_scope.cancel()

        for at, client in enumerate(clients):
            nursery.start_soon(work, client, 0.01 * at)
    assert order == {f"writer{at}": list(range(at, 60, 3)) for at in range(3)}


async def test_without_follow_a_stream_ends_when_all_is_done(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    last = await put(client, *"ab")
    member = await consume(client, follow=False, contexts=["c"])
    await ack(client, await member.next())
    await put(client, "late")
    await ack(client, await member.next())
    _, answer = await member.ended()
    assert int(answer["cursor"].split(".")[1]) >= last
    again = await consume(client, follow=False)
    await ack(client, event := await again.next())
    assert event["unit"]["text"] == "late"
    await again.ended()
    assert (await (await consume(client, follow=False)).ended())[0] == []


async def test_where_a_new_consumer_starts(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    first = await put(client, "1")
    await trio.sleep(100)
    await put(client, "2")
    for place, expected in (("start", ["1", "2"]), (first, ["2"]), ("50s", ["2"]), ("now", []), (0, ["1", "2"])):
        member = Tail(client, await client.send("consume", consumer=f"from {place}", **{"from": place, "follow": True, "prefetch": 5}))
        assert await arrived(member) == expected
    for place, code in (("never", "invalid"), (10**6, "cursor"), ("0123456789ab.1", "cursor")):
        assert (await client.refused("consume", consumer="x", **{"from": place})).code == code
    assert len((await client.ask("consumer_list"))["consumers"]) == 5


async def test_filters_and_contexts(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    member = await consume(client, contexts=["a", "b"], type=["error"], meta={"k": "v"}, prefetch=10)
    for context in "abc":
        await put(client, f"{context} yes", context=context, type="error", meta={"k": "v"})
        await put(client, f"{context} no", context=context, type="message", meta={"k": "v"})
        await put(client, f"{context} no", context=context, type="error")
    assert await arrived(member) == ["a yes", "b yes"]
    described = await show(client)
    assert (described["contexts"], described["filter"]) == (["a", "b"], {"types": ["error"], "meta": {"k": "v"}})


async def test_settings_are_those_of_the_first(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    settings = {"contexts": ["b", "a"], "type": "error", "key": "agent", "visibility": "1m", "deliveries": 3}
    await (await consume(client, follow=False, **settings)).ended()
    await (await consume(client, follow=False)).ended()
    await (await consume(client, follow=False, **{**settings, "contexts": ["a", "b"], "visibility": 60_000_000})).ended()
    for name, other in (("contexts", ["a"]), ("type", "message"), ("key", "meta:k"), ("visibility", "2m"), ("deliveries", 4)):
        error = await client.refused("consume", consumer=NAME, **{name: other})
        assert (error.code, error.details["setting"]) == ("conflict", "filter" if name == "type" else name)
    for wrong in ({"key": "type"}, {"key": "meta:"}, {"visibility": 0}, {"visibility": "8d"}, {"deliveries": 0}, {"prefetch": 0}):
        assert (await client.refused("consume", consumer="other", **wrong)).code == "invalid"
    assert [row["id"] for row in (await client.ask("consumer_list"))["consumers"]] == [NAME]
    assert (await client.ask("names", kind="consumers", prefix="")) == {"names": [NAME]}


async def test_a_reset_delivers_again_or_skips(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    seqs = [await put(client, text) for text in "abcd"]
    member = await consume(client, prefetch=2)
    await ack(client, *await member.take(2))
    assert await arrived(member) == ["c", "d"]
    assert (await client.ask("consumer_reset", consumer=NAME, to="start"))["cursor"].endswith(".0")
    assert await arrived(member) == ["a", "b"]
    await client.ask("consumer_reset", consumer=NAME, to=seqs[2])
    assert await arrived(member) == ["d"]
    await client.ask("consumer_reset", consumer=NAME, to="now")
    await put(client, "e")
    assert await arrived(member) == ["e"]
    for place, code in (("never", "invalid"), (10**6, "cursor")):
        assert (await client.refused("consumer_reset", consumer=NAME, to=place)).code == code


async def test_deleting_ends_the_streams_of_members(server: Server, autojump_clock: MockClock) -> None:
    client, other = await server.connect("ann"), await server.connect("bob")
    await put(client, "a")
    members = [await consume(client), await consume(other)]
    await client.settle()
    assert await client.ask("consumer_delete", consumer=NAME) == {}
    for member in members:
        error = await member.client.failure(member.id)
        assert error.code == "not_found"
        assert "deleted by ann" in error.message
    for op in ("consumer_show", "consumer_delete", "consumer_parked", "consumer_retry"):
        assert (await client.refused(op, consumer=NAME)).code == "not_found"
    assert (await client.refused("ack", consumer=NAME, entries=[2])).code == "not_found"
    assert (await client.refused("consumer_reset", consumer=NAME, to="now")).code == "not_found"
    again = await consume(client)
    assert (await again.next())["deliveries"] == 1


async def test_a_member_that_does_not_read_delays_no_other(server: Server, autojump_clock: MockClock) -> None:
    writer, stuck, quick = [await server.connect(name) for name in ("writer", "stuck", "quick")]
    await consume(stuck, prefetch=1000, credit=2000)
    await writer.settle()
    for batch in range(20):
        await put(writer, *(f"{batch}.{number}".ljust(500) for number in range(100)))
    member = await consume(quick, prefetch=50)
    member.refill = True
    got = []
    while len(got) < 1990:
        event = await member.next()
        got.append(int(event["cursor"].split(".")[1]))
        if len(got) % 25 == 0 or len(got) == 1990:
            await ack(quick, *({"cursor": seq} for seq in got[-25:]))
    assert sorted(got) == got
    described = await show(writer)
    assert 0 < described["members"][0]["held"] <= 10, "as much as its credit let through"


async def test_acknowledgements_coalesce_into_few_events(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    last = await put(client, *(str(number) for number in range(500)))
    member = await consume(client, prefetch=100)
    member.refill = True
    sent = []
    for _ in range(500):
        event = await member.next()
        sent.append(await client.send("ack", consumer=NAME, entries=[event["cursor"]]))
    for request in sent:
        assert (await client.answer(request)) == {"changed": True}
    acked = await events(client, "consumer_acked")
    assert 1 <= len(acked) < 30
    assert int((await show(client))["cursor"].split(".")[1]) >= last
    assert await arrived(member) == [], "events of its own are not delivered"


async def test_an_acknowledgement_is_answered_when_it_is_on_disk(serve: Serve, autojump_clock: MockClock) -> None:
    gate = Gate()
    gate.open()
    client = await serve(gate=gate).connect()
    await put(client, "a", "b")
    member = await consume(client)
    event = await member.next()
    gate.close()
    request = await client.send("ack", consumer=NAME, entries=[event["cursor"]])
    assert (await member.next())["unit"]["text"] == "b", "its place is free at once"
    assert request not in client.answers
    gate.open()
    assert await client.answer(request) == {"changed": True}


async def test_what_is_passed_over_is_written_down_now_and_then(
    server: Server, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "FAR", 50)
    client = await server.connect()
    await consume(client, type="error")
    for _ in range(10):
        last = await put(client, *(str(number) for number in range(40)))
        await client.settle(1)
    assert int((await show(client))["cursor"].split(".")[1]) > last - 100
    assert 2 < len(await events(client, "consumer_acked")) < 12


async def test_units_can_be_acknowledged_before_they_come_and_without_members(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    seqs = [await put(client, text) for text in "abcdef"]
    await (await consume(client, follow=False, **{"from": "now"})).ended()
    await client.ask("consumer_reset", consumer=NAME, to="start")
    assert (await client.ask("ack", consumer=NAME, entries=[seqs[1]])) == {"changed": True}
    assert (await client.ask("ack", consumer=NAME, entries=[seqs[1]])) == {"changed": False}
    member = await consume(client)
    await member.next()
    assert (await client.ask("ack", consumer=NAME, entries=[seqs[4], seqs[0]])) == {"changed": True}
    assert await arrived(member) == ["c"]
    await client.ask("ack", consumer=NAME, entries=[seqs[2]])
    assert await arrived(member) == ["d"]
    await client.ask("ack", consumer=NAME, entries=[seqs[3]])
    assert await arrived(member) == ["f"]
    assert (await client.refused("ack", consumer=NAME, entries=[seqs[-1] + 100])).code == "cursor"
    assert (await client.refused("ack", consumer=NAME, entries=[0])).code == "cursor"


async def test_a_heartbeat_comes_in_silence(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    member = await consume(client)
    started = trio.current_time()
    event = await member.next()
    assert event["kind"] == "heartbeat"
    assert 4.9 < trio.current_time() - started < 5.1


async def test_there_are_bounds(server: Server, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MAX_CONSUMERS", 3)
    monkeypatch.setattr(groups, "MAX_MEMBERS", 2)
    client = await server.connect()
    for number in range(3):
        await (Tail(client, await client.send("consume", consumer=f"n{number}"))).ended()
    assert (await client.refused("consume", consumer="n3")).code == "busy"
    for _ in range(2):
        await client.send("consume", consumer="n0", follow=True)
    await client.settle()
    assert (await client.refused("consume", consumer="n0")).code == "busy"
    await client.ask("consumer_delete", consumer="n1")
    await (Tail(client, await client.send("consume", consumer="n3"))).ended()
