"""A planner and two workers in one trio program, with the engine inside it: no daemon, no socket.

    python examples/embedded_agents.py DIRECTORY

The planner puts three tasks, a consumer gives each to one of the workers, and the workers take a lock for what only one may do at a time.
Run it again: everything is still there, and nothing is done twice.
"""

from __future__ import annotations

import sys

import trio

import engramd
from engramd.embedded import Engram

TASKS = ("read the parser", "fix the parser", "write its test")


async def work(engram: Engram, name: str) -> None:
    """Do tasks, one at a time, until none is left."""
    async with engram.client(name) as worker:
        async for task in worker.consume("workers", "plan", follow=False):
            async with await worker.lock("@compiler", wait=True, timeout=10, reason=task.text) as lease:
                await worker.put("done", f"{task.text}: done", dedupe=task.id, fences=[lease])


async def main(directory: str) -> None:
    """Plan, have it done, and say what was."""
    async with engramd.open(directory, agent="planner") as engram:
        for task in TASKS:
            await engram.put("plan", task, type="task_status", dedupe=task)
        async with trio.open_nursery() as workers:
            for name in ("ann", "bob"):
                workers.start_soon(work, engram, name)
        async for unit in engram.list("done"):
            print(unit.text)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/embedded_agents.py DIRECTORY")
    trio.run(main, sys.argv[1])
