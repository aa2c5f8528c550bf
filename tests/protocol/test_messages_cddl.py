"""The declared operations, the CDDL that is printed from them, and frames: they must say the same."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pycddl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wire_strategies import NAMES, SEQ, broken, encoded, records, units

from engramd.protocol.connection import ClientConnection, answer_frame, failure_frame, item_frame
from engramd.protocol.errors import CODES, EngramError
from engramd.protocol.framing import LENGTH, decode, encode
from engramd.protocol.messages import HELLO, HELLO_RESULT, NOTICES, OPERATIONS, PERMISSIONS, cddl
from engramd.protocol.unit import with_entry

DOCUMENT = Path(__file__).parents[2] / "docs" / "protocol.cddl"
quick = settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.too_slow])


def _for_pycddl(text: str) -> str:
    """The schema in words that pycddl 0.6 understands: it takes a member's bare name for the type or rule of the same name (`text`, `id`),
    cannot read a control operator in a map's key, and miscounts an array whose item is a map in parentheses. None of this changes what
    the schema says, but that the length of a map's keys is left open."""
    text = re.sub(r"(?<=[ (])([a-z_]+): ", r'"\1": ', text)
    text = re.sub(r"\(tstr \.size \(\d+\.\.\d+\)\) =>", "tstr =>", text)
    text = text.replace("(tstr) => ", "tstr => ").replace("([2*2", "[2*2").replace(")])]", ")]]")
    return text.replace("({ ", "{ ").replace(" })]", " }]")


@cache
def _schema(start: str) -> pycddl.Schema:
    return pycddl.Schema(f"start = {start}\n{_for_pycddl(cddl())}")


def _accepts(data: bytes, start: str = "frame") -> bool:
    """Whether the CDDL accepts a frame, given with its length, as the rule `start`. What pycddl has found in one option of a choice it
    holds true in the next, so only a rule without the choice between all operations refuses everything that it should."""
    assert LENGTH.unpack_from(data) == (len(data) - LENGTH.size,)
    try:
        _schema(start).validate_cbor(data[LENGTH.size :])
    except pycddl.ValidationError:
        return False
    return True


def _rule(op: str) -> str:
    return op.replace("_", "-")


def _request(op: str, fields: dict[str, Any]) -> bytes:
    return ClientConnection(0).request(op, fields)[1]


def test_the_document_is_current() -> None:
    again = "write it anew: python -m engramd.protocol.messages > docs/protocol.cddl"
    assert DOCUMENT.read_bytes() == cddl().encode(), f"docs/protocol.cddl is not what engramd/protocol/messages.py says; {again}"


def test_the_command_that_writes_the_document() -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-m", "engramd.protocol.messages"], capture_output=True, check=True)
    assert done.stdout == cddl().encode()
    assert done.stderr == b""


def test_the_document_is_valid_cddl() -> None:
    pycddl.Schema(cddl())
    first = next(line for line in cddl().splitlines() if line and not line.startswith(";"))
    assert first.startswith("frame = ")  # the first rule is what a validator starts from


def test_every_rule_is_defined_once_and_used() -> None:
    text = re.sub(r";.*", "", cddl())
    rules = re.findall(r"^([a-z][a-z-]*) *=", text, re.MULTILINE)
    assert len(set(rules)) == len(rules)
    unquoted = re.sub(r'"[^"]*"', "", text)
    assert [rule for rule in rules[1:] if len(re.findall(rf"(?<![\w-]){rule}(?![\w-])", unquoted)) < 2] == []


def test_every_operation_has_the_permission_that_is_meant() -> None:
    """Said twice on purpose: a new operation must not get its permission by accident."""
    meant = {
        "read": {"get", "list", "tail", "context_show", "context_list", "agents", "names", "search", "status", "locks", "related", "why"}
        | {"metrics", "pack"}
        | {"consumer_show", "consumer_list", "consumer_parked"},
        "lock": {"lock", "renew", "unlock"},
        "write": {"put", "context_create", "context_set", "context_join", "context_leave"}
        | {"context_pin", "context_unpin", "context_add", "context_remove"}
        | {"consume", "ack", "consumer_create", "consumer_retry", "consumer_reset", "consumer_delete"},
        "admin": {"shutdown", "backup", "check", "context_retain", "redact"}
        | {"token_issue", "token_list", "token_revoke", "token_inspect"},
    }
    further = {"put": {"release": "lock"}, "consume": {"": "read"}, "unlock": {"force": "admin"}}
    assert {name: operation.also for name, operation in OPERATIONS.items() if operation.also} == further
    assert {name: operation.permission for name, operation in OPERATIONS.items()} == {
        name: permission for permission, names in meant.items() for name in names
    }
    assert {operation.permission for operation in OPERATIONS.values()} <= set(PERMISSIONS)
    assert {name: operation.waits for name, operation in OPERATIONS.items() if operation.waits} == {"lock": "wait"}
    assert [name for name, operation in OPERATIONS.items() if operation.stream] == ["tail", "consume"]
    assert OPERATIONS.keys().isdisjoint({*NOTICES, "hello"})


@pytest.mark.parametrize("op", OPERATIONS)
@given(data=st.data())
@quick
def test_valid_requests_are_accepted_by_both(op: str, data: st.DataObject) -> None:
    fields = data.draw(records(OPERATIONS[op].request))
    OPERATIONS[op].request.check(fields)
    assert _accepts(_request(op, fields))
    assert _accepts(_request(op, fields), f"{_rule(op)}-request")


