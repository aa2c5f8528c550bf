"""A connection from hello to the last answer: who breaks the rules is told, and harms nobody else."""

from __future__ import annotations

import gc
import struct
import weakref

import cbor2
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from wire import Client, Gate, HungUpError, Serve, Server, texts, unit_texts

from engramd.protocol.connection import MAX_IN_FLIGHT, MAX_STREAMS
from engramd.protocol.cursor import format_cursor
from engramd.protocol.errors import EngramError
from engramd.protocol.framing import frame
from engramd.protocol.messages import VERSION
from engramd.transport.session import HELLO_SECONDS, LINGER_SECONDS, Session

HELLO = {"id": 0, "op": "hello", "version": list(VERSION), "agent": "a"}
NO_CBOR = struct.pack(">I", 3) + b"\xff\xff\xff"
ENDINGS = {
    "no hello": (frame(cbor2.dumps({"id": 1, "op": "status"})), "protocol"),
    "bad CBOR": (NO_CBOR, "protocol"),
    "oversized": (struct.pack(">I", 2**31), "too_large"),
    "no map": (frame(cbor2.dumps([1, 2])), "protocol"),
    "no id": (frame(cbor2.dumps({"op": "hello", "version": list(VERSION), "agent": "a"})), "protocol"),
    "other version": (frame(cbor2.dumps({**HELLO, "version": [VERSION[0] + 1, 0]})), "version"),
    "no version": (frame(cbor2.dumps({"id": 0, "op": "hello", "agent": "a"})), "invalid"),
    "no agent": (frame(cbor2.dumps({"id": 0, "op": "hello", "version": list(VERSION)})), "invalid"),
    "credit before hello": (frame(cbor2.dumps({"id": 1, "op": "credit", "bytes": 1})), "protocol"),
}


@pytest.fixture(params=[False, True], ids=["memory", "sockets"])
def plain(request: pytest.FixtureRequest) -> bool:
    """What holds here does so over sockets, too, which one task reads for all."""
    return bool(request.param)


@pytest.mark.parametrize("name", ENDINGS)
async def test_a_bad_beginning_ends_the_connection_with_a_word(server: Server, autojump_clock: MockClock, name: str) -> None:
    data, code = ENDINGS[name]
    client = server.open()
    await client.stream.send_all(data)
    assert (await client.last_words()).code == code
    assert len(server.engine.peers) == 0


@pytest.mark.parametrize(
    ("data", "code"), [(NO_CBOR, "protocol"), (struct.pack(">I", 2**31), "too_large"), (frame(cbor2.dumps(HELLO)), "protocol")]
)
async def test_a_fault_later_ends_the_connection_and_no_other(server: Server, autojump_clock: MockClock, data: bytes, code: str) -> None:
    bad, good = await server.connect("bad"), await server.connect("good")
    theirs = await good.tail(contexts=["c"], follow=True)
    await theirs.replayed()
    mine = await bad.tail(contexts=["c"], follow=True)
    await mine.replayed()
    _, put = bad.frame("put", context="c", text="before the fault")
    await bad.stream.send_all(put + data)
    assert (await bad.last_words()).code == code
    assert unit_texts(await theirs.arrived()) == ["before the fault"], "what came before the fault was carried out"
    await good.ask("put", context="c", text="after")
    assert unit_texts(await theirs.arrived()) == ["after"]
    assert (await good.ask("status"))["status"]["connections"] == 1
    assert (await good.ask("status"))["status"]["subscriptions"] == 1


async def test_no_hello_in_time_ends_the_connection(server: Server, autojump_clock: MockClock) -> None:
    silent, dripping = server.open(), server.open()

    async def drip() -> None:
        for byte in frame(cbor2.dumps(HELLO))[:-1]:
            await dripping.stream.send_all(bytes([byte]))
            await trio.sleep(0.2)

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(drip)
        error = await silent.last_words()
        assert trio.current_time() - began == pytest.approx(HELLO_SECONDS)
        nursery.cancel_scope.cancel()
    assert error.code == "timeout"
    assert (await dripping.last_words()).code == "timeout", "a byte now and then is no hello"


async def test_streams_end_with_who_reads_them(server: Server, autojump_clock: MockClock) -> None:
    """And no more is read of what one has sent who does not hear the answers."""
    client = await server.connect("gone")
    await client.tail(follow=True)
    await client.settle()
    (peer,) = [peer for peer in server.engine.peers if peer.agent == "gone"]
    server.sessions[0].outbox.close()
    await trio.testing.wait_all_tasks_blocked()
    assert not peer.streams
    await client.stream.send_all(client.frame("put", context="c", text="the last")[1])
    await trio.testing.wait_all_tasks_blocked()
    assert peer not in server.engine.peers
    other = await server.connect("other")
    assert texts((await other.ask("list", context="c"))["units"]) == ["the last"]


