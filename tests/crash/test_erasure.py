"""Erasure on the running daemon: the bytes are in no file afterwards, also when it is killed at any step and started again."""

from __future__ import annotations

import time

import pytest
from daemons import WAIT, Blocking, Daemon

SECRET = "hunterzebraxq"  # in the payload, in a label, in a note, in a dedupe key
SMALL, LARGE = f"the password is {SECRET}", f"{SECRET} " * 700  # the second stands in the log alone

# Each kills the daemon where one of the numbered steps of docs/storage.md is about to begin, or has just ended.
KILL = """
import os, signal
def die(*_, **__): os.kill(os.getpid(), signal.SIGKILL)
"""
STEPS = {
    "before 1": "import engramd.storage.log as log; log.Log.flush = die",
    "between 1 and 2": "import engramd.state.redaction as made; made.UnitRedacted.__new__ = die",
    "between 2 and 3": "import engramd.storage.log as log; log.Log.compact = die",
    "within 3": """
import engramd.storage.log as log
compact = log.Log.compact
def twice(self, first, last):
    if first[:1] == b"e": die()
    compact(self, first, last)
log.Log.compact = twice
""",
    "between 3 and 4": "import engramd.service.search as search; search.Search.absorbed = die",
    "between 4 and 5": "import engramd.state.redaction as made; made.ErasuresFinished.__new__ = die",
}


def put(client: Blocking) -> list[int]:
    """Two units with a secret, and some without."""
    first = client.ask("put", context="c", text="harmless")
    edge = {"type": "responds_to", "target": first["seq"], "meta": {"note": SECRET}}
    members = {"meta": {"key": SECRET, "path": f"/{SECRET}"}, "type": "file_change", "relationships": [edge]}
    seqs = [client.ask("put", context="c", text=text, dedupe=f"{SECRET}{text[:1]}", **members)["seq"] for text in (SMALL, LARGE)]
    client.ask("context_add", context="d", ids=[seqs[0]])
    client.ask("put", context="c", units=[{"text": f"more {number}"} for number in range(300)])  # enough for the index to be written
    return seqs


def erased(client: Blocking, seqs: list[int]) -> None:
    """Wait until the erasure is complete, as repeating it does."""
    answer = client.ask("redact", ids=seqs, reason="a password")
    assert answer["erased"], answer


def check(daemon: Daemon, client: Blocking, seqs: list[int]) -> None:
    """The secret is nowhere, and what stays stays."""
    assert daemon.files_with(SECRET) == []
    for unit in client.ask("get", ids=list(seqs))["units"]:
        assert (unit["text"], unit["meta"], unit["type"]) == ("", {}, "file_change")
        assert unit["redacted"]["reason"] == "a password"
        assert [edge["meta"] for edge in unit["relationships"]] == [{}]
    assert client.ask("search", query=SECRET, mode="keyword")["hits"] == []
    assert client.ask("why", paths=[f"/{SECRET}"])["changes"] == []
    assert client.ask("list", context="d", meta={"key": SECRET})["units"] == []
    assert client.ask("put", context="c", text="again", dedupe=f"{SECRET}t")["seq"] == seqs[0], "a retry does not bring it back"
    assert daemon.files_with(SECRET) == []


@pytest.mark.parametrize("searched", [False, True])
def test_what_was_redacted_is_in_no_file(daemon: Daemon, searched: bool) -> None:
    daemon.start()
    with daemon.connect() as client:
        seqs = put(client)
        if searched:
            assert len(client.ask("search", query=SECRET, wait=30_000)["hits"]) == 2
        assert daemon.files_with(SECRET)
        erased(client, seqs)
        check(daemon, client, seqs)
    daemon.stop()
    assert daemon.files_with(SECRET) == []


@pytest.mark.parametrize("step", STEPS)
def test_a_start_goes_on_with_an_erasure_that_was_cut_short(daemon: Daemon, step: str) -> None:
    daemon.start()
    with daemon.connect() as client:
        seqs = put(client)
        client.ask("search", query=SECRET, wait=30_000)
    daemon.stop()
    daemon.start(first=f"{KILL}\n{STEPS[step]}\n")
    with daemon.connect() as client, pytest.raises(ConnectionError):
        client.ask("redact", ids=seqs, reason="a password")
    assert daemon.wait() == -9
    assert bool(daemon.files_with(SECRET)) == (step != "between 4 and 5"), "else this shows nothing"
    daemon.start()
    if step in ("before 1", "between 1 and 2"):  # it never happened
        with daemon.connect() as client:
            assert client.ask("get", ids=[seqs[0]])["units"][0]["text"] == SMALL
            erased(client, seqs)
    deadline = time.monotonic() + WAIT
    while daemon.files_with(SECRET):
        assert time.monotonic() < deadline, daemon.files_with(SECRET)
        time.sleep(0.1)
    with daemon.connect() as client:
        erased(client, seqs)
        check(daemon, client, seqs)


def test_what_retention_removed_leaves_the_files(daemon: Daemon) -> None:
    patch = "import engramd.service.retention as retention; retention.COMPACT_ENTRIES = 1; retention.INTERVAL = 0.1\n"
    daemon.start(first=patch)
    with daemon.connect() as client:
        client.ask("put", context="c", units=[{"text": f"{SECRET}{number}"} for number in range(300)])
        client.ask("put", context="c", units=[{"text": f"kept {number}"} for number in range(10)])
        client.ask("context_retain", context="c", units=10)
        deadline = time.monotonic() + WAIT
        while daemon.files_with(SECRET):
            assert time.monotonic() < deadline, daemon.files_with(SECRET)
            time.sleep(0.1)
        assert [unit["text"] for unit in client.ask("list", context="c")["units"]] == [f"kept {number}" for number in range(10)]
