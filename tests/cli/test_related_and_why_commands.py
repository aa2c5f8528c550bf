"""`related` and `why`, as people and scripts see them."""

from __future__ import annotations

from pathlib import Path

import pytest
from commandline import Shell

from engram_cli.client import Client, Relationship


@pytest.fixture
def story(client: Client, name: str) -> list[int]:
    """The seqs of a plan, what it caused, and the answer to that."""
    plan = client.put(name, "plan")
    call = client.put(name, "call\n2", type="tool_call", relationships=[Relationship("causes", plan.id, {"k": "v"})])
    answer = client.put(name, "answer", relationships=[Relationship("responds_to", call.id)])
    return [plan.seq, call.seq, answer.seq]


def test_related_prints_distance_direction_and_edge(shell: Shell, story: list[int], name: str) -> None:
    plan, call, answer = map(str, story)
    rows = [line.split("\t") for line in shell.ok("related", plan, "--depth", "5").lines]
    assert [(*row[:4], *row[6:]) for row in rows] == [
        ("1", "in", "causes", call, "tool_call", "call\\n2"),
        ("2", "in", "responds_to", answer, "message", "answer"),
    ]
    assert shell.ok("related", answer, "--direction", "out").lines[0].split("\t")[:3] == ["1", "out", "responds_to"]
    assert shell.ok("related", plan, "--type", "references").raw == b""
    (found,) = shell.ok("related", call, "--direction", "out", "--json").objects
    assert (found["distance"], found["unit"]["text"], found["edge"]["type"], found["edge"]["meta"]) == (1, "plan", "causes", {"k": "v"})
    assert found["edge"]["target"] == found["unit"]["id"]
    shown = shell.ok("related", call, "--color", "always").out
    assert "→ causes" in shown
    assert "← responds_to" in shown


def test_related_says_when_there_is_more(shell: Shell, story: list[int]) -> None:
    done = shell.run("related", str(story[0]), "--depth", "9", "--limit", "1")
    assert (done.code, len(done.lines)) == (0, 1), done.err
    assert "there are more" in done.err
    assert "no unit" in shell.fails(1, "related", "999999999")
    for options in (["--direction", "up"], ["--type", "lunch"], ["--depth", "0"]):
        shell.fails(2, "related", str(story[0]), *options)


def test_why_finds_a_file_from_wherever_one_stands(shell: Shell, client: Client, name: str, story: list[int]) -> None:
    source = shell.home / name / "src"
    source.mkdir(parents=True)
    token = client.request("lock", {"resources": [str(source)], "reason": "to mend it"})["token"]
    edges = [{"type": "responds_to", "target": story[1]}]
    meta = {"path": str(source / "x.py")}
    fences = [{"resource": str(source), "token": token}]
    client.request("put", {"context": name, "text": "old", "type": "file_change", "meta": meta, "relationships": edges, "fences": fences})
    client.put(f"{name} other", "new", type="file_change", meta={"path": f"./{name}/src/x.py"})
    client.put(name, "not it", type="file_change", meta={"path": "x.py"})
    client.put(name, "no change", meta=meta)
    for place, path in ((source.parent, "src/x.py"), (shell.home, f"{name}/src/../src/x.py"), (Path("/"), str(source / "x.py"))):
        changes = shell.ok("why", path, "--json", cwd=place).objects
        expected = ["old"] if place == Path("/") else ["new", "old"]
        assert [change["unit"]["text"] for change in changes] == expected, place
    assert [change["unit"]["text"] for change in shell.ok("why", "x.py", "--json", cwd=source).objects] == ["not it", "new", "old"]
    (lease,) = changes[-1]["leases"]
    assert (lease["token"], lease["holder"], lease["resources"], lease["reason"]) == (token, "tester", [str(source)], "to mend it")
    assert lease["granted_at"].endswith("Z")
    rows = [line.split("\t") for line in shell.ok("why", str(source / "x.py"), cwd=Path("/")).lines]
    assert [row[:4] for row in rows] == [
        ["0", "-", "change", rows[0][3]],
        ["0", "-", "lease", str(token)],
        ["1", "out", "responds_to", str(story[1])],
        ["2", "out", "causes", str(story[0])],
    ]
    assert {len(row) for row in rows} == {8}
    shown = shell.ok("why", str(source / "x.py"), "--color", "always", cwd=Path("/")).out
    assert f"under lease {token}" in shown
    assert shell.ok("why", "none").raw == b""
    assert len(shell.ok("why", str(source / "x.py"), "--limit", "1", "--depth", "0", cwd=Path("/")).lines) == 2


def test_the_clients_have_them_as_objects(client: Client, name: str, story: list[int]) -> None:
    found = client.related(story[0], direction="in", type=["causes"], depth=3)
    assert [(one.unit.seq, one.distance, one.edge.type) for one in found.found] == [(story[1], 1, "causes")]
    assert not found.more
    client.put(name, "x", type="file_change", meta={"path": f"/{name}"}, relationships=[Relationship("causes", str(story[2]))])
    (change,) = client.why(f"/{name}")
    assert (change.unit.text, [one.unit.seq for one in change.chain], change.leases) == ("x", story[::-1], ())
