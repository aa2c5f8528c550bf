"""`pack`: what it prints, records and verifies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commandline import AGENT, Shell

from engram_cli.client import Client


@pytest.fixture
def units(client: Client, name: str) -> list[int]:
    """A few units, one of them pinned."""
    first = client.put(name, "the plan: fix the parser")
    rest = [client.put(name, f"status {number} of the work", type="task_status").seq for number in range(5)]
    failed = client.put(name, "KeyError in the parser\n" + "  at line 1\n" * 400, type="error")
    client.context_pin(name, first.id)
    return [first.seq, *rest, failed.seq]


def test_stdout_is_the_pack_and_nothing_else(shell: Shell, client: Client, name: str, units: list[int]) -> None:
    made = client.pack(name, budget=500)
    done = shell.ok("pack", name, "--budget", "500", "--at", str(made.manifest["inputs"]["at"]))
    assert done.raw == made.text
    assert done.err == ""
    shown = shell.ok("pack", name, "--budget", "500", "--at", str(made.manifest["inputs"]["at"]), "--json")
    assert shown.objects == [made.manifest]


def test_a_query_brings_what_fits_it(shell: Shell, name: str, units: list[int]) -> None:
    shown = shell.ok("pack", name, "--budget", "400", "--query", "KeyError", "--explain").lines
    rows = [line.split("\t") for line in shown]
    assert [int(row[1]) for row in rows] == units
    assert {row[0] for row in rows} <= {"in", "out"}
    assert rows[0][2:4] == ["pinned", f"pinned in {name}"]


def test_formats_and_sizes(shell: Shell, name: str, units: list[int]) -> None:
    made = json.loads(shell.ok("pack", name, "--budget", "900", "--unit", "bytes", "--format", "json").raw)
    assert made["contexts"] == [name]
    done = shell.ok("pack", name, "--budget", "900", "--unit", "bytes", "--format", "xml")
    assert len(done.raw) <= 900
    assert done.out.startswith("<pack ")


def test_a_recorded_pack_can_be_made_again(shell: Shell, client: Client, name: str, units: list[int], tmp_path: Path) -> None:
    manifest = tmp_path / "manifest"
    done = shell.run("pack", name, "--budget", "500", "--query", "parser", "--record", "--manifest", str(manifest))
    assert done.code == 0
    made = json.loads(manifest.read_text())
    assert f"engram pack --verify {made['hash']}" in done.err
    shell.run("pack", name, "--budget", "500", "--query", "parser", "--at", str(made["inputs"]["at"]), "--record")
    assert len(list(client.list(name, meta={"pack": made["hash"]}))) == 1, "recorded once"
    client.put(name, "parser, once more", type="error")
    client.context_unpin(name, units[0])
    assert shell.ok("pack", "--verify", made["hash"]).out == "identical\n"
    assert shell.ok("pack", name, "--verify", made["hash"], "--json").objects == [
        {"hash": made["hash"], "identical": True, "differences": []}
    ]
    unknown = shell.run("pack", "--verify", "0" * 64)
    assert (unknown.code, unknown.out) == (1, "")


def test_what_differs_is_named(shell: Shell, client: Client, name: str, units: list[int]) -> None:
    made = client.pack(name, budget=500).manifest
    made["units"][0]["digest"] = "00000000"
    made["units"][1]["seq"] = 10**9
    forged = "f" * 64
    client.put(name, json.dumps({**made, "hash": forged}), type="system", meta={"engram": "pack", "pack": forged})
    done = shell.run("pack", name, "--verify", forged)
    assert done.code == 1
    assert [line.split("\t") for line in done.lines] == [
        [str(units[0]), "reads otherwise now: it is cut elsewhere"],
        [str(10**9), "is gone from the log"],
        [str(units[1]), "was not in it then"],
    ]


def test_what_was_redacted_since_is_named(shell: Shell, client: Client, name: str, units: list[int]) -> None:
    known = json.loads(shell.run("pack", name, "--budget", "500", "--record", "--json").out)["hash"]
    shell.ok("redact", str(units[0]), "--reason", "a password")
    done = shell.run("pack", "--verify", known)
    assert (done.code, done.lines) == (1, [f"{units[0]}\twas redacted by {AGENT}: a password"])
    assert "[redacted: a password]" in shell.ok("pack", name, "--budget", "500").out


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"hash": 1}', '{"hash": "%s", "inputs": {}, "units": []}', "[" * 100_000])
def test_what_is_no_manifest_is_passed_over(shell: Shell, client: Client, name: str, text: str) -> None:
    known = "e" * 64
    client.put(name, text.replace("%s", known), type="system", meta={"engram": "pack", "pack": known})
    done = shell.run("pack", name, "--verify", known)
    assert done.code == 1
    assert "Traceback" not in done.err
    assert f"no pack with the hash {known} was recorded" in done.err


@pytest.mark.parametrize(
    ("policy", "word"),
    [
        ("[types.error]\nweight = 'x'", "policy.types.error.weight"),
        ("[types.error]\nwait = 1", "policy.types.error.wait"),
        ("[shares]\npinned = 101", "policy.shares.pinned"),
        ("weight = 2026-01-01", "weight"),
        ("a = 99999999999999999999999", "a: no rule"),
        ("a = " + "[" * 50 + "]" * 50, "no rule"),
        ("a = " + "[" * 5000 + "]" * 5000, "nested too deep"),
        ("nonsense", "--policy"),
        ("\x00", "--policy"),
        ("[related]\ntypes = ['nothing']", "policy.related.types[0]"),
    ],
)
def test_a_bad_policy_is_told_where(shell: Shell, name: str, units: list[int], tmp_path: Path, policy: str, word: str) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(policy)
    done = shell.run("pack", name, "--budget", "500", "--policy", str(path))
    assert (done.code, done.out) == (2, "")
    assert word in done.err
    assert len(done.err.splitlines()) == 1


def test_a_policy_file_is_what_counts(shell: Shell, name: str, units: list[int], tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text("[types.task_status]\nweight = 0\n")
    rows = [line.split("\t") for line in shell.ok("pack", name, "--budget", "2000", "--policy", str(path), "--explain").lines]
    assert {int(row[1]) for row in rows if row[0] == "out"} == set(units[1:6])
    assert {row[3] for row in rows if row[0] == "out"} == {"the policy leaves out task_status"}


def test_what_must_be_given_and_what_must_not(shell: Shell, name: str) -> None:
    for line, word in (
        (("pack", name), "--budget"),
        (("pack", "--budget", "500"), "CONTEXT"),
        (("pack", name, "--budget", "500", "--format", "pdf"), "md, json, xml"),
        (("pack", name, "--budget", "500", "--unit", "words"), "tokens, chars, bytes"),
        (("pack", name, "--budget", "500", "--policy", "worst-first"), "errors-first"),
        (("pack", name, "--budget", "500", "--policy", "no/such.toml"), "No such file"),
        (("pack", name, "--budget", "500", "--manifest", "/no/such/place"), "--manifest"),
        (("pack", name, "--verify", "0" * 64, "--diff", "3"), "--diff"),
        (("pack", name, "--verify", "xyz"), "64 hexadecimal digits"),
        (("pack", name, "--budget", "3"), "too few"),
        (("pack", name, "--budget", "500", "--counter", "tokenizer"), "--tokenizer"),
    ):
        done = shell.run(*line)
        assert done.code == 2, (line, done)
        assert word in done.err, done.err


def test_an_empty_pack_says_so(shell: Shell, name: str) -> None:
    done = shell.run("pack", name, "--budget", "500")
    assert done.code == 0
    assert done.err == f"engram: no unit of {name} is in the pack (0 did not fit)\n"


def test_the_difference_since_a_seq(shell: Shell, client: Client, name: str, units: list[int]) -> None:
    new = client.put(name, "what is new")
    done = shell.ok("pack", name, "--budget", "900", "--diff", str(new.seq - 1))
    assert "what is new" in done.out
    assert "status 1" not in done.out
