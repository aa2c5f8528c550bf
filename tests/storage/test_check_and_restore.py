"""Checking a store and restoring one: each thing that can be wrong is broken in a real store, found, named and mended."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import checked, execute, restored, saved, temporary_log, written

from engramd import offline
from engramd.protocol.backup import MANIFEST, Manifest, Segment, frame, parse_manifest, segment_name
from engramd.protocol.errors import EngramError
from engramd.protocol.unit import new_id
from engramd.state import consumers, contexts, locks, presence, redaction, retention, tokens, units
from engramd.state.machine import Command
from engramd.state.restored import LogRestored
from engramd.state.view import CONTEXTS, UNITS, Claim
from engramd.storage import keys, records
from engramd.storage.backup import Source
from engramd.storage.leveldb import Store
from engramd.storage.log import Log
from engramd.storage.records import Record
from engramd.storage.salvage import Salvage
from engramd.storage.trim import old_events, oldest

MICROS = 1_000_000


def commands(rng: random.Random, count: int) -> Iterator[Command]:
    """Writes of every kind, most of which are accepted."""
    ids = [b""]
    tokens = 0
    for number in range(count):
        context, agent, some = rng.choice(["a", "ab", "é"]), rng.choice(["x", "y"]), rng.choice(ids)
        edges = (units.Edge("causes", some, {"n": "1"}),) if some else ()
        meta = rng.choice([{}, {"k": "v"}, {"k": "w", "path": "/a//b"}])
        kind = rng.choice(["message", "file_change"])
        drafts = tuple(
            units.Draft(rng.randbytes(16), kind, meta, rng.choice(["t", "x" * 5000, b"\xff"]), edges) for _ in range(rng.choice([1, 1, 3]))
        )
        choices: list[Command] = [
            units.Put(context, agent, drafts, rng.choice([None, f"key{number}"])),
            units.Put(context, agent, drafts),
            contexts.SetContext(context, agent, f"title {number}", {"l": rng.choice(["1", None])}),
            contexts.SetMember(context, agent, agent, rng.random() < 0.5),
            contexts.SetPins(context, agent, (some,), rng.random() < 0.6),
            contexts.SetPlaces(context, agent, (some,), rng.random() < 0.6),
            locks.Acquire(agent, Claim((f"/{rng.randrange(4)}",), "exclusive"), MICROS, None, False, ""),
            locks.Release(agent, (rng.randrange(1, tokens + 2),), "released", False),
            presence.Arrive(agent),
            presence.Depart((agent,), number, False),
            consumers.CreateConsumer(context, agent, {"contexts": (context,), "filter": {"agents": ["x"]}}, 0, True),
            consumers.Acknowledge(context, rng.randrange(1, tokens + 2), ((1, rng.randrange(1, 9)),), ()),
            consumers.DeleteConsumer(context, agent),
        ]
        chosen = rng.choice(choices)
        if isinstance(chosen, units.Put):
            ids += [draft.id for draft in chosen.units]
        tokens += 2
        yield chosen


def filled(directory: Path, seed: int = 1, count: int = 200) -> None:
    """A store with something of everything."""
    rng = random.Random(seed)
    with closing(Log(directory)) as log:
        for number, command in enumerate(commands(rng, count)):
            execute(log, number * MICROS, command)
        ids = tuple(rng.randbytes(16) for _ in range(3))
        last: list[Command] = [
            units.Put("last", "x", tuple(units.Draft(unit, "file_change", {"path": "/p"}, "t") for unit in ids), "key"),
            contexts.SetPlaces("more", "x", ids, True),
            contexts.SetPlaces("more", "x", ids[:1], False),
            contexts.SetPlaces("last", "x", ids[1:2], False),
            contexts.SetPins("last", "x", ids[2:], True),
            contexts.SetMember("last", "y", "y", True),
        ]
        for command in last:
            execute(log, count * MICROS, command)
        execute(log, count * MICROS, locks.Acquire("x", Claim(("/last",), "exclusive"), MICROS, None, False, ""))
        execute(log, count * MICROS, consumers.CreateConsumer("last", "x", {}, 0, True), consumers.Park("last", log.last_seq + 1, 1, 3))


def everything(directory: Path) -> dict[bytes, bytes]:
    with closing(Store(directory)) as store:
        return dict(store.scan(b"", b"\xff" * 17))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sound") / "log"
    filled(directory)
    return directory


@pytest.mark.parametrize("seed", range(5))
def test_a_sound_store_is_sound(tmp_path: Path, seed: int) -> None:
    filled(tmp_path / "log", seed)
    check = checked(tmp_path / "log")
    assert check.findings == []
    assert not check.skipped


@pytest.mark.parametrize("seed", range(5))
def test_a_restored_store_has_every_key_that_the_first_had(tmp_path: Path, seed: int) -> None:
    filled(tmp_path / "log", seed)
    with closing(Log(tmp_path / "log")) as log:
        saved(log, tmp_path / "backup")
        first = log.history
    made = restored(tmp_path / "backup", tmp_path / "data")
    before, after = everything(tmp_path / "log"), everything(tmp_path / "data/log")
    new = {key for key in after if key[:1] == keys.LOG and keys.seq_of(key) > made.last}
    assert len(new) == 1 + made.leases, "that it was restored, and the end of each lease"
    assert {key for key in before if key[:1] == keys.LEASES}, "the test means something"
    assert not {key for key in after if key[:1] == keys.LEASES}
    gone = {keys.HISTORY, *(key for key in before if key[:1] == keys.LEASES)}
    assert {key: value for key, value in after.items() if key not in new | gone} == {k: v for k, v in before.items() if k not in gone}
    assert after[keys.HISTORY].decode() == made.history != first
    assert checked(tmp_path / "data/log").findings == []


# What can be wrong

Break = Callable[[Store, dict[bytes, bytes]], tuple[bytes, bytes | None]]


def of(found: dict[bytes, bytes], prefix: bytes) -> bytes:
    """The middle one of the keys with a prefix."""
    fitting = sorted(key for key in found if key[:1] == prefix)
    return fitting[len(fitting) // 2]


DERIVED = [keys.ENTRY, keys.GONE, keys.BY_AGENT, keys.BY_TYPE, keys.BY_META, keys.BY_TARGET, keys.BY_PATH]
ROWS = [keys.CONTEXTS, keys.AGENTS, keys.UNITS, keys.MEMBERS, keys.PINS, keys.PLACES, keys.DEDUPE, keys.LEASES, keys.CONSUMERS]
ROWS += [keys.PROGRESS, keys.PARKED]


@pytest.mark.parametrize("prefix", DERIVED + ROWS)
@pytest.mark.parametrize("how", ["missing", "wrong", "stray"])
def test_whatever_is_derived_is_found_and_mended(store: Path, tmp_path: Path, prefix: bytes, how: str) -> None:
    directory = tmp_path / "data/log"
    shutil.copytree(store, directory)
    before = everything(directory)
    key = of(before, prefix)
    with closing(Store(directory)) as broken:
        batch = broken.batch()
        if how == "missing":
            batch.delete(key)
        elif how == "wrong":
            batch.put(key, b"\x80" if prefix in ROWS else b"\1" + bytes(8))
        else:
            batch.put(key[:-1] + bytes((key[-1] ^ 0x55,)), before[key])
        broken.write(batch)
    found = checked(directory)
    check = "keys" if prefix in DERIVED else "rows"
    assert {finding.check for finding in found.findings} == {check}, found.findings
    assert found.wrong[check] == 1
    with closing(Store(directory)) as broken:
        assert offline._repair(broken) == 1
    assert everything(directory) == before
    assert checked(directory).findings == []


def test_a_key_that_belongs_to_nothing_is_found(store: Path, tmp_path: Path) -> None:
    directory = tmp_path / "log"
    shutil.copytree(store, directory)
    with closing(Store(directory)) as broken:
        batch = broken.batch()
        batch.put(b"zzz", b"1")
        broken.write(batch)
    assert [(found.check, found.message) for found in checked(directory).findings] == [("keys", "the key zzz belongs to nothing")]


def test_a_gap_is_found_and_is_not_mended(store: Path, tmp_path: Path) -> None:
    directory = tmp_path / "log"
    shutil.copytree(store, directory)
    with closing(Store(directory)) as broken:
        last = [keys.seq_of(key) for key, _ in broken.scan(keys.LOG, keys.LOG + b"\xff" * 8)][-1]
        batch = broken.batch()
        batch.delete(keys.LOG + keys.pack_seq(last // 2))
        broken.write(batch)
    found = checked(directory)
    assert (("gaps", f"event {last // 2} is missing, and nothing says why")) in [(one.check, one.message) for one in found.findings]
    with closing(Store(directory)) as broken:
        offline._repair(broken)
    assert set(checked(directory).wrong) >= {"gaps"}


def test_a_lost_history_and_an_unknown_format(store: Path, tmp_path: Path) -> None:
    directory = tmp_path / "log"
    shutil.copytree(store, directory)
    with closing(Store(directory)) as broken:
        batch = broken.batch()
        batch.delete(keys.HISTORY)
        broken.write(batch)
    assert [found.message for found in checked(directory).findings] == ["the store has lost its history id"]
    with closing(Store(directory)) as broken:
        offline._repair(broken)
        batch = broken.batch()
        batch.put(keys.FORMAT, b"9")
        batch.put(b"zzz", b"of the time to come")
        broken.write(batch)
    check, before = checked(directory), everything(directory)
    assert [found.message for found in check.findings] == [
        "the store has format 9, this Engram reads format 1; use the Engram that wrote it"
    ]
    assert len(check.skipped) == 5
    with closing(Store(directory)) as unknown:
        assert offline._repair(unknown) == 0
    assert everything(directory) == before, "nothing is mended that is not understood"
    with pytest.raises(EngramError, match="use the Engram that wrote it"):
        Salvage(directory, tmp_path / "scratch")
    assert not (tmp_path / "scratch").exists()


def test_an_event_that_cannot_be_read(store: Path, tmp_path: Path) -> None:
    directory = tmp_path / "log"
    shutil.copytree(store, directory)
    with closing(Store(directory)) as broken:
        batch = broken.batch()
        batch.put(keys.LOG + keys.pack_seq(3), b"\1\2\3")
        broken.write(batch)
    found = checked(directory)
    assert found.findings[0].message.startswith("event 3 cannot be read")
    assert found.skipped == ["keys", "rows"]


def test_a_flipped_byte_in_a_table_is_found(store: Path, tmp_path: Path) -> None:
    directory = tmp_path / "log"
    shutil.copytree(store, directory)
    with closing(Store(directory)) as log:
        log._db.compact_range()
    table = max(directory.glob("*.ldb"), key=lambda path: path.stat().st_size)
    data = bytearray(table.read_bytes())
    data[len(data) // 2] ^= 1
    table.write_bytes(data)
    found = checked(directory)
    [finding] = found.findings
    assert finding.check == "blocks"
    assert found.wrong["blocks"] == 1, "however many prefixes have keys in it"
    assert found.skipped == ["gaps", "events", "keys", "rows"]


@pytest.mark.parametrize(("prefix", "members"), [(keys.CONTEXTS, 8), (keys.PROGRESS, 4), (keys.UNITS, 6)])
def test_a_row_that_an_older_version_wrote_is_sound(store: Path, tmp_path: Path, prefix: bytes, members: int) -> None:
    directory = tmp_path / "log"
    shutil.copytree(store, directory)
    before = everything(directory)
    older = next(
        (key, row[:members]) for key, value in before.items() if key[:1] == prefix and not any((row := cbor2.loads(value))[members:])
    )
    with closing(Store(directory)) as changed:
        batch = changed.batch()
        batch.put(older[0], cbor2.dumps(older[1]))
        changed.write(batch)
    assert checked(directory).findings == []


@given(st.randoms(use_true_random=False), st.data())
@settings(max_examples=20)
def test_any_damage_to_derived_keys_is_mended_exactly(rng: random.Random, data: st.DataObject) -> None:
    with temporary_log() as log:
        for number, command in enumerate(commands(rng, 40)):
            execute(log, number, command)
        before = dict(log._store.scan(b"", b"\xff" * 17))
        derived = sorted(key for key in before if key[:1] != keys.LOG and key not in (keys.FORMAT, keys.HISTORY))
        if not derived:
            return
        batch = log._store.batch()
        for key in data.draw(st.lists(st.sampled_from(derived), max_size=10)):
            if data.draw(st.booleans()):
                batch.delete(key)
            else:
                batch.put(key, before[data.draw(st.sampled_from([one for one in derived if one[:1] == key[:1]]))])
        log._store.write(batch)
        offline._repair(log._store)
        assert dict(log._store.scan(b"", b"\xff" * 17)) == before


# Hostile and damaged backups


@pytest.fixture(scope="module")
def good(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("good")
    shutil.copytree(store, copy / "log")
    with closing(Log(copy / "log")) as log:
        return saved(log, copy / "backup")


def refused(path: Path, directory: Path) -> str:
    """Why a backup is not restored; nothing is left of the attempt."""
    with pytest.raises(EngramError) as raised:
        restored(path, directory)
    assert list(directory.iterdir()) == []
    return raised.value.message


def altered(good: Path, target: Path) -> tuple[Path, Path]:
    shutil.copytree(good, target)
    [segment] = target.glob("*.segment")
    return target, segment


@pytest.mark.parametrize("place", [0.0, 0.3, 0.99])
def test_a_flipped_bit_is_refused(good: Path, tmp_path: Path, place: float) -> None:
    path, segment = altered(good, tmp_path / "b")
    data = bytearray(segment.read_bytes())
    data[int(len(data) * place)] ^= 4
    segment.write_bytes(data)
    assert "the backup is damaged" in refused(path, tmp_path / "d")


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"x", lambda data: b"", lambda data: data + data])
def test_a_segment_of_another_size_is_refused(good: Path, tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    path, segment = altered(good, tmp_path / "b")
    segment.write_bytes(change(segment.read_bytes()))
    assert "the backup is damaged" in refused(path, tmp_path / "d")


def test_a_missing_segment_a_link_and_a_pipe_are_refused(good: Path, tmp_path: Path) -> None:
    import os

    path, segment = altered(good, tmp_path / "b")
    moved = segment.rename(tmp_path / "elsewhere")
    assert "is missing" in refused(path, tmp_path / "d1")
    segment.symlink_to(moved)
    assert "symbolic" in refused(path, tmp_path / "d2").lower()
    segment.unlink()
    os.mkfifo(segment)
    assert "not a regular file" in refused(path, tmp_path / "d3")
    segment.unlink()
    segment.mkdir()
    assert "not a regular file" in refused(path, tmp_path / "d4") or "directory" in refused(path, tmp_path / "d5")


def test_a_manifest_that_is_none_is_refused(good: Path, tmp_path: Path) -> None:
    path, _ = altered(good, tmp_path / "b")
    whole = (path / MANIFEST).read_bytes()
    for wrong in (b"", b"{}", b"[]", b"null", b'{"format": 1}', b"[" * 100000, whole[:-40], whole.replace(b'"last"', b'"lost"', 1)):
        (path / MANIFEST).write_bytes(wrong)
        assert "backup" in refused(path, tmp_path / "d")
    (path / MANIFEST).unlink()
    assert "there is no backup" in refused(path, tmp_path / "d")


def test_a_manifest_with_tricks_is_refused() -> None:
    digest = "a" * 64
    fine = Segment(segment_name(1, 5, digest), 1, 5, 5, 100, digest)
    Manifest("0" * 12, 1, 5, "", (fine,)).encode()
    for tricks in (
        {"segments": (replace(fine, file="../../etc/passwd"),)},
        {"segments": (replace(fine, file="/etc/passwd"),)},
        {"segments": (replace(fine, last=6),)},
        {"segments": (replace(fine, first=2),)},
        {"segments": (replace(fine, size=-1),)},
        {"segments": (replace(fine, size=2**70),)},
        {"segments": (fine, fine)},
        {"last": 6},
        {"history": "../.."},
        {"lost": ((3, 2),)},
        {"lost": ((1, 99),)},
        {"salvaged": "yes"},
    ):
        members: dict[str, Any] = {"history": "0" * 12, "made_at": 1, "last": 5, "server": "", "segments": (fine,), **tricks}
        with pytest.raises(EngramError, match="the backup is damaged"):
            parse_manifest(Manifest(**members).encode())


def _records(good: Path) -> list[tuple[int, bytes]]:
    with closing(Source(good)) as source:
        return list(source.records())


@pytest.mark.parametrize("name", ["hole", "tail", "swap", "twice", "unknown code", "foreign time", "nonsense", "no context", "tag", "nul"])
def test_a_backup_with_right_checksums_and_wrong_events_is_refused(good: Path, tmp_path: Path, name: str) -> None:
    found = _records(good)
    at = next(index for index, (_, value) in enumerate(found) if value[0] == 1)
    seq, value = found[at]
    last = found[-1][0]
    if name == "hole":
        del found[at]
    elif name == "tail":
        found.pop()
    elif name == "swap":
        found[at], found[at + 1] = found[at + 1], found[at]
    elif name == "twice":
        found.insert(at, found[at])
    elif name == "unknown code":
        found[at] = (seq, b"\xee" + value[1:])
    elif name == "foreign time":
        found[at] = (seq, value[:1] + b"\xff" * 8 + value[9:])
    elif name == "nonsense":
        found[at] = (seq, value[:11] + b"\xff" * 30)
    elif name == "no context":
        found = [(seq - 1, value) for seq, value in found[1:]]
        last -= 1
    elif name == "tag":
        found[at] = (seq, value[:11] + b"\xc1" + value[11:])
    else:
        import cbor2

        found[0] = (1, found[0][1][:11] + cbor2.dumps({**cbor2.loads(found[0][1][11:]), "context": "a\0b"}))
    (tmp_path / "b").mkdir()
    path = written(tmp_path / "b", b"".join(frame(*one) for one in found), len(found), last)
    assert "the backup is damaged" in refused(path, tmp_path / "d")


def test_a_salvaged_backup_with_holes_is_restored_and_says_so(good: Path, tmp_path: Path) -> None:
    found = _records(good)
    last = found[-1][0]
    del found[0:3], found[20:40]
    seqs = {seq for seq, _ in found}
    (tmp_path / "b").mkdir()
    lost = tuple((first, end) for first, end in ((1, 3), (24, 43)) if not seqs & set(range(first, end + 1)))
    assert len(lost) == 2
    path = written(tmp_path / "b", b"".join(frame(*one) for one in found), len(found), last, salvaged=True, lost=lost)
    made = restored(path, tmp_path / "d")
    assert made.events == len(found)
    assert made.skipped > 0
    check = checked(tmp_path / "d/log")
    assert check.findings == []
    with closing(Log(tmp_path / "d/log")) as log:
        saved(log, tmp_path / "again")
    assert restored(tmp_path / "again", tmp_path / "d2").skipped == made.skipped, "what has holes can be backed up and restored again"


def test_a_store_that_is_there_is_not_overwritten(good: Path, tmp_path: Path) -> None:
    restored(good, tmp_path / "d")
    before = everything(tmp_path / "d/log")
    with pytest.raises(EngramError, match="has a store already"):
        restored(good, tmp_path / "d")
    assert everything(tmp_path / "d/log") == before


# What retention and redaction leave


def trim(log: Log, context: str, ts: int) -> None:
    """Have the context keep no more than it says, a few entries at a time."""
    after: int | None = 0
    while after is not None:
        found, after = oldest(log, context, after, 7)
        if found:
            execute(log, ts, retention.TrimContext(context, ts, tuple(found)))


@pytest.mark.parametrize("seed", range(6))
def test_a_trimmed_and_redacted_store_is_sound_backed_up_and_restored(tmp_path: Path, seed: int) -> None:
    filled(tmp_path / "log", seed, 150)
    rng = random.Random(1000 + seed)  # or the same units would be put again
    with closing(Log(tmp_path / "log")) as log:
        ids = [key[1:] for key, _ in log._store.scan(keys.UNITS, keys.UNITS + b"\xff" * 16)]
        execute(log, 10**12, redaction.Redact("x", tuple(rng.sample(ids, 8)), "why"))
        for context in ("a", "ab", "é", "last"):
            execute(log, 10**12, retention.SetRetention(context, "x", {"units": rng.randrange(1, 9), "bytes": None, "age": None}))
            trim(log, context, 10**12)
        execute(log, 10**12, *list(commands(rng, 30)))
        trim(log, "a", 10**12)
        missing = log.last_seq - sum(1 for _ in log.records(1, log.last_seq))
        assert missing > 5
        saved(log, tmp_path / "backup")
    assert [found.message for found in checked(tmp_path / "log").findings] == []
    made = restored(tmp_path / "backup", tmp_path / "data")
    before, after = everything(tmp_path / "log"), everything(tmp_path / "data/log")
    inexact = {keys.CONTEXTS, keys.AGENTS, keys.MEMBERS, keys.PAST_MEMBERS, keys.LEASES}
    new = {key for key in after if key[:1] == keys.LOG and keys.seq_of(key) > made.last}
    assert {key: value for key, value in after.items() if key[:1] not in inexact and key not in new | {keys.HISTORY}} == {
        key: value for key, value in before.items() if key[:1] not in inexact and key != keys.HISTORY
    }
    assert {key for key in after if key[:1] == keys.CONTEXTS} == {key for key in before if key[:1] == keys.CONTEXTS}
    with closing(Log(tmp_path / "data/log")) as log, closing(Log(tmp_path / "log")) as first:
        for context in ("a", "ab", "é", "last", "more"):
            one, other = log.durable.get(CONTEXTS, context), first.durable.get(CONTEXTS, context)
            assert (one and one._replace(updated_at=0, created_at=0)) == (other and other._replace(updated_at=0, created_at=0))
    assert checked(tmp_path / "data/log").findings == []


def test_a_unit_that_has_moved_on_is_sound_and_restored(tmp_path: Path) -> None:
    """Of its entries, the first was trimmed while the second was there, and the second when there was a third."""
    with closing(Log(tmp_path / "log")) as log:

        def put(context: str) -> bytes:
            unit_id = new_id(10**12)
            execute(log, 10**12, units.Put(context, "x", (units.Draft(unit_id, "message", {}, "text"),)))
            return unit_id

        def keep_one(context: str) -> None:
            execute(log, 10**12, retention.SetRetention(context, "x", {"units": 1, "bytes": None, "age": None}))
            trim(log, context, 10**12)

        unit = put("a")
        put("a")
        execute(log, 10**12, contexts.SetPlaces("b", "x", (unit,), True))
        keep_one("a")
        execute(log, 10**12, contexts.SetPlaces("c", "x", (unit,), True))
        put("b")
        keep_one("b")
        row = log.durable.get(UNITS, unit)
        assert row is not None
        assert (row.entries, row.born) == (1, False)
        saved(log, tmp_path / "backup")
    assert [found.message for found in checked(tmp_path / "log").findings] == []
    restored(tmp_path / "backup", tmp_path / "data")
    with closing(Log(tmp_path / "data/log")) as log:
        assert log.durable.get(UNITS, unit) == row
    assert checked(tmp_path / "data/log").findings == []


def test_a_salvage_brings_nothing_back_that_was_removed(tmp_path: Path) -> None:
    with closing(Log(tmp_path / "log")) as log:
        for number in range(3):
            execute(log, 10**12, units.Put("a", "x", (units.Draft(new_id(10**12), "message", {}, f"text {number}"),)))
        first = log._store.get(keys.LOG + keys.pack_seq(2))
        execute(log, 10**12, retention.SetRetention("a", "x", {"units": 1, "bytes": None, "age": None}))
        trim(log, "a", 10**12)
        assert log.record(2) is None
        batch = log._store.batch()
        batch.put(keys.LOG + keys.pack_seq(2), first)  # as when the block is lost which says that it is gone
        log._store.write(batch)
    salvage = Salvage(tmp_path / "log", tmp_path / "scratch")
    assert [seq for seq, _ in salvage.records()] == [1, 4, 5, 6]
    assert salvage.lost == []
    salvage.close()


Versions = dict[bytes, list[bytes | None]]


def versions_of(directory: Path, rng: random.Random) -> Versions:
    """Every record that a log ever had, and None from when it had none; contexts of it have lost units, and units what was in them."""
    versions: Versions = {}
    with closing(Log(directory)) as log:

        def note() -> None:
            now = dict(log._store.prefixed(keys.LOG))
            for key in now.keys() | versions.keys():
                known = versions.setdefault(key, [None])
                if known[-1] != now.get(key):
                    known.append(now.get(key))

        for number, command in enumerate(commands(rng, 80)):
            execute(log, number, command)
            note()
            if number % 8 == 7:
                context, ids = rng.choice(["a", "ab"]), list(log._store.keys(keys.UNITS))
                execute(log, number, redaction.Redact("x", tuple(rng.sample(ids, min(2, len(ids)))), "why"))
                execute(log, number, contexts.SetPlaces(context, "x", tuple(rng.sample(ids, min(3, len(ids)))), True))
                note()
                execute(log, number, retention.SetRetention(context, "x", {"units": rng.randrange(1, 5), "bytes": None, "age": None}))
                trim(log, context, number)
                note()
    return versions


@pytest.mark.parametrize("seed", range(25))
def test_whatever_damage_leaves_of_each_record_a_salvage_holds_together(tmp_path: Path, seed: int) -> None:
    """Any record may be as it was before an event that is there, or with one that is not."""
    rng = random.Random(seed)
    versions = versions_of(tmp_path / "log", rng)
    with closing(Store(tmp_path / "log")) as store:
        batch = store.batch()
        for key, known in versions.items():
            value = rng.choice(known if rng.random() < 0.1 else known[-1:])
            if value is None:
                batch.delete(keys.LOG + key)
            else:
                batch.put(keys.LOG + key, value)
        store.write(batch)
    salvage = Salvage(tmp_path / "log", tmp_path / "scratch")
    found = list(salvage.records())
    salvage.close()
    events = {seq: records.decode_event(records.unpack(value)) for seq, value in found}
    lost = {seq for first, end in salvage.lost for seq in range(first, end + 1)}
    trims = {seq: event for seq, event in events.items() if isinstance(event, retention.UnitsTrimmed)}
    gone = {seq for event in trims.values() for seq in event.removed}
    assert events.keys() | lost | gone == set(range(1, salvage.last + 1))
    assert not events.keys() & gone
    erased = {event.unit for event in events.values() if isinstance(event, redaction.UnitRedacted)}
    for seq, value in found:
        event, unit = events[seq], cbor2.loads(records.unpack(value).body)
        if isinstance(event, units.UnitPut):
            assert "redacted" in unit or seq not in erased
        assert not isinstance(event, contexts.UnitAdded) or event.unit in events
    (tmp_path / "b").mkdir()
    frames = b"".join(frame(*one) for one in found)
    restored(written(tmp_path / "b", frames, len(found), salvage.last, salvaged=True, lost=tuple(salvage.lost)), tmp_path / "d")
    assert [one.message for one in checked(tmp_path / "d/log").findings] == []
    with closing(Store(tmp_path / "d/log")) as store:
        for trim_event in trims.values():
            for entry, _ in trim_event.entries:
                assert store.get(keys.entries(trim_event.context) + keys.pack_seq(entry)) is None


# What a salvage makes of it


def put_units(log: Log, context: str, *texts: str, key: str | None = None, ids: tuple[bytes, ...] = ()) -> list[bytes]:
    """Put units together; gives their ids."""
    made = ids or tuple(new_id(10**12) for _ in texts)
    drafts = tuple(units.Draft(unit, "message", {"k": "v"}, text) for unit, text in zip(made, texts, strict=True))
    execute(log, 10**12, units.Put(context, "x", drafts, key, keeps_ids=bool(ids)))
    return list(made)


def keep(log: Log, context: str, count: int) -> None:
    execute(log, 10**12, retention.SetRetention(context, "x", {"units": count, "bytes": None, "age": None}))
    trim(log, context, 10**12)


def forget(log: Log) -> None:
    """Remove all old events that nothing rests on."""
    old, reached = old_events(log, 0, 10**13)
    execute(log, 10**12, retention.TrimEvents(reached, tuple(old)))


def changed(log: Log, records_: dict[int, bytes | None]) -> None:
    """Have the log other records, as damage may uncover or take them."""
    batch = log._store.batch()
    for seq, value in records_.items():
        if value is None:
            batch.delete(keys.LOG + keys.pack_seq(seq))
        else:
            batch.put(keys.LOG + keys.pack_seq(seq), value)
    log._store.write(batch)


def stored_at(log: Log, seq: int) -> bytes:
    found: bytes | None = log._store.get(keys.LOG + keys.pack_seq(seq))
    assert found is not None
    return found


def salvaged(tmp_path: Path) -> tuple[dict[int, bytes], list[tuple[int, int]], int]:
    """What a salvage of the store gives: records, what is lost, and the last seq. It can be restored, and what is restored is sound."""
    salvage = Salvage(tmp_path / "log", tmp_path / "scratch")
    found = dict(salvage.records())
    salvage.close()
    (tmp_path / "b").mkdir()
    frames = b"".join(frame(*one) for one in found.items())
    restored(written(tmp_path / "b", frames, len(found), salvage.last, salvaged=True, lost=tuple(salvage.lost)), tmp_path / "d")
    assert [one.message for one in checked(tmp_path / "d/log").findings] == []
    return found, salvage.lost, salvage.last


def test_units_that_only_their_contexts_still_have_are_saved(tmp_path: Path) -> None:
    with closing(Log(tmp_path / "log")) as log:
        put_units(log, "a", "one", "two", key="key")
        [unit] = put_units(log, "a", "secret")
        execute(log, 10**12, redaction.Redact("x", (unit,), "why"))
        put_units(log, "a", "large" * 1000, "last")
        sound = {seq: stored_at(log, seq) for seq in (2, 3, 4, 6, 7)}
        changed(log, dict.fromkeys(sound))
    found, lost, last = salvaged(tmp_path)
    assert {seq: found.get(seq) for seq in sound} == {**sound, 6: None}, "but for those that are too large to stand there"
    assert (lost, last) == ([(6, 6)], 7)


def test_an_entry_that_was_trimmed_stays_so_without_the_event_that_says_it(tmp_path: Path) -> None:
    with closing(Log(tmp_path / "log")) as log:
        [unit] = put_units(log, "team", "one")
        execute(log, 10**12, contexts.SetPlaces("archive", "x", (unit,), True))
        put_units(log, "team", "two")
        keep(log, "team", 1)
        put_units(log, "team", "three")
        trim(log, "team", 10**12)
        forget(log)
        before = dict(log.records(1, log.last_seq))
        assert records.trimmed_at(before[2]) not in before
    found, lost, _ = salvaged(tmp_path)
    assert found == {seq: records.pack(record) for seq, record in before.items()}
    assert lost == []
    with closing(Log(tmp_path / "d/log")) as log, closing(Log(tmp_path / "log")) as first:
        for name in ("team", "archive"):
            assert log.durable.get(CONTEXTS, name) == first.durable.get(CONTEXTS, name)
        assert log.durable.get(UNITS, unit) == first.durable.get(UNITS, unit)


def test_a_unit_that_came_back_by_an_import_is_there_once(tmp_path: Path) -> None:
    with closing(Log(tmp_path / "log")) as log:
        [unit] = put_units(log, "a", "the secret")
        first = stored_at(log, 2)
        put_units(log, "a", "other")
        keep(log, "a", 1)
        put_units(log, "a", "the secret", ids=(unit,))
        changed(log, {2: first, 5: None})
    found, lost, _ = salvaged(tmp_path)
    assert 2 not in found
    assert 6 in found
    assert lost == [(2, 2), (5, 5)]


def test_entries_that_damage_uncovers_bring_nothing_back(tmp_path: Path) -> None:
    """Of what retention took, by events that are gone; one of them was imported again."""
    with closing(Log(tmp_path / "log")) as log:
        taken = [unit for number in range(6) for unit in put_units(log, "a", f"text {number}")]
        entries = dict(log._store.scan(keys.entries("a"), keys.entries("a") + b"\xff" * 8))
        keep(log, "a", 2)
        put_units(log, "a", "text 1", ids=(taken[1],))
        trim(log, "a", 10**12)
        forget(log)
        there = {seq for seq, _ in log.records(1, log.last_seq)}
        batch = log._store.batch()
        for key, value in entries.items():
            batch.put(key, value)
        log._store.write(batch)
    found, lost, _ = salvaged(tmp_path)
    assert (found.keys(), lost) == (there, [])


def test_additions_of_lost_units_are_lost_wherever_they_stand(tmp_path: Path) -> None:
    with closing(Log(tmp_path / "log")) as log:
        [unit] = put_units(log, "a", "x" * 5000)
        execute(log, 10**12, contexts.SetPlaces("b", "x", (unit,), True))
        execute(log, 10**12, locks.Acquire("x", Claim(("/r",), "exclusive"), MICROS, None, False, ""))
        forget(log)
        execute(log, 10**12, contexts.SetPlaces("c", "x", (unit,), True))
        changed(log, {2: None})
        end = log.last_seq
    found, lost, last = salvaged(tmp_path)
    assert lost == [(2, 2), (4, 4), (end - 1, end)] or lost == [(4, 4), (end, end)], (
        "a missing one below what was looked at may have been removed"
    )
    assert last == end
    assert end not in found
    with closing(Log(tmp_path / "d/log")) as log:
        assert log.last_seq > end, "what is lost is not given out again"
        saved(log, tmp_path / "again")
    restored(tmp_path / "again", tmp_path / "d2")


def test_a_lost_removal_between_two_additions(tmp_path: Path) -> None:
    """The unit stands where it stood first, once, and can be removed."""
    with closing(Log(tmp_path / "log")) as log:
        [unit] = put_units(log, "a", "one")
        for present in (True, False, True, False):
            execute(log, 10**12, contexts.SetPlaces("b", "x", (unit,), present))
        changed(log, {5: None})
    _, lost, _ = salvaged(tmp_path)
    assert lost == [(5, 5)]
    with closing(Log(tmp_path / "d/log")) as log:
        row = log.durable.get(CONTEXTS, "b")
        assert row is not None
        assert (row.entries, row.removed) == (1, 0)
        execute(log, 10**16, contexts.SetPlaces("b", "x", (unit,), False))
        row = log.durable.get(CONTEXTS, "b")
        assert row is not None
        assert (row.entries, row.removed) == (0, 1)


# Backups that somebody made up


def made_up(path: Path, *events: Any) -> Path:
    """A backup of these events, after some sound ones: a unit at 2, and at 3 a redacted one."""
    with closing(Log(path / "log")) as log:
        put_units(log, "a", "one", "two", ids=(UNIT, REDACTED))
        execute(log, 10**12, redaction.Redact("x", (REDACTED,), "why"))
        found = [(seq, records.pack(record)) for seq, record in log.records(1, log.last_seq)]
    for seq, event in enumerate(events, len(found) + 1):
        found.append((seq, records.pack(event if isinstance(event, Record) else records.encode_event(seq, 10**12, event))))
    (path / "b").mkdir()
    return written(path / "b", b"".join(frame(*one) for one in found), len(found), len(found))


UNIT, REDACTED, OTHER = (bytes([0x01, 0x93, 0, 0, 0, 0, 0x70, 0, 0x80, 0, 0, 0, 0, 0, 0, last]) for last in (1, 2, 3))


def a_put(**members: Any) -> units.UnitPut:
    event = units.UnitPut("a", "x", OTHER, "message", {}, "text", ())
    return event._replace(**members)


@pytest.mark.parametrize(
    "event",
    [
        a_put(id=UNIT),
        a_put(dedupe=b"k" * 16, dedupe_count=2**62),
        a_put(dedupe=b"k" * 16, dedupe_count=0),
        a_put(size=2**62),
        contexts.UnitAdded("b", "x", 2, "a", REDACTED),
        contexts.UnitAdded("b", "x", 9, "a", UNIT),
        redaction.UnitRedacted("a", "x", 2, UNIT, "why"),
        retention.UnitsTrimmed("a", ((9, UNIT),), (9,)),
        retention.UnitsTrimmed("a", (), ()),
        retention.UnitsTrimmed("a", ((2, b"x"),), ()),
        retention.EventsTrimmed(9, (), ()),
        retention.EventsTrimmed(1, (), (("a", 9),)),
        LogRestored("0" * 12, 4, ((9, 2**50),)),
        consumers.ConsumerCreated("c", "x", (), {"foo": 1}, "", 1, 1, 0),
        tokens.TokenIssued("x", "to\0ken", "x", b"d" * 32, (), (), (), None, ""),
        tokens.TokenIssued("x", "token", "x", b"d" * 32, (), (), (), 2**63 - 1, ""),
        records.encode_event(5, 2**62, contexts.ContextCreated("b", "x", "b", {})),
        records.trimmed(records.encode_event(5, 10**12, a_put()), 3),
        records.with_extra(records.encode_event(5, 10**12, a_put()), trimmed="x"),
    ],
    ids=lambda event: type(event).__name__,
)
def test_what_no_engramd_would_have_written_is_refused(tmp_path: Path, event: Any) -> None:
    assert "the backup is damaged: event 5 " in refused(made_up(tmp_path, event), tmp_path / "d")


def test_a_trim_that_is_said_twice_takes_once(tmp_path: Path) -> None:
    added = contexts.UnitAdded("a", "x", 2, "a", UNIT)
    trim_event = retention.UnitsTrimmed("a", ((2, UNIT), (3, REDACTED)), ())
    restored(made_up(tmp_path, contexts.UnitRemoved("a", "x", 2, 2, "a"), added, trim_event, trim_event), tmp_path / "d")
    with closing(Log(tmp_path / "d/log")) as log:
        row = log.durable.get(CONTEXTS, "a")
        assert row is not None
        assert (row.entries, row.removed) == (1, 0)


def test_seqs_beyond_all_logs_are_refused(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    record = records.pack(records.encode_event(2**60, 10**12, contexts.ContextCreated("b", "x", "b", {})))
    path = written(tmp_path / "b", frame(2**60, record), 1, 2**60, salvaged=True, lost=((1, 2**60 - 1),))
    assert "seq 1152921504606846976" in refused(path, tmp_path / "d")


def test_a_loss_in_very_many_places_is_restored_and_can_be_again(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    seqs = range(2, 2 * 25_000, 2)
    event = records.encode_event(2, 10**12, contexts.ContextChanged("b", "x", None, {}))
    frames = b"".join(frame(seq, records.pack(event)) for seq in seqs)
    restored(
        written(tmp_path / "b", frames, len(seqs), seqs[-1], salvaged=True, lost=tuple((seq - 1, seq - 1) for seq in seqs)), tmp_path / "d"
    )
    with closing(Log(tmp_path / "d/log")) as log:
        kinds = [record.kind for _, record in log.records(seqs[-1] + 1, log.last_seq)]
        assert kinds == ["log_restored"] * 3
        saved(log, tmp_path / "again")
    restored(tmp_path / "again", tmp_path / "d2")
