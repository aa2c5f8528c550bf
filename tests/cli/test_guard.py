"""`engram guard`: who else holds what is about to be changed; by path, and for git's index as its hooks see it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from commandline import Done, Shell

from engram_cli.client import Client, Lease

# The hook before a commit that docs/locks.md shows, and the one before an edit among the examples.
ROOT = Path(__file__).parents[2]
(PRE_COMMIT,) = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "docs/locks.md").read_text(), re.M | re.S)
BEFORE_EDIT = [sys.executable, str(ROOT / "examples/hooks/edit_hook.py"), "before"]
needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


@pytest.fixture
def other(shell: Shell) -> Iterator[Client]:
    """Another agent, in a session of its own; what it holds ends with the test."""
    client = Client(str(shell.socket), agent="builder", autostart=False)
    with client:
        yield client


def at(shell: Shell, *paths: str) -> list[str]:
    return [f"{shell.home}/{path}" for path in paths]


def take(client: Client, *paths: str, **options: str) -> Lease:
    """A lease that ends with the client's session."""
    return client.lock(*paths, session=True, **options)  # type: ignore[arg-type]


# Paths


def test_what_nobody_else_holds_is_silent(shell: Shell, other: Client) -> None:
    take(other, *at(shell, "free/a"))
    assert shell.ok("guard", "free/b", "free/c/*", "@name").raw == b""


def test_what_another_holds_is_explained(shell: Shell, other: Client, name: str) -> None:
    lease = take(other, *at(shell, "src/**", "docs"), reason="moving the parser")
    for text in ("one", "two", "three\nlines", "four \x1b[31m"):
        other.put(name, text, type="file_change")
    said = shell.fails(75, "guard", "src/app.rs", "free", "docs/x", "src").splitlines()
    assert re.fullmatch(
        rf"engram: src/app.rs, docs/x, src: builder has locked {re.escape(str(shell.home))}/src/\*\* {re.escape(str(shell.home))}/docs "
        rf"\(exclusive, token {lease.token}\) for \d+m?s, as long as its session lasts: moving the parser",
        said[0],
    ), said[0]
    assert [line.split(" builder file_change: ")[1] for line in said[1:]] == ["two", "three", r"four \x1b[31m"]


def test_json_has_all_of_it(shell: Shell, other: Client, name: str) -> None:
    lease = take(other, *at(shell, "json"))
    other.put(name, "one")
    done = shell.run("guard", "json/x", "--json")
    assert (done.code, done.err) == (75, "")
    [lock] = done.objects
    assert (lock["token"], lock["holder"], lock["paths"], [unit["text"] for unit in lock["units"]][-1]) == (
        lease.token, "builder", ["json/x"], "one",
    )  # fmt: skip


@pytest.mark.parametrize("mode", [{"mode": "shared"}, {"mode": "slots", "slots": 3}])
def test_shared_locks_and_slots_of_others_count(shell: Shell, other: Client, mode: dict[str, str]) -> None:
    take(other, *at(shell, "shared"), **mode)
    assert "builder" in shell.fails(75, "guard", "shared/x")


def test_several_at_once_are_all_shown(shell: Shell, other: Client) -> None:
    tokens = {take(other, path, mode="shared").token for path in at(shell, "many/a", "many/b", "many")}
    said = shell.fails(75, "guard", "many/a", "many/b")
    assert set(map(int, re.findall(r"token (\d+)", said))) == tokens


def test_own_leases_are_no_hindrance(shell: Shell, other: Client) -> None:
    lease = take(other, *at(shell, "own"))
    shell.fails(75, "guard", "own")
    shell.fails(75, "guard", "own", "--as", "builder")
    shell.ok("guard", "own", env={"ENGRAM_SESSION": other.session or ""})
    shell.ok("guard", "own", env={"ENGRAM_LOCK_TOKEN": str(lease.token)})
    shell.fails(75, "guard", "own", env={"ENGRAM_SESSION": "another", "ENGRAM_LOCK_TOKEN": "1"})
    held = shell.run("lock", "mine", "--as", "x", "--", "engram", "guard", "mine", "--as", "y")
    assert (held.code, held.err) == (0, "")


def test_agents_of_one_name_are_told_apart_by_their_sessions(shell: Shell, other: Client) -> None:
    """An agent's own leases are no hindrance only where both are outside of a session."""
    shell.ok("lock", "outside", "--as", "builder", "--ttl", "60s", "--json")
    take(other, *at(shell, "inside"))
    mine, another = {"ENGRAM_SESSION": other.session or ""}, {"ENGRAM_SESSION": "another"}
    passes = {
        ("outside", "builder"): ({},),
        ("inside", "builder"): (mine,),
        ("outside", "tester"): (),
        ("inside", "tester"): (mine,),
    }
    for (path, agent), allowed in passes.items():
        for env in ({}, mine, another):
            done = shell.run("guard", path, "--as", agent, env=env)
            assert (done.code == 0) == (env in allowed), (path, agent, env, done.err)


