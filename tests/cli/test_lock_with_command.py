"""`engram lock PATH... -- CMD`: the command runs under the lock, is not disturbed, and is ended in time when the lock is lost."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from commandline import AGENT, BIN, PATIENCE, Running, Shell, until

from engram_cli.client import Client

BASH = shutil.which("bash") or "bash"

# A command that ignores SIGTERM, and so do two more that it leaves in its group, one of them with another parent.
STUBBORN = """
trap '' TERM
( while :; do sleep 0.05; done ) &
( ( while :; do sleep 0.05; done ) & )
echo ready
while :; do sleep 0.05; done
"""


@pytest.fixture
def held(alone: Shell) -> Shell:
    """Surroundings with a daemon of their own, which may be stopped and killed."""
    alone.daemon()
    return alone


def hold(shell: Shell, *command: str, ttl: str = "60s", options: Sequence[str] = (), **env: str) -> Running:
    """Start `engram lock` with a command, and wait until the command has printed a line."""
    running = shell.start("lock", "@x", "--ttl", ttl, *options, "--", *command, **env)
    running.expect_lines(1)
    return running


def group_of(shell: Shell, path: str = "group") -> int:
    """The process group that a command has written to a file."""
    return int((shell.home / path).read_text())


def alive(group: int) -> list[str]:
    """The processes of a group that still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(its_group) == group and state not in "ZX":
            found.append(stat.parent.name)
    return found


def keeper_of(running: Running | subprocess.Popen[bytes], group: int) -> int:
    """The process that keeps the lock of a command: the other child, in a session of its own."""
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children")
    until(lambda: len(children.read_text().split()) == 2, "the keeper")
    [keeper] = set(map(int, children.read_text().split())) - {group}
    until(lambda: os.getsid(keeper) == keeper, "its session")
    return keeper


def is_free(client: Client, resource: str = "@x") -> bool:
    return not list(client.locks(resource))


# What the command gets, and what comes back


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("exit 0", 0),
        ("exit 7", 7),
        ("exit 75", 75),
        ("kill -TERM $$", 143),
        ("kill -KILL $$", 137),
        ("kill -PIPE $$", 141),
        ("exit 255", 255),
    ],
)
def test_the_exit_code_is_that_of_the_command(shell: Shell, script: str, code: int) -> None:
    done = shell.run("lock", f"@{code}", "--", "sh", "-c", script)
    assert (done.code, done.raw, done.err) == (code, b"", "")
    assert is_free(shell.client(), f"@{code}")


def test_what_cannot_be_started_is_as_in_a_shell(shell: Shell) -> None:
    (shell.home / "not executable").write_text("")
    for command, code in (("no such command", 127), ("/", 126), ("./not executable", 126)):
        done = shell.run("lock", "@none", "--", command)
        assert (done.code, done.raw, len(done.err.splitlines())) == (code, b"", 1), done.err
        assert command in done.err
        assert is_free(shell.client(), "@none")


def test_the_command_is_given_the_token_a_session_and_its_words_as_they_are(shell: Shell) -> None:
    script = 'printf "%s\\n" "$ENGRAM_LOCK_TOKEN" "$ENGRAM_SESSION" "$@"; engram locks @given --json'
    done = shell.ok("lock", "@given", "--", "sh", "-c", script, "sh", "-", "--json", "--", "")
    token, session, *words, lock = done.lines
    assert words == ["-", "--json", "--", ""]
    assert (f'"token": {token},' in lock, f'"session": "{session}"' in lock, len(session)) == (True, True, 32)


def test_the_command_acts_as_the_agent_that_holds_the_lock(shell: Shell) -> None:
    done = shell.ok("lock", "@as", "--as", "me", "--", "sh", "-c", "echo $ENGRAM_AGENT; engram locks @as")
    assert (done.lines[0], done.lines[1].split("\t")[3]) == ("me", "me")


