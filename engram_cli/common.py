"""The options that stand on every command, and what commands make of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engramd.protocol.doubt import ADVICE
from engramd.protocol.errors import EngramError
from engramd.protocol.times import parse_duration

from . import COMMAND_FOLLOWS, LITERAL_DASH, settings
from .client import Client
from .core import named
from .done import words
from .output import Output

COLORS = ("auto", "always", "never")
ME = "me"  # as the value of --to: who acts


def directory_of(what: str, path: str) -> str:
    """A directory that was named. Raises EngramError("invalid") for an empty name, which would be where we stand."""
    if not path:
        raise EngramError("invalid", f"{what} must not be empty; perhaps a variable that it was made of is not set")
    return path


@dataclass(frozen=True)
class Common:
    """The shared options of one command line.

    Raises:
        EngramError: `invalid` for a `--color` that there is not, or an empty `--socket`.
    """

    json: bool = False
    color: str = "auto"
    socket: str | None = None
    agent: str | None = None
    timeout: str | None = None
    no_autostart: bool = False

    def __post_init__(self) -> None:
        if self.color not in COLORS:
            raise EngramError("invalid", f"--color {self.color!r}: must be one of {', '.join(COLORS)}")
        if self.socket == "":
            raise EngramError("invalid", "--socket must not be empty")

    def client(self, autostart: bool = True, opens_session: bool = False, presence: bool = False) -> Client:
        """A connection for this command. It joins the session that it runs in; only a command that others run in opens one.

        Args:
            presence: whether the agent counts as present meanwhile: for commands that go on until they are ended.
        """
        made = _Noting(
            self.socket,
            agent=self.agent,
            autostart=autostart and not self.no_autostart,
            timeout=self.seconds,
            opens_session=opens_session,
            presence=presence,
        )
        if settings.resumed:
            made.resume()
        return made

    def output(self) -> Output:
        """Standard output in the form asked for."""
        return Output(self.json, self.color)

    @property
    def name(self) -> str:
        """Who acts. Where only a token says it, the daemon is asked."""
        found = named(self.agent, settings.token())
        if found is not None:
            return found
        with self.client() as client:
            client.connect()
            return client.agent

    @property
    def seconds(self) -> float | None:
        """`--timeout` in seconds."""
        return None if self.timeout is None else parse_duration(self.timeout) / 1e6


class _Noting(Client):
    """A client that notes what the command has changed."""

    def _request(self, op: str, fields: Mapping[str, Any], timeout: float | None) -> dict[str, Any]:
        result = super()._request(op, fields, timeout)
        if op in ADVICE:
            settings.done = words(op, result)
        return result


def labels(given: list[str] | None) -> dict[str, str]:
    """`K=V` options as a map."""
    found: dict[str, str] = {}
    for label in given or ():
        key, equals, value = label.partition("=")
        if not equals or not key:
            raise EngramError("invalid", f"--meta {label!r}: write it as KEY=VALUE")
        if found.setdefault(key, value) != value:
            raise EngramError("invalid", f"--meta {key}=...: a label has one value, and two are given: {found[key]!r} and {value!r}")
    return found


def filters(
    common: Common,
    agent: list[str] | None,
    type: list[str] | None,
    meta: list[str] | None,
    since: str | None,
    until: str | None,
    after: str | None,
    related_to: str | None,
    to: str | None,
) -> dict[str, Any]:
    """The filter options as members of a request."""
    wanted = labels(meta)
    if to is not None:
        if "to" in wanted:
            raise EngramError("invalid", "--to and --meta to=...: give only one of them")
        wanted["to"] = common.name if to == ME else to
    given: dict[str, Any] = {
        "agent": agent,
        "type": type,
        "meta": wanted,
        "since": since,
        "until": until,
        "after": after,
        "related_to": related_to,
    }
    return {name: value for name, value in given.items() if value not in (None, [], {})}


def context(name: str) -> str:
    """A CONTEXT argument."""
    return settings.context("-" if name == LITERAL_DASH else name)


def split_command(words: list[str], usage: str) -> tuple[list[str], list[str] | None]:
    """What stands before `--`, and the command after it, if there is one."""
    if COMMAND_FOLLOWS not in words:
        return words, None
    at = words.index(COMMAND_FOLLOWS)
    if at + 1 == len(words):
        raise EngramError("invalid", f"nothing follows --; write {usage}")
    return words[:at], words[at + 1 :]


def payload_of(text: str) -> bytes:
    """A TEXT argument as the bytes that were typed."""
    return os.fsencode(text)
