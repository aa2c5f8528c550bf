"""`pipe`: JSON lines in, JSON lines out."""

from __future__ import annotations

import base64
import fcntl
import json
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from commandline import BIN, PATIENCE, Done, Running, Shell, until

from engram_cli.client import Client
from engramd.protocol.messages import MAX_PAYLOAD

Line = dict[str, Any] | str


def lines(requests: Iterable[Line]) -> bytes:
    return "".join((request if isinstance(request, str) else json.dumps(request)) + "\n" for request in requests).encode()


def asked(shell: Shell, *requests: Line) -> dict[Any, dict[str, Any]]:
    """The answers by id, for a pipe that is given everything at once."""
    done = shell.ok("pipe", input=lines(requests))
    answers = done.objects
    assert len(answers) == len({str(answer["id"]) for answer in answers})
    return {answer["id"]: answer for answer in answers}


def test_the_example_of_the_documents(shell: Shell, name: str) -> None:
    request = {"id": 1, "op": "put", "context": name, "text": "hi", "type": "message", "meta": {}}
    done = shell.ok("pipe", input=lines([request]))
    answer = done.objects[0]
    assert (answer["id"], answer["ok"], answer["result"]["deduped"]) == (1, True, False)
    assert shell.ok("get", answer["result"]["id"]).raw == b"hi"
    again = shell.ok("pipe", input=lines([request | {"type": "shout"}])).objects[0]
    assert (again["id"], again["ok"], again["error"]["code"]) == (1, False, "invalid")
    assert sorted(again["error"]) == ["code", "details", "message"]


def test_every_operation(shell: Shell, name: str) -> None:
    other = f"{name} other"
    pipe = shell.start("pipe", pipe_stdin=True)

    def ask(number: int, op: str, **fields: Any) -> dict[str, Any]:
        pipe.say({"id": number, "op": op, **fields})
        answer = json.loads(pipe.expect_lines(number)[number - 1])
        assert (answer["id"], answer["ok"]) == (number, True), answer
        result: dict[str, Any] = answer["result"]
        return result

    made = ask(1, "put", context=name, units=[{"text": "a", "type": "error"}, {"payload_base64": "/w=="}], agent="another")
    first, second = made["ids"]
    assert [unit.get("text", unit.get("payload_base64")) for unit in ask(2, "get", ids=[first, second])["units"]] == ["a", "/w=="]
    assert [unit["agent"] for unit in ask(3, "list", context=name, type="error")["units"]] == ["another"]
    assert ask(4, "context_create", context=other, meta={"k": "v"})["context"]["meta"] == {"k": "v"}
    assert ask(5, "context_set", context=other, meta={"k": None})["context"]["meta"] == {}
    for number, verb in enumerate(("join", "leave"), 6):
        assert ask(number, f"context_{verb}", context=other, agent="x") == {"changed": True}
    for number, verb in enumerate(("add", "pin", "unpin", "remove"), 8):
        assert ask(number, f"context_{verb}", context=other, ids=[first]) == {"changed": True}
    assert ask(12, "context_show", context=name)["context"]["agents"] == ["another"]
    assert name in [context["id"] for context in ask(13, "context_list")["contexts"]]
    assert [agent["id"] for agent in ask(14, "agents", context=name)["agents"]] == ["another"]
    assert ask(15, "status")["status"]["socket"] == str(shell.socket)
    pipe.hang_up()
    assert pipe.wait() == 0


def follow(pipe: Running, number: int | str, **fields: Any) -> None:
    """Start a stream, and wait until it is live."""
    pipe.say({"id": number, "op": "tail", "follow": True, **fields})
    pipe.expect(lambda got: any(f'"id": {json.dumps(number)}, "event"' in line and '"kind": "live"' in line for line in got), "the stream")


def events(pipe: Running, number: int | str) -> list[str]:
    """The texts that a stream has brought."""
    items = [answer["event"] for answer in pipe.objects if answer["id"] == number and "event" in answer]
    return [item["unit"]["text"] for item in items if "unit" in item]


