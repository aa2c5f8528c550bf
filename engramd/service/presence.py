"""Presence: which agents are there, by the connections that say so.

An agent is present while any of its connections is. One that stays for less than SETTLE was not there, and one that comes back within GRACE
was not away: so a script with a pipe for one request writes nothing, nor does a connection that flaps.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

import trio

from ..state.presence import Arrive, Depart
from ..state.view import PRESENCE

if TYPE_CHECKING:
    from .engine import Engine

SETTLE = 0.3  # seconds
GRACE = 2.0  # seconds


class Presence:
    """Who is there, in one engine. Whoever was there when the last daemon ended is gone, all in one event."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connections: Counter[str] = Counter()
        self._arriving: dict[str, float] = {}  # when that is to be written down; the first to come is the first to be due
        self._leaving: dict[str, tuple[float, int]] = {}  # the same, and when the agent was last there
        self._wake = trio.Event()
        gone = tuple(key.decode() for key in engine.log.durable.keys(PRESENCE))
        if gone:
            engine.carry_out(Depart(gone, engine.log.last_ts, True))

    def arrive(self, agent: str) -> None:
        """One more connection of an agent."""
        self._connections[agent] += 1
        if self._connections[agent] == 1 and self._leaving.pop(agent, None) is None:
            self._arriving[agent] = trio.current_time() + SETTLE
            self._wake.set()

    def leave(self, agent: str) -> None:
        """One connection less."""
        self._connections[agent] -= 1
        if not self._connections[agent]:
            del self._connections[agent]
            if self._arriving.pop(agent, None) is None:
                self._leaving[agent] = trio.current_time() + GRACE, self._engine.committer.now()
                self._wake.set()

    async def run(self) -> None:
        """Write down who has come and who has gone, until cancelled; who is due at the same time goes in one event."""
        while True:
            coming, (going, _) = next(iter(self._arriving.values()), math.inf), next(iter(self._leaving.values()), (math.inf, 0))
            with trio.move_on_at(min(coming, going)):
                await self._wake.wait()
            self._wake = trio.Event()
            now = trio.current_time()
            for agent in [agent for agent, due in self._arriving.items() if due <= now]:
                del self._arriving[agent]
                self._engine.carry_out(Arrive(agent))
            gone = {agent: seen_at for agent, (due, seen_at) in self._leaving.items() if due <= now}
            if gone:
                self._leaving = {agent: left for agent, left in self._leaving.items() if agent not in gone}
                self._engine.carry_out(Depart(tuple(gone), max(gone.values()), False))
