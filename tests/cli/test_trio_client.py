"""The trio client against the real engine, over streams in memory, in virtual time."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from wire import Gate, Serve, Server

from engram_cli import core
from engram_cli.trio_client import Client, EngramError, Event, Relationship, Tail
from engramd.protocol.errors import EngramError as WireError
from engramd.storage.log import Log
from engramd.transport.session import Session

Open = Callable[[], trio.abc.Stream]


class InMemory(Client):
    """The client, connecting to engines of this process.

    Attributes:
        opens: what connecting does now; None when no daemon runs.
        streams: every connection that was made.
    """

    def __init__(self, opens: Open | None, *, timeout: float | None = None) -> None:
        super().__init__("/nowhere", agent="me", autostart=False, timeout=timeout)
        self.opens = opens
        self.streams: list[trio.abc.Stream] = []

    async def _open(self, start: bool) -> tuple[trio.abc.Stream, int | None]:
        await trio.lowlevel.checkpoint()
        if self.opens is None:
            raise core.absent(self.address)
        self.streams.append(self.opens())
        return self.streams[-1], 7


def client_of(server: Server, timeout: float | None = None) -> InMemory:
    """A client of a server."""
    return InMemory(lambda: server.open().stream, timeout=timeout)


async def take(tail: Tail, count: int) -> list[str]:
    """The texts of the next so many units."""
    return [(await anext(tail)).text for _ in range(count)]


async def code_of(awaited: object) -> str:
    """The code of the error that this must end with."""
    with pytest.raises(EngramError) as caught:
        await awaited  # type: ignore[misc]
    return caught.value.code


async def test_methods_answer_as_the_blocking_clients_do(server: Server, autojump_clock: MockClock) -> None:
    async with client_of(server) as client:
        first = await client.put("c", "text", meta={"k": "v"}, dedupe="key")
        second = await client.put("c", b"\xff", relationships=[Relationship("causes", first.id)])
        assert (await client.put("c", "again", dedupe="key")).deduped
        two, one = await client.get(second.id, first.seq)
        assert (one.text, one.agent, one.meta, two.payload, two.relationships) == (
            "text", "me", {"k": "v"}, b"\xff", (Relationship("causes", first.id),),
        )  # fmt: skip
        assert (await client.put_many("many", [{"text": str(number)} for number in range(5)])).seq == 9
        assert [unit.text async for unit in client.list("many", limit=3, reverse=True)] == ["4", "3", "2"]
        assert [context["id"] async for context in client.context_list()] == ["c", "many"]
        assert await client.context_join("many", "guest")
        assert [agent["id"] async for agent in client.agents("many")] == ["guest", "me"]
        assert await client.names("contexts", "m") == ["many"]
        assert (await client.context_set("c", display_name="C"))["display_name"] == "C"
        assert (await client.status())["connections"] == 1
        assert client.server["pid"] > 0
        assert await code_of(client.get(99)) == "not_found"
        assert await code_of(client.put("c", "x", expect_seq=0)) == "conflict"
    assert not client.connected


async def test_an_error_leaves_the_block_as_it_is(server: Server, autojump_clock: MockClock) -> None:
    with pytest.raises(EngramError, match="there is no unit"):
        async with client_of(server) as client:
            await client.get(99)
    with trio.move_on_after(1) as scope:
        async with client_of(server) as client:
            await client.connect()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    with pytest.raises(RuntimeError, match="async with"):
        await client.status()


async def test_many_calls_share_one_connection(serve: Serve, autojump_clock: MockClock) -> None:
    gate = Gate()
    server = serve(gate=gate)
    async with client_of(server) as client:
        ids: list[str] = []

        async def put(number: int) -> None:
            ids.append((await client.put("c", str(number))).id)

        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(put, number)
            await wait_all_tasks_blocked()
            assert len((await client.status())["history"]) == 12, "reads do not wait for the disk that writes wait for"
            assert ids == []
            gate.open()
        assert len(set(ids)) == 100
        assert len(client.streams) == 1


async def test_a_stream_replays_marks_and_follows(server: Server, autojump_clock: MockClock) -> None:
    async with client_of(server) as client, client_of(server) as writer:
        for number in range(3):
            await writer.put("c", str(number))
        assert [unit.text async for unit in client.tail("c", after=0, follow=False)] == ["0", "1", "2"]
        tail = client.tail("c", last=1)
        events = tail.events()
        assert [(await anext(events)).kind for _ in range(2)] == ["unit_put", "live"]
        await writer.put("c", "3")
        assert (await take(tail, 1)) == ["3"]
        beat: Event = await anext(events)
        assert (beat.kind, beat.unit, beat.cursor) == ("heartbeat", None, tail.cursor)
        assert await code_of(anext(client.tail("c", after=99))) == "cursor"


async def test_cancelling_a_wait_for_an_item_loses_none(server: Server, autojump_clock: MockClock) -> None:
    async with client_of(server) as client:
        tail = client.tail("c", after=0)
        found: list[str] = []
        for number in range(20):
            with trio.move_on_after(0.001 * (number % 3)):
                found += await take(tail, 1)
            await client.put("c", str(number))
        with trio.move_on_after(1):
            while True:
                found += await take(tail, 1)
        assert found == [str(number) for number in range(20)]


async def test_a_stream_is_ended_when_it_is_left(server: Server, autojump_clock: MockClock) -> None:
    async with client_of(server) as client:

        async def subscriptions() -> int:
            return int((await client.status())["subscriptions"])

        for number in range(4):
            await client.put("c", str(number))
        async with client.tail("c", last=4) as tail:
            assert await take(tail, 2) == ["0", "1"]
            assert await subscriptions() == 1
        assert await subscriptions() == 0
        assert await take(tail, 2) == ["2", "3"], "it is taken up where it was left"
        await tail.aclose()
        async for unit in client.tail("c", last=2):
            assert unit.text == "2"
            break
        gc.collect()
        assert await subscriptions() == 1
        await client.put("c", "an item that nobody wants")
        await wait_all_tasks_blocked()
        assert await subscriptions() == 0


async def test_a_stream_that_nobody_reads_stalls_nobody_and_costs_little(server: Server, autojump_clock: MockClock) -> None:
    async with client_of(server) as client:
        stalled, flowing = client.tail("c", after=0), client.tail("c", after=0)
        await take_mark(stalled)
        await take_mark(flowing)
        count = 200
        for number in range(count):
            await client.put("c", str(number).ljust(20_000))  # 4 MB in all
            assert (await take(flowing, 1))[0].strip() == str(number)
        assert (await client.status())["lag"] > 0
        assert stalled._box is not None
        assert sum(item.size for item in stalled._box.items) < 1.5 * 2**20
        assert [text.strip() for text in await take(stalled, count)] == [str(number) for number in range(count)]


async def take_mark(tail: Tail) -> None:
    assert (await anext(tail.events())).kind == "live"


async def test_a_cancelled_write_may_have_happened_and_its_key_tells(serve: Serve, autojump_clock: MockClock) -> None:
    gate = Gate()
    server = serve(gate=gate)
    async with client_of(server) as client:
        with trio.move_on_after(1) as scope:
            await client.put("c", "x", dedupe="key")
        assert scope.cancelled_caught
        gate.open()
        again = await client.put("c", "x", dedupe="key")
        assert again.deduped
        assert [unit.id async for unit in client.list("c")] == [again.id]
        assert len(client.streams) == 1, "the connection goes on"


async def test_cancelling_a_request_tells_the_daemon(server: Server, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever takes long and can be cancelled, such as waiting for a lock, is ended by cancelling the task that awaits it."""
    noticed: list[tuple[str, object]] = []
    notice = Session._notice
    monkeypatch.setattr(Session, "_notice", lambda self, message: (noticed.append((message.op, message.id)), notice(self, message))[1])
    async with client_of(server) as client:
        await client.connect()
        link = client._link
        assert link is not None
        with trio.move_on_after(1):
            await link.wait(link.ask("tail", {"follow": True}))
        await client.status()
        assert [op for op, _ in noticed] == ["cancel"]
        assert (await client.status())["subscriptions"] == 0


