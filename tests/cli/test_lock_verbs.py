"""`lock`, `unlock`, `renew` and `locks`, and what guards a `put`, as processes; the quick way and the full program alike."""

from __future__ import annotations

import os
import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from commandline import AGENT, Running, Shell, until

from engram_cli.client import Client

INSTANT = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"
WAYS = pytest.mark.parametrize("way", [(), ("--timeout", "20s")], ids=["quick", "full"])


@pytest.fixture
def path(shell: Shell, name: str) -> str:
    """A path that nobody else locks, as it is typed in the shell's home."""
    return name.replace(" ", "/")


def take(shell: Shell, *arguments: str, code: int = 0, **given: dict[str, str]) -> int:
    """`engram lock`; returns the token."""
    done = shell.run("lock", *arguments, **given)
    assert done.code == code, done.err
    assert re.fullmatch(r"[1-9]\d*\n", done.out), done.out
    return int(done.out)


def waiting(client: Client, count: int) -> None:
    """Wait until so many requests are in the queue."""
    until(lambda: sum("number" in one for one in client.locks()) == count, "the waiters")


@WAYS
def test_the_token_is_data_and_the_rest_is_words(shell: Shell, path: str, way: tuple[str, ...]) -> None:
    done = shell.run("lock", path, *way)
    token = done.out.strip()
    assert done.code == 0
    assert re.fullmatch(f"engram: held until {INSTANT}; to renew: engram renew {token}; to release: engram unlock {token}\n", done.err), (
        done.err
    )
    assert re.fullmatch(f"{INSTANT}\n", shell.ok("renew", token, *way).out)
    assert shell.ok("unlock", token, *way).raw == b""
    for verb in ("unlock", "renew"):
        assert f"the lease with token {token} was released by {AGENT}" in shell.fails(3, verb, token, *way)


@WAYS
def test_json_says_all_and_no_words(shell: Shell, path: str, way: tuple[str, ...]) -> None:
    [lease] = shell.ok("lock", path, "@name", "--ttl", "90s", "--shared", "--json", *way).objects
    ends = datetime.fromisoformat(lease.pop("expires_at"))
    assert timedelta(seconds=60) < ends - datetime.now(UTC) <= timedelta(seconds=90)
    assert lease == {"token": lease["token"], "resources": [str(shell.home / path), "@name"], "mode": "shared", "ttl": 90_000_000}
    [renewed] = shell.ok("renew", str(lease["token"]), "--json", *way).objects
    assert renewed.keys() == lease.keys() | {"expires_at"}
    assert shell.ok("unlock", str(lease["token"]), "--json", *way).objects == [{"released": [lease["token"]]}]


@WAYS
def test_a_held_lock_is_busy_at_once(shell: Shell, path: str, way: tuple[str, ...]) -> None:
    token = take(shell, f"{path}/*.rs", "--reason", "moving house")
    said = shell.fails(75, "lock", f"{path}/app.rs", "--as", "other", *way)
    for part in (f"/{path}/app.rs overlaps ", f"/{path}/*.rs, which is locked by {AGENT} (exclusive, token {token})", "moving house"):
        assert part in said
    assert shell.fails(9, "lock", path, "-E", "9", *way)
    assert shell.fails(75, "lock", path, *way), "the same agent is another holder"


@WAYS
def test_paths_are_made_absolute_and_normal(shell: Shell, path: str, way: tuple[str, ...]) -> None:
    (shell.home / path / "sub").mkdir(parents=True)
    (shell.home / path / "link").symlink_to("sub")
    token = take(shell, "link/../f", "./x//*", "@a", "**", *way, cwd=shell.home / path)
    try:
        [held] = [lock for lock in shell.client().locks() if lock["token"] == token]
        here = os.path.realpath(shell.home / path)
        assert held["resources"] == [f"{here}/f", f"{here}/x/*", "@a", f"{here}/**"]
    finally:
        shell.ok("unlock", str(token))


@WAYS
def test_shared_locks_and_slots(shell: Shell, path: str, way: tuple[str, ...]) -> None:
    for options, most in ((("--shared",), 3), (("--slots", "2"), 2)):
        tokens = [str(take(shell, path, *options, *way)) for _ in range(most)]
        if most == 2:
            assert "2 in all" in shell.fails(75, "lock", path, *options, *way)
        shell.fails(75, "lock", path, *way)
        shell.ok("unlock", *tokens)
    shell.fails(2, "lock", path, "--shared", "--slots", "2", *way)


@WAYS
@pytest.mark.parametrize(
    "arguments",
    [
        [""],
        ["a", ""],
        [b"a\xff"],
        ["@"],
        ["a\nb", "--ttl", "soon"],
        ["a", "--ttl", "1us"],
        ["a", "--slots", "0"],
        ["a", "--slots", "10001"],
        ["a", "-E", "256"],
        ["a", "--session"],
        ["a", "--grace", "1s"],
        ["a", "--"],
        ["--", "true"],
        [],
        ["/" + "x" * 5000],
    ],
)
def test_bad_usage_of_lock(shell: Shell, way: tuple[str, ...], arguments: list[str | bytes]) -> None:
    before = list(shell.client().locks())
    assert len(shell.fails(2, "lock", *way, *arguments).splitlines()) == 1
    assert [lock["token"] for lock in shell.client().locks()] == [lock["token"] for lock in before]


