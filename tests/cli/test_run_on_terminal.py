"""`engram run` on a terminal: the command has one of its own, and nothing is different for who sits at ours."""

from __future__ import annotations

import os
import signal
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
from commandline import Shell, until
from keyboard import CTRL_C, CTRL_Z, PROMPT, Typing, is_stopped

READER = """
import os, sys
print('terminal', os.isatty(0), os.isatty(1), os.isatty(2), os.tcgetpgrp(0) == os.getpgrp(), *os.get_terminal_size(), flush=True)
print('got', input(), flush=True)
"""


@pytest.fixture
def served(alone: Shell) -> Shell:
    alone.daemon()
    (alone.home / "reader.py").write_text(READER)
    return alone


@pytest.fixture
def typing(served: Shell) -> Iterator[Typing]:
    with Typing(served) as made:
        made.type("stty rows 33 cols 77")
        made.see(PROMPT)
        yield made


def modes(typing: Typing) -> list[object]:
    return termios.tcgetattr(typing._fd)


def printed(shell: Shell, stream: str = "terminal") -> bytes:
    """What was recorded of a stream, with its offsets looked at."""
    found = b""
    for unit in shell.client().list("runs", meta={"stream": stream}):
        assert unit.meta["offset"] == str(len(found))
        found += unit.payload
    return found


def ends(shell: Shell) -> list[str]:
    return [unit.text for unit in shell.client().list("runs", type="task_status") if unit.meta["status"] != "started"]


def test_the_command_has_a_terminal_of_the_same_size_and_ours_comes_back(served: Shell, typing: Typing) -> None:
    before = modes(typing)
    typing.type(f"engram run -- {sys.executable} reader.py; echo code $?")
    typing.see("terminal True True True True 77 33")
    assert modes(typing) != before
    typing.type("hello")
    typing.see("got hello")
    typing.see("code 0")
    typing.see(PROMPT)
    assert modes(typing) == before
    recorded = printed(served)
    assert recorded.startswith(b"terminal True True True True 77 33\r\n")
    assert b"got hello\r\n" in recorded


def test_ctrl_c_reaches_the_command_and_ends_the_loop_around_it(served: Shell, typing: Typing) -> None:
    before = modes(typing)
    typing.type("for i in 1 2 3; do engram run -- sh -c \"echo rea''dy; exec sleep 60\"; done; echo reached")
    typing.see("ready")
    typing.press(CTRL_C)
    assert "reached" not in typing.see(f"(?s)(.*){PROMPT}")
    typing.type("echo code $?")
    typing.see("code 130")
    assert modes(typing) == before
    assert [end.partition(" after")[0] for end in ends(served)] == ["ended: SIGINT"]


def test_ctrl_z_stops_the_job_and_it_goes_on(served: Shell, typing: Typing) -> None:
    before = modes(typing)
    typing.type(f"engram run -- bash -c 'echo $$ > group; {sys.executable} reader.py; exit 4'; echo code $?")
    typing.see("terminal True")
    group = int((served.home / "group").read_text())
    for _ in range(2):
        typing.press(CTRL_Z)
        typing.see("Stopped")
        typing.see("code 148")
        assert is_stopped(group)
        until(lambda: modes(typing) == before, "the terminal as it was")
        typing.type("stty rows 44; fg; echo code $?")
        until(lambda: not is_stopped(group) and modes(typing) != before, "the command to go on")
    typing.type("hello")
    typing.see("got hello")
    typing.see("code 4")
    until(lambda: modes(typing) == before, "the terminal as it was")


def test_a_job_in_the_background_leaves_the_keys_to_the_shell(served: Shell, typing: Typing) -> None:
    before = modes(typing)
    typing.type(f"engram run -- {sys.executable} reader.py &")
    typing.see("terminal True")
    assert modes(typing) == before
    typing.type("read line; echo again $line")
    typing.type("hi")
    typing.see("again hi")
    typing.type("fg; echo code $?")
    typing.see("reader.py")
    until(lambda: modes(typing) != before, "the terminal to be handed over")
    typing.type("hello")
    typing.see("got hello")
    typing.see("code 0")


def test_the_size_follows(served: Shell, typing: Typing) -> None:
    typing.type('engram run -- bash -c \'trap "stty size; exit 7" WINCH; echo rea""dy; while :; do sleep 0.05; done\'; echo code $?')
    typing.see("ready")
    termios.tcsetwinsize(typing._fd, (11, 22))
    typing.see("11 22")
    typing.see("code 7")


def test_a_command_that_changes_the_modes_of_its_terminal_changes_those_of_ours_for_no_longer(served: Shell, typing: Typing) -> None:
    before = modes(typing)
    typing.type("engram run -- sh -c 'stty raw -echo; printf \"one\\ntwo\\n\"; kill -9 $$'; echo code $?")
    typing.see("one\ntwo")
    typing.see("code 137")
    assert modes(typing) == before


def test_standard_error_that_leads_elsewhere_goes_on_doing_so(served: Shell, typing: Typing) -> None:
    typing.type("engram run -- sh -c 'echo out; echo err >&2' 2> errors; echo code $?")
    typing.see("code 0")
    assert (served.home / "errors").read_text() == "err\n"
    assert (printed(served), printed(served, "stderr")) == (b"out\r\n", b"err\n")


def test_standard_input_that_is_no_terminal_stays_what_it_is(served: Shell, typing: Typing) -> None:
    typing.type("printf 'a\\nb\\n' | engram run -- cat; echo code $?")
    typing.see("a\r\nb\r\n")
    typing.see("code 0")
    assert printed(served) == b"a\nb\n"


def test_the_modes_come_back_when_it_is_killed_and_the_command_is_hung_up_on(served: Shell, typing: Typing) -> None:
    before = modes(typing)
    typing.type(
        'bash -c \'engram run -- sh -c "echo \\$PPID > leader; trap \\"echo hup > hup; exit\\" HUP; echo rea\\"\\"dy; sleep 60 & wait"\''
    )
    typing.see("ready")
    assert modes(typing) != before
    leader = int((served.home / "leader").read_text())
    run = int(Path(f"/proc/{leader}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(run, signal.SIGKILL)
    until((served.home / "hup").exists, "the command to be hung up on")
    until(lambda: modes(typing) == before, "the terminal as it was")
    until(lambda: len(ends(served)) == 1, "the end")
    assert ends(served)[0].startswith("ended unseen")
    until(lambda: not Path(f"/proc/{leader}").exists(), "the leader's end")


def test_the_end_of_the_terminal_ends_the_job(served: Shell) -> None:
    with Typing(served) as typing:
        typing.type("engram run -- bash -c 'echo $$ > pid; echo rea\"\"dy; exec sleep 60'")
        typing.see("ready")
        typing._process.kill()
    pid = int((served.home / "pid").read_text())
    until(lambda: not Path(f"/proc/{pid}").exists(), "the command's end")
    until(lambda: len(ends(served)) == 1, "its end in the log")
