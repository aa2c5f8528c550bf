"""A disk that fills up, or is taken away from writers: nothing that was acknowledged is lost, and it goes on where that is safe."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from daemons import Blocking, Daemon

from engramd.protocol.errors import EngramError

PAYLOAD = 64 * 1024
NOISE = random.Random(7).randbytes(PAYLOAD).hex()  # LevelDB compresses


class Disk:
    """A file system in memory, of a size."""

    def __init__(self, path: Path, size: str) -> None:
        self.path = path
        path.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(path)], capture_output=True, check=False)
        if done.returncode:
            pytest.skip("needs the right to mount")

    def remount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.path)], check=True)

    def end(self) -> None:
        subprocess.run(["umount", "-l", str(self.path)], check=True)


MakeDisk = Callable[[str], Disk]


@pytest.fixture
def make_disk(tmp_path: Path) -> Iterator[MakeDisk]:
    made: list[Disk] = []

    def make(size: str) -> Disk:
        made.append(Disk(tmp_path / f"disk{len(made)}", size))
        return made[-1]

    yield make
    for disk in made:
        disk.end()


@pytest.fixture
def on(socket_dir: Path) -> Iterator[Callable[[Disk], Daemon]]:
    """Makes a daemon that keeps its data on a disk."""
    daemons: list[Daemon] = []

    def make(disk: Disk) -> Daemon:
        daemons.append(Daemon(socket_dir / "s", disk.path / "data"))
        daemons[-1].stderr = socket_dir / "stderr"
        return daemons[-1]

    yield make
    for daemon in daemons:
        daemon.end()


def fill(client: Blocking) -> tuple[list[int], EngramError | ConnectionError]:
    """Put until it fails: the seqs that were acknowledged, and the failure."""
    seqs: list[int] = []
    while True:
        try:
            seqs.append(client.ask("put", context="c", text=f"{len(seqs)} {NOISE}"[:PAYLOAD])["seq"])
        except (EngramError, ConnectionError) as error:
            return seqs, error


def kept(client: Blocking) -> list[int]:
    """The seqs of all units, each of which is whole."""
    found = [event["unit"] for event in client.replay(contexts=["c"])]
    assert all(len(unit["text"]) == PAYLOAD and unit["text"].startswith(f"{number} ") for number, unit in enumerate(found))
    return [unit["seq"] for unit in found]


def test_an_almost_full_disk_refuses_puts_alone_and_until_there_is_room(make_disk: MakeDisk, on: Callable[[Disk], Daemon]) -> None:
    disk = make_disk("24m")
    daemon = on(disk)
    assert daemon.start("--min-free", "12MiB") == "ready"
    with daemon.connect() as client:
        seqs, failure = fill(client)
        assert len(seqs) > 20
        assert isinstance(failure, EngramError)
        assert failure.code == "busy"
        assert "min_free" in failure.message
        assert failure.details["free"] < failure.details["min_free"] + PAYLOAD
        lock = client.ask("lock", resources=["/a"])
        client.ask("unlock", token=lock["token"])
        assert kept(client) == seqs
        metrics = {one["name"]: one for one in client.ask("metrics")["metrics"] if one["labels"].get("outcome", "busy") == "busy"}
        assert metrics["engram_requests_total"]["value"] == 1
        assert metrics["engram_free_bytes"]["value"] == client.ask("status")["status"]["free_bytes"]
        has_room = metrics["engram_free_bytes"]["value"] >= failure.details["min_free"]  # LevelDB may have tidied up since
        assert metrics["engram_writable"]["value"] == has_room

        disk.remount("size=32m")
        more, _ = fill(client)
        assert more[0] > seqs[-1], "it takes puts again, and nobody had to do anything to it"
        disk.remount("size=48m")
        assert {one["name"]: one for one in client.ask("metrics")["metrics"]}["engram_writable"]["value"] == 1
    daemon.stop()


def test_a_disk_that_is_full_ends_the_daemon_and_keeps_what_was_acknowledged(make_disk: MakeDisk, on: Callable[[Disk], Daemon]) -> None:
    disk = make_disk("8m")
    daemon = on(disk)
    assert daemon.start("--min-free", "0") == "ready"
    with daemon.connect() as client:
        seqs, failure = fill(client)
    assert isinstance(failure, ConnectionError) or failure.code in ("outcome_unknown", "storage", "unavailable")
    assert daemon.wait() == 1
    assert "No space left on device" in daemon.said()
    disk.remount("size=32m")
    assert daemon.start("--min-free", "0") == "ready"
    with daemon.connect() as client:
        found = kept(client)
        assert found[: len(seqs)] == seqs
        assert len(found) <= len(seqs) + 1, "the one whose outcome was unknown, or not even that"
        client.ask("put", context="c", text="on")
    daemon.stop()


def test_a_disk_that_becomes_read_only(make_disk: MakeDisk, on: Callable[[Disk], Daemon]) -> None:
    disk = make_disk("32m")
    daemon = on(disk)
    assert daemon.start("--min-free", "0") == "ready"
    with daemon.connect() as client:
        acknowledged = client.ask("put", context="c", text="x")["seq"]
        daemon.stop()
    disk.remount("ro")
    said = daemon.start()
    assert said != "ready"
    assert str(disk.path) in said
    assert "ead-only" in said
    assert daemon.wait() != 0
    disk.remount("rw")
    assert daemon.start() == "ready"
    with daemon.connect() as client:
        assert client.replay(contexts=["c"])[0]["unit"]["seq"] == acknowledged
    daemon.stop()


def test_a_redaction_on_a_full_disk_says_so_and_can_be_repeated(make_disk: MakeDisk, on: Callable[[Disk], Daemon]) -> None:
    disk = make_disk("32m")
    daemon = on(disk)
    assert daemon.start("--min-free", "0") == "ready"
    with daemon.connect() as client:
        put = client.ask("put", context="c", text="the password is hunterzebraxq")
        ballast = disk.path / "ballast"
        with suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        with pytest.raises((EngramError, ConnectionError)) as failure:
            client.ask("redact", ids=[put["seq"]], reason="a password")
        if isinstance(failure.value, EngramError):
            assert failure.value.code in ("outcome_unknown", "storage")
            assert "dedupe" not in failure.value.message
            assert "salvage" not in failure.value.message, "nothing is damaged"
    assert daemon.wait() == 1
    assert "No space left on device" in daemon.said()
    ballast.unlink()
    assert daemon.start("--min-free", "0") == "ready"
    with daemon.connect() as client:
        assert client.ask("redact", ids=[put["seq"]], reason="a password")["erased"]
        assert client.ask("get", ids=[put["seq"]])["units"][0]["text"] == ""
    assert daemon.files_with("hunterzebraxq") == []
    daemon.stop()
