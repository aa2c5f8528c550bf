"""How the commands behave inside shell scripts."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest
from commandline import PATIENCE, Shell, as_typed

from engram_cli.client import Client


def test_a_command_substitution_that_starts_the_daemon_ends(alone: Shell) -> None:
    done = alone.script('x=$(engram put c hello 2>&1); echo "<$x>"; engram get "$x"')
    assert (done.code, done.err) == (0, "")
    assert len(done.lines[0]) == 38
    assert done.lines[1] == "hello"
    assert alone.daemon_pid() is not None


def test_a_daemon_that_was_started_has_let_go_of_everything(alone: Shell) -> None:
    # The pipe of a whole script ends when the script does, also if a command in the middle left a daemon behind.
    done = alone.script("(engram put c one; engram list c) | wc -l; cd /; exec 3>&-")
    assert (done.code, done.out.strip(), done.err) == (0, "2", "")


def test_a_command_inside_while_read_leaves_its_input_alone(shell: Shell, name: str) -> None:
    done = shell.script(
        f"printf 'one\\ntwo\\nthree\\n' | while read line; do engram put '{name}' \"$line\" >/dev/null; engram tail '{name}' -n 1; done"
    )
    assert done.err == ""
    assert done.texts == ["one", "two", "three"]


def test_a_reader_that_leaves_early_is_no_error(shell: Shell, client: Client, name: str) -> None:
    client.put_many(name, [{"text": "x" * 1000} for _ in range(400)])
    done = shell.script(f"engram list '{name}' | head -n 1; echo ${{PIPESTATUS[0]}}")
    assert (done.lines[0][-1], done.lines[1], done.err) == ("x", "141", "")


def test_a_follower_whose_reader_leaves_ends_at_once(shell: Shell, client: Client, name: str) -> None:
    client.put(name, "one")
    done = shell.script(f"timeout 20 engram tail -f '{name}' | head -n 1; echo ${{PIPESTATUS[0]}}")
    assert (done.lines[0][-3:], done.lines[1], done.err) == ("one", "141", "")


@pytest.mark.parametrize("verb", ["list", "get", "put"])
def test_output_that_cannot_be_written_is_an_error(shell: Shell, client: Client, name: str, verb: str) -> None:
    made = client.put(name, "x")
    rest = {"list": f"'{name}'", "get": made.id, "put": f"'{name}' y"}[verb]
    done = shell.script(f"engram {verb} {rest} > /dev/full")
    assert done.code == 1
    assert "No space left" in done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize("way", ["", "--timeout 20s"], ids=["quick", "full"])
@pytest.mark.parametrize("where", ["> /dev/full", ">&-"])
def test_what_was_done_is_said_where_the_output_cannot_be_written(shell: Shell, client: Client, name: str, where: str, way: str) -> None:
    """Else who reads the error does it twice."""

    def said(line: str) -> str:
        done = shell.script(f"engram {line} {way} {where}")
        reason, but, what = done.err.splitlines()[-1].partition("; but ")
        assert (done.code, but, "cannot write the output" in reason) == (1, "; but ", True), done
        return what

    told = said(f"put '{name}' y")
    [unit] = client.list(name)
    assert told == f"the unit is put: id {unit.id}, seq {unit.seq}"
    assert said(f"put '{name}' y --json").startswith("the unit is put: id ")
    told = said(f"lock '@{name}'")
    [lock] = client.locks(f"@{name}")
    assert told == f"the lock is held; to release: engram unlock {lock['token']}"
    assert said(f"renew {lock['token']}") == "renew is done"
    told = said(f"token issue '{name}'")
    assert told.startswith("a token is issued whose text is lost; to end it: engram token revoke ")
    assert shell.run(*told.split()[-4:][1:]).code == 0
    assert said(f"context join '{name}' ann --json") == "context join is done"


def test_ctrl_c_stops_the_loop_around_a_command_too(shell: Shell, client: Client, name: str) -> None:
    client.put(name, "x")
    loop = f"for i in 1 2 3; do engram tail -f '{name}'; echo again; done; echo end"
    with as_typed():
        terminal = subprocess.Popen(
            ["bash", "-c", loop],
            env=shell.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    with terminal:
        assert terminal.stdout is not None
        assert terminal.stderr is not None
        try:
            assert terminal.stdout.readline().endswith(b"\tx\n")
            os.killpg(terminal.pid, signal.SIGINT)
            assert terminal.wait(PATIENCE) == -signal.SIGINT
            assert (terminal.stdout.read(), terminal.stderr.read().strip()) == (b"", b"")
        finally:
            terminal.kill()


def test_color_is_for_terminals_unless_asked_for(shell: Shell, client: Client, name: str) -> None:
    client.put(name, "x", type="error")
    assert b"\x1b[" not in shell.ok("list", name).raw
    assert b"\x1b[" in shell.ok("list", name, "--color", "always", env={"TERM": "xterm"}).raw
    assert b"\x1b[" not in shell.ok("list", name, "--color", "never").raw
    assert b"\x1b[" not in shell.ok("list", name, "--json", "--color", "always").raw


@pytest.mark.parametrize(
    ("line", "advice"),
    [("--as bob put c x", "engram COMMAND ... --as"), ("context --json list", "engram context COMMAND ... --json")],
)
def test_a_common_option_before_the_command_says_where_it_goes(shell: Shell, line: str, advice: str) -> None:
    done = shell.script(f"engram {line}")
    option = advice.split()[-1]
    assert (done.code, done.out, done.err) == (2, "", f"engram: {option} goes after the command: {advice}\n")