@pytest.mark.parametrize("op", [op for op, operation in OPERATIONS.items() if operation.request.fields])
@given(data=st.data())
@quick
def test_one_wrong_type_is_refused_by_both(op: str, data: st.DataObject) -> None:
    # Only kinds that no member of a request could be taken for: pycddl lets an integer pass for a text whose size is bounded.
    fields = data.draw(broken(OPERATIONS[op].request, kinds=(None, True, 1.5)))
    with pytest.raises(EngramError) as caught:
        OPERATIONS[op].request.check(fields)
    assert caught.value.code == "invalid"
    assert not _accepts(_request(op, fields), f"{_rule(op)}-request")


@pytest.mark.parametrize("op", OPERATIONS)
@given(data=st.data())
@quick
def test_an_unknown_or_a_missing_member_is_refused_by_both(op: str, data: st.DataObject) -> None:
    record = OPERATIONS[op].request
    fields = data.draw(records(record))
    extra = data.draw(NAMES.filter(lambda name: name not in record.fields and name not in ("id", "op")))
    wrong = [{**fields, extra: 1}]
    wrong += [{k: v for k, v in fields.items() if k != name} for name, field in record.fields.items() if field.required]
    for changed in wrong:
        with pytest.raises(EngramError, match=r"unknown field|is required"):
            record.check(changed)
        assert not _accepts(_request(op, changed), f"{_rule(op)}-request")


@pytest.mark.parametrize("op", OPERATIONS)
@given(data=st.data())
@quick
def test_answers_are_accepted(op: str, data: st.DataObject) -> None:
    result = data.draw(records(OPERATIONS[op].result))
    OPERATIONS[op].result.check(result)
    assert _accepts(answer_frame(7, encode(result)), f"{{ id: id, ok: true, result: {_rule(op)}-result }}")


@given(hello=records(HELLO), greeting=records(HELLO_RESULT), request_id=SEQ | NAMES, data=st.data())
@quick
def test_hello_notices_and_failures_are_accepted(
    hello: dict[str, Any], greeting: dict[str, Any], request_id: int | str, data: st.DataObject
) -> None:
    client = ClientConnection(0)
    assert _accepts(client.hello({key: value for key, value in hello.items() if key != "version"}))
    assert _accepts(answer_frame(0, encode(greeting)))
    for op, record in NOTICES.items():
        assert _accepts(client.notice(request_id, op, **data.draw(records(record))))
    for code in CODES:
        error = EngramError(code, "why, and what to do", field="a", limit=3, size=4)
        assert _accepts(failure_frame(request_id, error))
        assert _accepts(failure_frame(None, error))


@given(unit=units(), request_id=SEQ)
@quick
def test_stream_items_are_accepted(unit: dict[str, Any], request_id: int) -> None:
    body = encoded(unit)
    for shown in (body, with_entry(body, unit["seq"], "b")):
        for kind in ("unit_put", "unit_added"):
            event = {"cursor": "c", "kind": kind, "unit": decode(shown)}
            assert _accepts(item_frame(request_id, encode(event)))
    assert _accepts(item_frame(request_id, encode({"cursor": "c", "kind": "live"})))
    assert _accepts(item_frame(request_id, encode({"cursor": "c", "kind": "heartbeat"})))
    assert _accepts(item_frame(request_id, encode({"cursor": "c", "kind": "agent_joined", "seq": 1, "ts": 2, "data": {"member": "a"}})))


NO_FRAMES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "no id": {"op": "status"},
    "a null id": {"id": None, "op": "status"},
    "a negative id": {"id": -1, "op": "status"},
    "an id over 64 bits": {"id": 2**63, "op": "status"},
    "an empty id": {"id": "", "op": "status"},
    "an id of 65 bytes": {"id": "x" * 65, "op": "status"},
    "an unknown operation": {"id": 1, "op": "fly"},
    "an answer without a result": {"id": 1, "ok": True},
    "a failure that says ok": {"id": 1, "ok": True, "error": {"code": "busy", "message": "", "details": {}}},
    "an error without a message": {"id": 1, "ok": False, "error": {"code": "busy", "details": {}}},
    "an item without a cursor": {"id": 1, "event": {"kind": "live"}},
    "an entry without its unit": {"id": 1, "event": {"cursor": "c", "kind": "unit_put"}},
}


@pytest.mark.parametrize("message", NO_FRAMES.values(), ids=NO_FRAMES.keys())
def test_what_is_no_frame(message: dict[str, Any]) -> None:
    body = encode(message)
    assert not _accepts(LENGTH.pack(len(body)) + body)


def test_an_id_is_measured_in_bytes_by_both() -> None:
    from engramd.protocol.connection import Request, ServerConnection

    for request_id, fits in (("é" * 32, True), ("é" * 32 + "x", False)):
        server = ServerConnection(1024)
        server.state = "open"
        data = ClientConnection(0).request("status", {}, request_id)[1]
        assert _accepts(data) == fits
        if fits:
            assert list(server.receive(data)) == [Request(request_id, "status", {})]
        else:
            with pytest.raises(EngramError, match="64 bytes"):
                list(server.receive(data))
