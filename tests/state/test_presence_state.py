"""Presence: what arriving and leaving lead to."""

from __future__ import annotations

from ledger import START, Ledger

from engramd.state.presence import AgentsGone, Arrive, Depart
from engramd.state.view import AGENTS, PRESENCE, Agent, Present


def test_who_is_there_arrives_once_and_leaves_once() -> None:
    ledger = Ledger()
    assert len(ledger.do(Arrive("ann"))) == 1
    assert ledger.do(Arrive("ann")) == []
    assert ledger.state.get(PRESENCE, "ann") == Present(START + 1000)
    assert ledger.state.get(AGENTS, "ann") == Agent(START + 1000, START + 1000, 0)
    ledger.put("c", 1, agent="bob")
    ledger.do(Arrive("bob"))
    (_, event), *rest = ledger.do(Depart(("ann", "bob", "eve"), ledger.ts + 500, False))
    assert (event, rest) == (AgentsGone(("ann", "bob"), ledger.ts - 500, False), [])
    assert [ledger.state.get(PRESENCE, name) for name in ("ann", "bob")] == [None, None]
    assert ledger.do(Depart(("ann",), ledger.ts, False)) == []
    assert ledger.folded().rows == ledger.state.rows


def test_to_be_gone_does_not_make_a_unit_older() -> None:
    ledger = Ledger()
    ledger.do(Arrive("ann"))
    ledger.put("c", 1)
    put_at = ledger.ts
    ledger.do(Depart(("ann",), START, True))
    assert ledger.state.get(AGENTS, "ann") == Agent(START + 1000, put_at, 1)
