"""`engram export` and `engram import`: what goes out comes in, once."""

from __future__ import annotations

import json
import random
import uuid
from pathlib import Path
from typing import Any

import cbor2
import pytest
from commandline import Shell
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import LABELS, NAMES, PAYLOADS

from engramd.protocol.times import format_ts
from engramd.protocol.unit import RELATIONSHIPS, TYPES, format_id, instant_of, new_id

Line = dict[str, Any]


def exported(shell: Shell, *arguments: str) -> list[Line]:
    return shell.ok("export", *arguments).objects


def bare(lines: list[Line]) -> list[Line]:
    """What must be the same wherever the units are."""
    return [{name: value for name, value in line.items() if name not in ("seq", "ts")} for line in lines]


def put(shell: Shell, lines: list[Line] | bytes, *options: str, code: int = 0) -> str:
    """Import lines, and give what is said."""
    data = lines if isinstance(lines, bytes) else b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    done = shell.run("import", "-", *options, input=data)
    assert (done.code, done.out) == (code, ""), done.err
    return done.err


@pytest.fixture
def filled(alone: Shell) -> Shell:
    """A daemon with units that moved and were pinned."""
    alone.daemon()
    first = alone.put("a", "one", "--meta", "k=v")
    second = alone.put("b", "two", "--rel", f"causes:{first}", "--as", "you")
    alone.put("a", b"\xff\xfe")
    gone = alone.put("a", "gone")
    alone.ok("context", "add", "a", second)
    alone.ok("context", "add", "c", first)
    alone.ok("context", "remove", "a", first)
    alone.ok("context", "remove", "a", gone)
    alone.ok("context", "pin", "a", second)
    alone.ok("context", "set", "b", "--display-name", "The b", "--meta", "team=x")
    return alone


@pytest.mark.parametrize("form", ["jsonl", "cbor"])
def test_what_was_exported_is_imported_once(filled: Shell, form: str) -> None:
    whole = exported(filled)
    data = filled.ok("export", "--format", form).raw
    with Shell() as other:
        other.daemon()
        assert "3 units would be put, 0 were there" in put(other, data, "--dry-run")
        assert other.ok("context", "list").out == ""
        assert "3 units were put, 0 were there already, 3 contexts made, 4 changes" in put(other, data)
        assert bare(exported(other)) == bare(whole)
        end = json.loads(other.ok("status", "--json").out)["last_seq"]
        assert "0 units were put, 3 were there already" in put(other, data)
        assert json.loads(other.ok("status", "--json").out)["last_seq"] == end
        assert "0 units would be put, 3 were" in put(other, data, "--dry-run")
    assert "0 units were put" in put(filled, data)


def test_what_an_export_holds(filled: Shell) -> None:
    contexts, units = [line for line in exported(filled) if "type" not in line], [line for line in exported(filled) if "type" in line]
    assert contexts[1] == {"context": {"id": "b", "display_name": "The b", "meta": {"team": "x"}}}
    assert [(unit.get("text"), unit.get("contexts"), unit.get("pinned")) for unit in units] == [
        ("one", ["c"], None),
        ("two", ["b", "a"], ["a"]),
        (None, None, None),
    ]
    assert units[2]["payload_base64"] == "//4="
    assert [line["text"] for line in exported(filled, "b") if "type" in line] == ["two"]
    assert sorted(str(line.get("text")) for line in exported(filled, "a") if "type" in line) == ["None", "two"]
    assert [line["text"] for line in exported(filled, "--agent", "you") if "type" in line] == ["two"]
    assert len([line for line in exported(filled, "--since", "1h") if "type" in line]) == 3
    assert [line for line in exported(filled, "--until", "1h") if "type" in line] == []
    assert "there is no context" in filled.fails(1, "export", "none")
    assert "must be one of" in filled.fails(2, "export", "--format", "xml")


def test_a_listed_unit_is_imported_as_well(filled: Shell) -> None:
    lines = [json.loads(line) for line in filled.ok("list", "b", "--json").lines]
    lines[0]["relationships"] = []
    with Shell() as other:
        other.daemon()
        assert "1 units were put" in put(other, lines)


