"""What a crash or a bad disk leaves of the store's files: whole batches, or a refusal, and never wrong data."""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from itertools import count, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import cbor2
import pytest
import trio
from daemons import Daemon
from stores import commit, created, execute, unit_put
from trio.testing import MockClock
from wire import Server

from engramd.protocol.errors import EngramError
from engramd.state.contexts import SetPlaces
from engramd.state.filters import Filter
from engramd.state.units import Draft, Edge, Put
from engramd.state.view import AGENTS, CONTEXTS, MEMBERS, UNITS
from engramd.storage import keys
from engramd.storage.log import Log
from engramd.storage.query import Range, page, step
from engramd.storage.salvage import Salvage

Contents = dict[bytes, bytes]
BLOCK = 32768  # of LevelDB's log (its doc/log_format.md): a record that does not fit one is cut into several
SECTOR = 512  # of a disk
HEADER = 7  # bytes of checksum, length and type before each piece
BATCHES = 40


class Written(NamedTuple):
    """A store that was written batch by batch, and copied while it was open: LevelDB had flushed nothing but its log.

    Attributes:
        ends: the size of LevelDB's log after each batch; the first is that of the empty store.
        contents: every key and value after each batch.
        last_seqs: the end of Engram's log after each batch.
    """

    directory: Path
    log_file: str
    ends: list[int]
    contents: list[Contents]
    last_seqs: list[int]


def everything(log: Log) -> Contents:
    """Every key and value of an open store."""
    return dict(log._store.scan(b"", b"\xff" * 16))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    rng = random.Random(7)
    base = tmp_path_factory.mktemp("written")
    log = Log(base / "open")
    [log_file] = [path.name for path in (base / "open").glob("*.log")]
    ends: list[int] = []
    contents: list[Contents] = []
    last_seqs: list[int] = []

    def note() -> None:
        ends.append((base / "open" / log_file).stat().st_size)
        contents.append(everything(log))
        last_seqs.append(log.last_seq)

    note()
    ids: list[bytes] = []
    for number in range(BATCHES):
        drafts = []
        for _ in range(rng.choice((1, 1, 2, 5))):
            edges = (Edge("causes", rng.choice(ids), {}),) if ids else ()
            drafts.append(Draft(rng.randbytes(16), "message", {"n": str(number)}, "x" * rng.choice((0, 50, 3000, 9000)), edges))
        put = Put(rng.choice("ab"), rng.choice("xyz"), tuple(drafts), f"key{number}")
        execute(log, number, put, *([SetPlaces(rng.choice("abc"), "x", (rng.choice(ids),), rng.random() < 0.7)] if ids else []))
        ids += [draft.id for draft in drafts]
        note()
    shutil.copytree(base / "open", base / "crashed")
    log.close()
    assert ends[-1] > 4 * BLOCK
    assert ends == sorted(set(ends)), "every commit reaches the file before it returns"
    assert len({len(found) for found in contents}) == BATCHES + 1
    return Written(base / "crashed", log_file, ends, contents, last_seqs)


