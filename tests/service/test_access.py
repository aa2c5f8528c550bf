"""Who may do what, over the table of operations; and what a limited token comes to see."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from wire import Client, Server, texts

from engramd.protocol.errors import EngramError
from engramd.protocol.messages import GRANTS, OPERATIONS, PERMISSIONS
from engramd.protocol.schema import Any_, Bool, Bytes, Choice, Int, ListOf, MapOf, Null, Number, OneOf, Record, Resource, Text, Type
from engramd.service import access
from engramd.service.engine import _HANDLERS
from engramd.service.peer import Origin
from engramd.service.retention import INTERVAL
from engramd.state.access import Access

ROLES = [role for size in range(len(PERMISSIONS) + 1) for role in itertools.combinations(PERMISSIONS, size)]


def sample(kind: Type) -> Any:
    """The smallest value that fits a type of the schema."""
    match kind:
        case Text():
            return "x"
        case Resource():
            return "/x"
        case Bytes():
            return b"x" * max(kind.least, 1)
        case Int() | Number():
            return max(kind.least, 1)
        case Bool():
            return True
        case Null():
            return None
        case Choice():
            return kind.options[0]
        case ListOf():
            return [sample(kind.item)]
        case MapOf():
            return {"k": sample(kind.value)}
        case OneOf():
            return sample(kind.options[0][1])
        case Record():
            return {name: sample(field.type) for name, field in kind.fields.items() if field.required}
        case Any_():
            raise AssertionError("only answers hold anything")
    raise AssertionError(f"no sample of {kind}")


def requests(op: str) -> list[dict[str, Any]]:
    """An operation with what is required alone, and once more with each member that needs a further permission."""
    least = sample(OPERATIONS[op].request)
    further = [member for member in OPERATIONS[op].also if member]
    return [least, *({**least, member: sample(OPERATIONS[op].request.fields[member].type)} for member in further)]


def test_every_operation_has_a_handler_and_a_permission() -> None:
    assert set(_HANDLERS) == set(OPERATIONS)
    assert all(right in PERMISSIONS for operation in OPERATIONS.values() for right in (operation.permission, *operation.also.values()))


@pytest.mark.parametrize("role", [role for role in ROLES if role], ids="+".join)
async def test_every_role_meets_every_operation(server: Server, autojump_clock: MockClock, role: tuple[str, ...]) -> None:
    """Made from the table, so that no operation can be forgotten: what a role lacks is `denied`, and nothing else is."""
    for op in [op for op in OPERATIONS if op != "shutdown"] + ["shutdown"]:
        for fields in requests(op):
            lacking = [right for right in OPERATIONS[op].needs(fields) if right not in role]
            if op == "shutdown" and not lacking:
                continue
            client = await server.bearer("bob", *role)
            request_id = await client.send(op, **fields)
            await client.settle()
            answer = client.answers.get(request_id)  # none: a stream, or a wait, under way
            error = None if answer is None else answer.error
            if lacking:
                assert error is not None, f"{role} may not {op} {fields}"
                assert (error.code, error.details) == ("denied", {"permission": lacking[0]}), f"{role}: {op} {fields}"
            else:
                assert error is None or error.code != "denied", f"{role} may {op} {fields}: {error}"


async def test_the_owner_on_the_unix_socket_is_denied_nothing(server: Server, autojump_clock: MockClock) -> None:
    for op in OPERATIONS:
        if op == "shutdown":
            continue
        client = await server.connect("bob")
        request_id = await client.send(op, **requests(op)[0])
        await client.settle()
        answer = client.answers.get(request_id)
        assert answer is None or answer.error is None or answer.error.code != "denied", op


# Who one is


async def refused_hello(client: Client, **said: Any) -> EngramError:
    await client.stream.send_all(client.connection.hello(said))
    return await client.last_words()


async def test_nobody_comes_in_from_a_network_without_a_token(server: Server, autojump_clock: MockClock) -> None:
    away = Origin(host="192.0.2.7")
    assert (await refused_hello(server.open(origin=away), agent="bob")).code == "denied"
    good = await server.issue("bob", "read")
    wrong = [good[:-1] + "x", good[:4] + "0" * 59, "secret", await revoked(server)]
    for token in wrong:
        assert (await refused_hello(server.open(origin=away), agent="bob", token=token)).code == "denied"
    assert server.engine.accounts.refused == {"strangers": 1, "tokens": len(wrong)}
    client = server.open(origin=away)
    assert (await client.hello(None, token=good))["agent"] == "bob"
    assert "agent" not in await server.open(origin=away).hello("bob", token=good), "it need not be told what it said"


async def revoked(server: Server) -> str:
    owner, token = await server.connect("owner"), await server.issue("bob", "read")
    await owner.ask("token_revoke", token=token[4:14])
    return token


async def test_a_wrong_token_is_told_late(server: Server, autojump_clock: MockClock) -> None:
    began = trio.current_time()
    await refused_hello(server.open(origin=Origin(host="h")), agent="bob", token="egt_" + "0" * 53 + "4JoCrE")
    assert trio.current_time() - began >= 1


async def test_who_shows_a_wrong_token_is_logged_with_where_it_comes_from(
    server: Server, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    await refused_hello(server.open(origin=Origin(host="192.0.2.7")), agent="bob", token="wrong")
    assert "192.0.2.7" in caplog.records[-1].getMessage()


async def test_a_token_counts_on_the_unix_socket_too(server: Server, autojump_clock: MockClock) -> None:
    client = server.open()
    await client.hello(None, token=await server.issue("bob", "read"))
    assert (await client.refused("put", context="c", text="x")).code == "denied"
    assert (await refused_hello(server.open(), agent="bob", token="egt_" + "0" * 53 + "4JoCrE")).code == "denied"


async def test_a_bearer_acts_as_the_holder_alone(server: Server, autojump_clock: MockClock) -> None:
    token = await server.issue("bob", "read", "write")
    assert (await refused_hello(server.open(), agent="alice", token=token)).details == {"agent": "bob"}
    client = await server.bearer("bob", "read", "write")
    made = await client.ask("put", context="c", text="mine", agent="bob")
    assert (await client.ask("get", ids=[made["id"]]))["units"][0]["agent"] == "bob"
    assert (await client.refused("put", context="c", text="hers", agent="alice")).code == "denied"
    other = await server.bearer("bob", "read", "write", "act-as")
    made = await other.ask("put", context="c", text="hers", agent="alice")
    assert (await other.ask("get", ids=[made["id"]]))["units"][0]["agent"] == "alice"
    client = server.open()
    await client.hello("alice", token=await server.issue("bob", "write", "act-as"))


async def test_the_unix_socket_can_ask_for_tokens(serve: Any, autojump_clock: MockClock) -> None:
    server = serve()
    token = await server.issue("bob", "read")
    strict = serve(require_token=True)
    refused = await refused_hello(strict.open(), agent="bob")
    assert refused.code == "denied"
    assert "auth.require_token" in refused.message
    await strict.open().hello(None, token=token)


async def test_another_user_acts_under_the_own_name_and_is_no_admin(serve: Any, autojump_clock: MockClock) -> None:
    import pwd

    user = next(entry for entry in pwd.getpwall() if entry.pw_uid)
    server = serve(users=[user.pw_name])
    guest = Origin(user.pw_uid)
    assert server.engine.tokens.admits(guest)
    assert not server.engine.tokens.admits(Origin(54321))
    assert not server.engine.tokens.admits(Origin())
    assert (await refused_hello(server.open(origin=guest), agent="root")).details == {"agent": user.pw_name}
    client = server.open(origin=guest)
    await client.hello(user.pw_name)
    await client.ask("put", context="c", text="x")
    assert (await client.refused("token_list")).details == {"permission": "admin"}
    assert (await client.refused("put", context="c", text="x", agent="root")).code == "denied"


# Contexts


async def filled(server: Server) -> dict[str, dict[str, Any]]:
    """Units in contexts that are open to `open-*`, and in others; one was born in a closed one and added to an open one."""
    owner = await server.connect("owner")
    made = {}
    for context in ("open-1", "closed", "open-2"):
        made[context] = await owner.ask("put", context=context, text=context, type="file_change", meta={"path": "/f"})
    made["shared"] = await owner.ask("put", context="closed", text="shared")
    await owner.ask("context_add", context="open-1", ids=[made["shared"]["id"]])
    edge = {"type": "references", "target": made["closed"]["id"]}
    made["edge"] = await owner.ask("put", context="open-1", text="edge", relationships=[edge])
    return made


@pytest.mark.parametrize("globs", [["open-*"], ["open-1", "open-2"], ["open-?", "nothing"]])
async def test_what_is_in_other_contexts_is_not_there(server: Server, autojump_clock: MockClock, globs: list[str]) -> None:
    made = await filled(server)
    client = await server.bearer("bob", "read", "write", contexts=globs)
    absent = await client.refused("get", ids=[10_000])
    for ref in (made["closed"]["id"], made["closed"]["seq"], made["closed"]["id"].hex()):
        refused = await client.refused("get", ids=[ref])
        assert refused.code == absent.code == "not_found"
    for ref in (made["shared"]["id"], made["shared"]["seq"]):
        assert texts((await client.ask("get", ids=[ref]))["units"]) == ["shared"]
    for op, fields in (
        ("list", {"context": "closed"}),
        ("put", {"context": "closed", "text": "x"}),
        ("put", {"context": "new", "text": "x"}),
        ("context_show", {"context": "closed"}),
        ("context_create", {"context": "new"}),
        ("context_pin", {"context": "closed", "ids": [made["closed"]["id"]]}),
        ("agents", {"context": "closed"}),
        ("agents", {}),
        ("names", {"kind": "agents"}),
        ("tail", {"contexts": ["open-1", "closed"]}),
        ("search", {"contexts": ["closed"], "query": "x"}),
        ("consumer_create", {"consumer": "c", "contexts": ["closed"]}),
        ("consumer_create", {"consumer": "c"}),
        ("consume", {"consumer": "c"}),
    ):
        assert (await client.refused(op, **fields)).code == "denied", (op, fields)
    for op, fields in (
        ("list", {"context": "open-1", "related_to": made["closed"]["id"]}),
        ("tail", {"related_to": made["closed"]["id"]}),
        ("related", {"of": made["closed"]["id"]}),
        ("put", {"context": "open-1", "text": "x", "relationships": [{"type": "references", "target": made["closed"]["id"]}]}),
        ("put", {"context": "open-1", "text": "x", "relationships": [{"type": "references", "target": made["closed"]["seq"]}]}),
        ("context_add", {"context": "open-1", "ids": [made["closed"]["id"]]}),
        ("context_pin", {"context": "open-1", "ids": [made["closed"]["id"]]}),
    ):
        assert (await client.refused(op, **fields)).code == "not_found", (op, fields)
    assert [info["id"] for info in (await client.ask("context_list"))["contexts"]] == ["open-1", "open-2"]
    assert (await client.ask("names", kind="contexts"))["names"] == ["open-1", "open-2"]
    assert texts((await client.ask("list", context="open-1"))["units"]) == ["open-1", "shared", "edge"]
    assert (await client.ask("related", of=made["edge"]["id"]))["related"] == [], "the walk ends at what is not there"
    changes = (await client.ask("why", paths=["/f"]))["changes"]
    assert texts([change["unit"] for change in changes]) == ["open-2", "open-1"]


async def test_a_unit_that_was_taken_out_again_is_found_by_its_id(server: Server, autojump_clock: MockClock) -> None:
    """Streams have shown it: they are history."""
    made, owner = await filled(server), await server.connect("owner")
    client = await server.bearer("bob", "read", contexts=["open-*"])
    await owner.ask("context_remove", context="open-1", ids=[made["shared"]["id"]])
    for ref in (made["shared"]["id"], made["shared"]["seq"]):
        assert texts((await client.ask("get", ids=[ref]))["units"]) == ["shared"]
    assert (await client.refused("get", ids=[made["closed"]["id"]])).code == "not_found"


async def test_what_is_hidden_is_absent_however_many_contexts_there_are(
    server: Server, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "LOOKS", 2)
    made = await filled(server)
    client = await server.bearer("bob", "read", contexts=["open-*", "also-*"])
    owner = await server.connect("owner")
    for number in range(5):
        await owner.ask("context_create", context=f"also-{number}")
    assert (await client.refused("get", ids=[made["closed"]["id"]])).code == "not_found"
    assert texts((await client.ask("get", ids=[made["shared"]["id"]]))["units"]) == ["shared"]
    for number in range(3):
        await owner.ask("context_add", context=f"closed-{number}", ids=[made["closed"]["id"]])
    assert (await client.refused("get", ids=[made["closed"]["id"]])).code == "too_large", "that is as far as one request looks"


async def test_the_contexts_that_are_reached_are_those_that_fit(server: Server, autojump_clock: MockClock) -> None:
    """They are looked for by what they start with, and are the same as if all had been looked at."""
    names = sorted("".join(letters) for size in (1, 2, 3) for letters in itertools.product("aé", repeat=size))
    owner = await server.connect("owner")
    for name in names:
        await owner.ask("context_create", context=name)
    for globs in ((), ("*",), ("a*",), ("é?", "a"), ("aa", "a", "aaa"), ("a*", "aé*"), ("?é*", "éa"), ("nothing*",), ("*a", "é*")):
        limited = Access(frozenset(), globs)
        assert limited.prefixes() == sorted(limited.prefixes())
        for prefix, after in itertools.product(["", *names[::3]], repeat=2):
            wanted = [name for name in names if limited.sees(name) and name.startswith(prefix) and name > after]
            assert list(access.reached(server.log, limited, prefix, after)) == wanted, (globs, prefix, after)


async def test_a_limited_token_pages_through_its_contexts(server: Server, autojump_clock: MockClock) -> None:
    owner, client = await server.connect("owner"), await server.bearer("bob", "read", contexts=["b*", "d"])
    for name in ("a", "b1", "b2", "b3", "c", "d", "e"):
        await owner.ask("context_create", context=name)
    found, after = list[str](), dict[str, str]()
    while True:
        page = await client.ask("context_list", limit=2, **after)
        found += [info["id"] for info in page["contexts"]]
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    assert found == ["b1", "b2", "b3", "d"]


@pytest.mark.parametrize("globs", [["open-*"], ["open-1", "open-2"]])
@pytest.mark.parametrize("events", [False, True])
async def test_a_stream_of_all_contexts_carries_those_that_are_allowed(
    server: Server, autojump_clock: MockClock, globs: list[str], events: bool
) -> None:
    await filled(server)
    client, owner = await server.bearer("bob", "read", contexts=globs), await server.connect("owner")
    tail = await client.tail(after=0, follow=True, events=events)
    replayed = await tail.replayed()
    assert texts([event["unit"] for event in replayed if "unit" in event]) == ["open-1", "open-2", "shared", "edge"]
    assert {event["data"]["context"] for event in replayed if "unit" not in event} <= {"open-1", "open-2"}
    await owner.ask("put", context="closed", text="secret")
    await owner.ask("lock", resources=["/x"])
    await owner.ask("put", context="open-2", text="news")
    if globs == ["open-*"]:
        await owner.ask("put", context="open-3", text="new context")
    arrived = await tail.arrived()
    assert texts([event["unit"] for event in arrived if "unit" in event]) == ["news", *["new context"] * (globs == ["open-*"])]
    assert {event["data"]["context"] for event in arrived if "data" in event} <= {"open-3"}
    last = await (await client.tail(last=2, events=events)).replayed()
    assert all("closed" not in str(event) or event["unit"]["text"] == "shared" for event in last)
    assert len(last) == 2


async def test_the_last_units_are_those_that_may_be_seen(server: Server, autojump_clock: MockClock) -> None:
    owner = await server.connect("owner")
    for number in range(6):
        await owner.ask("put", context="open" if number % 2 else "closed", text=str(number))
    client = await server.bearer("bob", "read", contexts=["o*"])
    assert texts([event["unit"] for event in await (await client.tail(last=2)).replayed()]) == ["3", "5"]


SECRET = "s3cret"


def questions(op: str, refs: list[Any]) -> list[dict[str, Any]]:
    """An operation with what is required, with each of its members, and with each thing that could lead to what is hidden."""
    fields = OPERATIONS[op].request.fields
    least = {**sample(OPERATIONS[op].request), **({"context": "open-1"} if "context" in fields else {})}
    if op == "pack":
        least |= {"contexts": ["open-1"], "budget": 8000}
    asked = [least, *({**least, name: sample(field.type)} for name, field in fields.items())]
    for ref in refs:
        places: dict[str, Any] = {
            "ids": [ref],
            "of": ref,
            "related_to": ref,
            "after": 0,
            "since": 0,
            "entries": [ref],
            "token": ref,
            "at": ref,
        }
        asked += [{**least, name: value} for name, value in places.items() if name in fields]
    paths = [{**least, "paths": ["/" + SECRET], "resources": ["/" + SECRET]}] if {"paths", "resources"} & set(fields) else []
    return [{name: value for name, value in one.items() if name in fields} for one in [*asked, *paths]]


async def test_no_answer_and_no_event_has_what_is_hidden(server: Server, autojump_clock: MockClock) -> None:
    """Every operation, asked in every way that the schema has. What a limited token may learn after all is in docs/security.md."""
    owner, hidden = await server.connect("owner"), f"closed-{SECRET}"
    spy = await server.connect(SECRET)
    born = await spy.ask("put", context=hidden, text=SECRET, type="file_change", meta={"path": "/" + SECRET})
    mine = await owner.ask("put", context="open-1", text="mine", relationships=[{"type": "references", "target": born["id"]}])
    await spy.ask("put", context=hidden, text=SECRET, relationships=[{"type": "references", "target": mine["id"]}])
    await spy.ask("context_set", context=hidden, display_name=SECRET)
    await spy.ask("consumer_create", consumer=SECRET, contexts=[hidden])
    await spy.ask("context_pin", context=hidden, ids=[born["id"]])
    lease = await spy.ask("lock", resources=["/" + SECRET, "@" + SECRET], reason=SECRET)
    await owner.ask("context_retain", context=hidden, units=100)
    client = await server.bearer("bob", "read", "write", "lock", contexts=["open-*"], paths=["/open"])
    refs = [born["id"], born["seq"], born["id"].hex(), lease["token"], mine["id"]]
    for op in OPERATIONS:
        if op in ("search", "shutdown"):  # searches need a worker
            continue
        for fields in questions(op, refs):
            said = str(fields).count(SECRET)
            request_id = await client.send(op, **fields)
            await client.settle()
            answer = client.answers.pop(request_id, None)
            told = str(answer and (answer.result or (answer.error and answer.error.details)))
            assert SECRET not in told or said, (op, fields, told)
            items = [item.event for item in client.items.pop(request_id, ())]
            assert SECRET not in str(items), (op, fields)
            if answer is None:
                await client.stream.send_all(client.connection.notice(request_id, "cancel"))
                await client.settle()


async def test_consumers_of_other_contexts_are_not_there(server: Server, autojump_clock: MockClock) -> None:
    await filled(server)
    owner = await server.connect("owner")
    for name, contexts in (("mine", ["open-1"]), ("theirs", ["open-1", "closed"]), ("all", [])):
        await owner.ask("consumer_create", consumer=name, **({"contexts": contexts} if contexts else {}))
    client = await server.bearer("bob", "read", "write", contexts=["open-*"])
    assert [info["id"] for info in (await client.ask("consumer_list"))["consumers"]] == ["mine"]
    assert (await client.ask("names", kind="consumers"))["names"] == ["mine"]
    for name in ("theirs", "all", "none"):
        for op, fields in (
            ("consumer_show", {}),
            ("consumer_parked", {}),
            ("consumer_delete", {}),
            ("consumer_retry", {}),
            ("consumer_reset", {"to": "now"}),
            ("ack", {"entries": [1]}),
        ):
            assert (await client.refused(op, consumer=name, **fields)).code == "not_found", (name, op)
    for name in ("theirs", "all"):
        assert (await client.refused("consume", consumer=name)).code == "not_found"
    assert (await client.ask("consumer_show", consumer="mine"))["consumer"]["contexts"] == ["open-1"]


async def test_a_pack_is_of_contexts_that_are_allowed(server: Server, autojump_clock: MockClock) -> None:
    await filled(server)
    client = await server.bearer("bob", "read", contexts=["open-*"])
    for contexts in (["closed"], ["open-1", "closed"]):
        assert (await client.refused("pack", contexts=contexts, budget=1000)).code == "denied"
    policy = {"related": {"types": ["references"], "depth": 3}}
    for extra in ({}, {"policy": policy}):
        made = await client.ask("pack", contexts=["open-1", "open-2"], budget=4000, format="json", **extra)
        assert "edge" in made["text"]
        assert "closed" not in made["text"].replace('"context": "closed"', ""), "but where a unit was born"


async def test_events_of_retention_and_redaction_are_those_of_allowed_contexts(server: Server, autojump_clock: MockClock) -> None:
    made = await filled(server)
    owner = await server.connect("owner")
    client = await server.bearer("bob", "read", contexts=["open-*"])
    tail = await client.tail(after=0, follow=True, events=True)
    await tail.replayed()
    secret = await owner.ask("put", context="closed", text="password")
    await owner.ask("redact", ids=[secret["id"], made["edge"]["id"]], reason="a slip")
    for context in ("closed", "open-2"):
        await owner.ask("put", context=context, text="newer")
        await owner.ask("context_retain", context=context, units=1)
    await trio.sleep(INTERVAL + 1)
    kinds = {"unit_redacted", "retention_set", "units_trimmed", "erasures_finished"}
    everything = await (await owner.tail(after=0, kinds=sorted(kinds))).replayed()
    assert {event["kind"] for event in everything} == kinds
    for told in (await tail.arrived(), await (await client.tail(after=0, kinds=sorted(kinds))).replayed()):
        events = {(event["kind"], event["data"]["context"]) for event in told if "data" in event}
        assert events == {("unit_redacted", "open-1"), ("retention_set", "open-2"), ("units_trimmed", "open-2")}


async def test_what_retention_takes_elsewhere_is_no_gap(server: Server, autojump_clock: MockClock) -> None:
    made = await filled(server)
    owner = await server.connect("owner")
    client = await server.bearer("bob", "read", contexts=["open-*"])
    await owner.ask("put", context="closed", text="newer")
    await owner.ask("context_retain", context="closed", units=1)
    await trio.sleep(INTERVAL + 1)
    after = made["open-1"]["seq"]
    assert (await owner.refused("tail", after=after)).code == "trimmed"
    replayed = await (await client.tail(after=after)).replayed()
    assert texts([event["unit"] for event in replayed if "unit" in event]) == ["open-2", "shared", "edge"]


async def test_walks_over_redacted_units_show_what_is_allowed(server: Server, autojump_clock: MockClock) -> None:
    made = await filled(server)
    owner = await server.connect("owner")
    client = await server.bearer("bob", "read", contexts=["open-*"])
    reply = {"type": "responds_to", "target": made["edge"]["id"]}
    await owner.ask("put", context="open-2", text="reply", relationships=[reply])
    await owner.ask("put", context="closed", text="hidden reply", relationships=[reply])
    await owner.ask("redact", ids=[made["edge"]["id"], made["open-1"]["id"], made["closed"]["id"]], reason="a slip")
    found = (await client.ask("related", of=made["edge"]["id"], depth=3))["related"]
    assert texts([one["unit"] for one in found]) == ["reply"]
    changes = (await client.ask("why", paths=["/f"]))["changes"]
    assert {change["unit"]["context"] for change in changes} <= {"open-1", "open-2"}
    assert (await client.refused("get", ids=[made["closed"]["id"]])).code == "not_found"
    assert (await client.ask("get", ids=[made["edge"]["id"]]))["units"][0]["redacted"]["reason"] == "a slip"


# Locks


async def test_locks_are_taken_within_the_paths(server: Server, autojump_clock: MockClock) -> None:
    client = await server.bearer("bob", "read", "write", "lock", paths=["/src", "@build-*"])
    lease = await client.ask("lock", resources=["/src/a", "@build-1"])
    for resource in ("/", "/srcs", "/*", "@deploy", "/etc/passwd"):
        assert (await client.refused("lock", resources=["/src/b", resource])).code == "denied", resource
    await client.ask("put", context="c", text="x", fences=[{"resource": "/src/a", "token": lease["token"]}])
    refused = await client.refused("put", context="c", text="x", fences=[{"resource": "/etc", "token": lease["token"]}])
    assert refused.code == "denied"
    await client.ask("renew", token=lease["token"])
    await client.ask("unlock", token=lease["token"])


async def test_nobody_uses_the_lease_of_another(server: Server, autojump_clock: MockClock) -> None:
    owner, client = await server.connect("owner"), await server.bearer("bob", "read", "write", "lock")
    lease = (await owner.ask("lock", resources=["/src"]))["token"]
    for op, fields in (
        ("renew", {"token": lease}),
        ("unlock", {"token": lease}),
        ("unlock", {"token": lease, "force": True}),
        ("unlock", {"resources": ["/src"], "force": True}),
        ("put", {"context": "c", "text": "x", "fences": [{"resource": "/src", "token": lease}], "release": True}),
    ):
        assert (await client.refused(op, **fields)).code == "denied", (op, fields)
    other = await server.bearer("bob", "lock", "act-as")
    await other.ask("unlock", token=lease)
    admin = await server.bearer("root", "lock", "admin")
    lease = (await owner.ask("lock", resources=["/src"]))["token"]
    assert (await admin.ask("unlock", resources=["/src"], force=True))["released"] == [lease]
    lease = (await owner.ask("lock", resources=["/src"]))["token"]
    assert (await admin.ask("unlock", token=lease, force=True))["released"] == [lease]


async def test_locks_elsewhere_are_not_listed(server: Server, autojump_clock: MockClock) -> None:
    owner = await server.connect("owner", session="secret", owner=True)
    await owner.ask("lock", resources=["/etc", "/src/a"])
    hidden = (await owner.ask("lock", resources=["/home"]))["token"]
    client = await server.bearer("bob", "read", paths=["/src"])
    (info,) = (await client.ask("locks"))["locks"]
    assert info["resources"] == ["/src/a"]
    assert "session" not in info, "who knows a session can act in it"
    assert str(hidden) not in (await client.ask("names", kind="locks"))["names"]
    assert [len(lock["resources"]) for lock in (await owner.ask("locks"))["locks"]] == [2, 1]
    assert all(lock["session"] == "secret" for lock in (await owner.ask("locks"))["locks"])


async def test_locks_on_names_are_shown_to_who_may_take_them(server: Server, autojump_clock: MockClock) -> None:
    client, owner = await server.bearer("bob", "read", "lock", paths=["/src", "@build-*"]), await server.connect("owner")
    token = (await client.ask("lock", resources=["@build-1"]))["token"]
    await owner.ask("lock", resources=["@deploy"])
    await owner.ask("lock", resources=["@build-2", "@other"])
    assert [info["resources"] for info in (await client.ask("locks"))["locks"]] == [["@build-1"], ["@build-2"]]
    assert str(token) in (await client.ask("names", kind="locks"))["names"]
    assert (await client.refused("lock", resources=["@deploy"])).code == "denied"


async def test_no_event_tells_a_session_or_a_digest(server: Server, autojump_clock: MockClock) -> None:
    owner, client = await server.connect("owner", session="secret", owner=True), await server.bearer("bob", "read")
    live = await client.tail(events=True, follow=True)
    await live.replayed()
    await owner.ask("lock", resources=["/x"], session=True)
    replayed = await (await owner.tail(after=0, events=True)).replayed()
    told = [event for event in (*replayed, *await live.arrived()) if event["kind"] in ("lock_granted", "token_issued")]
    assert [event["kind"] for event in told] == ["token_issued", "lock_granted", "lock_granted"]
    for event in told:
        assert not {"session", "digest"} & set(event["data"])
        assert event["data"]["agent"] == "owner"


# The end of tokens


async def test_a_token_that_is_revoked_ends_its_connections(server: Server, autojump_clock: MockClock) -> None:
    owner = await server.connect("owner")
    token = await server.issue("bob", "read", "write", "lock")
    clients = [server.open(), server.open()]
    for client in clients:
        await client.hello(None, token=token)
    await owner.ask("lock", resources=["/x"])
    waits = await clients[0].send("lock", resources=["/x"], wait=True)
    tail = await clients[1].send("tail", follow=True)
    await clients[1].settle()
    assert (await owner.ask("token_inspect", token=token[4:14]))["info"]["connections"] == 2
    assert (await owner.ask("token_revoke", token=token[4:14]))["connections"] == 2
    for client, request_id in zip(clients, (waits, tail), strict=True):
        last = await client.last_words()
        assert (last.code, "revoked" in last.message) == ("denied", True)
        answer = client.answers[request_id]
        assert answer.error is not None
        assert answer.error.code == "denied"
    assert (await owner.refused("token_inspect", token=token[4:14])).code == "not_found"
    assert (await owner.ask("status"))["status"]["connections"] == 2, "the one that issued, and this one"


async def test_a_token_that_expires_ends_its_connections(server: Server, autojump_clock: MockClock) -> None:
    token = await server.issue("bob", "read", expires="10s")
    client = server.open()
    await client.hello(None, token=token)
    began = trio.current_time()
    last = await client.last_words()
    assert "expired" in last.message
    assert trio.current_time() - began == pytest.approx(10, abs=0.1)
    assert "expired" in (await refused_hello(server.open(), token=token)).message
    owner = await server.connect("owner")
    assert (await owner.ask("token_list"))["tokens"][0]["expired"] is True


async def test_what_is_asked_after_the_end_is_refused(server: Server, autojump_clock: MockClock) -> None:
    """Requests that were under way to the daemon when the token ended change nothing."""
    token = await server.issue("bob", "write")
    client = server.open()
    await client.hello(None, token=token)
    (peer,) = [peer for peer in server.engine.peers if peer.token]
    peer.dismiss(EngramError("denied", "over"))
    await client.stream.send_all(client.frame("put", context="c", text="late")[1])
    await client.last_words()
    owner = await server.connect("owner")
    assert (await owner.ask("context_list"))["contexts"] == []


async def test_tokens_are_listed_without_their_secrets(server: Server, autojump_clock: MockClock) -> None:
    owner = await server.connect("owner")
    issued = await owner.ask(
        "token_issue", agent="bob", permissions=["lock", "read", "read"], contexts=["a*"], paths=["/x"], expires="1h", note="for bob"
    )
    OPERATIONS["token_issue"].result.check(issued)
    listed = (await owner.ask("token_list"))["tokens"]
    assert listed == [(await owner.ask("token_inspect", token=issued["token"][4:14]))["info"]] == [issued["info"]]
    assert issued["token"][14:] not in str(listed)
    assert (listed[0]["permissions"], listed[0]["contexts"], listed[0]["paths"], listed[0]["note"]) == (
        ["read", "lock"],
        ["a*"],
        ["/x"],
        "for bob",
    )
    for _ in range(120):
        await owner.ask("token_issue", agent="bob", permissions=["read"])
    first = await owner.ask("token_list")
    rest = await owner.ask("token_list", after=first["next"])
    names = [info["token"] for info in (*first["tokens"], *rest["tokens"])]
    assert names == sorted(set(names))
    assert (len(names), rest["next"]) == (121, None)
    for expires in ("0s", 0, 2**62):
        assert (await owner.refused("token_issue", agent="bob", permissions=["read"], expires=expires)).code in ("invalid", "too_large")
    assert (await owner.refused("token_issue", agent="bob", permissions=["admin"], contexts=["a"])).code == "invalid"


async def test_the_secret_is_nowhere_in_the_log(server: Server, autojump_clock: MockClock) -> None:
    token = await server.issue("bob", *GRANTS)
    every = b"".join(key + value for key, value in server.log._store.scan(b"", b"\xff" * 9))
    assert token[4:14].encode() in every
    assert token[14:].encode() not in every


async def test_status_tells_strangers_little(server: Server, autojump_clock: MockClock) -> None:
    owner = await server.connect("owner")
    await owner.tail(follow=True)
    client = await server.bearer("bob", "read")
    shown = (await client.ask("status"))["status"]
    assert "socket" not in shown
    assert shown["subscribers"] == []
    assert "socket" in (await owner.ask("status"))["status"]
