"""Writers, subscribers and a daemon that all come and go at random; then every guarantee is held against what they saw."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
import validators
from trio.testing import MockClock
from validators import Acknowledged, Entry, History, Put, Redaction, Session, Subscriber, trims_of
from wire import Client, Event, HungUpError, Server, Tail

from engramd.protocol.errors import EngramError
from engramd.protocol.messages import MAX_CREDIT
from engramd.storage.log import Batch, Log

CONTEXTS = ("a", "a:b", "b")
TYPES = ("message", "error", "system")
RESTARTS = 4
WRITERS = 4
PUTS = 40
GONE = (HungUpError, trio.BrokenResourceError, trio.ClosedResourceError)


class World:
    """One store, the daemon that serves it at the moment, and what is recorded."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        self.history = History()
        self.written: list[bytes] = []
        self._directory = directory
        self._server: Server | None = None
        self._up = trio.Event()
        self._restart = trio.Event()

    async def serve(self) -> None:
        """Serve until cancelled, starting anew from the disk at every restart; what was in flight then is lost on the way."""
        while True:
            log = Log(self._directory)
            try:
                async with trio.open_nursery() as nursery:
                    self._server = Server(log, nursery, write=self._write)
                    self._restart = trio.Event()
                    self._up.set()
                    await self._restart.wait()
                    self._up = trio.Event()
                    nursery.cancel_scope.cancel()
            finally:
                log.close()
            await trio.sleep(self.rng.random())

    def restart(self) -> None:
        """Break off everything."""
        self._restart.set()

    async def _write(self, batch: Batch) -> None:
        await trio.sleep(self.rng.choice((0, 0.001, 0.02)))
        batch.commit()

    async def connect(self, agent: str) -> Client:
        """A client that has greeted, as soon as there is a daemon."""
        while True:
            await self._up.wait()
            assert self._server is not None
            client = self._server.open(lockstep=self.rng.random() < 0.3)
            try:
                await client.hello(agent)
            except GONE:
                continue
            return client

    async def pause(self) -> None:
        """Let some time pass, often none."""
        await trio.sleep(self.rng.choice((0, 0, 0.001, 0.01, 0.1)))


async def write(world: World, name: str) -> None:
    """Put numbered units, each until it is answered, over connections that are given up at random."""
    rng = world.rng
    todo = [f"{name}:{number}" for number in range(PUTS)]
    puts = {key: _draw_put(rng, key) for key in todo}
    world.history.puts += [Put(put["context"], tuple(draft["text"] for draft in put["units"])) for put in puts.values()]
    while todo:
        client = await world.connect(name)
        try:
            while todo:
                sent = [(key, await _put(world, client, puts[key])) for key in todo[: rng.choice((1, 1, 3))]]
                if rng.random() < 0.1:
                    break  # and never learn what became of them
                for key, request in sent:
                    _note(world, name, puts[key], await client.answer(request))
                    todo.remove(key)
                if rng.random() < 0.2:
                    await _move_a_unit(world, client)
                await world.pause()
        except GONE:
            pass
        await client.stream.aclose()


def _draw_put(rng: random.Random, key: str) -> dict[str, Any]:
    drafts = [
        {"text": f"{key}.{number}", "type": rng.choice(TYPES), "meta": {"k": rng.choice("xyz")}}
        for number in range(rng.choice((1, 1, 1, 3)))
    ]
    return {"context": rng.choice(CONTEXTS), "units": drafts, "dedupe": key}


async def _put(world: World, client: Client, put: dict[str, Any]) -> Any:
    for draft in put["units"]:
        key = put["context"], draft["text"]
        world.history.attempts[key] = world.history.attempts.get(key, 0) + 1
    return await client.send("put", **put)


def _note(world: World, name: str, put: dict[str, Any], answer: dict[str, Any]) -> None:
    first = answer["seq"] - len(put["units"]) + 1
    for at, (draft, unit_id) in enumerate(zip(put["units"], answer["ids"], strict=True)):
        world.history.acknowledged.append(Acknowledged(name, draft["text"], put["context"], unit_id, first + at))
        world.written.append(unit_id)


async def _move_a_unit(world: World, client: Client) -> None:
    op = world.rng.choice(("context_add", "context_add", "context_remove"))
    try:
        await client.ask(op, context=world.rng.choice(CONTEXTS), ids=[world.rng.choice(world.written)])
    except EngramError as error:
        assert error.code == "not_found", "a context that has no unit yet"  # noqa: PT017


async def tend(world: World, done: trio.Event) -> None:
    """Have two contexts keep little, pin, unpin and redact some of what was written, until the writers are done."""
    while not done.is_set():
        client = await world.connect("gardener")
        try:
            for context, limits in (("a", {"units": world.rng.randrange(5, 30)}), ("b", {"age": world.rng.randrange(10**6, 10**7)})):
                with suppress(EngramError):  # there may be no such context yet, or no such unit any more
                    await client.ask("context_retain", context=context, **limits)
            for op in ("context_pin", "context_unpin", "redact"):
                with suppress(EngramError):
                    of, ids = {"reason": "so"} if op == "redact" else {"context": "a"}, [world.rng.choice(world.written)]
                    world.history.redactions += [Redaction("gardener", "so", frozenset(ids))] if op == "redact" else []
                    await client.ask(op, ids=ids, **of)
            await trio.sleep(world.rng.uniform(0.1, 1))
        except (*GONE, IndexError):
            pass
        await client.stream.aclose()