def damage(written: Written, target: Path, change: Callable[[bytearray], None]) -> Path:
    """A copy of the store with its log changed."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(written.directory, target)
    path = target / written.log_file
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)
    return target


def check_entries(log: Log) -> None:
    """Every entry is found by its secondary keys, and these find nothing else."""
    for context in "abc":
        for entry in step(log, Range([context], Filter(), 1, log.last_seq), 10**6, 10**6, 10**9).entries:
            unit = cbor2.loads(entry.unit)
            targets = [edge["target"] for edge in unit["relationships"]]
            for want in (
                Filter(agents=frozenset([unit["agent"]])),
                Filter(types=frozenset([unit["type"]])),
                Filter(meta=tuple(unit["meta"].items())),
                *(Filter(related_to=target) for target in targets),
            ):
                assert step(log, Range([context], want, entry.seq, entry.seq)).entries == [entry]


# A torn tail


@pytest.mark.parametrize("part", range(4))
def test_a_torn_tail_leaves_the_batches_before_it_and_nothing_of_its_own(written: Written, tmp_path: Path, part: int) -> None:
    first, last = written.ends[0], written.ends[-1]
    rng = random.Random(0)
    sizes = {end + by for end in written.ends for by in (-1, 0, 1)} | {rng.randrange(first, last) for _ in range(80)}
    sizes |= {block + by for block in range(BLOCK, last, BLOCK) for by in (-1, 0, 1, HEADER - 1, HEADER)}
    for number, size in enumerate(sorted(size for size in sizes if first <= size <= last)):
        if number % 4 != part:
            continue
        whole = sum(end <= size for end in written.ends) - 1
        log = Log(damage(written, tmp_path / "copy", lambda data, size=size: data.__delitem__(slice(size, None))))  # type: ignore[misc]
        assert everything(log) == written.contents[whole]
        assert log.last_seq == written.last_seqs[whole]
        if number % 5 == 0:
            check_entries(log)
        assert commit(log, 100, created("after"), unit_put("after", 10**6))[0].seq == written.last_seqs[whole] + 1, "and it goes on"
        log.close()


def test_what_was_written_after_a_torn_tail_stays(written: Written, tmp_path: Path) -> None:
    """The torn piece must not come back, nor hide what follows it."""
    directory = damage(written, tmp_path / "copy", lambda data: data.__delitem__(slice(written.ends[-1] - 1, None)))
    for number in range(3):
        log = Log(directory)
        assert log.last_seq == written.last_seqs[-2] + 2 * number
        commit(log, 100, created(f"after{number}"), unit_put(f"after{number}", 10**6 + number))
        log.close()


def test_a_write_that_a_power_cut_has_torn_leaves_the_batches_before_it(
    written: Written, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of what was not synced, some sectors are there, and the others zeros. LevelDB takes that for damage."""
    rng, refused = random.Random(5), 0
    for number in rng.sample(range(len(written.ends) - 1), 25):
        first, last = written.ends[number : number + 2]

        def tear(data: bytearray, first: int = first, last: int = last) -> None:
            del data[last:]
            sectors = [first, *range((first // SECTOR + 1) * SECTOR, last, SECTOR), last]
            for start, end in pairwise(sectors):
                if rng.random() < 0.5:
                    data[start:end] = bytes(end - start)

        caplog.clear()
        with closing(Log(damage(written, tmp_path / "copy", tear))) as log:
            is_whole = log.last_seq == written.last_seqs[number + 1]
            assert everything(log) == written.contents[number + is_whole]
            assert commit(log, 100, created("after"), unit_put("after", 10**6))[0].seq == log.last_seq - 1, "and it goes on"
        refused += "torn" in caplog.text
    assert refused > 5, "else this shows nothing"


def test_a_torn_write_beside_other_damage_is_left_as_it_is(written: Written, tmp_path: Path) -> None:
    directory = damage(written, tmp_path / "copy", lambda data: data.__setitem__(slice(written.ends[-2] + 100, None), bytes(2000)))
    torn = (directory / written.log_file).read_bytes()
    Log(directory).close()
    directory = damage(written, tmp_path / "copy", lambda data: data.__setitem__(slice(written.ends[-2] + 100, None), bytes(2000)))
    [manifest] = directory.glob("MANIFEST-*")
    manifest.write_bytes(b"\xff" + manifest.read_bytes()[1:])
    with pytest.raises(EngramError, match="It is damaged"):
        Log(directory)
    assert (directory / written.log_file).read_bytes() == torn


def test_zeros_in_what_was_synced_are_damage(written: Written, tmp_path: Path) -> None:
    """However many there are, as long as a later batch is whole: that was written when these were synced."""
    rng = random.Random(6)
    for _ in range(40):
        last = written.ends[rng.randrange(10, len(written.ends) - 1)] // SECTOR * SECTOR
        zeros = bytes(SECTOR * rng.randrange(1, 100))[-last:]
        place = slice(last - len(zeros), last)
        directory = damage(written, tmp_path / "copy", lambda data, to=(place, zeros): data.__setitem__(*to))  # type: ignore[misc]
        before = (directory / written.log_file).read_bytes()
        with pytest.raises(EngramError, match="It is damaged"):
            Log(directory)
        assert (directory / written.log_file).read_bytes() == before


# A flipped bit in LevelDB's log


def flip(at: int, bit: int = 0) -> Callable[[bytearray], None]:
    def change(data: bytearray) -> None:
        data[at] ^= 1 << bit

    return change


def test_a_flipped_bit_in_the_middle_is_refused(written: Written, tmp_path: Path) -> None:
    """In every byte of a piece's header, and here and there in what follows."""
    rng = random.Random(1)
    last_block = written.ends[-1] // BLOCK * BLOCK
    places = [block + at for block in range(0, last_block, BLOCK) for at in range(HEADER)]
    places += [rng.randrange(last_block) for _ in range(60)]
    for place in places:
        directory = damage(written, tmp_path / "copy", flip(place, rng.randrange(8)))
        with pytest.raises(EngramError) as refused:
            Log(directory)
        assert refused.value.code == "storage"
        assert str(directory) in refused.value.message
        assert "Corruption" in refused.value.message


def test_a_flipped_bit_in_the_last_block_never_gives_wrong_data(written: Written, tmp_path: Path) -> None:
    """A length that points beyond the file cannot be told from a torn tail; whole batches are left even then."""
    rng = random.Random(2)
    last_block = written.ends[-1] // BLOCK * BLOCK
    refused = 0
    for place in sorted(
        {rng.randrange(last_block, written.ends[-1]) for _ in range(60)} | {end + 5 for end in written.ends if end > last_block}
    ):
        if place >= written.ends[-1]:
            continue
        directory = damage(written, tmp_path / "copy", flip(place, rng.randrange(8)))
        try:
            log = Log(directory)
        except EngramError as error:
            refused += error.code == "storage"
        else:
            assert everything(log) in written.contents
            log.close()
    assert refused > 30


def test_a_flipped_bit_in_the_log_is_not_salvaged(written: Written, tmp_path: Path) -> None:
    """What is saved is what was there; what is not is named as lost, but for what followed all that is saved."""
    rng = random.Random(4)
    sound = {keys.seq_of(key): value for key, value in written.contents[-1].items() if key[:1] == keys.LOG}
    kept = 0
    places = [rng.randrange(written.ends[-1]) for _ in range(15)] + [BLOCK + at for at in range(HEADER)]
    for place in places:
        directory = damage(written, tmp_path / "copy", flip(place, rng.randrange(8)))
        salvage = Salvage(directory, tmp_path / "scratch")
        saved = dict(salvage.records())
        salvage.close()
        assert saved.items() <= sound.items(), place
        lost = {seq for first, last in salvage.lost for seq in range(first, last + 1)}
        assert lost | saved.keys() == set(range(1, salvage.last + 1))
        kept += len(saved)
    assert kept > len(places) * len(sound) / 3, "most of it"


def test_what_is_sound_is_salvaged_whole(written: Written, tmp_path: Path) -> None:
    salvage = Salvage(written.directory, tmp_path / "scratch")
    assert len(list(salvage.records())) == salvage.last == written.last_seqs[-1]
    assert not salvage.lost
    salvage.close()


def test_a_daemon_refuses_a_damaged_store(written: Written, daemon: Daemon) -> None:
    daemon.data_dir.mkdir(mode=0o700)
    damaged = damage(written, daemon.data_dir / "log", flip(BLOCK + 100))
    before = (damaged / written.log_file).read_bytes()
    said = daemon.start()
    assert daemon.wait() == 1
    assert "cannot be used" in said
    assert "keep a copy" in said
    assert "engram doctor --salvage OUT" in said
    assert "if the disk is full" not in said
    assert said in daemon.said()
    assert not daemon.socket_path.exists()
    assert (damaged / written.log_file).read_bytes() == before, "the evidence is kept"


# A flipped bit in a table


@pytest.fixture(scope="module")
def settled(written: Written, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The same store, all of it in one table file."""
    directory = tmp_path_factory.mktemp("settled") / "log"
    shutil.copytree(written.directory, directory)
    Log(directory).close()
    table = max(directory.glob("*.ldb"), key=lambda path: path.stat().st_size)  # beside the small one of a new store
    assert table.stat().st_size > 20_000
    return directory, table.name


def readers(log: Log, rows: list[tuple[Any, Any]]) -> Iterator[Callable[[], Any]]:
    """Every way of reading a log."""
    yield lambda: everything(log)
    for reverse in (False, True):
        yield lambda reverse=reverse: list(log._store.scan(b"", b"\xff" * 16, reverse))
        yield lambda reverse=reverse: list(log.records(1, keys.LAST_SEQ, reverse))
        yield lambda reverse=reverse: log._store.rows(b"", b"\xff" * 16, reverse, 10**6)
        yield lambda reverse=reverse: [log._store.rows(b"", b"\xff" * 16, reverse, most) for most in range(1, 1500, 97)]
        yield lambda reverse=reverse: [log.rows(keys.LOG, first, first + 30, reverse, 7) for first in range(1, 130, 7)]
        yield lambda reverse=reverse: [
            log.rows(keys.entries("a"), first, last, reverse, 2) for first in range(0, 130, 20) for last in (first + 15, 10**6)
        ]
        for context in "abc":
            for want in (Filter(), Filter(agents=frozenset("x")), Filter(types=frozenset(["message"]))):
                wanted = Range([context], want, 1, keys.LAST_SEQ, reverse, present=True)
                yield lambda wanted=wanted: step(log, wanted, 10**6, 10**6, 10**9)
                yield lambda wanted=wanted: step(log, wanted._replace(first=40, last=60), 10**6, 10**6, 10**9)
                yield lambda wanted=wanted: [page(log, wanted, limit, 10**4) for limit in range(1, 40, 6)]
    yield lambda: [log.has_removals(context) for context in "abcd"]
    yield lambda: [log.record(seq) for seq in range(1, 200)]
    yield lambda: log.first_at(BATCHES // 2)
    for table, key in rows:
        yield lambda table=table, key=key: log.durable.get(table, key)
    yield lambda: list(log.durable.scan(MEMBERS, keys.name("a")))
    yield lambda: list(log.durable.keys(CONTEXTS))
    yield lambda: list(log.durable.keys(AGENTS))


def test_a_flipped_bit_in_a_table_is_never_read_as_data(settled: tuple[Path, str], tmp_path: Path) -> None:
    directory, table = settled
    sound = Log(directory)
    rows: list[tuple[Any, Any]] = [(CONTEXTS, name) for name in "abcd"] + [(AGENTS, name) for name in "xyz"]
    rows += [(UNITS, cbor2.loads(sound.unit(seq) or b"\xa1bidb--")["id"]) for seq in (2, 9, 40)]
    expected = [read() for read in readers(sound, rows)]
    sound.close()
    size = (directory / table).stat().st_size
    rng = random.Random(3)
    noticed = 0
    for place in range(0, size, size // 120):
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        shutil.copytree(directory, tmp_path / "copy")
        data = bytearray((directory / table).read_bytes())
        flip(place, rng.randrange(8))(data)
        (tmp_path / "copy" / table).write_bytes(data)
        before = noticed
        try:
            log = Log(tmp_path / "copy")
        except EngramError as error:
            noticed += error.code == "storage"
            continue
        for read, right in zip(readers(log, rows), expected, strict=True):
            try:
                assert read() == right
            except EngramError as error:
                noticed = before + (error.code == "storage")
        log.close()
    assert noticed > 100, "all but flips in bytes that nobody reads"


def open_damaged(settled: tuple[Path, str], tmp_path: Path) -> Log:
    """A log that opens, because the damage stands among older events."""
    directory, table = settled
    sound = (directory / table).read_bytes()
    for place in range(len(sound) // 3, len(sound), 500):
        shutil.rmtree(tmp_path / "log", ignore_errors=True)
        shutil.copytree(directory, tmp_path / "log")
        (tmp_path / "log" / table).write_bytes(sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :])
        with suppress(EngramError):
            log = Log(tmp_path / "log")
            with suppress(EngramError):
                assert list(log.records(1, log.last_seq))
                log.close()
                continue
            return log
    raise AssertionError("no place hit a record")


async def test_a_read_that_meets_damage_fails_aloud_and_ends_writing(
    settled: tuple[Path, str], tmp_path: Path, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    log = open_damaged(settled, tmp_path)
    server = Server(log, nursery)
    client = await server.connect()
    tail = await client.tail(after=0, follow=True)
    with pytest.raises(EngramError) as failed:
        await client.answer(tail.id)
    assert failed.value.code == "storage"
    assert "engram doctor --salvage OUT" in failed.value.message
    assert (await client.refused("put", context="a", text="x")).code == "storage"
    assert (await client.ask("status"))["status"]["last_seq"] == log.last_seq
    await client.stream.aclose()
    nursery.cancel_scope.cancel()
    log.close()


def test_a_store_that_was_taken_away_ends_writing(daemon: Daemon) -> None:
    assert daemon.start() == "ready"
    log, away = daemon.data_dir / "log", daemon.data_dir / "away"
    with daemon.connect() as client:
        acknowledged = [client.ask("put", context="c", text="before")["seq"]]
        log.rename(away)
        with pytest.raises(EngramError) as refused:
            acknowledged.extend(client.ask("put", context="c", text="on")["seq"] for _ in count())  # for a second at most
        assert (refused.value.code, "is gone" in refused.value.message) == ("storage", True)
        assert "is gone" in client.ask("status")["status"]["problem"]
        assert {one["name"]: one for one in client.ask("metrics")["metrics"]}["engram_writable"]["value"] == 0
        away.rename(log)
        with pytest.raises(EngramError):
            client.ask("put", context="c", text="who knows what happened meanwhile")
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 1
    assert daemon.start() == "ready"
    with daemon.connect() as client:
        assert [event["unit"]["seq"] for event in client.replay(contexts=["c"])] == acknowledged
    daemon.stop()


@pytest.mark.parametrize("what", ["moved", "emptied"])
def test_a_store_that_vanished_is_not_begun_anew(daemon: Daemon, what: str) -> None:
    assert daemon.start() == "ready"
    with daemon.connect() as client:
        client.ask("put", context="c", text="before")
    daemon.stop()
    log, away = daemon.data_dir / "log", daemon.data_dir / "away"
    shutil.move(log, away)
    if what == "emptied":
        log.mkdir()
    said = daemon.start()
    assert "is gone" in said
    assert "restore" in said
    assert daemon.wait() == 1
    if what == "emptied":
        log.rmdir()
    assert not log.exists(), "or it could not be put back"
    shutil.move(away, log)
    assert daemon.start() == "ready"
    with daemon.connect() as client:
        assert [event["unit"]["text"] for event in client.replay(contexts=["c"])] == ["before"]
    daemon.stop()
    log.rename(away)
    (daemon.data_dir / "history").unlink()
    assert daemon.start() == "ready", "who says so may begin anew"
    daemon.stop()
