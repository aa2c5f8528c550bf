"""A daemon under attack, from outside: what its other clients notice, what it remembers afterwards, and whether anything is lost.

python -m benchmarks.attacks [--scale N] [--connections N] [--dir DIR]

Each attack runs beside a client on the Unix socket that puts units one by one, and one over TCP with a token that reads. Printed are the
p50 and p99 of their times during the attack, as multiples of the calm before, and the longest; the daemon's memory after it, and what it
counted. The crowd comes twice: what the second one adds to the memory is what stays behind.

tests/e2e/test_attacks.py runs the same with small numbers, and demands that nobody is harmed.
"""

from __future__ import annotations

import argparse
import random
import resource
import socket
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

from engram_cli.client import Client, EngramError
from engramd.protocol.address import split
from engramd.protocol.framing import LENGTH, encode, frame
from engramd.protocol.tokens import new_token

from .options import add_dir, positive, run_main

FLOOD_SECONDS, FLOODING = 2.0, 50  # how long, and on how many connections: fewer than may come at once and not have greeted
KEPT = 32 * 2**20  # bytes that Python may keep after a crowd, for the next one
LIMIT = 30.0  # seconds that the daemon may take to say or do something


@dataclass
class Target:
    """A daemon to attack.

    Attributes:
        path: its Unix socket.
        url: where it listens on TCP.
        token: one that may read and write the context `victim`, and lock beneath /victim.
        ended: one that was revoked.
    """

    path: str
    url: str
    token: str
    ended: str

    @classmethod
    def prepare(cls, path: str) -> Target:
        """Issue the tokens."""
        with Client(path, agent="owner", autostart=False) as owner:
            url = owner.status()["listening"][0]
            token = owner.token_issue("victim", contexts=["victim"], paths=["/victim"])["token"]
            ended = owner.token_issue("gone")["token"]
            owner.token_revoke(ended[4:14])
        return cls(path, url, token, ended)

    def tcp(self) -> socket.socket:
        """A connection that has said nothing yet."""
        _, host, port = split(self.url)
        return socket.create_connection((host, port), LIMIT)

    def unix(self) -> socket.socket:
        """The same on the Unix socket."""
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        made.settimeout(LIMIT)
        made.connect(self.path)
        return made

    def status(self) -> dict[str, Any]:
        """What the daemon says of itself."""
        with Client(self.path, agent="owner", autostart=False) as owner:
            return owner.status()


def heard(connection: socket.socket) -> bytes:
    """Everything until the daemon hangs up, which it must."""
    connection.settimeout(LIMIT)
    said = b""
    try:
        while data := connection.recv(65536):
            said += data
    except (ConnectionResetError, BrokenPipeError):
        pass
    return said


def hello(**said: Any) -> bytes:
    """A greeting's frame."""
    return frame(encode({"id": 0, "op": "hello", "version": [1, 0], **said}))


# The attacks; each takes the target and how much of it


def nonsense(target: Target, count: int) -> None:
    """Random bytes, on connections that have greeted and others."""
    dice = random.Random(7)
    for number in range(count):
        with (target.unix if number % 2 else target.tcp)() as connection, suppress(OSError):
            if number % 4 > 1:
                connection.sendall(hello(agent="victim", token=target.token))
            connection.sendall(dice.randbytes(dice.choice((1, 3, 64, 5000))))
            connection.shutdown(socket.SHUT_WR)
            heard(connection)


def dribble(target: Target, count: int) -> None:
    """Slow loris: greetings that come a byte at a time, on many connections, until the daemon has had enough."""
    connections = [target.tcp() for _ in range(count)]
    words, at = hello(agent="x" * 200), 0
    while connections and at < len(words):
        for connection in list(connections):
            try:
                connection.sendall(words[at : at + 1])
            except OSError:
                connections.remove(connection)
                connection.close()
        at += 1
        time.sleep(0.1)
    for connection in connections:
        heard(connection)
        connection.close()


def half_open(target: Target, count: int) -> None:
    """Connections that are made and left: some reset, some shut on one side, some silent until the daemon hangs up."""
    silent = []
    for number in range(count):
        connection = target.tcp()
        if number % 3 == 0:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            connection.close()
        elif number % 3 == 1:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
            silent.append(connection)
        else:
            silent.append(connection)
    for connection in silent:
        heard(connection)
        connection.close()


def crowd(target: Target, count: int) -> None:
    """As many connections as there can be, held at once: half of them greeted on the Unix socket, the others mute on TCP."""
    held = []
    for number in range(count):
        try:
            connection = (target.unix if number % 2 else target.tcp)()
        except OSError:  # the backlog is full
            continue
        with suppress(OSError):
            connection.setblocking(False)
            if number % 2:
                connection.send(hello(agent=f"crowd {number % 7}"))
        held.append(connection)
    for connection in held:
        with suppress(OSError):
            if connection.family == socket.AF_UNIX:  # by now it was let in, or told why not
                connection.settimeout(LIMIT)
                connection.recv(1)
    for connection in held:
        connection.close()