async def subscribe(world: World, subscriber: Subscriber, done: trio.Event) -> None:
    """Follow over connections that are given up at random; at last, read on to the end."""
    asked = subscriber.filter()
    reached: str | int = 0
    ended = told = False
    while not ended:
        last = done.is_set()
        client = await world.connect(subscriber.name)
        session, told = Session(_seq(reached), _seq(reached), told=told), False
        subscriber.sessions.append(session)
        try:
            tail = await client.tail(after=reached, follow=not last, credit=world.rng.choice((1, 300, 5000, MAX_CREDIT)), **asked)
            tail.refill = True
            async for cursor, entry in _read(world, tail, last, done):
                reached, session.until = cursor, _seq(cursor)
                session.received += [entry] if entry is not None else []
            ended = last
        except GONE:
            pass
        except EngramError as error:
            assert error.code == "trimmed"  # noqa: PT017
            reached, told = error.details["cursor"], True
        await client.stream.aclose()
        await world.pause()


async def _read(world: World, tail: Tail, last: bool, done: trio.Event) -> AsyncIterator[tuple[str, Entry | None]]:
    """Cursors as they come, with their entries; for a while, or to the stream's end."""
    patience = world.rng.randrange(1, 60)
    while last or (patience > 0 and not done.is_set()):
        patience -= 1
        event = await tail.next()
        yield event["cursor"], _entry(event)
        if last and event["kind"] == "live":
            break
    if not last and world.rng.random() < 0.7:
        return  # and what has arrived unread is lost
    if not last:
        await tail.cancel()
    events, answer = await tail.ended()
    for event in events:
        yield event["cursor"], _entry(event)
    yield answer["cursor"], None


def _seq(cursor: str | int) -> int:
    return int(str(cursor).rpartition(".")[2])


def _entry(event: Event) -> Entry | None:
    if "unit" not in event:
        return None
    unit = event["unit"]
    return Entry(_seq(event["cursor"]), unit.get("entry_context", unit["context"]), event["kind"], unit)


def subscribers() -> list[Subscriber]:
    """Everything, single contexts, several, and filters of each kind."""
    return [
        Subscriber("everything"),
        Subscriber("a", ["a"]),
        Subscriber("a:b and b", ["a:b", "b"]),
        Subscriber("one writer", agents=["writer1"]),
        Subscriber("errors in a", ["a"], types=["error", "system"]),
        Subscriber("labels", ["a", "b"], meta={"k": "x"}),
        Subscriber("what arrives from elsewhere", kinds=["unit_added"]),
        Subscriber("births in a", ["a"], kinds=["unit_put"]),
    ]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("tended", [False, True])
async def test_the_guarantees_hold(tmp_path: Path, autojump_clock: MockClock, seed: int, tended: bool) -> None:
    world = World(tmp_path / "log", seed)
    history = world.history
    history.subscribers = subscribers()
    done = trio.Event()
    with trio.fail_after(3600):
        async with trio.open_nursery() as serving:
            serving.start_soon(world.serve)
            async with trio.open_nursery() as reading:
                for subscriber in history.subscribers:
                    reading.start_soon(subscribe, world, subscriber, done)
                if tended:
                    reading.start_soon(tend, world, done)
                async with trio.open_nursery() as writing:
                    for number in range(WRITERS):
                        writing.start_soon(write, world, f"writer{number}")
                    writing.start_soon(trouble, world)
                done.set()
            client = await world.connect("auditor")
            whole = await client.tail(after=0, credit=MAX_CREDIT)
            history.log = [entry for event in await whole.replayed() if (entry := _entry(event)) is not None]
            everything = await (await client.tail(after=0, credit=MAX_CREDIT, events=True)).replayed()
            history.present = {event.get("seq") or _seq(event["cursor"]) for event in everything}
            history.events, history.trims = everything, trims_of(everything)
            history.end = (await client.ask("status"))["status"]["last_seq"]
            serving.cancel_scope.cancel()
    assert len(history.acknowledged) >= WRITERS * PUTS
    assert max(history.attempts.values()) > 1, "some put was tried again"
    assert any(entry.kind == "unit_added" for entry in history.seen()), "in the end retention may have taken all"
    assert all(len(subscriber.sessions) > 1 for subscriber in history.subscribers)
    assert bool(history.trims) == tended
    assert any(event["kind"] == "unit_redacted" for event in everything) == tended
    validators.check(history)


async def trouble(world: World) -> None:
    """Restart the daemon now and then."""
    for _ in range(RESTARTS):
        await trio.sleep(world.rng.uniform(0.1, 1.5))
        world.restart()
