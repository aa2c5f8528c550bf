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
    Redaction,
    RefusedRetry,
    Restored,
    Session,
    Sight,
    Subscriber,
    Tenure,
    Trim,
    Write,
    trims_of,
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
    shared = Consumer("shared", ["c"], None, got, {2: 4}, {2: 3}, {1: 5}, done={1})
    keyed = Consumer("keyed", [], "k", [Delivery(3, one, 1, 10 * one.seq) for one in log], {}, {one.seq: 10 * one.seq + 1 for one in log})
    keyed.done = {1}
    trimmed = Trim(7, "c", {1: bytes([1])}, frozenset({1}))
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


def tombstone(seq: int, event: int) -> Entry:
    """What is left of a unit that an event has redacted."""
    before = entry(seq)
    told = {"seq": event, "ts": event, "agent": "me", "reason": "so"}
    return replace(before, unit={**before.unit, "text": "", "meta": {}, "redacted": told})


def item(one: Entry) -> dict[str, Any]:
    """An entry as a stream of events gives it."""
    return {"cursor": f"h.{one.seq}", "kind": one.kind, "unit": {**one.unit, "ts": one.seq}}


def tended() -> History:
    """Units 2 to 5, 11 and 14, of which the last is a retry of the first. The third is pinned; the context keeps two, so the second and the
    fourth went, of which the consumer had done the second. The fifth was redacted. What was put is answered at 2, 21 and 41.

    Two readers: one that was told what went, and one that came when it had.
    """
    again = replace(entry(14), unit={**entry(14).unit, "text": "key2"})
    log = [entry(3), tombstone(5, 12), entry(11), again]
    took = {"context": "c", "entries": [[2, bytes([2])], [4, bytes([4])]], "removed": [2, 4]}
    middle = [
        other(6, "unit_pinned", context="c", unit=3),
        other(7, "retention_set", context="c", age=None, units=2, bytes=None),
        other(8, "consumer_acked", consumer="shared", done=[[2, 2]], entries=[]),
        other(9, "units_trimmed", **took),
        other(10, "consumer_missed", consumer="shared", entries=[4]),
        item(log[2]),
        other(12, "unit_redacted", context="c", agent="me", unit=5, id=bytes([5]), reason="so"),
        other(13, "erasures_finished", units=[5]),
    ]
    created = other(1, "consumer_created", consumer="shared", cursor=0)
    made = History(log, 14, events=[created, item(log[0]), item(log[1]), *middle, item(again)], present={1, 3, *range(5, 15)})
    made.trims = trims_of(made.events)
    texts = {2: "key2", 3: "key3", 4: "key4", 5: "key5", 11: "key11", 14: "key2"}
    moments = {11: 21, 14: 41}
    made.acknowledged = [Acknowledged("w", text, "c", bytes([seq]), seq, moments.get(seq, 2)) for seq, text in texts.items()]
    made.attempts = {("c", text): 1 for text in texts.values()}
    made.puts = [Put("c", ("key2",)), Put("c", ("key4", "key5")), Put("c", ("key11",))]
    made.placed = [Placed("c", bytes([4]))]
    made.refused = [RefusedRetry(Put("c", ("key3", "key4")), 3)]
    made.writes = [Write(2, 5, 1, 2), Write(11, 11, 20, 21), Write(14, 14, 40, 41)]
    made.sizes = {bytes([seq]): 5 for seq in texts}
    told = [Session(0, 2, [entry(2)], error="trimmed", began=3), Session(4, 14, [entry(5), *log[2:]], told=True, began=15)]
    made.subscribers = [Subscriber("told", sessions=told), Subscriber("late", ["c"], sessions=[Session(0, 14, log, began=30)])]
    got = [Delivery(1, entry(seq), 1, seq) for seq in (2, 3, 5)] + [Delivery(1, one, 1, one.seq, missed=1) for one in log[2:]]
    made.consumers = [Consumer("shared", delivered=got, asked={2: 6}, acked={2: 7}, missed=1)]
    late = {"client": "r", "sent": 31, "answered": 35}
    made.reads = [Read(**late, found=frozenset({bytes([3]), bytes([5]), bytes([11])}), context="c")]
    made.reads += [Read(**late, found=frozenset(), word="key5"), Read(**late, found=frozenset(), ids=frozenset({bytes([2])}))]
    made.redactions = [Redaction("me", "so", frozenset({bytes([5])}), 30)]
    made.sights = [Sight("r", "list", bytes([5]), 10)]
    made.leftovers = {"secret": []}
    return made


