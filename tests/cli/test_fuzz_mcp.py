"""What a host says to `engram mcp`: lines of JSON-RPC with faults in them, to a real server; and arguments made to hurt."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from commandline import Running, Shell
from fuzzing import NASTY, NUMBERS, fuzz, mutated, nasty_text
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("mcp")
from engram_cli.mcp.tools import tools

pytestmark = pytest.mark.fuzz

TOOLS = tools(None)
WORDS = (
    *(b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\", b"\\ud800", b"\\u0000", b"\r", b"\xff", b"\xef\xbb\xbf", b"null", b"true", b'"id":'),
    *(b"NaN", b"1e400", b"-0", b"9" * 5000, b"[" * 300, b'{"a":' * 300, b'"method": "ping", ', b'"jsonrpc": "1.0", ', b'"params": 5, '),
)
hurting = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(
        (*NASTY, *NUMBERS, 1.0, 1.5, -0.0, 1e308, "", "x" * 5000, [], {}, [[]], [1.0], ["1"], {"a": {}}, {"": ""}, "me", "10m", "/x")
    ),
    nasty_text(),
)


def fitting(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that fit a tool's schema, or nearly."""
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    options: list[st.SearchStrategy[Any]] = []
    for kind in kinds:
        if "enum" in schema:
            options.append(st.sampled_from(schema["enum"]))
        elif kind == "string":
            options.append(nasty_text().filter(bool) | st.sampled_from(("c", "1", "10m", "/x")))
        elif kind == "integer":
            options.append(st.integers(schema["minimum"], min(schema["maximum"], 60)) | st.just(float(schema["minimum"])))
        elif kind == "number":
            options.append(st.sampled_from((schema["minimum"], schema["minimum"] + 0.5, float(schema["minimum"]))))
        elif kind == "array":
            options.append(st.lists(fitting(schema["items"]), min_size=1, max_size=3))
        elif "properties" in schema:
            options.append(arguments(schema["properties"], schema["required"]))
        else:
            options.append(st.dictionaries(nasty_text().filter(bool), nasty_text(), max_size=2))
    return st.one_of(options)


def arguments(properties: Any, required: Any) -> st.SearchStrategy[dict[str, Any]]:
    known = {name: fitting(schema) for name, schema in properties.items()}
    return st.fixed_dictionaries(
        {name: known[name] for name in required}, optional={name: one for name, one in known.items() if name not in required}
    )


# What may wait for others waits for nothing here, or the test would.
QUICK = {"recent": {"wait": 0}, "lock": {"wait": 0, "ttl": 1}, "ask": {"timeout": 1}}


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A tool and arguments for it, of which up to two are made to hurt."""
    tool = TOOLS[draw(st.sampled_from(sorted(set(TOOLS) - {"ask", "search", "pack"})))]
    made = draw(arguments(tool.properties, tool.required))
    for _ in range(draw(st.integers(0, 2))):
        made[draw(st.sampled_from(sorted(tool.properties)) | nasty_text())] = draw(hurting)
    return tool.name, made | QUICK.get(tool.name, {})


class Host:
    """One server, and what it has answered."""

    def __init__(self, shell: Shell) -> None:
        self.running: Running = shell.start("mcp", "--as", "raw", pipe_stdin=True)
        self._numbers = itertools.count(10**6)
        info = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "0"}}
        self.running.say({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": info})
        self.running.say({"jsonrpc": "2.0", "method": "notifications/initialized"})
        self.running.expect_lines(1)
        self._seen = 1

    def say(self, line: bytes) -> list[dict[str, Any]]:
        """Send a line, and a question behind it whose answer shows that the server goes on; gives what else was answered by then."""
        self.running.say(line)
        number = next(self._numbers)
        self.running.say({"jsonrpc": "2.0", "id": number, "method": "ping"})
        answers = self._until(number)
        return [answer for answer in answers if answer.get("id") != number]

    def call(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """The answer to a call."""
        number = next(self._numbers)
        self.running.say(
            json.dumps({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": {"name": tool, "arguments": arguments}})
        )
        return next(answer for answer in self._until(number) if answer.get("id") == number)

    def _until(self, number: int) -> list[dict[str, Any]]:
        """New answers, up to one at least."""
        wanted = f'"id":{number},'
        self.running.expect(lambda got: any(wanted in line for line in got[self._seen :]), "an answer")
        answers = [json.loads(line) for line in self.running.lines[self._seen :]]
        self._seen += len(answers)
        assert self.running.errors == []
        return answers


@pytest.fixture(scope="module")
def one(shell: Shell) -> Host:
    return Host(shell)


requests = st.one_of(
    calls().map(lambda call: ("tools/call", {"name": call[0], "arguments": call[1]})),
    st.sampled_from((("ping", {}), ("tools/list", {}), ("resources/list", {}), ("resources/templates/list", {}))),
    nasty_text().map(lambda name: ("resources/read", {"uri": f"engram://context/{name}"})),
)


@given(requests, st.data())
@fuzz(50)
def test_lines_with_faults_are_answered_once_or_taken_and_the_server_goes_on(
    one: Host, request_: tuple[str, Any], data: st.DataObject
) -> None:
    method, params = request_
    line = json.dumps({"jsonrpc": "2.0", "id": 7, "method": method, "params": params}).encode()
    broken = data.draw(mutated(st.just(line), WORDS)).replace(b"\n", b" ")
    for answer in one.say(broken):
        assert "result" in answer or set(answer["error"]) >= {"code", "message"} or "method" in answer
        assert len(json.dumps(answer)) < 200_000


@given(calls())
@fuzz(60)
def test_arguments_that_hurt_are_refused_in_words(one: Host, call: tuple[str, dict[str, Any]]) -> None:
    answer = one.call(*call)
    (content,) = answer["result"]["content"]
    said = json.loads(content["text"])
    if answer["result"]["isError"]:
        assert said["error"]["code"] not in ("internal", "protocol", "unknown_op"), (call, said)
        assert len(content["text"]) < 3000


def test_whole_numbers_may_be_written_with_a_point(one: Host) -> None:
    one.call("put", {"context": "points", "text": "x"})
    first = json.loads(one.call("recent", {"contexts": ["points"]})["result"]["content"][0]["text"])["units"][0]["seq"]
    edges = [{"type": "causes", "target": float(first)}]
    for tool, arguments in (("get", {"ids": [float(first)]}), ("put", {"context": "points", "text": "y", "relationships": edges})):
        answer = one.call(tool, arguments)
        assert not answer["result"]["isError"], answer
