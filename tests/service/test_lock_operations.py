"""`lock`, `renew`, `unlock` and `locks` over connections, in virtual time."""

from __future__ import annotations

import itertools

import pytest
import trio
from trio.testing import MockClock
from wire import Client, Gate, Serve, Server, texts

from engramd.protocol.connection import MAX_STREAMS
from engramd.protocol.errors import EngramError
from engramd.protocol.unit import instant_of
from engramd.service import leases
from engramd.storage.log import Log
from engramd.storage.records import decode_event

SECOND = 1_000_000


async def kinds(client: Client) -> list[str]:
    """The kinds of the log's events so far that have to do with locks."""
    tail = await client.tail(after=0, events=True)
    return [event["kind"] for event in await tail.replayed() if event["kind"].startswith("lock_")]


async def test_a_lease_is_granted_listed_and_released(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect("builder")
    lease = await client.ask("lock", resources=["/src", "@deploy"], ttl="90s", reason="refactoring")
    assert lease["resources"] == ["/src", "@deploy"]
    assert lease["mode"] == "exclusive"
    assert lease["ttl"] == 90 * SECOND
    assert lease["expires_at"] == server.clock() + 90 * SECOND
    listed = await client.ask("locks")
    assert listed["next"] is None
    assert listed["waiters"] == []
    [info] = listed["locks"]
    assert (info["token"], info["holder"], info["reason"], info["renewals"]) == (lease["token"], "builder", "refactoring", 0)
    assert await client.ask("unlock", token=lease["token"]) == {"released": [lease["token"]]}
    assert (await client.ask("locks"))["locks"] == []
    assert await kinds(client) == ["lock_granted", "lock_released"]


async def test_a_held_lock_answers_at_once_with_who_how_and_how_long(server: Server, autojump_clock: MockClock) -> None:
    builder, reviewer = await server.connect("builder"), await server.connect("reviewer")
    lease = await builder.ask("lock", resources=["/src/**"], reason="refactoring")
    await trio.sleep(10)
    error = await reviewer.refused("lock", resources=["/src/app.rs"])
    assert error.code == "locked"
    assert error.details["holder"] == "builder"
    assert error.details["token"] == lease["token"]
    assert error.details["age"] == 10 * SECOND
    assert error.details["remaining"] == 50 * SECOND
    assert error.message == (
        "/src/app.rs overlaps /src/**, which is locked by builder (exclusive, token "
        f"{lease['token']}), taken 10s ago, 50s left unless renewed: refactoring. To queue up: --wait"
    )


async def test_a_wait_is_granted_in_the_batch_of_the_release(server: Server, autojump_clock: MockClock) -> None:
    first, second, third = [await server.connect(name) for name in ("a", "b", "c")]
    held = await first.ask("lock", resources=["/x"])
    waits = [await client.send("lock", resources=["/x"], wait=True) for client in (second, third)]
    await trio.sleep(1)
    listed = await first.ask("locks")
    assert [(waiter["agent"], waiter["behind"], waiter["waited"]) for waiter in listed["waiters"]] == [
        ("b", [held["token"]], SECOND),
        ("c", [held["token"]], SECOND),
    ]
    await first.ask("unlock", token=held["token"])
    granted = await second.answer(waits[0])
    assert granted["token"] == held["token"] + 2, "the grant is the event after the release"
    again = await first.send("lock", resources=["/x"], wait=True)
    await second.ask("unlock", token=granted["token"])
    after = await third.answer(waits[1])
    await third.ask("unlock", token=after["token"])
    assert (await first.answer(again))["token"] > after["token"], "who asks again goes to the back"


async def test_nobody_passes_an_earlier_waiter(server: Server, autojump_clock: MockClock) -> None:
    first, second, third = [await server.connect(name) for name in ("a", "b", "c")]
    held = await first.ask("lock", resources=["/x"])
    waiting = await second.send("lock", resources=["/x", "/y"], wait=True)
    await trio.sleep(1)
    error = await third.refused("lock", resources=["/y"])
    assert error.code == "locked"
    assert error.details["waiting"] is True
    assert error.message == "/y is free, but b was in the queue for it first (exclusive); queue up with --wait"
    reading = await third.send("lock", resources=["/y"], mode="shared", wait=True)
    await first.ask("unlock", token=held["token"])
    both = await second.answer(waiting)
    await second.ask("unlock", token=both["token"])
    assert (await third.answer(reading))["mode"] == "shared"


async def test_a_wait_ends_with_its_time_its_client_or_a_cancel(server: Server, autojump_clock: MockClock) -> None:
    holder, other, last = [await server.connect(name) for name in ("a", "b", "c")]
    held = await holder.ask("lock", resources=["/x"], ttl="1h")
    started = trio.current_time()
    error = await other.refused("lock", resources=["/x"], wait=True, timeout="5s")
    assert trio.current_time() == started + 5
    assert error.code == "locked"
    assert error.message.startswith("waited 5.0 s in vain: /x is locked by a")
    waiting = await other.send("lock", resources=["/x"], wait=True)
    await other.stream.send_all(other.connection.notice(waiting, "cancel"))
    assert (await other.failure(waiting)).code == "cancelled"
    await last.send("lock", resources=["/x"], wait=True)
    await last.stream.aclose()
    await trio.sleep(1)
    assert (await holder.ask("locks"))["waiters"] == []
    await holder.ask("unlock", token=held["token"])
    assert (await holder.ask("locks"))["locks"] == [], "nobody who left is granted anything"


async def test_a_lease_that_is_not_renewed_expires_and_the_next_has_it(server: Server, autojump_clock: MockClock) -> None:
    holder, other = await server.connect("a"), await server.connect("b")
    held = await holder.ask("lock", resources=["/x"], ttl="10s")
    waiting = await other.send("lock", resources=["/x"], wait=True)
    await trio.sleep(9)
    assert (await holder.ask("renew", token=held["token"]))["expires_at"] == server.clock() + 10 * SECOND
    await trio.sleep(9)
    [info] = (await holder.ask("locks"))["locks"]
    assert (info["renewals"], info["remaining"]) == (1, SECOND)
    granted = await other.answer(waiting)
    assert granted["token"] > held["token"]
    assert trio.current_time() >= 19
    error = await holder.refused("renew", token=held["token"])
    assert error.code == "stale"
    tail = await other.tail(after=0, events=True)
    [expired] = [event["data"] for event in await tail.replayed() if event["kind"] == "lock_expired"]
    assert expired == {"agent": "a", "token": held["token"], "resources": ["/x"], "renewal": 1}


async def test_setting_the_wall_clock_expires_nothing(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect("a")
    held = await client.ask("lock", resources=["/x"], ttl="10s")
    server.skew = 3600 * SECOND
    await trio.sleep(1)
    assert (await client.ask("renew", token=held["token"]))["token"] == held["token"]
    server.skew = -3600 * SECOND
    await trio.sleep(9)
    [info] = (await client.ask("locks"))["locks"]
    assert info["remaining"] == SECOND


async def test_shared_leases_and_slots_are_counted(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect("a")
    for _ in range(3):
        await client.ask("lock", resources=["/r"], mode="shared")
    assert (await client.refused("lock", resources=["/r/below"])).code == "locked"
    first = await client.ask("lock", resources=["@gpu"], mode="slots", slots=2)
    await client.ask("lock", resources=["@gpu"], mode="slots", slots=2)
    error = await client.refused("lock", resources=["@gpu"], mode="slots", slots=5)
    assert error.code == "locked", "the smallest number counts"
    assert "(slots, 2 in all, token" in error.message
    await client.ask("unlock", token=first["token"])
    await client.ask("lock", resources=["@gpu"], mode="slots", slots=2)
    assert (await client.refused("lock", resources=["@gpu"], mode="shared")).code == "locked"


async def test_a_request_that_makes_no_sense_is_refused(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect("a")
    for fields in (
        {"resources": ["src"]},
        {"resources": ["/src/"]},
        {"resources": ["/a/../b"]},
        {"resources": ["/a//b"]},
        {"resources": ["@"]},
        {"resources": ["@a\n"]},
        {"resources": ["/a\0"]},
        {"resources": ["/" + "a" * 256]},
        {"resources": ["/a" * 129]},
        {"resources": ["/" + "*" * 1024]},
        {"resources": ["/*" * 33]},
        {"resources": []},
        {"resources": ["/x"], "mode": "slots"},
        {"resources": ["/x"], "slots": 2},
        {"resources": ["/x"], "ttl": "1ms"},
        {"resources": ["/x"], "ttl": "31d"},
        {"resources": ["/x"], "ttl": "soon"},
        {"resources": ["/x"], "timeout": "1s"},
        {"resources": ["/x"], "session": True},
    ):
        assert (await client.refused("lock", **fields)).code == "invalid", fields
    error = await client.refused("lock", resources=[f"/{number}/*" for number in range(65)])
    assert (error.code, error.details["limit"]) == ("too_large", 32)
    assert (await client.refused("unlock")).code == "invalid"
    assert (await client.refused("unlock", resources=["/x"])).code == "invalid"
    assert (await client.refused("unlock", token=7)).code == "stale"
    assert (await client.refused("locks", explain=True)).code == "invalid"
    assert (await client.ask("locks"))["locks"] == []


async def test_a_cycle_is_refused_and_spelled_out(server: Server, autojump_clock: MockClock) -> None:
    ann, bob, eve = [await server.connect(name) for name in ("ann", "bob", "eve")]
    for client, path in ((ann, "/x"), (bob, "/y"), (eve, "/z")):
        await client.ask("lock", resources=[path])
    await ann.send("lock", resources=["/y"], wait=True)
    await bob.send("lock", resources=["/z"], wait=True)
    await trio.sleep(1)
    error = await eve.refused("lock", resources=["/x"], wait=True)
    assert error.code == "deadlock"
    assert error.details["cycle"] == [
        "eve waits for /x, which ann holds",
        "ann waits for /y, which bob holds",
        "bob waits for /z, which eve holds",
    ]
    assert all(step in error.message for step in error.details["cycle"])


async def test_jobs_of_one_agent_wait_for_each_other_but_a_session_does_not_wait_for_itself(
    server: Server, autojump_clock: MockClock
) -> None:
    one, two = await server.connect("me"), await server.connect("me")
    held = await one.ask("lock", resources=["/x"])
    waiting = await two.send("lock", resources=["/x"], wait=True)
    await trio.sleep(1)
    await one.ask("unlock", token=held["token"])
    await two.ask("unlock", token=(await two.answer(waiting))["token"])
    three, four = [await server.connect("me", session="s") for _ in range(2)]
    await three.ask("lock", resources=["/x"])
    error = await four.refused("lock", resources=["/x"], wait=True)
    assert error.code == "deadlock"
    assert error.details["cycle"] == ["me (session s) waits for /x, which me (session s) holds"]


async def test_a_lease_that_is_bound_to_a_session_ends_with_its_last_owner(server: Server, autojump_clock: MockClock) -> None:
    owner = await server.connect("agent", session="s", owner=True)
    child = await server.connect("agent", session="s")
    held = await child.ask("lock", resources=["/x"], ttl="1s", session=True)
    assert held["expires_at"] is None
    await child.stream.aclose()
    await trio.sleep(60)
    other = await server.connect("other")
    [info] = (await other.ask("locks"))["locks"]
    assert (info["session"], info["remaining"]) == ("s", None)
    second = await server.connect("agent", session="s", owner=True)
    await owner.stream.aclose()
    await trio.sleep(60)
    assert len((await other.ask("locks"))["locks"]) == 1
    waiting = await other.send("lock", resources=["/x"], wait=True)
    orphan = await server.connect("agent", session="s")
    await second.stream.aclose()
    assert (await other.answer(waiting))["token"] > held["token"]
    assert (await orphan.refused("lock", resources=["/y"], session=True)).code == "invalid"
    tail = await other.tail(after=0, events=True)
    [released] = [event["data"] for event in await tail.replayed() if event["kind"] == "lock_released"]
    assert released["cause"] == "session_ended"


async def test_without_its_owner_a_bound_lease_has_its_time(server: Server, autojump_clock: MockClock) -> None:
    child = await server.connect("agent", session="s")
    held = await child.ask("lock", resources=["/x"], ttl="10s", session=True)
    assert held["expires_at"] == server.clock() + 10 * SECOND
    await trio.sleep(9)
    await server.connect("agent", session="s", owner=True)
    await trio.sleep(60)
    assert len((await child.ask("locks"))["locks"]) == 1, "the owner came in time"


async def test_a_restart_gives_every_lease_its_full_time_and_forgets_who_waits(serve: Serve, log: Log, autojump_clock: MockClock) -> None:
    before = serve()
    holder = await before.connect("a")
    owner = await before.connect("o", session="s", owner=True)
    held = await holder.ask("lock", resources=["/x"], ttl="10s")
    bound = await owner.ask("lock", resources=["/y"], ttl="10s", session=True)
    await (await before.connect("b")).send("lock", resources=["/x"], wait=True)
    await trio.sleep(9)
    before.engine.stopping.set()
    await holder.stream.aclose()
    await owner.stream.aclose()
    await trio.sleep(0.1)
    before.running.cancel()

    after = serve()
    client = await after.connect("a")
    listed = await client.ask("locks")
    assert listed["waiters"] == []
    assert [(info["token"], info["remaining"], info["renewals"]) for info in listed["locks"]] == [
        (held["token"], 10 * SECOND, 0),
        (bound["token"], 10 * SECOND, 0),
    ]
    await after.connect("o", session="s", owner=True)
    await trio.sleep(11)
    assert [info["token"] for info in (await client.ask("locks"))["locks"]] == [bound["token"]]


async def test_a_write_under_a_fence_needs_the_token_of_a_current_lease(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect("a")
    held = await client.ask("lock", resources=["/src/**"])
    fence = [{"resource": "/src/app.rs", "token": held["token"]}]
    put = await client.ask("put", context="c", text="under the lock", fences=fence)
    error = await client.refused("put", context="c", text="x", fences=[{"resource": "/doc", "token": held["token"]}])
    assert error.code == "stale"
    assert "does not cover /doc" in error.message
    assert (await client.refused("put", context="c", text="x", release=True)).code == "invalid"
    assert (await client.refused("put", context="c", text="x", fences=fence, expect_seq=1, release=True)).code == "conflict"
    last = await client.ask("put", context="c", text="done", fences=fence, expect_seq=put["seq"], release=True, dedupe="k")
    assert (await client.refused("put", context="c", text="late", fences=fence)).code == "stale"
    again = await client.ask("put", context="c", text="done", fences=fence, release=True, dedupe="k")
    assert (again["seq"], again["deduped"]) == (last["seq"], True)
    tail = await client.tail(after=last["seq"] - 1, events=True)
    assert [event["kind"] for event in await tail.replayed()] == ["unit_put", "lock_released"]
    record = server.log.record(last["seq"])
    assert record is not None
    assert decode_event(record).fences == (held["token"],)  # type: ignore[union-attr]


async def test_what_a_guarded_write_ends_is_not_later_than_the_write(server: Server, autojump_clock: MockClock) -> None:
    """A late sleeper leaves it to the put to end a lease; the clock goes on between the two."""
    client, waiter = await server.connect("a"), await server.connect("b")
    await client.ask("lock", resources=["/due"], ttl="1s")
    held = await client.ask("lock", resources=["/src"])
    waiting = await waiter.send("lock", resources=["/due"], wait=True)
    await client.ask("status")
    server.running.cancel()
    await trio.sleep(2)
    ticks = itertools.count(server.clock())
    server.engine.committer._clock = lambda: next(ticks)
    put = await client.ask("put", context="c", text="x", fences=[{"resource": "/src", "token": held["token"]}])
    await waiter.answer(waiting)
    tail = await client.tail(after=0, events=True)
    written = [(event["kind"], event["unit"]["ts"] if "unit" in event else event["ts"]) for event in await tail.replayed()]
    assert [kind for kind, _ in written[2:]] == ["lock_expired", "lock_granted", "context_created", "unit_put"]
    assert [ts for _, ts in written] == sorted(ts for _, ts in written)
    unit = (await client.ask("get", ids=[put["id"]]))["units"][0]
    assert put["ts"] == unit["ts"] == instant_of(put["id"])


async def test_force_takes_what_keeps_a_path_locked(server: Server, autojump_clock: MockClock) -> None:
    holder, operator = await server.connect("a"), await server.connect("root")
    above = await holder.ask("lock", resources=["/src", "/doc"])
    other = await holder.ask("lock", resources=["/etc"])
    assert await operator.ask("unlock", resources=["/src/app.rs"], force=True) == {"released": [above["token"]]}
    assert await operator.ask("unlock", token=other["token"], force=True) == {"released": [other["token"]]}
    assert await operator.ask("unlock", resources=["/src"], force=True) == {"released": []}
    error = await holder.refused("renew", token=above["token"])
    assert (error.code, error.details["ended"], error.details["by"]) == ("stale", "stolen", "root")
    assert "was taken away by root" in error.message
    tail = await operator.tail(after=0, events=True)
    stolen = [event["data"] for event in await tail.replayed() if event["kind"] == "lock_stolen"]
    assert stolen[0] == {"agent": "root", "token": above["token"], "resources": ["/src", "/doc"], "holder": "a"}


async def test_locks_are_listed_page_by_page_filtered_and_explained(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect("a")
    tokens = [(await client.ask("lock", resources=[f"/f{number}"]))["token"] for number in range(5)]
    first = await client.ask("locks", limit=2)
    assert [info["token"] for info in first["locks"]] == tokens[:2]
    rest = await client.ask("locks", after=first["next"])
    assert [info["token"] for info in rest["locks"]] == tokens[2:]
    assert rest["next"] is None
    for text in ("one", "two", "three", "four"):
        await client.ask("put", context="c", text=text)
    await (await server.connect("b")).ask("put", context="c", text="other")
    found = await client.ask("locks", resources=["/f3", "/none"], explain=True)
    assert [info["token"] for info in found["locks"]] == [tokens[3]]
    assert texts(found["locks"][0]["units"]) == ["two", "three", "four"]
    assert (await client.ask("names", kind="locks", prefix=str(tokens[0])))["names"] == [str(tokens[0])]


async def test_waits_have_a_limit_for_a_connection_and_for_all(
    server: Server, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder, other = await server.connect("a"), await server.connect("b")
    await holder.ask("lock", resources=["/x"])
    for _ in range(MAX_STREAMS):
        await other.send("lock", resources=["/x"], wait=True)
    assert (await other.refused("lock", resources=["/x"], wait=True)).code == "busy"
    assert (await other.ask("status"))["status"]["waiters"] == MAX_STREAMS, "other requests are still answered"
    monkeypatch.setattr(leases, "MAX_WAITERS", MAX_STREAMS)
    assert (await holder.refused("lock", resources=["/x"], wait=True)).code == "busy"
    monkeypatch.setattr(leases, "MAX_LEASES", 1)
    assert (await holder.refused("lock", resources=["/y"])).code == "busy"


async def test_every_wait_is_answered_once_whatever_ends_it_in_the_same_moment(server: Server, autojump_clock: MockClock) -> None:
    """The lease ends just when the wait does, again and again: the client that was told `locked` must not be left with the lease."""
    holder, other = await server.connect("a"), await server.connect("b")
    for attempt in range(20):
        held = await holder.ask("lock", resources=["/x"], ttl="1s")
        waiting = await other.send("lock", resources=["/x"], wait=True, timeout="1s")
        if attempt % 2:
            await trio.sleep(0.5)
            await other.stream.send_all(other.connection.notice(waiting, "cancel"))
            await holder.ask("unlock", token=held["token"])
        await trio.sleep(2)
        await other.settle()
        assert other.order.count(waiting) == 1
        error = other.answers.pop(waiting).error
        leases = (await holder.ask("locks"))["locks"]
        assert [info["holder"] for info in leases] == ([] if error else ["b"])
        await holder.ask("unlock", resources=["/x"], force=True)


async def test_a_wait_that_ends_as_the_last_one_in_its_way_leaves_is_granted(server: Server, autojump_clock: MockClock) -> None:
    holder, wide, narrow = [await server.connect(name) for name in ("a", "b", "c")]
    held = await holder.ask("lock", resources=["/x"])
    first = await wide.send("lock", resources=["/x", "/y"], wait=True, timeout="1s")
    second = await narrow.send("lock", resources=["/y"], wait=True, timeout="1s")
    assert (await wide.failure(first)).code == "locked"
    await narrow.settle()
    answer = narrow.answers.pop(second)
    assert (answer.error.code if answer.error else None) in (None, "locked")
    [*leases] = (await holder.ask("locks"))["locks"]
    assert [info["token"] for info in leases] == [held["token"], *([] if answer.error else [(answer.result or {})["token"]])]


async def test_a_repeated_request_with_a_key_is_answered_with_its_lease(server: Server, autojump_clock: MockClock) -> None:
    client, same, other = await server.connect("a"), await server.connect("a", session="s"), await server.connect("b")
    first = await client.ask("lock", resources=["/x"], key="k")
    again = await same.ask("lock", resources=["/x"], key="k", wait=True)
    assert again["token"] == first["token"]
    assert (await other.refused("lock", resources=["/x"], key="k")).code == "locked", "a key is its agent's"
    await client.ask("unlock", token=first["token"])
    assert (await client.ask("lock", resources=["/x"], key="k"))["token"] > first["token"]


async def test_a_page_of_locks_has_a_size_and_goes_on(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect("a")
    tokens = []
    for number in range(8):
        resources = [f"/{number}/{at}/{'x' * 250}" for at in range(900)]
        tokens.append((await client.ask("lock", resources=resources))["token"])
    found: list[int] = []
    after = 0
    pages = 0
    while True:
        page = await client.ask("locks", **({"after": after} if after else {}))
        found += [info["token"] for info in page["locks"]]
        pages += 1
        if page["next"] is None:
            break
        after = page["next"]
    assert found == tokens
    assert pages > 2


async def test_waits_end_when_no_more_writes_are_taken(server: Server, autojump_clock: MockClock) -> None:
    holder, other = await server.connect("a"), await server.connect("b")
    await holder.ask("lock", resources=["/x"])
    waiting = await other.send("lock", resources=["/x"], wait=True)
    await trio.sleep(1)
    server.engine.committer.refuse_writes(EngramError("storage", "the store is damaged"))
    assert (await other.failure(waiting)).code == "storage"
    assert (await other.refused("lock", resources=["/x"], wait=True)).code == "storage"


async def test_who_is_refused_for_the_number_of_leases_keeps_nobody_waiting(
    server: Server, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = [await server.connect(name) for name in ("a", "b", "c")]
    held = await first.ask("lock", resources=["/x"])
    wide = await second.send("lock", resources=["/x", "/y"], wait=True)
    narrow = await third.send("lock", resources=["/y"], wait=True)
    await trio.sleep(1)
    monkeypatch.setattr(leases, "MAX_LEASES", 0)
    await first.ask("unlock", token=held["token"])
    assert (await second.failure(wide)).code == "busy"
    assert (await third.failure(narrow)).code == "busy"


async def test_a_bound_wait_ends_with_its_session(server: Server, autojump_clock: MockClock) -> None:
    holder, owner = await server.connect("a"), await server.connect("b", session="s", owner=True)
    child = await server.connect("b", session="s")
    await holder.ask("lock", resources=["/x"])
    waiting = await child.send("lock", resources=["/x"], wait=True, session=True)
    await trio.sleep(1)
    await owner.stream.aclose()
    assert (await child.failure(waiting)).code == "cancelled"


@pytest.mark.parametrize("seconds", [0.1, 60])
async def test_a_grant_to_a_client_that_has_died_is_given_back(serve: Serve, autojump_clock: MockClock, seconds: float) -> None:
    gate = Gate()
    gate.open()
    server = serve(gate=gate)
    client, other = await server.connect("a"), await server.connect("b")
    gate.close()
    await client.send("lock", resources=["/x"], ttl="30d")
    await trio.sleep(0.1)
    await trio.aclose_forcefully(client.stream)
    await trio.sleep(seconds)
    gate.open()
    await trio.sleep(6)
    assert (await other.ask("locks"))["locks"] == []


async def test_nobody_is_let_in_while_the_daemon_stops(server: Server, autojump_clock: MockClock) -> None:
    holder, wide, narrow = [await server.connect(name) for name in ("a", "b", "c")]
    held = await holder.ask("lock", resources=["/x"])
    waits = [await wide.send("lock", resources=["/x", "/y"], wait=True), await narrow.send("lock", resources=["/y"], wait=True)]
    await trio.sleep(1)
    server.engine.stopping.set()
    async with trio.open_nursery() as nursery:
        for peer in list(server.engine.peers):
            nursery.start_soon(peer.finish, EngramError("unavailable", "the daemon is stopping"))
        assert [(await client.failure(wait)).code for client, wait in zip((wide, narrow), waits, strict=True)] == ["unavailable"] * 2
    assert list(server.log.pending.held.leases) == [held["token"]]


async def test_waiters_are_told_when_the_daemon_stops(server: Server, autojump_clock: MockClock) -> None:
    holder, other = await server.connect("a"), await server.connect("b")
    await holder.ask("lock", resources=["/x"])
    waiting = await other.send("lock", resources=["/x"], wait=True)
    await trio.sleep(1)
    [peer] = [peer for peer in server.engine.peers if peer.agent == "b"]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.finish, EngramError("unavailable", "the daemon is stopping"))
        assert (await other.failure(waiting)).code == "unavailable"