def test_a_session_is_joined_where_there_is_one(shell: Shell) -> None:
    inner = "engram lock @inner -- sh -c 'echo $ENGRAM_SESSION $ENGRAM_LOCK_TOKEN'; echo $ENGRAM_SESSION $ENGRAM_LOCK_TOKEN"
    (session, token), (outer, outer_token) = (line.split() for line in shell.ok("lock", "@outer", "--", "sh", "-c", inner).lines)
    assert session == outer
    assert int(token) > int(outer_token)


def test_locks_that_the_command_takes_for_its_session_end_with_it(shell: Shell) -> None:
    done = shell.run("lock", "@long", "--", "sh", "-c", "engram lock @short --session; engram locks @short")
    assert done.lines[1].split("\t")[5] == "session"
    until(lambda: is_free(shell.client(), "@short"), "the end of the session")


def test_the_command_may_put_under_the_fence_that_it_was_given(shell: Shell, name: str) -> None:
    done = shell.run("lock", "@fence", "--", "sh", "-c", 'engram put "$1" x --fence "@fence:$ENGRAM_LOCK_TOKEN"', "sh", name)
    assert (done.code, done.err) == (0, "")


def test_the_standard_streams_and_other_files_are_the_commands_own(shell: Shell) -> None:
    data = bytes(range(256)) * 1000
    done = shell.run("lock", "@streams", "--", "cat", input=data)
    assert (done.code, done.raw) == (0, data)
    done = shell.script("engram lock @streams -- sh -c 'echo out; echo err >&2; cat <&3 - <&4' 3< <(echo three) 4< <(echo four)")
    assert (done.code, done.err) == (0, "err\n")
    assert set(done.lines) == {"out", "four"}
    done = shell.script("engram lock @streams -- cat <(echo one) <(echo two)")
    assert done.lines == ["one", "two"]


def test_nothing_of_ours_is_left_open_in_the_command(shell: Shell) -> None:
    done = shell.ok("lock", "@fds", "--", sys.executable, "-c", "import os; print(*os.listdir('/proc/self/fd'))")
    assert sorted(map(int, done.out.split()))[:3] == [0, 1, 2]
    assert len(done.out.split()) == 4, "the fourth is the listing's own"


def test_signals_are_as_they_were_for_the_command(shell: Shell) -> None:
    status = "import re; print(*re.findall('Sig(?:Blk|Ign|Cgt):\\t0*([0-9a-f]+)', open('/proc/self/status').read()))"
    plain = shell.script(f'exec {sys.executable} -c "$0"'.replace("$0", status.replace("\\t", "\\\\t"))).out
    for prefix in ("", "trap '' HUP INT USR1; "):
        direct = shell.script(f"{prefix}exec '{sys.executable}' -c \"{status}\"").out
        under = shell.script(f"{prefix}exec engram lock @signals -- '{sys.executable}' -c \"{status}\"").out
        assert direct == under
        assert (direct == plain) == (prefix == "")


def test_what_keeps_the_lock_holds_no_file_of_others(held: Shell) -> None:
    running = held.start("-c", "exec 7</etc/passwd; exec engram lock @x -- sh -c 'echo $$; exec sleep 60'", program=BASH)
    keeper = keeper_of(running, int(running.expect_lines(1)[0]))

    def files() -> list[str]:
        found = []
        for number in sorted(map(int, os.listdir(f"/proc/{keeper}/fd"))):
            with suppress(FileNotFoundError):  # it lets go of that one at this moment
                found.append(os.readlink(f"/proc/{keeper}/fd/{number}"))
        return found

    until(lambda: files()[:2] == ["/dev/null"] * 2 and "/etc/passwd" not in files(), "it to let go")
    running.signal(signal.SIGTERM)
    assert running.wait() == 143


def test_what_stays_behind_in_the_background_is_left_alone(held: Shell) -> None:
    done = held.run("lock", "@x", "--", "sh", "-c", "echo $$ > group; sleep 60 >/dev/null 2>&1 & exit 3")
    assert (done.code, is_free(held.client())) == (3, True)
    assert len(alive(group_of(held))) == 1
    os.killpg(group_of(held), signal.SIGKILL)


