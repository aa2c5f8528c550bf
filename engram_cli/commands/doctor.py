"""`engram doctor`: look whether all is well, through a daemon if one runs, else at the store itself."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import stat
import subprocess
import time
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from engramd import __version__
from engramd.protocol.address import data_dir as data_path
from engramd.protocol.backup import Manifest
from engramd.protocol.errors import EngramError

from .. import autostart, offline, systemd
from ..client import Client
from ..common import Common, directory_of
from ..output import Output, note
from ..progress import bar
from ..vault import Vault
from .daemon import path as socket_of

Result = Literal["ok", "note", "wrong", "skipped"]
WORDS = {
    "format": "the store has a format that this Engram reads, and a history",
    "blocks": "every block of the store can be read",
    "gaps": "no seq is missing without a reason",
    "events": "every event can be read and follows from those before it",
    "keys": "every index has what it should, and nothing else",
    "rows": "every row of the state is what the log makes of it",
}
_STYLES = {"ok": "green", "note": "yellow", "wrong": "bold red", "skipped": "yellow"}
FAILURES = 3  # search workers that have ended, when there is none
SHOWN = 20  # findings, unless --json or --verbose


class Finding(NamedTuple):
    """What a check came to."""

    check: str
    result: Result
    message: str


def run(common: Common, data_dir: str | None, repair: bool, salvage: str | None) -> None:
    """Check everything and say what is wrong: then the exit code is 1."""
    for option, given in (("--data-dir", data_dir), ("--salvage", salvage)):
        if given is not None:
            directory_of(option, given)
    if repair and salvage is not None:
        raise EngramError("invalid", "--repair and --salvage: give only one of them")
    where = socket_of(common)
    runs = data_dir is None and autostart.listening(where)
    if runs and (repair or salvage is not None):
        raise EngramError("busy", "a daemon runs, and has the store; stop it first, with: engram daemon stop", socket=where)
    if salvage is not None:
        _salvage(common, data_dir, salvage)
        return
    out, bad = common.output(), False
    for finding in _all(common, where, data_dir, runs, repair):
        bad = bad or finding.result == "wrong"
        _show(out, finding)
    out.flush()
    if bad:
        raise SystemExit(1)


def _show(out: Output, finding: Finding) -> None:
    if out.json:
        out.object(finding._asdict())
    elif out.human:
        from rich.text import Text

        from engramd.protocol.render import for_terminal

        out.console.print(
            Text.assemble((f"{finding.result:>7} ", _STYLES[finding.result]), (f"{finding.check}: ", "bold"), for_terminal(finding.message))
        )
    else:
        from engramd.protocol.render import in_line

        out.line(f"{finding.result}\t{finding.check}\t{in_line(finding.message)}")


def _all(common: Common, where: str, data_dir: str | None, runs: bool, repair: bool) -> Iterator[Finding]:
    if runs:
        yield from _running(common, where)
        return
    if data_dir is None:
        yield _socket(where, runs)
        yield from _units()
    try:
        yield from _offline(data_dir, repair)
    except EngramError as error:
        if error.code == "not_found" and data_dir is not None:
            yield Finding("store", "wrong", error.message)
        elif error.code == "not_found":
            yield Finding("store", "note", f"{error.message}; the first engramd makes one")
        elif error.code == "busy":
            yield Finding("daemon", "wrong", error.message)
        else:
            yield Finding("store", "wrong", error.message)


def _running(common: Common, where: str) -> Iterator[Finding]:
    """Look through a daemon. One that is stopped still listens, so it is greeted before anything is said of it."""
    with common.client(autostart=False) as client:
        try:
            client.connect()
        except EngramError as error:
            if error.code != "unavailable":
                raise
            yield Finding("daemon", "wrong", error.message)
            yield from _units()
            return
        yield _socket(where, True)
        yield from _units()
        yield from _daemon(client)
        yield from _store(client.request("check", {}))


# Around the store


def _socket(where: str, runs: bool) -> Finding:
    if runs:
        return Finding("socket", "ok", f"a daemon answers at {where}")
    try:
        mode = os.lstat(where).st_mode
    except OSError:
        return Finding("socket", "ok", f"no daemon runs, and nothing is in its place at {where}")
    if stat.S_ISSOCK(mode):
        return Finding("socket", "note", f"{where} is left from a daemon that has died; the next one replaces it")
    return Finding("socket", "wrong", f"{where} is not a socket, so no daemon can listen there; remove it")


def _units() -> Iterator[Finding]:
    """The units of systemd, where they are installed."""
    for unit in (systemd.SERVICE, systemd.SOCKET):
        file = systemd.directory() / unit
        if not file.exists():
            continue
        try:
            found = re.search(r"^ExecStart=[-@:+!]*(.+)$", file.read_text(), re.M)
        except (OSError, UnicodeDecodeError) as error:
            yield Finding("systemd", "wrong", f"{file} cannot be read: {error}")
            continue
        program = shlex.split(found[1])[0] if found else ""
        if program and not os.access(program, os.X_OK):
            yield Finding("systemd", "wrong", f"{file} starts {program}, which is not there; install it anew: engram daemon install")
        elif _systemctl("is-failed", unit) == "failed":
            yield Finding("systemd", "wrong", f"{unit} has failed; see: engram daemon logs, or journalctl --user -u {unit}")
        else:
            yield Finding(
                "systemd", "ok", f"{unit} is installed, {_systemctl('is-active', unit) or 'and nobody says whether it is active'}"
            )


def _systemctl(verb: str, unit: str) -> str:
    if shutil.which("systemctl") is None:
        return ""
    try:
        asked = subprocess.run(
            ["systemctl", "--user", verb, unit], capture_output=True, text=True, timeout=5, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return asked.stdout.strip()


def _daemon(client: Client) -> Iterator[Finding]:
    facts = client.status()
    server = client.server["server"]
    if server == f"engramd {__version__}":
        yield Finding("version", "ok", f"the daemon (pid {facts['pid']}) and this command have the version {__version__}")
    else:
        yield Finding("version", "wrong", f"the daemon is {server}, this command has the version {__version__}; run: engram daemon restart")
    if "problem" in facts:
        yield Finding("daemon", "wrong", f"it takes no puts: {facts['problem']}")
    search = facts["search"]
    if search["state"] == "off":
        yield Finding("search", "ok", "nobody has searched yet; the index is made at the first search")
    elif search.get("covers", 0) > facts["last_seq"]:
        yield Finding("search", "wrong", f"the index covers events up to {search['covers']}, the log ends at {facts['last_seq']}")
    elif search["state"] == "ready":
        yield Finding("search", "ok", f"the index covers the whole log, up to seq {search['covers']}")
    elif search["state"] == "starting" and search.get("restarts", 0) >= FAILURES:
        yield Finding("search", "wrong", f"there is no search worker, and {search['restarts']} have ended: {search['last_failure']}")
    else:
        behind = f", {search['behind']} events behind" if "behind" in search else ""
        yield Finding("search", "note", f"the index is {search['state']}{behind}; searches wait for it")


# The store


def _offline(data_dir: str | None, repair: bool) -> Iterator[Finding]:
    where = [] if data_dir is None else ["--data-dir", os.path.abspath(data_dir)]
    with bar("repair" if repair else "check") as told:
        for said in offline.run("repair" if repair else "check", *where):
            if "progress" in said:
                told(*said["progress"])
    report = said["done"]
    if repair:
        yield Finding("repair", "ok", f"{report['mended']} keys of {report['data_dir']} were written anew")
    yield from _store(report)


def _store(report: dict[str, Any]) -> Iterator[Finding]:
    for one in report["checks"]:
        name = one["check"]
        if one["result"] == "ok":
            counted = f" ({report['events']} events, up to seq {report['last_seq']})" if name == "events" else ""
            yield Finding(name, "ok", WORDS[name] + counted)
        elif one["result"] == "skipped":
            yield Finding(name, "skipped", "not looked at, since what it rests on is wrong")
        else:
            found = [finding["message"] for finding in report["findings"] if finding["check"] == name]
            for message in found[:SHOWN]:
                yield Finding(name, "wrong", message)
            if one["wrong"] > len(found[:SHOWN]):
                yield Finding(name, "wrong", f"{one['wrong'] - len(found[:SHOWN])} more like these")
    wrong = {one["check"] for one in report["checks"] if one["result"] == "wrong"}
    if wrong & {"gaps", "events"}:
        advice = (
            "events are lost or damaged, which nothing can make again: restore a backup, or save the rest with: engram doctor --salvage OUT"
        )
        yield Finding("advice", "note", advice)
    elif "blocks" in wrong:
        advice = (
            "what stands in those blocks cannot be read. A salvage saves the rest, and says which events are lost, if any: "
            "engram doctor --salvage OUT. If too many are, restore a backup"
        )
        yield Finding("advice", "note", advice)
    elif wrong & {"keys", "rows"}:
        yield Finding("advice", "note", "this can be rebuilt from the log: engram daemon stop; engram doctor --repair")


def _salvage(common: Common, data_dir: str | None, target: str) -> None:
    """Save what can be read of a store as a backup."""
    where = ["--data-dir", os.path.abspath(data_dir)] if data_dir is not None else []
    source = data_path(data_dir)
    if Path(target).resolve().is_relative_to((source / "log").resolve()):
        raise EngramError("invalid", f"{target} is inside the store that is to be saved; give a directory elsewhere", path=target)
    with Vault(Path(target).absolute()) as vault, bar("salvage") as told:
        if vault.manifest is not None:
            raise EngramError("exists", f"{target} has a backup already; give another directory", path=target)
        found: dict[str, Any] = {}
        done: dict[str, Any] = {}

        def chunks() -> Iterator[tuple[bytes, int]]:
            for said in offline.run("salvage", str(vault.path / "scratch"), *where):
                if "found" in said:
                    found.update(said["found"])
                elif "records" in said:
                    told(said["reached"], found["last"])
                    if said["reached"]:
                        yield b64decode(said["records"]), said["reached"]
                elif "done" in said:
                    done.update(said["done"])

        def noted(manifest: Manifest) -> Manifest:
            lost = tuple((first, last) for first, last in done.get("lost", ()))
            return replace(manifest, history=found["history"], made_at=time.time_ns() // 1000, salvaged=True, lost=lost)

        manifest = noted(vault.extend(Manifest("0" * 12, 0, 0), chunks(), noted))
        vault.commit(manifest)
    out = common.output()
    lost = sum(last - first + 1 for first, last in manifest.lost)
    events = sum(segment.records for segment in manifest.segments)
    if out.json:
        out.object({"events": events, "last": manifest.last, "lost": list(map(list, manifest.lost)), "data_dir": str(source)})
        return
    note(f"{events} events, up to seq {manifest.last}, are saved in {target}; {lost} before that cannot be read")
    note(f"make a store of them with: engram restore {shlex.quote(target)} --data-dir NEW, or move {source} away and leave that out")