def oversized(target: Target, count: int) -> None:
    """Frames that say to be too long, nest too deep, or promise more than they have; from strangers and from a bearer."""
    bodies = [b"\x81" * 100_000, b"\xa1\x61a" * 20_000, b"\x9f" * 1000, b"\xbb" + b"\xff" * 8, b"\x5b" + b"\xff" * 8, b"\xc2" * 500]
    frames = [LENGTH.pack(2**32 - 1), LENGTH.pack(17 * 2**20) + b"x" * 1000, *map(frame, bodies)]
    for number in range(count):
        with target.tcp() as connection, suppress(OSError):
            if number % 2:
                connection.sendall(hello(agent="victim", token=target.token))
            connection.sendall(frames[number // 2 % len(frames)])
            said = heard(connection)
            assert b"too_large" in said or b"protocol" in said or number % 2 == 0, said


def forged(target: Target, count: int) -> None:
    """Tokens that are forged, were revoked, are mistyped, or are for another context; and none at all. At once, for each takes its time."""
    mistyped = target.token[:-1] + ("0" if target.token[-1] != "0" else "1")
    wrong = [new_token(), target.ended, mistyped, target.token[:14] + new_token()[14:], "x", ""]
    told: list[bytes] = []

    def one(number: int) -> None:
        token = wrong[number % len(wrong)]
        with target.tcp() as connection, suppress(OSError):
            connection.sendall(hello(agent="victim", **({"token": token} if token else {})))
            told.append(heard(connection))

    guessers = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for guesser in guessers:
        guesser.start()
    for guesser in guessers:
        guesser.join()
    assert all(b"denied" in said or b"busy" in said or not said for said in told), told
    with Client(target.url, token=target.token) as victim:
        for op, fields in (
            ("list", {"context": "secret"}),
            ("put", {"context": "secret", "text": "x"}),
            ("put", {"context": "victim", "text": "x", "agent": "owner"}),
            ("lock", {"resources": ["/etc"]}),
            ("token_issue", {"agent": "victim", "permissions": ["admin"]}),
            ("shutdown", {}),
        ):
            refused(victim, op, fields, "denied")


def paths(target: Target, count: int) -> None:
    """Resources that try to climb out of what is allowed, and names of files that are none."""
    tricks = ["/victim/../etc", "/victim/..", "/victim//x", "/victim/./x", "victim", "/victim\0/x", "../victim", "/**/..", "@", "/etc"]
    tricks += ["/" + "a/" * 500, "/" + "x" * 300, "/victim/" + "?" * 1100, "/*", "/**", "/victim*"]
    with Client(target.url, token=target.token) as victim:
        for number in range(count):
            refused(victim, "lock", {"resources": [tricks[number % len(tricks)]]}, "invalid", "denied", "too_large")
            path = tricks[number % len(tricks)]
            victim.request("put", {"context": "victim", "text": "x", "type": "file_change", "meta": {"path": path}})
            found = victim.request("why", {"paths": [path]})
            assert all(change["unit"]["context"] == "victim" for change in found["changes"])
        lease = victim.request("lock", {"resources": ["/victim/a"]})
        victim.request("unlock", {"token": lease["token"]})


def greedy(target: Target, count: int) -> None:
    """A bearer that asks for all it can get, and reads nothing of it; and for more streams than there may be, which send nothing."""
    with target.tcp() as deaf, target.tcp() as collector:
        for connection, credit in ((deaf, 64 * 1024 * 1024), (collector, 0)):
            connection.sendall(hello(agent="victim", token=target.token))
            connection.settimeout(0.5)
            with suppress(OSError):
                for number in range(1, count * 20):
                    stream = {"contexts": ["victim"], "after": 0, "follow": True, "credit": credit}
                    connection.sendall(frame(encode({"id": number, "op": "tail", **stream})))
        time.sleep(0.5)  # they are there, and take nothing


def flood(target: Target, count: int) -> None:
    """A bearer that asks small things on many connections, without a pause."""
    with Client(target.path, agent="owner", autostart=False) as owner:
        greeting = hello(token=owner.token_issue("flood", ["read"])["token"])
    asked = b"".join(frame(encode({"id": number, "op": "get", "ids": [2**40]})) for number in range(1, 300))
    until = time.monotonic() + FLOOD_SECONDS
    with ExitStack() as stack:
        held = {stack.enter_context(target.tcp()): greeting for _ in range(min(count, FLOODING))}
        for connection in held:
            connection.setblocking(False)
        while time.monotonic() < until:
            for connection, rest in held.items():
                with suppress(BlockingIOError):
                    held[connection] = rest[connection.send(rest) :] or asked
                with suppress(BlockingIOError):
                    connection.recv(1 << 18)
            time.sleep(0.001)  # for the bystanders in this process


def refused(client: Client, op: str, fields: dict[str, Any], *codes: str) -> None:
    """A request must be refused, with one of these codes."""
    code = "nothing"
    try:
        client.request(op, fields)
    except EngramError as error:
        code = error.code
    assert code in codes, f"{op} {fields} should have been refused, with one of {codes} and not with {code}"


ATTACKS: Sequence[Callable[[Target, int], None]] = (nonsense, dribble, half_open, crowd, crowd, oversized, forged, paths, greedy, flood)


@dataclass
class Bystander:
    """Two clients that go on with their work meanwhile.

    Attributes:
        times: seconds of each put on the Unix socket, and of each read over TCP.
        seqs: of every unit that was acknowledged.
        failure: what went wrong, if anything did.
    """

    target: Target
    context: str = "calm"
    times: dict[str, list[float]] = field(default_factory=lambda: {"put": [], "read over TCP": []})
    seqs: list[int] = field(default_factory=list)
    failure: BaseException | None = None

    def __post_init__(self) -> None:
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(work,), daemon=True) for work in (self._put, self._read)]
        for thread in self._threads:
            thread.start()

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self.failure = error

    def _put(self) -> None:
        with Client(self.target.path, agent="bystander", autostart=False, timeout=LIMIT) as client:
            while not self._over.is_set():
                began = time.monotonic()
                self.seqs.append(client.put(self.context, "x").seq)
                self.times["put"].append(time.monotonic() - began)
                time.sleep(0.001)

    def _read(self) -> None:
        with Client(self.target.url, token=self.target.token, timeout=LIMIT) as client:
            while not self._over.is_set():
                began = time.monotonic()
                client.request("list", {"context": "victim", "limit": 1})
                self.times["read over TCP"].append(time.monotonic() - began)
                time.sleep(0.005)

    def take(self) -> dict[str, list[float]]:
        """The times since this was last asked."""
        taken, self.times = self.times, {name: [] for name in self.times}
        return taken

    def stop(self) -> None:
        """Finish, and raise what went wrong."""
        self._over.set()
        for thread in self._threads:
            thread.join(LIMIT)
        if self.failure is not None:
            raise self.failure


