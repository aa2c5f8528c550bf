"""Figures of locks beside single durable puts over the same connection, interleaved: one lease, hand-over to a queue, a crowded table.

python -m benchmarks.locks [--rounds N] [--held N] [--dir DIR]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import ExitStack

from . import figures, wire
from .figures import Round, Rounds, Row, row, spread
from .loops import clock, timed
from .options import add_dir, positive, run_main
from .processes import Daemon, Place, bounded

REPEATS = 200  # of each operation, in a round
QUEUE = 10
GLOB = "/repo/package{}/made{}_*.py"
LIMIT = 180.0  # seconds for everything


class Table:
    """A daemon and a connection to measure it over."""

    def __init__(self, stack: ExitStack, place: Place, name: str) -> None:
        self.daemon = stack.enter_context(Daemon(place, place.store(name)))
        self.client = stack.enter_context(wire.Client(self.daemon.socket, "holder"))
        self._stack = stack
        self._number = 0

    def put(self) -> None:
        """One durable put of a short text."""
        self.client.request("put", context="c", text="x" * 200)

    def lease(self) -> None:
        """Take a lease on a path that nobody else wants, and release it."""
        self._number += 1
        token = self.client.request("lock", resources=[f"/repo/package{self._number % 97}/file{self._number}.py"])["token"]
        self.client.request("unlock", token=token)

    def hold(self, count: int) -> None:
        """Hold so many leases, every other one a glob."""
        for number in range(count):
            name = GLOB.format(number % 97, number) if number % 2 else f"/repo/package{number % 97}/held{number}.py"
            self.client.request("lock", resources=[name], ttl="1h")


def handed_over(table: Table, clients: Sequence[wire.Client]) -> list[int]:
    """From a holder's release to the grant that the next in the queue reads, once for each of them."""
    token = table.client.request("lock", resources=["/handed"])["token"]
    for place, client in enumerate(clients, 1):
        client.send("lock", resources=["/handed"], wait=True)
        while table.client.request("status")["status"]["waiters"] < place:
            pass
    taken, holder = [], table.client
    for client in clients:
        start = clock()
        holder.send("unlock", token=token)
        token = client.answer()["token"]
        taken.append(clock() - start)
        holder.answer()
        holder = client
    holder.request("unlock", token=token)
    return taken


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; missing a goal is no failure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.locks", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=positive, default=9)
    parser.add_argument("--held", type=positive, default=10_000, help="leases in the crowded table, half of them globs")
    add_dir(parser)
    options = parser.parse_args(arguments)
    rounds = Rounds()
    with bounded(LIMIT), Place(options.dir) as place, ExitStack() as stack:
        empty, crowded = Table(stack, place, "empty"), Table(stack, place, "crowded")
        clients = [stack.enter_context(wire.Client(empty.daemon.socket, f"waiter{number}")) for number in range(QUEUE)]
        start = clock()
        crowded.hold(options.held)
        filled = (clock() - start) / options.held
        for _ in range(options.rounds):
            each: Round = {}
            each |= spread("put", timed(empty.put, REPEATS))
            each |= spread("lease", timed(empty.lease, REPEATS))
            each |= spread("handed", [taken for _ in range(3) for taken in handed_over(empty, clients)])
            each |= spread("crowded put", timed(crowded.put, REPEATS))
            each |= spread("crowded lease", timed(crowded.lease, REPEATS))
            rounds.add(each)
    rows = [
        row(rounds, "durable put, one client", "put"),
        row(rounds, "lock + unlock, nobody waits", "lease", ratio=rounds.ratio("lease.p50", "put.p50"), most=2, against="one put, p50"),
        row(
            rounds,
            f"hand-over, {QUEUE} in the queue",
            "handed",
            ratio=rounds.ratio("handed.p50", "put.p50"),
            most=1,
            against="one put, p50",
        ),
        row(
            rounds,
            f"lock + unlock, {options.held:,} held",
            "crowded lease",
            ratio=rounds.ratio("crowded lease.p50", "crowded put.p50"),
            most=2,
            against="one put, p50",
        ),
        Row(f"taking one of {options.held:,}, on average", p50=filled),
    ]
    print(figures.table(rows))
    return 0


if __name__ == "__main__":
    run_main("benchmarks.locks", main)
