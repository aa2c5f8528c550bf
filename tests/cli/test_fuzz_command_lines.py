"""Command lines with a few words or characters wrong, read the quick way and by Typer; and what both then ask of a daemon."""

from __future__ import annotations

import copy
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import cbor2
import pytest
from fuzzing import SURROGATES, fuzz, nasty_text
from hypothesis import given
from hypothesis import strategies as st
from test_fast_reader import by_typer

from engram_cli import fast
from engram_cli.app import COMMANDS
from engram_cli.generate import HOT
from engram_cli.table import VERBS
from engramd.protocol.connection import Hello, Request, ServerConnection, answer_frame, failure_frame
from engramd.protocol.errors import EngramError
from engramd.protocol.framing import encode

pytestmark = pytest.mark.fuzz

typed = nasty_text(SURROGATES, 3).filter(lambda text: "\0" not in text)
numbers = st.integers(-2, 2**70).map(str) | st.sampled_from(
    ("0", "00", "1" * 18, "1" * 19, "1" * 5000, "+1", "1_0", " 1", "1.0", "0x1", "٣")
)


@st.composite
def right(draw: st.DrawFn) -> list[str]:
    """A line as people write it."""
    verb = draw(st.sampled_from(HOT))
    options, positionals, _ = VERBS[verb]
    words = [
        draw(st.sampled_from(("work", "42", "a b", "/x", "@y", "é")) | typed)
        for _, required, _ in positionals
        if required or draw(st.booleans())
    ]
    parts = [[word] for word in words]
    for option in draw(st.lists(st.sampled_from(sorted(options)), max_size=4)):
        kind = options[option][1]
        if kind == "flag":
            parts.append([option])
        else:
            value = draw(numbers if kind == "int" else st.sampled_from(("k=v", "causes:1", "/x:7", "10m", "5")) | typed)
            parts.append([f"{option}={value}"] if option[:2] == "--" and draw(st.booleans()) else [option, value])
    return [verb, *(word for part in draw(st.permutations(parts)) for word in part)]


@st.composite
def nearly_right(draw: st.DrawFn) -> list[str]:
    """With up to three words dropped, doubled, swapped, cut, glued, or put in."""
    verb, *line = draw(right())
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(line)))
        word = line[at] if at < len(line) else ""
        match draw(st.sampled_from(("drop", "double", "swap", "cut", "glue", "insert", "dashes"))):
            case "drop":
                del line[at : at + 1]
            case "double":
                line.insert(at, word)
            case "swap":
                line[at : at + 2] = line[at : at + 2][::-1]
            case "cut":
                line[at : at + 1] = [word[: draw(st.integers(0, len(word)))]]
            case "glue":
                line[at : at + 2] = ["".join(line[at : at + 2])]
            case "insert":
                line.insert(
                    at, draw(typed | st.sampled_from(("-", "--", "--json", "-h", "-fn", "-n5", "--no-such", "--=", "-=", "--json=1")))
                )
            case "dashes":
                line.insert(at, "--")
    return [verb, *line]


@given(nearly_right())
@fuzz(50)
def test_what_is_nearly_right_is_read_as_typer_reads_it_or_left_to_it(line: list[str]) -> None:
    quick = fast.read(line)
    if quick is not None:
        assert quick == by_typer(line)


# What is asked of the daemon


