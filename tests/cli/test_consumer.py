"""`consumer` and `tail --consumer`: taking part, acknowledging, and looking at what is left."""

from __future__ import annotations

import json

import pytest
from commandline import AGENT, Shell, until

from engram_cli.client import Client, EngramError


@pytest.fixture
def three(client: Client, name: str) -> list[int]:
    """The seqs of three units in one context."""
    client.put_many(name, [{"text": text} for text in "abc"])
    return [unit.seq for unit in client.list(name)]


def described(shell: Shell, name: str) -> dict[str, object]:
    return dict(shell.ok("consumer", "show", name, "--json").objects[0])


def test_what_was_printed_is_done(shell: Shell, client: Client, name: str, three: list[int]) -> None:
    assert shell.ok("tail", name, "--consumer", name).seqs == three
    assert shell.ok("tail", "--consumer", name).raw == b""
    client.put(name, "d")
    assert shell.ok("tail", "--consumer", name, "--json").objects[0]["text"] == "d"
    assert described(shell, name)["held"] == 0


def test_a_follower_takes_part_until_it_ends(shell: Shell, client: Client, name: str, three: list[int]) -> None:
    first = shell.start("tail", "-f", name, "--consumer", name)
    first.expect_lines(3)
    client.put(name, "d")
    assert first.expect_lines(4)[3].endswith("\td")
    client.consumer_delete(name)
    assert first.wait() == 1
    assert "was deleted by" in first.errors[0]


def test_what_retention_took_first_is_said(shell: Shell, client: Client, name: str, three: list[int]) -> None:
    client.consumer_create(name, name)
    client.context_retain(name, units=1)
    until(lambda: client.context_show(name)["units"] == 1, "retention")
    done = shell.run("tail", "--consumer", name)
    assert (done.code, done.seqs) == (0, three[2:])
    assert done.err == f"engram: retention removed 2 units before the consumer {name} had done them\n"
    assert described(shell, name)["missed"] == 2


def test_a_loop_in_the_shell_acknowledges_what_it_has_done(shell: Shell, name: str, three: list[int]) -> None:
    done = shell.script(
        """
        engram tail "$NAME" --consumer "$NAME" --ack manual | while IFS="$(printf '\\t')" read -r seq ts agent type text; do
            echo "did $text"
            engram consumer ack "$NAME" "$seq" || exit 1
        done
        """,
        NAME=name,
    )
    assert done.lines == ["did a", "did b", "did c"]
    assert shell.ok("tail", "--consumer", name).raw == b""
    assert "done already" in shell.run("consumer", "ack", name, str(three[0])).err


def test_what_is_not_acknowledged_comes_again(shell: Shell, client: Client, name: str, three: list[int]) -> None:
    member = shell.start("tail", "-f", name, "--consumer", name, "--ack", "manual", "--prefetch", "2")
    member.expect_lines(2)
    assert (described(shell, name)["held"], described(shell, name)["members"]) == (2, [{"agent": AGENT, "held": 2, "prefetch": 2}])
    member.end()
    assert shell.ok("tail", "--consumer", name).seqs == three


def test_settings_and_their_conflicts(shell: Shell, client: Client, name: str, three: list[int]) -> None:
    options = [
        name,
        name,
        "--type",
        "error",
        "--meta",
        "k=v",
        "--key",
        "meta:k",
        "--visibility",
        "10s",
        "--deliveries",
        "2",
        "--from",
        "now",
    ]
    shell.ok("consumer", "create", *options)
    assert "exists already" in shell.run("consumer", "create", *options).err
    error = shell.fails(3, "consumer", "create", name, "--key", "agent")
    assert "has key meta:k, not agent" in error
    assert "not" in shell.fails(3, "tail", f"{name} other", "--consumer", name)
    found = described(shell, name)
    assert (found["contexts"], found["filter"]) == ([name], {"types": ["error"], "meta": {"k": "v"}})
    assert (found["key"], found["visibility"], found["deliveries"]) == ("meta:k", 10_000_000, 2)
    client.put(name, "x", type="error", meta={"k": "v"})
    assert shell.ok("tail", "--consumer", name).texts == ["x"]
    assert name in [line.split("\t")[0] for line in shell.ok("consumer", "list").lines]
    assert "visibility\t10s" in shell.ok("consumer", "show", name).lines


