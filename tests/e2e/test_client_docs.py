"""The examples in the Python clients' documentation, run for each client against a real daemon, and what `help()` shows."""

from __future__ import annotations

import ast
import doctest
import inspect
import pydoc
import sys
from collections.abc import Iterator
from types import CodeType
from typing import Any

import pytest
import trio
from commandline import Shell

from engram_cli import calls, client, trio_client

CLIENTS = (client.Client, trio_client.Client)


def examples(cls: type) -> Iterator[doctest.DocTest]:
    """The examples of each method that has some."""
    for name, method in inspect.getmembers(cls, inspect.isfunction):
        found = doctest.DocTestParser().get_doctest(inspect.getdoc(method) or "", {}, f"{cls.__module__}.{name}", None, None)
        if found.examples:
            yield found


async def run(test: doctest.DocTest, names: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    """Run the examples of one method, in which `await` may stand anywhere."""
    for example in test.examples:
        code = compile(example.source, test.name, "single", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        assert isinstance(code, CodeType)
        result = eval(code, names)
        if code.co_flags & inspect.CO_COROUTINE:
            await result
        assert capsys.readouterr().out == example.want, f"{test.name}: {example.source}"


@pytest.fixture
def plain_display(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values are shown as in a fresh interpreter, and kept nowhere."""
    monkeypatch.setattr(sys, "displayhook", lambda value: None if value is None else print(repr(value)))


async def test_the_examples_of_the_blocking_client(served: Shell, plain_display: None, capsys: pytest.CaptureFixture[str]) -> None:
    tests = list(examples(client.Client))
    assert len(tests) > 12
    with served.client("me") as engram:
        engram.put("work", "what every example may rely on")
        for test in tests:
            await run(test, {**vars(client), "engram": engram}, capsys)


async def test_the_examples_of_the_trio_client(served: Shell, plain_display: None, capsys: pytest.CaptureFixture[str]) -> None:
    tests = list(examples(trio_client.Client))
    assert {test.name.rpartition(".")[2] for test in tests} == {test.name.rpartition(".")[2] for test in examples(client.Client)}
    with trio.fail_after(60):
        async with trio_client.Client(str(served.socket), agent="me", autostart=False) as engram:
            await engram.put("work", "what every example may rely on")
            for test in tests:
                await run(test, {**vars(trio_client), "engram": engram}, capsys)


@pytest.mark.parametrize("cls", CLIENTS)
def test_everything_public_is_documented(cls: type) -> None:
    module = sys.modules[cls.__module__]
    for name in module.__all__:
        thing = getattr(module, name)
        assert inspect.getdoc(thing), name
        for member, method in inspect.getmembers(thing, inspect.isfunction):
            assert member.startswith("_") or inspect.getdoc(method), f"{name}.{member}"


@pytest.mark.parametrize("cls", CLIENTS)
def test_help_reads_well(cls: type) -> None:
    shown = pydoc.render_doc(cls, renderer=pydoc.plaintext)
    assert "put(self, /, context: str, payload: str | bytes, *, type: str = 'message'" in shown
    assert "-> engram_cli.calls.PutResult" in shown
    assert "pack(self, /, *contexts: str, budget: int, unit: str = 'tokens'" in shown
    assert "Iterator[engramd.protocol.unit.Unit]" in shown
    assert "-> engram_cli.calls.Call" not in shown
    assert "-> engram_cli.calls.Pages" not in shown
    assert "timeout: seconds" in shown
    assert ("await engram.put(" in shown) == (cls is trio_client.Client)


def test_what_is_declared_once_is_a_method_of_both() -> None:
    for name in ("put", "list", "search", "pack", "tail", "consume", "lock"):
        one, other = (inspect.signature(getattr(cls, name)) for cls in CLIENTS)
        assert one.parameters == other.parameters
    assert calls.tail("c", last=2) == {"contexts": ["c"], "follow": True, "last": 2}