def test_more_paths_than_a_request_has_room_for(shell: Shell, other: Client) -> None:
    take(other, *at(shell, "lots/1203"))
    paths = [f"lots/{number}" for number in range(1300)]
    assert "a path: builder has locked" in shell.fails(75, "guard", *paths)
    assert "lots/1203: builder has locked" in shell.fails(75, "guard", *paths[1200:])
    shell.ok("guard", *paths[:1203])


@pytest.mark.parametrize("arguments", [[], [""], [b"\xff"], ["@"]])
def test_bad_usage_of_guard(shell: Shell, arguments: list[str | bytes]) -> None:
    shell.fails(2, "guard", *arguments)


def test_leases_of_the_past_are_known_to_a_daemon_that_is_started_for_the_question(alone: Shell) -> None:
    alone.daemon()
    assert alone.run("lock", "x", "--as", "builder").code == 0
    alone.kill_daemon()
    alone.fails(69, "guard", "x", "--no-autostart")
    assert "builder" in alone.fails(75, "guard", "x")


def test_the_hook_before_an_edit(shell: Shell, other: Client) -> None:
    take(other, *at(shell, "edited"), reason="mine")

    def edit(call: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(BEFORE_EDIT, input=call, env=shell.env, cwd=shell.home, capture_output=True, text=True, check=False)

    refused = edit(json.dumps({"tool_name": "Edit", "tool_input": {"file_path": f"{shell.home}/edited/it's a file"}}))
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "it's a file: builder has locked" in refused.stderr
    assert "mine" in refused.stderr
    assert edit(json.dumps({"tool_input": {"file_path": f"{shell.home}/free"}})).returncode == 0
    assert edit(json.dumps({"tool_input": {"command": "date"}})).returncode == 0


def test_both_hooks_refuse_when_the_daemon_does_not_answer(alone: Shell) -> None:
    alone.daemon()
    pid = alone.daemon_pid()
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        call = json.dumps({"tool_input": {"file_path": f"{alone.home}/x"}})
        edit = subprocess.run(BEFORE_EDIT, input=call, env=alone.env, capture_output=True, text=True, check=False)
        assert (edit.returncode, "does not answer" in edit.stderr) == (2, True), edit.stderr
        assert "does not answer" in alone.fails(69, "guard", f"{alone.home}/x"), "what a commit is refused for"
    finally:
        os.kill(pid, signal.SIGCONT)


# git


class Repository:
    """A working tree in a shell's home."""

    def __init__(self, shell: Shell, name: str) -> None:
        self.shell = shell
        self.top = shell.home / name
        self.top.mkdir()
        self.env = {**shell.env, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull, "ENGRAM_AGENT": "committer"}
        self.git("init", "-q")
        for setting, value in (("user.name", "c"), ("user.email", "c@example"), ("diff.relative", "true"), ("diff.renames", "copies")):
            self.git("config", setting, value)

    def git(self, *arguments: str, code: int = 0, where: str = "", env: Mapping[str, str] | None = None) -> str:
        """Run git; returns all it says."""
        done = subprocess.run(
            ["git", *arguments],
            cwd=self.top / where,
            env={**self.env, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        said = done.stdout.decode(errors="backslashreplace")
        assert done.returncode == code, said
        return said

    def write(self, *names: str, text: str = "x\n" * 20) -> None:
        for name in names:
            path = self.top / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def guard(self, where: str = "", **env: str) -> Done:
        return self.shell.run("guard", "--staged", cwd=self.top / where, env={**self.env, **env})

    def hook(self) -> None:
        """Have commits guarded."""
        hook = self.top / ".git/hooks/pre-commit"
        hook.write_text(PRE_COMMIT)
        hook.chmod(0o755)


@pytest.fixture
def repository(shell: Shell, name: str) -> Repository:
    return Repository(shell, name)


@needs_git
def test_the_index_is_what_counts(repository: Repository, other: Client) -> None:
    assert repository.guard().code == 0, "nothing is staged, in a repository without a commit"
    repository.write("a", "dir/b c", "untracked")
    repository.git("add", "a", "dir")
    assert repository.guard().code == 0
    with other.lock(f"{repository.top}/untracked"):
        assert repository.guard().code == 0
    with other.lock(f"{repository.top}/dir/*"):
        for where in ("", "dir", ".git/.."):
            done = repository.guard(where)
            assert (done.code, "dir/b c: builder has locked" in done.err) == (75, True), done.err
    repository.git("commit", "-qm", "one")
    with other.lock(str(repository.top)):
        assert repository.guard().code == 0


@needs_git
def test_both_sides_of_a_rename_count_and_what_is_removed(repository: Repository, other: Client) -> None:
    repository.write("old", "gone")
    repository.git("add", ".")
    repository.git("commit", "-qm", "one")
    repository.git("mv", "old", "new")
    repository.git("rm", "-q", "gone")
    for name in ("old", "new", "gone"):
        with other.lock(f"{repository.top}/{name}"):
            assert f"engram: {name}: builder" in repository.guard().err


@needs_git
def test_names_of_every_kind(repository: Repository, other: Client) -> None:
    names = ["new\nline", "tab\t", "@at", "-dash", "ünï", "a:b", "glob*[x]?"]
    repository.write(*names)
    (repository.top / os.fsdecode(b"bytes\xff")).write_text("x")
    repository.git("add", "--", ".")
    for name in names[:-1]:
        with other.lock(f"{repository.top}/{name}"):
            assert repository.guard().code == 75, name
    with other.lock(f"{repository.top}/elsewhere"):
        assert repository.guard().code == 0
    with other.lock(f"{repository.top}/bytes*"):
        assert r"bytes\xff: builder" in repository.guard().err.replace("\\udcff", "\\xff")


@needs_git
def test_a_symbolic_link_is_committed_as_itself(repository: Repository, other: Client) -> None:
    repository.write("target")
    (repository.top / "link").symlink_to("target")
    repository.git("add", "link")
    with other.lock(f"{repository.top}/target"):
        assert repository.guard().code == 0
    # The link's own path, which a client would resolve.
    lease = other.acquire({"resources": [f"{repository.top}/link"]})
    assert "link: builder has locked" in repository.guard().err
    lease.release()


@needs_git
def test_many_names_that_look_like_globs(repository: Repository, other: Client) -> None:
    repository.write(*(f"{number}*" for number in range(150)))
    repository.git("add", "--", ".")
    assert repository.guard().code == 0
    with other.lock(f"{repository.top}/149x"):
        assert "149*: builder" in repository.guard().err


@needs_git
def test_a_commit_is_refused_by_the_hook(repository: Repository, other: Client) -> None:
    repository.hook()
    repository.write("a", "b")
    repository.git("add", ".")
    with other.lock(f"{repository.top}/a", reason="mine for now"):
        said = repository.git("commit", "-qm", "one", code=1)
        assert "mine for now" in said
        assert "a: builder has locked" in said
    repository.git("commit", "-qm", "one")


@needs_git
def test_the_hook_sees_the_index_of_the_very_commit(repository: Repository, other: Client) -> None:
    """`commit -a` and `commit FILE` commit another index than the one that `git add` has written."""
    repository.hook()
    repository.write("sub/a", "sub/b")
    repository.git("add", ".")
    repository.git("commit", "-qm", "one")
    repository.write("sub/a", "sub/b", text="changed\n")
    with other.lock(f"{repository.top}/sub/a"):
        assert "sub/a: builder" in repository.git("commit", "-qam", "two", code=1, where="sub")
        assert "sub/a: builder" in repository.git("commit", "-qm", "two", "a", code=1, where="sub")
        repository.git("commit", "-qm", "two", "b", where="sub")
        assert "sub/a: builder" in repository.git("-C", "..", "commit", "-qam", "three", code=1, where="sub")
    repository.git("commit", "-qam", "three", where="sub")


@needs_git
def test_the_hook_works_in_another_working_tree(repository: Repository, other: Client, shell: Shell) -> None:
    repository.hook()
    repository.write("a")
    repository.git("add", ".")
    repository.git("commit", "-qm", "one")
    tree = Path(f"{repository.top} tree")
    repository.git("worktree", "add", "-q", "-b", "side", str(tree))
    (tree / "a").write_text("changed")
    with other.lock(f"{repository.top}/a"):
        repository.git("-C", str(tree), "commit", "-qam", "another file, of the same name")
    (tree / "a").write_text("changed again")
    with other.lock(f"{tree}/a"):
        assert "a: builder" in repository.git("-C", str(tree), "commit", "-qam", "three", code=1)


@needs_git
def test_outside_of_a_repository(shell: Shell) -> None:
    said = shell.fails(2, "guard", "--staged", env={"GIT_CEILING_DIRECTORIES": str(shell.home.parent)})
    assert "git says" in said
    assert "no git" in shell.fails(1, "guard", "--staged", env={"PATH": "/nonexistent"})
