"""`context …` and `agents`."""

from __future__ import annotations

import pytest
from commandline import Shell, until

from engram_cli.client import Client
from engramd.protocol.unit import format_id

AGAIN = "engram: nothing changed: it was {} already\n"


def test_create_and_show(shell: Shell, name: str) -> None:
    assert shell.ok("context", "create", name, "--display-name", "A title", "--meta", "k=v", "--meta", "n=1").raw == b""
    shown = dict(line.split("\t", 1) for line in shell.ok("context", "show", name).lines)
    assert (shown["id"], shown["display_name"], shown["meta"], shown["units"], shown["last_seq"]) == (name, "A title", "k=v n=1", "0", "0")
    assert shell.ok("context", "show", name, "--json").objects[0]["meta"] == {"k": "v", "n": "1"}
    assert "exists" in shell.fails(1, "context", "create", name)
    made = shell.ok("context", "create", f"{name} other", "--json").objects[0]
    assert (made["id"], made["display_name"], made["units"]) == (f"{name} other", f"{name} other", 0)


def test_a_put_creates_a_context_and_makes_its_author_a_member(shell: Shell, client: Client, name: str) -> None:
    made = client.put(name, "x")
    shown = shell.ok("context", "show", ".", "--json", env={"ENGRAM_CONTEXT": name}).objects[0]
    assert (shown["agents"], shown["units"], shown["last_seq"], shown["pinned"]) == (["tester"], 1, made.seq, [])


def test_set_changes_what_is_given_and_nothing_else(shell: Shell, client: Client, name: str) -> None:
    client.context_create(name, display_name="old", meta={"keep": "1", "change": "1", "drop": "1"})
    changed = shell.ok("context", "set", name, "--meta", "change=2", "--meta", "new=", "--unset", "drop", "--json").objects[0]
    assert (changed["display_name"], changed["meta"]) == ("old", {"keep": "1", "change": "2", "new": ""})
    shell.ok("context", "set", name, "--display-name", "new")
    assert client.context_show(name)["display_name"] == "new"
    assert "nothing to set" in shell.fails(2, "context", "set", name)
    assert name in shell.fails(1, "context", "set", f"{name} not there", "--display-name", "x")


def test_join_and_leave_say_when_nothing_changed(shell: Shell, client: Client, name: str) -> None:
    client.context_create(name)
    steps = (
        (["join", name, "someone"], "", ["someone"]),
        (["join", name, "someone"], AGAIN.format("a member"), ["someone"]),
        (["join", name], "", ["someone", "tester"]),
        (["leave", name, "someone"], "", ["tester"]),
        (["leave", name, "someone"], AGAIN.format("not a member"), ["tester"]),
        (["leave", name], "", []),
    )
    for arguments, said, members in steps:
        done = shell.run("context", *arguments)
        assert (done.code, done.raw, done.err) == (0, b"", said), arguments
        assert client.context_show(name)["agents"] == members
    assert shell.ok("context", "join", name, "--json").objects == [{"changed": True}]
    assert shell.ok("context", "join", name, "--json").objects == [{"changed": False}]
    assert "agent" in shell.fails(2, "context", "join", name, "")
    assert "no context" in shell.fails(1, "context", "join", f"{name} not there")


def test_pins(shell: Shell, client: Client, name: str) -> None:
    one, two = (client.put(name, text) for text in "12")
    elsewhere = client.put(f"{name} other", "x")
    steps = (
        (["pin", name, one.id, str(two.seq)], "", [one.id, two.id]),
        (["pin", name, one.id], AGAIN.format("pinned"), [one.id, two.id]),
        (["unpin", name, str(one.seq)], "", [two.id]),
        (["unpin", name, one.id], AGAIN.format("not pinned"), [two.id]),
    )
    for arguments, said, pinned in steps:
        done = shell.run("context", *arguments)
        assert (done.code, done.raw, done.err) == (0, b"", said), arguments
        assert [format_id(unit) for unit in client.context_show(name)["pinned"]] == pinned
    assert "context add" in shell.fails(1, "context", "pin", name, one.id, elsewhere.id)
    assert "999999999" in shell.fails(1, "context", "pin", name, "999999999")
    shell.fails(2, "context", "pin", name)


