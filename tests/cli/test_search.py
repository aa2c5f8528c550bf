"""`search`: queries, filters, pages, and what hits look like."""

from __future__ import annotations

import pytest
from commandline import Shell

from engram_cli.client import Client, Relationship

HOSTILE = "a daemon\t\x1b[31mred\x07 \u202eevil\nlock"


@pytest.fixture(autouse=True)
def _worker(shell: Shell) -> None:
    """One that has started, which takes long where much else is going on."""
    shell.client(timeout=120).search("anything", wait=60_000)


@pytest.fixture
def units(client: Client, name: str) -> list[str]:
    """Units that differ in all that can be asked for."""
    texts = [
        "The daemon lost its lock on the data directory",
        "broken pipe while writing to the socket",
        "engramd/storage/log.py:42 raised KeyError",
        "getUserName returns None",
        "commit deadbeef1234567 fixes the parser",
        "日本語のテスト",
    ]
    first = client.put(name, texts[0], type="error", meta={"k": "v"}).id
    for text in texts[1:]:
        client.put(name, text, relationships=[Relationship("references", first)])
    return texts


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("directory lock", 0),
        ("directroy", 0),
        ('"broken pipe"', 1),
        ("log.py", 2),
        ("engramd/storage/log.py:42", 2),
        ("getusername", 3),
        ("user name", 3),
        ("deadbeef12", 4),
        ("deadbee", 4),
        ("parser", 4),
        ("テスト", 5),
    ],
)
def test_what_is_found_first(shell: Shell, name: str, units: list[str], query: str, found: int) -> None:
    assert shell.ok("search", query, "--context", name).texts[0] == units[found]


def test_modes_and_scores(shell: Shell, name: str, units: list[str]) -> None:
    for mode in ("hybrid", "keyword", "semantic"):
        hits = shell.ok("search", "broken pipe", "--context", name, "--mode", mode, "--json").objects
        assert hits[0]["text"] == units[1]
        assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
        assert (hits[0]["parts"]["keyword"] > 0, hits[0]["parts"]["semantic"] > 0) == (mode != "semantic", mode != "keyword")
        assert all(0 < hit["score"] <= 1 for hit in hits)
    best = hits[0]["score"]
    assert len(shell.ok("search", "broken pipe", "--context", name, "--mode", "semantic", "--min-score", str(best - 0.001)).lines) == 1


def test_filters_narrow_before_ranking(shell: Shell, client: Client, name: str) -> None:
    for number in range(300):
        client.put(name, f"the deployment failed {number}")
    wanted = client.put(name, "nothing about that, but one deployment", type="task_status", meta={"k": "v"})
    for options in (["--type", "task_status"], ["--meta", "k=v"], ["--since", f"{wanted.ts}"[:0] or "1h", "--type", "task_status"]):
        assert shell.ok("search", "deployment failed", "--context", name, *options, "--limit", "1").seqs == [wanted.seq]
    assert shell.ok("search", "deployment failed type:task_status", "--context", name).seqs == [wanted.seq]
    assert wanted.seq not in shell.ok("search", "deployment -type:task_status", "--context", name, "--limit", "400").seqs


def test_related_and_agents(shell: Shell, client: Client, name: str, units: list[str]) -> None:
    first = next(iter(client.list(name)))
    assert units[0] not in shell.ok("search", "daemon pipe parser", "--context", name, "--related-to", first.id).texts
    assert shell.run("search", "pipe", "--context", name, "--agent", "nobody").code == 1


def test_no_hit_is_exit_code_1(shell: Shell, name: str, units: list[str]) -> None:
    done = shell.run("search", "zzzqqqxxj", "--context", name)
    assert (done.code, done.raw, done.err) == (1, b"", "")
    assert shell.run("search", "pipe", "--context", "no such context").code == 1


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (['say "hello'], "character 5"),
        (["x", "--mode", "magic"], "mode"),
        (["x", "--after", "12"], "cursor"),
        (["x", "--min-score", "2"], "min-score"),
        (["type:error"], "list"),
    ],
)
def test_a_bad_search_says_what_is_wrong(shell: Shell, arguments: list[str], word: str) -> None:
    assert word in shell.fails(2, "search", *arguments)


def test_a_foreign_cursor_is_refused(shell: Shell) -> None:
    assert "history" in shell.fails(1, "search", "x", "--after", "0123456789ab.5.200.3")


def test_pages_meet_without_gap_or_repeat(shell: Shell, client: Client, name: str) -> None:
    client.put_many(name, [{"text": f"daemon {'lock ' * (number % 9)}{number}"} for number in range(70)])
    whole = shell.ok("search", "daemon lock", "--context", name, "--limit", "100", "--json").objects
    seen, after = [], []
    while page := shell.run("search", "daemon lock", "--context", name, "--limit", "16", "--json", *after).objects:
        seen += page
        after = ["--after", page[-1]["cursor"]]
        client.put(name, "a new daemon lock changes nothing for who reads on")
    assert [hit["seq"] for hit in seen] == [hit["seq"] for hit in whole]
    assert len(whole) == 70


def test_a_line_has_six_fields_and_is_safe(shell: Shell, client: Client, name: str) -> None:
    made = client.put(name, HOSTILE)
    done = shell.ok("search", "daemon lock", "--context", name)
    fields = done.out.rstrip("\n").split("\t")
    assert (fields[0], fields[2], fields[3], len(fields)) == (str(made.seq), "tester", "message", 6)
    assert 0 < float(fields[5]) <= 1
    assert all(character.isprintable() or character in "\t\n" for character in done.out)
    hit = shell.ok("search", "daemon lock", "--context", name, "--json").objects[0]
    assert hit["text"] == HOSTILE
    assert [hit["snippet"]["text"][start:end] for start, end in hit["snippet"]["marks"]] == ["daemon", "lock"]
    human = shell.ok("search", "daemon lock", "--context", name, "--color", "always").out
    assert "\x1b[31mred" not in human
    assert "\x1b[1;33mdaemon" in human
    assert "\x1b[1ma " not in human, "only what was looked for is marked"


def test_a_removed_unit_is_found_no_more_and_an_added_one_there(shell: Shell, client: Client, name: str) -> None:
    made = client.put(name, "a swordfish in the office")
    other = f"{name} b"
    client.context_add(other, made.id)
    found = shell.ok("search", "swordfish", "--context", other, "--json").objects
    assert [(hit["id"], hit["entry_context"]) for hit in found] == [(made.id, other)]
    client.context_remove(name, made.id)
    assert shell.run("search", "swordfish", "--context", name).code == 1
    assert len(shell.ok("search", "swordfish", "--context", other, "--context", name).lines) == 1
    client.context_remove(other, made.id)
    assert shell.run("search", "swordfish", "--context", other).code == 1
    assert made.seq not in shell.run("search", "swordfish").seqs
