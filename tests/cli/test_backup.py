"""`engram backup`, `restore` and the directory between them."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commandline import Shell
from stores import commit, created, execute, unit_put

from engram_cli.commands import backup as command
from engram_cli.vault import Vault
from engramd.protocol.backup import MANIFEST, SEGMENT_BYTES, Manifest, parse_manifest
from engramd.protocol.errors import EngramError
from engramd.state.redaction import Redact
from engramd.state.retention import SetRetention, TrimContext, TrimEvents
from engramd.state.view import TRIMMED, Trimmed
from engramd.storage import backup
from engramd.storage.backup import Source, read_chunk
from engramd.storage.log import Log
from engramd.storage.trim import old_events, oldest


class Reader:
    """A client of a log without a daemon: it answers `backup` as the daemon does."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.server = {"history": log.history, "server": "engramd test"}

    def request(self, op: str, fields: dict[str, Any]) -> dict[str, Any]:
        assert op == "backup"
        last = fields.get("last", self.log.last_seq)
        chunk = read_chunk(self.log, fields["after"], last)
        trimmed = self.log.durable.get(TRIMMED, "") or Trimmed()
        facts = {"history": self.log.history, "whole": self.log.last_rewrite, "gone": trimmed.gone}
        return {"frames": chunk.frames, "reached": chunk.reached, "last": last, "changed": chunk.changed, **facts}


def update(log: Log, path: Path) -> dict[str, Any]:
    with Vault(path) as vault:
        return command._update(vault, Reader(log), lambda done, total: None)  # type: ignore[arg-type]


def held(path: Path) -> list[tuple[int, bytes]]:
    """What a backup holds, all of it checked."""
    with closing(Source(path)) as source:
        for _ in backup.verify(source):
            pass
        return list(source.records())


def stored(log: Log) -> list[tuple[int, bytes]]:
    from engramd.storage import keys

    return [(keys.seq_of(key), value) for key, value in log.scan(keys.LOG, 1, log.last_seq)]


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("engramd.protocol.backup", "engram_cli.vault"):
        monkeypatch.setattr(f"{module}.SEGMENT_BYTES", 2000)
    monkeypatch.setattr("engramd.storage.backup.STEP_BYTES", 300)
    assert SEGMENT_BYTES > 2000


def fill(log: Log, first: int, count: int) -> None:
    for number in range(first, first + count):
        commit(log, number, *([] if log.last_seq else [created("c")]), unit_put("c", number, 100))


@pytest.mark.usefixtures("small_segments")
def test_increments_make_the_same_backup(log: Log, tmp_path: Path) -> None:
    rng = random.Random(3)
    for step in range(12):
        fill(log, 100 * step, rng.randrange(0, 30))
        facts = update(log, tmp_path / "b")
        assert facts["last_seq"] == log.last_seq
        assert held(tmp_path / "b") == stored(log)
    manifest = parse_manifest((tmp_path / "b" / MANIFEST).read_bytes())
    assert len(manifest.segments) > 5
    assert all(segment.is_full for segment in manifest.segments[:-1])
    files = {path.name for path in (tmp_path / "b").iterdir()}
    assert files == {MANIFEST, "lock", *(segment.file for segment in manifest.segments)}
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "b").iterdir()} == {0o600}


class CrashError(Exception):
    """The machine went down."""


