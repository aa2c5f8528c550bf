"""Eight members of one consumer, each a process of its own: every unit goes to one of them, whatever becomes of the others."""

from __future__ import annotations

import signal
from collections import Counter

from commandline import PATIENCE, Shell, until

from engram_cli.client import Client

UNITS = 10_000
MEMBERS = 8


def test_each_of_ten_thousand_units_goes_to_one_of_eight(served: Shell) -> None:
    client = served.client()
    client.consumer_create("race", "work")
    members = [served.start("tail", "-f", "--consumer", "race") for _ in range(MEMBERS)]
    until(lambda: len(client.consumer_show("race")["members"]) == MEMBERS, "every member")
    for start in range(0, UNITS, 1000):
        client.put_many("work", [{"text": str(start + number)} for number in range(1000)])
    until(lambda: sum(len(member.lines) for member in members) >= UNITS, "every unit", 4 * PATIENCE)
    until(lambda: client.consumer_show("race")["held"] == 0, "the last acknowledgement")
    described = client.consumer_show("race")
    assert (described["waiting"], described["parked"]) == (0, 0)
    got = Counter(line.split("\t")[4] for member in members for line in member.lines)
    assert sorted(map(int, got)) == list(range(UNITS))
    assert set(got.values()) == {1}
    assert all(member.lines for member in members), "each has its part"
    acked = [event for event in client.tail(follow=False, after=0, events=True).events() if event.kind == "consumer_acked"]
    assert len(acked) < UNITS / 10


def test_members_and_daemon_are_killed_and_nothing_is_skipped(alone: Shell) -> None:
    """At least once: what a killed member had printed may come again, and so may what a killed daemon had not written down."""
    alone.put("work", "0")
    with Client(str(alone.socket), agent="writer", autostart=False, timeout=PATIENCE) as client:
        client.consumer_create("race", "work")
        members = [alone.start("tail", "-f", "work", "--consumer", "race", "--prefetch", "20") for _ in range(4)]
        for round_ in range(3):
            client.put_many("work", [{"text": f"{round_}.{number}"} for number in range(400)], dedupe=str(round_))
            members[round_].signal(signal.SIGKILL)
            if round_ == 1:
                alone.kill_daemon()
                alone.daemon()
        members.append(alone.start("tail", "-f", "work", "--consumer", "race"))
        wanted = {"0"} | {f"{round_}.{number}" for round_ in range(3) for number in range(400)}

        def got() -> set[str]:
            return {line.split("\t")[4] for member in members for line in list(member.lines) if line.count("\t") == 4}

        until(lambda: got() >= wanted, "every unit", 2 * PATIENCE)
        last = client.context_show("work")["last_seq"]
        until(lambda: int(client.consumer_show("race")["cursor"].split(".")[1]) >= last, "the last acknowledgement")
        described = client.consumer_show("race")
        assert (described["waiting"], described["held"], described["parked"]) == (0, 0, 0)
