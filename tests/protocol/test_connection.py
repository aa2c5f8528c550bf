"""The sans-I/O connection: what each side sends arrives at the other, and what is not in the table is refused."""

from __future__ import annotations

from itertools import pairwise, product
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wire_strategies import broken, records, units

from engramd.protocol.connection import (
    MAX_STREAMS,
    TRANSITIONS,
    Answer,
    ClientConnection,
    Hello,
    Id,
    Item,
    Notice,
    Rejected,
    Request,
    ServerConnection,
    State,
    answer_frame,
    failure_frame,
    item_frame,
)
from engramd.protocol.errors import CODES, EngramError
from engramd.protocol.framing import LENGTH, encode, frame
from engramd.protocol.messages import HELLO, MIB, NOTICES, OPERATIONS, VERSION, frame_limit

LIMIT = frame_limit(MIB)
IDS = st.integers(0, 2**63 - 1) | st.text(min_size=1, max_size=16)
quick = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])


def _chunks(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def _greeted() -> tuple[ClientConnection, ServerConnection]:
    client, server = ClientConnection(LIMIT), ServerConnection(LIMIT)
    list(server.receive(client.hello({"agent": "a"})))
    list(client.receive(answer_frame(0, encode({}))))
    return client, server


def _send(server: ServerConnection, message: object) -> list[Hello | Request | Notice | Rejected]:
    return list(server.receive(frame(encode(message))))


def _rejected(server: ServerConnection, message: object) -> Rejected:
    (rejected,) = _send(server, message)
    assert isinstance(rejected, Rejected)
    assert _send(server, {"id": "after", "op": "status"}) == [Request("after", "status", {})]  # the connection goes on
    server.finish("after")
    return rejected


def _broken_off(server: ServerConnection, message: object, code: str = "protocol") -> EngramError:
    with pytest.raises(EngramError) as caught:
        _send(server, message)
    assert caught.value.code == code
    return caught.value


# There and back


@st.composite
def _requests(draw: st.DrawFn) -> list[tuple[Id, str, dict[str, Any]]]:
    ids = draw(st.lists(IDS, max_size=6, unique=True))
    ops = [draw(st.sampled_from(sorted(OPERATIONS))) for _ in ids]
    return [(request_id, op, draw(records(OPERATIONS[op].request))) for request_id, op in zip(ids, ops, strict=True)]


@given(
    hello=records(HELLO).filter(lambda said: "agent" in said or "token" in said),
    requests=_requests(),
    cuts=st.lists(st.integers(0, 2**16), max_size=9),
    data=st.data(),
)
@quick
def test_what_the_client_sends_the_server_reads(
    hello: dict[str, Any], requests: list[tuple[Id, str, dict[str, Any]]], cuts: list[int], data: st.DataObject
) -> None:
    client, server = ClientConnection(LIMIT), ServerConnection(LIMIT)
    fields = {key: value for key, value in hello.items() if key != "version"}
    sent = client.hello(fields)
    expected: list[object] = [Hello(0, {"version": list(VERSION), **fields})]
    for request_id, op, members in requests:
        assert client.request(op, members, request_id)[0] == request_id
        sent += client.request(op, members, request_id)[1]
        expected.append(Request(request_id, op, members))
        if OPERATIONS[op].lasts(members):
            for notice in data.draw(st.lists(st.sampled_from(sorted(NOTICES)), max_size=2)):
                members = data.draw(records(NOTICES[notice]))
                sent += client.notice(request_id, notice, **members)
                expected.append(Notice(request_id, notice, members))

    got = [message for chunk in _chunks(sent, cuts) for message in server.receive(chunk)]
    assert got == expected
    assert not server.partial
    assert server.in_flight == {request_id for request_id, _, _ in requests}
    assert server.streams == {request_id for request_id, op, members in requests if OPERATIONS[op].lasts(members)}


@st.composite
def _replies(draw: st.DrawFn) -> tuple[bytes, Answer | Item]:
    request_id = draw(IDS)
    match draw(st.sampled_from(("answer", "failure", "item"))):
        case "answer":
            result = draw(records(OPERATIONS[draw(st.sampled_from(sorted(OPERATIONS)))].result))
            return answer_frame(request_id, encode(result)), Answer(request_id, result, None)
        case "failure":
            details = draw(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=2))
            error = EngramError(draw(st.sampled_from(sorted(CODES))), draw(st.text(max_size=20)))
            error.details = {key: value for key, value in details.items() if type(value) is str or abs(value) < 2**63}
            return failure_frame(request_id, error), Answer(request_id, None, error)
        case _:
            event = {"cursor": "c", "kind": "unit_put", "unit": draw(units())}
            body = item_frame(request_id, encode(event))
            return body, Item(request_id, event, len(body) - LENGTH.size)


