"""`redact`, what `get` says of a redacted unit, and `context retain`."""

from __future__ import annotations

import pytest
from commandline import Shell, until

from engram_cli.client import Client
from engramd.protocol.errors import EngramError


def test_redact_and_what_is_left(shell: Shell, client: Client, name: str) -> None:
    made, other = client.put(name, "hunter2", meta={"k": "v"}), client.put(name, "fine")
    done = shell.run("redact", made.id, "--reason", "a password")
    assert (done.code, done.raw, done.err) == (0, b"", "")
    shown = shell.ok("get", made.id, "--json").objects[0]
    assert (shown["text"], shown["meta"], shown["redacted"]["reason"], shown["redacted"]["agent"]) == ("", {}, "a password", "tester")
    (unit,) = client.get(made.id)
    assert unit.redacted is not None
    assert (unit.payload, unit.redacted["reason"]) == (b"", "a password")
    assert shell.ok("list", name).lines[0].endswith("\tmessage\t[redacted: a password]")
    again = shell.run("redact", str(made.seq), "--reason", "x", "--json")
    assert again.objects == [{"redacted": [], "erased": True}]
    assert "nothing changed" in shell.run("redact", str(made.seq), "--reason", "x").err
    both = shell.run("get", str(made.seq), str(other.seq))
    assert (both.code, both.raw) == (1, b"fine")
    assert f"unit {made.seq} was redacted by tester" in both.err


def test_the_payload_of_a_redacted_unit_is_not_an_empty_one(shell: Shell, client: Client, name: str) -> None:
    made = client.put(name, "hunter2")
    client.redact(made.id, reason="a\x1b[31m password")
    for arguments in (["get", str(made.seq)], ["get", str(made.seq), "--color", "always"]):  # the small parser, and Typer
        done = shell.run(*arguments)
        assert (done.code, done.raw) == (1, b"")
        assert "a\\x1b[31m password" in done.err
    assert "reason" in shell.fails(2, "redact", str(made.seq))
    assert "999999999" in shell.fails(1, "redact", "999999999", "--reason", "x")
    with pytest.raises(EngramError, match="reason"):
        client.redact(made.id, reason="")


def test_retain(shell: Shell, client: Client, name: str) -> None:
    units = [client.put(name, str(number)) for number in range(6)]
    client.context_pin(name, units[0].id)
    assert shell.ok("context", "retain", name, "--units", "3", "--age", "30d", "--bytes", "1G").raw == b""
    until(lambda: [unit.text for unit in client.list(name)] == ["0", "4", "5"], "retention")
    shown = dict(line.split("\t", 1) for line in shell.ok("context", "show", name).lines)
    assert shown["keep"] == "age=30d units=3 bytes=1073741824"
    assert (shown["units"], shown["bytes"]) == ("3", "3")
    left = shell.ok("context", "retain", name, "--age", "none", "--bytes", "none", "--json").objects[0]
    assert left["keep"] == {"units": 3}
    assert "retention removed" in shell.fails(1, "get", str(units[1].seq))
    cut = shell.run("tail", name, "--after", str(units[1].seq))
    assert cut.code == 1
    assert "nothing is missing behind" in cut.err
    assert [line.split("\t")[-1] for line in shell.ok("tail", name, "--after", "0").lines] == ["0", "4", "5"]
    for wrong in (["--units", "0"], ["--units", "x"], ["--age", "soon"], ["--bytes", "1Q"], []):
        shell.fails(2, "context", "retain", name, *wrong)
    shell.fails(1, "context", "retain", f"{name} not there", "--units", "1")
