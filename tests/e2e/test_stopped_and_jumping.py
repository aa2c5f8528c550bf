"""A daemon that is stopped and goes on, and a wall clock that jumps: nothing is lost, repeated or out of order."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from commandline import Shell, until
from preload import JUMPING_CLOCK, preloadable

DAY = 86_400


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library to preload."""
    return preloadable(tmp_path_factory.mktemp("preload"), "clock", JUMPING_CLOCK)


def test_a_wall_clock_that_jumps(alone: Shell, library: Path) -> None:
    clock = alone.home / "clock"
    clock.write_text("0")
    daemon = alone.daemon(LD_PRELOAD=str(library), CLOCK_IS_OFF_BY=str(clock))
    token = alone.run("lock", "/src", "--ttl", "10m", "--as", "holder").out.strip()
    alone.put("c", "0")
    for number, off in enumerate((DAY, 0, -DAY, 400 * DAY, 0), 1):
        clock.write_text(str(off))
        alone.put("c", str(number))
        assert alone.run("lock", "/src", "--as", "other").code == 75, "a lease lasts by a clock that nobody sets"
    units = alone.ok("list", "c", "--json").objects
    assert [unit["text"] for unit in units] == [str(number) for number in range(6)]
    assert [unit["ts"] for unit in units] == sorted(unit["ts"] for unit in units), "time never goes back in the log"
    until(lambda: any("ahead of the wall clock" in line for line in daemon.errors), "the warning")
    assert abs(alone.metric("engram_clock_behind_seconds")["value"] - 400 * DAY) < 600
    alone.run("unlock", "--token", token)
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0
    alone.daemon()  # with the right time, and a log whose last event is in the future
    alone.put("c", "6")
    assert [unit["text"] for unit in alone.ok("list", "c", "--json").objects][-1] == "6"


def test_a_daemon_that_is_stopped_and_goes_on(alone: Shell) -> None:
    daemon = alone.daemon()
    follower = alone.start("tail", "c", "-f", "--json", "-n", "0")
    writers = [alone.start("pipe", pipe_stdin=True) for _ in range(3)]
    holder, waiter = (alone.start("pipe", "--as", name, pipe_stdin=True) for name in ("holder", "waiter"))
    for pipe in (*writers, holder, waiter):
        pipe.say({"id": 0, "op": "status"})
        pipe.expect_lines(1)
    holder.say({"id": 1, "op": "lock", "resources": ["/src"], "ttl": "3s", "session": False})
    holder.expect_lines(2)
    waiter.say({"id": 1, "op": "lock", "resources": ["/src"], "wait": True})
    waiter.say({"id": 2, "op": "status"})
    waiter.expect_lines(2)
    assert waiter.objects[1]["result"]["status"]["waiters"] == 1
    daemon.signal(signal.SIGSTOP)
    for number, writer in enumerate(writers):
        writer.say({"id": 1, "op": "put", "context": "c", "text": f"{number}", "dedupe": f"{number}"})
    hurried = alone.run("put", "c", "hurried", "--dedupe", "hurried", "--timeout", "300ms")
    assert hurried.code in (69, 124)
    assert hurried.err
    time.sleep(3)  # what is tested: the lease ends while the daemon stands still
    daemon.signal(signal.SIGCONT)
    for writer in writers:
        writer.expect_lines(2)
        assert writer.objects[1]["ok"], writer.lines
    waiter.expect_lines(3)
    assert waiter.objects[2]["ok"]
    stalls = alone.metric("engram_loop_late_seconds")["buckets"]
    assert dict(map(tuple, stalls))[None] > dict(map(tuple, stalls))[1.0], "that it stood still is seen"
    alone.put("c", "hurried", "--dedupe", "hurried")
    follower.expect(lambda lines: len(lines) >= 4, "all that was put")
    texts = [unit["text"] for unit in alone.ok("list", "c", "--json").objects]
    assert sorted(texts) == ["0", "1", "2", "hurried"], "each once, whatever became of the first try"
    assert [unit["text"] for unit in follower.objects] == texts
    for pipe in (*writers, holder, waiter):
        pipe.hang_up()
        assert pipe.wait() == 0