@pytest.mark.parametrize("arguments", [["x"], ["0"], ["-1"], ["1.5"], ["٣"], [""], []])
@pytest.mark.parametrize("verb", ["unlock", "renew"])
def test_what_is_no_token(shell: Shell, verb: str, arguments: list[str]) -> None:
    shell.fails(2, verb, *arguments)


def test_unlock_goes_on_after_one_that_is_over(shell: Shell, path: str) -> None:
    first, second = take(shell, f"{path}/1"), take(shell, f"{path}/2")
    shell.ok("unlock", str(first))
    for way in ((), ("--json",)):
        done = shell.run("unlock", str(first), str(second), *way)
        assert (done.code, done.err.count(f"token {first} was released")) == (3, 1)
        second = take(shell, f"{path}/2")


def test_a_lock_that_is_not_renewed_ends(shell: Shell, path: str) -> None:
    token = take(shell, path, "--ttl", "100ms")
    until(lambda: not list(shell.client().locks(str(shell.home / path))), "the end of the lease")
    shell.fails(3, "renew", str(token))


def test_stealing_says_what_was_taken_from_whom(shell: Shell, path: str) -> None:
    first, second = take(shell, f"{path}/a", "--as", "builder"), take(shell, f"{path}/b", "@x", "--as", "re\tviewer"[:2] + "viewer")
    assert shell.fails(2, "unlock", f"{path}/a")
    done = shell.ok("unlock", "--force", path, str(second))
    here = os.path.realpath(shell.home / path)
    assert sorted(done.lines) == sorted([f"{first}\tbuilder\t{here}/a", f"{second}\treviewer\t{here}/b @x"])
    nothing = shell.run("unlock", "--force", path)
    assert (nothing.code, nothing.raw, nothing.err) == (0, b"", f"engram: nobody holds {here}; nothing was taken\n")
    third = take(shell, path, "--as", "builder")
    [stolen] = shell.ok("unlock", "--force", str(third), "--json").objects
    assert (stolen["stolen"]["holder"], stolen["stolen"]["token"]) == ("builder", third)
    assert shell.fails(3, "unlock", "--force", str(third))


def test_stealing_by_token_takes_that_one_alone(shell: Shell, path: str) -> None:
    tokens = [take(shell, f"{path}/{number}", "--as", f"agent {number}") for number in range(3)]
    assert shell.ok("unlock", "--force", str(tokens[1])).lines == [f"{tokens[1]}\tagent 1\t{os.path.realpath(shell.home / path)}/1"]
    assert [lock["token"] for lock in shell.client().locks(str(shell.home / path))] == [tokens[0], tokens[2]]


def test_locks_lists_holders_then_waiters(shell: Shell, path: str) -> None:
    here = os.path.realpath(shell.home / path)
    token = take(shell, f"{path}/**", "@a", "--ttl", "50s", "--reason", "a\tb", "--as", "builder")
    waiter = shell.start("lock", f"{here}/x", "--wait", "--slots", "2", "--reason", "later")
    waiting(shell.client(), 1)
    try:
        held, waits = shell.ok("locks", path).lines
        state, number, mode, holder, age, left, resources, reason = held.split("\t")
        assert (state, number, mode, holder, resources) == ("held", str(token), "exclusive", "builder", f"{here}/** @a")
        assert (reason, left[-1]) == ("a\\tb", "s")
        assert re.fullmatch(r"\d+m?s", age)
        assert waits.split("\t")[:4] + waits.split("\t")[5:] == ["waiting", "", "slots:2", AGENT, "", f"{here}/x", "later"]
        as_json, waiter_json = shell.ok("locks", path, "--json").objects
        assert (as_json["state"], as_json["token"], as_json["renewals"]) == ("held", token, 0)
        assert re.fullmatch(INSTANT, as_json["granted_at"])
        assert (waiter_json["state"], waiter_json["behind"], waiter_json["agent"]) == ("waiting", [token], AGENT)
        assert shell.ok("locks", f"{path}/../elsewhere").raw == b""
    finally:
        shell.ok("unlock", str(token))
    assert waiter.wait() == 0


# Waiting


def test_waiters_are_served_in_order(shell: Shell, path: str) -> None:
    client = shell.client()
    token = take(shell, path)
    order: list[Running] = []
    for number in range(3):
        order.append(shell.start("lock", str(shell.home / path), "--wait", "--as", f"agent {number}"))
        waiting(client, number + 1)
    for waiter in order:
        shell.ok("unlock", str(token))
        [shown] = waiter.expect_lines(1)
        token = int(shown)
        assert waiter.wait() == 0
    shell.ok("unlock", str(token))


@WAYS
def test_a_wait_that_is_over_is_busy(shell: Shell, path: str, way: tuple[str, ...]) -> None:
    take(shell, path)
    full = ("--color", "never") if way else ()
    assert "waited 0.1 s in vain" in shell.fails(75, "lock", path, "--wait", "--timeout", "100ms", *full)
    assert shell.fails(4, "lock", path, "--wait", "--timeout", "100ms", "-E", "4", *full)


