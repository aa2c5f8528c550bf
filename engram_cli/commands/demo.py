"""`engram demo`: the product in 15 seconds. Every step is a real command against a real daemon, in a temporary directory."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

from engramd.protocol.errors import EngramError

from ..client import Client
from ..common import Common

CONTEXT = "release"
_PAUSE = 0.6  # seconds between steps, for people to read
_PATIENCE = 10.0  # seconds for anything to happen
_ENGRAM = [sys.executable, "-P", "-c", "from engram_cli.fast import main; main()"]  # what the installed command does


def run(common: Common) -> None:
    """Show it, and check it: exits 1 if a unit was lost, repeated or reordered."""
    Demo(sys.stdout.isatty()).run()


class Demo:
    """One run of the demo.

    Args:
        slowly: pause between steps, for people.
    """

    def __init__(self, slowly: bool) -> None:
        self._pause = _PAUSE if slowly else 0.0
        self._directory = tempfile.mkdtemp(prefix="engram-demo-")
        settings = {"ENGRAM_SOCKET": f"{self._directory}/socket", "ENGRAM_DATA_DIR": f"{self._directory}/data", "ENGRAM_LISTEN": "off"}
        self._env = {**os.environ, **settings, "ENGRAM_CONFIG": os.devnull, "ENGRAM_CONTEXT": CONTEXT, "NO_COLOR": "1"}
        self._readers: list[Reader] = []

    def run(self) -> None:
        """Play every scene, then remove what it made, also when interrupted."""
        previous = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            self._play()
        except KeyboardInterrupt:
            pass
        else:
            return
        finally:
            self._clean_up()
            signal.signal(signal.SIGINT, previous)
        signal.raise_signal(signal.SIGINT)

    def _play(self) -> None:
        self._run("daemon", "start")
        self._say("Two agents share one context. A third process watches it live:")
        watcher = self._watch("watcher", "tail", "-n", "0", "--follow", CONTEXT)
        plan = self._put("planner", "Ship 1.4: fix the parser, then the docs", "--type", "task_status")
        call = self._put("builder", "pytest tests/parser", "--type", "tool_call", "--rel", f"causes:{plan}")
        self._put("builder", "1 failed: test_empty_input", "--type", "tool_result", "--reply-to", call)
        self._put("planner", "An empty file must give an empty list", "--type", "reasoning")
        watcher.expect(4)

        self._say("The watcher is killed. Work goes on without it:")
        watcher.kill()
        last = watcher.lines[-1].split("\t")[0]
        self._put("builder", "parser.py: return [] for empty input", "--type", "file_change", "--meta", "path=src/parser.py")
        self._put("builder", "214 passed", "--type", "tool_result")

        self._say("The daemon is killed too (SIGKILL, no warning); the next command starts it again:")
        self._kill_daemon()
        self._put("planner", "Parser done, docs next", "--type", "task_status")

        self._say("The watcher comes back and goes on exactly where it was:")
        returned = self._watch("watcher", "tail", "--after", last, "--follow", CONTEXT)
        returned.expect(3)

        self._say("A put that must not happen twice, retried:")
        first = self._put("builder", "deployed 1.4", "--dedupe", "deploy-1.4")
        second = self._put("builder", "deployed 1.4", "--dedupe", "deploy-1.4")
        returned.expect(4)

        self._check(watcher.lines + returned.lines, first == second)

    def _check(self, seen: list[str], deduped: bool) -> None:
        listed = self._run("list", CONTEXT).splitlines()
        if seen != listed or len(listed) != 8 or not deduped:
            raise EngramError("internal", f"the demo went wrong: the watcher saw {seen}, the log holds {listed}")
        self._say("8 units in the log, 8 seen by the watcher: none lost, none twice, in order.")
        print("\nYour turn:  engram tail -f work     and in another shell:  engram put work 'hello'")

    # Scenes

    def _say(self, text: str) -> None:
        print(f"\n# {text}", flush=True)
        time.sleep(self._pause)

    def _put(self, agent: str, text: str, *options: str) -> str:
        print(f"$ ENGRAM_AGENT={agent} engram put {CONTEXT} {text!r} {' '.join(_short(option) for option in options)}".rstrip(), flush=True)
        made = self._run("put", CONTEXT, text, *options, agent=agent).strip()
        for reader in self._readers:
            reader.settle()
        time.sleep(self._pause / 2)
        return made

    def _run(self, *arguments: str, agent: str = "demo") -> str:
        done = subprocess.run(
            [*_ENGRAM, *arguments], env={**self._env, "ENGRAM_AGENT": agent}, capture_output=True, text=True, timeout=30, check=False
        )
        if done.returncode != 0:
            raise EngramError("internal", f"engram {' '.join(arguments)} failed: {done.stderr.strip()}")
        return done.stdout

    def _watch(self, name: str, *arguments: str) -> Reader:
        print(f"$ engram {' '.join(arguments)} &", flush=True)
        before = self._subscriptions()
        reader = Reader(name, [*_ENGRAM, *arguments], self._env)
        self._readers.append(reader)
        _until(lambda: self._subscriptions() > before, "the reader to subscribe")
        return reader

    def _subscriptions(self) -> int:
        return int(self._status()["subscriptions"])

    def _status(self) -> dict[str, Any]:
        with Client(self._env["ENGRAM_SOCKET"], agent="demo", autostart=False) as client:
            return client.status()

    def _kill_daemon(self) -> None:
        pid = int(self._status()["pid"])
        print(f"$ kill -KILL {pid}", flush=True)
        os.kill(pid, signal.SIGKILL)

    def _clean_up(self) -> None:
        for reader in self._readers:
            reader.kill()
        subprocess.run([*_ENGRAM, "daemon", "stop"], env=self._env, capture_output=True, timeout=30, check=False)
        shutil.rmtree(self._directory, ignore_errors=True)


class Reader:
    """A `tail -f` as a process, its lines printed as they come.

    Attributes:
        lines: what it has printed.
    """

    def __init__(self, name: str, command: list[str], env: dict[str, str]) -> None:
        self.lines: list[str] = []
        self._name = name
        self._process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.rstrip("\n"))
            print(f"    {self._name} | {line.expandtabs(2)}", end="", flush=True)

    def expect(self, count: int) -> None:
        """Wait until so many lines were printed in all."""
        _until(lambda: len(self.lines) >= count, f"{count} units to reach the {self._name}")

    def settle(self) -> None:
        """Give the reader a moment to print what was just put, so that the story reads in order."""
        had, deadline = len(self.lines), time.monotonic() + 0.1
        while self._process.poll() is None and len(self.lines) == had and time.monotonic() < deadline:
            time.sleep(0.005)

    def kill(self) -> None:
        """End the process at once, and wait for it."""
        self._process.kill()
        self._process.wait()
        self._thread.join(timeout=_PATIENCE)


def _until(done: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not done():
        if time.monotonic() > deadline:
            raise EngramError("timeout", f"the demo waited {_PATIENCE:g} s for {what}")
        time.sleep(0.02)


def _short(option: str) -> str:
    """An option as it is shown: ids are long."""
    kind, colon, target = option.rpartition(":")
    return f"{kind}{colon}{target[:8]}…" if len(target) == 36 else option
