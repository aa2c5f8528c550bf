"""`engram guard`: say when another holds what is about to be changed."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

from engramd.protocol import render
from engramd.protocol.errors import CODES, EngramError
from engramd.protocol.resources import MAX_GLOBS
from engramd.protocol.times import format_duration

from .. import calls
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
        for lock in client.each(calls.lock_pages(chunk, explain)):
            if "token" in lock and lock["token"] not in seen:
                seen.add(lock["token"])
                yield lock


def _chunks(resources: Sequence[str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    size = globs = 0
    for resource in resources:
        is_glob = "*" in resource or "?" in resource
        if len(chunk) == CHUNK or size > CHUNK_BYTES or globs + is_glob > MAX_GLOBS:
            yield chunk
            chunk, size, globs = [], 0, 0
        chunk.append(resource)
        size += len(resource.encode())
        globs += is_glob
    if chunk:
        yield chunk


def _is_anothers(client: Client, lock: dict[str, Any]) -> bool:
    """Whether a lease is neither that of our token, nor of our session, nor, where neither side has a session, of our agent."""
    if str(lock["token"]) in os.environ.get("ENGRAM_LOCK_TOKEN", "").split():
        return False
    session = lock.get("session")
    if session is None and client.session is None:
        return bool(lock["holder"] != client.agent)
    return session != client.session


def _paths_of(client: Client, shown: dict[str, str], tokens: set[int]) -> dict[int, list[str]]:
    """Which of the paths each lease is in the way of."""
    found: dict[int, list[str]] = {}
    for resource in list(shown)[:NAMED]:
        for lock in client.each(calls.lock_pages([resource])):
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
    top = os.path.realpath(os.fsdecode(_git("rev-parse", "--show-toplevel").removesuffix(b"\n")))
    names = _git("-c", "diff.relative=false", "diff", "--cached", "--name-only", "-z", "--no-renames", "--ignore-submodules=none")
    return {_lockable(top, name): name for name in map(os.fsdecode, names.split(b"\0")) if name}


def _lockable(top: str, name: str) -> str:
    """A file's path: of a symbolic link its own, since that is what is committed, and none of git's names leads through another.

    Locks are on UTF-8 paths; what is not stands for any character, so that locks on directories and globs are found.
    """
    return re.sub("[\udc80-\udcff]", "?", os.path.join(top, name))


def _git(*arguments: str) -> bytes:
    try:
        done = subprocess.run(["git", *arguments], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except FileNotFoundError:
        raise EngramError("not_found", "--staged: there is no git on the PATH") from None
    if done.returncode:
        said = done.stderr.decode(errors="backslashreplace").strip().splitlines() or ["no reason"]
        raise EngramError("invalid", f"--staged: git says: {said[0]}")
    return done.stdout