class Listener:
    """Greets whoever connects to its socket, notes the first request, and refuses it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(path)
        self._socket.listen()
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                with self._socket.accept()[0] as peer:
                    self._talk(peer)
            except OSError:
                return

    def _talk(self, peer: socket.socket) -> None:
        limits = {"max_payload": 2**20, "max_frame": 2**21}
        greeting = {"version": [1, 0], "server": "test", "history": "0" * 12, "limits": limits, "pid": os.getpid()}
        connection = ServerConnection(2**25)
        while data := peer.recv(65536):
            try:
                messages = list(connection.receive(data))
            except EngramError as error:
                peer.sendall(failure_frame(None, error))
                return
            for message in messages:
                if isinstance(message, Hello):
                    peer.sendall(answer_frame(message.id, encode(greeting)))
                    continue
                fields = message.fields if isinstance(message, Request) else {"refused": message.error.message}  # type: ignore[union-attr]
                self.asked.append((message.op if isinstance(message, Request) else "", fields))
                peer.sendall(failure_frame(message.id, EngramError("exists", "enough")))


@pytest.fixture(scope="module")
def listener() -> Iterator[Listener]:
    with tempfile.TemporaryDirectory(prefix="engram-", dir="/tmp") as directory:
        made = Listener(str(Path(directory, "s")))
        yield made
        made.close()


def pruned(value: Any) -> Any:
    """A value without members that hold nothing."""
    if isinstance(value, list):
        return [pruned(one) for one in value]
    if isinstance(value, dict):
        return {name: pruned(one) for name, one in value.items() if one not in ([], {}, None, False)}
    return value


def plain(verb: str, said: tuple[str, dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    """A request without what only says how the answer is to be written out, or what would hold without being said."""
    op, fields = said
    made = {name: value for name, value in pruned(fields).items() if name not in ("form", "credit")}
    if "text" in made:
        made["payload"] = made.pop("text").encode()
    if verb == "list":
        made.pop("limit", None)  # the size of a page
    if verb == "lock":
        made.pop("key", None)  # by which it may be asked for again
    if verb == "get":
        made["ids"] = made.get("ids", [])[:1]
    return op, made


class Tracked(fast.Connection):
    """A quick connection that can be closed: in a command the end of the process does that."""

    made: ClassVar[list[Tracked]] = []

    def __init__(self, *arguments: Any) -> None:
        self.made.append(self)
        super().__init__(*arguments)

    @classmethod
    def close_all(cls) -> None:
        while cls.made:
            if (made := getattr(cls.made.pop(), "_socket", None)) is not None:  # some have failed before they had one
                made.close()


def asked_by(listener: Listener, call: Any) -> tuple[str, dict[str, Any]] | str:
    """What a way through a line asks first; or why it asks nothing."""
    listener.asked.clear()
    try:
        call()
    except (fast.GiveUp, UnicodeEncodeError) as error:
        return type(error).__name__
    except (fast.Failed, EngramError, SystemExit) as error:
        if not listener.asked:
            return str(error)
    return listener.asked[0] if listener.asked else "nothing"


@given(right())
@fuzz(100)
def test_both_ways_ask_the_same_of_a_daemon(listener: Listener, capfd: pytest.CaptureFixture[str], line: list[str]) -> None:
    call = fast.read(line)
    if call is None:
        return
    verb, values = call
    values |= {"socket": listener.path, "agent_name": values["agent_name"] or "me", "no_autostart": True, "timeout": None, "file": None}
    values = {
        name: value for name, value in values.items() if name in VERBS[verb][2] or name in dict.fromkeys(p[0] for p in VERBS[verb][1])
    }
    if values.get("text") == "-" or values["color"] not in ("auto", "never"):
        return
    with mock.patch.object(fast, "Connection", Tracked):
        quick = asked_by(listener, lambda: fast._VERBS[verb](copy.deepcopy(values)))
        Tracked.close_all()
    full = asked_by(listener, lambda: COMMANDS[verb](**copy.deepcopy(values)))
    if isinstance(quick, tuple):
        assert isinstance(full, tuple), (line, full)
        assert plain(verb, quick) == plain(verb, full)


@given(st.binary(max_size=40) | st.builds(cbor2.dumps, st.recursive(st.none() | st.integers(0, 2**64 - 1) | st.text(max_size=9), st.lists)))
@fuzz(25)
def test_what_the_quick_codec_reads_it_reads_as_cbor2_does(data: bytes) -> None:
    try:
        found, end = fast._decode(data, 0)
    except (ValueError, IndexError, RecursionError):
        return
    if end == len(data):  # else it was cut short, which the length before each frame tells
        assert repr(found) == repr(cbor2.loads(data))