def _comparable(message: Answer | Item) -> object:
    """Errors are compared by what they say, as they have no equality."""
    return (message.id, message.error.to_wire()) if isinstance(message, Answer) and message.error else message


@given(replies=st.lists(_replies(), max_size=6), cuts=st.lists(st.integers(0, 2**16), max_size=9))
@quick
def test_what_the_server_sends_the_client_reads(replies: list[tuple[bytes, Answer | Item]], cuts: list[int]) -> None:
    client = ClientConnection(LIMIT)
    greeting = {"version": list(VERSION)}
    sent = answer_frame(0, encode(greeting)) + b"".join(body for body, _ in replies)
    got = [message for chunk in _chunks(sent, cuts) for message in client.receive(chunk)]
    assert [_comparable(message) for message in got] == [Answer(0, greeting, None), *(_comparable(message) for _, message in replies)]
    assert not client.partial


def test_the_client_numbers_its_requests() -> None:
    client, server = _greeted()
    ids = []
    for _ in range(3):
        request_id, data = client.request("status", {})
        ids.append(request_id)
        assert list(server.receive(data)) == [Request(request_id, "status", {})]
    assert ids == [1, 2, 3]  # 0 is hello's


@pytest.mark.parametrize("request_id", [0, 5, 2**63 - 1, "x", "é" * 32])
def test_frames_around_encoded_values_are_what_cbor2_writes(request_id: Id) -> None:
    error = EngramError("busy", "later", limit=3)
    assert answer_frame(request_id, encode({"a": 1})) == frame(encode({"id": request_id, "ok": True, "result": {"a": 1}}))
    assert failure_frame(request_id, error) == frame(encode({"id": request_id, "ok": False, "error": error.to_wire()}))
    assert failure_frame(None, error) == frame(encode({"id": None, "ok": False, "error": error.to_wire()}))
    assert item_frame(request_id, encode({"a": 1})) == frame(encode({"id": request_id, "event": {"a": 1}}))


# The table

KINDS = {
    "server": {
        "hello": frame(encode({"id": 0, "op": "hello", "version": [1, 0], "agent": "a"})),
        "request": frame(encode({"id": 1, "op": "status"})),
        "notice": frame(encode({"id": 1, "op": "cancel"})),
    },
    "client": {
        "answer": answer_frame(1, encode({})),
        "failure": failure_frame(1, EngramError("busy", "later")),
        "item": item_frame(1, encode({"cursor": "c", "kind": "live"})),
    },
}
STATES: tuple[State, ...] = ("greeting", "open", "closed")
CASES = [(role, state, kind) for role, kinds in KINDS.items() for state, kind in product(STATES, kinds)]


def _connection(role: str, state: State) -> ServerConnection | ClientConnection:
    connection = ServerConnection(LIMIT) if role == "server" else ClientConnection(LIMIT)
    connection.state = state
    return connection


def test_the_table_is_whole() -> None:
    assert TRANSITIONS.keys() == KINDS.keys()
    assert {(role, *key) for role, table in TRANSITIONS.items() for key in table} <= set(CASES)


