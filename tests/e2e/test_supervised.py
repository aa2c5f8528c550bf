"""A daemon under a supervisor: socket activation, readiness, the watchdog, as systemd does them. And a socket file that is removed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from commandline import BIN, PATIENCE, Shell, until

from engramd.__main__ import main


class Notified:
    """The supervisor's end of sd_notify."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(os.fspath(path))
        self._socket.settimeout(PATIENCE)

    def next(self) -> list[str]:
        return self._socket.recv(4096).decode().split("\n")

    def silence(self, seconds: float) -> bool:
        """Read until nothing comes for so long; False if something always does."""
        self._socket.settimeout(seconds)
        try:
            return not all(self.next() for _ in range(20))
        except TimeoutError:
            return True
        finally:
            self._socket.settimeout(PATIENCE)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def notified(alone: Shell) -> Iterator[Notified]:
    made = Notified(alone.home / "notify")
    yield made
    made.close()


def test_readiness_and_the_end_are_told(alone: Shell, notified: Notified) -> None:
    daemon = alone.start(program="engramd", NOTIFY_SOCKET=str(notified.path))
    assert notified.next()[0] == "READY=1"
    assert alone.ok("status", "--json").objects[0]["pid"] == daemon.pid
    daemon.signal(signal.SIGTERM)
    assert notified.next() == ["STOPPING=1"]
    assert daemon.wait() == 0


def test_a_daemon_that_hangs_is_noticed(alone: Shell, notified: Notified) -> None:
    daemon = alone.start(program="engramd", NOTIFY_SOCKET=str(notified.path), WATCHDOG_USEC="150000")
    seen = [notified.next()[0] for _ in range(5)]
    assert sorted(set(seen)) == ["READY=1", "WATCHDOG=1"]
    daemon.signal(signal.SIGSTOP)
    assert notified.silence(0.5)
    daemon.signal(signal.SIGCONT)
    assert notified.next() == ["WATCHDOG=1"]


def test_what_is_said_to_the_daemon_is_not_said_to_its_search_worker(alone: Shell, notified: Notified) -> None:
    alone.daemon(NOTIFY_SOCKET=str(notified.path), WATCHDOG_USEC="100000000")
    alone.put("c", "a word")
    assert alone.ok("search", "word").lines
    worker = alone.ok("status", "--json").objects[0]["search"]["pid"]
    environ = Path(f"/proc/{worker}/environ").read_bytes()
    assert b"NOTIFY_SOCKET" not in environ
    assert b"WATCHDOG" not in environ


@pytest.mark.skipif(shutil.which("systemd-socket-activate") is None, reason="needs systemd-socket-activate")
def test_the_first_connection_starts_it_and_its_end_leaves_the_socket(alone: Shell) -> None:
    def activate() -> subprocess.Popen[bytes]:
        alone.socket.unlink(missing_ok=True)
        command = ["systemd-socket-activate", "--listen", os.fspath(alone.socket), "--setenv", f"PATH={alone.env['PATH']}"]
        kept = [f"--setenv={name}={value}" for name, value in alone.env.items() if name != "ENGRAM_SOCKET"]
        quiet = {"stdin": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen([*command, *kept, os.fspath(BIN / "engramd")], env=alone.env, **quiet)

    for text in ("a", "b"):
        process = activate()
        try:
            until(alone.socket.exists, "the socket")
            alone.put("c", text, "--no-autostart")
            facts = alone.ok("status", "--json").objects[0]
            assert (facts["pid"], facts["socket"]) == (process.pid, str(alone.socket)), "the daemon took the activator's place"
            assert alone.ok("list", "c", "--json").objects[-1]["text"] == text
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
            assert alone.socket.exists(), "it belongs to whoever bound it"
        finally:
            process.kill()
            process.wait()


def test_what_was_handed_over_by_mistake_is_refused(alone: Shell) -> None:
    script = f'export LISTEN_PID=$BASHPID LISTEN_FDS=1; exec "{BIN}/engramd" 3</dev/null'
    done = alone.script(f"( {script} )")
    assert done.code == 2
    assert "inherited" in done.err


def test_others_descriptors_are_not_taken(alone: Shell) -> None:
    alone.daemon(LISTEN_PID="1", LISTEN_FDS="1")
    alone.put("c", "x")


def test_a_daemon_that_fails_in_a_way_that_nobody_foresaw_says_so_in_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ExceptionGroup("tasks", [ZeroDivisionError("a bug")])

    monkeypatch.setattr("engramd.daemon.serve", fail)
    assert main(["--data-dir", str(tmp_path), "--log-file", "auto"]) == 1
    [line] = map(json.loads, (tmp_path / "engramd.log").read_text().splitlines())
    assert line["level"] == "critical"
    assert "a bug" in line["exception"]


def test_a_removed_socket_file_costs_nobody_anything(served: Shell) -> None:
    served.put("c", "before")
    pid = served.daemon_pid()
    follower = served.start("tail", "c", "-f", "--json")
    follower.expect_lines(1)
    served.socket.unlink()
    served.put("c", "after")
    assert served.daemon_pid() == pid, "the same daemon serves"
    assert served.metric("engram_sockets_renewed_total")["value"] >= 1
    assert [unit["text"] for unit in map(json.loads, follower.expect_lines(2))] == ["before", "after"]
