"""`engram doctor`: each thing that can be wrong is broken, named, and where it can be, mended."""

from __future__ import annotations

import json
import os
import signal
import socket
from contextlib import closing
from pathlib import Path

from commandline import Done, Shell, until

from engramd.storage import keys
from engramd.storage.leveldb import Store


def findings(done: Done) -> dict[str, str]:
    """The worst result of each check."""
    found: dict[str, str] = {}
    for line in done.objects:
        if found.get(line["check"]) != "wrong":
            found[line["check"]] = line["result"]
    return found


def doctor(shell: Shell, *options: str, code: int = 0) -> dict[str, str]:
    done = shell.run("doctor", "--json", *options)
    assert done.code == code, (done.out, done.err)
    return findings(done)


def fill(shell: Shell, count: int = 20) -> None:
    """Have something stored, by a daemon that has stopped since."""
    shell.daemon()
    with shell.client() as client:
        for number in range(count):
            client.put("c", str(number) * 50, meta={"k": "v"})
    shell.run("daemon", "stop")


SOUND = dict.fromkeys(("format", "blocks", "gaps", "events", "keys", "rows"), "ok")


def test_through_a_daemon_and_without_one(alone: Shell) -> None:
    assert doctor(alone) == {"socket": "ok", "store": "note"}
    assert not alone.serves(), "no daemon is started"
    assert doctor(alone, "--data-dir", "/nowhere", code=1) == {"store": "wrong"}, "one that was named is meant to be there"
    fill(alone)
    assert doctor(alone) == {"socket": "ok", **SOUND}
    alone.daemon()
    assert doctor(alone) == {"socket": "ok", "version": "ok", "search": "ok", **SOUND}
    alone.ok("search", "1" * 100)
    assert doctor(alone)["search"] in ("ok", "note")
    for option in (["--repair"], ["--salvage", "x"]):
        assert "a daemon runs" in alone.fails(75, "doctor", *option)
    assert "only one of them" in alone.fails(2, "doctor", "--repair", "--salvage", "x")
    assert [line.split("\t")[0] for line in alone.ok("doctor").lines] == ["ok"] * 9


def test_a_daemon_that_takes_no_puts(alone: Shell) -> None:
    alone.daemon(ENGRAM_MIN_FREE="1000T")
    assert "almost full" in alone.fails(75, "put", "c", "x")
    assert "almost full" in alone.ok("status", "--json").objects[0]["problem"]
    assert any(line.startswith("limits\tmost.connections=") for line in alone.ok("status").lines)
    assert doctor(alone, code=1)["daemon"] == "wrong"


def test_sockets(alone: Shell) -> None:
    fill(alone)
    with closing(socket.socket(socket.AF_UNIX)) as left:
        left.bind(str(alone.socket))
    assert doctor(alone)["socket"] == "note"
    alone.socket.unlink()
    alone.socket.write_text("")
    assert doctor(alone, code=1)["socket"] == "wrong"
    alone.socket.unlink()
    daemon = alone.daemon()
    alone.socket.rename(alone.home / "elsewhere")
    found = alone.run("doctor")
    assert found.code == 1 or doctor(alone) == {"socket": "ok", "version": "ok", "search": "ok", **SOUND}, "it binds its socket anew"
    daemon.signal(signal.SIGTERM)
    daemon.wait()


def test_a_daemon_that_is_stopped_does_not_answer(alone: Shell) -> None:
    daemon = alone.daemon()
    daemon.signal(signal.SIGSTOP)
    done = alone.run("doctor")
    daemon.signal(signal.SIGCONT)
    assert done.code == 1
    [line] = [line for line in done.lines if "systemd" not in line]
    assert line.startswith("wrong\tdaemon\t")
    assert f"kill -CONT {daemon.pid}" in line


def test_units_of_systemd(alone: Shell) -> None:
    units = alone.home / ".config/systemd/user"
    units.mkdir(parents=True)
    (units / "engramd.service").write_text("[Service]\nExecStart=/nowhere/python -m engramd\n")
    done = alone.run("doctor")
    assert done.code == 1
    assert "starts /nowhere/python, which is not there" in done.out


