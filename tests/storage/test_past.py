"""What was so in the past, against every state that there ever was, written down as it was."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from stores import execute, temporary_log

from engramd.state.contexts import SetMember, SetPins, SetPlaces, is_pinned, place
from engramd.state.units import Draft, Put
from engramd.state.view import MEMBERS, UNITS
from engramd.storage.log import Log
from engramd.storage.past import members_at, pins_at, was_present

CONTEXTS, AGENTS, IDS = ("c", "d"), ("ann", "bob", "c"), [number.to_bytes(16) for number in range(1, 5)]
verbs = st.sampled_from((SetPins, SetPins, SetPlaces, SetMember))
steps = st.lists(st.tuples(verbs, st.sampled_from(CONTEXTS), st.integers(0, 3), st.booleans()), max_size=30)


def now(log: Log) -> dict[str, Any]:
    """The pins, the members, and the units' entries of each context."""
    heads = [head for unit in IDS if (head := log.durable.get(UNITS, unit)) is not None]
    return {
        name: (
            [head.seq for head in heads if is_pinned(log.durable, name, head.seq)],
            [agent for agent in AGENTS if log.durable.get(MEMBERS, (name, agent))],
            {entry for head in heads if (entry := place(log.durable, name, head))},
        )
        for name in CONTEXTS
    }


@settings(max_examples=60)
@given(steps)
def test_every_past_can_be_asked_for(steps: list[tuple[Any, str, int, bool]]) -> None:
    with temporary_log() as log:
        execute(log, 1, *(Put("c", "ann", (Draft(unit, "message", {}, "x"),)) for unit in IDS))
        written = {log.last_seq: now(log)}
        for verb, context, number, on in steps:
            what = AGENTS[number % 3] if verb is SetMember else (IDS[number],)
            execute(log, 1, verb(context, "eve", what, on))
            written[log.last_seq] = now(log)
        at, entries = {}, {entry for pages in written.values() for _, _, present in pages.values() for entry in present}
        for seq in range(min(written), log.last_seq + 1):
            at = written.get(seq, at) if seq in written else None
            if at is None:
                continue  # within one command
            for name, (pins, members, present) in at.items():
                assert pins_at(log, name, seq) == pins
                assert members_at(log, name, seq) == members
                here = {entry for entry in entries if log.record(entry).kind == "unit_put" and name == "c"}
                here |= {entry for entry, unit in _added(log, name)}
                assert {entry for entry in here if was_present(log, name, entry, seq)} == present


def _added(log: Log, name: str) -> list[tuple[int, int]]:
    heads = [log.durable.get(UNITS, unit) for unit in IDS]
    return [(entry, head.seq) for head in heads if head for entry, context in log.additions(head.seq).items() if context == name]
