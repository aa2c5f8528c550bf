"""The world of one round: a daemon and its store, the clients, and what an operator does."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from daemons import Blocking, Daemon
from preload import FAILING_SYNC, FULL_DISK, JUMPING_CLOCK, SYNCED, preloadable
from validators import BrokenError, Life

from engramd.protocol.errors import EngramError

from .clients import CONSUMERS, CONTEXTS
from .disk import Disk
from .history import Past
from .players import PATIENCE, Cast, Player, until

LAST_WORDS = 60  # lines that LevelDB may have written at the end of a daemon
BIN = Path(sys.executable).parent  # where the installer put `engram`
TRIGGERS = {"FAIL_SYNC_WHEN": "syncs fail", "FULL_DISK_WHEN": "disk is full", "LITTLE_ROOM_WHEN": "little room", "CLOCK_IS_OFF_BY": "clock"}


def libraries(directory: Path) -> str:
    """What the daemons of all rounds preload."""
    made = [
        preloadable(directory, *one) for one in (("sync", FAILING_SYNC), ("disk", FULL_DISK), ("clock", JUMPING_CLOCK), ("synced", SYNCED))
    ]
    return ":".join(map(str, made))


class World:
    """One daemon with its store and its clients, in a directory of their own.

    Attributes:
        rng: what decides which faults come when; how the processes run is decided by nobody.
        faults: how often each kind came.
    """

    def __init__(self, seed: str, home: Path, preload: str) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.home = home
        self.records = home / "records"
        self.records.mkdir()
        self.daemon = Daemon(home / "s", home / "data")
        self.past = Past()
        self.faults: Counter[str] = Counter()
        self.players: list[Player] = []
        self.disk = Disk(self.daemon.data_dir, home / "synced")
        self._env = {"LD_PRELOAD": preload, "SYNCED": str(home / "synced"), **{name: str(self.trigger(name)) for name in TRIGGERS}}
        self._said = 0
        self._workers: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for player in self.players:
            player.end()
        self.daemon.end()
        for pid in self._workers:  # one that is stopped would not notice the end of its daemon
            self.signal_worker(pid, signal.SIGCONT)

    def trigger(self, name: str) -> Path:
        """The file that a preloaded library looks for."""
        return self.home / TRIGGERS[name]

    # The daemon

    def start(self) -> None:
        """Start a daemon on the store, and wait until it serves."""
        said = self.try_start()
        if said != "ready":
            raise BrokenError(f"the daemon does not start: {said}")

    def try_start(self) -> str:
        """Start a daemon on the store, which clients may find; gives what it says."""
        self.disk.begin()
        said = self.daemon.start(env=self._env)
        assert self.daemon.process is not None
        self.past.pids.append(self.daemon.process.pid)
        return said

    def ended(self, by: str, expected: int, words: str = "") -> None:
        """Wait for the end of the daemon, and note it."""
        code = self.daemon.wait()
        said = self.daemon.said()
        if code == -signal.SIGSEGV and self._was_compacting():  # LevelDB was first: docs/storage.md
            by, expected, words = f"LevelDB at {by}", code, ""
        self.past.lives.append(Life(by, expected, code, words, said[self._said :]))
        self._said = len(said)

    def _was_compacting(self) -> bool:
        """Whether LevelDB, by its own last words, was at what it had been told to compact when the daemon ended."""
        said = (self.daemon.data_dir / "log" / "LOG").read_text(errors="replace").splitlines()
        return any("Manual compaction" in line for line in said[-LAST_WORDS:])

    def kill(self) -> None:
        """End the daemon without warning."""
        self.daemon.signal(signal.SIGKILL)
        self.ended("SIGKILL", -signal.SIGKILL)

    def cut_power(self) -> None:
        """End the daemon and its search worker at once, and take from their files what was not synced."""
        assert self.daemon.process is not None
        pid = self.daemon.process.pid
        self.daemon.signal(signal.SIGSTOP)
        children = [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]
        for child in children:
            self.signal_worker(child, signal.SIGKILL)
        self.kill()
        until(lambda: not any(_lives(child) for child in children), "the search worker to be gone")
        self.disk.cut(self.rng)

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        """Ask the daemon, over a connection of its own."""
        with self.daemon.connect("hand") as client:
            return client.ask(op, **fields)

    def history(self) -> str:
        """The id of the log's history."""
        with self.daemon.connect("hand") as client:
            history: str = client.greeting["history"]
            return history

    def goes_on(self) -> None:
        """Wait until something is written."""
        before = self.ask("status")["status"]["last_seq"]
        until(lambda: self.ask("status")["status"]["last_seq"] > before, "a writer to get on")

    def worker(self) -> int:
        """The pid of the search worker, which a search starts."""
        if "pid" not in self._search():
            self.ask("search", query="z", wait=0, limit=1)
        until(lambda: "pid" in self._search(), "the search worker")
        self._workers.add(found := self._search().get("pid", 0))
        return found

    def _search(self) -> dict[str, Any]:
        return self.ask("status")["status"]["search"]

    def signal_worker(self, pid: int, number: signal.Signals) -> None:
        """Send a search worker a signal, if it is still there."""
        try:
            if b"engramd.search" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, number)
        except OSError:
            pass

    # Clients

    def launch(self, cast: Cast) -> None:
        """Start all clients."""
        for role, names in cast.items():  # one by one, so that those there are can be ended at any time
            self.players += (Player(role, name, self.seed, self.daemon, self.records) for name in names)

    def player(self, *roles: str) -> Player:
        """One of the clients, or of those with these roles."""
        return self.rng.choice([player for player in self.players if not roles or player.role in roles])

    def _end(self, *roles: str) -> None:
        those = [player for player in self.players if player.role in roles]
        for player in those:
            player.tell_to_end()
        until(lambda: all(player.has_ended() for player in those), f"the end of every {' and '.join(roles)}")

    def finish(self) -> None:
        """Have writing end, let readers come to the end of the log, and read it all."""
        backup = self.home / "last backup"
        self.engram("backup", backup)
        self._end("writer", "hasty", "holder", "looker", "keeper", "eraser")
        for context in CONTEXTS:  # an entry that stays, behind all that retention may have taken from a consumer
            self.ask("put", context=context, text="the last")
        self.ask("lock", resources=["/r", "@gpu"], wait=True, timeout="10s")  # what its holders have left behind ends by itself
        until(self._is_consumed, "the consumers to be done")
        self._end("member")
        self.past.missed = {name: self.ask("consumer_show", consumer=name)["consumer"]["missed"] for name in CONSUMERS}
        self._end("reader", "follower")
        until(self._is_erased, "what was redacted to be erased")
        self.engram("backup", backup)
        self.past.stores = [self.daemon.data_dir, backup]
        self.past.eras[-1].events = audit(self.daemon)
        self.past.eras[-1].is_last = True

    def _is_erased(self) -> bool:
        """Whether every erasure has finished, as the log has it."""
        events = audit(self.daemon)
        finished = {unit for event in events if event["kind"] == "erasures_finished" for unit in event["data"]["units"]}
        return all(event["data"]["unit"] in finished for event in events if event["kind"] == "unit_redacted")

    def _is_consumed(self) -> bool:
        """Whether every consumer is done with the last entry that it wants: what it does not want moves it on later."""
        last = {context["id"]: context["last_seq"] for context in self.ask("context_list")["contexts"]}
        for name in CONSUMERS:
            shown = self.ask("consumer_show", consumer=name)["consumer"]
            wanted = max(last.get(context, 0) for context in shown["contexts"] or last)
            if shown["waiting"] or shown["held"] or int(shown["cursor"].rpartition(".")[2]) < wanted:
                return False
        return True

    # Commands

    def engram(self, *arguments: object) -> str:
        """Run a command, which must succeed; gives what it prints."""
        done = self.try_engram(*arguments)
        if done.returncode:
            raise BrokenError(f"engram {' '.join(map(str, arguments))} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def try_engram(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run a command."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ENGRAM_", "XDG_"))}
        env = {**kept, "HOME": str(self.home), "ENGRAM_SOCKET": str(self.daemon.socket_path), "ENGRAM_DATA_DIR": str(self.daemon.data_dir)}
        command = [str(BIN / "engram"), *map(str, arguments)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE, stdin=subprocess.DEVNULL, check=False)
        if "Traceback" in done.stderr:
            raise BrokenError(f"{' '.join(command)}: {done.stderr}")
        return done

    def check_store(self) -> None:
        """`engram doctor` finds nothing wrong, while the daemon runs and when it has stopped."""
        self.engram("doctor", "--json")
        self.daemon.signal(signal.SIGTERM)
        self.ended("SIGTERM", 0)
        self.engram("doctor", "--json")


def _lives(pid: int) -> bool:
    """Whether a process is there, and is more than what its parent has not looked at."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def audit(daemon: Daemon) -> list[dict[str, Any]]:
    """Every event of a daemon's log."""
    with daemon.connect("auditor") as client:
        return client.replay(events=True)


# Of a daemon that is to tell what a store has: it removes nothing meanwhile.
IDLE = """
import trio
from engramd.service import redaction, retention
async def rest(self): await trio.sleep_forever()
retention.Retainer.run = redaction.Erasures.run = rest
"""


def audit_store(directory: Path) -> tuple[str, list[dict[str, Any]]]:
    """What a daemon that is started on a store says first, and every event that it gives: as far as it does, if the store is damaged."""
    daemon = Daemon(directory.parent / "private", directory)
    try:
        said = daemon.start(first=IDLE)
        if said != "ready":
            return said, []
        with daemon.connect("auditor") as client:
            return said, replay_some(client)
    finally:
        daemon.end()
        daemon.stderr.unlink()


def replay_some(client: Blocking) -> list[dict[str, Any]]:
    """Every event that a log gives before it comes to damage."""
    request = client.send("tail", after=0, events=True, credit=2**26)
    try:
        client.answer(request)
    except EngramError as error:
        if error.code != "storage":
            raise
    return [item.event for item in client.items.pop(request, []) if item.event["kind"] not in ("live", "heartbeat")]
