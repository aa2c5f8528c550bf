"""Many commands at the same instant, and no daemon yet: they start one, and all succeed."""

from __future__ import annotations

import json
import os
import signal

import pytest
from commandline import Shell

TOGETHER = 20


@pytest.mark.parametrize("stale", [False, True], ids=["no socket", "a stale socket"])
def test_commands_started_together_start_one_daemon(alone: Shell, stale: bool) -> None:
    before = 0
    if stale:
        alone.put("c", "before")
        alone.kill_daemon()
        assert alone.socket.exists()
        before = 1
    commands = [alone.start("put", "c", str(number)) for number in range(TOGETHER)]
    assert [(command.wait(), command.errors) for command in commands] == [(0, [])] * TOGETHER
    ids = [command.lines[0] for command in commands]
    units = list(alone.client().list("c"))[before:]
    assert sorted(unit.id for unit in units) == sorted(ids)
    assert sorted(int(unit.text) for unit in units) == list(range(TOGETHER))
    # Every daemon that had the data directory said so in its log.
    log = [json.loads(line)["message"] for line in (alone.data / "engramd.log").read_text().splitlines()]
    started = [message for message in log if "listens at" in message]
    assert len(started) == 1 + before
    assert f"(pid {alone.daemon_pid()})" in started[-1]


def test_a_command_that_comes_while_the_daemon_stops_gets_the_next_one(alone: Shell) -> None:
    alone.put("c", "before")
    for number in range(3):
        pid = alone.daemon_pid()
        assert pid is not None
        os.kill(pid, signal.SIGTERM)
        puts = [alone.start("put", "c", f"{number} {index}") for index in range(4)]
        assert [(put.wait(), put.errors) for put in puts] == [(0, [])] * 4
    assert len(alone.ok("list", "c").lines) == 13
