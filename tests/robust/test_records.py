"""What becomes of a record whose client is killed, and of what several connections noted."""

from __future__ import annotations

from pathlib import Path

from validators import Outage, Put

from .history import LIFE, Era, Past, Recorded
from .record import Record, lines


def test_a_torn_line_is_left_out_and_the_next_client_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "w.jsonl"
    Record(path).note("got", event={"unit": {"id": b"\x01\xff"}})
    with path.open("ab") as file:
        file.write(b'{"t": 5, "did": "g')
    Record(path).note("killed")
    got, killed = lines(path)
    assert (got["event"], killed["did"]) == ({"unit": {"id": b"\x01\xff"}}, "killed")
    assert got["t"] < killed["t"]


def test_what_connections_noted_goes_to_their_history_and_life(tmp_path: Path) -> None:
    """A member that was stopped notes late what the first daemon gave it; by then another one has acknowledged that to the second."""
    late, other = Record(tmp_path / "late.jsonl"), Record(tmp_path / "other.jsonl")
    event = {"cursor": "h.2", "kind": "unit_put", "deliveries": 1, "unit": {"context": "a", "id": b"2", "text": "x", "meta": {}, "ts": 1}}
    late.note("opened", c="1", pid=10, history="h")
    late.note("sent", c="1", id=1, op="consume", fields={"consumer": "all"})
    other.note("opened", c="2", pid=20, history="h")
    other.note("sent", c="2", id=1, op="consume", fields={"consumer": "all"})
    other.note("got", c="2", id=1, event=event)
    other.note("sent", c="2", id=2, op="ack", fields={"consumer": "all", "entries": ["h.2"]})
    other.note("answered", c="2", id=2, result={"changed": True})
    late.note("got", c="1", id=1, event=event)
    other.note("sent", c="2", id=3, op="put", fields={"context": "a", "text": "y"})
    other.note("killed")
    past = Past([Era("h", [event], is_last=True), Era("g", [event])], pids=[10, 20], outages=[Outage(1, 2)])
    recorded = Recorded.read(tmp_path, past)
    here, there = recorded.histories()
    consumer = here.consumers[0]
    first, second = sorted(consumer.delivered, key=lambda delivery: delivery.number)
    assert first.number < 2 * LIFE < second.number, "by life, not by when it was noted"
    assert consumer.acked[2] > second.number
    assert list(consumer.cut) == [second.connection]
    assert [put.texts for put in here.puts] == [("y",)]
    assert here.puts[0] == Put("a", ("y",), 0, here.puts[0].sent)
    assert not there.puts
    assert not there.consumers[0].delivered


def test_what_was_asked_of_retention_and_redaction_is_known(tmp_path: Path) -> None:
    """A reader that is told what went, a retry that is refused for it, a redaction, and who saw the unit before and after."""
    reader, writer, eraser = (Record(tmp_path / f"{name}.jsonl") for name in ("everything", "writer1", "eraser"))
    unit = {"id": b"5", "seq": 5, "context": "a", "agent": "eraser", "text": "word 5ec2e7", "meta": {"s": "1abe1"}, "ts": 1}
    for number, record in enumerate((reader, writer, eraser)):
        record.note("opened", c=str(number), pid=10, history="h")
    reader.note("sent", c="0", id=1, op="tail", fields={"after": 0, "follow": True})
    reader.note("got", c="0", id=1, event={"cursor": "h.5", "kind": "unit_put", "unit": unit})
    reader.note("answered", c="0", id=1, error={"code": "trimmed", "details": {"cursor": "h.7", "seq": 7}})
    reader.note("sent", c="0", id=2, op="tail", fields={"after": "h.7", "follow": True})
    writer.note("sent", c="1", id=1, op="put", fields={"context": "a", "units": [{"text": "x"}, {"text": "y"}], "dedupe": "k"})
    writer.note("answered", c="1", id=1, error={"code": "trimmed", "details": {"seq": 6}})
    eraser.note("sent", c="2", id=1, op="put", fields={"context": "a", "text": "word 5ec2e7", "meta": {"s": "1abe1"}})
    eraser.note("answered", c="2", id=1, result={"id": b"5", "seq": 5, "deduped": False})
    eraser.note("sent", c="2", id=2, op="redact", fields={"ids": [b"5"], "reason": "so"})
    eraser.note("answered", c="2", id=2, result={"redacted": [5], "erased": True})
    eraser.note("sent", c="2", id=3, op="list", fields={"context": "a"})
    eraser.note("answered", c="2", id=3, result={"units": [{"id": b"5", "seq": 5, "shown": False}], "next": None})
    store = tmp_path / "store"
    store.mkdir()
    (store / "1.log").write_bytes(b"..1abe1..")
    redacted = {"cursor": "h.8", "seq": 8, "ts": 1, "kind": "unit_redacted", "data": {"id": b"5", "unit": 5}}
    trimmed = {
        "cursor": "h.9",
        "seq": 9,
        "ts": 1,
        "kind": "units_trimmed",
        "data": {"context": "a", "entries": [[7, b"7"]], "removed": [7]},
    }
    past = Past([Era("h", [redacted, trimmed], is_last=True)], pids=[10], stores=[store])
    (history,) = Recorded.read(tmp_path, past).histories()
    assert [(session.after, session.told) for session in history.subscribers[0].sessions] == [(0, False), (7, True)]
    assert [(refused.put.texts, refused.seq) for refused in history.refused] == [(("x", "y"), 6)]
    (redaction,) = history.redactions
    assert (redaction.agent, redaction.reason, redaction.ids) == ("eraser", "so", frozenset({b"5"}))
    assert [(sight.client, sight.op, sight.id) for sight in history.sights] == [("everything", "tail", b"5")]
    assert history.sights[0].sent < redaction.answered
    assert (history.sizes, history.born) == ({b"5": 17}, {b"5": 5})
    assert [(write.first, write.last) for write in history.writes] == [(5, 5)]
    assert [(trim.seq, trim.entries, trim.removed) for trim in history.trims] == [(9, {7: b"7"}, frozenset({7}))]
    assert history.leftovers == {"5ec2e7": [], "1abe1": [str(store / "1.log")]}