@pytest.mark.parametrize(("role", "state", "kind"), [case for case in CASES if case[1:] in TRANSITIONS[case[0]]])
def test_what_is_in_the_table_is_taken(role: str, state: State, kind: str) -> None:
    connection = _connection(role, state)
    after = TRANSITIONS[role][state, kind]
    if after == "closed":  # the daemon's refusal of the connection itself
        with pytest.raises(EngramError) as caught:
            list(connection.receive(KINDS[role][kind]))
        assert caught.value.code == "busy"
    else:
        assert len(list(connection.receive(KINDS[role][kind]))) == 1
    assert connection.state == after


@pytest.mark.parametrize(("role", "state", "kind"), [case for case in CASES if case[1:] not in TRANSITIONS[case[0]]])
def test_what_is_not_in_the_table_is_a_protocol_error(role: str, state: State, kind: str) -> None:
    for size in (1, 2**16):
        connection = _connection(role, state)
        data = KINDS[role][kind]
        with pytest.raises(EngramError) as caught:
            _ = [list(connection.receive(data[at : at + size])) for at in range(0, len(data), size)]
        assert caught.value.code == "protocol"


@pytest.mark.parametrize(("state", "kind"), list(product(STATES, KINDS["server"])))
def test_a_client_takes_nothing_that_a_client_says(state: State, kind: str) -> None:
    with pytest.raises(EngramError) as caught:
        list(_connection("client", state).receive(KINDS["server"][kind]))
    assert caught.value.code == "protocol"


@pytest.mark.parametrize("kind", KINDS["client"])
def test_a_server_takes_nothing_that_a_server_says(kind: str) -> None:
    with pytest.raises(EngramError, match="not allowed here"):
        list(_connection("server", "greeting").receive(KINDS["client"][kind]))
    (rejected,) = _connection("server", "open").receive(KINDS["client"][kind])
    assert isinstance(rejected, Rejected)
    assert rejected.error.code == "unknown_op"


# Hello


def test_requests_before_hello_are_refused() -> None:
    error = _broken_off(ServerConnection(LIMIT), {"id": 1, "op": "status"})
    assert "greeting" in error.message


def test_requests_may_follow_hello_at_once() -> None:
    client, server = ClientConnection(LIMIT), ServerConnection(LIMIT)
    data = client.hello({"agent": "a"}) + client.request("status", {})[1]
    assert [type(message) for message in server.receive(data)] == [Hello, Request]


def test_a_second_hello_is_refused() -> None:
    _, server = _greeted()
    _broken_off(server, {"id": 9, "op": "hello", "version": list(VERSION), "agent": "a"})


def test_a_newer_minor_version_may_say_more() -> None:
    server = ServerConnection(LIMIT)
    version = [VERSION[0], VERSION[1] + 7]
    got = _send(server, {"id": 0, "op": "hello", "version": version, "agent": "a", "mood": {"new": [1, 2]}})
    assert got == [Hello(0, {"version": version, "agent": "a"})]


@pytest.mark.parametrize("major", [VERSION[0] + 1, 0, 2**40, "1", None, ["x" * 5000], "x" * 5000])
def test_another_major_version_is_told_what_to_do(major: object) -> None:
    error = _broken_off(ServerConnection(LIMIT), {"id": 0, "op": "hello", "version": [major, 0], "agent": "a"}, "version")
    assert "engram daemon restart" in error.message
    assert str(major)[:20] in error.message
    assert error.details == {"daemon": list(VERSION)}
    assert len(error.message) < 300


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"version": list(VERSION)},
        {"agent": "a"},
        {"version": [], "agent": "a"},
        {"version": [1], "agent": "a"},
        {"version": [1, 0, 0], "agent": "a"},
        {"version": [1, "0"], "agent": "a"},
        {"version": [1.0, 0], "agent": "a"},
        {"version": 1, "agent": "a"},
        {"version": list(VERSION), "agent": ""},
        {"version": list(VERSION), "agent": "a\nb"},
        {"version": list(VERSION), "agent": 5},
        {"version": list(VERSION), "agent": "a", "token": 5},
        {"version": list(VERSION), "agent": "a", "session": None},
    ],
)
def test_a_malformed_hello_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(EngramError) as caught:
        _send(ServerConnection(LIMIT), {"id": 0, "op": "hello", **fields})
    assert caught.value.code in ("invalid", "too_large")


