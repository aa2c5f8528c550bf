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
