"""The documentation says what the code does: tables, byte examples and the README's tour are compared with it or run."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer

from engram_cli.app import app
from engram_cli.mcp.tools import tools
from engramd import config
from engramd.protocol import connection, framing, messages, resources
from engramd.protocol.connection import Answer, ClientConnection, Hello, Request, ServerConnection, answer_frame
from engramd.protocol.errors import CODES
from engramd.protocol.resources import problem
from engramd.service import leases
from engramd.service import locks as locks_service
from engramd.service import units as units_service
from engramd.state import consumers, contexts, locks, presence, redaction, retention, tokens, units
from engramd.state.machine import Command, decide
from engramd.state.resources import overlap
from engramd.state.view import Claim, Token
from engramd.storage import records
from engramd.storage.log import Log

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
PROTOCOL = (ROOT / "docs/protocol.md").read_text()
STORAGE = (ROOT / "docs/storage.md").read_text()
MCP = (ROOT / "docs/mcp.md").read_text()
LOCKS = (ROOT / "docs/locks.md").read_text()
DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def section(text: str, heading: str) -> str:
    """The part of a document from a heading to the next one of its level or above."""
    level = heading.split()[0]
    start = text.index(f"\n{heading}\n") + 1
    end = re.compile(rf"^#{{1,{len(level)}}} ", re.M).search(text, start + len(heading))
    return text[start : end.start() if end else len(text)]


def rows(text: str) -> list[list[str]]:
    """The cells of the tables in a text, without the lines that head them; code marks are taken off."""
    cells = [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return [row for index, row in enumerate(cells) if set("".join(row)) != {"-"} and set("".join([*cells, [""]][index + 1])) != {"-"}]


def blocks(text: str) -> list[str]:
    """The bodies of the fenced blocks of a text."""
    return re.findall(r"^```\w*\n(.*?)^```$", text, re.M | re.S)


# Tables


def test_the_table_of_error_codes_is_the_codes() -> None:
    assert rows(section(PROTOCOL, "## Error codes")) == [[code, str(exit_code), meaning] for code, (exit_code, meaning) in CODES.items()]


def test_the_limits_are_those_of_the_code() -> None:
    shown = {name: int(value) for name, value, _ in rows(section(PROTOCOL, "## Limits"))}
    modules = (framing, connection, units_service, messages, resources, leases, locks_service)
    rooms = {name: value for module in modules for name, value in vars(module).items()}
    assert shown == {name: rooms[name] for name in shown}
    declared = {name for name in vars(messages) if re.fullmatch(r"(MAX|DEFAULT|PAGE)_[A-Z_]+", name)}
    assert set(shown) >= declared


def test_the_table_of_event_codes_is_that_of_the_records() -> None:
    shown = [(int(row[0]), row[1]) for row in rows(section(STORAGE, "## Records")) if len(row) == 3]
    assert shown == [(code, kind) for code, (kind, _) in records.CODES.items()]


def test_the_readme_names_every_verb_and_no_other() -> None:
    shown: set[str] = set()
    for verbs, _ in rows(section(README, "## Verbs")):
        group, *rest = (word for word in re.findall(r"[a-z]+", re.sub(r"[A-Z]+|\[.*?\]", "", verbs)))
        shown |= {f"{group} {verb}" for verb in rest} or {group}
    command: Any = typer.main.get_command(app)
    declared: set[str] = set()
    for name, verb in command.commands.items():
        declared |= {f"{name} {leaf}" for leaf in verb.commands} if hasattr(verb, "commands") else {name}
    assert shown == declared


def test_the_readme_names_every_setting_of_the_daemon() -> None:
    shown = {variable: flag for variable, flag, _ in rows(section(README, "## Settings"))}
    for action in config.parser()._actions:
        if isinstance(action, argparse._StoreAction) and action.dest not in ("config", "ready_fd"):
            assert shown[f"ENGRAM_{action.dest.upper()}"] == action.option_strings[0]


def test_links_lead_somewhere() -> None:
    for path in DOCS:
        for target in re.findall(r"\]\(([^)#]*)(?:#[^)]*)?\)", path.read_text()):
            assert not target or target.startswith("https://") or (path.parent / target).exists(), f"{path}: {target}"


def test_links_lead_to_headings() -> None:
    for path in DOCS:
        for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]*)\)", path.read_text()):
            headings = re.findall(r"^#+ (.*)$", ((path.parent / target) if target else path).read_text(), re.M)
            anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, f"{path}: {target}#{anchor}"


def test_the_tables_of_the_mcp_tools_are_the_tools() -> None:
    shown = {name: re.findall(r"\w+", arguments) for name, _, arguments in rows(section(MCP, "## Tools"))}
    assert shown == {name: list(tool.properties) for name, tool in tools(None).items()}


def test_the_configuration_for_hosts_is_one() -> None:
    (server,) = json.loads(blocks(section(MCP, "## Telling the host"))[0])["mcpServers"].values()
    assert [server["command"], *server["args"][:1]] == ["engram", "mcp"]


def test_the_table_of_overlaps_is_what_the_daemon_thinks() -> None:
    shown = rows(section(LOCKS, "## What overlaps what"))
    assert len(shown) > 15
    for one, other, overlaps, _ in shown:
        assert problem(one) is None
        assert problem(other) is None
        assert overlap(one, other) == overlap(other, one) == {"yes": True, "no": False}[overlaps], (one, other)


# The configuration file


def test_the_example_configuration_is_current() -> None:
    assert (ROOT / "examples/engram.toml").read_text() == config.example()


def test_the_example_configuration_loads_with_every_line_uncommented(tmp_path: Path) -> None:
    path = tmp_path / "engram.toml"
    path.write_text(re.sub(r"^#(?=\S)", "", config.example(), flags=re.M))
    _, sources, _ = config.load(["--config", str(path)], {})
    assert {name for name, source in sources.items() if source == "default"} == {"ready_fd"}


# Bytes of the wire


def octets(block: str) -> bytes:
    """The bytes of a block of hexadecimal digits with comments."""
    return bytes.fromhex(re.sub(r"#.*", "", block))


def test_the_example_of_the_wire() -> None:
    asked, answered = map(octets, blocks(section(PROTOCOL, "## An example, byte by byte")))
    client = ClientConnection(messages.frame_limit(messages.MAX_PAYLOAD))
    hello = client.hello({"agent": "me"})
    request_id, request = client.request("put", {"context": "work", "text": "hi"})
    assert asked == hello + request

    server = ServerConnection(messages.frame_limit(messages.MIB))
    assert list(server.receive(asked)) == [
        Hello(0, {"version": [1, 0], "agent": "me"}),
        Request(request_id, "put", {"context": "work", "text": "hi"}),
    ]

    greeting = {
        "version": list(messages.VERSION),
        "server": "engramd 0.1.0",
        "history": "00d1ce15f00d",
        "limits": {"max_payload": messages.MIB, "max_frame": messages.frame_limit(messages.MIB), "max_units": messages.MAX_UNITS},
        "pid": 4242,
    }
    made = {"id": FIRST, "seq": 2, "ts": START, "deduped": False}
    assert answered == answer_frame(0, framing.encode(greeting)) + answer_frame(request_id, framing.encode(made))
    messages.HELLO_RESULT.check(greeting)
    messages.OPERATIONS["put"].result.check(made)
    assert list(client.receive(answered)) == [Answer(0, greeting, None), Answer(request_id, made, None)]


# Bytes on disk

START = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z
SECOND = 1_000_000


def unit_id(ts: int, random: int) -> bytes:
    """A UUIDv7 with a chosen number in place of random bits."""
    return (ts // 1000 << 80 | 7 << 76 | 0b10 << 62 | random).to_bytes(16)


FIRST, OTHER, CHANGE = unit_id(START, 1), unit_id(START + SECOND, 2), unit_id(START + 6 * SECOND, 3)
SLIP = unit_id(START + 13 * SECOND, 4)
WRITES: Sequence[Command] = (
    units.Put("a", "me", (units.Draft(FIRST, "message", {"k": "v"}, "hi"),), "d"),
    units.Put("b", "you", (units.Draft(OTHER, "error", {}, b"\xff", (units.Edge("responds_to", FIRST, {}),)),)),
    contexts.SetPlaces("a", "me", (OTHER,), True),
    contexts.SetPins("a", "me", (FIRST,), True),
    contexts.SetPlaces("a", "me", (FIRST,), False),
    locks.Acquire("me", Claim(("/src",), "exclusive"), 60 * SECOND, None, False, ""),
    units.Put("a", "me", (units.Draft(CHANGE, "file_change", {"path": "/src//x.py"}, "new"),)),
    consumers.CreateConsumer("w", "me", {"contexts": ("a",)}, 0, True),
    consumers.Park("w", 11, 5, 3),
    presence.Arrive("me"),
    contexts.SetMember("b", "you", "you", False),
    retention.SetRetention("b", "me", {"units": 100}),
    retention.TrimEvents(1, ()),
    units.Put("b", "you", (units.Draft(SLIP, "message", {}, "oops"),)),
    redaction.Redact("me", (SLIP,), "a slip"),
    contexts.SetPins("a", "me", (OTHER,), True),
    tokens.IssueToken("me", "kq3Zb81xTe", Token("bot", bytes(range(32)), ("read", "write"), ("a",), (), START + 3600 * SECOND, "", START)),
)


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    """The store of docs/storage.md."""
    monkeypatch.setattr(secrets, "token_hex", lambda size: "00d1ce15f00d")
    log = Log(tmp_path / "log")
    for second, command in enumerate(WRITES):
        batch = log.batch()
        decision = decide(log.pending, command)
        assert isinstance(decision, list)
        for event in decision:
            batch.append(START + second * SECOND, event)
        batch.seal()
        batch.commit()
        batch.settle()
    yield log
    log.close()


def test_the_examples_of_the_store(stored: Log) -> None:
    held: dict[bytes, bytes] = dict(stored._store.scan(b"", b"\xff" * 8))
    whole = {f"<unit {seq}>": stored.unit(seq) for seq in (2, 4, 17)}
    shown: set[bytes] = set()
    for block in blocks(STORAGE):
        for left, right in re.findall(r"^(\S.*?)\s*->(.*(?:\n .*)*)", block, re.M):
            if left in whole:
                assert bytes.fromhex(right) == whole[left], left
                continue
            for name, unit in whole.items():
                right = right.replace(name, (unit or b"").hex())
            assert held[bytes.fromhex(left)] == bytes.fromhex(right), left
            shown.add(bytes.fromhex(left))
    assert {key[:1] for key in shown} == {key[:1] for key in held}, "every prefix has an example"
    assert len([key for key in shown if key.startswith(b"!")]) == 2


def test_the_table_of_prefixes_is_complete(stored: Log) -> None:
    named = {prefix for prefix, *_ in rows(section(STORAGE, "## Prefixes"))}
    assert named == {key.decode() if key[:1] == b"!" else chr(key[0]) for key, _ in stored._store.scan(b"", b"\xff" * 8)}


# The README


def test_one_line_of_the_readme_runs_the_tests() -> None:
    assert re.findall(r"^\$ .*pytest.*$", README, re.M) == [
        "$ python3 -m venv .venv && .venv/bin/pip install '.[test]' && .venv/bin/python -m pytest -n auto"
    ]


def test_the_first_command_of_the_readme_sets_up_and_shows() -> None:
    commands = re.findall(r"^\$ .*$", README, re.M)
    assert commands[0] == "$ python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/engram demo"


class Step(NamedTuple):
    """A command of a tour, and what it should print; None where nothing is said."""

    command: str
    output: str | None


def steps(text: str) -> Iterator[Step]:
    """The commands of a tour: lines with a prompt, and Python blocks, whose output is the text block after them."""
    fences = re.findall(r"^```(\w+)\n(.*?)^```$", text, re.M | re.S)
    for (kind, body), (after, output) in zip(fences, [*fences[1:], ("", "")], strict=True):
        if kind == "python":
            yield Step(f"python - <<'END_OF_BLOCK'\n{body}END_OF_BLOCK", output if after == "text" else None)
        elif kind == "console":
            for command, printed in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", body, re.M):
                yield Step(command, printed or None)


def matches(printed: str, expected: str) -> bool:
    """Whether an output is the expected one, in which `...` stands for anything within a line."""
    return re.fullmatch(re.escape(expected.rstrip("\n")).replace(r"\.\.\.", ".*"), printed.rstrip("\n")) is not None


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a path short enough for a socket; the daemon that a tour leaves in it is stopped."""
    directory = Path(tempfile.mkdtemp(prefix="engram-", dir="/tmp"))
    try:
        yield directory
    finally:
        stop(directory / "data" / "lock")
        shutil.rmtree(directory)


