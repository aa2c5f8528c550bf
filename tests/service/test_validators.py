"""The validators themselves: each one notices the fault it is for."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import validators
from validators import (
    Acknowledged,
    BrokenError,
    Consumer,
    Damaged,
    Delivery,
    Entry,
    Foreign,
    Held,
    History,
    Life,
    Outage,
    Placed,
    Put,
    Read,
    Restored,
    Session,
    Subscriber,
    Tenure,
    Trim,
)

GUARANTEES = Path(__file__).parents[2] / "docs/guarantees.md"


def entry(seq: int, context: str = "c") -> Entry:
    unit = {"id": bytes([seq]), "agent": "even" if seq % 2 == 0 else "odd", "type": "message", "meta": {"k": "v"}, "text": f"key{seq}"}
    return Entry(seq, context, "unit_put", unit)


def other(seq: int, kind: str, **data: Any) -> dict[str, Any]:
    """An event that is no entry."""
    return {"cursor": f"h.{seq}", "seq": seq, "ts": seq, "kind": kind, "data": data}


def events() -> list[dict[str, Any]]:
    """A log of units 2 to 9, the fifth of which was put with the end of the lease that was granted before the second; then two others."""
    units = [{"cursor": f"h.{one.seq}", "kind": one.kind, "unit": {**one.unit, "ts": one.seq}} for one in map(entry, (2, 3, 4, 5))]
    lease = {"agent": "me", "resources": ["/a"], "mode": "exclusive", "slots": 0}
    return [
        other(1, "lock_granted", **lease),
        *units,
        other(6, "lock_released", token=1),
        *(other(seq, "lock_granted", **{**lease, "resources": [f"/{seq}"]}) for seq in (7, 8)),
    ]


def held(token: int, holder: str) -> Held:
    return Held(token, holder, ["/a"], "exclusive", 0)


def sound() -> History:
    """Nine entries, two writers, a reader of all that was cut off once, and one of the even ones; and what else there is to be seen."""
    log = [entry(seq) for seq in range(2, 11)]
    told = [Acknowledged("w", f"key{seq}", "c", bytes([seq]), seq) for seq in (2, 5, 5, 9)]
    everything = Subscriber("all", sessions=[Session(0, 6, log[:5]), Session(6, 10, log[5:])])
    even = Subscriber("even", ["c"], ["even"], sessions=[Session(0, 11, [entry(seq) for seq in (2, 4, 6, 8, 10)])])
    got = [Delivery(1, log[0], 1, 1), Delivery(1, log[1], 1, 2), Delivery(2, log[1], 2, 6)]
    got += [Delivery(2, entry, 1, number) for number, entry in enumerate(log[2:], 8)]
    shared = Consumer("shared", ["c"], None, got, {2: 4}, {2: 3}, {1: 5})
    keyed = Consumer("keyed", [], "k", [Delivery(3, one, 1, 10 * one.seq) for one in log], {}, {one.seq: 10 * one.seq + 1 for one in log})
    trimmed = Trim("c", frozenset({1}), frozenset({1}))
    made = History(log, 10, told, {("c", "key5"): 2}, [everything, even], [shared, keyed], set(range(2, 11)), [trimmed])
    made.events = events()
    made.puts = [Put("c", ("key4", "key5"), 1, sent=3, answered=4), Put("c", ("never",), sent=20)]
    made.placed = [Placed("c", bytes([4]))]
    made.acknowledged.append(Acknowledged("w", "key4", "c", bytes([4]), 4, answered=5))
    late = {"client": "r", "sent": 6, "found": frozenset({bytes([seq]) for seq in (2, 4, 5, 9)})}
    made.reads = [Read(**late, ids=frozenset({bytes([4])})), Read(**late, context="c", floor=3), Read(**late, word="key4")]
    made.reads.append(Read("r", 6, frozenset(), word="key4", behind=1))
    made.tenures = [Tenure(held(1, "me"), 3, 5), Tenure(held(9, "you"), 5, 9), Tenure(held(10, "late"), 7, 6)]
    made.foreign = [Foreign("all", "g.3", 0, "cursor")]
    made.outages = [Outage(8, 12)]
    made.lives = [Life("a failing fsync", 1, 1, "refused", "the disk refused"), Life("SIGKILL", -9, -9)]
    made.restored = Restored(events(), 6)
    made.damaged = [Damaged(events(), events()[:4])]
    return made


def lose(history: History) -> None:
    del history.log[3]


def hide(history: History) -> None:
    assert history.present is not None
    history.present.remove(4)


def resurrect(history: History) -> None:
    assert history.present is not None
    history.present.add(1)


def pretend(history: History) -> None:
    history.subscribers[0].sessions[1].told = True
    history.subscribers[0].sessions[1].after = 7


def move(history: History) -> None:
    history.acknowledged[0] = replace(history.acknowledged[0], seq=3)


def swap(history: History) -> None:
    received = history.subscribers[0].sessions[0].received
    received[1], received[2] = received[2], received[1]


def skip(history: History) -> None:
    del history.subscribers[0].sessions[1].received[0]


def skip_between_connections(history: History) -> None:
    first, second = history.subscribers[0].sessions
    first.until = second.after = 7
    del second.received[0]


def repeat(history: History) -> None:
    first, second = history.subscribers[0].sessions
    second.received.insert(0, first.received[-1])


def rewind(history: History) -> None:
    history.subscribers[0].sessions[1].after = 4


def overtake(history: History) -> None:
    history.subscribers[0].sessions[0].until = 5
    history.subscribers[0].sessions[1].after = 5


def intrude(history: History) -> None:
    history.subscribers[1].sessions[0].received.insert(1, entry(3))


def garble(history: History) -> None:
    history.subscribers[0].sessions[0].received[2] = entry(4, "d")


def double(history: History) -> None:
    history.log.append(Entry(11, "c", "unit_put", history.log[3].unit))


def contradict(history: History) -> None:
    history.acknowledged[2] = replace(history.acknowledged[2], seq=6)


def starve(history: History) -> None:
    history.subscribers[1].sessions = [Session(0, 0)]


def forget(history: History) -> None:
    del history.consumers[0].delivered[4]


def insist(history: History) -> None:
    history.consumers[0].delivered.append(Delivery(2, history.log[0], 2, 30))


def share(history: History) -> None:
    history.consumers[0].cut[1] = 7


def hurry(history: History) -> None:
    history.consumers[1].asked[4] = 51


def mislay(history: History) -> None:
    history.placed.append(Placed("d", bytes([4])))


def tear(history: History) -> None:
    history.puts.append(Put("c", ("key7", "lost")))


def scatter(history: History) -> None:
    history.puts.append(Put("c", ("key7", "key9")))


def keep_lease(history: History) -> None:
    history.puts.append(Put("c", ("key7",), released=7))


def serve_foreign(history: History) -> None:
    history.foreign.append(Foreign("all", "g.3", 1, ""))


def drop_slow(history: History) -> None:
    history.subscribers[0].sessions[0].error = "busy"


def hide_by_id(history: History) -> None:
    history.reads[0] = replace(history.reads[0], found=frozenset())


def hide_in_page(history: History) -> None:
    history.reads[1] = replace(history.reads[1], found=frozenset())


def hide_in_search(history: History) -> None:
    history.reads[3] = replace(history.reads[3], behind=0)


def grant_twice(history: History) -> None:
    history.events.append(other(9, "lock_granted", agent="you", resources=["/7/x"], mode="shared", slots=0))


def end_twice(history: History) -> None:
    history.events.append(other(9, "lock_expired", token=1))


def overlap(history: History) -> None:
    history.tenures[1] = replace(history.tenures[1], began=4)


def accept_on_a_broken_disk(history: History) -> None:
    history.puts.append(Put("c", ("key9",), sent=9, answered=11))


def end_well(history: History) -> None:
    history.lives[0] = replace(history.lives[0], code=0)


def say_nothing(history: History) -> None:
    history.lives[0] = replace(history.lives[0], said="")


def invent(history: History) -> None:
    history.damaged[0].read[1]["unit"]["text"] = "wrong"


def turn_back(history: History) -> None:
    history.events[5]["ts"] = 4


def restore_less(history: History) -> None:
    del history.events[2]


def restore_something_else(history: History) -> None:
    history.events[2]["unit"]["text"] = "wrong"


def test_a_sound_history_passes() -> None:
    validators.check(sound())


@pytest.mark.parametrize(
    ("fault", "guarantee"),
    [
        (lose, validators.durable),
        (move, validators.durable),
        (hide, validators.covered),
        (resurrect, validators.covered),
        (pretend, validators.resumable),
        (swap, validators.ordered),
        (skip, validators.gapless),
        (skip_between_connections, validators.gapless),
        (repeat, validators.unique),
        (rewind, validators.resumable),
        (overtake, validators.resumable),
        (intrude, validators.filtered),
        (garble, validators.filtered),
        (double, validators.idempotent),
        (contradict, validators.idempotent),
        (forget, validators.acked),
        (insist, validators.acked),
        (share, validators.acked),
        (hurry, validators.acked),
        (starve, validators.caught_up),
        (mislay, validators.durable),
        (tear, validators.atomic),
        (scatter, validators.atomic),
        (keep_lease, validators.atomic),
        (serve_foreign, validators.never_silent),
        (drop_slow, validators.never_silent),
        (hide_by_id, validators.read_your_writes),
        (hide_in_page, validators.read_your_writes),
        (hide_in_search, validators.read_your_writes),
        (grant_twice, validators.exclusive),
        (end_twice, validators.exclusive),
        (overlap, validators.held_apart),
        (accept_on_a_broken_disk, validators.fail_stop),
        (end_well, validators.fail_stop),
        (say_nothing, validators.fail_stop),
        (invent, validators.fail_stop),
        (turn_back, validators.in_time),
        (restore_less, validators.restored),
        (restore_something_else, validators.restored),
    ],
)
def test_a_fault_is_noticed(fault: Callable[[History], None], guarantee: Callable[[History], None]) -> None:
    history = sound()
    guarantee(history)
    fault(history)
    with pytest.raises(BrokenError):
        guarantee(history)


def test_every_guarantee_has_a_fault_here() -> None:
    marks = test_a_fault_is_noticed.pytestmark  # type: ignore[attr-defined]
    assert {guarantee for _, guarantee in marks[0].args[1]} == set(validators.GUARANTEES)


def test_every_guarantee_is_named_in_the_docs() -> None:
    named = set(re.findall(r"\*\*([\w ]+)\*\*", GUARANTEES.read_text()))
    missing = {name for guarantee in validators.GUARANTEES if (name := guarantee.__name__.replace("_", " ").capitalize()) not in named}
    assert not missing


def test_what_damage_took_is_missed_by_nobody() -> None:
    """Where the store says what is lost, a seq may be missing, and a lease's end may follow no grant."""
    history = sound()
    assert history.present is not None
    history.present -= {1, 4}
    history.events = history.events[1:3] + history.events[4:]
    for guarantee in (validators.covered, validators.exclusive, validators.restored):
        with pytest.raises(BrokenError):
            guarantee(history)
    history.restored = Restored(events(), 6, frozenset({1, 4}))
    for guarantee in (validators.covered, validators.exclusive, validators.restored):
        guarantee(history)


def test_a_lease_whose_end_may_be_lost_is_in_nobodys_way() -> None:
    lease = {"agent": "me", "resources": ["/a"], "mode": "exclusive", "slots": 0}
    grants = [other(1, "lock_granted", **lease), other(3, "lock_granted", **lease), other(5, "lock_granted", **lease)]
    validators.leases(grants[:2], {2})
    with pytest.raises(BrokenError):
        validators.leases(grants, {2})
