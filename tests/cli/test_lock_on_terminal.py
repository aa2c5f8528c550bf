"""`engram lock PATH... -- CMD` in a shell with job control: who reads the terminal, who Ctrl-C and Ctrl-Z reach, and what comes after."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import pytest
from commandline import Shell, until
from keyboard import CTRL_C, CTRL_Z, PROMPT, Typing, is_stopped

from engram_cli.group import runs

# Says whether its group has the terminal, and what it reads from it.
READER = (
    "import os; print('foreground', os.tcgetpgrp(2) == os.getpgrp(), flush=True); print('got', open('/dev/tty').readline(), flush=True)"
)


@pytest.fixture
def held(alone: Shell) -> Shell:
    alone.daemon()
    (alone.home / "reader.py").write_text(READER)
    return alone


@pytest.fixture
def typing(held: Shell) -> Iterator[Typing]:
    with Typing(held) as made:
        yield made


def test_the_command_has_the_terminal_and_the_shell_has_it_back(held: Shell, typing: Typing) -> None:
    typing.type(f"engram lock @x -- {sys.executable} reader.py; echo code $?")
    typing.see("foreground True")
    typing.type("hello")
    typing.see("got hello")
    typing.see("code 0")
    typing.type("read line; echo again $line")
    typing.type("hi")
    typing.see("again hi")


@pytest.mark.parametrize("around", ["{}", "bash -c '{}'"], ids=["typed", "script"])
def test_ctrl_c_reaches_the_command_and_ends_the_loop_around_it(held: Shell, typing: Typing, around: str) -> None:
    loop = 'for i in 1 2 3; do engram lock @x -- sh -c "echo ready; exec sleep 60"; done; echo reached'
    typing.see(PROMPT)
    typing.type(around.format(loop))
    typing.see("ready")
    typing.press(CTRL_C)
    assert "reached" not in typing.see(f"(?s)(.*){PROMPT}")
    typing.type("echo code $?")
    typing.see("code 130")
    assert not list(held.client().locks("@x"))


def test_a_command_may_live_through_ctrl_c(held: Shell, typing: Typing) -> None:
    typing.type("engram lock @x -- bash -c 'trap \"echo caught; exit 3\" INT; echo ready; while :; do sleep 0.05; done'; echo code $?")
    typing.see("ready")
    typing.press(CTRL_C)
    typing.see("caught")
    typing.see("code 3")


def test_ctrl_z_stops_the_job_which_keeps_its_lock_and_goes_on(held: Shell, typing: Typing) -> None:
    client = held.client()
    typing.type(f"engram lock @x --ttl 600ms -- bash -c 'echo $$ > group; {sys.executable} reader.py; exit 4'; echo code $?")
    typing.see("foreground True")
    group = int((held.home / "group").read_text())
    for _ in range(2):
        typing.press(CTRL_Z)
        typing.see("Stopped")
        typing.see("code 148")
        before = next(iter(client.locks("@x")))["renewals"]
        until(lambda: next(iter(client.locks("@x")))["renewals"] > before + 2, "renewals while it is stopped")  # noqa: B023
        typing.type("fg; echo code $?")
        until(lambda: typing.foreground == group and not is_stopped(group), "the command to go on")
    typing.type("hello")
    typing.see("got hello")
    typing.see("code 4")
    until(lambda: not list(client.locks("@x")), "the release")


def test_a_job_in_the_background_stops_when_it_reads_and_has_the_terminal_in_the_foreground(held: Shell, typing: Typing) -> None:
    typing.type(f"engram lock @x -- {sys.executable} reader.py &")
    typing.see("foreground False")
    typing.type("sleep 0.3; jobs")
    typing.see("Stopped")
    typing.type("fg; echo code $?")
    typing.see("reader.py")
    typing.type("hello")
    typing.see("got hello")
    typing.see("code 0")


def test_a_job_goes_on_in_the_background(held: Shell, typing: Typing) -> None:
    typing.type("engram lock @x -- bash -c 'echo ready; while [ ! -e done ]; do sleep 0.05; done; echo finished; exit 5'; echo code $?")
    typing.see("ready")
    typing.press(CTRL_Z)
    typing.see("Stopped")
    typing.type("bg; touch done; wait %1; echo code $?")
    typing.see("finished")
    typing.see("code 5")


def test_others_of_a_pipeline_may_use_the_terminal(held: Shell, typing: Typing) -> None:
    """Standard output leads to a reader that asks people, as pagers do: the terminal stays with the pipeline's group."""
    typing.type(
        "engram lock @x -- sh -c 'echo page; sleep 0.2' | bash -c 'read page; read answer </dev/tty; echo $page $answer'; echo code $?"
    )
    time.sleep(0.2)
    typing.type("more")
    typing.see("page more")
    typing.see("code 0")


def test_a_command_in_a_pipeline_gets_the_terminal_when_it_reads_it(held: Shell, typing: Typing) -> None:
    typing.type(f"engram lock @x -- {sys.executable} reader.py | cat; echo code $?")
    typing.see("foreground False")
    typing.type("hello")
    typing.see("got hello")
    typing.see("code 0")
    typing.type("read line; echo again $line")
    typing.type("hi")
    typing.see("again hi")


def test_a_lock_that_is_lost_gives_the_terminal_back(held: Shell, typing: Typing) -> None:
    typing.type(f"engram lock @x --ttl 900ms -- {sys.executable} reader.py; echo code $?")
    typing.see("foreground True")
    held.ok("unlock", "--force", "@x")
    typing.see("was lost, so the command is ended")
    typing.see("code 75")
    typing.type("read line; echo again $line")
    typing.type("hi")
    typing.see("again hi")


def test_a_job_that_is_stopped_is_ended_when_its_lock_is_lost(held: Shell, typing: Typing) -> None:
    typing.type("engram lock @x --ttl 900ms -- bash -c 'echo $$ > group; echo ready; sleep 60'; echo code $?")
    typing.see("ready")
    typing.press(CTRL_Z)
    typing.see("Stopped")
    held.ok("unlock", "--force", "@x")
    typing.see("was lost, so the command is ended")
    until(lambda: not runs(int((held.home / "group").read_text())), "the end of the group")
    typing.type("fg; echo code $?")
    typing.see("code 75")


def test_the_end_of_the_terminal_ends_the_job(held: Shell) -> None:
    with Typing(held) as typing:
        typing.type("engram lock @x -- bash -c 'echo ready; exec sleep 60'")
        typing.see("ready")
        typing._process.kill()
    until(lambda: not list(held.client().locks("@x")), "the release")
