"""The recipes in examples/hooks/ do what they say, in real repositories and real shells."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from commandline import PATIENCE, Shell, until
from keyboard import Typing

HOOKS = Path(__file__).parents[2] / "examples" / "hooks"


# Before a commit


def git(shell: Shell, repository: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    names = {f"GIT_{role}_{what}": "x@y" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    return subprocess.run(
        ["git", *arguments],
        cwd=repository,
        env={**shell.env, **names, "GIT_CONFIG_GLOBAL": os.devnull, **env},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_git_commits_nothing_that_another_holds(served: Shell) -> None:
    repository = served.home / "repository"
    repository.mkdir()
    git(served, repository, "init", "-q")
    shutil.copy(HOOKS / "pre-commit", repository / ".git" / "hooks")
    for path in ("a.py", "b.py"):
        (repository / path).write_text("1\n")
    git(served, repository, "add", "a.py")
    with served.client("another").lock(str(repository / "a.py"), reason="taking it apart"):
        refused = git(served, repository, "commit", "-m", "a")
        assert refused.returncode != 0
        assert "a.py: another has locked" in refused.stderr
        assert "taking it apart" in refused.stderr
        git(served, repository, "reset", "-q")
        git(served, repository, "add", "b.py")
        assert git(served, repository, "commit", "-m", "b").returncode == 0
        git(served, repository, "add", "a.py")
        assert git(served, repository, "commit", "-m", "a", "--no-verify").returncode == 0
    assert git(served, repository, "commit", "-m", "again", "--allow-empty").returncode == 0


# Before and after an edit


def hook(shell: Shell, when: str, call: Any, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [HOOKS / "edit_hook.py", when],
        input=call if isinstance(call, str) else json.dumps(call),
        cwd=shell.home,
        env={**shell.env, "TMPDIR": str(shell.home), **env},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.fixture
def call(served: Shell) -> dict[str, Any]:
    (served.home / "file.py").write_text("one\ntwo\n")
    return {"tool_name": "Edit", "cwd": str(served.home), "tool_input": {"file_path": "file.py", "old_string": "two"}}


def test_an_edit_of_what_another_holds_is_refused_with_who_and_why(served: Shell, call: dict[str, Any]) -> None:
    with served.client("another").lock(str(served.home / "file.py"), reason="renaming"):
        refused = hook(served, "before", call)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert "another has locked" in refused.stderr
        assert "renaming" in refused.stderr
        assert hook(served, "before", {**call, "tool_input": {"path": str(served.home / "other.py")}}).returncode == 0
    assert hook(served, "before", call).returncode == 0


def test_ones_own_lock_is_no_reason(served: Shell, call: dict[str, Any]) -> None:
    (served.home / "call.json").write_text(json.dumps(call))
    script = f"engram lock file.py --session >/dev/null 2>&1; '{HOOKS}/edit_hook.py' before < call.json; echo $?"
    assert served.ok("run", "--agent", "editor", "--", "sh", "-c", script).out == "0\n"


def test_an_edit_is_recorded_with_its_diff_and_only_once(served: Shell, call: dict[str, Any]) -> None:
    call["tool_use_id"] = "toolu_1"
    path = served.home / "file.py"
    assert hook(served, "before", call, ENGRAM_CONTEXT="work").returncode == 0
    path.write_text("one\nthree")
    for _ in range(2):
        done = hook(served, "after", call, ENGRAM_CONTEXT="work")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    [unit] = served.client().list("work")
    assert (unit.type, unit.meta) == ("file_change", {"path": str(path), "tool": "Edit"})
    assert unit.text.splitlines()[2:] == ["@@ -1,2 +1,2 @@", " one", "-two", "+three", "\\ No newline at end of file"]
    assert str(path) in served.ok("why", path).out


def test_new_files_binary_ones_and_those_that_stay_as_they_are(served: Shell, call: dict[str, Any]) -> None:
    hook(served, "before", call)
    assert hook(served, "after", call).returncode == 0, "nothing has changed"
    new = {"tool_input": {"path": str(served.home / "new é.py")}}
    hook(served, "before", new)
    (served.home / "new é.py").write_text("x\n")
    hook(served, "after", new)
    binary = {"tool_input": {"path": str(served.home / "binary")}}
    hook(served, "before", binary)
    (served.home / "binary").write_bytes(b"\xff\x00")
    hook(served, "after", binary)
    texts = [unit.text for unit in served.client().list("edits")]
    assert len(texts) == 2
    assert texts[0].endswith("@@ -0,0 +1 @@\n+x\n")
    assert "binary" in texts[1]


@pytest.mark.parametrize("call", ["{", "[]", "5", '{"tool_input": 5}', '{"tool_input": {"path": 5}}', ""], ids=repr)
def test_what_is_no_call_is_refused_before_an_edit(served: Shell, call: str) -> None:
    done = hook(served, "before", call)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert hook(served, "after", call).returncode == 1
    assert hook(served, "before", {"tool_name": "Bash", "tool_input": {"command": "ls"}}).returncode == 0


def test_an_edit_is_refused_when_nobody_can_say_who_holds_what(alone: Shell, tmp_path: Path) -> None:
    daemon = alone.daemon()
    daemon.signal(signal.SIGSTOP)
    try:
        done = hook(alone, "before", {"tool_input": {"path": str(tmp_path / "x")}})
        assert done.returncode == 2
        assert "does not answer" in done.stderr
    finally:
        daemon.signal(signal.SIGCONT)


# The prompt


@pytest.mark.parametrize(("program", "options"), [("bash", ["--noprofile", "--norc", "-i"]), ("zsh", ["-f", "-i"])])
def test_the_prompt_shows_what_is_unread_and_does_not_wait(served: Shell, program: str, options: list[str]) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    client = served.client()
    for number in range(3):
        client.put("work", f"text {number}\x1b[2J")
    count = served.home / ".local/state/engram/read-work.count"
    counted = lambda: count.exists() and count.read_text().strip()  # noqa: E731
    with Typing(served) as typing:
        typing.type(f"export ENGRAM_CONTEXT=work; exec {program} {' '.join(options)}")
        typing.type(f"PS1='go> '; . '{HOOKS}/prompt.sh'")
        typing.see("go> ")
        until(lambda: counted() == "3", "the count")
        typing.type("false")
        typing.see(r"\(3 unread\) go> ")
        typing.type("echo code $?")
        typing.see("code 1")
        typing.type("unread")
        assert "text 0\\x1b[2J" in typing.see(r"(?s)(.*text 2\S*)")
        until(lambda: counted() == "", "the count after they were read")
        typing.type("echo now")
        typing.see("now")
        daemon = served.daemon_pid()
        assert daemon is not None
        os.kill(daemon, signal.SIGSTOP)
        try:
            began = time.monotonic()
            for number in range(5):
                typing.type(f"echo n{number}''m")
                typing.see(f"n{number}m")
            assert time.monotonic() - began < 4, "five prompts beside a daemon that hangs"
        finally:
            os.kill(daemon, signal.SIGCONT)
        typing.type("unread; echo rest $?")
        typing.see("rest 0")
