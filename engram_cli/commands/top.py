"""`engram top`: what goes on, live on a terminal, or once."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from types import FrameType
from typing import TYPE_CHECKING, Any, Self

from engramd.protocol import render
from engramd.protocol.errors import EngramError
from engramd.protocol.times import format_duration, format_ts

from ..client import Client
from ..common import Common
from ..output import Output, when

if TYPE_CHECKING:
    from rich.console import RenderableType

INTERVAL = 1.0  # seconds between two looks
MOST = 500  # contexts and agents that are looked at, the first by name
PATIENCE = 2.0  # seconds that one look may take, if --timeout does not say
SORTS = {"r": "rate", "n": "name", "u": "units", "t": "time"}  # keys
QUIT = ("q", "\x04")
TITLES = ("contexts", "subscribers", "locks", "waiters", "agents")
NUMBERS = frozenset({"units", "rate", "agents", "lag", "token"})

Row = dict[str, Any]


@dataclass
class Snapshot:
    """What the daemon says at one moment.

    Attributes:
        at: seconds of the monotonic clock.
        more: titles of what there is more of than was looked at.
    """

    at: float
    status: Row
    rows: dict[str, list[Row]]
    more: set[str] = field(default_factory=set)

    @classmethod
    def take(cls, client: Client) -> Snapshot:
        """Ask for everything, within bounds."""
        status = client.status()
        subscribers = status.pop("subscribers", [])
        contexts, agents = list(islice(client.context_list(), MOST + 1)), list(islice(client.agents(), MOST + 1))
        rows = {"contexts": contexts[:MOST], "subscribers": subscribers, **_locks(client), "agents": agents[:MOST]}
        more = {title for title, found in (("contexts", contexts), ("agents", agents)) if len(found) > MOST}
        if status["subscriptions"] > len(subscribers):
            more.add("subscribers")
        if rows.pop("next", None) is not None:
            more.add("locks")
        return cls(time.monotonic(), status, rows, more)

    def json(self) -> Row:
        """All of it, as one object."""
        return {"status": self.status, **{title: self.rows[title] for title in TITLES}}


def _locks(client: Client) -> Row:
    """A page of leases, and who waits; a daemon of an older version has none."""
    try:
        return client.request("locks", {})
    except EngramError as error:
        if error.code != "unknown_op":
            raise
        return {"locks": [], "waiters": []}


def run(common: Common) -> None:
    """Show it until somebody quits; elsewhere than on a terminal, once. Never start a daemon to do it."""
    out = common.output()
    with common.client(autostart=False) as client:
        client.timeout = PATIENCE if client.timeout is None else client.timeout
        first = Snapshot.take(client)
        if out.json:
            out.object(first.json())
        elif not (out.human and sys.stdin.isatty() and sys.stdout.isatty()):
            once(out, first)
        else:
            Top(out, client, first).run()


# What is shown


def table(title: str, now: Snapshot, before: Snapshot | None) -> list[Row]:
    """What is shown of a section, a map for each line."""
    seconds = now.at - before.at if before else 0.0
    then = {row["id"]: row["units"] for row in before.rows.get(title, ()) if "id" in row} if before else {}
    found = []
    for row in now.rows[title]:
        if title == "contexts":
            rate = _rate(row, then, seconds)
            shown = {"context": row["id"], "units": row["units"], "rate": rate, "last": row["updated_at"], "agents": len(row["agents"])}
        elif title == "agents":
            shown = {"agent": row["id"], "units": row["units"], "rate": _rate(row, then, seconds), "last": row["last_seen"]}
        elif title == "subscribers":
            contexts = " ".join(row["contexts"]) or "everything"
            shown = {"agent": row["agent"], "state": row["state"].replace("_", " "), "lag": row["lag"], "reads": contexts}
        elif title == "locks":
            left = row.get("remaining")
            ends = "with its session" if left is None else f"in {format_duration(left)}"
            shown = {"holder": row["holder"], "mode": row["mode"], "ends": ends, "token": row["token"], "on": " ".join(row["resources"])}
        else:
            shown = {"agent": row["agent"], "mode": row["mode"], "waits": format_duration(row["waited"]), "on": " ".join(row["resources"])}
        found.append(shown)
    return found


def _rate(row: Row, then: dict[str, int], seconds: float) -> float:
    """Units a second since the last look."""
    return max(0, row["units"] - then.get(row["id"], row["units"] if not then else 0)) / seconds if seconds > 0 else 0.0


def arrange(rows: list[Row], sort: str) -> list[Row]:
    """Rows in the order asked for: the greatest first, or by name."""
    names = [str(next(iter(row.values()))) for row in rows]
    wanted = {"rate": "rate", "units": "units", "time": "last"}.get(sort)
    order = sorted(range(len(rows)), key=lambda at: (-(rows[at].get(wanted) or 0) if wanted else 0, names[at]))
    return [rows[at] for at in order]


def share(wanted: Sequence[int], room: int) -> list[int]:
    """How many lines each section gets of `room`: what it wants, or as much as the others get."""
    given = [0] * len(wanted)
    while room > 0 and any(has < want for has, want in zip(given, wanted, strict=True)):
        for at, want in enumerate(wanted):
            if room > 0 and given[at] < want:
                given[at] += 1
                room -= 1
    return given


def headline(now: Snapshot, before: Snapshot | None) -> str:
    """The daemon in a line."""
    facts = now.status
    seconds = now.at - before.at if before else 0.0
    rate = (facts["last_seq"] - before.status["last_seq"]) / seconds if before and seconds > 0 else 0.0
    return (
        f"{facts['server']} (pid {facts['pid']})  up {format_duration(round(facts['uptime']) * 1_000_000)}  seq {facts['last_seq']}  "
        f"{rate:.0f} events/s  {facts['connections']} connections  {facts['memory_bytes'] / 1e6:.0f} MB memory  "
        f"{facts['store_bytes'] / 1e6:.0f} MB store"
    )


def once(out: Output, now: Snapshot) -> None:
    """Every section as lines: its name, then its columns."""
    for name, value in now.status.items():
        out.line(f"status\t{name}\t{render.in_line(str(value))}")
    for title in TITLES:
        for row in table(title, now, None):
            row.pop("rate", None)
            out.line("\t".join([title, *(_text(name, value, format_ts) for name, value in row.items())]))


def _text(name: str, value: Any, moment: Any = when) -> str:
    if value is None:
        return ""
    if name == "last":
        return str(moment(value))
    return f"{value:.1f}" if isinstance(value, float) else render.in_line(str(value))


# The terminal


class _Ended(BaseException):
    """A signal wants the program to end."""

    def __init__(self, number: int) -> None:
        self.number = number


class Top:
    """The live view. However it ends, the terminal is as it was."""

    def __init__(self, out: Output, client: Client, first: Snapshot) -> None:
        self._out = out
        self._client = client
        self._now = first
        self._before: Snapshot | None = None
        self._sort = "rate"
        self._trouble = ""

    def run(self) -> None:
        """Show it until `q` or a signal, which the program then dies of."""
        try:
            with _signals(), _Keys() as keys:
                self._watch(keys)
        except _Ended as ended:
            signal.signal(ended.number, signal.SIG_DFL)
            signal.raise_signal(ended.number)

    def _watch(self, keys: _Keys) -> None:
        from rich.live import Live

        with Live(console=self._out.console, screen=True, auto_refresh=False, transient=True) as live:
            while True:
                live.update(self.view(), refresh=True)
                key = keys.wait(INTERVAL)
                if key in QUIT:
                    return
                if key in SORTS:
                    self._sort = SORTS[key]
                else:
                    self._look()

    def _look(self) -> None:
        try:
            now = Snapshot.take(self._client)
        except EngramError as error:
            if error.code not in ("unavailable", "timeout"):
                raise
            self._trouble = error.message
            self._client.close()
            return
        if now.at - self._now.at >= INTERVAL / 2:
            self._before = self._now
        self._now, self._trouble = now, ""

    def view(self) -> RenderableType:
        """All sections, cut to what the terminal holds."""
        from rich.console import Group
        from rich.text import Text

        sections = [(title, arrange(table(title, self._now, self._before), self._sort)) for title in TITLES]
        sections = [(title, rows) for title, rows in sections if rows]
        height = self._out.console.height
        lines = share([len(rows) for _, rows in sections], height - 3 - 2 * len(sections))
        top = self._trouble or headline(self._now, self._before)
        parts: list[RenderableType] = [Text(render.in_line(top), style="bold red" if self._trouble else "bold", no_wrap=True)]
        for (title, rows), count in zip(sections, lines, strict=True):
            parts.append(self._section(title, rows, count))
        keys = "  ".join(f"{key} {name}" for key, name in SORTS.items())
        parts.append(Text(f"sorted by {self._sort}: {keys}    q quit", style="dim", no_wrap=True))
        return Group(*parts)

    def _section(self, title: str, rows: list[Row], count: int) -> RenderableType:
        from rich.table import Table
        from rich.text import Text

        total = f"{len(rows)}{'+' if title in self._now.more else ''}"
        made = Table(
            title=f"{title} ({total})", title_justify="left", title_style="bold cyan", box=None, pad_edge=False, header_style="dim"
        )
        for name in rows[0]:
            made.add_column(name, justify="right" if name in NUMBERS else "left", no_wrap=True, overflow="ellipsis")
        for row in rows[:count]:
            made.add_row(*(Text(_text(name, value)) for name, value in row.items()))
        return made


class _Keys:
    """The keyboard, every key as it is pressed and unseen; wakes up also when the terminal has got another size."""

    def __enter__(self) -> Self:
        self._before = termios.tcgetattr(0)
        self._woken, waking = os.pipe()
        self._pipe = self._woken, waking
        os.set_blocking(waking, False)
        self._waking = signal.set_wakeup_fd(waking, warn_on_full_buffer=False)
        tty.setcbreak(0)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._waking)
        for end in self._pipe:
            os.close(end)
        with suppress(termios.error):  # the terminal has gone
            termios.tcsetattr(0, termios.TCSADRAIN, self._before)

    def wait(self, seconds: float) -> str:
        """The next key, or nothing after so many seconds."""
        ready = select.select([0, self._woken], [], [], seconds)[0]
        if self._woken in ready:
            os.read(self._woken, 1024)
        if 0 not in ready:
            return ""
        try:
            return os.read(0, 1).decode("ascii", "replace") or QUIT[0]
        except OSError:
            return QUIT[0]


@contextmanager
def _signals() -> Iterator[None]:
    """Turn the signals that end a program into _Ended, so that the terminal is put in order first."""

    def end(number: int, _frame: FrameType | None) -> None:
        for other in ends:
            signal.signal(other, signal.SIG_IGN)  # once is enough
        raise _Ended(number)

    ends = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    before = {number: signal.getsignal(number) for number in (*ends, signal.SIGWINCH, signal.SIGTSTP)}
    try:
        for number in ends:
            signal.signal(number, end)
        signal.signal(signal.SIGWINCH, lambda *_: None)
        signal.signal(signal.SIGTSTP, signal.SIG_IGN)  # a shell would be left with this screen
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
