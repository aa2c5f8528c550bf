"""`list`: every filter, paging, names, and what hostile text looks like in a pipe."""

from __future__ import annotations

import pytest
from commandline import Shell, unescape

from engram_cli.client import Client, Relationship, Unit
from engramd.protocol.times import format_ts

HOSTILE = "a\tb\nc\\nd\r\x1b[31mred\x07\x9b2J\u202eevil\u2028line\x7f\ufeff \U0001f600 é"


@pytest.fixture
def units(client: Client, name: str) -> list[Unit]:
    """Units that differ in all that can be asked for."""
    first = client.put(name, "0", type="task_status").id
    with Client(client.address, agent="other", autostart=False) as other:
        other.put(name, "1", type="message", meta={"k": "v", "n": "1"}, relationships=[Relationship("causes", first)])
        other.put(name, "2", type="tool_call", meta={"k": "v"})
    client.put(name, "3", type="tool_result", meta={"k": "w"}, relationships=[Relationship("references", first)])
    client.put(name, "4", type="tool_call", meta={"k": "v", "n": "1"})
    return list(client.list(name))


def test_every_filter(shell: Shell, name: str, units: list[Unit]) -> None:
    seqs = [str(unit.seq) for unit in units]
    for options, wanted in (
        ([], "01234"),
        (["--agent", "other"], "12"),
        (["--agent", "other", "--agent", "tester"], "01234"),
        (["--type", "tool_call"], "24"),
        (["--type", "tool_call", "--type", "message"], "124"),
        (["--meta", "k=v"], "124"),
        (["--meta", "k=v", "--meta", "n=1"], "14"),
        (["--related-to", units[0].id], "13"),
        (["--related-to", seqs[0]], "13"),
        (["--since", format_ts(units[3].ts)], "34"),
        (["--until", format_ts(units[3].ts)], "012"),
        (["--since", "1h", "--until", "2099-01-01"], "01234"),
        (["--after", seqs[2]], "34"),
        (["--after", seqs[2], "--reverse"], "10"),
        (["--reverse", "--limit", "2"], "43"),
        (["--agent", "other", "--type", "tool_call", "--meta", "k=v", "--after", seqs[0], "--limit", "9"], "2"),
    ):
        assert "".join(shell.ok("list", name, *options).texts) == wanted, options


def test_a_filter_that_says_nothing_is_refused(shell: Shell, name: str, units: list[Unit]) -> None:
    for code, options, word in (
        (2, ["--agent", ""], "agent"),
        (2, ["--since", ""], "since"),
        (2, ["--after", ""], "after"),
        (2, ["--related-to", ""], "related_to"),
        (2, ["--type", "shout"], "shout"),
        (2, ["--meta", "novalue"], "novalue"),
        (2, ["--since", "some day"], "some day"),
        (2, ["--after", "here"], "here"),
        (2, ["--limit", "0"], "limit"),
        (1, ["--after", "0123456789ab.1"], "history"),
        (1, ["--related-to", "999999999"], "999999999"),
    ):
        assert word in shell.fails(code, "list", name, *options), options


def test_pages_by_the_seq_column_meet_without_gap_or_repeat(shell: Shell, client: Client, name: str) -> None:
    client.put_many(name, [{"text": str(number)} for number in range(7)])
    for reverse in ([], ["--reverse"]):
        seen, after = [], []
        while page := shell.ok("list", name, "--limit", "3", *after, *reverse).lines:
            seen += page
            after = ["--after", page[-1].split("\t")[0]]
        assert seen == shell.ok("list", name, *reverse).lines
        assert len(seen) == 7


def test_without_a_limit_everything_is_listed_however_many_pages_it_takes(shell: Shell, client: Client, name: str) -> None:
    wanted = [f"{number} {'x' * 700}" for number in range(2500)]
    for start in range(0, len(wanted), 500):
        client.put_many(name, [{"text": text} for text in wanted[start : start + 500]])
    assert shell.ok("list", name).texts == wanted
    assert shell.ok("list", name, "--limit", "1200", "--reverse").texts == wanted[:-1201:-1]


def test_names_that_begin_alike_are_kept_apart(shell: Shell, client: Client) -> None:
    names = ["p", "p:b", "p b", "P", "pp", "日本語 ünï-🙂", "日本語"]
    for name in names:
        client.put(name, f"in {name}")
        assert [unit.text for unit in client.list(name)] == [f"in {name}"]
    for name in ("p", "p b", "日本語"):
        assert shell.ok("list", name).texts == [f"in {name}"]


def test_a_context_that_is_not_there_is_empty(shell: Shell, name: str) -> None:
    for options in ([], ["--json"], ["--reverse", "--type", "error"]):
        assert shell.ok("list", name, *options).raw == b""


def test_a_line_has_five_fields_and_reads_back(shell: Shell, client: Client, name: str) -> None:
    made = client.put(name, HOSTILE, type="error")
    client.put(name, b"\xff\x00 caf\xe9\n\\")
    text, binary = shell.ok("list", name).raw.decode().splitlines()
    assert text.split("\t")[:4] == [str(made.seq), format_ts(made.ts), "tester", "error"]
    assert unescape(text.split("\t")[4]) == HOSTILE
    assert binary.split("\t")[4] == r"\xff\x00 caf\xe9\n\\"
    assert all(character.isprintable() for line in (text, binary) for character in line.replace("\t", ""))


def test_json_is_one_whole_unit_a_line(shell: Shell, client: Client, name: str) -> None:
    client.put(name, HOSTILE, meta={"label": "\x1b"})
    client.put(name, b"\xff")
    done = shell.ok("list", name, "--json")
    text, binary = done.objects
    assert len(done.raw.splitlines()) == 2
    assert not set(done.raw) & set(range(32)) - {ord("\n")}
    assert not any(character in done.out for character in "\x7f\x9b\u202e\u2028\ufeff")
    assert (text["text"], text["meta"]) == (HOSTILE, {"label": "\x1b"})
    assert binary["payload_base64"] == "/w=="
    assert sorted(text) == ["agent", "context", "id", "meta", "relationships", "seq", "text", "ts", "type"]
