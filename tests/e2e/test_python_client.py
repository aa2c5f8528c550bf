"""The Python client against the real daemon: every method, and what it does when the connection is lost."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

import pytest
from commandline import AGENT, Shell, until

from engram_cli.client import Client, EngramError, Event, Relationship
from engramd.protocol.connection import Hello, ServerConnection, answer_frame
from engramd.protocol.framing import encode
from engramd.protocol.messages import MIB, frame_limit
from engramd.protocol.unit import format_id


@pytest.fixture(scope="module")
def shell() -> Iterator[Shell]:
    """A daemon for the tests that leave it alone."""
    with Shell() as made:
        made.daemon()
        yield made


@pytest.fixture
def client(shell: Shell) -> Client:
    return shell.client()


def texts(stream: Iterator[Event], count: int) -> list[str]:
    """The texts of the next so many units."""
    return [event.unit.text for event in islice((event for event in stream if event.unit is not None), count) if event.unit is not None]


@contextmanager
def refused(code: str) -> Iterator[None]:
    """Expect an error with this code."""
    with pytest.raises(EngramError) as caught:
        yield
    assert caught.value.code == code, caught.value


def test_put_and_get(client: Client) -> None:
    first = client.put("put", "text")
    second = client.put("put", b"\xff\0", type="error", meta={"k": "v"}, relationships=[Relationship("causes", first.id, {"why": "x"})])
    assert (first.deduped, second.seq, first.ids, first.ts <= second.ts) == (False, first.seq + 1, (first.id,), True)
    two, one = client.get(second.id, first.seq)
    assert (one.id, one.seq, one.ts, one.context, one.agent, one.type, one.payload, one.text) == (
        first.id, first.seq, first.ts, "put", AGENT, "message", b"text", "text",
    )  # fmt: skip
    assert (two.type, two.meta, two.payload, two.text, two.entry) == ("error", {"k": "v"}, b"\xff\0", "\\xff\0", second.seq)
    assert two.relationships == (Relationship("causes", first.id, {"why": "x"}),)
    for code, ids in (("not_found", [10**9]), ("invalid", ["x"]), ("invalid", [])):
        with refused(code):
            client.get(*ids)


def test_put_is_idempotent_and_conditional(client: Client) -> None:
    first = client.put("dedupe", "a", dedupe="key", expect_seq=0)
    again = client.put("dedupe", "b", dedupe="key")
    assert (again.id, again.seq, again.deduped) == (first.id, first.seq, True)
    with pytest.raises(EngramError) as caught:
        client.put("dedupe", "c", expect_seq=0)
    assert (caught.value.code, caught.value.exit_code, caught.value.details) == ("conflict", 3, {"expected": 0, "actual": first.seq})


def test_put_many_is_all_or_nothing(client: Client) -> None:
    made = client.put_many("many", [{"text": "a", "meta": {"k": "v"}}, {"payload": b"\xff"}, {"text": "c", "type": "error"}], dedupe="key")
    assert [unit.id for unit in client.list("many")] == list(made.ids)
    assert (made.id, made.seq) == (made.ids[-1], client.get(made.id)[0].seq)
    assert client.put_many("many", [{"text": "x"}], dedupe="key").ids == made.ids
    with refused("not_found"):
        client.put_many("many", [{"text": "d"}, {"text": "e", "relationships": [{"type": "causes", "target": 10**9}]}])
    with refused("too_large"):
        client.put_many("many", [{"text": "d"}] * 1001)
    assert len(list(client.list("many"))) == 3


def test_a_payload_over_the_limit_is_refused_before_and_by_the_daemon_alike(client: Client) -> None:
    limit = client.status()["max_payload"]
    for payload in ("x" * (limit + 1), b"x" * (limit + 1), b"x" * (4 * limit)):
        with refused("too_large"):
            client.put("large", payload)
    client.put("large", b"x" * limit)
    assert len(list(client.list("large"))) == 1


def test_list_is_lazy_and_takes_every_filter(shell: Shell, client: Client) -> None:
    made = [client.put("list", str(number), type=kind) for number, kind in enumerate(["message", "error"] * 3)]
    assert [unit.text for unit in client.list("list", type="error", limit=2)] == ["1", "3"]
    assert [unit.text for unit in client.list("list", type=["error", "message"], reverse=True, after=made[2].seq)] == ["1", "0"]
    assert [unit.text for unit in client.list("list", agent=AGENT, since=made[4].ts, until="2099-01-01", meta={})] == ["4", "5"]
    assert list(client.list("list", related_to=made[0].id)) == []
    assert next(client.list("list")).text == "0"
    assert list(client.list("list", limit=0)) == []


def test_contexts_and_agents(shell: Shell) -> None:
    client = shell.client("member")
    client.put("ctx other", "x")
    made = client.put("ctx other", "y").id
    assert client.context_create("ctx", display_name="Title", meta={"k": "v"})["display_name"] == "Title"
    assert client.context_set("ctx", meta={"k": None, "l": "w"})["meta"] == {"l": "w"}
    assert [client.context_join("ctx"), client.context_join("ctx"), client.context_join("ctx", "guest")] == [True, False, True]
    assert [client.context_add("ctx", made), client.context_add("ctx", made)] == [True, False]
    assert [client.context_pin("ctx", made), client.context_pin("ctx", made)] == [True, False]
    shown = client.context_show("ctx")
    assert (shown["agents"], shown["units"], [format_id(unit) for unit in shown["pinned"]]) == (["guest", "member"], 1, [made])
    assert [client.context_unpin("ctx", made), client.context_unpin("ctx", made)] == [True, False]
    assert [client.context_remove("ctx", made), client.context_remove("ctx", made)] == [True, False]
    assert [client.context_leave("ctx", "guest"), client.context_leave("ctx", "guest")] == [True, False]
    assert [agent["id"] for agent in client.agents("ctx")] == ["member"]
    assert {"id": "member", "units": 2}.items() <= next(agent for agent in client.agents() if agent["id"] == "member").items()
    assert {"ctx", "ctx other"} <= {context["id"] for context in client.context_list()}
    assert client.names("contexts", "ctx") == ["ctx", "ctx other"]
    with refused("exists"):
        client.context_create("ctx")
    with refused("not_found"):
        client.context_show("no such context")


def test_tail_starts_where_it_is_told_and_ends_where_the_log_does(client: Client) -> None:
    made = [client.put("tail", str(number)) for number in range(4)]
    assert [unit.text for unit in client.tail("tail", follow=False, last=2)] == ["2", "3"]
    assert [unit.text for unit in client.tail("tail", follow=False, after=made[0].seq)] == ["1", "2", "3"]
    assert [unit.text for unit in client.tail("tail", follow=False, since=made[3].ts)] == ["3"]
    assert [unit.text for unit in client.tail("tail", follow=False)] == []
    tail = client.tail("tail", follow=False, last=1)
    events = list(tail.events())
    assert [event.kind for event in events] == ["unit_put", "live"]
    assert (events[0].unit is not None, tail.cursor) == (True, events[-1].cursor)
    kinds = [event.kind for event in client.tail("tail", follow=False, events=True, after=made[0].seq - 2).events()]
    assert kinds == ["context_created", *["unit_put"] * 4, "live"]
    with refused("cursor"):
        list(client.tail("tail", after=10**9))


def test_streams_and_requests_share_a_client(client: Client) -> None:
    one, two = client.tail("shared", last=0).events(), client.tail("shared", last=0, type="error").events()
    assert [next(one).kind, next(two).kind] == ["live", "live"]
    for number in range(4):
        client.put("shared", str(number), type="error" if number % 2 else "message")
    assert texts(two, 2) == ["1", "3"]
    assert client.status()["subscriptions"] == 2
    assert texts(one, 4) == ["0", "1", "2", "3"]
    for stream in (one, two):
        stream.close()
    until(lambda: client.status()["subscriptions"] == 0, "the streams' end", 5)


def test_a_tail_that_was_left_is_taken_up_where_it_was_left(client: Client) -> None:
    for number in range(4):
        client.put("left", str(number))
    tail = client.tail("left", last=4)
    for unit in tail:
        if unit.text == "1":
            break
    until(lambda: client.status()["subscriptions"] == 0, "the stream's end", 5)
    assert [unit.text for unit in islice(tail, 2)] == ["2", "3"]


def test_a_stream_left_alone_stalls_nobody(client: Client) -> None:
    stream = client.tail("stalled", last=0).events()
    assert next(stream).kind == "live"
    for _ in range(5):
        client.put_many("stalled", [{"text": "x" * 20_000} for _ in range(40)])  # 4 MB in all, where 1 MiB is sent unasked
    assert client.status()["lag"] > 0
    assert len(texts(stream, 200)) == 200
    stream.close()


def test_shutdown_ends_the_daemon_and_nothing_that_was_acknowledged(alone: Shell) -> None:
    daemon = alone.daemon()
    client = alone.client()
    client.put("c", "x")
    client.shutdown()
    assert daemon.wait() == 0
    assert not alone.socket.exists()
    alone.daemon()
    assert [unit.text for unit in client.list("c")] == ["x"]


def test_a_client_may_be_closed_and_used_again(client: Client) -> None:
    made = client.put("closed", "x")
    client.close()
    assert client.get(made.id)[0].text == "x"
    assert client.server["limits"]["max_payload"] > 0
    assert client.fileno() >= 0


def test_a_tail_goes_on_after_a_restart(served: Shell) -> None:
    client, writer = served.client(), served.client("writer")
    client.put("c", "0")
    tail = client.tail("c", last=1)
    stream = tail.events()
    assert texts(stream, 1) == ["0"]
    writer.put("c", "1")
    served.kill_daemon()
    served.daemon()
    writer.put("c", "2", dedupe="2")
    assert texts(stream, 2) == ["1", "2"]
    resumed = served.client().tail("c", follow=False, after=tail.cursor)
    writer.put("c", "3")
    assert [unit.text for unit in resumed] == ["3"]


def test_a_tail_gives_up_after_its_timeout(served: Shell) -> None:
    stream = served.client(timeout=0.3).tail("c").events()
    assert next(stream).kind == "live"
    served.kill_daemon()
    began = time.monotonic()
    with refused("timeout"):
        next(stream)
    assert 0.3 <= time.monotonic() - began < 10


def test_what_cannot_be_reached_in_the_first_place_is_said_at_once(alone: Shell) -> None:
    client = alone.client(timeout=5)
    for ask in (client.status, lambda: next(iter(client.tail("c"))), lambda: client.put("c", "x", dedupe="k")):
        began = time.monotonic()
        with refused("unavailable"):
            ask()
        assert time.monotonic() - began < 2
    assert not alone.socket.exists()


def test_what_is_repeatable_is_repeated_when_the_daemon_was_killed(served: Shell) -> None:
    client, other = served.client(), served.client()
    first = client.put("c", "x", dedupe="key")
    other.connect()
    served.kill_daemon()
    late = threading.Timer(0.5, served.daemon)
    late.start()
    again = client.put("c", "x", dedupe="key")
    assert (again.id, again.deduped) == (first.id, True)
    assert [unit.id for unit in other.get(first.id)] == [first.id]
    late.join()


def test_a_write_that_may_have_happened_is_not_repeated_by_itself(served: Shell) -> None:
    client = served.client()
    client.put("c", "x")
    served.kill_daemon()
    with refused("outcome_unknown"):
        client.put("c", "y")
    with refused("outcome_unknown"):
        _killed_at(served, "context_join")
    served.daemon()
    assert [unit.text for unit in client.list("c")] == ["x"]


def _killed_at(shell: Shell, op: str) -> None:
    shell.daemon()
    client = shell.client()
    client.connect()
    shell.kill_daemon()
    getattr(client, op)("c")


def test_autostart_is_for_the_first_connection_only(alone: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in alone.env.items():
        monkeypatch.setenv(name, value)
    with Client(agent=AGENT) as client:
        client.put("c", "x")
        assert client.address == str(alone.socket)
        alone.kill_daemon()
        with refused("outcome_unknown"):
            client.put("c", "y")
        with refused("unavailable"):
            client.put("c", "z")
        assert alone.daemon_pid() is None
    with Client(agent=AGENT) as another:
        assert [unit.text for unit in another.list("c")] == ["x"]


def test_a_daemon_that_greets_and_falls_silent_is_left_after_the_timeout(alone: Shell) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(alone.socket))
        listening.listen()
        silent = threading.Thread(target=_greet_and_fall_silent, args=[listening, 2], daemon=True)
        silent.start()
        with alone.client(timeout=0.2) as client, refused("timeout"):
            client.status()
        assert "no answer" in alone.fails(124, "get", "1", "--timeout", "200ms")
    silent.join(5)


def _greet_and_fall_silent(listening: socket.socket, times: int) -> None:
    for _ in range(times):
        accepted, _ = listening.accept()
        with accepted:
            connection = ServerConnection(frame_limit(MIB))
            while data := accepted.recv(65536):
                for message in connection.receive(data):
                    if isinstance(message, Hello):
                        limits = {"max_payload": MIB, "max_frame": 2 * MIB, "max_units": 1000}
                        greeting = {"version": [1, 0], "server": "silent", "history": "0" * 12, "limits": limits, "pid": 1}
                        accepted.sendall(answer_frame(message.id, encode(greeting)))


def test_a_daemon_that_is_stopped_is_reported_with_its_pid(served: Shell) -> None:
    pid = served.client().status()["pid"]
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(EngramError, match=f"kill -CONT {pid}") as caught:
        served.client().status()
    assert (caught.value.code, caught.value.details) == ("unavailable", {"pid": pid})
    assert time.monotonic() - began < 6


def test_an_empty_agent_is_refused(served: Shell) -> None:
    with refused("invalid"):
        served.client("").put("c", "x")
    with refused("invalid"):
        served.client().context_join("c", "")
