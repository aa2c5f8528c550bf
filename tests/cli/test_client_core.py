"""What both Python clients share: conversations, retries, bookmarks, pages, and the same methods."""

from __future__ import annotations

import gc
import inspect
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engram_cli import calls, client, trio_client
from engram_cli.core import STARTING_SECONDS, Attempts, Bookmark, Conversation, Lost, Patience
from engramd.protocol.connection import Answer, Item, Notice, Request, ServerConnection, answer_frame, failure_frame, item_frame
from engramd.protocol.errors import EngramError
from engramd.protocol.framing import encode
from engramd.protocol.messages import DEFAULT_CREDIT, MIB, OPERATIONS, frame_limit

LIMITS = {"max_payload": 100, "max_frame": 1000, "max_units": 1000}


def greeted() -> tuple[Conversation, ServerConnection]:
    """Both ends of a connection that has greeted."""
    here, there = Conversation(itertools.count(1)), ServerConnection(frame_limit(MIB))
    box, data = here.greet("me")
    list(there.receive(data))
    for message in here.receive(answer_frame(0, encode({"limits": LIMITS}))):
        here.keep(message)
    here.server = box.result()
    return here, there


def item(request_id: int, cursor: str = "0.1") -> bytes:
    return item_frame(request_id, encode({"cursor": cursor, "kind": "live"}))


# Conversations


def test_what_arrives_is_sorted_into_boxes_however_it_is_cut() -> None:
    here, there = greeted()
    (one, first), (two, second) = here.ask("status", {}), here.ask("tail", {"follow": True})
    assert [(m.op, m.id) for m in there.receive(first + second) if isinstance(m, Request)] == [("status", one.id), ("tail", two.id)]
    data = item(2) + answer_frame(1, encode({"status": {}})) + item(2, "0.2") + failure_frame(2, EngramError("cursor", "gone"))
    for at in range(len(data)):
        for message in here.receive(data[at : at + 1]):
            assert here.keep(message)
    assert (one.result(), [one.event["cursor"] for one in two.items]) == ({"status": {}}, ["0.1", "0.2"])
    with pytest.raises(EngramError, match="gone"):
        two.result()


def test_what_nobody_waits_for_is_dropped() -> None:
    here, _ = greeted()
    box, _ = here.ask("tail", {})
    assert here.forget(box)
    assert not here.forget(box), "it is forgotten"
    assert [here.keep(message) for message in here.receive(item(1))] == [False]
    box, _ = here.ask("status", {})
    del box
    gc.collect()
    assert [here.keep(message) for message in here.receive(answer_frame(2, encode({})))] == [False]


def test_the_end_is_told_to_who_waits_and_what_came_before_counts() -> None:
    here, _ = greeted()
    answered, waiting = here.ask("status", {})[0], here.ask("status", {})[0]
    broken = failure_frame(None, EngramError("protocol", "a bad frame"))
    (answer,) = here.receive(answer_frame(1, encode({})) + broken)
    here.keep(answer)
    with pytest.raises(EngramError, match="a bad frame"):
        here.receive(b"")
    here.end()
    assert answered.result() == {}
    with pytest.raises(Lost):
        waiting.result()
    fresh, _ = greeted()
    with pytest.raises(Lost):
        fresh.receive(b"")


def test_a_request_over_a_limit_of_the_daemon_is_not_sent() -> None:
    here, _ = greeted()
    here.ask("put", {"context": "c", "payload": b"x" * 100})
    for fields in ({"context": "c", "payload": b"x" * 101}, {"context": "c", "text": "x" * 1000}):
        with pytest.raises(EngramError) as caught:
            here.ask("put", fields)
        assert caught.value.code == "too_large"


def test_notices_are_of_the_wire() -> None:
    here, there = greeted()
    data = here.ask("tail", {})[1] + here.notice(1, "credit", bytes=5) + here.notice(1, "cancel")
    assert [message.op for message in there.receive(data) if isinstance(message, Notice)] == ["credit", "cancel"]


# Trying again

PUT: dict[str, Any] = {"context": "c", "text": "x"}


@pytest.mark.parametrize(
    ("op", "fields", "code"),
    [("get", {}, None), ("put", {**PUT, "dedupe": "k"}, None), ("put", PUT, "outcome_unknown"), ("context_join", {}, "outcome_unknown")],
)
def test_only_what_cannot_do_harm_is_sent_again_when_the_connection_is_lost(op: str, fields: dict[str, Any], code: str | None) -> None:
    attempts = Attempts(op, fields, None, now=100)
    if code is None:
        attempts.lost(100 + STARTING_SECONDS)
        with pytest.raises(EngramError):
            attempts.lost(100.01 + STARTING_SECONDS)
    else:
        with pytest.raises(EngramError) as caught:
            attempts.lost(100)
        assert caught.value.code == code