@pytest.mark.usefixtures("small_segments")
def test_a_crash_at_any_step_leaves_a_sound_backup(log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every system call that changes the directory is one after which the machine may go down."""
    fill(log, 0, 30)
    update(log, tmp_path / "b")
    fill(log, 100, 40)
    left = 0

    def counted(name: str) -> None:
        real = getattr(os, name)

        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal left
            if left == 0:
                raise CrashError
            left -= 1
            return real(*arguments, **named)

        monkeypatch.setattr(f"engram_cli.vault.os.{name}", call)

    for name in ("fsync", "replace", "unlink"):
        counted(name)
    crashes, was = 0, held(tmp_path / "b")
    while True:
        left = 10**9
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        shutil.copytree(tmp_path / "b", tmp_path / "copy")
        left = crashes
        try:
            update(log, tmp_path / "copy")
            assert crashes > 15
            break
        except CrashError:
            crashes += 1
        left = 10**9
        found = held(tmp_path / "copy")
        assert found == stored(log)[: len(found)]
        assert len(found) >= len(was)
        update(log, tmp_path / "copy")
        assert held(tmp_path / "copy") == stored(log)


@pytest.mark.usefixtures("small_segments")
def test_what_changes_earlier_events_has_their_segments_read_anew(log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(log, 0, 60)
    update(log, tmp_path / "b")
    before = parse_manifest((tmp_path / "b" / MANIFEST).read_bytes())
    erased = stored(log)[4][1]
    execute(log, 1000, Redact("a", ((3).to_bytes(16),), "why"))
    assert stored(log)[4][1] != erased
    crashing = Vault.write

    def crash(self: Vault, first: int, chunks: Iterator[tuple[bytes, int]]) -> Any:
        if first == 1:
            raise CrashError
        return crashing(self, first, chunks)

    monkeypatch.setattr(Vault, "write", crash)
    with pytest.raises(CrashError):
        update(log, tmp_path / "b")
    monkeypatch.setattr(Vault, "write", crashing)
    assert parse_manifest((tmp_path / "b" / MANIFEST).read_bytes()).stale == (5,), "it is known to whoever goes on"
    assert update(log, tmp_path / "b")["rewritten"] == 1
    after = parse_manifest((tmp_path / "b" / MANIFEST).read_bytes())
    assert after.stale == ()
    assert held(tmp_path / "b") == stored(log)
    text = b"3" + b"." * 99
    assert text in erased
    assert not [path for path in (tmp_path / "b").iterdir() if text in path.read_bytes()]
    assert after.segments[0] != before.segments[0]
    assert after.segments[1 : len(before.segments) - 1] == before.segments[1:-1]


def test_what_is_no_place_for_a_backup(log: Log, tmp_path: Path) -> None:
    fill(log, 0, 3)
    (tmp_path / "used").mkdir()
    (tmp_path / "used/letter").touch()
    (tmp_path / "file").touch()
    for path, words in ((tmp_path / "used", "is no backup"), (tmp_path / "file", "cannot be")):
        with pytest.raises(EngramError, match=words):
            update(log, path)
    update(log, tmp_path / "b")
    with Vault(tmp_path / "b"), pytest.raises(EngramError, match="another process"):
        Vault(tmp_path / "b")
    with closing(Log(tmp_path / "other")) as other, pytest.raises(EngramError, match="another history"):
        update(other, tmp_path / "b")
    manifest = parse_manifest((tmp_path / "b" / MANIFEST).read_bytes())
    (tmp_path / "b" / MANIFEST).write_bytes(replace(manifest, salvaged=True).encode())
    with pytest.raises(EngramError, match="saved from a damaged store"):
        update(log, tmp_path / "b")


def test_an_increment_upon_a_damaged_segment_is_refused(log: Log, tmp_path: Path) -> None:
    fill(log, 0, 3)
    update(log, tmp_path / "b")
    [segment] = (tmp_path / "b").glob("*.segment")
    segment.write_bytes(segment.read_bytes()[:-1])
    fill(log, 10, 3)
    with pytest.raises(EngramError, match="the backup is damaged"):
        update(log, tmp_path / "b")


@pytest.mark.usefixtures("small_segments")
def test_what_retention_removes_during_a_backup_is_accounted_for(log: Log, tmp_path: Path) -> None:
    """Were the end of the log at the beginning that of the backup, the events that say what is missing would not be in it."""
    fill(log, 0, 60)
    execute(log, 900, SetRetention("c", "a", {"units": 5, "bytes": None, "age": None}))

    class Busy(Reader):
        def request(self, op: str, fields: dict[str, Any]) -> dict[str, Any]:
            found, _ = oldest(log, "c", 0, 7)
            execute(log, 1000, TrimContext("c", 1000, tuple(found)))
            return super().request(op, fields)

    for _ in range(2):
        with Vault(tmp_path / "b") as vault:
            command._update(vault, Busy(log), lambda done, total: None)  # type: ignore[arg-type]
        assert held(tmp_path / "b") == stored(log)


def test_what_was_removed_by_events_that_are_gone_leaves_a_backup(log: Log, tmp_path: Path, small_segments: None) -> None:
    fill(log, 0, 60)
    execute(log, 900, SetRetention("c", "a", {"units": 5, "bytes": None, "age": None}))
    update(log, tmp_path / "b")
    for limit in (30, 7):  # of the trims of a context the last is kept
        found, _ = oldest(log, "c", 0, limit)
        execute(log, 1000, TrimContext("c", 1000, tuple(found)))
    old, reached = old_events(log, 0, 2000)
    execute(log, 1000, TrimEvents(reached, tuple(old)))
    assert update(log, tmp_path / "b")["rewritten"] > 1
    assert held(tmp_path / "b") == stored(log)
    assert update(log, tmp_path / "b")["rewritten"] == 0


def test_a_backup_of_nothing(log: Log, tmp_path: Path) -> None:
    assert update(log, tmp_path / "b")["last_seq"] == 0
    assert held(tmp_path / "b") == []
    assert isinstance(parse_manifest((tmp_path / "b" / MANIFEST).read_bytes()), Manifest)


# The commands


def test_back_up_and_restore(alone: Shell, tmp_path: Path) -> None:
    alone.daemon()
    first = alone.put("work", "one", "--meta", "k=v")
    alone.put("work", "two", "--reply-to", first)
    cursor = [json.loads(line)["cursor"] for line in alone.ok("tail", "--events", "--json", "--after", "0").lines][-1]
    alone.run("lock", "/x", "--ttl", "10m")
    with alone.client() as client:
        client.consumer_create("c", "work")
    assert "up to seq 5" in alone.run("backup", tmp_path / "b").err
    alone.put("work", "three")
    facts = json.loads(alone.ok("backup", tmp_path / "b", "--check", "--json").out)
    assert (facts["added"], facts["last_seq"]) == (1, 6)
    assert "a daemon runs" in alone.fails(75, "restore", tmp_path / "b")
    listed, consumers = alone.ok("list", "work").out, alone.ok("consumer", "list").out
    alone.run("daemon", "stop")
    assert "has a store already" in alone.fails(1, "restore", tmp_path / "b")
    shutil.rmtree(alone.data)
    done = alone.run("restore", tmp_path / "b")
    assert (done.code, done.out) == (0, "")
    assert "6 events" in done.err
    assert "leases that ended: 1" in done.err
    alone.daemon()
    assert alone.ok("list", "work").out == listed
    assert alone.ok("consumer", "list").out.split("\t")[0] == consumers.split("\t")[0]
    assert alone.ok("locks").out == ""
    assert "another history" in alone.fails(1, "list", "work", "--after", cursor)
    assert alone.ok("search", "three").lines
    assert alone.run("doctor").code == 0


def test_a_pack_of_what_was_restored_is_that_of_the_original(alone: Shell, tmp_path: Path) -> None:
    alone.daemon()
    first = alone.put("work", "how do parsers fail?", "--meta", "k=v")
    alone.put("work", "they stop at the first error", "--reply-to", first)
    alone.put("work", "a parser reads errors, too", "--type", "error")
    alone.ok("context", "pin", "work", first)
    alone.ok("redact", alone.put("work", "a password"), "--reason", "a slip")
    last = alone.run("list", "work").seqs[-1]
    asked = ("pack", "work", "--budget", "2000", "--at", str(last), "--timeout", "60s")
    kinds = [asked, (*asked, "--format", "json"), (*asked, "--query", "errors of parsers")]
    before = [alone.ok(*kind).raw for kind in kinds]
    assert b"they stop" in before[0]
    alone.run("lock", "/x", "--ttl", "10m")  # which a restore ends, behind that seq
    alone.run("backup", tmp_path / "b")
    alone.run("daemon", "stop")
    shutil.rmtree(alone.data)
    assert alone.run("restore", tmp_path / "b").code == 0
    alone.daemon()
    assert [alone.ok(*kind).raw for kind in kinds] == before


def test_a_backup_that_is_none(alone: Shell, tmp_path: Path) -> None:
    assert "there is no backup" in alone.fails(1, "restore", tmp_path / "none")
    assert "there is no backup" in alone.fails(1, "backup", tmp_path / "none", "--check-only")
    assert not alone.data.exists() or list(alone.data.iterdir()) == []


def test_a_restored_store_is_ours_alone_and_a_refused_restore_leaves_nothing(alone: Shell, tmp_path: Path) -> None:
    alone.daemon()
    alone.put("work", "one")
    alone.run("backup", tmp_path / "b")
    script = f"umask 022; engram restore {tmp_path / 'b'} --data-dir {tmp_path / 'above' / 'new'}"
    assert alone.script(script).code == 0
    for made in ("above", "above/new", "above/new/log"):
        assert (tmp_path / made).stat().st_mode & 0o777 == 0o700, made
    [segment] = (tmp_path / "b").glob("*.segment")
    segment.write_bytes(segment.read_bytes()[:-1])
    alone.fails(1, "restore", tmp_path / "b", "--data-dir", tmp_path / "other" / "new")
    assert not (tmp_path / "other").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    alone.fails(1, "restore", tmp_path / "b", "--data-dir", tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["file"]


def test_a_damaged_backup_is_refused_with_what_to_do(alone: Shell, tmp_path: Path) -> None:
    alone.daemon()
    alone.put("work", "one")
    alone.run("backup", tmp_path / "b")
    [segment] = (tmp_path / "b").glob("*.segment")
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)
    alone.put("work", "two")
    said = alone.fails(1, "restore", tmp_path / "b", "--data-dir", tmp_path / "new")
    assert "the backup is damaged: " in said
    assert "Nothing was restored. Use another backup" in said
    for line in (["backup", tmp_path / "b"], ["backup", "--check-only", tmp_path / "b"]):
        said = alone.fails(1, *line)
        assert "the backup is damaged: " in said
        assert "The store is not touched by that; make a new backup of it in another directory" in said
    (tmp_path / "b" / MANIFEST).write_text("{}")
    assert "make a new backup of it in another directory" in alone.fails(1, "backup", tmp_path / "b")


def test_restoring_beside_a_daemon(alone: Shell, tmp_path: Path) -> None:
    alone.daemon()
    alone.put("work", "one")
    alone.run("backup", tmp_path / "b")
    made = json.loads(alone.ok("restore", tmp_path / "b", "--data-dir", tmp_path / "d", "--json").out)
    assert (made["events"], made["last"], made["data_dir"]) == (2, 2, str(tmp_path / "d"))
    assert alone.run("doctor", "--data-dir", tmp_path / "d").code == 0
    assert "uses the data directory" in alone.fails(75, "restore", tmp_path / "b", "--data-dir", alone.data)


def test_a_backup_that_cannot_be_written_leaves_what_was_there_and_no_rest(alone: Shell, tmp_path: Path) -> None:
    alone.daemon()
    alone.put("c", "first")
    target = tmp_path / "backup"
    alone.ok("backup", "--json", target)
    before = sorted(target.iterdir())
    alone.put("c", "x" * 100_000)
    done = alone.script(f"ulimit -f 16; engram backup {target}")
    assert done.code == 1
    assert f"{target} cannot be written: File too large" in done.err
    assert sorted(target.iterdir()) == before
    alone.ok("backup", "--json", "--check-only", target)
    alone.ok("backup", "--json", "--check", target)


@pytest.mark.parametrize("line", [["backup", ""], ["backup", "--check-only", ""], ["restore", ""], ["doctor", "--data-dir", ""]])
def test_a_directory_without_a_name_is_not_the_one_we_stand_in(alone: Shell, line: list[str]) -> None:
    assert "must not be empty" in alone.fails(2, *line)


def test_work_on_a_store_ends_quietly_when_nobody_listens(log: Log, tmp_path: Path) -> None:
    update(log, tmp_path / "backup")
    command = [sys.executable, "-m", "engramd.offline", "verify", str(tmp_path / "backup")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as worker:
        assert worker.stdout
        assert worker.stderr
        worker.stdout.close()
        assert worker.stderr.read() == b""
    assert worker.returncode == 1