# Ids


@pytest.mark.parametrize("request_id", [-1, 2**63, 1.0, True, None, "", "x" * 65, "é" * 33, b"x", [1], {}])
def test_a_bad_id_is_a_protocol_error(request_id: object) -> None:
    _, server = _greeted()
    _broken_off(server, {"id": request_id, "op": "status"})


def test_a_frame_without_an_id_or_a_map_is_a_protocol_error() -> None:
    for message in ({"op": "status"}, [1, "status"], "status", None, 5):
        _, server = _greeted()
        _broken_off(server, message)


@pytest.mark.parametrize("op", ["status", "tail", "fly", None])
def test_an_id_in_flight_may_not_be_used_again(op: str | None) -> None:
    _, server = _greeted()
    _send(server, {"id": 1, "op": "tail"})
    error = _broken_off(server, {"id": 1, "op": op})
    assert "in use" in error.message


def test_an_answered_id_may_be_used_again() -> None:
    _, server = _greeted()
    for _ in range(2):
        assert _send(server, {"id": 1, "op": "tail"}) == [Request(1, "tail", {})]
        assert (server.in_flight, server.streams) == ({1}, {1})
        server.finish(1)
        assert (server.in_flight, server.streams) == (set(), set())


def test_a_refused_request_is_not_in_flight() -> None:
    _, server = _greeted()
    assert _rejected(server, {"id": 1, "op": "get"}).id == 1
    assert _send(server, {"id": 1, "op": "status"}) == [Request(1, "status", {})]


# Requests that are refused, on a connection that goes on


@pytest.mark.parametrize("op", ["fly", "", "PUT", "x" * 5000, None, 5, ["put"], {}])
def test_an_unknown_operation(op: object) -> None:
    _, server = _greeted()
    rejected = _rejected(server, {"id": "q", "op": op})
    assert (rejected.id, rejected.error.code) == ("q", "unknown_op")
    assert rejected.error.details == {"version": list(VERSION)}
    assert all(name in rejected.error.message for name in OPERATIONS)
    assert len(rejected.error.message) < 140 + sum(len(name) + 2 for name in OPERATIONS)


def test_an_unknown_member_is_never_ignored() -> None:
    _, server = _greeted()
    for name in ("colour", "x" * 5000):
        rejected = _rejected(server, {"id": 3, "op": "status", name: 1})
        assert (rejected.id, rejected.error.code) == (3, "invalid")
        assert rejected.error.message.startswith(name[:100] + ": unknown field")
        assert len(rejected.error.message) < 1000


def test_a_key_of_bytes_is_no_member() -> None:
    _, server = _greeted()
    assert _rejected(server, {"id": 1, "op": "get", b"ids": [1]}).error.code == "invalid"
    assert _rejected(server, {"id": 1, "op": "put", "context": "c", "text": "", "meta": {b"k": "v"}}).error.code == "invalid"


@given(op=st.sampled_from(sorted(op for op, operation in OPERATIONS.items() if operation.request.fields)), data=st.data())
@quick
def test_a_wrong_type_is_refused_under_the_requests_id(op: str, data: st.DataObject) -> None:
    _, server = _greeted()
    rejected = _rejected(server, {"id": 4, "op": op, **data.draw(broken(OPERATIONS[op].request))})
    assert (rejected.id, rejected.error.code) == (4, "invalid")
    assert rejected.error.message.startswith(rejected.error.details["field"])


@pytest.mark.parametrize(
    "fields", [{"op": "credit"}, {"op": "credit", "bytes": 0}, {"op": "credit", "bytes": "9"}, {"op": "cancel", "why": "tired"}]
)
def test_a_malformed_notice(fields: dict[str, Any]) -> None:
    """A notice has no answer of its own: were the stream's id used, the client would take it for the stream's end."""
    _, server = _greeted()
    _send(server, {"id": 1, "op": "tail"})
    with pytest.raises(EngramError) as caught:
        _send(server, {"id": 1, **fields})
    assert caught.value.code == "invalid"