@pytest.mark.parametrize(
    "options", [["-n", "1"], ["--since", "1h"], ["--after", "0"], ["--until", "now"], ["--events"], ["--ack", "maybe"]]
)
def test_what_does_not_go_with_a_consumer(shell: Shell, name: str, options: list[str]) -> None:
    assert options[0] in shell.fails(2, "tail", name, "--consumer", name, *options)


@pytest.mark.parametrize("options", [["--ack", "auto"], ["--prefetch", "1"]])
def test_what_goes_with_a_consumer_only(shell: Shell, name: str, options: list[str]) -> None:
    assert "--consumer" in shell.fails(2, "tail", name, *options)


def test_a_reset_and_what_is_parked(shell: Shell, client: Client, name: str, three: list[int]) -> None:
    client.consumer_create(name, name, deliveries=1)
    for _ in range(2):
        member = shell.start("tail", "-f", "--consumer", name, "--ack", "manual")
        member.expect_lines(1)
        member.end()
    rows = shell.ok("consumer", "parked", name).lines
    assert [(row.split("\t")[0], row.split("\t")[4]) for row in rows] == [(str(three[0]), "a"), (str(three[1]), "b")]
    assert [row["unit"]["text"] for row in shell.ok("consumer", "parked", name, "--json").objects] == ["a", "b"]
    shell.ok("consumer", "ack", name, str(three[0]))
    assert shell.ok("tail", "--consumer", name).texts == ["c"]
    shell.ok("consumer", "retry", name)
    assert shell.ok("tail", "--consumer", name).texts == ["b"]
    assert "nothing" in shell.run("consumer", "retry", name).err
    shell.ok("consumer", "reset", name, "--to", str(three[1]))
    assert shell.ok("tail", "--consumer", name).texts == ["c"]
    assert shell.ok("consumer", "reset", name, "--to", "start", "--json").objects[0]["cursor"].endswith(".0")
    assert "not start, now" in shell.fails(2, "consumer", "reset", name, "--to", "somewhere")
    shell.ok("consumer", "delete", name)
    assert "consumer list" in shell.fails(1, "consumer", "show", name)


def test_a_pipe_takes_part_too(shell: Shell, name: str, three: list[int]) -> None:
    pipe = shell.start("pipe", pipe_stdin=True)
    pipe.say({"id": 1, "op": "consume", "consumer": name, "contexts": [name], "follow": True})
    for at, seq in enumerate(three):
        pipe.expect(lambda lines, seq=seq: any(f'"seq": {seq},' in line for line in lines), f"unit {seq}")  # type: ignore[misc]
        pipe.say({"id": 2 + at, "op": "ack", "consumer": name, "entries": [seq]})
    pipe.expect(lambda lines: any('"id": 4, "ok": true' in line for line in lines), "the last answer")
    items = [json.loads(line)["event"] for line in pipe.lines if '"event"' in line]
    assert [(item["unit"]["text"], item["deliveries"]) for item in items] == [("a", 1), ("b", 1), ("c", 1)]
    pipe.hang_up()
    assert (pipe.wait(), pipe.errors) == (0, [])


def test_the_python_client_acknowledges_as_the_loop_goes_on(client: Client, name: str, three: list[int]) -> None:
    assert [unit.text for unit in client.consume(name, name, follow=False)] == ["a", "b", "c"]
    assert list(client.consume(name, follow=False)) == []
    client.consumer_reset(name, "start")
    for unit in client.consume(name):
        if unit.text == "b":
            break  # and it is not done
    manual = client.consume(name, follow=False, ack="manual", prefetch=5)
    got = []
    for event in manual.events():
        if event.unit is not None:
            got.append((event.unit.text, event.fields["deliveries"]))
            manual.ack(event.unit)
    assert got == [("b", 2), ("c", 1)]
    assert not client.ack(name, *three)
    assert client.consumer_show(name)["parked"] == 0
    with pytest.raises(EngramError, match="auto or manual"):
        client.consume(name, ack="perhaps")