async def test_nothing_of_a_connection_is_kept(server: Server, autojump_clock: MockClock) -> None:
    """Not even until the garbage collector comes round: a crowd would leave its frames behind."""
    client = await server.connect("gone")
    await client.tail(follow=True)
    await client.stream.send_all(client.frame("put", context="c", text="x" * 100_000)[1][:-1])
    await client.settle()
    session = weakref.ref(server.sessions.pop())
    gc.collect()
    gc.disable()
    try:
        await client.stream.aclose()
        await trio.sleep(1)
        assert session() is None
    finally:
        gc.enable()


async def test_what_tls_took_is_not_given_again(server: Server, autojump_clock: MockClock) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    server.nursery.start_soon(Session(server.engine, theirs, waited=HELLO_SECONDS - 1).run)
    began = trio.current_time()
    assert (await Client(ours).last_words()).code == "timeout"
    assert trio.current_time() - began == pytest.approx(1)


async def test_after_hello_there_is_no_hurry(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    await trio.sleep(3600)
    assert (await client.ask("put", context="c", text="x"))["seq"] == 2


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"op": "fly"}, "unknown_op"),
        ({"op": 7}, "unknown_op"),
        ({}, "unknown_op"),
        ({"op": "put", "text": "x"}, "invalid"),
        ({"op": "put", "context": 7, "text": "x"}, "invalid"),
        ({"op": "put", "context": "c"}, "invalid"),
        ({"op": "put", "context": "c", "text": "x", "payload": b"x"}, "invalid"),
        ({"op": "put", "context": "c", "text": "x", "colour": "red"}, "invalid"),
        ({"op": "put", "context": "c\x00d", "text": "x"}, "invalid"),
        ({"op": "put", "context": "c" * 257, "text": "x"}, "too_large"),
        ({"op": "put", "context": "c", "text": "x", "units": [{"text": "y"}]}, "invalid"),
        ({"op": "get", "ids": []}, "invalid"),
        ({"op": "list", "context": "c", "limit": 0}, "invalid"),
        ({"op": "tail", "last": -1}, "invalid"),
        ({"op": "tail", "contexts": ["c"] * 257}, "too_large"),
    ],
)
async def test_a_bad_request_is_answered_and_the_connection_goes_on(
    server: Server, autojump_clock: MockClock, request_: dict[str, object], code: str
) -> None:
    client = await server.connect()
    await client.stream.send_all(frame(cbor2.dumps({"id": "mine", **request_})))
    assert (await client.failure("mine")).code == code
    assert (await client.ask("status"))["status"]["last_seq"] == 0


async def test_half_closing_ends_streams_and_finishes_writes(serve: Serve, autojump_clock: MockClock) -> None:
    gate = Gate()
    server = serve(gate=gate)
    client = await server.connect()
    tail = await client.tail(contexts=["c"], follow=True)
    stalled = await client.tail(contexts=["c"], follow=True, credit=0)
    assert await tail.replayed() == []
    flying = await client.send("put", context="c", text="flying")
    await wait_all_tasks_blocked()
    forming = await client.send("put", context="c", text="forming")
    await client.stream.send_eof()
    await client.settle()
    assert flying not in client.answers, "the client's word is still on its way to the disk"
    gate.open()
    assert (await client.answer(flying))["seq"] == 2
    assert (await client.answer(forming))["seq"] == 3
    for stream in (tail, stalled):
        _, answer = await stream.ended()
        assert answer["cursor"].startswith(server.log.history)
    with pytest.raises(HungUpError):
        await client.pump()
    await wait_all_tasks_blocked()
    assert len(server.engine.peers) == len(server.engine.fanout) == 0
    assert texts((await (await server.connect()).ask("list", context="c"))["units"]) == ["flying", "forming"]


