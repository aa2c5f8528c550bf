"""SQLite: what one would do oneself. A table in WAL mode with `synchronous=FULL`: a commit is on disk when it returns."""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

from .. import loops
from ..figures import BenchmarkError
from ..helpers import Writer
from .peer import LAST, TEXT, Absent, Library, Lock

BUSY_SECONDS = 60
TABLES = """
CREATE TABLE IF NOT EXISTS units (seq INTEGER PRIMARY KEY, ts INTEGER, context, agent, type, meta, text);
CREATE INDEX IF NOT EXISTS of_context ON units (context, seq);
CREATE TABLE IF NOT EXISTS locks (name PRIMARY KEY, holder);
"""
INSERT = "INSERT INTO units (ts, context, agent, type, meta, text) VALUES (?, ?, ?, ?, ?, ?)"
NEWEST = "SELECT * FROM units WHERE context = 'live' ORDER BY seq DESC LIMIT ?"


def opened(path: str) -> sqlite3.Connection:
    """A connection."""
    made = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    made.execute("PRAGMA journal_mode=WAL")
    made.execute("PRAGMA synchronous=FULL")
    made.executescript(TABLES)
    return made


def writer(path: str) -> Writer:
    """Writes records in one transaction, over a connection of its own."""
    connection = opened(path)

    def put(records: Sequence[Mapping[str, Any]]) -> None:
        rows = [
            (time.time_ns() // 1000, each["context"], each["agent"], each["type"], json.dumps(each["meta"]), each["text"])
            for each in records
        ]
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(INSERT, rows)
        connection.execute("COMMIT")

    return Writer(put, connection.close)


class Row(Lock):
    """A row that is there while somebody holds the lock."""

    def __init__(self, path: str) -> None:
        self._connection = opened(path)
        super().__init__(self._connection.close)

    def ask(self) -> None:
        """Nothing is sent: to ask is to insert."""

    def granted(self) -> None:
        self._connection.execute("INSERT INTO locks VALUES ('lock', 'holder')")

    def release(self) -> None:
        """Nothing is sent."""

    def released(self) -> None:
        self._connection.execute("DELETE FROM locks WHERE name = 'lock' AND holder = 'holder'")


class SQLite(Library):
    """A database file."""

    name = "SQLite, WAL"
    synced = "yes"
    about = f"SQLite {sqlite3.sqlite_version}"
    writer = staticmethod(writer)

    def last(self, most: int, seconds: float) -> list[int]:
        with closing(opened(self.path)) as connection:

            def read() -> None:
                if len(connection.execute(NEWEST, (LAST,)).fetchall()) != LAST:
                    raise BenchmarkError("SQLite: records are missing")

            return loops.timed(read, most, seconds)

    def lock(self) -> Lock:
        return self.kept.enter_context(closing(Row(self.path)))

    def commands(self) -> dict[str, list[str]]:
        program = shutil.which("sqlite3")
        if program is None:
            raise Absent("no sqlite3 on PATH")
        insert = f"INSERT INTO units (ts, context, text) VALUES (unixepoch(), 'live', '{TEXT}') RETURNING seq"
        head = [program, "-cmd", f".timeout {BUSY_SECONDS * 1000}", self.path]
        return {"put": [*head, f"PRAGMA synchronous=FULL; {insert}"], "get": [*head, "SELECT text FROM units WHERE seq = 2"]}
