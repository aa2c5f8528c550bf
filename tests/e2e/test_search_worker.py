"""The search worker as a process: when there is one, what it costs the daemon, and what happens when it dies."""

from __future__ import annotations

import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commandline import Shell, until

from engram_cli.client import Client
from engramd.protocol.errors import EngramError
from engramd.storage.lockfile import DataLock
from engramd.storage.log import Log

PATIENCE = 120.0  # seconds for one request, and
WAIT = 60_000  # milliseconds for the worker: only a failure waits so long


@pytest.fixture
def shell() -> Iterator[Shell]:
    with Shell() as made:
        made.daemon()
        yield made


def worker(client: Client) -> int:
    """The worker's pid."""
    facts: dict[str, Any] = client.status()["search"]
    return int(facts.get("pid", 0))


def is_running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def is_locked(directory: Path) -> bool:
    """Whether a worker has the index."""
    try:
        DataLock(directory).release()
    except EngramError:
        return True
    return False


def test_there_is_no_worker_before_the_first_search(shell: Shell) -> None:
    client = shell.client(timeout=PATIENCE)
    client.put("c", "a daemon without a search")
    assert client.status()["search"] == {"state": "off"}
    pid = shell.daemon_pid()
    assert Path(f"/proc/{pid}/task/{pid}/children").read_text() == ""
    assert [hit.unit.text for hit in client.search("daemon", wait=WAIT).hits] == ["a daemon without a search"]
    assert client.status()["search"]["behind"] == 0
    maps = Path(f"/proc/{pid}/maps").read_text()
    assert not [name for name in ("numpy", "faiss", "rapidfuzz") if name in maps]
    assert "faiss" in Path(f"/proc/{worker(client)}/maps").read_text()


def test_every_search_sees_the_writes_before_it(shell: Shell) -> None:
    client = shell.client(timeout=PATIENCE)
    for number in range(40):
        made = client.put("c", f"the code word is abc{number:03}def")
        found = client.search(f"abc{number:03}def", "c", mode="keyword", limit=1, wait=WAIT)
        assert ([hit.unit.id for hit in found.hits], found.behind) == ([made.id], 0)
        if number % 3 == 0:
            client.context_remove("c", made.id)
            assert not client.search(f"abc{number:03}def", "c", mode="keyword", wait=WAIT).hits


def test_a_killed_worker_costs_a_restart_and_no_answer(shell: Shell) -> None:
    client = shell.client(timeout=PATIENCE)
    client.put_many("c", [{"text": f"unit {number} of the daemon"} for number in range(900)])
    expected = {hit.unit.seq for hit in client.search("daemon", "c", mode="keyword", limit=1000, wait=WAIT).hits}
    assert len(expected) == 900
    killer = shell.client("killer", timeout=PATIENCE)
    for number in range(8):
        expected.add(client.put("c", f"late {number} daemon").seq)
        pid = worker(killer)
        shot = threading.Timer(0.03 * number, os.kill, (pid, signal.SIGKILL))  # before, while and after it answers
        shot.start()
        found = client.search("daemon", "c", mode="keyword", limit=1000, wait=WAIT)
        shot.join()
        assert ({hit.unit.seq for hit in found.hits}, found.behind) == (expected, 0)
        until(lambda pid=pid: worker(killer) not in (0, pid), "the next worker")
        facts = killer.status()["search"]
        assert (facts["restarts"], "SIGKILL" in facts["last_failure"]) == (number + 1, True)
    assert shell.metric("engram_search_restarts_total")["value"] == 8


def test_a_stopped_worker_is_ended_in_the_end(shell: Shell) -> None:
    """Through `_serve`'s own end: a worker that neither answers nor ends when it is hung up on."""
    client = shell.client(timeout=PATIENCE)
    client.put("c", "a daemon")
    client.search("daemon", wait=WAIT)
    pid = worker(client)
    os.kill(pid, signal.SIGSTOP)
    assert shell.run("search", "daemon", "--timeout", "0.5s").code == 124
    assert shell.run("daemon", "stop").code == 0
    until(lambda: not is_running(pid), "the stopped worker's end")


def test_the_worker_ends_with_its_daemon_and_goes_on_with_the_next(shell: Shell) -> None:
    client = shell.client(timeout=PATIENCE)
    client.put_many("c", [{"text": f"unit {number} of the daemon"} for number in range(300)])
    client.search("daemon", wait=WAIT)
    first = worker(client)
    shell.kill_daemon()
    until(lambda: not is_running(first), "the worker's end")
    shell.daemon()
    client.close()
    client.put("c", "after the restart")
    until(lambda: client.status()["search"]["state"] == "ready", "the worker that goes on without being asked")
    assert len(client.search("daemon", limit=1000, mode="keyword", wait=WAIT).hits) == 300
    assert [hit.unit.text for hit in client.search("restart", mode="keyword", wait=WAIT).hits] == ["after the restart"]