def test_streams_and_requests_share_the_connection(shell: Shell, client: Client, name: str) -> None:
    pipe = shell.start("pipe", pipe_stdin=True)
    follow(pipe, "all of it", contexts=[name])
    follow(pipe, 7, contexts=[name], type="error")
    for number in range(5):
        pipe.say({"id": 10 + number, "op": "put", "context": name, "text": str(number), "type": "error" if number % 2 else "message"})
    pipe.expect(lambda got: any('"id": 14, "ok": true' in line for line in got), "the last answer")
    client.put(name, "by another")
    pipe.expect(lambda _: events(pipe, "all of it")[5:] != [], "six units")
    assert events(pipe, "all of it") == ["0", "1", "2", "3", "4", "by another"]
    pipe.expect(lambda _: events(pipe, 7)[1:] != [], "two errors")
    pipe.say({"id": 7, "op": "cancel"})
    pipe.expect(lambda got: any('"id": 7, "ok": true' in line for line in got), "the end of one stream")
    client.put(name, "unseen by one", type="error")
    pipe.expect(lambda _: events(pipe, "all of it")[6:] != [], "the other stream to go on")
    assert events(pipe, 7) == ["1", "3"]
    pipe.hang_up()
    assert (pipe.wait(), pipe.errors) == (0, [])
    ended = {answer["id"]: answer["result"] for answer in pipe.objects if answer.get("ok")}
    assert ended["all of it"]["cursor"]
    assert {10, 11, 12, 13, 14, 7} <= ended.keys()


def test_a_stream_goes_on_beyond_its_first_credit(shell: Shell, client: Client, name: str) -> None:
    for _ in range(6):
        client.put_many(name, [{"text": "x" * 4000} for _ in range(100)])
    request = {"id": 1, "op": "tail", "contexts": [name], "after": 0}
    answers = shell.ok("pipe", input=lines([request])).objects  # 2.4 MB, where 1 MiB may be sent unasked
    assert len([answer for answer in answers if "unit" in answer.get("event", {})]) == 600
    assert answers[-1]["ok"] is True


def test_what_is_malformed_is_answered_with_its_line_and_the_rest_goes_on(shell: Shell, client: Client, name: str) -> None:
    client.put(name, "x")
    bad = [
        "{not json",
        "[1, 2]",
        '"text"',
        '{"op": "status"}',
        '{"id": -1, "op": "status"}',
        '{"id": true, "op": "status"}',
        '{"id": 1.0, "op": "status"}',
        json.dumps({"id": "i" * 65, "op": "status"}),
        '{"id": 1}',
        '{"id": 1, "op": "dance"}',
        '{"id": 1, "op": ["put"]}',
        '{"id": 1, "op": "get"}',
        '{"id": 1, "op": "get", "ids": [NaN]}',
        '{"id": 1, "op": "list", "context": "c", "limt": 3}',
        '{"id": 1, "op": "list", "context": "c", "limit": 1e400}',
        '{"id": 1, "op": "list", "context": "c", "limit": 99999999999999999999}',
        '{"id": 1, "op": "put", "context": "c", "payload_base64": "not base64"}',
        '{"id": 1, "op": "put", "context": "c", "payload_base64": 5}',
        '{"id": 1, "op": "put", "context": "c", "text": "\\ud800"}',
        '{"id": 1, "op": "put", "context": "c\\u001b", "text": "x"}',
        '{"id": 1, "op": "credit", "bytes": 0}',
        '{"id": 1, "op": "put", "context": "c", "text": ' + "[" * 700 + "]" * 700 + "}",
        "[" * 100_000,
        '{"id": 1, "op": "status", "id\x00": 2}',
        '{"id": 1, "op": "status", "id": 2}',
        '{"id": 1, "op": "put", "context": "c", "text": "x", "meta": {"a": "1", "a": "2"}}',
        '{"id": 1, "op": "search", "query": "x", "min_score": -Infinity}',
        '{"id": 1, "op": "list", "context": "c", "limit": ' + "9" * 5000 + "}",
        '{"id": "\\ud800", "op": "status"}',
        '{"id": 1, "op": "put", "context": "c", "text": "x", "meta": {"\\udfff": "x"}}',
        '{"id": 1, "op": "put", "context": "c", "\\ud800": "x"}',
        '{"id": 1, "op": "get", "ids": [1], "form": "line"}',
        '\ufeff{"id": 1, "op": "status"}',
        '{"id": 1, "op": "status"}\x00',
        '{"id": 1, "op": "status"} {"id": 2, "op": "status"}',
    ]
    good = {"id": "good", "op": "list", "context": name}
    requests = b"".join(lines([line, ""]) for line in bad) + b'{"id": 1, "op": "status\xff"}\n\r\n' + lines([good])[:-1]
    answers = shell.ok("pipe", input=requests).objects
    refused = [answer for answer in answers if answer["ok"] is False]
    assert [answer["error"]["details"]["line"] for answer in refused] == [1 + 2 * number for number in range(len(bad) + 1)]
    assert all(f"line {answer['error']['details']['line']}: " in answer["error"]["message"] for answer in refused)
    assert {answer["error"]["code"] for answer in refused} == {"invalid", "unknown_op"}
    assert [answer["result"]["units"][0]["text"] for answer in answers if answer["ok"]] == ["x"]


