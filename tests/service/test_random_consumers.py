"""Members of consumers, writers and a daemon that all come and go at random; then the validator Acked is held against what they saw."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import trio
import validators
from test_random_traffic import GONE, World, _entry, _seq, trouble, write
from trio.testing import MockClock
from validators import Consumer, Delivery
from wire import Client, Tail

from engramd.protocol.messages import MAX_CREDIT

MEMBERS = 4
_numbers = itertools.count(1)


class NotingWorld(World):
    """A world that notes its restarts."""

    def restart(self) -> None:
        for consumer in self.history.consumers:
            consumer.restarts.append(next(_numbers))
        super().restart()


async def take_part(world: World, consumer: Consumer, connections: itertools.count[int], done: trio.Event) -> None:
    """Get units and acknowledge them, mostly, over connections that are given up at random."""
    rng = world.rng
    while not done.is_set():
        client, connection = await world.connect("member"), next(connections)
        try:
            credit = rng.choice((500, 5000, MAX_CREDIT))
            fields: dict[str, Any] = {"contexts": list(consumer.contexts), "deliveries": 1000, "visibility": "1h"}
            if consumer.key is not None:
                fields["key"] = f"meta:{consumer.key}"
            request = await client.send(
                "consume", consumer=consumer.name, follow=True, prefetch=rng.choice((1, 3, 20)), credit=credit, **fields
            )
            await _work(world, consumer, client, Tail(client, request), connection, done)
        except GONE:
            pass
        consumer.cut[connection] = next(_numbers)
        await client.stream.aclose()
        await world.pause()


async def _work(world: World, consumer: Consumer, client: Client, member: Tail, connection: int, done: trio.Event) -> None:
    rng = world.rng
    member.refill = True
    asked: dict[Any, int] = {}
    for _ in range(rng.randrange(5, 60)):
        if done.is_set():
            return
        with trio.move_on_after(rng.choice((0.1, 6))):
            event = await member.next()
            entry = _entry(event)
            if entry is not None:
                consumer.delivered.append(Delivery(connection, entry, event["deliveries"], next(_numbers)))
                await world.pause()
                if rng.random() < 0.95:
                    consumer.asked.setdefault(entry.seq, next(_numbers))
                    asked[await client.send("ack", consumer=consumer.name, entries=[_seq(event["cursor"])])] = entry.seq
        for request in [request for request in asked if request in client.answers]:
            await client.answer(request)
            consumer.acked.setdefault(asked.pop(request), next(_numbers))


@pytest.mark.parametrize("seed", range(4))
async def test_every_unit_comes_until_it_is_acknowledged(tmp_path: Path, autojump_clock: MockClock, seed: int) -> None:
    world = NotingWorld(tmp_path / "log", seed)
    history = world.history
    history.consumers = [Consumer("all"), Consumer("some", ["a", "b"]), Consumer("keyed", ["a"], "k")]
    done, connections = trio.Event(), itertools.count(1)
    with trio.fail_after(3600):
        async with trio.open_nursery() as serving:
            serving.start_soon(world.serve)
            async with trio.open_nursery() as reading:
                for consumer in history.consumers:
                    for _ in range(MEMBERS):
                        reading.start_soon(take_part, world, consumer, connections, done)
                async with trio.open_nursery() as writing:
                    for number in range(3):
                        writing.start_soon(write, world, f"writer{number}")
                    writing.start_soon(trouble, world)
                for pause in itertools.repeat(10):
                    if await _all_done(world):
                        break
                    await trio.sleep(pause)
                done.set()
            client = await world.connect("auditor")
            whole = await client.tail(after=0, credit=MAX_CREDIT)
            history.log = [entry for event in await whole.replayed() if (entry := _entry(event)) is not None]
            serving.cancel_scope.cancel()
    for consumer in history.consumers:
        assert len(consumer.delivered) > len(consumer.asked), "something came again"
        assert len(consumer.cut) > MEMBERS
    validators.acked(history)


async def _all_done(world: World) -> bool:
    """Whether every consumer is done with everything that it wants."""
    client = await world.connect("watcher")
    try:
        described = [(await client.ask("consumer_show", consumer=consumer.name))["consumer"] for consumer in world.history.consumers]
        ends = [await client.ask("context_show", context=context) for context in ("a", "b", "a:b")]
    except GONE:
        return False
    finally:
        await client.stream.aclose()
    last = {end["context"]["id"]: end["context"]["last_seq"] for end in ends}
    return all(
        _seq(shown["cursor"]) >= max(last[context] for context in (shown["contexts"] or last)) and not shown["parked"]
        for shown in described
    )
