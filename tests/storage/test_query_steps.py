"""Steps of one row each over several contexts and conditions: none passes over an entry of another context."""

from __future__ import annotations

import random

import pytest
from stores import commit, created

from engramd.state.filters import Filter
from engramd.state.units import UnitPut
from engramd.storage.log import Log
from engramd.storage.query import Range, step


@pytest.mark.parametrize("contexts", [None, ["a", "b", "c"]])
@pytest.mark.parametrize("reverse", [False, True])
def test_small_steps_find_what_one_step_finds(log: Log, contexts: list[str] | None, reverse: bool) -> None:
    rng = random.Random(1)
    commit(log, 1, *map(created, "abc"))
    for number in range(400):
        unit = UnitPut(rng.choice("abc"), rng.choice("xy"), number.to_bytes(16), rng.choice(("message", "error")), {}, f"{number}", ())
        commit(log, 2, unit)
    wanted = Range(contexts, Filter(agents=frozenset("x"), types=frozenset(["error"])), 1, log.last_seq, reverse)
    expected = [entry.seq for entry in step(log, wanted, 10**6, 10**6, 10**9).entries]
    assert len(expected) > 60
    found: list[int] = []
    while wanted.first <= wanted.last:
        some = step(log, wanted, rows=1)
        found += [entry.seq for entry in some.entries]
        wanted = wanted._replace(last=some.reached - 1) if reverse else wanted._replace(first=some.reached + 1)
    assert found == expected