def unit(number: int, **members: Any) -> Line:
    return {
        "id": format_id(new_id(10**15 + number)),
        "context": "c",
        "agent": "me",
        "type": "message",
        "meta": {},
        "text": str(number),
        **members,
    }


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (b"{", "not JSON"),
        (b"[1]", "must be a map"),
        (b'{"a": ' + b"[" * 100_000, "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (json.dumps(unit(9, id="7")).encode(), "version 7"),
        (json.dumps(unit(9, id=str(uuid.uuid4()))).encode(), "version 7"),
        (json.dumps(unit(9, type="mail")).encode(), "type"),
        (json.dumps(unit(9, context="a\0b")).encode(), "context"),
        (json.dumps(unit(9, extra=1)).encode(), "unknown field"),
        (json.dumps(unit(9, relationships=[{"type": "causes", "target": "7"}])).encode(), "must be an id"),
        (json.dumps(unit(9, relationships=[{"type": "causes", "target": str(uuid.uuid4())}])).encode(), "does not exist"),
        (json.dumps({name: value for name, value in unit(9).items() if name != "text"}).encode(), "neither text nor payload"),
        (json.dumps({"context": {"id": "x"}}).encode(), "is required"),
        (json.dumps({**{n: v for n, v in unit(9).items() if n != "text"}, "payload_base64": "!"}).encode(), "not base64"),
    ],
)
def test_a_bad_line_is_named_and_what_was_done_is_said(shell: Shell, bad: bytes, words: str, name: str) -> None:
    good = [json.dumps(unit(number, context=name, id=format_id(new_id(10**15)))).encode() for number in range(3)]
    said = put(shell, b"\n".join([*good, bad, json.dumps(unit(8, context=name)).encode()]), code=1 if "does not exist" in words else 2)
    assert "item 4:" in said
    assert words in said
    assert "they stay" in said
    done = 4 if "does not exist" in words else 3  # what was on its way when the daemon refused one
    assert f"Until then {done} units were put" in said
    assert len(shell.ok("list", name).lines) == done


@pytest.mark.parametrize(
    "bad",
    [
        b"\xa1",
        b"\xbf\xff",
        b"\xc0\x60",
        b"\x5b\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x9b\x00\x00\x00\xff\x00\x00\x00\x00",
        b"\x81" * 50,
        b"\x1c",
    ],
)
def test_cbor_with_tricks_is_refused(shell: Shell, bad: bytes, name: str) -> None:
    members = unit(1, context=name)
    good = cbor2.dumps({**members, "id": new_id(10**15)})
    for data in (bad, good + bad):
        assert "item" in put(shell, data, "--format", "cbor", code=2)


def test_many_units_of_many_agents(alone: Shell) -> None:
    alone.daemon()
    rng = random.Random(1)
    ids = [new_id(10**15 + number) for number in range(1500)]
    lines = [
        unit(
            number,
            id=format_id(ids[number]),
            agent=rng.choice("xyz"),
            context=rng.choice("ab"),
            relationships=[{"type": "causes", "target": format_id(rng.choice(ids[:number]))}] if number else [],
        )
        for number in range(1500)
    ]
    assert "1500 units were put" in put(alone, lines)
    assert [line["text"] for line in exported(alone) if "type" in line] == [str(number) for number in range(1500)]
    assert format_ts(instant_of(ids[7])).startswith("2001-09-09T01:46:40.000007"), "an id tells when its unit was first put"


UNITS = st.lists(
    st.fixed_dictionaries(
        {"context": NAMES, "agent": NAMES, "type": st.sampled_from(TYPES), "meta": LABELS, "payload": PAYLOADS},
        optional={"edge": st.sampled_from(RELATIONSHIPS)},
    ),
    min_size=1,
    max_size=6,
)


@given(UNITS, st.sampled_from(["jsonl", "cbor"]))
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_export_and_import_are_each_others_reverse(tmp_path_factory: pytest.TempPathFactory, drawn: list[Line], form: str) -> None:
    with Shell() as one, Shell() as two:
        one.daemon()
        two.daemon()
        client, last = one.client(), None
        for draft in drawn:
            payload = {"text" if isinstance(draft["payload"], str) else "payload": draft["payload"]}
            edges = [{"type": draft["edge"], "target": last, "meta": draft["meta"]}] if "edge" in draft and last else []
            made = client.request("put", {**{n: draft[n] for n in ("context", "agent", "type", "meta")}, **payload, "relationships": edges})
            last = made["id"]
        data = one.ok("export", "--format", form).raw
        put(two, data)
        assert bare(exported(two)) == bare(exported(one))


def test_a_json_array_is_not_taken_for_something_else(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "array").write_text('[{"id": "x"}]\n')
    assert shell.fails(2, "import", tmp_path / "array") == "engram: item 1: must be a map\n"