def test_what_the_daemon_refuses_harms_nobody_else(shell: Shell, client: Client, name: str) -> None:
    made = client.put(name, "x")
    answers = asked(
        shell,
        {"id": 1, "op": "get", "ids": ["999999999"]},
        {"id": 2, "op": "put", "context": name, "text": "y", "expect_seq": 0},
        {"id": 3, "op": "context_create", "context": name},
        {"id": 4, "op": "get", "ids": [made.seq]},
    )
    assert {number: answer["error"]["code"] for number, answer in answers.items() if not answer["ok"]} == {
        1: "not_found",
        2: "conflict",
        3: "exists",
    }
    assert answers[2]["error"]["details"] == {"expected": 0, "actual": made.seq}
    assert answers[4]["ok"]


def test_an_id_in_use_is_refused_and_one_that_is_free_again_is_not(shell: Shell, name: str) -> None:
    pipe = shell.start("pipe", pipe_stdin=True)
    follow(pipe, 1, contexts=[name])
    pipe.say({"id": 1, "op": "status"})
    pipe.expect(lambda got: any("in use" in line for line in got), "a refusal")
    pipe.say({"id": 1, "op": "cancel"})
    pipe.expect(lambda got: any('"cursor"' in line and '"ok": true' in line for line in got), "the stream's end")
    pipe.say({"id": 1, "op": "status"})
    pipe.expect(lambda got: any('"status"' in line and '"ok": true' in line for line in got), "an answer")
    pipe.hang_up()
    assert pipe.wait() == 0


def test_a_label_may_have_any_name(shell: Shell, client: Client, name: str) -> None:
    meta = {"payload_base64": "not base64", "op": "x", "id": "y"}
    assert asked(shell, {"id": 0, "op": "put", "context": name, "text": "x", "meta": meta})[0]["ok"]
    assert next(client.list(name)).meta == meta


def test_bytes_travel_as_base64_both_ways(shell: Shell, client: Client, name: str) -> None:
    payload = bytes(range(256)) * 4
    encoded = base64.b64encode(payload).decode()
    asked(shell, {"id": 1, "op": "put", "context": name, "payload_base64": encoded})
    unit = next(client.list(name))
    assert unit.payload == payload
    requests = [{"id": 1, "op": "get", "ids": [unit.id]}, {"id": 2, "op": "tail", "contexts": [name], "last": 1}]
    answers = shell.ok("pipe", input=lines(requests)).objects
    units = [answer["event"]["unit"] for answer in answers if "unit" in answer.get("event", {})]
    units += [answer["result"]["units"][0] for answer in answers if answer["id"] == 1]
    assert [unit["payload_base64"] for unit in units] == [encoded] * 2


def test_a_line_that_is_far_too_long_is_refused_and_skipped(shell: Shell, name: str) -> None:
    done = shell.ok(
        "pipe", input=b'{"id": 1, "text": "' + b"x" * (2 * MAX_PAYLOAD + 100_000) + b'"}\n' + lines([{"id": 2, "op": "status"}])
    )
    long, status = done.objects
    assert (long["ok"], long["error"]["code"], long["error"]["details"]["line"]) == (False, "too_large", 1)
    assert (status["id"], status["ok"]) == (2, True)


@pytest.mark.parametrize("source", ["file", "pipe", "nothing"])
def test_stdin_may_be_a_file_a_pipe_or_nothing(shell: Shell, name: str, source: str) -> None:
    requests = [{"id": number, "op": "put", "context": name, "text": str(number)} for number in range(300)]
    path = shell.home / "requests"
    path.write_bytes(lines(requests))
    if source == "nothing":
        assert shell.ok("pipe").raw == b""
        return
    done: Done
    if source == "file":
        with path.open("rb") as stdin:
            done = shell.ok("pipe", stdin=stdin)
    else:
        done = shell.script(f"cat '{path}' | engram pipe")
    assert done.err == ""
    assert sorted(answer["id"] for answer in done.objects) == list(range(300))
    assert all(answer["ok"] for answer in done.objects)
    assert shell.ok("list", name).texts == [str(number) for number in range(300)]


