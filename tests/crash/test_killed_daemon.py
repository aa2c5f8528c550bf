"""A daemon that is killed without warning, again and again, under eight writers: what it acknowledged is there, once and in order."""

from __future__ import annotations

import random
import threading
from collections import Counter
from typing import Any, NamedTuple

import pytest
from daemons import WAIT, Blocking, Daemon

from engramd.protocol.errors import EngramError

WRITERS = 8
ROUNDS = 6


class Acknowledged(NamedTuple):
    """What a writer was told of one of its units."""

    key: str
    id: bytes
    seq: int


class Writers:
    """Threads that put numbered units over connections of their own until the daemon is gone."""

    def __init__(self, daemon: Daemon, round_: int) -> None:
        self.acknowledged: list[Acknowledged] = []
        self.surprises: list[BaseException] = []
        self._daemon = daemon
        self._round = round_
        self._heard = threading.Condition()
        self._threads = [threading.Thread(target=self._run, args=(number,), name=f"writer {number}") for number in range(WRITERS)]
        for thread in self._threads:
            thread.start()

    def wait_for(self, count: int) -> None:
        """Wait until so many units are acknowledged."""
        with self._heard:
            assert self._heard.wait_for(lambda: len(self.acknowledged) >= count or self.surprises, WAIT)
        assert not self.surprises

    def join(self) -> None:
        """Wait until every writer has noticed."""
        for thread in self._threads:
            thread.join(WAIT)
            assert not thread.is_alive()

    def _run(self, number: int) -> None:
        rng = random.Random(self._round * WRITERS + number)
        try:
            with self._daemon.connect(f"writer{number}") as client:
                self._write(client, rng, f"{self._round}.{number}")
        except (ConnectionError, EngramError) as error:
            if isinstance(error, EngramError) and error.code != "unavailable":
                self.surprises.append(error)
        except BaseException as error:
            self.surprises.append(error)

    def _write(self, client: Blocking, rng: random.Random, name: str) -> None:
        """Single puts, pipelined ones, and puts of several units."""
        last = 0
        while True:
            sent = []
            for _ in range(rng.choice((1, 1, 4))):
                size = rng.choice((1, 1, 3))
                keys = [f"{name}:{last + at}" for at in range(1, size + 1)]
                last += size
                units = [{"text": key.ljust(rng.choice((0, 100, 5000)))} for key in keys]
                sent.append((keys, client.send("put", context=f"c{rng.randrange(3)}", units=units, dedupe=keys[0])))
            for keys, request in sent:
                answer = client.answer(request)
                first = answer["seq"] - len(keys) + 1
                with self._heard:
                    for at, key in enumerate(keys):
                        self.acknowledged.append(Acknowledged(key, answer["ids"][at], first + at))
                    self._heard.notify_all()


def whole_log(daemon: Daemon) -> list[dict[str, Any]]:
    """Every event of the log."""
    with daemon.connect() as client:
        return client.replay(events=True)


def check(events: list[dict[str, Any]], acknowledged: list[Acknowledged]) -> None:
    """What every restart must find."""
    seqs = [int(event["cursor"].split(".")[1]) for event in events]
    assert seqs == list(range(1, len(seqs) + 1)), "gapless from 1"
    units = {event["unit"]["text"].strip(): event["unit"] for event in events if event["kind"] == "unit_put"}
    texts = Counter(event["unit"]["text"].strip() for event in events if event["kind"] == "unit_put")
    assert max(texts.values()) == 1, "nothing twice"
    for key, unit_id, seq in acknowledged:
        assert key in units, f"{key} was acknowledged and is gone"
        assert (units[key]["id"], units[key]["seq"]) == (unit_id, seq)
    order: dict[str, int] = {}
    for key in texts:
        writer, number = key.split(":")
        assert int(number) == order.get(writer, 0) + 1, "what a writer sent later is there only if what it sent before is"
        order[writer] = int(number)


def test_every_kill_leaves_what_was_acknowledged(daemon: Daemon) -> None:
    rng = random.Random(11)
    acknowledged: list[Acknowledged] = []
    for round_ in range(ROUNDS):
        assert daemon.start() == "ready"
        if round_:
            check(whole_log(daemon), acknowledged)
        writers = Writers(daemon, round_)
        writers.wait_for(rng.randrange(1, 400))
        daemon.kill()
        writers.join()
        assert not writers.surprises
        acknowledged += writers.acknowledged
    assert daemon.start() == "ready"
    events = whole_log(daemon)
    check(events, acknowledged)
    assert len({cursor["cursor"].split(".")[0] for cursor in events}) == 1, "a restart keeps the history"
    retry_what_was_in_flight(daemon, events)
    daemon.stop()


def retry_what_was_in_flight(daemon: Daemon, events: list[dict[str, Any]]) -> None:
    """A retry with its dedupe key finds out what became of a put, and does not do it again."""
    last = events[-1]["unit"]
    with daemon.connect() as client:
        key = last["text"].strip()
        for _ in range(2):
            answer = client.ask("put", context=last["context"], text="again", dedupe=f"retry of {key}")
        assert answer["deduped"]
        puts = [event["unit"] for event in events if event["kind"] == "unit_put"]
        first = next(unit for unit in puts if unit["text"].strip().endswith(":1"))
        again = client.ask("put", context=first["context"], units=[{"text": "again"}], dedupe=first["text"].strip())
        assert again["deduped"]
        assert again["ids"][0] == first["id"]


@pytest.mark.parametrize("by_client", [False, True])
def test_stopping_under_load_is_prompt_and_loses_nothing(daemon: Daemon, by_client: bool) -> None:
    assert daemon.start() == "ready"
    writers = Writers(daemon, 0)
    writers.wait_for(100)
    if by_client:
        with daemon.connect() as client:
            assert client.ask("shutdown") == {}
        assert daemon.wait() == 0
    else:
        daemon.stop()
    writers.join()
    assert not writers.surprises, "a writer is told that the daemon stops, or hung up on"
    assert not daemon.socket_path.exists()
    assert daemon.start() == "ready"
    check(whole_log(daemon), writers.acknowledged)
    daemon.stop()


def test_a_reader_resumes_across_a_kill(daemon: Daemon) -> None:
    assert daemon.start() == "ready"
    with daemon.connect() as client:
        for number in range(20):
            client.ask("put", context="c", text=str(number))
        before = client.replay(contexts=["c"])
        client.ask("put", context="c", text="20")
    daemon.kill()
    assert daemon.start() == "ready"
    with daemon.connect() as client:
        client.ask("put", context="c", text="21")
        after = client.replay(contexts=["c"], after=before[9]["cursor"])
        assert [event["unit"]["text"] for event in before[:10] + after] == [str(number) for number in range(22)]
        assert after[:10] == before[10:]
    daemon.stop()


def test_a_second_daemon_is_refused_and_harms_nothing(daemon: Daemon) -> None:
    assert daemon.start() == "ready"
    assert daemon.process is not None
    other = Daemon(daemon.socket_path.with_name("other"), daemon.data_dir)
    try:
        said = other.start()
        assert other.wait() == 75
        assert str(daemon.process.pid) in said
        same_socket = Daemon(daemon.socket_path, daemon.data_dir.with_name("other-data"))
        said = same_socket.start()
        assert same_socket.wait() == 75
        assert str(daemon.socket_path) in said
    finally:
        other.end()
    with daemon.connect() as client:
        assert client.ask("put", context="c", text="still here")["seq"] == 2
    daemon.stop()
