"""Drives `decide` and `apply` as the committer does: every event gets the next seq, and its command's time."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from engramd.state.machine import Command, Event, apply, decide
from engramd.state.outcome import Decision, Refused, Seen
from engramd.state.units import Draft, Edge, Put
from engramd.state.view import CONTEXTS, Context, MemoryState

START = 1_700_000_000_000_000


def unit_id(number: int) -> bytes:
    """The id of a test's unit."""
    return number.to_bytes(16)


def draft(number: int, *targets: int, **members: Any) -> Draft:
    """A unit with relationships to the units of these numbers."""
    edges = tuple(Edge("references", unit_id(target), {}) for target in targets)
    return Draft(unit_id(number), members.get("type", "message"), members.get("meta", {}), members.get("payload", f"unit {number}"), edges)


class Ledger:
    """A log in memory, and the state that it folds to.

    Attributes:
        events: what happened, as (seq, ts, event).
    """

    def __init__(self) -> None:
        self.state = MemoryState()
        self.events: list[tuple[int, int, Event]] = []
        self.ts = START

    @property
    def seq(self) -> int:
        """The seq of the last event."""
        return len(self.events)

    def decide(self, command: Command) -> Decision:
        """What the command leads to. Asking must change nothing, and the answer must be the same every time."""
        rows, before = deepcopy(self.state.rows), deepcopy(command)
        decision = decide(self.state, command)
        assert decide(self.state, command) == decision
        assert self.state.rows == rows, "decide changed the state"
        assert command == before, "decide changed its command"
        return decision

    def apply(self, events: list[Event]) -> list[tuple[int, Event]]:
        """Record events and fold them; gives them with their seqs. The rows that were there must not change, only be replaced."""
        recorded = []
        for event in events:
            old = dict(self.state.rows)
            kept = deepcopy(old)
            self.events.append((self.seq + 1, self.ts, event))
            apply(self.state, self.seq, self.ts, event)
            assert old == kept, "apply changed a row in place"
            recorded.append((self.seq, event))
        return recorded

    def do(self, command: Command) -> list[tuple[int, Event]]:
        """Carry out a command that must be allowed."""
        decision = self.decide(command)
        assert isinstance(decision, list), decision
        self.ts += 1000
        return self.apply(decision)

    def refused(self, command: Command) -> Refused:
        """Why the command may not happen."""
        decision = self.decide(command)
        assert isinstance(decision, Refused), decision
        return decision

    def seen(self, command: Command) -> Seen:
        """What the command's dedupe key stands for."""
        decision = self.decide(command)
        assert isinstance(decision, Seen), decision
        return decision

    def put(self, context: str, *numbers: int, agent: str = "ann") -> list[int]:
        """Put units; gives their seqs."""
        return [seq for seq, _ in self.do(Put(context, agent, tuple(map(draft, numbers))))][-len(numbers) :]

    def context(self, name: str) -> Context:
        """The context's row."""
        row = self.state.get(CONTEXTS, name)
        assert row is not None
        return row

    def folded(self) -> MemoryState:
        """The state, folded anew from what was recorded."""
        state = MemoryState()
        for seq, ts, event in deepcopy(self.events):
            apply(state, seq, ts, event)
        return state
