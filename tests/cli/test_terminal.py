"""What people see: on a terminal, stored text is shown and never obeyed."""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping

import pytest
from commandline import BIN, PATIENCE, Shell

from engram_cli.client import Client

# Sets the title, clears the screen, colours, rings, goes back, reorders, hides; as ESC sequences and as single C1 characters.
HOSTILE = "\x1b]0;title\x07\x1b[2J\x1b[31mred\x9b2J\x8d\r\boverwritten\x7f\u202eevil\u200bhidden\u2066x"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")


def on_terminal(shell: Shell, *arguments: str, code: int = 0, env: Mapping[str, str] | None = None) -> str:
    """Run a command whose stdout and stderr are a terminal, and give what reached it."""
    master, slave = pty.openpty()
    try:
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 40, 200, 0, 0))
        process = subprocess.Popen(
            [BIN / "engram", *arguments],
            env={**shell.env, "TERM": "xterm-256color", **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=slave,
            stderr=slave,
        )
        os.close(slave)
        slave = -1
        shown = _read_all(master)
        assert process.wait(PATIENCE) == code, shown
    finally:
        os.close(master)
        if slave >= 0:
            os.close(slave)
    return shown.decode().replace("\r\n", "\n")


def _read_all(master: int) -> bytes:
    shown, deadline = b"", time.monotonic() + PATIENCE
    while select.select([master], [], [], deadline - time.monotonic())[0]:
        try:
            data = os.read(master, 65536)
        except OSError as error:
            if error.errno != errno.EIO:  # how Linux says that nobody has the other end any more
                raise
            return shown
        if not data:
            return shown
        shown += data
    raise AssertionError(f"the command did not end; it printed {shown!r}")


def assert_harmless(shown: str) -> None:
    """Nothing but text, newlines, tabs and colours that the program chose."""
    assert FORBIDDEN.findall(COLOUR.sub("", shown)) == [], shown


@pytest.fixture
def hostile(client: Client, name: str) -> str:
    """A context full of hostile text; returns the id of its first unit."""
    made = client.put(name, f"before{HOSTILE}\nsecond line\ttabbed", type="error", meta={"label": HOSTILE})
    client.put(name, b"\x1b[2J\xff\x9b2J")
    client.context_set(name, display_name=HOSTILE, meta={"label": HOSTILE})
    return made.id


def test_stored_text_is_never_obeyed(shell: Shell, name: str, hostile: str) -> None:
    for arguments in (
        ["list", name],
        ["tail", name],
        ["tail", name, "--events", "--after", "0"],
        ["get", hostile],
        ["context", "show", name],
    ):
        shown = on_terminal(shell, *arguments)
        assert_harmless(shown)
        assert r"\x1b]0;title\x07\x1b[2J" in COLOUR.sub("", shown), arguments
        assert r"\u202eevil" in COLOUR.sub("", shown), arguments
    shown = on_terminal(shell, "context", "list")
    assert_harmless(shown)
    assert r"\x1b]0;title" in COLOUR.sub("", shown)


def test_json_on_a_terminal_is_harmless_too(shell: Shell, name: str, hostile: str) -> None:
    for arguments in (["list", name, "--json"], ["get", hostile, "--json"], ["context", "show", name, "--json"]):
        shown = on_terminal(shell, *arguments)
        assert_harmless(shown)
        assert "\x1b" not in shown
        assert r"\u001b]0;title\u0007" in shown


def test_errors_repeat_nothing_raw(shell: Shell, name: str, hostile: str) -> None:
    bad = "\x1b]0;title\x07\x1b[31m\u202e"
    for code, arguments in (
        (2, ["get", bad]),
        (2, ["put", bad, "x"]),
        (2, ["put", name, "x", "--type", bad]),
        (2, ["put", name, "x", "--rel", f"{bad}:1"]),
        (2, ["put", name, "x", "--rel", bad]),
        (2, ["put", name, "x", "--meta", bad]),
        (2, ["put", name, "x", "--meta", f"{bad}=v"]),
        (2, ["put", name, "--file", bad]),
        (2, ["put", name, "x", "--as", bad]),
        (2, ["list", name, "--since", bad]),
        (2, ["list", name, bad]),
        (2, ["list", name, f"--{bad}"]),
        (2, [bad]),
        (69, ["put", name, "x", "--no-autostart", "--socket", bad]),
    ):
        shown = on_terminal(shell, *arguments, code=code)
        assert_harmless(shown)
        assert "\x1b" not in shown, arguments


def test_people_get_names_and_words_in_colour_unless_they_say_no(shell: Shell, client: Client, name: str) -> None:
    client.put(name, "one\ntwo", type="error")
    shown = on_terminal(shell, "list", name)
    assert COLOUR.search(shown)
    assert "\t" not in shown
    for options, env in (([], {"NO_COLOR": "1"}), (["--color", "never"], {}), ([], {"TERM": "dumb"})):
        plain = on_terminal(shell, "list", name, *options, env=env)
        assert plain == COLOUR.sub("", shown), options
    assert on_terminal(shell, "list", name, env={"NO_COLOR": ""}) == shown
    assert on_terminal(shell, "list", name, "--color", "always", env={"NO_COLOR": "1"}) == shown
    assert re.fullmatch(r" *\d+ \d\d:\d\d:\d\d tester error one\n +two\n", COLOUR.sub("", shown)), shown


def test_several_contexts_are_told_apart(shell: Shell, client: Client, name: str) -> None:
    client.put(name, "x")
    client.put(f"{name} other", "y")
    both = COLOUR.sub("", on_terminal(shell, "tail", name, f"{name} other")).splitlines()
    assert [line.endswith(end) for line, end in zip(both, (f"{name} tester x", f"{name} other tester y"), strict=True)] == [True, True]
    assert name not in on_terminal(shell, "tail", name)


def test_tables_and_facts(shell: Shell, client: Client, name: str) -> None:
    client.put(name, "x")
    assert name in on_terminal(shell, "context", "list")
    assert "tester" in on_terminal(shell, "agents", name)
    assert str(shell.socket) in COLOUR.sub("", on_terminal(shell, "status"))
    assert str(shell.socket) in on_terminal(shell, "daemon", "status")
