"""`tail`: replay, the live mark, and what is live, in order, without a gap and without a duplicate."""

from __future__ import annotations

import random

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked
from wire import EPOCH, Client, Gate, Serve, Server, Tail, unit_texts

from engramd.protocol.connection import item_frame
from engramd.protocol.cursor import format_cursor
from engramd.protocol.errors import EngramError
from engramd.protocol.framing import LENGTH
from engramd.protocol.messages import ENTRY_KINDS, MAX_CREDIT
from engramd.service import turns
from engramd.service.fanout import entry_item
from engramd.service.subscriptions import FULL, HEARTBEAT, entry_frames
from engramd.storage.log import Batch, Log
from engramd.storage.query import MAX_SCANS, STEP_ROWS, Entry

SECOND = 1_000_000


async def put_numbers(client: Client, context: str, count: int, first: int = 0, **fields: object) -> None:
    """Put numbered units, each on its own."""
    for number in range(first, first + count):
        await client.ask("put", context=context, text=str(number), **fields)


def numbers(first: int, end: int) -> list[str]:
    return [str(number) for number in range(first, end)]


@given(
    st.integers(0, 2**63 - 1) | st.text(max_size=30) | st.just("0123456789ab.0"),
    st.lists(st.builds(Entry, st.integers(1, 2**63 - 1), st.just("c"), st.sampled_from(ENTRY_KINDS), st.binary(min_size=1, max_size=20))),
)
def test_frames_made_together_are_those_made_one_by_one(request_id: int | str, entries: list[Entry]) -> None:
    history = "0123456789ab"
    made = entry_frames(request_id, history, entries)
    assert made == b"".join(item_frame(request_id, entry_item(history, entry)) for entry in entries)