def settle(target: Target, memory: int, connections: int, patience: float = LIMIT) -> dict[str, Any]:
    """The daemon's facts once nothing of an attack is left in it, or after a while."""
    deadline = time.monotonic() + patience
    while True:
        facts = target.status()
        if (facts["connections"] <= connections and facts["memory_bytes"] <= memory) or time.monotonic() > deadline:
            return facts
        time.sleep(0.1)


def check_nothing_lost(target: Target, context: str, seqs: Sequence[int]) -> None:
    """Every acknowledged unit is there, once, in order."""
    with Client(target.path, agent="owner", autostart=False) as owner:
        found = [unit.seq for unit in owner.list(context)]
    assert found == list(seqs), f"{len(seqs)} units were acknowledged, {len(found)} are there"


def quantiles(times: Sequence[float]) -> tuple[float, float, float]:
    """p50, p99 and the longest."""
    if len(times) < 2:
        return (0.0, 0.0, 0.0)
    cuts = statistics.quantiles(times, n=100)
    return cuts[49], cuts[98], max(times)


def report(name: str, before: dict[str, list[float]], times: dict[str, list[float]], facts: dict[str, Any], memory: int) -> str:
    """A line for one attack."""
    shown = []
    for work, taken in times.items():
        ratios = [now / then if then else 0.0 for now, then in zip(quantiles(taken), quantiles(before[work]), strict=True)]
        longest = max(taken, default=0.0) * 1000
        shown.append(f"{work}: p50 x{ratios[0]:.1f} p99 x{ratios[1]:.1f} longest {longest:.0f} ms of {len(taken)}")
    grown = (facts["memory_bytes"] - memory) / 2**20
    counted = " ".join(f"{kind}={count}" for kind, count in sorted(facts["limits"]["refused"].items()))
    return f"{name:10}  {'; '.join(shown)}; memory {grown:+.1f} MiB; refused so far: {counted or 'nothing'}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the figures."""
    from .processes import Daemon, Place

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--scale", type=positive, default=200, help="of each attack: connections, frames, guesses")
    parser.add_argument("--connections", type=positive, default=10_000, help="of the crowd")
    add_dir(parser)
    options = parser.parse_args(arguments)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with ExitStack() as stack:
        place = stack.enter_context(Place(options.dir))
        daemon = stack.enter_context(Daemon(place, place.store("store"), listen="tcp://127.0.0.1:0"))
        target = Target.prepare(daemon.socket)
        bystander = Bystander(target)
        time.sleep(2)
        calm, facts = bystander.take(), target.status()
        memory, connections = facts["memory_bytes"], facts["connections"]
        print(report("calm", calm, calm, facts, memory))
        for attack in ATTACKS:
            attack(target, options.connections if attack is crowd else options.scale)
            times = bystander.take()
            print(report(attack.__name__, calm, times, settle(target, memory + KEPT, connections), memory), flush=True)
        bystander.stop()
        check_nothing_lost(target, bystander.context, bystander.seqs)
        print(f"{len(bystander.seqs)} units were acknowledged meanwhile, and all are there")
    return 0


if __name__ == "__main__":
    run_main("benchmarks.attacks", main)
