"""The committer: nothing before the sync, one sync for many, and a disk that refuses."""

from __future__ import annotations

from itertools import count
from types import SimpleNamespace
from typing import cast

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from wire import Client, Gate, Serve, Server, texts, unit_texts

from engramd.protocol.errors import EngramError
from engramd.protocol.messages import MIB
from engramd.protocol.unit import new_id
from engramd.service.committer import MAX_GROUP_BYTES, SHORT_BATCH, SHORT_BYTES, AdaptiveWriter, Committer
from engramd.service.counters import Counters
from engramd.state.units import Draft, Put
from engramd.storage.log import Batch, Log

BROKEN = EngramError("storage", "the disk refused a write: no space left")


@pytest.fixture
def gate() -> Gate:
    """What stands between the committer and the disk; closed."""
    return Gate()


@pytest.fixture
def gated(serve: Serve, gate: Gate) -> Server:
    """A server whose writes wait for the gate."""
    return serve(gate=gate)


async def chunk(client: Client, *requests: tuple[str, dict[str, object]]) -> list[int | str]:
    """Send requests in one piece, and give their ids."""
    framed = [client.frame(op, **fields) for op, fields in requests]
    await client.stream.send_all(b"".join(frame for _, frame in framed))
    return [request_id for request_id, _ in framed]


async def test_nothing_is_answered_published_or_read_before_the_sync(gated: Server, gate: Gate, autojump_clock: MockClock) -> None:
    writer, listener, reader = [await gated.connect(name) for name in ("writer", "listener", "reader")]
    tail = await listener.tail(contexts=["c"], follow=True)
    everything = await listener.tail(follow=True, events=True)
    assert await tail.replayed() == await everything.replayed() == []

    put = await writer.send("put", context="c", text="x")
    await writer.settle()
    assert gate.batches == [2], "the write is on its way to the disk"
    assert put not in writer.answers
    assert await tail.arrived() == await everything.arrived() == []
    assert (await reader.ask("list", context="c"))["units"] == [], "a reader is answered meanwhile, and sees nothing of it"
    assert (await reader.refused("get", ids=[2])).code == "not_found"
    assert (await reader.refused("context_show", context="c")).code == "not_found"
    assert (await reader.ask("agents"))["agents"] == []
    assert (await reader.ask("status"))["status"]["last_seq"] == 0
    late = await reader.tail(contexts=["c"], after=0, follow=True)
    assert await late.replayed() == []

    gate.open()
    assert (await writer.answer(put))["seq"] == 2
    assert unit_texts(await tail.arrived()) == ["x"]
    assert [event["kind"] for event in await everything.arrived()] == ["context_created", "unit_put"]
    assert unit_texts(await late.arrived()) == ["x"]
    assert texts((await reader.ask("list", context="c"))["units"]) == ["x"]


async def test_a_writer_is_answered_before_its_write_is_published(gated: Server, gate: Gate, autojump_clock: MockClock) -> None:
    client = await gated.connect()
    tail = await client.tail(follow=True)
    assert await tail.replayed() == []
    gate.open()
    put = await client.send("put", context="c", text="x")
    await client.answer(put)
    await tail.next()
    assert client.order[-2:] == [put, tail.id]


async def test_commands_that_arrive_during_a_sync_share_the_next(gated: Server, gate: Gate, autojump_clock: MockClock) -> None:
    clients = [await gated.connect(f"client{number}") for number in range(10)]
    first = await clients[0].send("put", context="c", text="first")
    await wait_all_tasks_blocked()
    waiting = [
        (client, await client.send("put", context="c", text=f"{number}.{index}"))
        for number, client in enumerate(clients)
        for index in range(5)
    ]
    await wait_all_tasks_blocked()
    assert gate.batches == [2], "one write at a time"
    gate.open()
    await clients[0].answer(first)
    seqs = [(await client.answer(request))["seq"] for client, request in waiting]
    assert gate.batches == [2, 50]
    assert sorted(seqs) == list(range(3, 53))
    for number in range(10):
        own = seqs[number * 5 : number * 5 + 5]
        assert own == sorted(own), "one client's writes keep their order"


