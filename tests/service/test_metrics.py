"""`metrics`: what is counted and timed is what happened, in numbers and in Prometheus' text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from trio.testing import MockClock
from wire import Client, Serve, Server

from engramd.protocol.errors import EngramError
from engramd.protocol.messages import MIB
from engramd.service.counters import SECONDS, Histogram
from engramd.service.engine import LOOK
from engramd.service.metrics import collect


@given(st.lists(st.floats(0, 100)))
def test_a_histogram_counts_each_value_once_in_the_bucket_it_falls_in(values: list[float]) -> None:
    histogram = Histogram(SECONDS)
    for value in values:
        histogram.observe(value)
    for bound, count in histogram.buckets():
        assert count == sum(value <= bound for value in values)
    assert histogram.sum == sum(values)


async def told(client: Client) -> dict[tuple[str, ...], Any]:
    """The metrics by name and values of labels: a number, or a histogram's count."""
    found = (await client.ask("metrics"))["metrics"]
    return {(one["name"], *one["labels"].values()): one.get("value", one.get("count")) for one in found}


async def test_requests_are_counted_by_operation_and_outcome_and_timed(serve: Serve, autojump_clock: MockClock) -> None:
    client = await serve().connect()
    for text in ("a", "b", "c"):
        await client.ask("put", context="c", text=text)
    await client.refused("get", ids=[99])
    await client.refused("put", context="c")
    await client.refused("juggle")
    metrics = await told(client)
    assert metrics["engram_requests_total", "put", "ok"] == 3
    assert metrics["engram_requests_total", "put", "invalid"] == 1
    assert metrics["engram_requests_total", "get", "not_found"] == 1
    assert metrics["engram_requests_total", "rejected", "unknown_op"] == 1
    assert metrics["engram_request_seconds", "put"] == 3, "failures are not timed"
    assert ("engram_request_seconds", "get") not in metrics
    assert metrics["engram_commit_events",] == 3
    assert metrics["engram_commit_seconds",] == 3
    assert metrics["engram_last_seq",] == 4


async def test_a_wait_for_a_lock_is_timed_apart(serve: Serve, autojump_clock: MockClock) -> None:
    server = serve()
    one, other = await server.connect("one"), await server.connect("other")
    lock = await one.ask("lock", resources=["/a"])
    waiting = await other.send("lock", resources=["/a"], wait=True)
    await other.settle()
    assert (await told(one))["engram_lock_waiters",] == 1
    await trio.sleep(20)
    await one.ask("unlock", token=lock["token"])
    await other.answer(waiting)
    found = {one["name"]: one for one in (await one.ask("metrics"))["metrics"]}
    assert found["engram_lock_wait_seconds"]["count"] == 1
    assert 20 <= found["engram_lock_wait_seconds"]["sum"] < 21
    assert found["engram_lock_waiters"]["value"] == 0
    timed = await told(one)
    assert timed["engram_requests_total", "lock", "ok"] == 2
    assert timed["engram_request_seconds", "lock"] == 1


async def test_the_text_is_read_by_prometheus_and_says_the_same(serve: Serve, autojump_clock: MockClock) -> None:
    client = await serve().connect()
    await client.ask("put", context="c", text="x")
    numbers = await told(client)
    text = (await client.ask("metrics", form="prometheus"))["text"]
    samples = {(one.name, *one.labels.values()): one.value for family in text_string_to_metric_families(text) for one in family.samples}
    assert samples["engram_requests_total", "put", "ok"] == numbers["engram_requests_total", "put", "ok"] == 1
    assert samples["engram_request_seconds_count", "put"] == 1
    assert samples["engram_last_seq",] == numbers["engram_last_seq",]
    assert samples["engram_writable",] == 1
    assert len(text) < MIB // 8


async def test_a_loop_that_stood_still_is_seen(serve: Serve, nursery: trio.Nursery, mock_clock: MockClock) -> None:
    engine = serve().engine
    nursery.start_soon(engine.watch)
    await trio.testing.wait_all_tasks_blocked()
    for late in (0, 0, 3):
        mock_clock.jump(LOOK + late)
        await trio.testing.wait_all_tasks_blocked()
    counts = dict(engine.counters.loop_late.buckets())
    assert (counts[0.0001], counts[2.5], counts[5.0]) == (2, 2, 3)


async def test_a_clock_that_was_set_back_is_told(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    await client.ask("put", context="c", text="x")
    assert (await told(client))["engram_clock_behind_seconds",] == 0
    server.skew = -90_000_000
    assert 89 < (await told(client))["engram_clock_behind_seconds",] <= 90


async def test_an_index_falls_behind_also_while_no_worker_runs(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    await client.ask("put", context="c", text="x")
    assert (await told(client))["engram_search_lag_events",] == 0, "nobody searches"
    search = server.engine.search
    search._facts, search.covers = {"units": 1}, 2  # as the worker said before it ended
    await client.ask("put", context="c", text="y")
    metrics = await told(client)
    assert (metrics["engram_search_running",], metrics["engram_search_lag_events",]) == (0, 1)


async def test_a_disk_that_is_almost_full_is_told(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    space = server.engine.space
    space.least, space.free = MIB, lambda: MIB - 1
    assert (await told(client))["engram_writable",] == 0
    space.free = lambda: MIB
    assert (await told(client))["engram_writable",] == 1


async def test_what_the_disk_refused_is_told(serve: Serve, autojump_clock: MockClock) -> None:
    server = serve()
    client = await server.connect()
    server.engine.committer.refuse_writes(EngramError("storage", "a block is damaged"))
    assert (await told(client))["engram_writable",] == 0


async def test_the_page_on_monitoring_lists_what_there_is(serve: Serve, autojump_clock: MockClock) -> None:
    told = {(found.name, found.kind) for found in collect(serve().engine)}
    page = (Path(__file__).parents[2] / "docs/monitoring.md").read_text()
    assert set(re.findall(r"^\| `(engram_\w+)` \| (\w+) \|", page, re.M)) == told