@pytest.mark.parametrize("number", ["TERM", "HUP", "INT", "QUIT", "USR1", "USR2", "WINCH", "CONT"])
def test_signals_are_passed_on(held: Shell, number: str) -> None:
    running = hold(held, "bash", "-c", f"trap 'echo got {number}; exit 5' {number}; echo ready; while :; do sleep 0.02; done")
    running.signal(signal.Signals[f"SIG{number}"])
    assert running.wait() == 5
    assert running.lines == ["ready", f"got {number}"]
    assert is_free(held.client())


def test_a_command_that_dies_of_an_interrupt_takes_the_loop_with_it(held: Shell) -> None:
    running = hold(held, "bash", "-c", "echo ready; kill -INT $$; sleep 30")
    assert running.wait() == -signal.SIGINT
    assert is_free(held.client())


def test_a_signal_that_was_ignored_stays_ignored(held: Shell) -> None:
    running = held.start("-c", "trap '' HUP; exec engram lock @x -- sh -c 'echo ready; sleep 0.5; exit 6'", program=BASH)
    running.expect_lines(1)
    running.signal(signal.SIGHUP)
    assert running.wait() == 6


# Renewals


def test_the_lock_is_renewed_while_the_command_runs(held: Shell) -> None:
    client = held.client()
    running = hold(held, "sh", "-c", "echo ready; exec sleep 60", ttl="600ms")
    until(lambda: next(iter(client.locks("@x")))["renewals"] >= 4, "four renewals")
    running.signal(signal.SIGTERM)
    assert running.wait() == 143


@pytest.mark.parametrize("how", ["restart", "kill"])
def test_a_new_daemon_does_not_disturb_the_command(alone: Shell, how: str) -> None:
    alone.run("daemon", "start")
    client = alone.client()
    running = hold(alone, "sh", "-c", f"echo ready; while [ ! -e {alone.home}/done ]; do sleep 0.05; done; exit 9", ttl="9s")
    [before] = client.locks("@x")
    if how == "kill":
        alone.kill_daemon()
    alone.run("daemon", "restart")
    until(lambda: next(iter(client.locks("@x")))["renewals"] >= 1, "a renewal with the new daemon")
    [after] = client.locks("@x")
    assert (after["token"], after["session"]) == (before["token"], before["session"])
    (alone.home / "done").touch()
    assert running.wait() == 9
    assert not running.errors
    assert is_free(client)


# Losing it


def stubborn(shell: Shell, ttl: str, *options: str) -> tuple[Running, int]:
    """A command that does not obey, under a lock; and its group."""
    running = hold(shell, "bash", "-c", f"echo $$ > {shell.home}/group; {STUBBORN}", ttl=ttl, options=options)
    group = group_of(shell)
    until(lambda: len(alive(group)) >= 3, "the whole group")
    return running, group


def test_when_renewals_fail_the_whole_group_is_gone_before_the_lock_is(held: Shell) -> None:
    """The daemon stands still, so that the lease's end can be read from it afterwards: it is later than the end of the command."""
    running, group = stubborn(held, "2s")
    pid = held.daemon_pid()
    assert pid is not None
    until(lambda: next(iter(held.client().locks("@x")))["renewals"] >= 1, "a renewal")
    os.kill(pid, signal.SIGSTOP)
    stopped = time.monotonic()
    try:
        code = running.wait()
        seconds = time.monotonic() - stopped
        assert alive(group) == []
    finally:
        os.kill(pid, signal.SIGCONT)
    assert code == 75
    assert seconds < 2.5, "the lease lasts two seconds after the last renewal; it takes a moment to notice the end here"
    assert re.fullmatch(
        r"engram: the lock on @x \(token \d+\) was lost, so the command is ended: the daemon has not answered for 1s", running.errors[0]
    ), running.errors


def test_a_command_that_obeys_has_the_grace_to_clean_up(held: Shell) -> None:
    script = "trap 'echo cleaning; sleep 0.4; echo clean; exit 0' TERM; echo ready; while :; do sleep 0.02; done"
    running = hold(held, "bash", "-c", script, ttl="2s", options=["--grace", "900ms"])
    pid = held.daemon_pid()
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        assert running.wait() == 75
    finally:
        os.kill(pid, signal.SIGCONT)
    assert running.lines == ["ready", "cleaning", "clean"]