async def test_refusals_that_rest_on_pending_events_wait_for_the_sync(gated: Server, gate: Gate, autojump_clock: MockClock) -> None:
    client = await gated.connect()
    put = ("put", {"context": "c", "text": "x", "dedupe": "key"})
    first, repeated, stale, exists, unneeded = await chunk(
        client,
        put,
        put,
        ("put", {"context": "c", "text": "y", "expect_seq": 0}),
        ("context_create", {"context": "c"}),
        ("context_join", {"context": "c", "agent": "tester"}),
    )
    await client.settle()
    assert client.answers == {}, "each of these rests on the first put, which is not on disk"
    gate.open()
    answer = await client.answer(first)
    assert await client.answer(repeated) == {**answer, "deduped": True}
    assert (await client.failure(stale)).details == {"expected": 0, "actual": 2}
    assert (await client.failure(exists)).code == "exists"
    assert await client.answer(unneeded) == {"changed": False}
    assert gate.batches == [2], "none of them needed a sync of its own"


async def test_refusals_during_a_sync_wait_for_it_too(gated: Server, gate: Gate, autojump_clock: MockClock) -> None:
    client = await gated.connect()
    put = await client.send("put", context="c", text="x")
    await wait_all_tasks_blocked()
    stale = await client.send("put", context="c", text="y", expect_seq=0)
    await client.settle()
    assert client.answers == {}
    gate.open()
    assert (await client.answer(put))["seq"] == 2
    assert (await client.failure(stale)).details["actual"] == 2


async def test_what_rests_on_the_second_of_two_syncs_waits_for_both(gated: Server, gate: Gate, autojump_clock: MockClock) -> None:
    client = await gated.connect()
    first = await client.send("put", context="c", text="1")
    await wait_all_tasks_blocked()
    second = await client.send("put", context="c", text="2")
    await wait_all_tasks_blocked()
    gate.let_one_through()
    assert (await client.answer(first))["seq"] == 2
    assert gate.batches == [2, 1]
    stale = await client.send("put", context="c", text="3", expect_seq=2)
    await client.settle()
    assert client.answers == {}, "the refusal rests on the second put, which is still on its way"
    gate.open()
    assert (await client.answer(second))["seq"] == 3
    assert (await client.failure(stale)).details == {"expected": 2, "actual": 3}


async def test_a_refusal_that_rests_on_the_disk_alone_is_immediate(gated: Server, gate: Gate, autojump_clock: MockClock) -> None:
    client = await gated.connect()
    assert (await client.refused("put", context="c", text="x", expect_seq=5)).details["actual"] == 0
    assert (await client.refused("context_leave", context="c")).code == "not_found"
    assert gate.batches == []


async def test_a_context_can_be_made_and_described_in_one_chunk(gated: Server, gate: Gate, autojump_clock: MockClock) -> None:
    client = await gated.connect()
    create, change, join = await chunk(
        client,
        ("context_create", {"context": "c", "display_name": "C", "meta": {"a": "1", "b": "2"}}),
        ("context_set", {"context": "c", "meta": {"a": None, "b": "3"}}),
        ("context_join", {"context": "c", "agent": "bob"}),
    )
    gate.open()
    assert (await client.answer(create))["context"]["display_name"] == "C"
    assert (await client.answer(change))["context"]["meta"] == {"b": "3"}
    assert await client.answer(join) == {"changed": True}
    assert (await client.ask("context_show", context="c"))["context"]["agents"] == ["bob"]
    assert gate.batches == [3]


