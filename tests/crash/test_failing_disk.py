"""A disk whose syncs begin to fail: nothing is acknowledged any more, and the daemon says why and ends."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from daemons import WAIT, Daemon
from preload import FAILING_SYNC, preloadable

from engramd.protocol.connection import Id
from engramd.protocol.errors import EngramError


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library to preload."""
    return preloadable(tmp_path_factory.mktemp("preload"), "failing_sync", FAILING_SYNC)


def test_a_failed_sync_ends_the_daemon_and_acknowledges_nothing(daemon: Daemon, library: Path, tmp_path: Path) -> None:
    trigger = tmp_path / "broken"
    assert daemon.start(env={"LD_PRELOAD": str(library), "FAIL_SYNC_WHEN": str(trigger)}) == "ready"
    with daemon.connect() as client, daemon.connect("listener") as listener:
        tail = listener.send("tail", follow=True)
        kept = [client.ask("put", context="c", text=f"kept {number}", dedupe=f"kept {number}") for number in range(20)]
        trigger.touch()
        requests: list[Id] = []
        with suppress(ConnectionError):  # the daemon may be gone before the last of them is sent
            requests.extend(client.send("put", context="c", text=f"lost {number}") for number in range(5))
        assert requests
        for request in requests:
            with pytest.raises((EngramError, ConnectionError)) as failed:
                client.answer(request)
            if isinstance(failed.value, EngramError):
                assert failed.value.code in ("outcome_unknown", "storage", "unavailable")
        assert daemon.wait() == 1
        with suppress(EngramError, ConnectionError):
            listener.answer(tail)
        shown = [item.event for item in listener.items[tail] if "unit" in item.event]
        assert [event["unit"]["text"] for event in shown] == [f"kept {number}" for number in range(20)], "nothing unsafe was published"
    assert "the disk refused a write" in daemon.said()
    assert "Input/output error" in daemon.said()
    assert "Traceback" not in daemon.said()
    assert not daemon.socket_path.exists()

    assert daemon.start() == "ready"
    with daemon.connect() as client:
        units = client.ask("get", ids=[answer["id"] for answer in kept])["units"]
        assert [unit["text"] for unit in units] == [f"kept {number}" for number in range(20)]
        seqs = [int(event["cursor"].split(".")[1]) for event in client.replay(events=True)]
        assert seqs == list(range(1, len(seqs) + 1))
        assert client.ask("put", context="c", text="again", dedupe="kept 7") == {**kept[7], "deduped": True}
        assert client.ask("put", context="c", text="new")["seq"] == len(seqs) + 1
    daemon.stop()


def test_the_first_in_flight_learns_that_its_outcome_is_unknown(daemon: Daemon, library: Path, tmp_path: Path) -> None:
    trigger = tmp_path / "broken"
    assert daemon.start(env={"LD_PRELOAD": str(library), "FAIL_SYNC_WHEN": str(trigger)}) == "ready"
    with daemon.connect() as client:
        client.ask("put", context="c", text="kept")
        trigger.touch()
        with pytest.raises(EngramError) as failed:
            client.ask("put", context="c", text="lost")
    assert failed.value.code == "outcome_unknown"
    assert "Input/output error" in failed.value.message
    assert daemon.wait() == 1


