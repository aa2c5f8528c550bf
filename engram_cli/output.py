"""What commands print: for people on a terminal, one line a unit in a pipe, JSON where asked."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from engramd.protocol import render
from engramd.protocol.errors import EngramError
from engramd.protocol.times import format_duration, format_ts
from engramd.protocol.unit import unit_json

from . import settings

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_COLORS = ("cyan", "green", "magenta", "yellow", "blue", "bright_cyan", "bright_green", "bright_magenta")
_TYPE_STYLES = {"error": "bold red", "task_status": "bold", "system": "dim", "reasoning": "italic"}


class Output:
    """Standard output in one of three forms.

    Args:
        json: one JSON object per line.
        color: `always`, `never`, or `auto`: on a terminal, unless NO_COLOR is set to something.
    """

    def __init__(self, json: bool, color: str = "auto") -> None:
        self.json = json
        terminal = sys.stdout.isatty()
        plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
        self.color = color == "always" or (color == "auto" and terminal and not plain)
        self.human = not json and (terminal or color == "always")
        self._console: Console | None = None

    @property
    def console(self) -> Console:
        """Rich, loaded when it is first needed."""
        if self._console is None:
            from rich.console import Console

            self._console = Console(
                force_terminal=self.color, no_color=not self.color, highlight=False, markup=False, emoji=False, soft_wrap=True
            )
        return self._console

    def raw(self, data: bytes) -> None:
        """Bytes as they are."""
        sys.stdout.buffer.write(data)

    def line(self, text: str) -> None:
        """One line of text that is safe by now."""
        self.raw(text.encode("utf-8", "backslashreplace") + b"\n")

    def object(self, value: Any) -> None:
        """One JSON object."""
        self.line(render.json_line(render.plain(value)))

    def unit(self, unit: dict[str, Any], show_context: bool = False) -> None:
        """One decoded unit, in the form in force."""
        if self.json:
            self.object(unit)
        elif self.human:
            self.console.print(self._for_people(unit, show_context))
        else:
            self.line(render.unit_line(unit))

    def hit(self, hit: dict[str, Any], show_context: bool = False) -> None:
        """One hit of a search: a unit with its score, and for people the part of its text that shows why it was found."""
        unit, found = hit["unit"], {name: value for name, value in hit.items() if name != "unit"}
        if self.json:
            self.line(render.json_line({**unit_json(unit), **found}))
            return
        snippet = hit["snippet"]
        if not self.human:
            shown = {
                **{name: unit[name] for name in ("ts", "agent", "type")},
                "seq": unit.get("entry", unit["seq"]),
                "text": snippet["text"],
            }
            self.line(f"{render.unit_line(shown)}\t{hit['score']:.3f}")
            return
        from rich.text import Text

        line = Text()
        line.append(f"{hit['score']:.3f} ", style="bold")
        line.append_text(self._for_people({**unit, "text": ""}, show_context))
        last = 0
        for start, end in snippet["marks"]:
            line.append(render.for_terminal(snippet["text"][last:start]), style="none")
            line.append(render.for_terminal(snippet["text"][start:end]), style="bold yellow")
            last = end
        line.append(render.for_terminal(snippet["text"][last:]), style="none")
        self.console.print(line)

    def payload(self, unit: dict[str, Any]) -> None:
        """One decoded unit's payload as cat shows it, or the whole unit as JSON."""
        if self.json:
            self.object(unit)
        elif self.human:
            text = render.for_terminal(render.unit_text(unit))
            self.raw(text.encode() if text.endswith("\n") else text.encode() + b"\n")
        else:
            self.raw(unit["text"].encode() if "text" in unit else unit["payload"])

    def related(self, item: dict[str, Any]) -> None:
        """One unit that a relationship leads to: its distance, the edge and the unit."""
        unit, edge, distance = item["unit"], item["edge"], item["distance"]
        into = edge["source"] == unit["id"]
        if self.json:
            self.object(item)
        elif self.human:
            from rich.text import Text

            lead = f"{'  ' * min(distance, 20)}{'←' if into else '→'} {edge['type']} "
            self.console.print(Text.assemble((lead, "cyan"), self._for_people(unit, True)))
        else:
            self.line(f"{distance}\t{'in' if into else 'out'}\t{edge['type']}\t{render.unit_line(unit)}")

    def change(self, change: dict[str, Any]) -> None:
        """One change of a file, the leases it was made under, and what led to it."""
        if self.json:
            self.object(change)
            return
        unit = change["unit"]
        if self.human:
            self.console.print(self._for_people(unit, True))
        else:
            self.line(f"0\t-\tchange\t{render.unit_line(unit)}")
        for lease in change["leases"]:
            self._lease(lease)
        for item in change["chain"]:
            self.related(item)
        if change["more"]:
            note(f"engram: more led to unit {unit['seq']} than is shown; see: engram related {unit['seq']} --direction out --depth 99")

    def _lease(self, lease: dict[str, Any]) -> None:
        holder, mode = str(lease.get("holder", "")), str(lease.get("mode", ""))
        text = " ".join([*lease.get("resources", ()), lease.get("reason", "")]).rstrip()
        granted = lease.get("granted_at")
        if self.human:
            shown = f"  under lease {lease['token']} {render.for_terminal(holder)} {mode} {render.for_terminal(text)}"
            self.console.print(shown.rstrip(), style="dim")
        else:
            moment = "" if granted is None else format_ts(granted)
            self.line(f"0\t-\tlease\t{lease['token']}\t{moment}\t{holder}\t{mode}\t{render.in_line(text)}")

    def event(self, item: dict[str, Any], show_context: bool = False) -> None:
        """One item of a stream of every event."""
        if self.json:
            self.object(item)
        elif "unit" in item:
            self.unit(item["unit"], show_context)
        elif "data" in item:
            data = dict(item["data"])
            agent = str(data.pop("agent", ""))
            text = render.json_line(render.plain(data))
            if self.human:
                self.console.print(f"{when(item['ts'])} {render.for_terminal(agent)} {item['kind']} {text}", style="dim")
            else:
                self.line(f"{item['seq']}\t{format_ts(item['ts'])}\t{agent}\t{item['kind']}\t{render.in_line(text)}")

    def mapping(self, value: dict[str, Any], title: str = "") -> None:
        """One thing with many facts: a JSON object, or `name: value` lines."""
        if self.json:
            self.object(value)
            return
        for name, member in value.items():
            self.fact(name, member)

    def fact(self, name: str, member: Any) -> None:
        """One fact as a `name: value` line."""
        shown = shorten(name, member)
        if self.human:
            from rich.text import Text

            self.console.print(Text.assemble((f"{name.replace('_', ' ')}: ", "bold"), shown))
        else:
            self.line(f"{name}\t{render.in_line(shown)}")

    def table(self, rows: Iterable[dict[str, Any]], columns: tuple[str, ...]) -> None:
        """Many things with the same facts: JSON objects, tab-separated lines, or a table."""
        if self.json:
            for row in rows:
                self.object(row)
        elif not self.human:
            for row in rows:
                self.line("\t".join(render.in_line(shorten(name, row.get(name))) for name in columns))
        else:
            self._table(list(rows), columns)

    def _table(self, rows: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
        if not rows:
            note("none yet")
            return
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in columns:
            table.add_column(
                name.replace("_", " "), justify="right" if isinstance(rows[0].get(name), int) and name not in _TIMES else "left"
            )
        for row in rows:
            table.add_row(*(shorten(name, row.get(name), local=True) for name in columns))
        self.console.print(table)

    def flush(self) -> None:
        """Hand what was printed to whoever reads it."""
        sys.stdout.flush()

    def _for_people(self, unit: dict[str, Any], show_context: bool) -> Text:
        from rich.text import Text

        agent = unit["agent"]
        line = Text()
        line.append(f"{unit.get('entry', unit['seq']):>6} ", style="dim")
        line.append(f"{when(unit['ts'])} ", style="dim")
        if show_context:
            line.append(f"{render.for_terminal(unit.get('entry_context', unit['context']))} ", style="bold")
        line.append(f"{render.for_terminal(agent)} ", style=_COLORS[sum(agent.encode()) % len(_COLORS)])
        if unit["type"] != "message":
            line.append(f"{unit['type']} ", style=_TYPE_STYLES.get(unit["type"], "blue"))
        text = render.for_terminal(render.unit_text(unit))
        line.append(text.rstrip("\n").replace("\n", "\n       "))
        return line


_TIMES = frozenset(
    {"created_at", "updated_at", "first_seen", "last_seen", "since", "started_at", "parked_at", "present_since", "issued_at"}
)


def when(ts: int) -> str:
    """An instant for people: local time, with the date unless it is today."""
    moment = datetime.fromtimestamp(ts / 1e6, UTC).astimezone()
    return moment.strftime("%H:%M:%S" if moment.date() == datetime.now().astimezone().date() else "%Y-%m-%d %H:%M:%S")


def shorten(name: str, value: Any, local: bool = False) -> str:
    """A fact as text."""
    if name in _TIMES and isinstance(value, int):
        return when(value) if local else format_ts(value)
    if name == "keep" and "age" in value:
        value = {**value, "age": format_duration(value["age"])}
    if isinstance(value, list):
        return " ".join(render.for_terminal(str(render.plain(member))) for member in value)
    if isinstance(value, dict):
        return " ".join(f"{render.for_terminal(key)}={render.for_terminal(str(member))}" for key, member in _flat(value))
    return "" if value is None else render.for_terminal(str(value))


def _flat(facts: dict[str, Any], of: str = "") -> Iterator[tuple[str, Any]]:
    """Facts whose members are facts again, by names such as `most.requests`."""
    for name, member in facts.items():
        if isinstance(member, dict):
            yield from _flat(member, f"{of}{name}.")
        else:
            yield f"{of}{name}", member


def report(error: EngramError) -> int:
    """Say what went wrong, in one line unless --verbose asks for more, and return the exit code."""
    note(f"engram: {error.message}")
    if settings.verbose:
        note(f"engram: {render.json_line({'code': error.code, 'details': render.plain(error.details)})}")
    return error.exit_code


def note(text: str) -> None:
    """Words for people, on stderr."""
    print(_one_line(text), file=sys.stderr, flush=True)


def _one_line(text: str) -> str:
    """Words that stay one line, whatever names and reasons of others stand in them."""
    return render.for_terminal(text).replace("\n", "\\n")


def remark(text: str, seconds: float = 1.0) -> None:
    """As `note`, for who must not be held up: when nobody reads stderr, such as a pager that stands still, go on after so many seconds."""

    def write() -> None:
        with suppress(OSError):
            os.write(2, f"{_one_line(text)}\n".encode("utf-8", "backslashreplace"))

    sys.stderr.flush()
    writing = threading.Thread(target=write, daemon=True)
    writing.start()
    writing.join(seconds)