async def test_a_failing_write_acknowledges_nothing(gated: Server, gate: Gate, log: Log, autojump_clock: MockClock) -> None:
    gate.open()
    client, other, listener = [await gated.connect(name) for name in ("client", "other", "listener")]
    kept = await client.ask("put", context="c", text="kept", dedupe="kept")
    tail = await listener.tail(after=0, follow=True)
    assert unit_texts(await tail.replayed()) == ["kept"]
    gate.close()
    gate.error = BROKEN
    flying = await client.send("put", context="c", text="flying", dedupe="key")
    await wait_all_tasks_blocked()
    forming = await other.send("put", context="c", text="forming")
    joining = await other.send("context_join", context="c")
    resting, seen = await chunk(
        other,
        ("put", {"context": "c", "text": "x", "expect_seq": kept["seq"]}),
        ("put", {"context": "c", "text": "x", "dedupe": "key"}),
    )
    await wait_all_tasks_blocked()
    gate.open()
    for who, request in ((client, flying), (other, forming), (other, resting), (other, seen)):
        error = await who.failure(request)
        assert error.code == "outcome_unknown"
        assert "no space left" in error.message
        assert "the same dedupe key" in error.message
    assert "dedupe" not in (joined := await other.failure(joining)).message, "which only a put has"
    assert joined.message.endswith("Repeat it: what is done already stays as it is")
    assert gated.failed is BROKEN, "whoever runs the committer learns of it, and stops"

    for fields in ({"text": "later"}, {"text": "kept", "dedupe": "kept"}):
        assert (await client.refused("put", context="c", **fields)).code == "storage"
    assert (await client.refused("context_create", context="d")).code == "storage"
    assert await tail.arrived() == []
    assert texts((await other.ask("list", context="c"))["units"]) == ["kept"], "reading goes on"
    assert (await other.ask("status"))["status"]["last_seq"] == log.last_seq == kept["seq"]
    assert len(gate.batches) == 2, "nothing is written after a failure"


async def test_what_is_on_its_way_is_bounded_and_everyone_goes_on(gated: Server, gate: Gate, autojump_clock: MockClock) -> None:
    """Two clients that fill the forming group wait, and both go on once it is written."""
    clients = [await gated.connect(name) for name in ("big", "small")]
    opener = await gated.connect("opener")
    opening = await opener.send("put", context="c", text="opens the first batch")
    await wait_all_tasks_blocked()
    large = "x" * (MIB - 1)
    count = 2 * MAX_GROUP_BYTES // MIB
    waiting = [(clients[0], await clients[0].send("put", context="c", text=large)) for _ in range(count)]
    await wait_all_tasks_blocked()
    waiting += [(clients[1], await clients[1].send("put", context="c", text="small"))]
    await wait_all_tasks_blocked()
    forming = gated.engine.committer._forming
    assert MAX_GROUP_BYTES < forming.batch.size < MAX_GROUP_BYTES + 2 * MIB
    gate.open()
    with trio.fail_after(60):
        await opener.answer(opening)
        for client, request in waiting:
            await client.answer(request)
    for client in clients:
        with trio.fail_after(60):
            assert (await client.ask("status"))["status"]["last_seq"] == 2 + count + 1


async def test_a_large_put_is_one_batch(gated: Server, gate: Gate, autojump_clock: MockClock) -> None:
    gate.open()
    client = await gated.connect()
    await client.ask("put", context="c", units=[{"text": str(number)} for number in range(1000)])
    assert gate.batches == [1001]


async def test_drained_waits_for_everything(gated: Server, gate: Gate, autojump_clock: MockClock) -> None:
    client = await gated.connect()
    drained = False

    async def drain() -> None:
        nonlocal drained
        await gated.engine.committer.drained()
        drained = True

    first = await client.send("put", context="c", text="1")
    await wait_all_tasks_blocked()
    second = await client.send("put", context="c", text="2")
    await wait_all_tasks_blocked()
    gated.nursery.start_soon(drain)
    await wait_all_tasks_blocked()
    assert not drained
    gate.let_one_through()
    await wait_all_tasks_blocked()
    assert not drained, "the second is still on its way"
    gate.open()
    await client.answer(first)
    await client.answer(second)
    await wait_all_tasks_blocked()
    assert drained


async def test_what_is_refused_because_of_damage_is_answered_without_anything_else_going_on(
    gated: Server, gate: Gate, autojump_clock: MockClock
) -> None:
    client = await gated.connect()
    await client.send("put", context="c", text="on its way to the disk")
    await client.settle()
    waiting = await client.send("put", context="c", text="behind it")
    await client.settle()
    gated.engine.heed(EngramError("storage", "the store is gone"))  # as the look at the store does, once a second
    with trio.fail_after(5):
        assert (await client.failure(waiting)).code == "storage"
    gate.open()


