"""The lock on a data directory: one process at a time, however the last one ended."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from engramd.protocol.errors import EngramError
from engramd.storage.lockfile import DataLock

HOLD = """
import sys
from pathlib import Path
from engramd.storage.lockfile import DataLock
lock = DataLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            with pytest.raises(EngramError) as refused:
                DataLock(tmp_path)
            assert refused.value.code == "busy"
            assert refused.value.details["pid"] == str(holder.pid)
            assert str(holder.pid) in refused.value.message
        finally:
            holder.kill()
            holder.wait()
    DataLock(tmp_path).release()


def test_release_lets_the_next_one_in(tmp_path: Path) -> None:
    first = DataLock(tmp_path)
    with pytest.raises(EngramError, match="another engramd"):
        DataLock(tmp_path)
    first.release()
    DataLock(tmp_path).release()


def test_a_lock_file_that_is_removed_while_it_is_taken_locks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restore that is refused removes the one it made, and somebody may have opened it by then."""
    flock, removed = fcntl.flock, []

    def late(fd: int, how: int) -> None:
        if not removed:
            (tmp_path / "lock").unlink()
            removed.append(fd)
        flock(fd, how)

    monkeypatch.setattr(fcntl, "flock", late)
    lock = DataLock(tmp_path)
    with pytest.raises(EngramError, match="another engramd"):
        DataLock(tmp_path)
    lock.release()


def test_the_lock_file_is_the_user_s_own(tmp_path: Path) -> None:
    lock = DataLock(tmp_path)
    assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o600
    lock.release()
