"""`engram run -- CMD` without a terminal: what passes through, what is recorded, and what happens when something is in the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commandline import PATIENCE, Running, Shell, until

from engram_cli.client import Unit


def words(shell: Shell, context: str) -> list[Unit]:
    """What is said of the runs in a context."""
    return list(shell.client().list(context, type="task_status"))


def recorded(shell: Shell, context: str, stream: str = "stdout") -> bytes:
    """What was recorded of a stream; the offsets say that nothing is missing and nothing is there twice."""
    found = b""
    for unit in shell.client().list(context, meta={"stream": stream}):
        assert unit.meta["offset"] == str(len(found))
        found += unit.payload
    return found


@pytest.mark.parametrize(
    ("script", "code", "end"),
    [
        ("exit 0", 0, "exit 0"),
        ("exit 7", 7, "exit 7"),
        ("kill -TERM $$", 143, "SIGTERM"),
        ("kill -KILL $$", 137, "SIGKILL"),
        ("exec >&- 2>&-; exit 4", 4, "exit 4"),
    ],
)
def test_the_exit_code_is_that_of_the_command(shell: Shell, name: str, script: str, code: int, end: str) -> None:
    done = shell.run("run", "--context", name, "--", "sh", "-c", script)
    assert (done.code, done.raw, done.err) == (code, b"", "")
    started, ended = words(shell, name)
    assert (started.meta["status"], started.text) == ("started", f"started: sh -c '{script}'")
    assert ended.text.startswith(f"ended: {end} after 0.")
    assert (ended.meta["exit_code"], ended.meta["status"]) == (str(code), "failed" if code else "done")
    assert int(ended.meta["duration_ms"]) < PATIENCE * 1000


def test_it_dies_of_ctrl_c_as_the_command_does(shell: Shell, name: str) -> None:
    running = shell.start("run", "--context", name, "--", "sh", "-c", "echo ready; exec sleep 60")
    running.expect_lines(1)
    running.signal(signal.SIGINT)
    assert running.wait() == -signal.SIGINT


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_signals_are_passed_on(shell: Shell, name: str, number: signal.Signals) -> None:
    trap = f"trap 'echo caught; exit 9' {number.name.removeprefix('SIG')}; echo ready; while :; do sleep 0.02; done"
    running = shell.start("run", "--context", name, "--", "bash", "-c", trap)
    running.expect_lines(1)
    running.signal(number)
    assert (running.wait(), running.lines) == (9, ["ready", "caught"])


def test_what_cannot_be_started_is_as_in_a_shell(shell: Shell, name: str) -> None:
    for command, code in (("no such command", 127), ("/", 126)):
        done = shell.run("run", "--context", name, "--", command)
        assert (done.code, done.raw, len(done.err.splitlines())) == (code, b"", 1), done.err
        assert words(shell, name)[-1].meta["exit_code"] == str(code)


def test_what_is_no_command_line_is_refused(shell: Shell) -> None:
    for arguments in (["run"], ["run", "--"], ["run", "date"], ["run", "x", "--", "date"], ["run", "--stdio", "x", "--", "date"]):
        shell.fails(2, *arguments)
    shell.fails(2, "run", "--agent", "a", "--as", "b", "--", "date")
    shell.fails(2, "run", "--agent", "a\n", "--", "date")
    shell.fails(2, "run", "--context", "\t", "--", "date")


def test_the_command_knows_who_and_where_it_is(shell: Shell, name: str) -> None:
    script = 'echo "$ENGRAM_AGENT"; echo "$ENGRAM_CONTEXT"; echo "$ENGRAM_SOCKET"; echo "$ENGRAM_SESSION"; engram put . "by me"'
    done = shell.ok("run", "--agent", "builder", "--context", name, "--", "sh", "-c", script, env={"ENGRAM_SESSION": "outer"})
    agent, context, socket, session, _ = done.lines
    assert (agent, context, socket, len(session)) == ("builder", name, str(shell.socket), 32)
    units = list(shell.client().list(name))
    assert [unit.agent for unit in units] == ["builder"] * len(units)
    assert "by me" in [unit.text for unit in units]


def test_the_context_is_that_of_the_environment_or_runs(shell: Shell, name: str) -> None:
    shell.ok("run", "--", "true", env={"ENGRAM_CONTEXT": name})
    assert len(words(shell, name)) == 2
    before = len(words(shell, "runs"))
    shell.ok("run", "--", "true")
    assert len(words(shell, "runs")) == before + 2


def test_it_is_present_and_its_leases_end_with_it(shell: Shell, name: str) -> None:
    script = f'engram lock "@{name}" --session > /dev/null; echo ready; read line'
    running = shell.start("run", "--agent", name, "--", "sh", "-c", script, pipe_stdin=True)
    running.expect_lines(1)
    client = shell.client()
    [lock] = client.locks(f"@{name}")
    assert (lock["holder"], lock["remaining"]) == (name, None)
    until(lambda: [one["present_since"] for one in client.agents() if one["id"] == name] != [None], "its presence")
    running.hang_up()
    running.wait()
    until(lambda: not list(client.locks(f"@{name}")), "the end of its lease")
    until(lambda: [one["present_since"] for one in client.agents() if one["id"] == name] == [None], "the end of its presence")


def test_output_passes_unchanged_and_is_recorded_byte_for_byte(shell: Shell, name: str) -> None:
    path = shell.home / "bytes"
    path.write_bytes(os.urandom(300_000) + bytes(range(256)) + b"\x1b[2J\x00" + "é".encode() * 100_000)
    done = shell.ok("run", "--context", name, "--", "cat", path)
    assert done.raw == path.read_bytes() == recorded(shell, name)
    done = shell.run("run", "--context", name, "--", "sh", "-c", "echo out; echo err >&2; printf e >&2")
    assert (done.raw, done.err) == (b"out\n", "err\ne")
    assert recorded_since(shell, name, "stderr") == b"err\ne"


def recorded_since(shell: Shell, context: str, stream: str) -> bytes:
    """What the last run in a context has printed."""
    run = words(shell, context)[-1].meta["run"]
    return b"".join(unit.payload for unit in shell.client().list(context, meta={"stream": stream, "run": run}))


def test_standard_input_is_the_commands_own(shell: Shell, name: str) -> None:
    data = bytes(range(256)) * 3000
    assert shell.ok("run", "--context", name, "--", "cat", input=data).raw == data
    done = shell.script(f"printf '1\\n2\\n3\\n' | while read -r line; do engram run --context '{name}' -- echo \"$line\" < /dev/null; done")
    assert done.lines == ["1", "2", "3"]
    assert shell.script(f"engram run --context '{name}' -- cat <(echo one) <(echo two)").lines == ["one", "two"]


def test_units_are_chunks_related_to_the_start(shell: Shell, name: str) -> None:
    shell.ok("run", "--context", name, "--", "seq", "60000")  # 350 kB
    units = list(shell.client().list(name))
    start, *chunks, end = units
    assert [unit.type for unit in units] == ["task_status", *["tool_result"] * len(chunks), "task_status"]
    assert 6 <= len(chunks) <= 16
    assert all(unit.relationships[0].type == "responds_to" and unit.relationships[0].target == start.id for unit in [*chunks, end])
    assert {unit.meta["run"] for unit in units} == {start.meta["run"]}
    assert max(len(unit.payload) for unit in chunks) <= 64 * 1024


def test_many_small_writes_are_few_units(shell: Shell, name: str) -> None:
    script = "import os\nfor _ in range(20000): os.write(1, b'x')"
    done = shell.ok("run", "--context", name, "--", sys.executable, "-c", script)
    assert done.raw == b"x" * 20_000 == recorded(shell, name)
    assert len(list(shell.client().list(name, type="tool_result"))) < 30


def test_no_character_is_cut(shell: Shell, name: str) -> None:
    text = "x" + "é€😀" * 30_000
    (shell.home / "text").write_text(text)
    shell.ok("run", "--context", name, "--", "cat", "text")
    chunks = list(shell.client().list(name, type="tool_result"))
    assert len(chunks) > 3
    assert "".join(chunk.payload.decode() for chunk in chunks) == text


def test_one_file_for_both_outputs_keeps_their_order(shell: Shell, name: str) -> None:
    script = "for i in 1 2 3 4 5 6 7 8 9; do echo out $i; echo err $i >&2; done"
    expected = "".join(f"out {i}\nerr {i}\n" for i in range(1, 10))
    done = shell.script(
        f"engram run --context '{name}' -- sh -c '{script}' 2>&1; engram run --context '{name}' -- sh -c '{script}' > both 2>&1"
    )
    assert done.out == expected == (shell.home / "both").read_text()
    assert recorded_since(shell, name, "output").decode() == expected


def test_json_lines_are_units_by_their_type(shell: Shell, name: str) -> None:
    lines: list[Any] = [
        {"type": "reasoning", "text": "é thinks", "meta": {"step": "1"}},
        {"type": "tool_call", "name": "grep", "arguments": {"pattern": "x"}},
        {"type": "shout", "text": "no such type"},
        {"type": "message", "text": "bad labels", "meta": {"n": 1}},
        ["type"],
    ]
    text = "plain\n" + "".join(json.dumps(line) + "\n" for line in lines) + "{broken\n" + "[" * 5000 + '\n{"type": "error", "text": "last"}'
    (shell.home / "lines").write_text(text)
    done = shell.ok("run", "--stdio", "jsonl", "--context", name, "--", "cat", "lines")
    assert done.out == text
    units = list(shell.client().list(name, meta={"stream": "stdout"}))
    assert [unit.type for unit in units] == ["tool_result", "reasoning", "tool_call", "tool_result", "error"]
    assert (units[0].text, units[1].text, units[1].meta["step"], units[-1].text) == ("plain\n", "é thinks", "1", "last")
    assert json.loads(units[2].text) == lines[1]
    assert units[3].text == text[text.index('{"type": "shout"') : text.index('{"type": "error"')]


def test_json_lines_are_units_where_both_outputs_lead_to_the_same_place(shell: Shell, name: str) -> None:
    (shell.home / "lines").write_text('{"type": "reasoning", "text": "thinks"}\n')
    done = shell.script(f"engram run --stdio jsonl --context '{name}' -- sh -c 'cat lines; echo broken >&2' 2>&1")
    assert sorted(done.lines) == ["broken", '{"type": "reasoning", "text": "thinks"}']
    assert recorded_since(shell, name, "stderr") == b"broken\n"
    assert [unit.text for unit in shell.client().list(name, type="reasoning")] == ["thinks"]


def test_who_reads_no_more_is_told_to_the_command(shell: Shell, name: str) -> None:
    done = shell.script(f"engram run --context '{name}' -- yes | head -n 2; echo ${{PIPESTATUS[0]}}")
    assert (done.lines, done.err) == (["y", "y", "141"], "")
    assert words(shell, name)[-1].meta["signal"] == "SIGPIPE"


def test_what_the_command_leaves_behind_is_not_waited_for(shell: Shell, name: str) -> None:
    done = shell.run("run", "--context", name, "--", "sh", "-c", "echo out; sleep 30 & echo $! > left")
    os.kill(int((shell.home / "left").read_text()), signal.SIGKILL)
    assert (done.code, done.out) == (0, "out\n")
    assert done.seconds < 15


def test_a_slow_reader_gets_all_of_it(shell: Shell, name: str) -> None:
    done = shell.script(f"engram run --context '{name}' -- seq 300000 | (sleep 3; tail -n 1)")  # more than the pipes between them hold
    assert done.out == "300000\n"
    left = shell.script(f"engram run --context '{name}' -- sh -c 'sleep 30 & seq 300000' | (sleep 3; tail -n 1)")
    assert left.out == "300000\n"


def test_nothing_of_ours_is_left_open_in_the_command(shell: Shell, name: str) -> None:
    done = shell.ok("run", "--context", name, "--", sys.executable, "-c", "import os; print(*os.listdir('/proc/self/fd'))")
    assert len(done.out.split()) == 4, "the fourth is the listing's own"


def test_runs_may_be_in_runs(shell: Shell, name: str) -> None:
    script = 'echo $ENGRAM_SESSION; engram run --agent inner -- sh -c "echo \\$ENGRAM_SESSION \\$ENGRAM_AGENT"'
    outer, inner = shell.ok("run", "--agent", "outer", "--context", name, "--", "sh", "-c", script).lines
    assert inner.split()[1] == "inner"
    assert outer != inner.split()[0]
    assert {unit.agent for unit in words(shell, name)} == {"outer", "inner"}


# When something is in the way


def test_it_starts_a_daemon_unless_told_not_to(alone: Shell) -> None:
    assert "no daemon" in alone.fails(69, "run", "--no-autostart", "--", "touch", "made")
    assert not (alone.home / "made").exists()
    assert alone.ok("run", "--", "echo", "hi").out == "hi\n"
    assert recorded(alone, "runs") == b"hi\n"


def test_a_daemon_that_cannot_start_breaks_nothing(alone: Shell) -> None:
    (alone.home / "data").write_text("no directory")
    done = alone.run("run", "--timeout", "200ms", "--", "sh", "-c", "echo hi; exit 5")
    assert (done.code, done.out) == (5, "hi\n")
    assert done.err.startswith("engram: 3 bytes of the command's output were not recorded: the daemon did not start")
    assert len(done.err.splitlines()) == 1


def start_and_kill(alone: Shell, *options: str) -> Running:
    """A run that prints one line, then the daemon is killed, then another."""
    running = alone.start("run", *options, "--", "sh", "-c", "echo one; read go; echo two; read go; echo three; exit 6", pipe_stdin=True)
    running.expect_lines(1)
    until(lambda: recorded(alone, "runs") == b"one\n", "the first line in the log")
    alone.kill_daemon()
    running.say("go")
    running.expect_lines(2)
    return running


def test_a_daemon_that_dies_breaks_nothing_and_what_is_lost_is_told(alone: Shell) -> None:
    alone.daemon()
    running = start_and_kill(alone, "--timeout", "200ms")
    running.say("go")
    assert (running.wait(), running.lines) == (6, ["one", "two", "three"])
    [said] = running.errors
    assert said.startswith("engram: 10 bytes of the command's output were not recorded: ")


def test_a_daemon_that_comes_back_gets_all_of_it_once(alone: Shell) -> None:
    alone.daemon()
    running = start_and_kill(alone)
    alone.daemon()
    running.say("go")
    assert (running.wait(), running.errors) == (6, [])
    assert recorded(alone, "runs") == b"one\ntwo\nthree\n"
    assert len(words(alone, "runs")) == 2


def test_a_lease_survives_a_restart_of_the_daemon_while_nothing_is_printed(alone: Shell) -> None:
    alone.daemon()
    running = alone.start("run", "--", "sh", "-c", "engram lock @x --session --ttl 2s > /dev/null; echo ready; read go", pipe_stdin=True)
    running.expect_lines(1)
    assert alone.run("daemon", "stop").code == 0
    alone.daemon()
    client = alone.client()
    until(lambda: [lock["remaining"] for lock in client.locks("@x")] == [None], "the session's owner to come back")
    running.hang_up()
    running.wait()
    until(lambda: not list(client.locks("@x")), "the end of its lease")


def test_a_daemon_that_hangs_does_not_hold_the_command_up(alone: Shell) -> None:
    daemon = alone.daemon()
    script = "echo one; read go; seq 100000 > /dev/stdout; echo done >&2"
    running = alone.start("run", "--timeout", "1s", "--", "sh", "-c", script, pipe_stdin=True)
    running.expect_lines(1)
    until(lambda: recorded(alone, "runs") == b"one\n", "the first line in the log")
    daemon.signal(signal.SIGSTOP)
    running.say("go")
    until(lambda: running.errors == ["done"], "the command's end")
    daemon.signal(signal.SIGCONT)
    assert running.wait() == 0
    assert running.errors == ["done"]
    assert recorded(alone, "runs").decode().splitlines() == ["one", *map(str, range(1, 100_001))]


def test_when_it_is_killed_what_was_read_is_recorded_and_the_command_is_told(alone: Shell) -> None:
    alone.daemon()
    script = "cd; echo one; while echo more; do sleep 0.02; done 2> /dev/null; echo gone > gone"
    running = alone.start("run", "--", "bash", "-c", f"trap '' PIPE; {script}")
    running.expect_lines(2)
    running.signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    until((alone.home / "gone").exists, "the command to notice")
    until(lambda: len(words(alone, "runs")) == 2, "the end in the log")
    assert words(alone, "runs")[-1].meta["status"] == "unknown"
    assert recorded(alone, "runs").decode().splitlines()[: len(running.lines)] == running.lines


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="nothing tells whose children they are")
def test_when_the_process_that_records_is_killed_the_command_goes_on(alone: Shell) -> None:
    alone.daemon()
    running = alone.start("run", "--", "sh", "-c", "echo one; read go; seq 100000; exit 3", pipe_stdin=True)
    running.expect_lines(1)
    children = map(int, Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split())
    [recorder] = [pid for pid in children if os.getsid(pid) == pid]
    os.kill(recorder, signal.SIGKILL)
    running.say("go")
    assert (running.wait(), len(running.lines)) == (3, 100_001)
    assert running.errors == ["engram: the process that records was killed, so not all of this run is recorded"]


def test_a_payload_limit_below_a_chunk_is_kept(alone: Shell) -> None:
    alone.daemon("--max-payload", "1KiB")
    (alone.home / "text").write_text("é" * 20_000)
    alone.ok("run", "--", "cat", "text")
    assert recorded(alone, "runs").decode() == "é" * 20_000


def test_memory_stays_bounded_where_much_is_printed(alone: Shell) -> None:
    alone.daemon()
    measure = (
        "import os, resource, sys; os.system('engram run --timeout 1ms -- head -c 200M /dev/zero > /dev/null');"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", measure], env=alone.env, cwd=alone.home, capture_output=True, timeout=120, check=True)
    assert int(done.stdout) * 1024 < 120 * 2**20
    assert sum(int(unit.meta["offset"]) >= 0 for unit in alone.client().list("runs", type="tool_result")) == 3200