@pytest.mark.parametrize("source", ["file", "pipe"])
def test_much_traffic_both_ways_does_not_stop_itself(shell: Shell, client: Client, name: str, source: str) -> None:
    made = client.put_many(name, [{"text": str(number)} for number in range(20)])
    # More than the buffers of a socket hold, either way, before the first answer is read.
    requests = lines({"id": number, "op": "get", "ids": list(made.ids)} for number in range(3000))
    path = shell.home / "traffic"
    path.write_bytes(requests)
    done = shell.script(f"engram pipe < '{path}'" if source == "file" else f"cat '{path}' | engram pipe")
    assert (done.code, done.err) == (0, "")
    assert len(done.raw) > 10_000_000
    assert sorted(json.loads(line)["id"] for line in done.lines) == list(range(3000))


def test_requests_may_all_be_written_before_an_answer_is_read(shell: Shell, client: Client, name: str) -> None:
    client.put_many(name, [{"text": "x" * 1000} for _ in range(10)])
    requests = lines({"id": number, "op": "list", "context": name} for number in range(1000))
    assert len(requests) < 65536  # what a pipe takes when nobody reads it
    with subprocess.Popen([BIN / "engram", "pipe"], env=shell.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as pipe:
        assert pipe.stdin is not None
        assert pipe.stdout is not None
        pipe.stdin.write(requests)
        pipe.stdin.close()
        assert len(pipe.stdout.read().splitlines()) == 1000
        assert pipe.wait(PATIENCE) == 0


def test_answers_do_not_pile_up_in_memory(shell: Shell, client: Client, name: str) -> None:
    client.put_many(name, [{"text": "x" * 60_000} for _ in range(4)])
    # Requests that are large themselves, so that sending them means taking answers meanwhile.
    agents = ["tester", *(f"nobody {number:0200}" for number in range(40))]
    path = shell.home / "pages"
    path.write_bytes(lines({"id": number, "op": "list", "context": name, "agent": agents} for number in range(800)))
    # The peak of a process begins with that of its parent, which therefore has to be small.
    measure = (
        "import os, resource, sys; os.system('engram pipe'); print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)"
    )
    done = shell.script(f"'{sys.executable}' -c \"{measure}\" < '{path}' > '{shell.home}/answers'")
    size = (shell.home / "answers").stat().st_size
    assert size > 800 * 4 * 60_000
    peak = int(done.err) * (1 if sys.platform == "darwin" else 1024)  # getrusage(2)
    assert peak < size / 2


@pytest.mark.parametrize("kill", [True, False], ids=["killed", "stopped"])
def test_streams_go_on_when_the_daemon_is_replaced(alone: Shell, kill: bool) -> None:
    alone.daemon()
    pipe = alone.start("pipe", pipe_stdin=True)
    follow(pipe, "stream", contexts=["c"])
    for number in range(30):
        if number % 10 == 5:
            if kill:
                alone.kill_daemon()
            else:
                assert alone.run("daemon", "stop").code == 0
            alone.daemon()
        alone.client().put("c", str(number))
    pipe.expect(lambda lines: any('"text": "29"' in line for line in lines), "the last unit")
    pipe.say({"id": "put", "op": "put", "context": "c", "text": "from the pipe"})
    pipe.expect(lambda lines: any('"id": "put"' in line for line in lines), "an answer over the new connection")
    pipe.hang_up()
    assert (pipe.wait(), pipe.errors) == (0, [])
    texts = [line["event"]["unit"]["text"] for line in pipe.objects if "unit" in line.get("event", {})]
    assert texts[:30] == [str(number) for number in range(30)], "none missing, none twice"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="nothing tells whether a process waits")
def test_requests_of_a_lost_connection_are_asked_again_or_told(alone: Shell) -> None:
    first = alone.daemon()
    pipe = alone.start("pipe", pipe_stdin=True)
    pipe.say({"id": 0, "op": "put", "context": "c", "text": "first"})
    pipe.expect_lines(1)
    first.signal(signal.SIGSTOP)
    pipe.say(
        {"id": 1, "op": "get", "ids": [2]},
        {"id": 2, "op": "put", "context": "c", "text": "with a key", "dedupe": "k"},
        {"id": 3, "op": "put", "context": "c", "text": "without"},
    )
    until(lambda: idle(pipe), "the pipe to have sent all of it")
    alone.kill_daemon()
    alone.daemon()
    pipe.hang_up()
    assert pipe.wait() == 0
    answers = {answer["id"]: answer for answer in pipe.objects}
    assert [answers[number]["ok"] for number in range(4)] == [True, True, True, False]
    assert answers[3]["error"]["code"] == "outcome_unknown"
    assert "with a key" in [unit.text for unit in alone.client().list("c")]