class Commits:
    """A committer over a log, with its own way to write, and what became of its puts."""

    def __init__(self, log: Log) -> None:
        self.published: list[int] = []
        self.outcomes: list[object] = []
        self.committer = Committer(log, lambda events: self.published.append(len(events)), lambda: None, Counters())

    def put(self, text: str) -> None:
        now = self.committer.now()
        self.committer.submit(Put("c", "a", (Draft(new_id(now), "message", {}, text),)), now, self.outcomes.append)


async def test_what_arrives_together_is_on_disk_right_behind_it(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AdaptiveWriter, "is_short", lambda *_: True)
    commits = Commits(log)
    with commits.committer.together:
        for text in "xyz":
            commits.put(text)
        assert (log.last_seq, commits.outcomes) == (0, [])
    assert (log.last_seq, len(commits.outcomes)) == (4, 3)
    assert commits.published == [4]
    await commits.committer.drained()


async def test_a_long_write_is_left_to_a_thread(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AdaptiveWriter, "is_short", lambda *_: False)
    commits = Commits(log)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(commits.committer.run)
        with commits.committer.together:
            commits.put("x")
        assert (log.last_seq, commits.outcomes) == (0, [])
        await commits.committer.drained()
        assert (log.last_seq, len(commits.outcomes)) == (2, 1)
        nursery.cancel_scope.cancel()


async def test_a_write_that_fails_right_there_ends_the_committer(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(batch: Batch) -> None:
        raise BROKEN

    monkeypatch.setattr(AdaptiveWriter, "is_short", lambda *_: True)
    monkeypatch.setattr(Batch, "commit", refuse)
    commits = Commits(log)
    with commits.committer.together:
        commits.put("x")
        commits.put("y")
    assert [outcome.code for outcome in commits.outcomes if isinstance(outcome, EngramError)] == ["outcome_unknown"] * 2
    with pytest.raises(EngramError) as raised:
        await commits.committer.run()
    assert raised.value is BROKEN
    assert (log.last_seq, commits.published) == (0, [])
    commits.put("z")
    assert commits.outcomes[2] is BROKEN


async def test_what_an_outcome_leads_to_is_done_too(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AdaptiveWriter, "is_short", lambda *_: True)
    commits = Commits(log)
    committer, told = commits.committer, list[object]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(committer.run)
        with committer.together:
            now = committer.now()
            put = Put("c", "a", (Draft(new_id(now), "message", {}, "x"),))
            committer.submit(put, now, lambda _: committer.settled(told.append))
        with trio.fail_after(5):
            await committer.drained()
        assert told == [()]
        nursery.cancel_scope.cancel()


async def test_writers_are_sent_their_answers_before_anything_is_published(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AdaptiveWriter, "is_short", lambda *_: True)
    order: list[str] = []
    committer = Committer(log, lambda _: order.append("published"), lambda: order.append("sent"), Counters())
    with committer.together:
        now = committer.now()
        committer.submit(Put("c", "a", (Draft(new_id(now), "message", {}, "x"),)), now, lambda _: order.append("answered"))
        order.append("asked")
    assert order == ["asked", "sent", "answered", "sent", "published", "sent", "sent"]


@pytest.mark.parametrize(
    ("events", "size", "took", "is_short"),
    [
        (SHORT_BATCH, SHORT_BYTES, 0.0, True),
        (SHORT_BATCH + 1, 1, 0.0, False),
        (1, SHORT_BYTES + 1, 0.0, False),
        (1, 1, 1.0, False),
    ],
)
def test_what_is_written_on_the_loop(events: int, size: int, took: float, is_short: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, ticks = AdaptiveWriter(), count(0.0, took)
    monkeypatch.setattr("engramd.service.committer.time.monotonic", lambda: next(ticks))
    for _ in range(20):  # it has to learn how long syncs take
        writer.commit(cast(Batch, SimpleNamespace(commit=lambda: None, events=[1], size=1)))
    assert writer.is_short(cast(Batch, SimpleNamespace(events=[1] * events, size=size))) is is_short
