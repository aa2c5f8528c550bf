"""`put`, `get` and `list` over a connection."""

from __future__ import annotations

import cbor2
import pytest
import trio
from trio.testing import MockClock
from wire import EPOCH, Client, Serve, Server, texts

from engramd.protocol.messages import MAX_CREDIT, MIB, PAGE_BYTES
from engramd.protocol.unit import format_id

SECOND = 1_000_000


async def put_all(client: Client, context: str, count: int, **fields: object) -> list[int]:
    """Put numbered units one by one, and give their seqs."""
    return [(await client.ask("put", context=context, text=str(number), **fields))["seq"] for number in range(count)]


async def test_a_unit_comes_back_by_id_and_by_seq(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect("alice")
    await client.ask("put", context="other", text="target")
    target = (await client.ask("get", ids=[2]))["units"][0]["id"]
    edge = {"type": "causes", "target": target, "meta": {"why": "test"}}
    answer = await client.ask("put", context="c", text="héllo", type="reasoning", meta={"k": "v"}, relationships=[edge])
    [unit] = (await client.ask("get", ids=[answer["id"]]))["units"]
    assert unit == {
        "id": answer["id"],
        "seq": answer["seq"],
        "ts": answer["ts"],
        "context": "c",
        "agent": "alice",
        "type": "reasoning",
        "meta": {"k": "v"},
        "text": "héllo",
        "relationships": [edge],
    }
    assert not answer["deduped"]
    refs = [answer["seq"], str(answer["seq"]), format_id(answer["id"]), answer["id"]]
    assert (await client.ask("get", ids=refs))["units"] == [unit] * 4


async def test_bytes_come_back_as_they_were(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    await client.ask("put", context="c", payload=b"\xff\x00")
    await client.ask("put", context="c", payload="tëxt".encode())
    raw, text = (await client.ask("list", context="c"))["units"]
    assert raw["payload"] == b"\xff\x00"
    assert "text" not in raw
    assert text["text"] == "tëxt", "bytes that are UTF-8 are text"


async def test_several_units_are_one_batch(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    drafts = [{"text": str(number), "type": "system"} for number in range(5)]
    answer = await client.ask("put", context="c", units=drafts, agent="bob")
    units = (await client.ask("get", ids=answer["ids"]))["units"]
    assert texts(units) == ["0", "1", "2", "3", "4"]
    assert [unit["seq"] for unit in units] == list(range(answer["seq"] - 4, answer["seq"] + 1))
    assert {(unit["agent"], unit["type"], unit["ts"]) for unit in units} == {("bob", "system", answer["ts"])}
    assert answer["id"] == answer["ids"][-1]


async def test_one_bad_unit_of_several_leaves_none(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    drafts = [{"text": "good"}, {"text": "bad", "relationships": [{"type": "causes", "target": bytes(16)}]}]
    assert (await client.refused("put", context="c", units=drafts)).code == "not_found"
    assert (await client.refused("list", context="c", after="x")).code == "invalid"
    assert (await client.ask("list", context="c"))["units"] == []
    assert (await client.ask("status"))["status"]["last_seq"] == 0


async def test_get_says_what_is_missing(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    await client.ask("put", context="c", text="x")
    missing = await client.refused("get", ids=[2, 99])
    assert (missing.code, missing.details) == ("not_found", {"seq": 99})
    assert (await client.refused("get", ids=[1])).code == "not_found", "event 1 is no entry but the context's creation"
    assert (await client.refused("get", ids=[bytes(16)])).code == "not_found"
    assert (await client.refused("get", ids=["no such thing"])).code == "invalid"


async def test_a_payload_over_the_limit_is_refused_and_nothing_else(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    fits = "x" * MIB
    refused = await client.refused("put", context="c", text=fits + "x")
    assert refused.code == "too_large"
    assert refused.details == {"limit": MIB, "size": MIB + 1}
    assert (await client.refused("put", context="c", payload=b"\xff" * (MIB + 1))).code == "too_large"
    assert (await client.refused("put", context="c", text="é" * (MIB // 2 + 1))).code == "too_large", "bytes count, not characters"
    answer = await client.ask("put", context="c", text=fits)
    assert texts((await client.ask("get", ids=[answer["id"]]))["units"]) == [fits]


async def test_pages_follow_one_another(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    await put_all(client, "c", 25)
    await put_all(client, "c:d", 3)
    everything = [str(number) for number in range(25)]
    for reverse in (False, True):
        pages: list[list[str]] = []
        more: dict[str, object] = {}
        while True:
            answer = await client.ask("list", context="c", limit=10, reverse=reverse, **more)
            pages.append(texts(answer["units"]))
            if answer["next"] is None:
                break
            more = {"after": answer["next"]}
        assert [len(page) for page in pages] == [10, 10, 5]
        found = [text for page in pages for text in page]
        assert found == (everything[::-1] if reverse else everything)


@pytest.mark.parametrize("reverse", [False, True])
async def test_a_page_that_is_just_full_is_the_last(server: Server, autojump_clock: MockClock, reverse: bool) -> None:
    client = await server.connect()
    await put_all(client, "c", 10)
    answer = await client.ask("list", context="c", limit=10, reverse=reverse)
    assert len(answer["units"]) == 10
    assert answer["next"] is None


async def test_an_empty_context_has_one_empty_page(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    for reverse in (False, True):
        assert await client.ask("list", context="nothing", reverse=reverse) == {"units": [], "next": None}


async def test_after_takes_a_plain_seq_in_either_direction(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    seqs = await put_all(client, "c", 6)
    assert texts((await client.ask("list", context="c", after=seqs[2]))["units"]) == ["3", "4", "5"]
    assert texts((await client.ask("list", context="c", after=str(seqs[2]), reverse=True))["units"]) == ["1", "0"]
    assert (await client.refused("list", context="c", after=10**6)).code == "cursor"


async def test_a_page_ends_before_it_is_too_large(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    size, count = 100_000, 12
    for number in range(count):
        await client.ask("put", context="c", text=str(number).ljust(size))
    found: list[str] = []
    more: dict[str, object] = {}
    while more.get("after", "") is not None:
        answer = await client.ask("list", context="c", **more)
        assert size <= len(cbor2.dumps(answer)) <= PAGE_BYTES + 2 * size
        found += [text.strip() for text in texts(answer["units"])]
        more = {"after": answer["next"]}
    assert found == [str(number) for number in range(count)]


async def test_times_select(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    for number in range(6):
        await client.ask("put", context="c", text=str(number))
        await trio.sleep(10)
    # The wall clock stands at EPOCH + 60 s now; unit n was put at EPOCH + n * 10 s.
    between = await client.ask("list", context="c", since=EPOCH + 20 * SECOND, until=EPOCH + 40 * SECOND)
    assert texts(between["units"]) == ["2", "3"], "since is inclusive, until is not"
    assert texts((await client.ask("list", context="c", since="30s"))["units"]) == ["3", "4", "5"]
    assert texts((await client.ask("list", context="c", until="30s", reverse=True))["units"]) == ["2", "1", "0"]
    assert (await client.ask("list", context="c", since="now"))["units"] == []
    assert (await client.ask("list", context="c", until=0))["units"] == []
    assert (await client.refused("list", context="c", since="teatime")).code == "invalid"


async def test_filters_select(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect("alice")
    first = await client.ask("put", context="c", text="0", type="message")
    edge = {"type": "responds_to", "target": first["id"]}
    await client.ask("put", context="c", text="1", type="error", agent="bob", meta={"k": "v", "other": "x"}, relationships=[edge])
    await client.ask("put", context="c", text="2", type="message", agent="bob", meta={"k": "w"}, relationships=[edge])
    await client.ask("put", context="c", text="3", type="system", agent="carol", meta={"k": "v"})
    await client.ask("put", context="elsewhere", text="4", agent="bob", meta={"k": "v"}, relationships=[edge])

    async def found(**filters: object) -> list[str]:
        forward = texts((await client.ask("list", context="c", **filters))["units"])
        backward = texts((await client.ask("list", context="c", reverse=True, **filters))["units"])
        assert backward == forward[::-1]
        return forward

    assert await found(agent="bob") == ["1", "2"]
    assert await found(agent=["bob", "carol"]) == ["1", "2", "3"]
    assert await found(type="message") == ["0", "2"]
    assert await found(type=["message", "system"]) == ["0", "2", "3"]
    assert await found(meta={"k": "v"}) == ["1", "3"]
    assert await found(meta={"k": "v", "other": "x"}) == ["1"]
    assert await found(related_to=first["id"]) == ["1", "2"]
    assert await found(related_to=first["seq"]) == ["1", "2"]
    assert await found(related_to=format_id(first["id"]), type="error", agent="bob", meta={"k": "v"}) == ["1"]
    assert await found(agent="nobody") == []
    assert (await client.refused("list", context="c", related_to=99)).code == "not_found"


async def test_a_search_through_many_units_goes_on_while_others_are_answered(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    for _ in range(3):
        await client.ask("put", context="c", units=[{"text": "hay", "meta": {"k": "v"}}] * 1000)
    await client.ask("put", context="c", text="needle", type="error", meta={"k": "v"})
    request, long_one = client.frame("list", context="c", meta={"k": "v"}, type=["error", "system", "unknown"])  # too many to be looked up
    quick, short_one = client.frame("get", ids=[2])
    await client.stream.send_all(long_one + short_one)
    await client.answer(quick)
    assert request not in client.answers, "the quick answer came first"
    assert texts((await client.answer(request))["units"]) == ["needle"]


async def test_an_added_unit_arrives_later_and_a_removed_one_is_hidden(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    first = await client.ask("put", context="a", text="first")
    await client.ask("put", context="b", text="second")
    assert await client.ask("context_add", context="b", ids=[first["id"]]) == {"changed": True}
    assert await client.ask("context_add", context="b", ids=[first["seq"]]) == {"changed": False}
    own, added = (await client.ask("list", context="b"))["units"]
    assert (own["text"], added["text"]) == ("second", "first")
    assert added["entry"] > own["seq"] > added["seq"]
    assert (await client.ask("get", ids=[added["entry"]]))["units"][0]["id"] == first["id"], "an entry's seq leads to its unit"
    await client.ask("context_remove", context="b", ids=[own["seq"]])
    assert texts((await client.ask("list", context="b"))["units"]) == ["first"]
    assert texts((await client.ask("get", ids=[own["seq"]]))["units"]) == ["second"], "what is removed stays in the log"
    await client.ask("context_remove", context="a", ids=[first["id"]])
    assert (await client.ask("list", context="a"))["units"] == []


async def test_a_repeated_put_with_a_dedupe_key_answers_with_the_first(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    first = await client.ask("put", context="c", text="once", dedupe="key")
    await trio.sleep(1)
    again = await client.ask("put", context="c", text="twice", dedupe="key")
    assert again == {**first, "deduped": True}
    other = await client.ask("put", context="d", text="other", dedupe="key")
    assert not other["deduped"], "a key belongs to its context"
    assert texts((await client.ask("list", context="c"))["units"]) == ["once"]


async def test_a_dedupe_key_stands_for_all_units_of_its_put(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    first = await client.ask("put", context="c", units=[{"text": "1"}, {"text": "2"}], dedupe="key")
    again = await client.ask("put", context="c", units=[{"text": "1"}, {"text": "2"}], dedupe="key")
    assert again == {**first, "deduped": True}
    assert len((await client.ask("list", context="c"))["units"]) == 2


async def test_equal_dedupe_keys_in_one_chunk(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    one, first = client.frame("put", context="c", text="1", dedupe="key")
    two, second = client.frame("put", context="c", text="2", dedupe="key")
    await client.stream.send_all(first + second)
    answer = await client.answer(one)
    assert not answer["deduped"]
    assert await client.answer(two) == {**answer, "deduped": True}
    assert len((await client.ask("list", context="c"))["units"]) == 1


async def test_a_dedupe_key_is_remembered_across_a_restart(server: Server, autojump_clock: MockClock, serve: Serve) -> None:
    client = await server.connect()
    first = await client.ask("put", context="c", text="once", dedupe="key")
    reopened = await serve().connect()
    assert await reopened.ask("put", context="c", text="once", dedupe="key") == {**first, "deduped": True}


async def test_expect_seq_lets_one_of_two_writers_through(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    empty = await client.ask("put", context="c", text="first", expect_seq=0)
    conflict = await client.refused("put", context="c", text="late", expect_seq=0)
    assert conflict.code == "conflict"
    assert conflict.details == {"expected": 0, "actual": empty["seq"]}
    await client.ask("put", context="other", text="x")
    second = await client.ask("put", context="c", text="second", expect_seq=empty["seq"])
    assert second["seq"] > empty["seq"] + 1, "other contexts do not count"
    assert texts((await client.ask("list", context="c"))["units"]) == ["first", "second"]


async def test_time_never_falls(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    first = await client.ask("put", context="c", text="1")
    server.skew = -3600 * SECOND
    second = await client.ask("put", context="c", text="2")
    assert second["ts"] == first["ts"]
    assert second["id"] != first["id"]
    server.skew = 0
    await trio.sleep(1)
    third = await client.ask("put", context="c", text="3")
    assert third["ts"] == first["ts"] + SECOND


async def test_time_never_falls_across_a_restart(server: Server, autojump_clock: MockClock, serve: Serve) -> None:
    await trio.sleep(100)
    first = await (await server.connect()).ask("put", context="c", text="1")
    restarted = serve()
    assert restarted.clock() < first["ts"]
    second = await (await restarted.connect()).ask("put", context="c", text="2")
    assert second["ts"] == first["ts"]


async def test_requests_may_follow_hello_unawaited(server: Server, autojump_clock: MockClock) -> None:
    client = server.open()
    put, first = client.frame("put", context="c", text="x")
    get, second = client.frame("status")
    await client.stream.send_all(client.connection.hello({"agent": "eager"}) + first + second)
    greeting = await client.answer(0)
    assert greeting["history"] == server.log.history
    assert greeting["limits"]["max_payload"] == MIB
    assert (await client.answer(put))["seq"] == 2
    assert (await client.answer(get))["status"]["connections"] == 1


async def test_requests_may_arrive_byte_by_byte(server: Server, autojump_clock: MockClock) -> None:
    client = server.open()
    put, request = client.frame("put", context="c", text="slow")
    for byte in client.connection.hello({"agent": "slow"}) + request:
        await client.stream.send_all(bytes([byte]))
    assert (await client.answer(put))["seq"] == 2


async def test_a_unit_near_every_limit_can_be_read(server: Server, autojump_clock: MockClock) -> None:
    """What the daemon takes it can send again, alone and on a page behind others, within the frame limit that it told its clients."""
    client = await server.connect()
    target = (await client.ask("put", context="c", text="x"))["id"]
    notes = {f"{number:03}".ljust(128, "k"): "v" * 4096 for number in range(64)}
    edges = [{"type": "causes", "target": target, "meta": {"why": "w" * 4096}}] * 30
    await client.ask("put", context="c", text="y" * (PAGE_BYTES - 4096))
    put = await client.ask("put", context="c", text="z" * MIB, meta=notes, relationships=edges, agent="a" * 256)
    assert (await client.ask("get", ids=[put["id"]]))["units"][0]["seq"] == put["seq"]
    assert len((await client.ask("list", context="c"))["units"]) == 3
    tail = await client.tail(last=1, credit=MAX_CREDIT)
    assert [event["unit"]["seq"] for event in await tail.replayed()] == [put["seq"]]


async def test_relationships_with_too_many_notes_are_refused(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    target = (await client.ask("put", context="c", text="x"))["id"]
    notes = {f"{number}": "v" * 4096 for number in range(40)}
    refused = await client.refused("put", context="c", text="x", relationships=[{"type": "causes", "target": target, "meta": notes}])
    assert refused.code == "too_large"
    assert "relationships" in refused.message
