"""Real processes: writers and readers on trio, at random cut off, stalled or replaced, and a daemon that is killed and stopped under them.

What everybody saw is held against every guarantee.
"""

from __future__ import annotations

import random
import signal
from typing import Any

import pytest
import trio
import validators
from commandline import Shell
from validators import Acknowledged, Entry, History, Session, Subscriber

from engram_cli.trio_client import Client, EngramError, Event, Tail
from engramd.protocol.unit import parse_ref

CONTEXTS = ("a", "a:b", "b")
TYPES = ("message", "error")
WRITERS, PUTS = 3, 60
TROUBLES = (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL)


class World:
    """One daemon, which is started again whenever it ends, and what is recorded."""

    def __init__(self, shell: Shell, seed: int) -> None:
        self.rng = random.Random(seed)
        self.history = History()
        self.shell = shell
        self.written: list[str] = []

    def client(self, agent: str) -> Client:
        return Client(str(self.shell.socket), agent=agent, autostart=False, timeout=30)


async def write(world: World, name: str) -> None:
    """Put numbered units; what has an unknown outcome is asked for again with its key."""
    rng = world.rng
    todo = [f"{name}:{number}" for number in range(PUTS)]
    while todo:
        async with world.client(name) as client:
            for _ in range(rng.randrange(1, 30)):
                batch, context = todo[: rng.choice((1, 1, 4))], rng.choice(CONTEXTS)
                async with trio.open_nursery() as nursery:
                    for key in batch:
                        nursery.start_soon(_put, world, client, context, key)
                del todo[: len(batch)]
                if rng.random() < 0.2 and world.written:
                    await _move(client, rng.choice(CONTEXTS), rng.choice(world.written))
                await trio.sleep(rng.choice((0, 0, 0.01)))
                if not todo:
                    break


async def _put(world: World, client: Client, context: str, key: str) -> None:
    rng, attempts = world.rng, world.history.attempts
    draft: dict[str, Any] = {"type": rng.choice(TYPES), "meta": {"k": rng.choice("xy")}}
    while True:
        attempts[context, key] = attempts.get((context, key), 0) + 1
        with trio.move_on_after(rng.choice((0.0005, 5))):  # at times it is given up while it is under way
            try:
                made = await client.put(context, key, dedupe=key, **draft)
            except EngramError as error:
                assert error.code in ("unavailable", "outcome_unknown", "timeout"), error  # noqa: PT017
            else:
                unit_id = parse_ref(made.id)
                assert isinstance(unit_id, bytes)
                world.history.acknowledged.append(Acknowledged(client.agent, key, context, unit_id, made.seq))
                world.written.append(made.id)
                return
        await trio.sleep(0.005)


async def _move(client: Client, context: str, unit: str) -> None:
    try:
        await client.context_add(context, unit)
    except EngramError as error:
        assert error.code in ("unavailable", "outcome_unknown"), error  # noqa: PT017


async def read(world: World, subscriber: Subscriber, done: trio.Event) -> None:
    """Follow with streams that are given up at random, each of which reconnects by itself; at last, read on to the end."""
    rng, reached = world.rng, 0
    ended = False
    while not ended:
        last = done.is_set()
        session = Session(reached, reached)
        subscriber.sessions.append(session)
        async with world.client(subscriber.name) as client:
            tail = client.tail(after=reached, follow=not last, credit=rng.choice((1, 3000, 2**20)), **subscriber.filter())
            with trio.move_on_after(30 if last else rng.uniform(0.05, 1)):
                try:
                    await _follow(world, tail, session)
                    ended = last
                except EngramError as error:
                    assert error.code == "unavailable", error  # noqa: PT017  (nobody is there for a new client)
                    await trio.sleep(0.05)
        reached = session.until


async def _follow(world: World, tail: Tail, session: Session) -> None:
    async for event in tail.events():
        session.until = int(event.cursor.rpartition(".")[2])
        if event.unit is not None:
            session.received.append(_entry(event))
        if world.rng.random() < 0.01:
            await trio.sleep(world.rng.uniform(0, 0.3))  # it stalls


def _entry(event: Event) -> Entry:
    unit = event.fields["unit"]
    return Entry(int(event.cursor.rpartition(".")[2]), unit.get("entry_context", unit["context"]), event.kind, unit)


async def trouble(world: World) -> None:
    """End the daemon at random moments, and start another a little later."""
    for number in TROUBLES:
        await trio.sleep(world.rng.uniform(0.2, 0.6))
        running = world.shell.daemon_pid()
        assert running is not None
        await trio.to_thread.run_sync(_replace, world.shell, running, number)


def _replace(shell: Shell, pid: int, number: signal.Signals) -> None:
    if number == signal.SIGKILL:
        shell.kill_daemon()
    else:
        assert shell.run("daemon", "stop").code == 0
    shell.daemon()


@pytest.mark.parametrize("seed", range(2))
async def test_the_guarantees_hold_over_real_processes(served: Shell, seed: int) -> None:
    world = World(served, seed)
    history, done = world.history, trio.Event()
    history.subscribers = [
        Subscriber("everything"),
        Subscriber("a", ["a"]),
        Subscriber("a:b and b", ["a:b", "b"]),
        Subscriber("errors of one", agents=["writer 1"], types=["error"]),
        Subscriber("labels", ["a", "b"], meta={"k": "x"}),
        Subscriber("what arrives from elsewhere", kinds=["unit_added"]),
    ]
    with trio.fail_after(90):
        async with trio.open_nursery() as readers:
            for subscriber in history.subscribers:
                readers.start_soon(read, world, subscriber, done)
            async with trio.open_nursery() as writers:
                writers.start_soon(trouble, world)
                for number in range(WRITERS):
                    writers.start_soon(write, world, f"writer {number}")
            done.set()
        async with world.client("auditor") as auditor:
            whole = auditor.tail(after=0, follow=False)
            history.log = [_entry(event) async for event in whole.events() if event.unit is not None]
            history.end = (await auditor.status())["last_seq"]
    assert len(history.acknowledged) == WRITERS * PUTS
    assert max(history.attempts.values()) > 1, "some put was tried again"
    assert any(entry.kind == "unit_added" for entry in history.log)
    assert all(len(subscriber.sessions) > 1 for subscriber in history.subscribers)
    validators.check(history)
