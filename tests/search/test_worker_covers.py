"""The worker says up to where a search saw the log, also when it is told more while it waits for the texts of hits."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

import cbor2
from naive import Ledger

from engramd.protocol.framing import FrameDecoder, encode, frame
from engramd.search.embedder import StaticEmbedder
from engramd.search.worker import MAX_FRAME, Worker


class Teller:
    """The daemon's end of a worker's socket."""

    def __init__(self, ours: socket.socket) -> None:
        self._socket = ours
        self._socket.settimeout(30)
        self._decoder = FrameDecoder(MAX_FRAME)
        self._heard: list[dict[str, Any]] = []

    def say(self, **message: Any) -> None:
        self._socket.sendall(frame(encode(message)))

    def hear(self) -> dict[str, Any]:
        """What the worker says next."""
        while not self._heard:
            self._heard += map(cbor2.loads, self._decoder.feed(self._socket.recv(65536)))
        return self._heard.pop(0)


def test_what_is_absorbed_while_texts_are_fetched_was_not_seen(tmp_path: Path, embedder: StaticEmbedder, ledger: Ledger) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        worker = Worker(theirs, tmp_path / "search", embedder, "0123456789ab", 1)
        thread = threading.Thread(target=worker.run)
        thread.start()
        teller = Teller(ours)
        assert teller.hear()["covers"] == 0
        ledger.put("an early zebra")
        first = ledger.last
        teller.say(feed=ledger.events, upto=first)
        assert teller.hear()["covers"] == first
        teller.say(search=1, after=first, query="zebra", mode="keyword")
        assert teller.hear()["need"] == 1
        ledger.put("a late zebra")
        teller.say(feed=[event for event in ledger.events if event[0] > first], upto=ledger.last)
        assert teller.hear()["covers"] == ledger.last
        teller.say(texts=["an early zebra"], id=1)
        found = teller.hear()
        assert (found["covers"], len(found["page"][0])) == (first, 1)
        ours.shutdown(socket.SHUT_WR)
        thread.join(30)
    assert not thread.is_alive()
