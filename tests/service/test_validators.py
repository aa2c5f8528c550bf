"""The validators themselves: each one notices the fault it is for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import validators
from validators import Acknowledged, BrokenError, Consumer, Delivery, Entry, History, Session, Subscriber, Trim


def entry(seq: int, context: str = "c") -> Entry:
    unit = {"id": bytes([seq]), "agent": "even" if seq % 2 == 0 else "odd", "type": "message", "meta": {}, "text": f"key{seq}"}
    return Entry(seq, context, "unit_put", unit)


def sound() -> History:
    """Nine entries, two writers, a reader of all that was cut off once, and one of the even ones."""
    log = [entry(seq) for seq in range(2, 11)]
    told = [Acknowledged("w", f"key{seq}", "c", bytes([seq]), seq) for seq in (2, 5, 5, 9)]
    everything = Subscriber("all", sessions=[Session(0, 6, log[:5]), Session(6, 10, log[5:])])
    even = Subscriber("even", ["c"], ["even"], sessions=[Session(0, 11, [entry(seq) for seq in (2, 4, 6, 8, 10)])])
    got = [Delivery(1, log[0], 1, 1), Delivery(1, log[1], 1, 2), Delivery(2, log[1], 2, 6)]
    got += [Delivery(2, entry, 1, number) for number, entry in enumerate(log[2:], 8)]
    shared = Consumer("shared", ["c"], None, got, {2: 4}, {2: 3}, {1: 5})
    keyed = Consumer("keyed", [], "k", [Delivery(3, one, 1, 10 * one.seq) for one in log], {}, {one.seq: 10 * one.seq + 1 for one in log})
    trimmed = Trim("c", frozenset({1}), frozenset({1}))
    return History(log, 10, told, {("c", "key5"): 2}, [everything, even], [shared, keyed], set(range(2, 11)), [trimmed])


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