def idle(running: Running) -> bool:
    """Whether a command has read all of its input, and waits."""
    assert running.process.stdin is not None
    (unread,) = struct.unpack("i", fcntl.ioctl(running.process.stdin.fileno(), termios.FIONREAD, bytes(4)))
    return unread == 0 and Path(f"/proc/{running.pid}/stat").read_bytes().rpartition(b")")[2].split()[0] == b"S"


def test_a_daemon_that_does_not_come_back_is_told_to_every_request_under_way(alone: Shell) -> None:
    alone.daemon()
    pipe = alone.start("pipe", "--timeout", "300ms", pipe_stdin=True)
    follow(pipe, "stream", contexts=["c"])
    alone.kill_daemon()
    assert pipe.wait() == 124
    assert [(answer["id"], answer["error"]["code"]) for answer in pipe.objects if answer.get("ok") is False] == [("stream", "unavailable")]
    assert len(pipe.errors) == 1
    assert "no daemon" in pipe.errors[0]


def test_the_end_of_stdin_ends_a_wait_for_a_lock(shell: Shell, client: Client, name: str) -> None:
    with client.lock(f"@{name}"):
        request = {"id": "w", "op": "lock", "resources": [f"@{name}"], "wait": True}
        done = shell.script(f"echo '{json.dumps(request)}' | engram pipe")
        assert done.code == 0
        [answer] = [json.loads(line) for line in done.lines]
        assert (answer["id"], answer["ok"], answer["error"]["code"]) == ("w", False, "cancelled")


def test_a_member_of_a_consumer_goes_on_when_the_daemon_is_replaced(alone: Shell) -> None:
    alone.daemon()
    client = alone.client()
    client.put("c", "1")
    pipe = alone.start("pipe", pipe_stdin=True)
    pipe.say({"id": 1, "op": "consume", "consumer": "w", "contexts": ["c"], "follow": True})
    pipe.expect(lambda lines: any('"text": "1"' in line for line in lines), "a unit")
    cursor = next(line["event"]["cursor"] for line in pipe.objects if "unit" in line.get("event", {}))
    pipe.say({"id": 2, "op": "ack", "consumer": "w", "entries": [cursor]})
    pipe.expect(lambda lines: any('"id": 2, "ok": true' in line for line in lines), "the answer")
    alone.kill_daemon()
    alone.daemon()
    alone.client().put("c", "2")
    pipe.expect(lambda lines: any('"text": "2"' in line for line in lines), "the next unit")
    pipe.hang_up()
    assert (pipe.wait(), pipe.errors) == (0, [])


def test_a_reader_that_stands_still_stops_its_streams_and_not_its_writes(shell: Shell, client: Client, name: str) -> None:
    for _ in range(30):
        client.put_many(name, [{"text": "x" * 10_000} for _ in range(40)])  # 12 MB, where 1 MiB is sent unasked
    with subprocess.Popen([BIN / "engram", "pipe"], env=shell.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as pipe:
        assert pipe.stdin is not None
        assert pipe.stdout is not None
        pipe.stdin.write(lines([{"id": "s", "op": "tail", "contexts": [name], "after": 0, "follow": True}]))
        pipe.stdin.flush()
        written = f"{name} written"
        for number in range(200):
            pipe.stdin.write(lines([{"id": number, "op": "put", "context": written, "text": str(number)}]))
            pipe.stdin.flush()
        until(lambda: written in client.names("contexts", written), "the writes' context")
        until(lambda: len(list(client.list(written))) == 200, "all writes, of which no answer was read")
        resident = next(line for line in Path(f"/proc/{pipe.pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
        assert int(resident.split()[1]) < 80 * 1024
        pipe.stdin.close()
        got = [json.loads(line) for line in pipe.stdout]
        assert pipe.wait(PATIENCE) == 0
    assert sorted(line["id"] for line in got if line.get("ok") and line["id"] != "s") == list(range(200))
    assert len([line for line in got if "unit" in line.get("event", {})]) < 1200, "the end of stdin ends the stream"


def test_a_stream_that_was_not_read_for_a_while_is_whole(shell: Shell, client: Client, name: str) -> None:
    for _ in range(5):
        client.put_many(name, [{"text": "x" * 10_000} for _ in range(100)])
    request = json.dumps({"id": 1, "op": "tail", "contexts": [name], "after": 0})
    done = shell.script(f"echo '{request}' | engram pipe | (sleep 1; cat)")
    seqs = [json.loads(line)["event"]["unit"]["seq"] for line in done.lines if '"unit"' in line]
    assert len(seqs) == 500
    assert seqs == sorted(seqs)
