"""The quick reader and Typer understand every line alike, and the quick codec speaks the same CBOR as cbor2."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import cbor2
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st

from engram_cli import LITERAL_DASH, fast
from engram_cli.__main__ import _literal
from engram_cli.app import COMMANDS
from engram_cli.generate import HOT
from engram_cli.table import VERBS

Call = tuple[str, dict[str, Any]]


def _recording_tree() -> tuple[typer.Typer, list[Call]]:
    """The declared commands, with functions that note what they are called with."""
    app, calls = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]}), []

    def recorder(name: str) -> Callable[..., None]:
        def record(**values: Any) -> None:
            calls.append((name, values))

        declared = inspect.signature(COMMANDS[name])
        record.__signature__ = declared  # type: ignore[attr-defined]
        record.__annotations__ = {p.name: p.annotation for p in declared.parameters.values()}
        return record

    for name in HOT:
        app.command(name)(recorder(name))
    app.command("other")(lambda: None)
    return app, calls


APP, CALLS = _recording_tree()


def by_typer(line: list[str]) -> Call | None:
    """What Typer makes of the line; None when it refuses it."""
    CALLS.clear()
    try:
        APP(list(_literal(line)), standalone_mode=False)
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        return None
    return CALLS[0] if CALLS else None


WORDS = st.one_of(
    st.sampled_from(
        ["", "-", "work", ".", "a b", "--", "-5", "-x", "--json", "ünï", "日本", "x=y", LITERAL_DASH[1:], "0", "7", "+7", "1_0", " 3", "٣"]
    ),
    st.text(max_size=6).filter(lambda text: "\0" not in text),
    st.binary(max_size=4).filter(lambda raw: b"\0" not in raw).map(lambda raw: raw.decode("utf-8", "surrogateescape")),
)


@st.composite
def lines(draw: st.DrawFn) -> list[str]:
    """Anything that could be typed after `engram`, mostly close to sensible."""
    verb = draw(st.sampled_from(HOT))
    options = sorted(VERBS[verb][0])
    parts: list[list[str]] = []
    for _ in range(draw(st.integers(0, 6))):
        option, value = draw(st.sampled_from([*options, "--help", "--nope", "-fn", "-n3", "--jso"])), draw(WORDS)
        parts.append(draw(st.sampled_from([[option, value], [f"{option}={value}"], [option], [value], [value]])))
    return [verb, *(word for part in parts for word in part)]


@st.composite
def regular_lines(draw: st.DrawFn) -> list[str]:
    """Lines that the quick reader must not leave to Typer."""
    verb = draw(st.sampled_from(HOT))
    options, positionals, _ = VERBS[verb]
    plain = st.text(min_size=1, max_size=8).filter(lambda text: text[0] != "-" and "\0" not in text)
    parts: list[list[str]] = [[draw(plain)] for _, required, _ in positionals if required]
    for _ in range(draw(st.integers(0, 5))):
        option = draw(st.sampled_from(sorted(options)))
        kind, least = options[option][1:]
        value = str(draw(st.integers(least, 10**6))) if kind == "int" else draw(plain)
        if kind == "flag":
            parts.append([option])
        else:
            parts.append([f"{option}={value}"] if option[:2] == "--" and draw(st.booleans()) else [option, value])
    order = draw(st.permutations(parts))
    return [verb, *(word for part in order for word in part)]


@settings(max_examples=2000, deadline=None)
@given(lines())
def test_what_the_quick_reader_understands_typer_understands_alike(line: list[str]) -> None:
    quick = fast.read(line)
    if quick is not None:
        assert quick == by_typer(line)


@settings(max_examples=1000, deadline=None)
@given(regular_lines())
def test_regular_lines_are_read_quickly_and_alike(line: list[str]) -> None:
    quick = fast.read(line)
    assert quick is not None
    assert quick == by_typer(line)


@pytest.mark.parametrize(
    "line",
    [
        [],
        ["put"],
        ["put", "c", "x", "y"],
        ["list"],
        ["status"],
        ["put", "c", "x", "--help"],
        ["tail", "-n5"],
        ["list", "c", "--limit", "0"],
    ],
)
def test_unusual_lines_are_left_to_typer(line: list[str]) -> None:
    assert fast.read(line) is None


def test_a_dash_after_two_dashes_is_text() -> None:
    line = ["put", "c", "--", "-"]
    quick = fast.read(line)
    assert quick is not None
    assert quick[1]["text"] == LITERAL_DASH
    assert quick == by_typer(line)


VALUES = st.recursive(
    st.one_of(st.booleans(), st.integers(0, 2**64 - 1), st.text(max_size=300), st.binary(max_size=300)),
    lambda inner: st.one_of(st.lists(inner, max_size=30), st.dictionaries(st.text(max_size=30), inner, max_size=30)),
    max_leaves=20,
)


@settings(deadline=None)
@given(VALUES)
def test_requests_are_encoded_as_cbor2_does(value: Any) -> None:
    assert fast.encode(value) == cbor2.dumps(value)


@settings(deadline=None)
@given(st.one_of(VALUES, st.none(), st.integers(-(2**64), -1)))
def test_answers_are_decoded_as_cbor2_does(value: Any) -> None:
    assert fast.decode(cbor2.dumps(value)) == value


@pytest.mark.parametrize("size", [23, 24, 255, 256, 65535, 65536, 70000])
def test_lengths_of_every_width(size: int) -> None:
    for value in (b"x" * size, "x" * size, [0] * size, size):
        assert fast.encode(value) == cbor2.dumps(value)
        assert fast.decode(cbor2.dumps(value)) == value


@settings(deadline=None)
@given(st.binary(max_size=40))
def test_nonsense_from_a_daemon_is_an_error_that_is_expected(data: bytes) -> None:
    try:
        fast.decode(data)
    except (ValueError, IndexError, RecursionError):
        pass