def test_a_command_that_stands_still_is_ended_too(held: Shell) -> None:
    running = hold(held, "bash", "-c", "echo $$ > " + str(held.home / "group") + "; echo ready; kill -STOP $$; sleep 60", ttl="1s")
    pid = held.daemon_pid()
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        assert running.wait() == 75
        assert alive(group_of(held)) == []
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_lock_that_was_stolen_ends_the_group(held: Shell) -> None:
    running, group = stubborn(held, "3s")
    held.ok("unlock", "--force", "@x")
    assert running.wait() == 75
    assert alive(group) == []
    assert f"was taken away by {AGENT}" in running.errors[0]


@pytest.mark.parametrize("how", ["engram unlock $ENGRAM_LOCK_TOKEN", "engram put released x --fence @x:$ENGRAM_LOCK_TOKEN --release"])
def test_a_command_that_releases_its_own_lock_goes_on(held: Shell, how: str) -> None:
    """Also after the next renewal has failed: the lease is over, as the command wanted."""
    wait = f"while [ ! -e {held.home}/done ]; do sleep 0.02; done"
    running = hold(held, "sh", "-c", f"{how} > /dev/null; echo ready; {wait}; exit 6", ttl="300ms")
    time.sleep(1)
    (held.home / "done").touch()
    assert running.wait() == 6
    assert not running.errors


def test_a_lock_that_was_stolen_unnoticed_is_no_success(held: Shell) -> None:
    running = hold(held, "sh", "-c", "echo ready; exec sleep 60")
    held.ok("unlock", "--force", "@x")
    running.signal(signal.SIGTERM)
    assert running.wait() == 75
    assert "was lost while the command ran" in running.errors[0]


def test_when_the_typed_command_is_killed_its_command_is_ended_and_the_lock_released(held: Shell) -> None:
    running, group = stubborn(held, "3s")
    running.signal(signal.SIGKILL)
    running.wait()
    until(lambda: alive(group) == [], "the end of the group")
    until(lambda: is_free(held.client()), "the release", 2)
    assert "was killed, so its command is ended" in running.errors[0]


def test_when_what_keeps_the_lock_is_killed_the_command_is_ended(held: Shell) -> None:
    running, group = stubborn(held, "2s")
    os.kill(keeper_of(running, group), signal.SIGKILL)
    assert running.wait() == 75
    assert alive(group) == []
    assert "was killed, so the command is ended" in running.errors[0]


@pytest.mark.parametrize("how", ["stolen", "killed", "not kept"])
def test_a_reader_that_stands_still_does_not_keep_the_command_alive(held: Shell, how: str) -> None:
    """Standard error is a full pipe."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        for size in (65536, 1):
            with suppress(BlockingIOError):
                while True:
                    os.write(writing, b"x" * size)
        os.set_blocking(writing, True)
        script = f"echo $$ > {held.home}/group; echo ready; exec sleep 60"
        command = [BIN / "engram", "lock", "@x", "--ttl", "2s", "--", "sh", "-c", script]
        process = subprocess.Popen(command, env=held.env, cwd=held.home, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=writing)
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            group = group_of(held)
            keeper = keeper_of(process, group)
            if how == "stolen":
                held.ok("unlock", "--force", "@x")
            else:
                os.kill(process.pid if how == "killed" else keeper, signal.SIGKILL)
            assert process.wait(PATIENCE) == (-signal.SIGKILL if how == "killed" else 75)
            until(lambda: alive(group) == [], "the end of the group")
            until(lambda: is_free(held.client()), "the release")
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
    finally:
        os.close(reading)
        os.close(writing)


def engram_after(shell: Shell, change: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `engram` in a process where something is changed before."""
    script = f"import os\n{change}\nfrom engram_cli.__main__ import main\nmain()"
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=shell.env,
        cwd=shell.home,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_a_command_that_nobody_can_watch_over_is_ended(held: Shell) -> None:
    full = "def fork(): raise BlockingIOError(11, 'Resource temporarily unavailable')\nos.fork = fork"
    done = engram_after(held, full, "lock", "@x", "--ttl", "2s", "--", "sh", "-c", "echo $$ > group; exec sleep 60")
    assert (done.returncode, done.stderr.count("\n")) == (75, 1), done.stderr
    assert "so the command was ended: Resource temporarily unavailable" in done.stderr
    assert is_free(held.client())
    assert not (held.home / "group").exists() or alive(group_of(held)) == []