async def test_cancelling_the_wait_for_a_lock_leaves_the_queue(server: Server, autojump_clock: MockClock) -> None:
    async with client_of(server) as client, client_of(server) as holder:
        token = (await holder.request("lock", {"resources": ["@x"]}))["token"]
        with trio.move_on_after(5) as scope:
            await client.request("lock", {"resources": ["@x"], "wait": True})
        assert scope.cancelled_caught
        await wait_all_tasks_blocked()
        assert (await holder.request("locks", {}))["waiters"] == []
        await holder.request("unlock", {"token": token})
        assert (await holder.request("locks", {}))["locks"] == []


async def test_a_lock_that_is_granted_just_as_its_wait_is_cancelled_is_released(serve: Serve, autojump_clock: MockClock) -> None:
    gate = Gate()
    server = serve(gate=gate)
    async with client_of(server) as client:
        with trio.move_on_after(5) as scope:
            await client.request("lock", {"resources": ["@x"], "wait": True})  # granted, but not on disk yet
        assert scope.cancelled_caught
        gate.open()
        await trio.sleep(1)
        assert (await client.request("locks", {}))["locks"] == []
        kinds = [event.kind async for event in client.tail(after=0, follow=False, events=True).events()]
        assert kinds == ["lock_granted", "lock_released", "live"]


