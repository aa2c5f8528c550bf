"""Redaction as clients see it: what is left of a unit, who is told, and what goes on behind it."""

from __future__ import annotations

import cbor2
import trio
from trio.testing import MockClock
from wire import EPOCH, Client, Gate, Serve, Server

from engramd.state.view import ERASURES
from engramd.storage.log import Log

GONE = {"text": "", "meta": {}}


async def redact(client: Client, *ids: object, reason: str = "a password") -> dict[str, object]:
    return await client.ask("redact", ids=list(ids), reason=reason)


async def test_a_tombstone_keeps_who_when_where_and_what_it_relates_to(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect("me")
    first = await client.ask("put", context="c", text="first")
    edge = {"type": "responds_to", "target": first["seq"], "meta": {"note": "hush"}}
    put = await client.ask("put", context="c", text="secret", type="error", meta={"k": "v"}, relationships=[edge])
    (before,) = (await client.ask("get", ids=[put["seq"]]))["units"]
    await trio.sleep(1)
    assert await redact(client, put["id"]) == {"redacted": [put["seq"]], "erased": True}
    (after,) = (await client.ask("get", ids=[put["seq"]]))["units"]
    told = after.pop("redacted")
    assert after == {**before, **GONE, "relationships": [{**before["relationships"][0], "meta": {}}]}
    assert told == {"seq": put["seq"] + 1, "ts": EPOCH + 1_000_000, "agent": "me", "reason": "a password"}
    assert [found["unit"]["id"] for found in (await client.ask("related", of=first["seq"]))["related"]] == [put["id"]]


async def test_it_is_seen_everywhere_and_found_nowhere(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect("me")
    put = await client.ask("put", context="c", text="secret", type="file_change", meta={"k": "v", "path": "/f"})
    await client.ask("context_add", context="d", ids=[put["id"]])
    await client.ask("context_pin", context="c", ids=[put["id"]])
    listening = await client.tail(kinds=["unit_redacted"], follow=True)
    await listening.replayed()
    await redact(client, put["seq"])
    told = await listening.next()
    assert (told["kind"], told["data"]["unit"], told["data"]["reason"]) == ("unit_redacted", put["seq"], "a password")
    for context in "cd":
        (unit,) = (await client.ask("list", context=context))["units"]
        assert (unit["text"], unit["redacted"]["reason"]) == ("", "a password")
        assert (await client.ask("list", context=context, meta={"k": "v"}))["units"] == []
        assert len((await client.ask("list", context=context, type="file_change", agent="me"))["units"]) == 1
    assert (await client.ask("why", paths=["/f"]))["changes"] == []
    replayed = await (await client.tail(after=0)).replayed()
    assert [(event["unit"]["text"], "redacted" in event["unit"]) for event in replayed] == [("", True)] * 2
    assert (await client.ask("context_show", context="c"))["context"]["pinned"] == [put["id"]]
    lines = (await client.ask("list", context="c", form="line"))["text"].decode()
    assert lines.endswith("\tme\tfile_change\t[redacted: a password]\n")
    assert '"redacted": {"seq": 6,' in (await client.ask("get", ids=[put["id"]], form="json"))["text"].decode()
    error = await client.refused("get", ids=[put["id"]], form="raw")
    assert (error.code, error.details) == ("redacted", {"seq": put["seq"], "reason": "a password"})
    assert "a password" in error.message


async def test_packs_do_not_remember_it(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    put = await client.ask("put", context="c", text="the secret")
    before = await client.ask("pack", contexts=["c"], budget=500)
    assert "the secret" in before["text"]
    await redact(client, put["id"])
    after = await client.ask("pack", contexts=["c"], budget=500, at=before["manifest"]["inputs"]["at"])
    assert ("the secret" in after["text"], "[redacted: a password]" in after["text"]) == (False, True)
    assert "the secret" not in repr(vars(server.engine.written))


async def test_it_is_done_once(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    put = await client.ask("put", context="c", text="secret", dedupe="k")
    assert (await redact(client, put["id"], put["seq"]))["redacted"] == [put["seq"]]
    assert await redact(client, put["id"], reason="another") == {"redacted": [], "erased": True}
    (unit,) = (await client.ask("get", ids=[put["id"]]))["units"]
    assert unit["redacted"]["reason"] == "a password"
    assert (await client.ask("put", context="c", text="secret", dedupe="k"))["deduped"], "a retry does not bring it back"
    assert (await client.refused("redact", ids=[put["seq"], 99], reason="x")).code == "not_found"
    assert (await client.refused("redact", ids=[put["seq"]], reason="")).code == "invalid"
    assert (await client.refused("redact", ids=[put["seq"]])).code == "invalid"


async def test_what_is_on_its_way_to_the_disk_is_redacted_too(serve: Serve, log: Log, autojump_clock: MockClock) -> None:
    gate = Gate()
    gate.open()
    server = serve(gate=gate)
    client, other = await server.connect(), await server.connect()
    put = await client.ask("put", context="c", text="secret", meta={"k": "v"})
    gate.close()
    added = await client.send("context_add", context="d", ids=[put["id"]])
    await other.settle()
    redacting = await other.send("redact", ids=[put["id"]], reason="why")
    late = await client.send("context_add", context="e", ids=[put["id"]])
    await other.settle()
    gate.open()
    await client.answer(added)
    await client.answer(late)
    await other.answer(redacting)
    assert (await client.ask("context_add", context="f", ids=[put["id"]]))["changed"]
    for context in "cdef":
        assert [unit["text"] for unit in (await client.ask("list", context=context))["units"]] == [""]
        assert (await client.ask("list", context=context, meta={"k": "v"}))["units"] == []
    labels = [key for key, _ in log._store.prefixed(b"m")]
    assert labels == [], "nothing leads to what it was labelled with"


async def test_a_start_goes_on_with_what_is_left_to_erase(serve: Serve, log: Log, autojump_clock: MockClock) -> None:
    first = serve()
    client = await first.connect()
    put = await client.ask("put", context="c", text="secret")
    first.running.cancel()  # nothing erases any more
    await trio.sleep(1)
    assert await redact(client, put["seq"]) == {"redacted": [put["seq"]], "erased": False}
    assert [key for key, _ in log.durable.scan(ERASURES)] == [put["seq"].to_bytes(8)]
    await serve().connect()
    await trio.sleep(1)
    assert list(log.durable.scan(ERASURES)) == []
    assert cbor2.loads(log.unit(put["seq"]) or b"")["text"] == ""


async def test_a_unit_that_its_own_context_does_not_keep(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    put = await client.ask("put", context="c", text="secret", meta={"k": "v"})
    await client.ask("context_add", context="d", ids=[put["id"]])
    await client.ask("put", context="c", text="last")
    await client.ask("context_retain", context="c", units=1)
    await trio.sleep(6)
    await redact(client, put["seq"])
    assert [unit["text"] for unit in (await client.ask("list", context="c"))["units"]] == ["last"], "it does not come back there"
    assert [unit["text"] for unit in (await client.ask("list", context="d"))["units"]] == [""]
    whole = await (await client.tail(after=0)).replayed()
    assert [event["kind"] for event in whole] == ["unit_added", "unit_put"]