async def test_replay_then_the_mark_then_live(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    await put_numbers(client, "c", 3)
    tail = await client.tail(contexts=["c"], after=0, follow=True)
    replayed = await tail.replayed()
    assert unit_texts(replayed) == numbers(0, 3)
    await put_numbers(client, "c", 3, first=3)
    live = await tail.arrived()
    assert unit_texts(live) == numbers(3, 6)
    for event in replayed + live:
        assert event["kind"] == "unit_put"
        assert event["cursor"] == format_cursor(server.log.history, event["unit"]["seq"])
    assert set(replayed[0]) == set(live[0]), "a replayed item is no different from a live one"
    assert live[0]["unit"] == (await client.ask("get", ids=[live[0]["unit"]["seq"]]))["units"][0]


async def test_without_a_starting_point_only_what_is_new_comes(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    await put_numbers(client, "c", 3)
    tail = await client.tail(contexts=["c"], follow=True)
    assert await tail.replayed() == []
    await put_numbers(client, "c", 1, first=3)
    assert unit_texts(await tail.arrived()) == ["3"]


@pytest.mark.parametrize("seed", range(5))
async def test_no_gap_and_no_duplicate_whenever_a_subscriber_comes(serve: Serve, autojump_clock: MockClock, seed: int) -> None:
    """Subscribers begin at random moments of a busy writer, on a disk that takes its time."""
    rng = random.Random(seed)

    async def slow(batch: Batch) -> None:
        await trio.sleep(rng.choice((0, 0.001, 0.01)))
        batch.commit()

    server = serve(write=slow)
    count = 200

    async def write() -> None:
        client = await server.connect("writer")
        for number in range(count):
            await client.ask("put", context="c", text=str(number), type=rng.choice(("message", "error")))
            await trio.sleep(rng.choice((0, 0, 0.001)))

    async def subscribe(found: list[list[str]]) -> None:
        await trio.sleep(rng.random() * 0.5)
        client = await server.connect()
        tail = await client.tail(contexts=["c"], after=0, follow=True, credit=rng.choice((1, 5000, MAX_CREDIT)))
        tail.refill = True
        texts: list[str] = []
        while len(texts) < count:
            event = await tail.next()
            if "unit" in event:
                texts.append(event["unit"]["text"])
        found.append(texts)

    found: list[list[str]] = []
    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            for _ in range(20):
                nursery.start_soon(subscribe, found)
    assert found == [numbers(0, count)] * 20


@pytest.mark.parametrize("last", [0, 1, 5, 30, 99])
async def test_last_goes_back_so_many_entries(server: Server, autojump_clock: MockClock, last: int) -> None:
    client = await server.connect()
    for number in range(30):
        await client.ask("put", context="c", text=str(number))
        await client.ask("put", context="noise", text="noise")
    tail = await client.tail(contexts=["c"], last=last)
    assert unit_texts(await tail.replayed()) == numbers(max(0, 30 - last), 30)


async def test_last_goes_back_through_more_than_a_step(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    drafts = [{"text": str(number), "meta": {"k": "v"}, "type": "error" if number % 100 == 0 else "message"} for number in range(1000)]
    await client.ask("put", context="c", units=drafts)
    rare = await client.tail(contexts=["c"], meta={"k": "v"}, type="error", last=8)
    assert unit_texts(await rare.replayed()) == [str(number) for number in range(200, 1000, 100)]
    many = await client.tail(contexts=["c"], last=STEP_ROWS + 100)
    assert unit_texts(await many.replayed()) == numbers(900 - STEP_ROWS, 1000)


async def test_since_starts_at_an_instant(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    for number in range(5):
        await client.ask("put", context="c", text=str(number))
        await trio.sleep(10)
    for since in (EPOCH + 20 * SECOND, "30s", "2023-11-14T22:13:40Z"):
        tail = await client.tail(contexts=["c"], since=since)
        assert unit_texts(await tail.replayed()) == ["2", "3", "4"]
    tail = await client.tail(contexts=["c"], since="now")
    assert await tail.replayed() == []


async def test_after_takes_a_cursor_or_a_seq(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    await put_numbers(client, "c", 5)
    first = await client.tail(contexts=["c"], after=0)
    events = await first.replayed()
    for position, event in enumerate(events):
        seq = event["unit"]["seq"]
        for after in (event["cursor"], seq, str(seq)):
            tail = await client.tail(contexts=["c"], after=after)
            assert unit_texts(await tail.replayed()) == numbers(position + 1, 5)


async def test_a_cursor_that_cannot_be_served_is_an_error(server: Server, log: Log, autojump_clock: MockClock) -> None:
    client = await server.connect()
    await put_numbers(client, "c", 1)
    foreign = await client.refused("tail", after="0123456789ab.1")
    assert foreign.code == "cursor"
    assert foreign.details == {"history": log.history}
    for beyond in (3, "3", format_cursor(log.history, 3), format_cursor(log.history, 10**18), 2**63 - 1):
        refused = await client.refused("tail", after=beyond)
        assert (refused.code, refused.details) == ("cursor", {"last": 2})
    assert (await client.refused("tail", after="yesterday")).code == "invalid"
    end = await client.tail(after=2, follow=True)
    assert await end.replayed() == [], "the end itself is a fine place to start"
    assert client.items.keys() == {end.id}, "a stream that was refused sends nothing"


async def test_only_one_starting_point_may_be_given(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    for fields in ({"last": 1, "after": 0}, {"since": 0, "after": 0}, {"last": 1, "since": 0}):
        assert (await client.refused("tail", **fields)).code == "invalid"


async def test_filters_hold_for_what_is_replayed_and_what_is_live(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect("alice")
    target = await client.ask("put", context="c", text="target")
    edge = {"type": "modifies", "target": target["id"]}
    filters: dict[str, dict[str, object]] = {
        "agent": {"agent": ["bob", "carol"]},
        "type": {"type": "error"},
        "meta": {"meta": {"k": "v"}},
        "related": {"related_to": target["id"]},
        "both": {"agent": "bob", "meta": {"k": "v"}},
        "until": {"until": EPOCH + 15 * SECOND},
    }
    tails = {name: await client.tail(contexts=["c"], after=target["seq"], follow=True, **filters[name]) for name in filters}
    for tail in tails.values():
        assert await tail.replayed() == []

    async def put_each(mark: str) -> None:
        await client.ask("put", context="c", text=f"{mark} plain")
        await client.ask("put", context="c", text=f"{mark} bob", agent="bob")
        await client.ask("put", context="c", text=f"{mark} carol", agent="carol", type="error")
        await client.ask("put", context="c", text=f"{mark} label", meta={"k": "v", "l": "w"}, relationships=[edge])
        await client.ask("put", context="c", text=f"{mark} bob label", agent="bob", meta={"k": "v"})
        await client.ask("put", context="d", text=f"{mark} elsewhere", agent="bob", type="error", meta={"k": "v"}, relationships=[edge])

    await put_each("early")
    await trio.sleep(20)
    await put_each("late")
    expected = {
        "agent": ["bob", "carol", "bob label"],
        "type": ["carol"],
        "meta": ["label", "bob label"],
        "related": ["label"],
        "both": ["bob label"],
    }
    for name, tail in tails.items():
        live = [event["unit"]["text"] for event in await tail.arrived() if "unit" in event]
        again = await client.tail(contexts=["c"], after=target["seq"], **filters[name])
        if name == "until":  # nothing can follow: both streams end, without a mark
            replayed, _ = await again.ended()
            assert live == unit_texts(replayed) == [f"early {what}" for what in ("plain", "bob", "carol", "label", "bob label")]
            assert (await tail.ended())[0] == []
            continue
        assert unit_texts(await again.replayed()) == live
        assert live == [f"{mark} {what}" for mark in ("early", "late") for what in expected[name]]


@pytest.mark.parametrize("events", [False, True])
async def test_a_replay_goes_on_past_steps_in_which_nothing_fits(server: Server, autojump_clock: MockClock, events: bool) -> None:
    client = await server.connect()
    for number in range(3):
        await client.ask("put", context="c", units=[{"text": "hay", "meta": {"k": "v"}}] * (2 * STEP_ROWS - 100))
        await client.ask("put", context="c", text=f"needle {number}", type="error", meta={"k": "v"})
    for contexts in (["c"], ["c", "d"], []):
        tail = await client.tail(contexts=contexts, after=0, type="error", meta={"k": "v"}, events=events)
        found = [event for event in await tail.replayed() if "unit" in event]
        assert unit_texts(found) == ["needle 0", "needle 1", "needle 2"]


async def test_contexts_are_merged_in_the_order_of_the_log(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    several = await client.tail(contexts=["a", "b", "a"], after=0, follow=True)
    everything = await client.tail(after=0, follow=True)
    names = ["a", "b", "c", "a:", "b", "a", "c", "b"]
    for number, name in enumerate(names):
        await client.ask("put", context=name, text=str(number))
    wanted = [str(number) for number, name in enumerate(names) if name in "ab"]
    for tail, expected in ((several, wanted), (everything, numbers(0, len(names)))):
        assert unit_texts([event for event in await tail.arrived() if "unit" in event]) == expected
    for contexts, expected in ((["a", "b", "a"], wanted), ([], numbers(0, len(names)))):
        again = await client.tail(contexts=contexts, after=0)
        assert unit_texts(await again.replayed()) == expected


async def test_an_added_unit_is_an_entry_where_it_arrives(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    tail = await client.tail(contexts=["b"], after=0, follow=True)
    assert await tail.replayed() == []
    first = await client.ask("put", context="a", text="old")
    await client.ask("put", context="b", text="new")
    await client.ask("context_add", context="b", ids=[first["id"]])
    await client.ask("context_remove", context="b", ids=[first["id"]])
    live = await tail.arrived()
    again = await client.tail(contexts=["b"], after=0)
    assert await again.replayed() == live, "what was removed since stood in the context all the same"
    born, added = live
    assert (born["kind"], born["unit"]["text"]) == ("unit_put", "new")
    assert (added["kind"], added["unit"]["text"], added["unit"]["entry_context"]) == ("unit_added", "old", "b")
    assert added["unit"]["entry"] > born["unit"]["seq"] > added["unit"]["seq"] == first["seq"]
    assert added["cursor"] == format_cursor(server.log.history, added["unit"]["entry"])


async def test_events_shows_every_event(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect("alice")
    live_all = await client.tail(after=0, follow=True, events=True)
    live_one = await client.tail(contexts=["b"], after=0, follow=True, events=True, type="error")
    assert await live_all.replayed() == await live_one.replayed() == []
    first = await client.ask("put", context="a", text="1")
    await client.ask("context_create", context="b", display_name="B")
    await client.ask("context_join", context="b", agent="bob")
    await client.ask("put", context="b", text="2", type="error")
    await client.ask("put", context="b", text="3")
    await client.ask("context_add", context="b", ids=[first["id"]])
    await client.ask("context_pin", context="b", ids=[first["id"]])
    everything, one = await live_all.arrived(), await live_one.arrived()
    kinds = [event["kind"] for event in everything]
    assert kinds == [
        "context_created",
        "unit_put",
        "context_created",
        "agent_joined",
        "unit_put",
        "unit_put",
        "unit_added",
        "unit_pinned",
    ]
    assert [int(event["cursor"].split(".")[1]) for event in everything] == list(range(1, 9)), "the whole log, without a gap"
    assert everything[2]["data"] == {"context": "b", "agent": "alice", "display_name": "B", "meta": {}}
    assert (everything[2]["seq"], everything[2]["ts"]) == (3, EPOCH)
    assert [event["kind"] for event in one] == ["context_created", "agent_joined", "unit_put", "unit_pinned"]
    for live, contexts, filters in ((everything, [], {}), (one, ["b"], {"type": "error"})):
        again = await client.tail(contexts=contexts, after=0, events=True, **filters)
        assert await again.replayed() == live


@pytest.mark.parametrize(
    ("kinds", "events", "expected"),
    [
        (["agent_joined"], None, ["agent_joined"]),
        (["unit_put"], None, ["unit_put", "unit_put"]),
        (["unit_put"], True, ["unit_put", "unit_put"]),
        (["unit_added"], None, ["unit_added"]),
        (["unit_added", "unit_pinned"], None, ["unit_added", "unit_pinned"]),
        (["context_created", "unit_put", "unit_removed"], None, ["context_created", "unit_put", "unit_put", "unit_removed"]),
    ],
)
@pytest.mark.parametrize("contexts", [[], ["b"], ["b", "none"]])
async def test_kinds_choose_among_entries_and_other_events(
    server: Server, autojump_clock: MockClock, kinds: list[str], events: bool | None, expected: list[str], contexts: list[str]
) -> None:
    client = await server.connect()
    first = await client.ask("put", context="a", text="1", type="error")
    start = first["seq"]
    asked = {"contexts": contexts, "after": start, "kinds": kinds, "type": "error", **({} if events is None else {"events": events})}
    live = await client.tail(follow=True, **asked)
    assert await live.replayed() == []
    await client.ask("context_create", context="b")
    await client.ask("context_join", context="b", agent="bob")
    await client.ask("put", context="b", text="2", type="error")
    await client.ask("put", context="b", text="of another type, which only entries have")
    await client.ask("put", context="b", text="3", type="error")
    await client.ask("context_add", context="b", ids=[first["id"]])
    await client.ask("context_pin", context="b", ids=[first["id"]])
    await client.ask("context_remove", context="b", ids=[first["id"]])
    seen = await live.arrived()
    assert [event["kind"] for event in seen] == expected
    again = await client.tail(**asked)
    assert await again.replayed() == seen
    del asked["after"]
    last = await client.tail(**asked, last=1)
    assert await last.replayed() == seen[-1:], "what is counted back is what is asked for"


async def test_the_last_events_of_a_kind_are_found_far_back(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    for name in "abc":
        await client.ask("put", context=name, units=[{"text": "x"}] * 400)
    tail = await client.tail(kinds=["context_created"], last=2)
    assert [event["data"]["context"] for event in await tail.replayed()] == ["b", "c"]
    everything = await client.tail(kinds=["context_created"], last=9)
    assert len(await everything.replayed()) == 3


async def test_kinds_are_checked(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    for fields in ({"kinds": ["lunch"]}, {"kinds": []}, {"kinds": "unit_put"}, {"kinds": ["agent_left"], "form": "json"}):
        assert (await client.refused("tail", **fields)).code == "invalid"
    await put_numbers(client, "c", 1)
    tail = await client.tail(contexts=["c"], kinds=["unit_put"], form="raw", after=0)
    assert [event["text"] for event in await tail.replayed()] == [b"0"]


@pytest.mark.parametrize("kinds", [["unit_put"], ["agent_left"]])
async def test_a_long_search_says_how_far_it_came(
    server: Server, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, kinds: list[str]
) -> None:
    """A replay in which nothing fits is silent; a reader that has to resume must not begin it anew."""
    client = await server.connect()
    for _ in range(2):
        await client.ask("put", context="c", units=[{"text": "hay"}] * 1000)
    checkpoint = trio.lowlevel.checkpoint

    async def slow() -> None:
        await trio.sleep(HEARTBEAT)
        await checkpoint()

    monkeypatch.setattr(trio.lowlevel, "checkpoint", slow)
    nobody = [f"nobody {number}" for number in range(MAX_SCANS + 1)]  # so many that the log is read, not their keys
    tail = await client.tail(after=0, agent=nobody, kinds=kinds)
    beats = await tail.replayed()
    assert len(beats) > 0
    assert {event["kind"] for event in beats} == {"heartbeat"}
    reached = [int(event["cursor"].split(".")[1]) for event in beats]
    assert reached == sorted(set(reached))
    assert 0 < reached[0] < reached[-1] <= server.log.last_seq


async def test_many_events_are_replayed_a_step_at_a_time(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    await client.ask("put", context="c", units=[{"text": str(number)} for number in range(900)])
    tail = await client.tail(after=0, events=True, credit=MAX_CREDIT)
    events = await tail.replayed()
    assert [int(event["cursor"].split(".")[1]) for event in events] == list(range(1, 902))


async def test_without_follow_the_stream_ends_with_a_cursor_to_go_on_from(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    await put_numbers(client, "c", 3)
    await put_numbers(client, "noise", 2)
    tail = await client.tail(contexts=["c"], after=0)
    events, answer = await tail.ended()
    assert [event["kind"] for event in events] == ["unit_put"] * 3 + ["live"]
    assert answer == {"cursor": format_cursor(server.log.history, server.log.last_seq)}, "the noise was passed over, too"
    await put_numbers(client, "c", 2, first=3)
    again = await client.tail(contexts=["c"], after=answer["cursor"])
    assert unit_texts(await again.replayed()) == ["3", "4"]


async def test_a_stream_without_credit_stalls_alone(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    stalled = await client.tail(contexts=["c"], after=0, follow=True, credit=1)
    flowing = await client.tail(contexts=["c"], after=0, follow=True)
    await put_numbers(client, "c", 50)
    assert unit_texts([event for event in await flowing.arrived() if "unit" in event]) == numbers(0, 50)
    before = await stalled.arrived()
    assert len(before) <= 2, "credit is checked before each item, so one more than it covers may come"
    assert (await client.ask("status"))["status"]["lag"] > 0
    stalled.refill = True
    await stalled.grant(500)
    after = await stalled.arrived()
    assert unit_texts([event for event in before + after if "unit" in event]) == numbers(0, 50)


async def test_credit_is_a_count_of_bytes(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    await client.ask("put", context="c", units=[{"text": "x" * 1000}] * 100)
    tail = await client.tail(contexts=["c"], after=0, follow=True, credit=20_000)
    for granted in (20_000, 40_000, 60_000):
        await client.settle()
        sent = sum(item.size + LENGTH.size for item in client.items[tail.id])
        assert granted <= sent < granted + 4000, "what went beyond the credit by an item is paid back first"
        await tail.grant(20_000)


@pytest.mark.parametrize("events", [False, True])
async def test_credit_given_back_keeps_a_stream_going_forever(server: Server, autojump_clock: MockClock, events: bool) -> None:
    """A client gives back what each item cost; if the two sides counted differently, the stream would run dry."""
    client = await server.connect()
    count = 600
    await client.ask("put", context="c", units=[{"text": str(number)} for number in range(count // 2)])
    tail = await client.tail(contexts=["c"], after=0, follow=True, credit=1000, events=events)
    tail.refill = True
    with trio.fail_after(60):
        while (event := await tail.next())["kind"] != "live":
            last = event
        assert last["unit"]["text"] == str(count // 2 - 1)
        for number in range(count // 2, count):
            await client.ask("put", context="c", text=str(number))
            assert (await tail.next())["unit"]["text"] == str(number)


@pytest.mark.parametrize("events", [False, True])
async def test_a_client_that_does_not_read_costs_little_and_loses_nothing(server: Server, autojump_clock: MockClock, events: bool) -> None:
    sleeper = await server.connect(lockstep=True)
    outbox = server.sessions[0].outbox
    tail = await sleeper.tail(contexts=["c"], follow=True, credit=MAX_CREDIT, events=events)
    assert (await tail.next())["kind"] == "live"
    writer = await server.connect("writer")
    size, count, most = 64 * 1024, 200, 0
    for number in range(count):
        await writer.ask("put", context="c", text=str(number).ljust(size))
        await wait_all_tasks_blocked()
        most = max(most, outbox.pending)
    assert FULL < most < 2 * FULL, "a full outbox takes no more, and the log keeps the rest"
    found: list[str] = []
    while len(found) < count:
        event = await tail.next()
        most = max(most, outbox.pending)
        if "unit" in event:
            found.append(event["unit"]["text"].strip())
    assert found == numbers(0, count)
    assert most < 2 * FULL
    await writer.ask("put", context="c", text="live again")
    assert unit_texts(await tail.arrived()) == ["live again"]


@pytest.mark.parametrize("slice_seconds", [turns.SLICE, 0.0])
async def test_many_streams_of_a_client_that_does_not_read(
    server: Server, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, slice_seconds: float
) -> None:
    monkeypatch.setattr(turns, "SLICE", slice_seconds)
    sleeper = await server.connect(lockstep=True)
    outbox = server.sessions[0].outbox
    writer = await server.connect("writer")
    for number in range(100):
        await writer.ask("put", context="c", text=str(number).ljust(64 * 1024))
    framed = [sleeper.frame("tail", contexts=["c"], after=0, credit=MAX_CREDIT) for _ in range(10)]
    await sleeper.stream.send_all(b"".join(frame for _, frame in framed))
    await wait_all_tasks_blocked()
    most = outbox.pending
    for request_id, _ in framed:
        tail = Tail(sleeper, request_id)
        texts = []
        while (event := await tail.next())["kind"] != "live":
            texts.append(event["unit"]["text"].strip())
            most = max(most, outbox.pending)
        assert texts == numbers(0, 100)
    assert most < 2 * FULL


async def test_answers_to_a_client_that_does_not_read_are_bounded(server: Server, autojump_clock: MockClock) -> None:
    """A single chunk can hold a thousand requests, each with an answer of half a megabyte."""
    sleeper = await server.connect(lockstep=True)
    outbox = server.sessions[0].outbox
    writer = await server.connect("writer")
    for number in range(8):
        await writer.ask("put", context="c", text=str(number).ljust(64 * 1024))
    framed = [sleeper.frame("list", context="c") for _ in range(200)]
    await sleeper.stream.send_all(b"".join(frame for _, frame in framed))
    await wait_all_tasks_blocked()
    most = outbox.pending
    for request_id, _ in framed:
        assert len((await sleeper.answer(request_id))["units"]) == 8
        most = max(most, outbox.pending)
    assert most < 2 * FULL


async def test_silence_is_broken_by_a_heartbeat(server: Server, autojump_clock: MockClock) -> None:
    client, writer = await server.connect(), await server.connect("writer")
    tail = await client.tail(contexts=["c"], follow=True)
    assert await tail.replayed() == []
    began = trio.current_time()
    await put_numbers(writer, "noise", 3)
    beat = await tail.next()
    assert trio.current_time() - began == pytest.approx(HEARTBEAT)
    assert beat == {"cursor": format_cursor(server.log.history, server.log.last_seq), "kind": "heartbeat"}
    await trio.sleep(3)
    await put_numbers(writer, "c", 1)
    assert (await tail.next())["kind"] == "unit_put"
    spoken = trio.current_time()
    assert (await tail.next())["kind"] == "heartbeat"
    assert trio.current_time() - spoken == pytest.approx(HEARTBEAT), "silence is counted from the last item"
    resumed = await client.tail(contexts=["c"], after=beat["cursor"])
    assert unit_texts(await resumed.replayed()) == ["0"]


async def test_cancel_ends_a_stream_with_its_cursor(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    await put_numbers(client, "c", 2)
    tail = await client.tail(contexts=["c"], after=0, follow=True)
    await tail.replayed()
    await tail.cancel()
    events, answer = await tail.ended()
    assert events == []
    assert answer == {"cursor": format_cursor(server.log.history, 3)}
    await put_numbers(client, "c", 1, first=2)
    await client.settle()
    assert client.items[tail.id] == []
    assert len(server.engine.fanout) == 0
    await tail.cancel()  # a word on a stream that has ended is nothing to complain about
    await tail.grant(5)
    assert (await client.ask("status"))["status"]["subscriptions"] == 0


@pytest.mark.parametrize("events", [False, True])
async def test_cancel_ends_a_stalled_stream_at_what_was_sent(server: Server, autojump_clock: MockClock, events: bool) -> None:
    client = await server.connect()
    await put_numbers(client, "c", 20)
    tail = await client.tail(contexts=["c"], after=0, follow=True, credit=500, events=events)
    before = await tail.arrived()
    assert 0 < len(before) < 20
    await tail.cancel()
    _, answer = await tail.ended()
    rest = await client.tail(contexts=["c"], after=answer["cursor"])
    texts = unit_texts([event for event in before if "unit" in event]) + unit_texts(await rest.replayed())
    assert texts == numbers(0, 20)


async def test_a_client_that_leaves_is_forgotten(server: Server, autojump_clock: MockClock) -> None:
    client, other = await server.connect(), await server.connect()
    tail = await client.tail(contexts=["c"], follow=True)
    await tail.replayed()
    assert (await other.ask("status"))["status"]["subscriptions"] == 1
    await client.stream.aclose()
    await wait_all_tasks_blocked()
    status = (await other.ask("status"))["status"]
    assert (status["subscriptions"], status["connections"]) == (0, 1)
    await put_numbers(other, "c", 1)


async def test_a_failed_write_reaches_no_subscriber(serve: Serve, autojump_clock: MockClock) -> None:
    gate = Gate()
    gate.open()
    server = serve(gate=gate)
    client = await server.connect()
    await put_numbers(client, "c", 2)
    tail = await client.tail(contexts=["c"], after=0, follow=True)
    gate.error = EngramError("storage", "the disk refused a write")
    assert (await client.refused("put", context="c", text="lost")).code == "outcome_unknown"
    assert unit_texts([event for event in await tail.arrived() if "unit" in event]) == numbers(0, 2)
    assert (await tail.next())["cursor"] == format_cursor(server.log.history, 3), "nor does a heartbeat pass it"