def test_one_stream_too_many_is_refused_and_the_rest_go_on() -> None:
    _, server = _greeted()
    for number in range(MAX_STREAMS):
        _send(server, {"id": number, "op": "tail"})
    assert _rejected(server, {"id": MAX_STREAMS, "op": "tail"}).error.code == "busy"
    server.finish(0)
    _send(server, {"id": MAX_STREAMS, "op": "tail"})
    assert len(server.streams) == MAX_STREAMS


# What a client makes of a daemon that breaks off, or breaks the protocol


def test_the_daemons_refusal_of_the_connection_ends_it() -> None:
    client, _ = _greeted()
    with pytest.raises(EngramError) as caught:
        list(client.receive(failure_frame(None, EngramError("unavailable", "the daemon is stopping"))))
    assert caught.value.code == "unavailable"
    assert client.state == "closed"
    with pytest.raises(EngramError, match="closed"):
        client.receive(b"")


@pytest.mark.parametrize(
    "message",
    [
        [],
        5,
        {},
        {"ok": True, "result": {}},
        {"id": 1},
        {"id": 1, "ok": True},
        {"id": 1, "ok": True, "result": []},
        {"id": 1, "ok": 1, "result": {}},
        {"id": 1, "result": {}},
        {"id": 1, "event": 5},
    ],
)
def test_a_daemon_that_makes_no_sense_is_a_protocol_error(message: object) -> None:
    client, _ = _greeted()
    with pytest.raises(EngramError) as caught:
        list(client.receive(frame(encode(message))))
    assert caught.value.code == "protocol"


@pytest.mark.parametrize(
    ("error", "code", "details"),
    [
        (None, "protocol", {}),
        ("no", "protocol", {}),
        ({}, "internal", {}),
        ({"code": "new_code", "message": "m", "details": {"a": 1}}, "new_code", {"a": 1}),
        ({"code": "busy", "message": "m", "details": 5}, "busy", {}),
    ],
)
def test_an_error_in_any_shape_is_an_error(error: object, code: str, details: dict[str, Any]) -> None:
    client, _ = _greeted()
    (answer,) = client.receive(frame(encode({"id": 1, "ok": False, "error": error})))
    assert isinstance(answer, Answer)
    assert answer.result is None
    assert answer.error is not None
    assert (answer.error.code, answer.error.details) == (code, details)
    assert answer.error.exit_code == (CODES[code][0] if code in CODES else 1)


# Fuzz

_anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats()
    | st.sampled_from(["id", "op", "put", "ok", "event", ""])
    | st.binary(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["id", "op", "ok", "result", "error", "event", "context", "version", "agent"]), inner, max_size=5)
    ),
    max_leaves=12,
)


@given(st.lists(_anything.map(encode) | st.binary(max_size=20), max_size=4), st.booleans())
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_comes_only_an_engram_error_goes(bodies: list[bytes], greeted: bool) -> None:
    state: State = "open" if greeted else "greeting"
    for role, taken in (("server", (Hello, Request, Notice, Rejected)), ("client", (Answer, Item))):
        connection = _connection(role, state)
        try:
            for body in bodies:
                assert all(isinstance(message, taken) for message in connection.receive(frame(body)))
        except EngramError:
            pass


def test_frames_before_a_bad_one_are_served() -> None:
    client, server = _greeted()
    messages = server.receive(client.request("status", {})[1] + frame(b"\xff"))
    assert next(messages) == Request(1, "status", {})
    with pytest.raises(EngramError, match="not valid CBOR"):
        next(messages)


def test_a_connection_knows_that_it_ends_inside_a_frame() -> None:
    client, server = _greeted()
    data = client.request("status", {})[1]
    assert list(server.receive(data[:-1])) == []
    assert server.partial
    assert len(list(server.receive(data[-1:]))) == 1
    assert not server.partial


def test_a_frame_over_the_limit_ends_the_connection() -> None:
    server = ServerConnection(100)
    with pytest.raises(EngramError) as caught:
        list(server.receive(LENGTH.pack(101)))
    assert caught.value.code == "too_large"