async def test_a_timeout_is_an_error_and_the_connection_goes_on(serve: Serve, autojump_clock: MockClock) -> None:
    gate = Gate()
    server = serve(gate=gate)
    async with client_of(server, timeout=2) as client:
        began = trio.current_time()
        with pytest.raises(EngramError, match="may or may not have happened") as caught:
            await client.put("c", "x")
        assert (caught.value.code, caught.value.details) == ("timeout", {"outcome": "unknown"})
        assert trio.current_time() - began == pytest.approx(2)
        gate.open()
        assert (await client.put("c", "y")).seq == 3
        assert len(client.streams) == 1


class Cut:
    """A server that can be exchanged for another over the same log."""

    def __init__(self, serve: Serve, client: InMemory) -> None:
        self._serve = serve
        self._client = client

    async def off(self) -> None:
        """Break every connection, and let nobody in."""
        self._client.opens = None
        for stream in self._client.streams:
            await stream.aclose()
        await wait_all_tasks_blocked()

    def on(self) -> Server:
        server = self._serve()
        self._client.opens = lambda: server.open().stream
        return server


async def test_a_stream_goes_on_after_a_restart_without_a_gap_or_a_repeat(serve: Serve, autojump_clock: MockClock) -> None:
    server = serve()
    async with client_of(server) as client:
        cut = Cut(serve, client)
        tail, found = client.tail("c", after=0), list[str]()
        async with client_of(server) as writer, trio.open_nursery() as nursery:

            async def read() -> None:
                async for unit in tail:
                    found.append(unit.text)
                    if len(found) == 60:
                        return

            nursery.start_soon(read)
            for number in range(60):
                if number % 10 == 5:
                    await cut.off()
                await writer.put("c", str(number))
                if number % 10 == 7:
                    await trio.sleep(100)  # it is waited for, however long it takes
                    client.opens = lambda: server.open().stream
                    await trio.sleep(1)
        assert found == [str(number) for number in range(60)]
        assert len(client.streams) > 5