def stop(lock: Path) -> None:
    """End the daemon that holds the lock of a data directory, whose pid the lock names: politely, and after 8 seconds not."""
    for number in [signal.SIGTERM] + [0] * 400 + [signal.SIGKILL] + [0] * 100:  # 0 sends nothing: kill(2)
        try:
            with lock.open("rb") as held:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except FileNotFoundError:
            return
        except BlockingIOError:
            try:
                os.kill(int(lock.read_text().split()[0]), number)
            except (ProcessLookupError, IndexError):  # it has just ended, or has not yet written its pid
                pass
        time.sleep(0.02)


TOURS = {path.stem: tour for path in DOCS for tour in re.findall(r"^<!-- test -->\n(.*?)^<!-- /test -->$", path.read_text(), re.M | re.S)}


def test_each_that_has_a_tour_has_one() -> None:
    assert {path.stem for path in DOCS if "<!-- test -->" in path.read_text()} == TOURS.keys()
    assert {"README", "locks", "python", "embedding"} <= TOURS.keys()
    assert all(path.read_text().count("<!-- test -->") <= 1 for path in DOCS)


@pytest.mark.parametrize("tour", TOURS.values(), ids=TOURS)
def test_the_tours(tour: str, place: Path) -> None:
    todo = list(steps(tour))
    assert todo
    # One shell runs them all. After each command it writes a mark and the exit code.
    script = "".join(f"{step.command}\nprintf '\\036%d\\036' $?\n" for step in todo)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("ENGRAM_", "PYTHON"))}
    env |= {
        "PATH": f"{Path(sys.executable).parent}:{env['PATH']}",
        "ENGRAM_SOCKET": str(place / "socket"),
        "ENGRAM_DATA_DIR": str(place / "data"),
        "ENGRAM_CONFIG": os.devnull,
        "ENGRAM_LISTEN": "off",
    }
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-c", script],
        env=env,
        cwd=place,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    printed = done.stdout.split("\x1e")
    for step, output, code in zip(todo, printed[0::2], printed[1::2], strict=False):
        assert code == "0", f"$ {step.command}\n{output}"
        assert step.output is None or matches(output, step.output), f"$ {step.command}\n{output}\nis not\n{step.output}"
    assert len(printed) == 2 * len(todo) + 1
