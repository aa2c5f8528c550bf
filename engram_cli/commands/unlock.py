"""`engram unlock`: give leases up, or take them away."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from engramd.protocol import render
from engramd.protocol.errors import EngramError

from .. import calls
from ..client import Client
from ..common import Common
from ..lease import normal
from ..output import Output, note, report


def run(common: Common, tokens: list[str], force: bool) -> None:
    """End each lease in turn; what is over already is reported, the rest is ended."""
    out = common.output()
    with common.client() as client:
        act = _stealing(client, out, tokens) if force else _releasing(client, out, tokens)
        failure: EngramError | None = None
        for step in act:
            try:
                step()
            except EngramError as error:
                if error.code != "stale" or len(act) == 1:
                    raise
                report(error)
                failure = error
    if failure is not None:
        out.flush()
        raise SystemExit(failure.exit_code)


def as_token(typed: str) -> int:
    """A TOKEN argument.

    Raises:
        EngramError: `invalid` when it is no number.
    """
    if not (typed.isascii() and typed.isdigit() and 0 < int(typed) < 2**63):
        raise EngramError("invalid", f"{typed!r} is no token; engram lock printed it, and engram locks lists it. A path goes with --force")
    return int(typed)


def _releasing(client: Client, out: Output, tokens: list[str]) -> list[Callable[[], None]]:
    def release(token: int) -> None:
        client.unlock(token)
        if out.json:
            out.object({"released": [token]})

    return [lambda token=token: release(token) for token in dict.fromkeys(map(as_token, tokens))]  # type: ignore[misc]


def _stealing(client: Client, out: Output, given: list[str]) -> list[Callable[[], None]]:
    """Steps that take leases away: one for each token, one for all paths."""
    tokens = [as_token(one) for one in dict.fromkeys(given) if one.isascii() and one.isdigit()]
    paths = [one for one in given if not (one.isascii() and one.isdigit())]
    wanted = normal(paths) if paths else []

    def steal(*resources: str, token: int | None = None) -> None:
        held = _leases(client, resources, token)  # afterwards nobody knows whose it was
        taken = client.steal(*resources, token=token)
        if not taken:
            note(f"engram: nobody holds {', '.join(resources)}; nothing was taken")
        for ended in taken:
            _say(out, held.get(ended, {"token": ended, "holder": "someone", "resources": []}))

    steps: list[Callable[[], None]] = [lambda token=token: steal(token=token) for token in tokens]  # type: ignore[misc]
    return steps + [lambda: steal(*wanted)] * bool(wanted)


def _leases(client: Client, resources: Sequence[str], token: int | None) -> dict[int, dict[str, Any]]:
    """What is about to be taken away, by token."""
    if token is None:
        return {lock["token"]: lock for lock in client.each(calls.lock_pages(resources)) if "token" in lock}
    before = {"after": token - 1} if token > 1 else {}
    return {lock["token"]: lock for lock in client.request("locks", {**before, "limit": 1})["locks"]}


def _say(out: Output, lock: dict[str, Any]) -> None:
    if out.json:
        out.object({"stolen": lock})
    elif out.human:
        what = " ".join(map(render.for_terminal, lock["resources"]))
        out.line(f"took {what} from {render.for_terminal(lock['holder'])} (token {lock['token']})")
    else:
        out.line("\t".join([str(lock["token"]), render.in_line(lock["holder"]), " ".join(map(render.in_line, lock["resources"]))]))
