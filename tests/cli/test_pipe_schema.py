"""`engram pipe --schema`: the schema is valid, and real lines of every operation fit it, with no member that it does not name."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
from commandline import Running, Shell
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, FormatChecker

from engram_cli.commands.pipe import from_json
from engramd.protocol.errors import EngramError
from engramd.protocol.messages import NOTICES, OPERATIONS, json_schema
from engramd.protocol.schema import Record

SCHEMA = json_schema()


def strict(schema: Any) -> Any:
    """The schema without room for members that it does not name: what clients are to ignore, this daemon does not send."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: strict(one) for name, one in schema.items()}
    return {**made, "additionalProperties": False} if "properties" in made and made.get("type") == "object" else made


NEW = "019a0000-0000-7000-8000-000000000001"  # the id of a unit that comes from elsewhere
STRICT = strict(copy.deepcopy(SCHEMA))


def fits(value: Any, name: str, schema: Any = STRICT) -> bool:
    whole = {"$schema": schema["$schema"], "$ref": f"#/$defs/{name}", "$defs": schema["$defs"]}
    return bool(Draft202012Validator(whole, format_checker=FormatChecker()).is_valid(value))


def test_the_schema_is_one_and_is_what_the_command_prints(shell: Shell) -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert json.loads(shell.ok("pipe", "--schema").out) == SCHEMA


def test_it_needs_no_daemon(alone: Shell) -> None:
    assert alone.ok("pipe", "--schema", "--no-autostart").raw
    assert alone.daemon_pid() is None


def test_every_reference_leads_somewhere_and_every_definition_is_used() -> None:
    text = json.dumps(SCHEMA)
    for name in SCHEMA["$defs"]:
        assert f'"#/$defs/{name}"' in text, name
    used = {part.split('"')[0] for part in text.split("#/$defs/")[1:]} - {"NAME-result. "}
    assert {name for name in used if not name.startswith("NAME")} <= SCHEMA["$defs"].keys()


def named(op: str) -> str:
    return op.replace("_", "-")


class Talk:
    """A pipe whose every line, both ways, is held to the schema."""

    def __init__(self, shell: Shell) -> None:
        self._pipe: Running = shell.start("pipe", pipe_stdin=True)
        self._ids = itertools.count(1)
        self.asked: dict[int, str] = {}
        self.answered: set[str] = set()
        self._seen = 0

    def say(self, op: str, **fields: Any) -> int:
        number = next(self._ids)
        line = {"id": number, "op": op, **fields}
        assert fits(line, "request"), line
        assert fits(line, f"{named(op)}-request"), line
        self.asked[number] = op
        self._pipe.say(line)
        return number

    def cancel(self, number: int) -> None:
        line = {"id": number, "op": "cancel"}
        assert fits(line, "notice")
        self._pipe.say(line)

    def lines(self, until: Any) -> Iterator[dict[str, Any]]:
        """New lines, up to one for which that is so."""
        while True:
            line = json.loads(self._pipe.expect_lines(self._seen + 1)[self._seen])
            self._seen += 1
            self._check(line)
            yield line
            if until(line):
                return

    def _check(self, line: dict[str, Any]) -> None:
        kind = "item" if "event" in line else "answer" if line["ok"] else "failure"
        assert fits(line, kind), line
        if kind == "answer":
            op = self.asked[line["id"]]
            assert fits(line["result"], f"{named(op)}-result"), (op, line)
            self.answered.add(op)

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        number = self.say(op, **fields)
        *_, last = self.lines(lambda line: line.get("id") == number and "ok" in line)
        assert last["ok"], last
        result: dict[str, Any] = last["result"]
        return result

    def end(self) -> None:
        self._pipe.hang_up()
        assert self._pipe.wait() == 0
        assert self._pipe.errors == []