def break_store(shell: Shell, key: bytes, value: bytes | None) -> None:
    with closing(Store(shell.data / "log")) as store:
        batch = store.batch()
        if value is None:
            batch.delete(key)
        else:
            batch.put(key, value)
        store.write(batch)


def test_a_wrong_counter_is_found_through_a_daemon_and_mended_without(alone: Shell) -> None:
    fill(alone)
    with closing(Store(alone.data / "log")) as store:
        row = store.get(keys.CONTEXTS + b"c")
    assert row is not None
    break_store(alone, keys.CONTEXTS + b"c", row[:-2] + b"\x07" + row[-1:])
    alone.daemon()
    done = alone.run("doctor")
    assert done.code == 1
    assert "wrong\trows\tthe row Cc of contexts is wrong" in done.lines
    assert "engram doctor --repair" in done.out
    alone.run("daemon", "stop")
    assert doctor(alone, code=1)["rows"] == "wrong"
    assert doctor(alone, "--repair") == {"socket": "ok", "repair": "ok", **SOUND}
    assert doctor(alone)["rows"] == "ok"


def test_a_gap(alone: Shell) -> None:
    fill(alone)
    break_store(alone, keys.LOG + keys.pack_seq(7), None)
    done = alone.run("doctor")
    assert done.code == 1
    assert "wrong\tgaps\tevent 7 is missing, and nothing says why" in done.lines
    assert alone.run("doctor", "--repair").code == 1, "nothing can make it again"


def salvaged(shell: Shell, tmp_path: Path, lost: int) -> None:
    """Save a damaged store, make another of it, and look at that."""
    done = shell.run("doctor", "--salvage", tmp_path / "saved", "--json")
    assert done.code == 0, done.err
    facts = json.loads(done.out)
    assert sum(last - first + 1 for first, last in facts["lost"]) <= lost
    assert sorted(path.name.rpartition(".")[2] for path in (tmp_path / "saved").iterdir()) == ["json", "lock", "segment"]
    assert shell.run("restore", tmp_path / "saved", "--data-dir", tmp_path / "new").code == 0
    assert shell.run("doctor", "--data-dir", tmp_path / "new").code == 0
    assert "has a backup already" in shell.fails(1, "doctor", "--salvage", tmp_path / "saved")
    assert "inside the store" in shell.fails(2, "doctor", "--salvage", shell.data / "log" / "saved")


def test_a_store_without_its_current_file(alone: Shell, tmp_path: Path) -> None:
    fill(alone)
    before = sorted(path.name for path in (alone.data / "log").iterdir())
    (alone.data / "log/CURRENT").unlink()
    done = alone.run("doctor")
    assert done.code == 1
    assert "its file CURRENT is missing" in done.out
    assert "--salvage" in done.out
    salvaged(alone, tmp_path, 0)
    assert sorted(path.name for path in (alone.data / "log").iterdir()) == [name for name in before if name != "CURRENT"]
    env = {"ENGRAM_DATA_DIR": str(tmp_path / "new")}
    assert len(alone.run("list", "c", env=env).lines) == 20
    alone.run("daemon", "stop")


def test_a_flipped_byte(alone: Shell, tmp_path: Path) -> None:
    fill(alone, 3000)
    with closing(Store(alone.data / "log")) as store:
        store._db.compact_range()
    table = max((alone.data / "log").glob("*.ldb"), key=lambda path: path.stat().st_size)
    data = bytearray(table.read_bytes())
    data[len(data) // 2] ^= 0x10
    table.write_bytes(data)
    found = doctor(alone, code=1)
    assert found["blocks"] == "wrong"
    assert found["rows"] == "skipped"
    salvaged(alone, tmp_path, 100)


def test_a_daemon_that_hangs_on_to_the_store(alone: Shell) -> None:
    """Nobody answers at the socket, and yet the data directory is taken."""
    fill(alone)
    other = alone.start("--socket", str(alone.home / "other"), program="engramd")
    until(lambda: (alone.home / "other").exists(), "the other daemon")
    done = alone.run("doctor")
    assert done.code == 1
    assert f"another engramd (pid {other.pid}) uses the data directory" in done.out
    os.kill(other.pid, signal.SIGTERM)
    other.wait()
