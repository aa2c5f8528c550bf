"""`tail`: where it starts, what it shows, and how it follows."""

from __future__ import annotations

import signal
import subprocess

import pytest
from commandline import BIN, PATIENCE, Shell

from engram_cli.client import Client
from engramd.protocol.times import format_ts


@pytest.fixture
def twelve(client: Client, name: str) -> list[int]:
    """The seqs of twelve units in one context, every third of them an error."""
    kinds = ["message", "message", "error"]
    client.put_many(name, [{"text": str(number), "type": kinds[number % 3]} for number in range(12)])
    return [unit.seq for unit in client.list(name)]


def test_where_it_starts(shell: Shell, client: Client, name: str, twelve: list[int]) -> None:
    middle = client.put(name, "12")
    for options, first, last in (
        ([], 3, 13),
        (["-n", "2"], 11, 13),
        (["-n", "0"], 13, 13),
        (["-n", "500"], 0, 13),
        (["--after", str(twelve[7])], 8, 13),
        (["--after", "0"], 0, 13),
        (["--since", format_ts(middle.ts)], 12, 13),
        (["--since", "1h"], 0, 13),
        (["--since", "1h", "--until", format_ts(middle.ts)], 0, 12),
    ):
        assert shell.ok("tail", name, *options).texts == [str(number) for number in range(first, last)], options


def test_filters_count_before_n_does(shell: Shell, name: str, twelve: list[int]) -> None:
    assert shell.ok("tail", name, "--type", "error", "-n", "3").texts == ["5", "8", "11"]
    assert shell.ok("tail", name, "--agent", "nobody").texts == []


def test_one_place_to_start_is_enough(shell: Shell, name: str) -> None:
    error = shell.fails(2, "tail", name, "-n", "1", "--since", "1h")
    assert "-n" in error
    assert "--since" in error
    assert "999999999" in shell.fails(1, "tail", name, "--after", "999999999")
    assert "history" in shell.fails(1, "tail", name, "--after", "0123456789ab.0")


def test_several_contexts_are_shown_in_the_order_of_the_log(shell: Shell, client: Client, name: str) -> None:
    a, b, c = (f"{name} {letter}" for letter in "abc")
    for number, context in enumerate([b, a, c, a, b]):
        client.put(context, str(number))
    assert shell.ok("tail", a, b, a).texts == ["0", "1", "3", "4"]
    assert shell.ok("tail", f"{name} not there").texts == []
    assert shell.ok("tail", ".", b, env={"ENGRAM_CONTEXT": c}).texts == ["0", "2", "4"]


def test_json_is_bare_units_unless_events_are_asked_for(shell: Shell, client: Client, name: str) -> None:
    client.put(name, "x")
    client.context_pin(name, next(client.list(name)).seq)
    units = shell.ok("tail", name, "--json").objects
    assert [(unit["text"], unit["context"]) for unit in units] == [("x", name)]
    events = [event for event in shell.ok("tail", name, "--events", "--json", "--after", "0").objects if "seq" in event or "unit" in event]
    assert [event["kind"] for event in events] == ["context_created", "unit_put", "unit_pinned"]
    assert events[1]["unit"] == units[0]
    assert shell.ok("tail", name, "--json", "--after", events[1]["cursor"]).raw == b""


def test_events_are_lines_with_a_kind(shell: Shell, client: Client, name: str) -> None:
    client.put(name, "x")
    client.context_set(name, display_name="\x1b[31m\n")
    client.context_leave(name)
    done = shell.ok("tail", name, "--events", "--after", "0")
    assert [line.split("\t")[3] for line in done.lines] == ["context_created", "message", "context_changed", "agent_left"]
    assert done.seqs == sorted(set(done.seqs))
    assert b"\x1b" not in done.raw


def test_kinds_are_chosen(shell: Shell, client: Client, name: str) -> None:
    client.put(name, "x")
    client.context_pin(name, next(client.list(name)).seq)
    client.context_leave(name)
    pins = shell.ok("tail", name, "--kind", "unit_pinned", "--json").objects
    assert [event["kind"] for event in pins] == ["unit_pinned", "live"]
    lines = shell.ok("tail", name, "--kind", "agent_left", "--kind", "unit_put").lines
    assert [line.split("\t")[3] for line in lines] == ["message", "agent_left"]
    assert shell.ok("tail", name, "--kind", "unit_put", "--json").objects[0]["text"] == "x"
    assert shell.ok("tail", name, "--kind", "unit_added").raw == b""
    assert "unit_put" in shell.fails(2, "tail", name, "--kind", "lunch")


def test_a_follower_prints_what_is_put_while_its_writer_still_holds_the_answer(shell: Shell, client: Client, name: str) -> None:
    client.put(name, "before")
    reader = shell.reader(name)
    assert reader.expect_lines(1)[0].endswith("\tbefore")
    for number in range(5):
        client.put(name, str(number))
        reader.expect_lines(number + 2)
    client.put(f"{name} other", "unseen")
    client.put(name, "last")
    assert [line.split("\t")[4] for line in reader.expect_lines(7)] == ["before", "0", "1", "2", "3", "4", "last"]


def test_followers_filter_and_choose_their_form(shell: Shell, client: Client, name: str) -> None:
    readers = [
        shell.reader(name, "-n", "0", "--type", "error", "--agent", "tester"),
        shell.reader(name, "-n", "0", "--meta", "k=v", "--json"),
        shell.reader("--events", "-n", "0", name),
        shell.reader("-n", "0"),
    ]
    for kind, meta in (("message", {"k": "v"}), ("error", {"k": "w"}), ("error", {"k": "v"})):
        client.put(name, "x", type=kind, meta=meta)
    for reader, count in zip(readers, (2, 2, 4, 3), strict=True):
        assert len(reader.expect_lines(count)) == count
    assert [unit["type"] for unit in readers[1].objects] == ["message", "error"]
    assert [line.split("\t")[3] for line in readers[2].lines] == ["context_created", "message", "error", "error"]


def test_ctrl_c_ends_a_follower_by_its_signal(shell: Shell, name: str) -> None:
    reader = shell.reader(name)
    reader.signal(signal.SIGINT)
    assert reader.wait() == -signal.SIGINT
    assert (reader.lines, reader.errors) == ([], [])


def test_a_follower_leaves_silently_when_its_reader_does(shell: Shell, client: Client, name: str) -> None:
    client.put(name, "first")
    with subprocess.Popen(
        [BIN / "engram", "tail", "-f", name], env=shell.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as follower:
        assert follower.stdout is not None
        assert follower.stderr is not None
        assert follower.stdout.readline().endswith(b"\tfirst\n")
        follower.stdout.close()
        client.put(name, "second")
        assert (follower.wait(PATIENCE), follower.stderr.read()) == (-signal.SIGPIPE, b"")