@pytest.mark.parametrize(
    ("code", "connected", "lost_before", "starts", "again"),
    [
        ("unavailable", True, False, False, True),  # it stops, and another may take over
        ("unavailable", False, True, False, True),  # it has gone, and is waited for
        ("unavailable", False, True, True, False),  # one was to be started, and that failed
        ("unavailable", False, False, False, False),  # there was none in the first place
        ("not_found", True, True, False, False),
    ],
)
@pytest.mark.parametrize("op", ["put", "get"])
def test_a_daemon_that_is_being_replaced_is_waited_for(
    op: str, code: str, connected: bool, lost_before: bool, starts: bool, again: bool
) -> None:
    attempts = Attempts(op, PUT, None, now=0, resumes=lost_before)
    error = EngramError(code, "x")
    if again:
        attempts.failed(error, 1, connected, starts)
        attempts.failed(error, 2, False, False)
        with pytest.raises(EngramError):
            attempts.failed(error, STARTING_SECONDS + 0.01, connected, starts)
    else:
        with pytest.raises(EngramError) as caught:
            attempts.failed(error, 1, connected, starts)
        assert caught.value is error


def test_attempts_end_at_the_deadline() -> None:
    attempts = Attempts("get", {}, 2, now=10)
    assert attempts.deadline == 12
    attempts.lost(12)
    with pytest.raises(EngramError) as caught:
        attempts.lost(12.01)
    assert caught.value.code == "timeout"


@pytest.mark.parametrize(
    ("timeout", "follows", "last", "code"),
    [(None, True, 1e9, None), (None, False, STARTING_SECONDS, "unavailable"), (3, True, 3, "timeout"), (3, False, 3, "timeout")],
)
def test_a_stream_is_patient(timeout: float | None, follows: bool, last: float, code: str | None) -> None:
    patience = Patience(timeout, follows, now=0)
    away = EngramError("unavailable", "away")
    patience.failed(away, last)
    if code is not None:
        with pytest.raises(EngramError) as caught:
            patience.failed(away, last + 0.01)
        assert caught.value.code == code
    with pytest.raises(EngramError, match="no"):
        patience.failed(EngramError("denied", "no"), 0)


# Streams


def test_a_bookmark_takes_a_stream_up_behind_the_item_used_last() -> None:
    mark = Bookmark({"contexts": ["c"], "last": 5, "follow": True, "type": "error"})
    assert mark.fields() == {"contexts": ["c"], "last": 5, "follow": True, "type": "error"}
    assert mark.turn(Item(1, {"cursor": "a.7", "kind": "live"}, 10)) == {"cursor": "a.7", "kind": "live"}
    assert mark.fields() == {"contexts": ["c"], "after": "a.7", "follow": True, "type": "error"}
    assert mark.follows


@given(st.lists(st.integers(1, DEFAULT_CREDIT), max_size=50), st.integers(1, 2 * DEFAULT_CREDIT))
def test_all_credit_is_given_back_but_a_part_that_stalls_nobody(sizes: list[int], credit: int) -> None:
    mark = Bookmark({"credit": credit})
    given_back = sum(mark.used(Item(1, {}, size)) for size in sizes)
    spent = sum(size + 4 for size in sizes)
    assert spent - credit // 4 <= given_back <= spent


# Pages


@given(st.integers(0, 30), st.none() | st.integers(0, 40), st.integers(1, 7), st.booleans())
def test_pages_give_each_thing_once_and_no_more_than_asked(count: int, limit: int | None, size: int, limited: bool) -> None:
    pages = calls.Pages("op", "things", {"x": 1}, str, limit, limited)
    found: list[str] = []
    while (fields := pages.fields()) is not None:
        assert fields["x"] == 1
        start = fields.get("after", 0)
        end = min(count, start + min(size, fields.get("limit", size)))
        found += pages.take({"things": list(range(start, end)), "next": end if end < count else None})
    assert found == [str(number) for number in range(count if limit is None else min(limit, count))]


# The two clients

OWN = {"receive", "send", "notify", "arrived", "fileno", "resume", "close", "ask_raw"}  # the blocking client's ways to share a thread


def test_both_clients_have_the_same_methods() -> None:
    def public(cls: type) -> dict[str, Any]:
        return {name: member for name, member in inspect.getmembers(cls) if not name.startswith("_")}

    blocking, awaited = public(client.Client), public(trio_client.Client)
    assert blocking.keys() - awaited.keys() == OWN
    assert awaited.keys() <= blocking.keys()
    for name, member in awaited.items():
        if callable(member):
            ours, theirs = inspect.signature(member), inspect.signature(blocking[name])
            assert list(ours.parameters.values()) == list(theirs.parameters.values()), name
            words, same = (str(doc).partition("Example:")[0] for doc in (member.__doc__, blocking[name].__doc__))
            assert words == same or name == "request", name
    assert inspect.signature(client.Client) == inspect.signature(trio_client.Client)


def test_every_call_is_of_the_wire() -> None:
    for made, op, fields in (
        (calls.put("c", "x", meta={"k": "v"}, dedupe="d", expect_seq=0), "put", {"dedupe": "d", "expect_seq": 0, "meta": {"k": "v"}}),
        (calls.put("c", b"x"), "put", {"payload": b"x", "context": "c", "type": "message"}),
        (calls.get(1, "2"), "get", {"ids": [1, "2"]}),
        (calls.context_join("c"), "context_join", {"context": "c"}),
        (calls.context_join("c", "a"), "context_join", {"context": "c", "agent": "a"}),
    ):
        assert made.op == op
        assert fields.items() <= made.fields.items()
        OPERATIONS[op].request.check(made.fields)


def test_messages_have_the_types_that_are_sorted() -> None:
    assert {type(message) for message in greeted()[0].receive(item(1) + answer_frame(1, encode({})))} == {Item, Answer}