def test_many_writers_at_the_moment_of_failure(daemon: Daemon, library: Path, tmp_path: Path) -> None:
    trigger = tmp_path / "broken"
    assert daemon.start(env={"LD_PRELOAD": str(library), "FAIL_SYNC_WHEN": str(trigger)}) == "ready"
    acknowledged: list[tuple[str, bytes]] = []
    surprises: list[BaseException] = []
    enough = threading.Semaphore(0)

    def write(name: str) -> None:
        try:
            with daemon.connect(name) as client:
                number = 0
                while True:
                    number += 1
                    acknowledged.append((f"{name}:{number}", client.ask("put", context="c", text=f"{name}:{number}")["id"]))
                    enough.release()
        except ConnectionError:
            pass
        except BaseException as error:
            if not isinstance(error, EngramError) or error.code not in ("outcome_unknown", "storage", "unavailable"):
                surprises.append(error)

    threads = [threading.Thread(target=write, args=(f"writer{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(200):
        assert enough.acquire(timeout=20)
    trigger.touch()
    assert daemon.wait() == 1
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert not surprises
    assert daemon.start() == "ready"
    with daemon.connect() as client:
        found = {event["unit"]["text"]: event["unit"]["id"] for event in client.replay()}
    for text, unit_id in acknowledged:
        assert found[text] == unit_id
    daemon.stop()


def test_a_store_that_cannot_be_synced_is_not_opened(daemon: Daemon, library: Path, tmp_path: Path) -> None:
    trigger = tmp_path / "broken"
    trigger.touch()
    said = daemon.start(env={"LD_PRELOAD": str(library), "FAIL_SYNC_WHEN": str(trigger)})
    assert daemon.wait() == 1
    assert "Input/output error" in said
    assert "Traceback" not in daemon.said()


EMBEDDED = """
import sys
import trio
import engramd
from engram_cli.trio_client import EngramError

async def main(data, trigger):
    try:
        async with engramd.open(data, agent="me") as engram:
            print((await engram.put("c", "kept")).seq)
            open(trigger, "w").close()
            try:
                await engram.put("c", "lost")
            except EngramError as error:
                print(error.code)
            await trio.sleep_forever()
    except EngramError as error:
        print(error.code, error.message)

trio.run(main, *sys.argv[1:])
"""


def test_an_embedded_engine_whose_disk_fails_ends_its_block(library: Path, tmp_path: Path) -> None:
    trigger = tmp_path / "broken"
    done = subprocess.run(
        [sys.executable, "-c", EMBEDDED, str(tmp_path / "data"), str(trigger)],
        env={**os.environ, "LD_PRELOAD": str(library), "FAIL_SYNC_WHEN": str(trigger)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    kept, lost, *raised = done.stdout.splitlines()
    assert (kept, lost) == ("2", "outcome_unknown")
    assert raised[0].startswith("storage the disk refused a write")
    assert "Traceback" not in done.stderr


# What is to be erased is first written to tables: here, with all there is, which takes a while.
ALL_OF_IT = """
import engramd.storage.log as log
log.Log.flush = lambda self: self.compact(b"", b"\\xff" * 9)
"""


def test_a_sync_that_fails_while_the_store_is_compacted(daemon: Daemon, library: Path, tmp_path: Path) -> None:
    """LevelDB's thread loses its way then; the daemon has said its last words before, and ends as ever."""
    trigger = tmp_path / "broken"
    env = {"LD_PRELOAD": str(library), "FAIL_SYNC_WHEN": str(trigger), "FAIL_SYNC_OF": ".log"}  # so that the compaction goes on meanwhile
    assert daemon.start(env=env, first=ALL_OF_IT) == "ready"
    with daemon.connect() as client:
        for _ in range(30):
            client.ask("put", context="c", units=[{"payload": os.urandom(3000)} for _ in range(300)])
        client.send("redact", ids=[2], reason="a password")
        deadline = time.monotonic() + WAIT
        while b"Manual compaction at level-1" not in (daemon.data_dir / "log" / "LOG").read_bytes():
            assert time.monotonic() < deadline
            os.sched_yield()
        trigger.touch()
        with pytest.raises(EngramError) as failed:
            client.ask("put", context="c", text="lost")
        assert failed.value.code == "outcome_unknown"
    assert daemon.wait() == 1
    assert "the disk refused a write" in daemon.said()
    assert not daemon.socket_path.exists()
    assert daemon.start() == "ready"
    with daemon.connect() as client:
        assert len(list(client.replay())) in (9000, 9001), "what was lost may be there"
    daemon.stop()
