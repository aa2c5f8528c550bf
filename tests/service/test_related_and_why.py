"""`related` and `why` over the wire."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock
from wire import EPOCH, Client, Server

from engramd.protocol.messages import PAGE_BYTES
from engramd.service.relationships import CHAIN, CHANGES


async def put(client: Client, text: str, *edges: tuple[str, Any], **fields: Any) -> int:
    """Put a unit with relationships; returns its seq."""
    made = await client.ask(
        "put", **{"context": "c", "text": text, "relationships": [{"type": type, "target": ref} for type, ref in edges], **fields}
    )
    return int(made["seq"])


def shape(related: list[dict[str, Any]]) -> list[tuple[str, int, str]]:
    return [(item["unit"]["text"], item["distance"], item["edge"]["type"]) for item in related]


@pytest.fixture
async def story(server: Server) -> Client:
    """A plan, a call that it causes, a result in response to that, an answer to both, and a note on the plan."""
    client = await server.connect()
    plan = await put(client, "plan")
    call = await put(client, "call", ("causes", plan))
    result = await put(client, "result", ("responds_to", call))
    await put(client, "answer", ("responds_to", result), ("depends_on", plan), context="d")
    await put(client, "note", ("references", plan), context="e")
    return client


async def test_related_walks_breadth_first(story: Client, autojump_clock: MockClock) -> None:
    plan = 2
    for fields, expected in (
        ({"of": plan}, [("call", 1, "causes"), ("answer", 1, "depends_on"), ("note", 1, "references")]),
        ({"of": plan, "direction": "out"}, []),
        ({"of": plan, "direction": "in", "type": "causes", "depth": 9}, [("call", 1, "causes")]),
        ({"of": plan, "type": ["causes", "responds_to"], "depth": 2}, [("call", 1, "causes"), ("result", 2, "responds_to")]),
        ({"of": plan, "limit": 1}, [("call", 1, "causes")]),
    ):
        answer = await story.ask("related", **fields)
        assert shape(answer["related"]) == expected
        assert answer["more"] == ("limit" in fields)
    whole = await story.ask("related", of=6, depth=50)
    assert sorted(shape(whole["related"])) == [
        ("call", 2, "responds_to"),
        ("note", 2, "references"),
        ("plan", 1, "depends_on"),
        ("result", 1, "responds_to"),
    ]
    first = whole["related"][0]
    assert first["edge"] == {"type": "responds_to", "source": (await ids(story, 6))[0], "target": (await ids(story, 4))[0], "meta": {}}


async def ids(client: Client, *seqs: int) -> list[bytes]:
    return [unit["id"] for unit in (await client.ask("get", ids=list(seqs)))["units"]]


async def test_related_is_refused_clearly(story: Client, autojump_clock: MockClock) -> None:
    for fields, code in (
        ({"of": 99}, "not_found"),
        ({"of": "x"}, "invalid"),
        ({}, "invalid"),
        ({"of": 2, "depth": 0}, "invalid"),
        ({"of": 2, "type": "lunch"}, "invalid"),
        ({"of": 2, "direction": "up"}, "invalid"),
        ({"of": 2, "limit": 1001}, "invalid"),
    ):
        assert (await story.refused("related", **fields)).code == code


async def test_a_large_walk_stops_nobody_and_fits_its_answer(server: Server, autojump_clock: MockClock) -> None:
    client, other = await server.connect(), await server.connect()
    hub = await put(client, "hub")
    for _ in range(5):
        drafts = [{"text": "x" * 1000, "relationships": [{"type": "references", "target": hub}]} for _ in range(400)]
        await client.ask("put", context="c", units=drafts)
    request = await client.send("related", of=hub, limit=1000)
    assert (await other.ask("status"))["status"]["connections"] == 2
    answer = await client.answer(request)
    assert answer["more"]
    assert sum(len(item["unit"]["text"]) for item in answer["related"]) < PAGE_BYTES + 2000


async def change(client: Client, text: str, *edges: tuple[str, Any], path: str = "/src/x.py", **fields: Any) -> int:
    return await put(client, text, *edges, type="file_change", meta={"path": path}, **fields)


async def test_why_tells_what_led_to_each_change(story: Client, autojump_clock: MockClock) -> None:
    await change(story, "first", ("responds_to", 4), ("references", 8))
    await change(story, "elsewhere", path="/src/y.py")
    await change(story, "second", ("depends_on", 6), path="src//x.py", context="other")
    answer = await story.ask("why", paths=["/src/x.py", "src/x.py"])
    assert [item["unit"]["text"] for item in answer["changes"]] == ["second", "first"]
    second, first = answer["changes"]
    assert shape(first["chain"]) == [("result", 1, "responds_to"), ("call", 2, "responds_to"), ("plan", 3, "causes")]
    assert {text for text, _, _ in shape(second["chain"])} == {"answer", "result", "plan", "call"}
    assert (first["more"], first["leases"], answer["next"]) == (False, [], None)
    shallow = await story.ask("why", paths=["/src/x.py"], depth=0)
    assert [item["chain"] for item in shallow["changes"]] == [[]]
    assert (await story.ask("why", paths=["/none"]))["changes"] == []


async def test_why_names_the_lease_of_a_change(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect("builder")
    token = (await client.ask("lock", resources=["/src"], reason="the parser"))["token"]
    await change(client, "guarded", fences=[{"resource": "/src/x.py", "token": token}])
    (found,) = (await client.ask("why", paths=["/src/x.py"]))["changes"]
    assert found["leases"] == [
        {"token": token, "holder": "builder", "resources": ["/src"], "mode": "exclusive", "reason": "the parser", "granted_at": EPOCH}
    ]


async def test_why_is_read_page_by_page(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    count = 2 * CHANGES + 7
    for number in range(count):
        await change(client, str(number))
        await change(client, "noise", path="/noise")
    texts: list[str] = []
    fields: dict[str, Any] = {}
    pages = 0
    while True:
        answer = await client.ask("why", paths=["/src/x.py"], **fields)
        texts += [item["unit"]["text"] for item in answer["changes"]]
        pages += 1
        if answer["next"] is None:
            break
        fields["after"] = answer["next"]
    assert texts == [str(number) for number in reversed(range(count))]
    assert pages == 3
    assert (await client.ask("why", paths=["/src/x.py"], limit=count, after=texts and 2))["changes"] == []
    assert len((await client.ask("why", paths=["/src/x.py"], limit=3))["changes"]) == 3


async def test_a_long_chain_is_cut_and_says_so(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    last = await put(client, "0")
    for number in range(1, 40):
        last = await put(client, str(number), ("causes", last))
    await change(client, "changed", ("responds_to", last))
    (found,) = (await client.ask("why", paths=["/src/x.py"], depth=1000))["changes"]
    assert (len(found["chain"]), found["more"]) == (CHAIN, True)
    with trio.fail_after(5):
        await client.ask("status")