def test_without_a_list_of_processes_the_end_of_a_command_is_seen_too(held: Shell) -> None:
    """As on macOS: one that has ended belongs to its group until it is waited for."""
    no_list = "def listdir(path): raise OSError(2, 'No such file')\nos.listdir = listdir"
    fork = "fork = os.fork\ndef lost():\n    pid = fork()\n    if not pid: os._exit(3)\n    return pid\nos.fork = lost"
    done = engram_after(held, f"{no_list}\n{fork}", "lock", "@x", "--ttl", "2s", "--", "sh", "-c", "echo $$ > group; exec sleep 60")
    assert (done.returncode, "was killed, so the command is ended" in done.stderr) == (75, True), done.stderr


def test_no_daemon_at_the_end_is_said_and_is_no_failure(held: Shell) -> None:
    running = hold(held, "sh", "-c", f"echo ready; while [ ! -e {held.home}/done ]; do sleep 0.02; done; exit 8", ttl="60s")
    held.kill_daemon()
    (held.home / "done").touch()
    assert running.wait() == 8
    assert "could not be released, and ends within 60 s" in running.errors[0]


def test_usage(shell: Shell) -> None:
    for options in (["--grace", "1m"], ["--grace", "0"], ["--grace", "x"]):
        shell.fails(2, "lock", "@usage", *options, "--", "true")
        assert is_free(shell.client(), "@usage")
    with Client(str(shell.socket), autostart=False) as owner:
        owner.connect()
        said = shell.fails(2, "lock", "@usage", "--session", "--", "true", env={"ENGRAM_SESSION": owner.session or ""})
        assert "ends with the command" in said


def test_a_lock_that_is_over_before_the_command_starts_is_lost(held: Shell) -> None:
    """Who waits is stopped, granted the lock, and goes on after its end."""
    token = held.run("lock", "@x").out.strip()
    waiter = held.start("lock", "@x", "--wait", "--ttl", "300ms", "-E", "9", "--", "echo", "no")
    until(lambda: any("number" in one for one in held.client().locks()), "the waiter")
    waiter.signal(signal.SIGSTOP)
    held.ok("unlock", token)
    until(lambda: is_free(held.client()), "the end of the lease")
    waiter.signal(signal.SIGCONT)
    assert waiter.wait() == 75
    assert (waiter.lines, "was lost before the command was started" in waiter.errors[0]) == ([], True)


def test_a_lock_that_cannot_be_had_runs_nothing(shell: Shell) -> None:
    token = shell.run("lock", "@busy").out.strip()
    assert shell.fails(75, "lock", "@busy", "--", "echo", "no")
    assert shell.fails(3, "lock", "@busy", "-E", "3", "--wait", "--timeout", "50ms", "--", "echo", "no")
    shell.ok("unlock", token)


def test_many_at_once_take_turns(shell: Shell) -> None:
    """Each reads a number and writes the next one, with time for others to interfere."""
    (shell.home / "number").write_text("0")
    script = "n=$(cat number); sleep 0.02; echo $((n + 1)) > number"
    command = [BIN / "engram", "lock", "number", "--wait", "--", "sh", "-c", script]
    started = [subprocess.Popen(command, env=shell.env, cwd=shell.home, stdin=subprocess.DEVNULL) for _ in range(8)]
    assert [process.wait(PATIENCE) for process in started] == [0] * 8
    assert (shell.home / "number").read_text() == "8\n"