def test_a_removed_unit_leaves_the_list_and_stays_in_the_log(shell: Shell, client: Client, name: str) -> None:
    one, two = (client.put(name, text) for text in "12")
    client.context_pin(name, one.id)
    assert shell.ok("context", "remove", name, one.id).raw == b""
    assert shell.run("context", "remove", name, one.id).err == AGAIN.format("not in the context")
    assert shell.ok("list", name).seqs == [two.seq]
    assert shell.ok("get", one.id).raw == b"1"
    shown = client.context_show(name)
    assert (shown["units"], shown["pinned"]) == (1, [])
    assert "999999999" in shell.fails(1, "context", "remove", name, "999999999")
    assert "no context" in shell.fails(1, "context", "remove", f"{name} not there", one.id)


def test_an_added_unit_arrives_as_a_new_entry_beyond_every_cursor(shell: Shell, client: Client, name: str) -> None:
    old = client.put(f"{name} other", "old")
    here = client.put(name, "here")
    reader = shell.reader(name)
    reader.expect_lines(1)
    assert shell.ok("context", "add", name, old.id).raw == b""
    assert shell.run("context", "add", name, str(old.seq)).err == AGAIN.format("in the context")
    late = client.put(name, "late")
    listed = shell.ok("list", name)
    assert listed.texts == ["here", "old", "late"]
    assert here.seq < listed.seqs[1] < late.seq
    assert reader.expect_lines(3) == listed.lines
    assert shell.ok("list", name, "--after", str(here.seq), "--limit", "1").lines == listed.lines[1:2]
    assert shell.ok("list", name, "--after", str(listed.seqs[1])).lines == listed.lines[2:]
    assert shell.ok("list", f"{name} other").seqs == [old.seq]
    unit = shell.ok("list", name, "--json").objects[1]
    assert (unit["seq"], unit["entry"], unit["context"]) == (old.seq, listed.seqs[1], f"{name} other")
    # Taken out and put back, it comes after everything else.
    client.context_remove(name, old.id)
    client.context_add(name, old.id)
    assert shell.ok("list", name).texts == ["here", "late", "old"]
    assert shell.ok("get", str(listed.seqs[1])).raw == b"old"


def test_a_context_may_begin_with_units_of_others(shell: Shell, client: Client, name: str) -> None:
    made = client.put(f"{name} other", "x")
    shell.ok("context", "add", name, made.id)
    assert shell.ok("list", name).texts == ["x"]


def test_contexts_and_agents_are_listed_by_name_with_what_they_hold(alone: Shell) -> None:
    alone.daemon()
    client = alone.client()
    assert alone.ok("context", "list").raw == alone.ok("agents").raw == b""
    for number in range(120):  # more than a page
        client.put("many", "x") if number % 2 else client.context_create(f"context {number:03}")
    with Client(client.address, agent="äther", autostart=False) as other:
        other.put("a b", "x")
        other.context_join("many")
    listed = [line.split("\t") for line in alone.ok("context", "list").lines]
    assert [row[0] for row in listed] == ["a b", *(f"context {number:03}" for number in range(0, 120, 2)), "many"]
    assert listed[-1][2] == "60"
    assert alone.ok("context", "list", "--json").objects[0]["agents"] == ["äther"]
    agents = [line.split("\t")[:2] for line in alone.ok("agents").lines]
    assert agents == [["tester", "60"], ["äther", "1"]]
    members = alone.ok("agents", "many", "--json").objects
    assert [(member["id"], member["units"], "since" in member) for member in members] == [("tester", 60, True), ("äther", 1, True)]
    assert "nowhere" in alone.fails(1, "agents", "nowhere")


@pytest.mark.parametrize("verb", ["show", "pin", "unpin"])
def test_a_context_that_is_not_there_is_an_error(shell: Shell, client: Client, name: str, verb: str) -> None:
    units = [] if verb == "show" else [client.put(f"{name} other", "x").id]
    assert "there is no context" in shell.fails(1, "context", verb, name, *units)


def test_who_follows_or_pipes_is_there(shell: Shell, client: Client) -> None:
    shell.put("work", "x", "--as", "brief")
    for name, words in (("reader", ["tail", "-f"]), ("slow reader", ["tail", "-f", "--events"]), ("piper", ["pipe"])):
        running = shell.start(*words, "--as", name, pipe_stdin=True)
        until(lambda name=name: name in there(shell), name)  # type: ignore[misc]
        running.end()
    with Client(str(shell.socket), agent="program", presence=True) as program:
        program.connect()
        until(lambda: "program" in there(shell), "program")
    assert "brief" not in there(shell)
    until(lambda: {"reader", "slow reader", "piper", "program"}.isdisjoint(there(shell)), "everyone to be gone")


def there(shell: Shell) -> list[str]:
    """Who is present."""
    return [agent["id"] for agent in shell.ok("agents", "--json").objects if agent["present_since"] is not None]