async def test_what_is_repeatable_is_repeated_and_nothing_else(serve: Serve, autojump_clock: MockClock) -> None:
    gate = Gate()
    server = serve(gate=gate)
    async with client_of(server) as client:
        await client.connect()
        cut = Cut(serve, client)
        codes: list[str] = []

        async def try_(dedupe: str | None) -> None:
            try:
                codes.append((await client.put("c", str(dedupe), dedupe=dedupe)).id and "ok")
            except EngramError as error:
                codes.append(error.code)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(try_, None)
            await wait_all_tasks_blocked()
            nursery.start_soon(try_, "key")
            await wait_all_tasks_blocked()
            await cut.off()
            gate.open()
            await trio.sleep(1)
            client.opens = lambda: server.open().stream
        assert codes == ["outcome_unknown", "ok"]
        assert sorted([unit.text async for unit in client.list("c")]) == ["None", "key"]


async def test_a_daemon_that_stops_is_left_for_the_next_while_it_finishes(log: Log, serve: Serve, autojump_clock: MockClock) -> None:
    gate = Gate()
    old = serve(gate=gate)
    async with client_of(old) as client:
        tail = client.tail("c", last=0)
        await take_mark(tail)
        made: list[str] = []

        async def put() -> None:
            made.append((await client.put("c", "in flight")).id)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(put)
            await wait_all_tasks_blocked()
            old.engine.stopping.set()
            late = trio.Event()

            async def ask() -> None:
                assert (await client.status())["pid"] > 0
                late.set()

            nursery.start_soon(ask)
            await wait_all_tasks_blocked()
            client.opens = None
            await trio.sleep(1)
            assert not late.is_set(), "it is refused, and waits for the next daemon"
            gate.open()
            await wait_all_tasks_blocked()
            assert len(made) == 1, "what was under way is answered by the one that stops"
            for peer in list(old.engine.peers):
                await peer.finish(WireError("unavailable", "the daemon is stopping"))
                peer.outbox.flush()
            for stream in client.streams:
                await stream.aclose()
            new = serve()
            client.opens = lambda: new.open().stream
        await client.put("c", "after")
        assert await take(tail, 2) == ["in flight", "after"]


async def test_who_is_not_there_or_does_not_answer_is_reported(server: Server, autojump_clock: MockClock) -> None:
    async with InMemory(None) as client:
        assert await code_of(client.status()) == "unavailable"
        assert await code_of(anext(client.tail("c"))) == "unavailable"
    async with InMemory(lambda: trio.testing.memory_stream_pair()[0]) as client:
        with pytest.raises(EngramError, match=r"pid 7.*kill -CONT 7"):
            await client.status()
    async with client_of(server, timeout=5) as client:
        tail = client.tail("c")
        await take_mark(tail)
        client.opens = None
        await client.streams[0].aclose()
        began = trio.current_time()
        assert await code_of(anext(tail)) == "timeout"
        assert trio.current_time() - began == pytest.approx(5, abs=0.2)


async def test_a_refused_greeting_is_an_error_for_every_task(server: Server, autojump_clock: MockClock) -> None:
    async with client_of(server) as client:
        client.agent = ""
        codes: list[str] = []

        async def ask() -> None:
            codes.append(await code_of(client.status()))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask)
        assert codes == ["invalid"] * 3
        client.agent = "me"
        assert (await client.status())["connections"] == 1


async def test_a_question_is_answered_or_not(server: Server, autojump_clock: MockClock) -> None:
    async with client_of(server) as client, client_of(server) as other:

        async def answer() -> None:
            async with other.tail(last=1, meta={"to": "bob"}) as inbox:
                question = await anext(inbox)
                await other.put("d", "not it", relationships=[Relationship("references", question.id)])
                await trio.sleep(100)
                await other.put("d", f"{question.text}!", relationships=[Relationship("responds_to", question.id)])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            assert (await client.ask("c", "hm", to="bob", meta={"k": "v"})).text == "hm!"
        began = trio.current_time()
        with pytest.raises(EngramError) as caught:
            await client.ask("c", "hm", to="nobody", timeout=7)
        assert caught.value.code == "timeout"
        assert trio.current_time() - began == pytest.approx(7)
        assert (await client.get(caught.value.details["id"]))[0].meta == {"to": "nobody"}
        assert (await client.status())["subscriptions"] == 0
