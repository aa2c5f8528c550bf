"""`engram lock`: take a lease; alone, or for as long as a command runs."""

from __future__ import annotations

import os
import signal
from typing import Any

from engramd.protocol.errors import CODES, EngramError
from engramd.protocol.times import parse_duration

from .. import settings
from ..client import Client, Lease
from ..common import Common, split_command
from ..fast import how_long
from ..group import Group, NotStarted
from ..keeper import RELEASED, UNRELEASED, Keeper
from ..lease import normal
from ..output import note, remark

BUSY = CODES["locked"][0]
MAX_GRACE = 5.0  # seconds


def run(
    common: Common,
    paths: list[str],
    ttl: str | None,
    wait: bool,
    shared: bool,
    slots: int | None,
    session: bool,
    reason: str | None,
    busy_code: int | None,
    grace: str | None,
) -> None:
    """Take the lease and print its token, or run the command that follows the paths."""
    paths, command = split_command(paths, "engram lock PATH... -- COMMAND")
    if command is None and grace is not None:
        raise EngramError("invalid", "--grace is for a command: engram lock PATH... -- COMMAND")
    if command is not None and session:
        raise EngramError("invalid", "--session: the lock of a command ends with the command; leave --session out")
    if busy_code is not None and busy_code > 255:
        raise EngramError("invalid", f"-E {busy_code}: an exit code is at most 255")
    seconds = None if grace is None else parse_duration(grace) / 1e6
    fields = request(paths, ttl, wait, shared, slots, session, reason)
    with common.client(opens_session=command is not None) as client:
        if session and client.session is None:
            raise EngramError("invalid", "--session: ENGRAM_SESSION is not set, so there is no session to end with")
        try:
            lease = client.acquire(fields, common.seconds if wait else None)
        except EngramError as error:
            if command is not None and error.code == "stale":
                note(f"engram: the lock was lost before the command was started: {error.message}")
                raise SystemExit(BUSY) from None
            if busy_code is None or error.exit_code != BUSY:
                raise
            note(f"engram: {error.message}")
            raise SystemExit(busy_code) from None
        if command is not None:
            raise SystemExit(_hold(client, lease, command, _grace(lease, seconds)))
    out = common.output()
    if out.json:
        out.object(lease.fields)
    else:
        out.line(str(lease.token))
        out.flush()
        note(how_long(lease.fields))


def request(
    paths: list[str], ttl: str | None, wait: bool, shared: bool, slots: int | None, session: bool, reason: str | None
) -> dict[str, Any]:
    """The members of the request."""
    if shared and slots is not None:
        raise EngramError("invalid", "--shared and --slots: give only one of them")
    fields: dict[str, Any] = {"resources": normal(paths)}
    if ttl is not None:
        fields["ttl"] = ttl
    if shared or slots is not None:
        fields["mode"] = "shared" if shared else "slots"
    if slots is not None:
        fields["slots"] = slots
    if reason is not None:
        fields["reason"] = reason
    return {**fields, **({"session": True} if session else {}), **({"wait": True} if wait else {})}


def _hold(client: Client, lease: Lease, command: list[str], grace: float) -> int:
    """Run a command while a keeper holds the lease, and give what to exit with."""
    environment = {**settings.inherited(), "ENGRAM_AGENT": client.agent, "ENGRAM_LOCK_TOKEN": str(lease.token)}
    if client.session is not None:
        environment["ENGRAM_SESSION"] = client.session
    try:
        group = Group(command, environment)
    except NotStarted as failed:
        lease.release()
        note(f"engram: {failed.error.message}")
        return failed.exit_code
    try:
        keeper = Keeper.start(lease, client, group.id, grace)
    except OSError as error:
        group.end(grace)
        group.wait(0, lambda: None)
        lease.release()
        raise EngramError("busy", f"no process can be started that renews the lock, so the command was ended: {error.strerror}") from None

    def unkept() -> None:
        group.end(grace)
        remark("engram: the process that renews the lock was killed, so the command is ended")

    status = group.wait(keeper.pid, unkept)
    kept = keeper.finish()
    if kept not in (RELEASED, UNRELEASED):
        return BUSY
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGINT:
        group.die_of_interrupt()
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _grace(lease: Lease, given: float | None) -> float:
    """The grace in seconds: by default a sixth of the lease's time, and at most MAX_GRACE."""
    if given is None:
        return min(MAX_GRACE, lease.ttl / 6)
    if not 0 < given <= lease.ttl / 2:
        lease.release()
        raise EngramError("invalid", f"--grace: {given:g} s must be more than nothing, and at most half of the lock's {lease.ttl:g} s")
    return given