def test_real_lines_of_every_operation_fit(alone: Shell) -> None:
    alone.daemon()
    talk = Talk(alone)
    ask = talk.ask
    first = ask("put", context="c", text="a question about parsers", meta={"to": "x"})
    made = ask("put", context="c", units=[{"payload_base64": "/w==", "type": "error"}, {"text": "x"}], agent="another", dedupe="k")
    edges = [{"type": "causes", "target": first["id"], "meta": {"why": "because"}}]
    lease = ask("lock", resources=["/src"], ttl="1m", reason="work")
    held = ask("lock", resources=["@bound"], session=True)
    assert held["expires_at"] is None
    slots = ask("lock", resources=["@three"], mode="slots", slots=3)
    fences = [{"resource": "/src/a.py", "token": lease["token"]}]
    labels = {"path": "/src/a.py"}
    change = ask("put", context="c", text="changed", type="file_change", meta=labels, relationships=edges, fences=fences)
    assert len(ask("get", ids=[first["id"], made["ids"][0], change["seq"]])["units"]) == 3
    assert ask("list", context="c", limit=2)["next"]
    other = alone.client("other").lock("@theirs")  # of another session: to wait for one's own would be a deadlock
    waiting = talk.say("lock", resources=["@theirs"], wait=True)
    assert ask("locks", resources=["/src"], explain=True)["locks"][0]["units"]
    assert ask("locks")["waiters"][0]["behind"] == [other.token]
    talk.cancel(waiting)
    assert [line["ok"] for line in talk.lines(lambda line: line.get("id") == waiting)][-1] is False
    ask("renew", token=slots["token"])
    ask("unlock", token=slots["token"])
    follow = talk.say("tail", after=0, follow=True, events=True, credit=100_000)
    kinds = {line["event"]["kind"] for line in talk.lines(lambda line: line.get("event", {}).get("kind") == "live")}
    assert {"unit_put", "lock_granted", "context_created", "live"} <= kinds
    talk.cancel(follow)
    list(talk.lines(lambda line: line.get("id") == follow and "ok" in line))
    assert ask("search", query="parsers", limit=1, wait=60_000)["hits"]
    assert ask("pack", contexts=["c"], budget=1000, policy={"types": {"error": {"weight": 5}}})["text"].startswith("#")
    assert ask("pack", contexts=["c"], budget=1000, query="parsers", explain=True)["manifest"]["units"]
    assert ask("related", of=first["id"], depth=2)["related"]
    assert ask("why", paths=["/src/a.py"])["changes"][0]["leases"]
    ask("context_create", context="d", display_name="D", meta={"k": "v"})
    ask("context_set", context="d", meta={"k": None})
    for op in ("context_add", "context_pin", "context_unpin", "context_pin", "context_remove"):
        ask(op, context="d", ids=[first["id"]])
    for op in ("context_join", "context_leave"):
        ask(op, context="d", agent="x")
    ask("context_show", context="d")
    assert len(ask("context_list")["contexts"]) == 2
    ask("consumer_create", consumer="w", contexts=["c"], deliveries=1, visibility="100ms", key="agent")
    number = talk.say("consume", consumer="w", prefetch=2, follow=True)
    entry = next(line for line in talk.lines(lambda line: "unit" in line.get("event", {})) if "event" in line)["event"]
    assert entry["deliveries"] == 1
    ask("consumer_show", consumer="w")
    ask("ack", consumer="w", entries=[entry["cursor"]])
    talk.cancel(number)
    list(talk.lines(lambda line: line.get("id") == number and "ok" in line))
    while not ask("consumer_parked", consumer="w")["parked"]:
        pass
    ask("consumer_list")
    ask("consumer_retry", consumer="w")
    ask("consumer_reset", consumer="w", to="start")
    ask("consumer_delete", consumer="w")
    assert len(ask("agents")["agents"]) == 2
    ask("agents", context="c")
    ask("names", kind="contexts", prefix="")
    ask("status")
    assert ask("metrics")["metrics"]
    assert ask("metrics", form="prometheus")["text"]
    issued = ask("token_issue", agent="guest", permissions=["read"], contexts=["c"])
    assert ask("token_list")["tokens"]
    for op in ("token_inspect", "token_revoke"):
        ask(op, token=issued["info"]["token"])
    failed = talk.say("get", ids=["999999"])
    assert [line["ok"] for line in talk.lines(lambda line: line.get("id") == failed)][-1] is False
    ask("context_retain", context="d", units=1000)
    ask("redact", ids=[first["id"]], reason="a slip")
    assert ask("put", context="e", units=[{"text": "again", "id": made["ids"][1]}, {"text": "x", "id": NEW}])["fresh"] == 1
    assert ask("backup", after=0, last=5)["changed"] == []
    assert ask("check")["findings"] == []
    ask("shutdown")
    assert talk.answered == OPERATIONS.keys(), "an operation that is new needs a line here"


NO_LINES: list[Any] = [
    {},
    [],
    {"id": 1},
    {"op": "status"},
    {"id": -1, "op": "status"},
    {"id": True, "op": "status"},
    {"id": "", "op": "status"},
    {"id": 1, "op": "fly"},
    {"id": 1, "op": "list"},
    {"id": 1, "op": "list", "context": "c", "limt": 3},
    {"id": 1, "op": "list", "context": "c", "limit": 2**64},
    {"id": 1, "op": "get", "ids": []},
    {"id": 1, "op": "get", "ids": [1], "form": "raw"},
    {"id": 1, "op": "put", "context": "c", "payload": "x"},
    {"id": 1, "op": "put", "context": "c", "type": "shout"},
    {"id": 1, "op": "search", "query": "x", "min_score": 2},
]


@pytest.mark.parametrize("line", NO_LINES, ids=str)
def test_what_is_no_request_fits_nothing_and_is_refused(shell: Shell, line: Any) -> None:
    assert not fits(line, "request", SCHEMA)
    [answer] = shell.ok("pipe", input=json.dumps(line).encode()).objects
    assert answer["ok"] is False
    assert fits(answer, "failure")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3), max_leaves=4
)


@pytest.mark.parametrize("op", [*OPERATIONS, *NOTICES])
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_what_the_daemon_would_refuse_the_schema_refuses_where_it_can(op: str, data: st.DataObject) -> None:
    """A request with one member of any kind: where the schema takes it, so does the check, but for what no schema can say."""
    record = OPERATIONS[op].request if op in OPERATIONS else NOTICES[op]
    fields = {name: data.draw(values) for name in data.draw(st.sets(st.sampled_from([*record.fields, "other"]), max_size=2))}
    accepted = fits({"id": 1, "op": op, **fields}, f"{named(op)}-request" if op in OPERATIONS else op, SCHEMA)
    refusal = refused(record, fields)
    if refusal:
        assert not accepted or any(word in refusal for word in ("control", "blank", "path", "bytes")), refusal
    else:
        assert accepted or "form" in fields or "payload" in fields


def refused(record: Record, fields: dict[str, Any]) -> str:
    """Why a request is refused, if it is."""
    try:
        record.check(from_json(fields))
    except EngramError as error:
        return error.message
    return ""