def trim(history: History, *entries: int, seq: int = 9) -> None:
    """Have the trim event take other entries."""
    history.trims[0] = Trim(seq, "c", {one: bytes([one]) for one in entries}, frozenset(entries))


def take_what_is_pinned(history: History) -> None:
    trim(history, 2, 3, 4)


def take_the_younger(history: History) -> None:
    history.log.insert(0, entry(2))
    trim(history, 4)


def take_too_much(history: History) -> None:
    history.events[4]["data"]["units"] = 3


def take_without_a_limit(history: History) -> None:
    del history.events[4]


def give_what_is_gone(history: History) -> None:
    history.reads[2] = replace(history.reads[2], found=frozenset({bytes([2])}))


def take_twice(history: History) -> None:
    history.trims.append(Trim(13, "c", {2: bytes([2])}, frozenset()))


def take_the_future(history: History) -> None:
    trim(history, 2, 4, seq=3)


def remove_an_event(history: History) -> None:
    assert history.present is not None
    history.present.remove(8)
    history.trims[0] = replace(history.trims[0], removed=frozenset({2, 4, 8}))


def take_and_keep(history: History) -> None:
    history.log.insert(1, entry(4))


def take_another(history: History) -> None:
    history.trims[0] = replace(history.trims[0], entries={2: bytes([2]), 4: bytes([7])})


def tear_where_nothing_went(history: History) -> None:
    history.puts.append(Put("c", ("lost", "key11")))


def pass_over_what_goes(history: History) -> None:
    history.subscribers[1].sessions[0].began = 0.5


def pass_over_what_went(history: History) -> None:
    history.subscribers[0].sessions[1] = replace(history.subscribers[0].sessions[1], after=2, told=False)


def send_elsewhere(history: History) -> None:
    history.subscribers[0].sessions[1].after = 5


def receive_another(history: History) -> None:
    history.subscribers[0].sessions[0].received = [entry(2, "d")]


def redact_the_agent(history: History) -> None:
    history.log[1].unit["agent"] = "nobody"


def deliver_another(history: History) -> None:
    history.consumers[0].delivered[0] = Delivery(1, entry(2, "d"), 1, 2)


def miss_without_a_word(history: History) -> None:
    del history.events[7]


def miss_what_was_done(history: History) -> None:
    history.events[7]["data"]["entries"] = [2, 4]


def miss_later(history: History) -> None:
    history.events.append(history.events.pop(7))


def miscount(history: History) -> None:
    history.consumers[0].missed = 0


def deliver_without_a_word(history: History) -> None:
    history.consumers[0].delivered[-1] = replace(history.consumers[0].delivered[-1], missed=0)


def show_what_is_redacted(history: History) -> None:
    history.sights[0] = replace(history.sights[0], sent=31)


def leave_the_text(history: History) -> None:
    history.log[1] = entry(5)


def leave_the_labels(history: History) -> None:
    history.log[1].unit["meta"] = {"k": "v"}


def redact_another(history: History) -> None:
    history.log[2] = tombstone(11, 12)


def redact_unasked(history: History) -> None:
    history.redactions = []


def answer_and_redact_nothing(history: History) -> None:
    history.redactions.append(Redaction("me", "so", frozenset({bytes([11])}), 30))


def leave_it_in_a_file(history: History) -> None:
    history.leftovers["secret"] = ["log/000005.ldb"]


def hide_what_is_kept(history: History) -> None:
    history.reads[0] = replace(history.reads[0], found=frozenset({bytes([3]), bytes([5])}))


def hide_what_will_be_redacted(history: History) -> None:
    history.reads[1] = replace(history.reads[1], sent=3, answered=15)


def put_again_too_soon(history: History) -> None:
    trim(history, 2, 4, seq=15)


def refuse_what_is_there(history: History) -> None:
    history.refused = [RefusedRetry(Put("c", ("key11", "rest")), 11)]


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


def test_a_sound_history_with_retention_and_redaction_passes() -> None:
    validators.check(tended())


