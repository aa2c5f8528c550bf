"""`engram mcp` as a host runs it: the SDK's own client over real pipes, and lines that no client would send."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from commandline import BIN, PATIENCE, Running, Shell, until
from jsonschema import Draft202012Validator

from engram_cli.client import Client
from engram_cli.mcp.tools import tools

pytest.importorskip("mcp")
from mcp import ClientSession, MCPError, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp_types import PaginatedRequestParams


class Host:
    """A session with one server."""

    def __init__(self, session: ClientSession) -> None:
        self.session = session

    async def text(self, tool: str, **arguments: Any) -> tuple[bool, str]:
        """Call a tool: whether that went wrong, and what it said."""
        result = await self.session.call_tool(tool, arguments)
        (content,) = result.content
        assert content.type == "text"
        return result.is_error, content.text

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool that must succeed."""
        is_error, text = await self.text(tool, **arguments)
        assert not is_error, text
        answer: dict[str, Any] = json.loads(text)
        return answer

    async def fails(self, code: str, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool that must fail, and give the error."""
        is_error, text = await self.text(tool, **arguments)
        assert is_error, text
        error: dict[str, Any] = json.loads(text)["error"]
        assert (error["code"], set(error) >= {"message", "details", "hint"}) == (code, True), error
        return error


@asynccontextmanager
async def host(shell: Shell, *options: str, env: Mapping[str, str] | None = None) -> AsyncIterator[Host]:
    """Start a server as a host does."""
    server = StdioServerParameters(command=str(BIN / "engram"), args=["mcp", *options], env={**shell.env, **(env or {})}, cwd=shell.home)
    with (shell.home / "stderr").open("a") as errors, trio.fail_after(PATIENCE):
        async with stdio_client(server, errors) as (incoming, outgoing), ClientSession(incoming, outgoing) as session:
            await session.initialize()
            yield Host(session)
    assert (shell.home / "stderr").read_text() == ""


# What a host is told


async def test_the_tools_are_described(shell: Shell) -> None:
    async with host(shell, "--as", "builder") as one:
        greeting = await one.session.initialize()
        assert (greeting.server_info.name, "You are the agent builder" in (greeting.instructions or "")) == ("engram", True)
        listed = (await one.session.list_tools()).tools
    assert [tool.name for tool in listed] == list(tools(None))
    for tool in listed:
        Draft202012Validator.check_schema(tool.input_schema)
        assert tool.input_schema["additionalProperties"] is False
        assert tool.description
        assert len(tool.description) < 500
        assert tool.annotations is not None
        assert tool.annotations.read_only_hint is (tool.name not in ("put", "lock", "unlock", "ask"))
    assert sum(len(json.dumps(tool.input_schema)) for tool in listed) < 15_000, "this is in front of every agent, all the time"


async def test_a_server_shows_a_token_which_says_who_acts(alone: Shell) -> None:
    alone.daemon("--listen", "tcp://127.0.0.1:0")
    env = {"ENGRAM_TOKEN": alone.run("token", "issue", "builder", "--may", "read", "--context", "open").out.strip(), "ENGRAM_AGENT": ""}
    env["ENGRAM_SOCKET"] = json.loads(alone.ok("status", "--json").out)["listening"][0]
    alone.ok("put", "open", "to see")
    alone.ok("put", "closed", "not to see")
    async with host(alone, env=env) as one:
        greeting = await one.session.initialize()
        assert "You are the agent builder" in (greeting.instructions or "")
        assert [unit["text"] for unit in (await one.call("recent", contexts=["open"]))["units"]] == ["to see"]
        await one.fails("denied", "recent", contexts=["closed"])
        await one.fails("denied", "put", context="open", text="x")
        await one.fails("denied", "search", query="see", contexts=["closed"])


def bounded(schema: Mapping[str, Any]) -> bool:
    """Whether a value of a schema has a largest size, and everything in it."""
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    for kind in kinds:
        if kind == "string" and not ("maxLength" in schema or "enum" in schema):
            return False
        if kind in ("integer", "number") and not ("minimum" in schema and "maximum" in schema):
            return False
        if kind == "array" and not ("maxItems" in schema and bounded(schema["items"])):
            return False
        if kind == "object":
            more = schema["additionalProperties"]
            if not all(map(bounded, schema.get("properties", {}).values())) or (more and not ("maxProperties" in schema and bounded(more))):
                return False
    return True


def test_every_argument_is_bounded_and_described() -> None:
    for tool in tools("work").values():
        for name, schema in tool.properties.items():
            assert bounded(schema), (tool.name, name)
            assert schema["description"], (tool.name, name)
            if "default" in schema:
                Draft202012Validator(schema).validate(schema["default"])


# Agents at work


async def test_what_is_put_is_found(shell: Shell, name: str) -> None:
    async with host(shell, "--as", "builder") as one:
        first = await one.call(
            "put", context=name, text="The zebra parser fails\x00 on \x1b[31mempty files", type="error", meta={"path": "p.py"}
        )
        made = await one.call("put", context=name, text="fixed", reply_to=first["seq"], dedupe="d")
        assert await one.call("put", context=name, text="again", dedupe="d") == {**made, "deduped": True}
        units = (await one.call("get", ids=[first["id"], made["seq"]]))["units"]
        assert units[0] == {
            **{member: first[member] for member in ("seq", "id", "ts")},
            **{"context": name, "agent": "builder", "type": "error", "meta": {"path": "p.py"}},
            "text": "The zebra parser fails\x00 on \x1b[31mempty files",
        }
        assert units[1]["relationships"] == [{"type": "responds_to", "target": first["id"], "meta": {}}]
        (hit, *_) = (await one.call("search", query="zebra parser", contexts=[name]))["hits"]
        assert (hit["id"], "zebra" in hit["snippet"], "text" in hit) == (first["id"], True, False)
        assert (await one.call("search", query="zebra", contexts=[name], type="message"))["hits"] == []
        (found,) = (await one.call("related", id=first["seq"], direction="in"))["related"]
        assert (found["id"], found["edge"]["type"]) == (made["id"], "responds_to")
        assert [unit["id"] for unit in (await one.call("recent", contexts=[name], type="error", limit=1.0))["units"]] == [first["id"]]
        await one.fails("conflict", "put", context=name, text="x", expect_seq=0)
        await one.fails("not_found", "get", ids=[10**9])


async def test_an_agent_keeps_up_without_a_gap(shell: Shell, client: Client, name: str) -> None:
    async with host(shell, "--as", "reader") as one:
        assert (await one.call("recent", contexts=[name]))["units"] == []
        for number in range(7):
            client.put(name, str(number), meta={"to": "reader"} if number == 5 else None)
        answer = await one.call("recent", contexts=[name], limit=3)
        assert [unit["text"] for unit in answer["units"]] == ["4", "5", "6"]
        answer, seen = await one.call("recent", contexts=[name], after=0, limit=2), []
        while answer["units"]:
            seen += [unit["text"] for unit in answer["units"]]
            answer = await one.call("recent", contexts=[name], after=answer["after"], limit=2)
        assert seen == [str(number) for number in range(7)]
        assert [unit["text"] for unit in (await one.call("recent", contexts=[name], to="me"))["units"]] == ["5"]
        assert (await one.call("recent", contexts=[name], after=answer["after"], wait=0.01))["units"] == []
        async with trio.open_nursery() as nursery:
            waited: list[dict[str, Any]] = []

            async def wait() -> None:
                waited.append(await one.call("recent", contexts=[name], after=answer["after"], wait=PATIENCE))

            nursery.start_soon(wait)
            await one.call("who")  # the server has taken the first call by now
            await trio.to_thread.run_sync(client.put, name, "news")
        assert [unit["text"] for unit in waited[0]["units"]] == ["news"]


async def test_two_agents_lock_and_ask(shell: Shell, name: str) -> None:
    async with host(shell, "--as", "ann", env={"ENGRAM_CONTEXT": name}) as ann, host(shell, env={"ENGRAM_AGENT": "bob"}) as bob:
        taken = await ann.call("lock", paths=["/p/src", "@index"], reason="moving things")
        assert (taken["resources"], taken["mode"]) == (["/p/src", "@index"], "exclusive")
        assert (await ann.call("lock", paths=["@index", "/p/src"], ttl=30))["token"] == taken["token"]
        error = await ann.fails("locked", "lock", paths=["/p/src/app.rs"])
        assert f"unlock {taken['token']}" in error["hint"]
        error = await bob.fails("locked", "lock", paths=["/p/src/app.rs"], wait=0.05)
        error = await bob.fails("locked", "lock", paths=["/p/src/app.rs"])
        assert "locked by ann" in error["message"]
        assert "moving things" in error["message"]
        assert "until its session ends" in error["message"]
        await bob.fails("stale", "unlock", token=taken["token"])
        await bob.fails("stale", "put", context=name, text="x", fences=[taken["token"]])
        await ann.call("put", text="under the lock", fences=[taken["token"]])
        there = await bob.call("who")
        assert [(lock["holder"], lock["resources"]) for lock in there["locks"]] == [("ann", ["/p/src", "@index"])]
        assert (there["you"], name in there["contexts"]) == ("bob", True)

        async with trio.open_nursery() as nursery:

            async def answer() -> None:
                question = (await bob.call("recent", contexts=[name], to="me", wait=PATIENCE))["units"][-1]
                await bob.call("put", context=name, text="at noon", reply_to=question["seq"])

            nursery.start_soon(answer)
            assert (await ann.call("ask", text="when?", to="bob"))["answer"]["text"] == "at noon"
        error = await ann.fails("timeout", "ask", text="anyone?", to="nobody", timeout=1)
        assert (await ann.call("get", ids=[error["details"]["seq"]]))["units"][0]["meta"] == {"to": "nobody"}
        assert await ann.call("unlock", token=taken["token"]) == {"released": taken["token"]}
        await ann.fails("stale", "unlock", token=taken["token"])
        await bob.call("lock", paths=["/p/src/app.rs"])


async def test_a_lock_that_is_forgotten_is_released_when_its_time_is_over(shell: Shell, name: str) -> None:
    async with host(shell, "--as", "ann") as ann, host(shell, "--as", "bob") as bob:
        taken = await ann.call("lock", paths=[f"@{name}"], ttl=1)
        assert (await bob.call("lock", paths=[f"@{name}"], wait=PATIENCE))["token"] > taken["token"]
        await ann.fails("stale", "unlock", token=taken["token"])


async def test_locks_end_with_the_server_and_are_noticed_when_they_are_stolen(shell: Shell, client: Client, name: str) -> None:
    async with host(shell, "--as", "ann") as ann:
        token = (await ann.call("lock", paths=[f"@{name}"]))["token"]
        client.steal(f"@{name}")
        await ann.fails("stale", "put", context=name, text="x", fences=[token])
        await ann.fails("stale", "unlock", token=token)
        token = (await ann.call("lock", paths=[f"@{name}"]))["token"]
    with client.lock(f"@{name}", wait=True, timeout=PATIENCE) as lease:
        assert lease.token > token


async def test_contexts_are_resources(shell: Shell, client: Client, name: str) -> None:
    odd = f"{name} a/b?c#d%20 é"
    made = client.put(odd, "text", meta={"k": "v"}).id
    async with host(shell, "--max-bytes", "1024") as one:
        found: list[str] = []
        page = await one.session.list_resources()
        while True:
            found += [resource.name for resource in page.resources]
            if page.next_cursor is None:
                break
            page = await one.session.list_resources(params=PaginatedRequestParams(cursor=page.next_cursor))
        assert found == [shown for context in client.context_list() for shown in (context["id"], f"{context['id']} (pack)")]
        uris = [resource.uri for resource in (await one.session.list_resources()).resources]
        assert uris[:2] == [f"engram://{kind}/{uris[0].rpartition('/')[2]}" for kind in ("context", "pack")]
    async with host(shell) as one:
        templates = (await one.session.list_resource_templates()).resource_templates
        assert [template.uri_template for template in templates] == ["engram://context/{context}", "engram://pack/{context}"]
        (content,) = (await one.session.read_resource(f"engram://context/{name}%20a%2Fb%3Fc%23d%2520%20%C3%A9")).contents
        shown = json.loads(content.text)  # type: ignore[union-attr]
        assert (shown["context"]["id"], [unit["id"] for unit in shown["units"]]) == (odd, [made])
        (content,) = (await one.session.read_resource(f"engram://pack/{name}%20a%2Fb%3Fc%23d%2520%20%C3%A9")).contents
        assert (content.mime_type, "\ntext\n" in content.text) == ("text/markdown", True)  # type: ignore[union-attr]
        for uri in ("engram://context/nobody knows", "engram://pack/x", "file:///etc/passwd", "engram://context/", "engram://pack/%00"):
            with pytest.raises(MCPError):
                await one.session.read_resource(uri)


async def test_a_pack_is_what_the_command_gives_and_keeps_to_the_bytes(shell: Shell, client: Client, name: str) -> None:
    pinned = client.put(name, "The goal: “parse” empty files").seq
    client.context_pin(name, pinned)
    for number in range(60):
        client.put(name, f'{number} said "\x1b[31m" \\ and\n' * 20, type="error" if number == 3 else "message")
    last = client.put(name, "about zebras").seq
    async with host(shell) as one:
        answer = await one.call("pack", contexts=[name], query="zebras")
        assert answer["text"].encode() == (made := client.pack(name, budget=8000, query="zebras", at=answer["at"])).text
        assert (answer["hash"], answer["tokens"]) == (made.manifest["hash"], made.manifest["used"])
        assert answer["left_out"]["count"] == made.manifest["left_out"]["count"]
        client.put(name, "later")
        assert await one.call("pack", contexts=[name], query="zebras", at=answer["at"]) == answer
        new = await one.call("pack", contexts=[name], since=last)
        assert ("later" in new["text"], "about zebras" in new["text"]) == (True, False)
        nothing = await one.call("pack", contexts=["nobody knows"])
        assert (nothing["units"], "who shows" in nothing["note"]) == (0, True)
    for most in (1024, 1500, 5000):
        async with host(shell, "--max-bytes", str(most), env={"ENGRAM_CONTEXT": name}) as one:
            for arguments in ({}, {"budget": 1_000_000, "policy": "errors-first"}, {"at": last, "query": "zebras"}):
                _, said = await one.text("pack", **arguments)
                assert len(said.encode()) <= most
                less = json.loads(said)
                assert f"{pinned} message" in less["text"]
                assert less["text"].endswith("\n"), "the pack is smaller, and not cut off"
                assert f"do not fit {most} bytes" in less["omitted"]
            assert less["at"] == last
            (content,) = (await one.session.read_resource(f"engram://pack/{name}")).contents
            assert len(content.text.encode()) <= most  # type: ignore[union-attr]
            error = await one.fails("too_large", "pack", contexts=["c" * 200 + str(number) for number in range(30)])
            assert f"{most} bytes" in error["message"]


async def test_answers_keep_to_the_budget_and_pieces_make_the_whole(shell: Shell, client: Client, name: str) -> None:
    whole = "".join(f"line {number}: naïve “quoted” \\ \t\x07 text 🦓\n" for number in range(400))
    blob = bytes(range(256)) * 20
    text, binary = client.put(name, whole).seq, client.put(name, blob).seq
    wide = client.put(name, "wide", meta={f"key {number}": "v" * 1000 for number in range(64)}).seq
    for number in range(30):
        client.put(name, f"{number} " + "x" * 500, meta={"n": str(number)})
    async with host(shell, "--max-bytes", "1500") as one:
        for tool, arguments in (
            ("recent", {"contexts": [name], "limit": 100}),
            ("get", {"ids": [text, binary, wide]}),
            ("search", {"query": "text line", "contexts": [name], "limit": 50}),
            ("pack", {"contexts": [name], "query": "text line"}),
            ("related", {"id": text}),
            ("who", {}),
            ("get", {"ids": [10**9]}),
            ("put", {"context": name, "text": "x", "meta": {"k" * 128: "v"}, "type": "y" * 10_000}),
        ):
            _, said = await one.text(tool, **arguments)
            assert len(said.encode()) <= 1500, tool
            json.loads(said)
        for seq, member, expected in ((text, "text", whole), (binary, "payload_base64", blob)):
            offset, pieces = 0, []
            while True:
                (unit,) = (await one.call("get", ids=[seq], offset=offset))["units"]
                pieces.append(unit[member])
                if "the rest" not in unit["cut"]:
                    break
                offset = json.loads(unit["cut"].split("get ", 1)[1])["offset"]
            if isinstance(expected, str):
                assert "".join(pieces) == expected
            else:
                from base64 import b64decode

                assert b"".join(map(b64decode, pieces)) == expected
        answer, seen = await one.call("recent", contexts=[name], after=wide, limit=100), []
        while answer["units"]:
            seen += [unit["meta"]["n"] for unit in answer["units"]]
            answer = await one.call("recent", contexts=[name], after=answer["after"], limit=100)
        assert seen == [str(number) for number in range(30)], "what did not fit comes with the next call"
        (content,) = (await one.session.read_resource(f"engram://context/{name.replace(' ', '%20')}")).contents
        assert len(content.text.encode()) <= 1500  # type: ignore[union-attr]


# A daemon that goes away


async def test_a_daemon_that_is_killed_is_waited_for(alone: Shell) -> None:
    alone.daemon()
    async with host(alone, "--as", "ann") as ann:
        token = (await ann.call("lock", paths=["@x"]))["token"]
        alone.kill_daemon()
        alone.daemon()
        assert (await ann.call("put", context="c", text="still mine", fences=[token]))["seq"] > token
        with alone.client("other") as other:
            until(lambda: next(iter(other.locks("@x")))["remaining"] is None, "the session to be there again")
    assert len(alone.ok("list", "c").lines) == 1


async def test_without_a_daemon_the_tools_say_so(alone: Shell) -> None:
    async with host(alone, "--no-autostart") as one:
        error = await one.fails("unavailable", "who")
        assert "engram daemon start" in error["message"]
        alone.daemon()
        await one.call("put", context="c", text="x")
    assert alone.ok("list", "c").texts == ["x"]


async def test_the_first_call_starts_a_daemon(alone: Shell) -> None:
    async with host(alone) as one:
        await one.call("put", context="c", text="x")
    assert alone.daemon_pid() is not None


# Arguments that no tool takes

HOSTILE: tuple[tuple[str, dict[str, Any]], ...] = (
    ("put", {}),
    ("put", {"context": "c"}),
    ("put", {"context": "c", "text": 5}),
    ("put", {"context": "c", "text": None}),
    ("put", {"context": "", "text": "x"}),
    ("put", {"context": " ", "text": "x"}),
    ("put", {"context": "c\0d", "text": "x"}),
    ("put", {"context": "c" * 10_000, "text": "x"}),
    ("put", {"context": "é" * 200, "text": "x"}),
    ("put", {"context": "c", "text": "x" * ((1 << 20) + 1)}),
    ("put", {"context": "c", "text": "é" * (1 << 20)}),
    ("put", {"context": "c", "text": "x", "unknown": 1}),
    ("put", {"context": "c", "text": "x", "meta": []}),
    ("put", {"context": "c", "text": "x", "meta": {"": "v"}}),
    ("put", {"context": "c", "text": "x", "meta": {"k\x1b": "v"}}),
    ("put", {"context": "c", "text": "x", "meta": {str(number): "v" for number in range(1000)}}),
    ("put", {"context": "c", "text": "x", "reply_to": "no id"}),
    ("put", {"context": "c", "text": "x", "reply_to": True}),
    ("put", {"context": "c", "text": "x", "reply_to": -1}),
    ("put", {"context": "c", "text": "x", "reply_to": 10**30}),
    ("put", {"context": "c", "text": "x", "fences": [10**30]}),
    ("put", {"context": "c", "text": "x", "relationships": [{"type": "causes", "target": 1, "x": 1}]}),
    ("put", {"context": "c", "text": "x", "relationships": [[[[[[[[[]]]]]]]]]}),
    ("put", {"context": "c", "text": "x", "type": "message\0"}),
    ("put", {"context": "c", "text": "x", "expect_seq": 1.5}),
    ("put", {"context": "c", "text": "x", "dedupe": "d" * 1000}),
    ("get", {"ids": []}),
    ("get", {"ids": [1] * 1000}),
    ("get", {"ids": 1}),
    ("get", {"ids": [1], "offset": -1}),
    ("get", {"ids": ["../../etc/passwd"]}),
    ("recent", {"limit": 0}),
    ("recent", {"limit": 10**30}),
    ("recent", {"wait": -1}),
    ("recent", {"wait": 1e400}),
    ("recent", {"after": "nonsense"}),
    ("recent", {"after": 10**12}),
    ("recent", {"since": "yesterday-ish"}),
    ("recent", {"contexts": ["c"] * 1000}),
    ("search", {"query": ""}),
    ("search", {"query": '"' * 4096, "after": "x"}),
    ("search", {"query": "x", "mode": "magic"}),
    ("pack", {}),
    ("pack", {"contexts": []}),
    ("pack", {"contexts": ["c\0d"]}),
    ("pack", {"contexts": [""]}),
    ("pack", {"contexts": ["c"] * 65}),
    ("pack", {"contexts": ["c"], "budget": 0}),
    ("pack", {"contexts": ["c"], "budget": 1}),
    ("pack", {"contexts": ["c"], "budget": 10**30}),
    ("pack", {"contexts": ["c"], "budget": 99.5}),
    ("pack", {"contexts": ["c"], "query": ""}),
    ("pack", {"contexts": ["c"], "query": "é" * 4096}),
    ("pack", {"contexts": ["c"], "policy": "../policy.toml"}),
    ("pack", {"contexts": ["c"], "policy": {"shares": {"recent": 100}}}),
    ("pack", {"contexts": ["c"], "at": 10**12}),
    ("pack", {"contexts": ["c"], "at": "nonsense"}),
    ("pack", {"contexts": ["c"], "at": 1, "since": 1}),
    ("pack", {"contexts": ["c"], "format": "xml"}),
    ("related", {"id": [1]}),
    ("related", {"id": 1, "depth": 10**9}),
    ("lock", {"paths": []}),
    ("lock", {"paths": [""]}),
    ("lock", {"paths": ["a\0b"]}),
    ("lock", {"paths": ["/x" * 4000]}),
    ("lock", {"paths": ["@"]}),
    ("lock", {"paths": ["/x"], "mode": "slots"}),
    ("lock", {"paths": ["/x"], "ttl": 0}),
    ("lock", {"paths": ["/x"], "ttl": 10**9}),
    ("unlock", {"token": 0}),
    ("unlock", {"token": 10**30}),
    ("unlock", {"token": "1"}),
    ("ask", {"context": "c", "text": "x"}),
    ("ask", {"context": "c", "text": "x", "to": "", "timeout": 1}),
    ("who", {"context": 5}),
    ("who", {"a": {"b": {"c": {}}}}),
)  # fmt: skip


async def test_hostile_arguments_are_refused_one_by_one(shell: Shell) -> None:
    before = shell.client().status()["last_seq"]
    async with host(shell, "--as", "tester") as one:
        for tool, arguments in HOSTILE:
            is_error, said = await one.text(tool, **arguments)
            assert is_error, (tool, str(arguments)[:100], said)
            error = json.loads(said)["error"]
            assert error["code"] in ("invalid", "too_large", "not_found", "stale", "cursor"), (tool, str(arguments)[:100], error)
            assert len(said) < 3000
        for tool in ("nope", "", "put\0", "p" * 100_000):
            with pytest.raises(MCPError, match="there is no tool"):
                await one.session.call_tool(tool, {})
        assert (await one.call("who"))["you"] == "tester"
    assert shell.client().status()["last_seq"] <= before + 2, "nothing was written, but that the agent came and went"


INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "0"}},
}


@pytest.fixture
def raw(shell: Shell) -> Running:
    """A server that has been greeted, line by line."""
    running = shell.start("mcp", "--as", "raw", pipe_stdin=True)
    running.say(INITIALIZE, {"jsonrpc": "2.0", "method": "notifications/initialized"})
    assert running.expect_lines(1)
    return running


def tool_call(number: int, tool: str, **arguments: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": {"name": tool, "arguments": arguments}}


MALFORMED = (
    (b"nonsense", -32700),
    (b'{"jsonrpc": "2.0", "id": 1, "method": ', -32700),
    (b"\xff\xfe\x00", -32700),
    (b"[" * 100_000, -32700),
    (b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "\\ud800"}}', -32700),
    (b"[]", -32600),
    (b"5", -32600),
    (b"{}", -32600),
    (b'{"jsonrpc": "1.0", "id": 1, "method": "ping"}', -32600),
    (b"x" * (9 << 20), -32600),
)  # fmt: skip


def test_malformed_lines_are_answered_and_the_rest_goes_on(raw: Running) -> None:
    raw.say(b"", b"   ", *(line for line, _ in MALFORMED), tool_call(7, "who"))
    raw.expect(lambda lines: len(lines) == 2 + len(MALFORMED), "an answer to each line")
    *refused, last = raw.objects[1:]
    assert [(answer["id"], answer["error"]["code"]) for answer in refused] == [(None, code) for _, code in MALFORMED]
    assert last["id"] == 7
    assert json.loads(last["result"]["content"][0]["text"])["you"] == "raw"
    raw.hang_up()
    assert raw.wait() == 0
    assert raw.errors == []


def test_a_number_that_is_none_is_refused(raw: Running) -> None:
    for number, value in enumerate(("NaN", "Infinity", "-Infinity")):
        raw.say(json.dumps(tool_call(number, "recent", wait=0)).replace('"wait": 0', f'"wait": {value}'))
    raw.expect_lines(4)
    assert all("error" in answer or answer["result"]["isError"] for answer in raw.objects[1:])


def test_a_put_is_answered_though_the_input_ends_behind_it(raw: Running, client: Client, name: str) -> None:
    raw.say(*(tool_call(number, "put", context=name, text=str(number)) for number in range(20)))
    raw.hang_up()
    assert raw.wait() == 0
    assert {answer["id"] for answer in raw.objects} == set(range(20))
    assert sorted(int(unit.text) for unit in client.list(name)) == list(range(20))


def test_a_wait_does_not_hold_up_the_end(raw: Running, name: str) -> None:
    raw.say(tool_call(1, "ask", context=name, text="?", to="nobody", timeout=600), tool_call(2, "recent", contexts=[name], wait=600))
    raw.hang_up()
    assert raw.wait() == 0
    assert raw.errors == []


def test_a_cancelled_wait_leaves_nothing_behind(raw: Running, client: Client, name: str) -> None:
    with client.lock(f"@{name}"):
        raw.say(tool_call(1, "lock", paths=[f"@{name}"], wait=600))
        until(lambda: sum("number" in lock for lock in client.locks(f"@{name}")) == 1, "the wait")
        raw.say({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}})
        until(lambda: sum("number" in lock for lock in client.locks(f"@{name}")) == 0, "its end")
    raw.say(tool_call(2, "who"))
    raw.expect_lines(2)
    assert list(client.locks(f"@{name}")) == []


def test_calls_beyond_the_limit_are_refused(raw: Running, name: str) -> None:
    raw.say(*(tool_call(number, "recent", contexts=[name], wait=600) for number in range(64)), tool_call(64, "who"))
    raw.expect_lines(2)
    assert (raw.objects[1]["id"], "busy" in raw.objects[1]["error"]["message"]) == (64, True)


def test_who_does_not_read_answers_is_not_read(shell: Shell, name: str, client: Client) -> None:
    for _ in range(20):
        client.put(name, "x" * 2000)
    running = shell.start("mcp", pipe_stdin=True)
    running.say(INITIALIZE, *(tool_call(number, "recent", contexts=[name]) for number in range(300)))
    running.hang_up()
    assert running.wait() == 0
    answers = running.objects
    assert {answer["id"] for answer in answers} == {0, *range(300)}
    assert all("result" in answer or "busy" in answer["error"]["message"] for answer in answers)


def test_without_the_package_it_says_what_to_install(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "mcp.py").write_text("raise ModuleNotFoundError('no', name='mcp')")
    said = shell.fails(69, "mcp", env={"PYTHONPATH": str(tmp_path)})
    assert said == "engram: the MCP server needs the mcp package, which is not installed; install it with: pip install 'engram[mcp]'\n"


def test_options_are_checked(shell: Shell) -> None:
    assert "--max-bytes" in shell.fails(2, "mcp", "--max-bytes", "10")
