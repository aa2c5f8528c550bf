"""`engram guard`: say when another holds what is about to be changed."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

from engramd.protocol import render
from engramd.protocol.errors import CODES, EngramError
from engramd.protocol.times import format_duration

from ..client import Client
from ..common import Common
from ..lease import normal
from ..output import Output, note, when

CHUNK = 500  # resources in one request
CHUNK_BYTES = 256 * 1024
NAMED = 200  # paths that are looked at one by one, to say which of them is held


def run(common: Common, paths: list[str], staged: bool) -> None:
    """Exit with the code of `locked` if another holds any of the paths; else do nothing."""
    if not paths and not staged:
        raise EngramError("invalid", "guard needs a PATH, or --staged for what git is about to commit")
    shown = {resource: path for path in paths for resource in normal([path])}
    if staged:
        shown |= _staged()
    if not shown:
        return
    with common.client() as client:
        others = [lock for lock in _held(client, list(shown), explain=True) if _is_anothers(client, lock)]
        if not others:
            return
        reasons = _paths_of(client, shown, {lock["token"] for lock in others})
    _tell(common.output(), others, reasons)
    raise SystemExit(CODES["locked"][0])


def _held(client: Client, resources: Sequence[str], explain: bool = False) -> Iterator[dict[str, Any]]:
    """The leases that overlap any of the resources, each once."""
    seen: set[int] = set()
    for chunk in _chunks(resources):
        for lock in client.locks(*chunk, explain=explain):
            if "token" in lock and lock["token"] not in seen:
                seen.add(lock["token"])
                yield lock


def _chunks(resources: Sequence[str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    size = 0
    for resource in resources:
        if len(chunk) == CHUNK or size > CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
        chunk.append(resource)
        size += len(resource.encode())
    if chunk:
        yield chunk


def _is_anothers(client: Client, lock: dict[str, Any]) -> bool:
    """Whether a lease belongs neither to the agent, nor to its session, nor to the token it was given."""
    if lock["holder"] == client.agent or str(lock["token"]) in os.environ.get("ENGRAM_LOCK_TOKEN", "").split():
        return False
    return client.session is None or lock.get("session") != client.session


def _paths_of(client: Client, shown: dict[str, str], tokens: set[int]) -> dict[int, list[str]]:
    """Which of the paths each lease is in the way of."""
    found: dict[int, list[str]] = {}
    for resource in list(shown)[:NAMED]:
        for lock in client.locks(resource):
            if lock.get("token") in tokens:
                found.setdefault(lock["token"], []).append(shown[resource])
    return found


def _tell(out: Output, others: list[dict[str, Any]], paths: dict[int, list[str]]) -> None:
    for lock in others:
        mine = paths.get(lock["token"], [])
        if out.json:
            out.object({"paths": mine, **lock})
            continue
        what, held = ", ".join(mine[:5]) or "a path", " ".join(lock["resources"][:3])
        more = f" and {len(mine) - 5} more" if len(mine) > 5 else ""
        left = "as long as its session lasts" if lock["remaining"] is None else f"for another {format_duration(lock['remaining'])} or more"
        reason = f": {lock['reason']}" if lock["reason"] else ""
        note(
            f"engram: {what}{more}: {lock['holder']} has locked {held} ({lock['mode']}, token {lock['token']}) "
            f"for {format_duration(lock['age'])}, {left}{reason}"
        )
        for unit in lock.get("units", ()):
            text = render.unit_text(unit).partition("\n")[0]
            note(f"  {unit['seq']} {when(unit['ts'])} {unit['agent']} {unit['type']}: {text[:200]}")


# What git is about to commit


def _staged() -> dict[str, str]:
    """The resources of the files in git's index that differ from the last commit, with how git calls them.

    Git is asked where we stand and with the environment as it is, so in a hook it is asked for the very index that is committed.
    """
    top = _git("rev-parse", "--show-toplevel").rstrip(b"\n")
    names = _git("-c", "diff.relative=false", "diff", "--cached", "--name-only", "-z", "--no-renames", "--ignore-submodules=none")
    return {
        resource: name for name in map(os.fsdecode, names.split(b"\0")) if name for resource in normal([_lockable(os.fsdecode(top), name)])
    }


def _lockable(top: str, name: str) -> str:
    """A file's path. Locks are on UTF-8 paths; what is not stands for any character, so that locks on directories and globs are found."""
    return re.sub("[\udc80-\udcff]", "?", f"{top}/{name}")


def _git(*arguments: str) -> bytes:
    try:
        done = subprocess.run(["git", *arguments], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except FileNotFoundError:
        raise EngramError("not_found", "--staged: there is no git on the PATH") from None
    if done.returncode:
        said = done.stderr.decode(errors="backslashreplace").strip().splitlines() or ["no reason"]
        raise EngramError("invalid", f"--staged: git says: {said[0]}")
    return done.stdout