def test_damage_that_only_the_feed_meets_ends_writing_and_not_the_daemon(shell: Shell) -> None:
    client = shell.client(timeout=PATIENCE)
    client.put("c", "the first word")
    client.put_many("c", [{"text": random.Random(number).randbytes(2000).hex()} for number in range(100)])
    last = client.put("c", "the last word").seq
    client.search("word", wait=WAIT)
    client.close()
    assert shell.run("daemon", "stop").code == 0
    shutil.rmtree(shell.data / "search" / "index")
    (shell.data / "search" / "index").mkdir()  # one is to be made at once, from the whole log
    Log(shell.data / "log").close()  # which moves it into tables
    table = max((shell.data / "log").glob("*.ldb"), key=lambda path: path.stat().st_size)
    data = bytearray(table.read_bytes())
    data[data.rindex(b"the first word")] ^= 1  # in the log: entries come before it
    table.write_bytes(data)
    daemon = shell.daemon()
    until(lambda: "problem" in client.status(), "the damage to be met")
    assert "Corruption" in client.status()["problem"]
    assert shell.metric("engram_writable")["value"] == 0
    assert client.get(last)[0].text == "the last word", "reads go on"
    with pytest.raises(EngramError) as refused:
        client.put("c", "more")
    assert refused.value.code == "storage"
    assert client.search("word", wait=100).behind, "it does not pretend"
    assert daemon.process.poll() is None


def test_a_damaged_index_is_made_anew(shell: Shell) -> None:
    client = shell.client(timeout=PATIENCE)
    client.put_many("c", [{"text": f"unit {number} of the daemon"} for number in range(1000)])
    client.put_many("c", [{"text": f"unit {number} of the daemon"} for number in range(500)])
    client.search("daemon", wait=WAIT)
    vectors = shell.data / "search" / "vectors"
    for damage in (
        lambda: vectors.write_bytes(b"x" * 100),
        lambda: [file.unlink() for file in (shell.data / "search/index").glob("*.log")],
    ):
        pid = worker(client)
        os.kill(pid, signal.SIGKILL)
        until(lambda pid=pid: not is_running(pid), "the worker's end")
        damage()
        shell.kill_daemon()
        shell.daemon()
        client.close()
        assert len(client.search("daemon", limit=1000, mode="keyword", wait=WAIT).hits) == 1000


def test_an_index_that_a_search_finds_damaged_is_made_anew(shell: Shell) -> None:
    """A block of postings is read by searches alone: no start finds what is wrong with it."""
    client = shell.client(timeout=PATIENCE)
    words = [f"{number:05}".translate(str.maketrans("0123456789", "abcdefghij")) for number in range(10_500)]
    for first in range(0, len(words), 2625):
        client.put_many("c", [{"text": " ".join(words[at : at + 5])} for at in range(first, first + 2625, 5)])
    query, index = " ".join(words[::80]), shell.data / "search" / "index"
    expected = len(client.search(query, mode="keyword", limit=500, wait=WAIT).hits)
    assert expected == len(words[::80])
    for _ in range(2):  # a worker that goes on moves what the one before it wrote into a table file
        shell.kill_daemon()
        shell.daemon()
        client.close()
        until(lambda: client.status()["search"]["state"] == "ready", "the worker")
    shell.kill_daemon()
    until(lambda: not is_locked(shell.data / "search"), "the worker's end")
    table = max(index.glob("*.ldb"), key=lambda file: file.stat().st_size)
    with table.open("r+b") as file:
        file.seek(table.stat().st_size // 2)
        (byte,) = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    shell.daemon()
    client.close()
    until(lambda: client.status()["search"]["state"] == "ready", "a worker that has not noticed")
    assert "restarts" not in client.status()["search"]
    found = client.search(query, mode="keyword", limit=500, wait=WAIT)
    assert (len(found.hits), found.behind) == (expected, 0)
    facts = client.status()["search"]
    assert (facts["restarts"], "made anew" in facts["last_failure"]) == (1, True)


def test_a_search_that_may_not_wait_says_how_far_it_is_behind(shell: Shell) -> None:
    client = shell.client(timeout=PATIENCE)
    for _ in range(6):
        client.put_many("c", [{"text": "one of many texts about a daemon " * 20} for _ in range(1000)])
    found = client.search("daemon", wait=0)
    assert found.behind > 0
    done = shell.run("search", "daemon", "--timeout", "0.2s", "--limit", "1")
    assert "behind" in done.err or done.code == 124
    until(lambda: client.status()["search"]["state"] == "ready", "the index to catch up")
    assert client.search("daemon", wait=WAIT).behind == 0


def test_a_stopping_daemon_does_not_wait_for_its_worker(shell: Shell) -> None:
    client = shell.client(timeout=PATIENCE)
    client.put("c", "a daemon")
    client.search("daemon", wait=WAIT)
    began = time.monotonic()
    assert shell.run("daemon", "stop").code == 0
    assert time.monotonic() - began < 10
