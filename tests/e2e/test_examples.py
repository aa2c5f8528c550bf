"""The programs in examples/ do what they say."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commandline import PATIENCE, Running, Shell

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def env(served: Shell) -> dict[str, str]:
    """What an example sees: the commands on its PATH, and agents of its own."""
    return {name: value for name, value in served.env.items() if name != "ENGRAM_AGENT"}


def test_two_agents_talk_json_lines(served: Shell, env: dict[str, str]) -> None:
    command = [sys.executable, EXAMPLES / "two_agents.py", "play"]
    for _ in range(2):  # the second time everything is there already, and nothing is done twice
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert sorted(done.stdout.splitlines()) == [
            "fix the parser: done, 14 lines changed",
            "update the docs: done, 15 lines changed",
            "write its test: done, 14 lines changed",
        ]
    units = list(served.client().list("play"))
    assert [unit.agent for unit in units].count("builder") == 3
    assert len(units) == 7


@pytest.fixture
def agent(request: pytest.FixtureRequest, served: Shell, env: dict[str, str]) -> Iterator[Running]:
    """An example that answers questions, running."""
    running = Running(request.param, {**env, "PYTHONUNBUFFERED": "1"}, pipe_stdin=False)
    yield running
    running.end()


@pytest.mark.parametrize("agent", [[sys.executable, EXAMPLES / "trio_agent.py", "work"]], indirect=True)
def test_a_trio_agent_answers_several_at_a_time(served: Shell, agent: Running, env: dict[str, str]) -> None:
    asking = [served.start("ask", "work", f"plan {number}", "--to", "reviewer", "--timeout", "20s") for number in range(5)]
    assert [(one.wait(), one.lines) for one in asking] == [(0, [f"plan {number}: 2 words, looks good"]) for number in range(5)]
    served.kill_daemon()
    served.daemon()
    assert served.ok("ask", "work", "stop", "--to", "reviewer", "--timeout", "20s").out == "stop: 1 words, looks good"
    assert agent.wait() == 0
    assert agent.errors == []
    again = Running([sys.executable, EXAMPLES / "trio_agent.py", "work"], env, pipe_stdin=False)
    try:
        assert served.ok("ask", "work", "stop", "--to", "reviewer", "--timeout", "20s").out.startswith("stop")
        assert again.wait() == 0
        assert again.lines == ["tester asked: stop"], "what was answered before is not answered again"
    finally:
        again.end()


@pytest.mark.skipif(shutil.which("sh") is None, reason="sh is not installed")
def test_a_shell_agent_goes_on_where_it_was(served: Shell, env: dict[str, str]) -> None:
    lines = served.home / "three lines"
    lines.write_text("1\n2\n3\n")
    place = served.home / "place"
    for questions, answers in (((str(lines), "no such file"), ("3\n", "I cannot read no such file")), ((str(lines),), ("3\n",))):
        running = Running([EXAMPLES / "shell_agent.sh", "work", place], env, pipe_stdin=False)
        try:
            for question, answer in zip(questions, answers, strict=True):
                assert served.ok("ask", "work", question, "--to", "counter", "--timeout", "20s").out.strip() == answer.strip()
            assert served.ok("ask", "work", "stop", "--to", "counter", "--timeout", "20s").out == "good bye"
            assert running.wait() == 0
            assert running.errors == []
            assert len(running.lines) == len(questions) + 1
        finally:
            running.end()
    assert int(place.read_text()) > 0


def test_agents_in_one_program_share_an_engine_without_a_daemon(alone: Shell) -> None:
    command = [sys.executable, EXAMPLES / "embedded_agents.py", alone.home / "log"]
    for _ in range(2):  # the second time everything is there already, and nothing is done twice
        done = subprocess.run(command, env=alone.env, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert sorted(done.stdout.splitlines()) == ["fix the parser: done", "read the parser: done", "write its test: done"]
    assert not alone.socket.exists()


def test_every_example_is_tried_here() -> None:
    programs = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".sh")}
    tried = Path(__file__).read_text()
    assert programs
    assert all(name in tried for name in programs)
    assert os.access(EXAMPLES / "shell_agent.sh", os.X_OK)
