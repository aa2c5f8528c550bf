"""`top`: what it shows, how it is steered, and that the terminal is as it was afterwards. And each subscriber's lag in `status`."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from typing import Any, Self

import pytest
from commandline import BIN, PATIENCE, Shell, until
from hypothesis import given
from hypothesis import strategies as st

from engram_cli.client import Client
from engram_cli.commands.top import Snapshot, arrange, share, table

ENTER, LEAVE, SHOW_CURSOR = "\x1b[?1049h", "\x1b[?1049l", "\x1b[?25h"


class Terminal:
    """A command with a terminal of its own."""

    def __init__(self, shell: Shell, *arguments: str, rows: int = 40) -> None:
        self.master, self._slave = pty.openpty()
        self.resize(rows)
        self.before = termios.tcgetattr(self._slave)
        self.shown = ""
        self.process = subprocess.Popen(
            [BIN / "engram", *arguments],
            env={**shell.env, "TERM": "xterm-256color"},
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self._slave)

    def resize(self, rows: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("4H", rows, 120, 0, 0))

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def expect(self, pattern: str) -> str:
        """Read on until this is shown; returns what was shown since the last time, which is then forgotten."""
        deadline = time.monotonic() + PATIENCE
        while not re.search(pattern, self.shown):
            assert select.select([self.master], [], [], deadline - time.monotonic())[0], f"waited for {pattern!r}, got {self.shown!r}"
            self.shown += os.read(self.master, 65536).decode(errors="replace")
        shown, self.shown = self.shown, ""
        return shown

    def ended(self) -> int:
        """Wait for the end; the terminal must be as it was."""
        code = self.process.wait(PATIENCE)
        while select.select([self.master], [], [], 0)[0]:
            self.shown += os.read(self.master, 65536).decode(errors="replace")
        assert LEAVE in self.shown
        assert SHOW_CURSOR in self.shown
        assert termios.tcgetattr(self._slave) == self.before
        return code


@pytest.fixture
def busy(shell: Shell, client: Client, name: str) -> Iterator[str]:
    """A daemon with units, a lease, one who waits for it, and a reader."""
    client.put_many(name, [{"text": "x"}] * 5)
    client.request("lock", {"resources": [f"@{name}"]})
    waiting = shell.client("waiter")
    waiting.send("lock", {"resources": [f"@{name}"], "wait": True})
    stream = shell.client("reader").tail(name, last=0).events()
    next(stream)
    until(lambda: client.status()["waiters"] > 0, "the waiter")
    yield name
    stream.close()
    waiting.close()


def test_one_look_as_lines(shell: Shell, busy: str) -> None:
    rows = [line.split("\t") for line in shell.ok("top").lines]
    assert {row[0] for row in rows} == {"status", "contexts", "subscribers", "locks", "waiters", "agents"}
    contexts = {row[1]: row for row in rows if row[0] == "contexts"}
    assert contexts[busy][2] == "5"
    assert contexts[busy][3].endswith("Z")
    (subscriber,) = (row for row in rows if row[0] == "subscribers" and row[4] == busy)
    assert subscriber[1:4] == ["reader", "live", "0"]
    assert any(row[-1] == f"@{busy}" for row in rows if row[0] == "locks")
    assert any(row[1] == "waiter" and row[-1] == f"@{busy}" for row in rows if row[0] == "waiters")


def test_one_look_as_json(shell: Shell, busy: str) -> None:
    (found,) = shell.ok("top", "--json").objects
    assert set(found) == {"status", "contexts", "subscribers", "locks", "waiters", "agents"}
    assert any(context["id"] == busy and context["units"] == 5 for context in found["contexts"])
    assert found["status"]["last_seq"] > 0


def test_no_daemon_is_started(alone: Shell) -> None:
    assert "no daemon" in alone.fails(69, "top")
    assert not alone.socket.exists()


def test_the_live_view_follows_is_sorted_and_quits(shell: Shell, client: Client, busy: str) -> None:
    with Terminal(shell, "top") as terminal:
        shown = terminal.expect("q quit")
        assert ENTER in shown
        assert re.search(rf"{busy} +5 ", shown)
        assert all(f"{title} (" in shown for title in ("contexts", "subscribers", "locks", "waiters", "agents"))
        assert "sorted by rate" in shown
        terminal.type("n")
        terminal.expect("sorted by name")
        client.put(busy, "one more")
        terminal.expect(rf"{busy} +6 ")
        terminal.resize(12)
        terminal.process.send_signal(signal.SIGWINCH)
        terminal.expect("q quit")
        terminal.type("q")
        assert terminal.ended() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_ends_it_and_leaves_the_terminal_as_it_was(shell: Shell, number: signal.Signals) -> None:
    with Terminal(shell, "top") as terminal:
        terminal.expect("q quit")
        if number == signal.SIGINT:
            terminal.type("\x03")
        else:
            terminal.process.send_signal(number)
        assert terminal.ended() == -number


def test_a_daemon_that_goes_away_is_waited_for(alone: Shell) -> None:
    alone.daemon()
    alone.client().put("work", "x")
    with Terminal(alone, "top") as terminal:
        terminal.expect("work")
        alone.kill_daemon()
        terminal.expect("no daemon runs")
        alone.daemon()
        alone.client().put("work", "y")
        terminal.expect(r"work +2 ")
        terminal.type("q")
        assert terminal.ended() == 0


def test_status_names_each_subscriber_and_its_lag(shell: Shell, client: Client, name: str) -> None:
    stalled = shell.client("sleeper").tail(*(f"{name} {number}" for number in range(6)), last=0).events()
    next(stalled)
    for _ in range(3):
        client.put_many(f"{name} 0", [{"text": "x" * 20_000} for _ in range(40)])
    until(lambda: client.status()["lag"] > 0, "the sleeper to lag")
    found = next(one for one in client.status()["subscribers"] if one["agent"] == "sleeper")
    assert (found["contexts"], found["more"], found["state"]) == ([f"{name} {number}" for number in range(4)], 2, "stalled")
    assert found["lag"] == client.status()["lag"] > 10
    assert client.status()["subscribers"][0] == found, "the farthest behind comes first"
    assert re.search(r"^subscriber\tsleeper reads .* and 2 more: stalled, lag \d+$", shell.ok("status").out, re.M)
    (facts,) = shell.ok("status", "--json").objects
    assert facts["subscribers"][0]["agent"] == "sleeper"
    stalled.close()


# What it makes of two looks


def look(at: float, **units: int) -> Snapshot:
    rows: list[dict[str, Any]] = [{"id": name, "units": count, "updated_at": count, "agents": []} for name, count in units.items()]
    return Snapshot(at, {}, {"contexts": rows})


def test_rates_are_what_came_between_two_looks() -> None:
    rows = table("contexts", look(12, a=30, b=5, new=4), look(10, a=10, b=5))
    assert {row["context"]: row["rate"] for row in rows} == {"a": 10, "b": 0, "new": 2}
    assert {row["rate"] for row in table("contexts", look(12, a=30), None)} == {0}
    assert [row["context"] for row in arrange(rows, "rate")] == ["a", "new", "b"]
    assert [row["context"] for row in arrange(rows, "name")] == ["a", "b", "new"]
    assert [row["context"] for row in arrange(rows, "units")] == ["a", "b", "new"]
    assert [row["context"] for row in arrange(rows, "time")] == ["a", "b", "new"]


@given(st.lists(st.integers(0, 50), max_size=6), st.integers(-5, 100))
def test_lines_are_shared_out_fairly(wanted: list[int], room: int) -> None:
    given_out = share(wanted, room)
    assert sum(given_out) == max(0, min(room, sum(wanted)))
    assert all(has <= want for has, want in zip(given_out, wanted, strict=True))
    short = [has for has, want in zip(given_out, wanted, strict=True) if has < want]
    assert all(has <= least + 1 for least in short for has in given_out)