def test_a_waiter_that_is_interrupted_leaves_the_queue(shell: Shell, path: str) -> None:
    take(shell, path)
    waiter = shell.start("lock", str(shell.home / path), "--wait")
    waiting(shell.client(), 1)
    waiter.process.terminate()
    waiter.wait()
    waiting(shell.client(), 0)


@pytest.mark.parametrize("options", [[], ["--timeout", "30s"]], ids=["for ever", "bounded"])
@pytest.mark.parametrize("how", ["restart", "kill"])
def test_a_waiter_asks_a_new_daemon_again(alone: Shell, options: list[str], how: str) -> None:
    alone.run("daemon", "start")
    token = take(alone, "x")
    waiter = alone.start("lock", str(alone.home / "x"), "--wait", *options)
    waiting(alone.client(), 1)
    if how == "kill":
        alone.kill_daemon()
    alone.run("daemon", "restart")
    waiting(alone.client(), 1)
    alone.ok("unlock", str(token))
    assert int(waiter.expect_lines(1)[0]) > token
    assert waiter.wait() == 0


def test_a_wait_for_a_daemon_that_does_not_come_back_is_bounded(alone: Shell) -> None:
    daemon = alone.daemon()
    take(alone, "x")
    waiter = alone.start("lock", str(alone.home / "x"), "--wait", "--timeout", "1s")
    waiting(alone.client(), 1)
    daemon.end()
    assert waiter.wait() == 75
    assert "in vain" in waiter.errors[0]


# Sessions


def test_a_lock_of_a_session_lasts_as_long(shell: Shell, path: str) -> None:
    with Client(str(shell.socket), autostart=False) as owner:
        owner.connect()
        assert owner.session
        env = {"ENGRAM_SESSION": owner.session}
        done = shell.run("lock", path, "--session", "--ttl", "200ms", env=env)
        assert done.code == 0
        assert "held as long as the session" in done.err
        [lock] = shell.client().locks(str(shell.home / path))
        assert (lock["remaining"], lock["session"]) == (None, owner.session)
        assert shell.ok("renew", done.out.strip()).out == "with its session\n"
        assert shell.ok("locks", path).out.split("\t")[5] == "session"
        time.sleep(0.3)
        shell.fails(75, "lock", path)
        said = shell.fails(75, "lock", path, "--wait", env=env)
        assert "this wait would never end" in said
    until(lambda: not list(shell.client().locks(str(shell.home / path))), "the end of the session's lease")


def test_a_pipe_opens_a_session(shell: Shell, name: str) -> None:
    pipe = shell.start("pipe", pipe_stdin=True)
    pipe.say({"id": 1, "op": "lock", "resources": [f"@{name}"], "session": True, "ttl": "100ms"})
    pipe.expect_lines(1)
    assert pipe.objects[0]["result"]["expires_at"] is None
    assert len(list(shell.client().locks(f"@{name}"))) == 1
    pipe.hang_up()
    assert pipe.wait() == 0
    until(lambda: not list(shell.client().locks(f"@{name}")), "the end of the session's lease")


# Guarded puts


@WAYS
def test_a_put_under_a_fence(shell: Shell, path: str, name: str, way: tuple[str, ...]) -> None:
    token = take(shell, path, "@a:b")
    shell.put(name, "one", "--fence", f"{path}/f.rs:{token}", "--fence", f"@a:b:{token}", *way)
    assert "does not cover" in shell.fails(3, "put", name, "no", "--fence", f"{path}x:{token}", *way)
    shell.fails(3, "put", name, "no", "--fence", f"{path}:{token + 1000}", *way)
    shell.put(name, "two", "--fence", f"{path}:{token}", "--release", *way)
    assert shell.ok("locks", path).raw == b""
    assert f"was released by {AGENT}" in shell.fails(3, "put", name, "no", "--fence", f"{path}:{token}", *way)
    assert shell.ok("list", name).texts == ["one", "two"]


@pytest.mark.parametrize(
    "options", [["--release"], ["--fence", "x"], ["--fence", "x:"], ["--fence", ":1"], ["--fence", "x:y"], ["--fence", b"\xff:1"]]
)
def test_bad_fences(shell: Shell, name: str, options: list[str | bytes]) -> None:
    shell.fails(2, "put", name, "x", *options)


def test_names_of_locks_are_completed(shell: Shell, path: str) -> None:
    token = take(shell, path)
    assert str(token) in shell.ok("__complete", "locks", "").lines
    assert shell.ok("__complete", "locks", str(token)).lines[0] == str(token)
    shell.ok("unlock", str(token))
    assert str(token) not in shell.ok("__complete", "locks", "").lines


def test_a_working_directory_that_is_gone_is_said(shell: Shell, tmp_path: Path) -> None:
    done = shell.script('mkdir gone; cd gone; rmdir "$PWD"; engram lock x')
    assert done.code == 2
    assert "cannot be made absolute" in done.err