@pytest.mark.parametrize(
    ("fault", "guarantee"),
    [
        (take_what_is_pinned, validators.retained),
        (take_the_younger, validators.retained),
        (take_too_much, validators.retained),
        (take_without_a_limit, validators.retained),
        (give_what_is_gone, validators.retained),
        (take_twice, validators.covered),
        (take_the_future, validators.covered),
        (remove_an_event, validators.covered),
        (take_and_keep, validators.covered),
        (take_another, validators.durable),
        (tear_where_nothing_went, validators.atomic),
        (pass_over_what_goes, validators.gapless),
        (pass_over_what_went, validators.gapless),
        (send_elsewhere, validators.resumable),
        (receive_another, validators.filtered),
        (redact_the_agent, validators.filtered),
        (deliver_another, validators.acked),
        (miss_without_a_word, validators.acked),
        (miss_without_a_word, validators.counted),
        (miss_what_was_done, validators.counted),
        (miss_later, validators.counted),
        (miscount, validators.counted),
        (deliver_without_a_word, validators.counted),
        (show_what_is_redacted, validators.redacted),
        (leave_the_text, validators.redacted),
        (leave_the_labels, validators.redacted),
        (redact_another, validators.redacted),
        (redact_unasked, validators.redacted),
        (answer_and_redact_nothing, validators.redacted),
        (leave_it_in_a_file, validators.erased),
        (hide_what_is_kept, validators.read_your_writes),
        (hide_what_will_be_redacted, validators.read_your_writes),
        (put_again_too_soon, validators.idempotent),
        (refuse_what_is_there, validators.idempotent),
    ],
)
def test_a_fault_of_retention_or_redaction_is_noticed(fault: Callable[[History], None], guarantee: Callable[[History], None]) -> None:
    history = tended()
    guarantee(history)
    fault(history)
    with pytest.raises(BrokenError):
        guarantee(history)


def test_a_reader_of_labels_gets_what_went_unless_that_had_lost_them() -> None:
    history = tended()
    history.subscribers = [*history.subscribers, Subscriber("labels", meta={"k": "v"}, sessions=[Session(1, 3, [entry(3)])])]
    with pytest.raises(BrokenError):
        validators.gapless(history)
    history.events.append(other(15, "unit_redacted", context="c", agent="me", unit=2, id=bytes([2]), reason="so"))
    validators.gapless(history)


def test_a_pin_knows_the_unit_of_an_addition() -> None:
    history = tended()
    history.events[3]["data"]["unit"] = 1
    with pytest.raises(BrokenError):
        validators.retained(history)
    for one in history.seen():
        one.unit.update({"seq": 1} if one.seq == 3 else {})
    validators.retained(history)
    history.born = {bytes([4]): 1}
    with pytest.raises(BrokenError):
        validators.retained(history)


@pytest.mark.parametrize(("limits", "is_over"), [({"bytes": 14}, True), ({"bytes": 15}, False), ({"age": 4}, True), ({"age": 5}, False)])
def test_the_last_that_went_was_too_large_or_too_old(limits: dict[str, int], is_over: bool) -> None:
    """Unit 4 of the moment 4 went at the moment 9; before it went there were three of five bytes."""
    history = tended()
    history.events[4]["data"].update({"units": None, **limits})
    for one in history.seen():
        one.unit["ts"] = one.seq
    history.subscribers[0].sessions[0].received.append(replace(entry(4), unit={**entry(4).unit, "ts": 4}))
    if is_over:
        validators.retained(history)
    else:
        with pytest.raises(BrokenError):
            validators.retained(history)


def test_what_was_taken_behind_a_backup_is_there_again() -> None:
    history = tended()
    backup = [entry(seq) for seq in (2, 3, 4, 5)]
    history.restored = Restored(history.events, 8)
    others = [event for event in history.events if event["kind"] not in ("unit_put", "units_trimmed", "unit_redacted")]
    history.events, history.trims = sorted([*map(item, backup), *others], key=validators.seq_of), []
    validators.restored(history)
    history.events = [event for event in history.events if validators.seq_of(event) != 3]
    with pytest.raises(BrokenError):
        validators.restored(history)


def test_what_is_taken_since_a_backup_is_not_there() -> None:
    history = tended()
    before = [*map(item, map(entry, (2, 3, 4, 5)))]
    history.restored = Restored([event for event in history.events if event["kind"] != "unit_put"][:4] + before, 8)
    validators.restored(history)
    history.restored = Restored(history.restored.before, 8)
    history.trims = []
    with pytest.raises(BrokenError):
        validators.restored(history)


def test_a_damaged_store_may_have_lost_that_something_was_taken() -> None:
    history = tended()
    read = [item(entry(seq)) for seq in (2, 3, 4, 5)]
    history.damaged = [Damaged(history.events, read)]
    validators.fail_stop(history)
    for event in (history.events[6], history.events[9]):
        history.damaged = [Damaged(history.events, [*read, event])]
        with pytest.raises(BrokenError):
            validators.fail_stop(history)


def test_every_guarantee_has_a_fault_here() -> None:
    tests = test_a_fault_is_noticed, test_a_fault_of_retention_or_redaction_is_noticed
    faults = [fault for test in tests for fault in test.pytestmark[0].args[1]]  # type: ignore[attr-defined]
    assert {guarantee for _, guarantee in faults} == set(validators.GUARANTEES)


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