async def test_a_half_closed_stream_ends_where_it_stood(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    await client.ask("put", context="c", units=[{"text": str(number)} for number in range(3)])
    tail = await client.tail(contexts=["c"], after=0, follow=True)
    assert len(await tail.replayed()) == 3
    await client.stream.send_eof()
    _, answer = await tail.ended()
    assert answer == {"cursor": format_cursor(server.log.history, 4)}


async def test_hanging_up_inside_a_frame_is_a_fault(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    _, put = client.frame("put", context="c", text="cut off")
    await client.stream.send_all(put[:-1])
    await client.stream.send_eof()
    assert (await client.last_words()).code == "protocol"
    assert (await (await server.connect()).ask("list", context="c"))["units"] == []


async def test_vanishing_loses_no_write(serve: Serve, autojump_clock: MockClock) -> None:
    gate = Gate()
    server = serve(gate=gate)
    client, other = await server.connect(), await server.connect()
    tail = await client.tail(follow=True)
    await tail.replayed()
    await client.send("put", context="c", text="sent before the cable was pulled")
    await wait_all_tasks_blocked()
    await client.stream.aclose()
    await wait_all_tasks_blocked()
    assert (await other.ask("status"))["status"]["subscriptions"] == 0, "the stream does not wait for the disk"
    gate.open()
    await wait_all_tasks_blocked()
    assert (await other.ask("status"))["status"]["connections"] == 1
    assert texts((await other.ask("list", context="c"))["units"]) == ["sent before the cable was pulled"]


async def test_a_client_that_never_reads_its_last_answers_is_let_go(server: Server, autojump_clock: MockClock) -> None:
    client, other = await server.connect(lockstep=True), await server.connect()
    await client.send("status")
    await client.stream.send_eof()
    await trio.sleep(LINGER_SECONDS - 0.1)
    assert (await other.ask("status"))["status"]["connections"] == 2
    await trio.sleep(0.2)
    assert (await other.ask("status"))["status"]["connections"] == 1


async def test_ids_are_the_client_s_to_choose(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    chosen: list[int | str] = [7, "seven", 0, 2**63 - 1, "7"]
    await client.stream.send_all(b"".join(client.connection.request("status", {}, chosen_id)[1] for chosen_id in chosen))
    for chosen_id in chosen:
        assert "status" in await client.answer(chosen_id)
    assert client.order[1:] == chosen
    await client.stream.send_all(client.connection.request("status", {}, 7)[1])
    assert "status" in await client.answer(7), "an id that was answered may be used again"


async def test_an_id_in_use_is_a_fault(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    tail = await client.tail(follow=True)
    await tail.replayed()
    await client.stream.send_all(client.connection.request("status", {}, tail.id)[1])
    assert (await client.last_words()).code == "protocol"


async def test_more_requests_than_may_be_in_flight_wait_their_turn(serve: Serve, autojump_clock: MockClock) -> None:
    gate = Gate()
    server = serve(gate=gate)
    client, other = await server.connect(), await server.connect()
    count = 3 * MAX_IN_FLIGHT
    sent = [client.frame("put", context="c", text="x" * 100) for _ in range(count)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.stream.send_all, b"".join(data for _, data in sent))  # of which a socket takes only so much
        await wait_all_tasks_blocked()
        [peer] = [peer for peer in server.engine.peers if peer.in_flight]
        assert MAX_IN_FLIGHT <= peer.in_flight < 2 * MAX_IN_FLIGHT
        assert (await other.ask("status"))["status"]["last_seq"] == 0
        gate.open()
        seqs = [(await client.answer(request_id))["seq"] for request_id, _ in sent]
    assert seqs == list(range(2, count + 2))


async def test_one_stream_too_many_is_refused_and_the_connection_goes_on(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    tails = [await client.tail(contexts=["c"], follow=True) for _ in range(MAX_STREAMS)]
    for _ in range(MAX_IN_FLIGHT):
        refused = await client.refused("tail", follow=True)
    assert (refused.code, refused.details) == ("busy", {"limit": MAX_STREAMS, "retry_after": 1.0})
    await tails[0].cancel()
    await tails[0].ended()
    again = await client.tail(contexts=["c"], follow=True)
    await client.ask("put", context="c", text="x")
    for tail in (tails[1], tails[-1], again):
        assert unit_texts([event for event in await tail.arrived() if "unit" in event]) == ["x"]


async def test_a_client_s_fault_while_it_does_not_read(server: Server, autojump_clock: MockClock) -> None:
    """The word on a fault waits for a reader only so long."""
    client = server.open(lockstep=True)
    await client.stream.send_all(NO_CBOR)
    began = trio.current_time()
    other = await server.connect()
    assert "status" in await other.ask("status")
    await trio.sleep(LINGER_SECONDS + 1)
    assert trio.current_time() - began < LINGER_SECONDS + 2
    with pytest.raises((trio.BrokenResourceError, HungUpError, EngramError)):
        await Client(client.stream).hello()
