"""The worker: one loop that absorbs what the daemon feeds it and answers what the daemon asks.

Frames go both ways over a socket pair, each a CBOR map as on the wire:

    daemon -> worker   {feed: [[seq, code, body], ...], upto}     events in order; the log is covered up to `upto`
                       {search: id, after, ...}                   a search that must see everything up to `after`
                       {search: id, after, rank: {...}}           the same, for a pack: the answer's page is seqs, best first
                       {search: id, after, count: [text]}         how many tokens texts are, by the tokenizer: the page is numbers
                       {texts: id, texts: [text / nil]}           what was asked for with `need`
                       {drop: id}                                 nobody waits for that search any more
    worker -> daemon   {covers, facts}                            at the start, and after each feed: what it covers now
                       {need: id, seqs: [seq]}                    a search needs the texts of these entries
                       {found: id, covers, page}                  the answer to a search
                       {failed: id, error}                        or why there is none

Searches come before feeding, feeding before housekeeping (writing, merging, training), which is done in small steps. The end of the
socket is the end of the worker: it never outlives its daemon.
"""

from __future__ import annotations

import logging
import select
import socket
from collections import deque
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, NoReturn

import cbor2

from ..protocol.errors import EngramError
from ..protocol.framing import FrameDecoder, frame
from ..storage.leveldb import Damage
from ..storage.records import UNIT_REDACTED
from . import packs, ranking
from .embedder import Embedder
from .index import Index, throw_away
from .tokenizers import Tokenizer, opened

logger = logging.getLogger("engramd.search")

MAX_FRAME = 64 * 1024 * 1024
READ_BYTES = 1024 * 1024
IDLE_FLUSH = 256  # new docs that are worth a write before the worker ends
ANEW = "%s; it is made anew from the log"

Steps = Generator[list[int], ranking.Texts, Any]


class _Search:
    """A search under way; `begin` gives its steps, `covers` is up to where it sees the log: more is absorbed while it waits for texts."""

    def __init__(self, number: int, after: int, begin: Callable[[], Steps]) -> None:
        self.id, self.after, self.begin = number, after, begin
        self.steps: Steps | None = None
        self.texts: list[str | None] | None = None
        self.waits = False
        self.covers = 0


class Worker:
    """The worker's side of the socket pair.

    Args:
        ours: the connected socket.
        directory: of the index.
        history, last_seq: of the log.
        tokenizer: the file of what counts tokens, if there is one; it is read when it is first needed.
    """

    def __init__(
        self,
        ours: socket.socket,
        directory: Path,
        embedder: Embedder,
        history: str,
        last_seq: int,
        tokenizer: Path | None = None,
    ) -> None:
        self._tokenizer_file = tokenizer
        self._tokenizer: Tokenizer | None = None
        self._socket = ours
        self._decoder = FrameDecoder(MAX_FRAME)
        self._directory, self._embedder = directory, embedder
        self._history, self._last_seq = history, last_seq
        self._index = self._open()
        self._memory = ranking.Memory()
        self._feeds: deque[dict[str, Any]] = deque()
        self._searches: dict[int, _Search] = {}

    def _open(self) -> Index:
        """The index; a damaged one is made anew."""
        try:
            return Index(self._directory, self._embedder, self._history, self._last_seq)
        except Damage as damage:
            logger.warning(ANEW, damage.message)
            throw_away(self._directory)
            return Index(self._directory, self._embedder, self._history, self._last_seq)

    def run(self) -> None:
        """Serve until the daemon hangs up. An index that turns out to be damaged is thrown away: the next worker makes it anew."""
        try:
            self._serve()
        except Damage as damage:
            self._begin_anew(damage.message, damage.exit_code)

    def _serve(self) -> None:
        self._say_covers()
        while self._read(0.0 if self._busy() else self._patience()):
            self._work()
        if len(self._index) - self._index.flushed_docs >= IDLE_FLUSH:
            self._index.flush()
        self._index.close()

    # In and out

    def _read(self, timeout: float | None) -> bool:
        """Take what has arrived; False at the end of the socket."""
        if select.select([self._socket], [], [], timeout)[0]:
            data = self._socket.recv(READ_BYTES)
            if not data:
                return False
            for body in self._decoder.feed(data):
                self._take(cbor2.loads(body))
        return True

    def _take(self, message: dict[str, Any]) -> None:
        if "feed" in message:
            self._feeds.append(message)
        elif "search" in message:
            number, after = message.pop("search"), message.pop("after")
            self._searches[number] = _Search(number, after, lambda: self._begin(message))
        elif "texts" in message and message["id"] in self._searches:
            self._searches[message["id"]].texts = message["texts"]
        elif "drop" in message:
            self._searches.pop(message["drop"], None)

    def _begin(self, message: dict[str, Any]) -> Steps:
        """The steps of what was asked. Packs need no texts: theirs are over at once."""
        if "rank" in message:
            return packs.rank(self._index, packs.Request(**message["rank"]))
        if "count" in message:
            if self._tokenizer_file is None:
                raise EngramError(
                    "invalid", "counter: this daemon has no tokenizer; start it with --tokenizer FILE, or count by the estimate"
                )
            if self._tokenizer is None:
                self._tokenizer = opened(self._tokenizer_file)
            return [self._tokenizer.name, [self._tokenizer.count(text) for text in message["count"]]]
        return (yield from ranking.search(self._index, ranking.request_of(message), self._memory))

    def _send(self, message: dict[str, Any]) -> None:
        self._socket.sendall(frame(cbor2.dumps(message)))

    def _say_covers(self) -> None:
        self._send({"covers": self._index.covers, "facts": self._index.facts()})

    # Work

    def _busy(self) -> bool:
        return (bool(self._feeds) and not self._index.stuck) or self._next_search() is not None or self._index.has_chores

    def _patience(self) -> float | None:
        return 0.2 if self._index.waits else None

    def _work(self) -> None:
        """One thing, the most urgent first."""
        if (search := self._next_search()) is not None:
            self._advance(search)
        elif self._index.stuck:
            self._index.do_chore()
        elif self._feeds:
            message = self._feeds.popleft()
            self._index.absorb(message["feed"], message["upto"])
            if any(code == UNIT_REDACTED for _, code, _ in message["feed"]):
                self._memory = ranking.Memory()
            if self._index.is_worn:
                self._begin_anew("the log has lost most of what the index has", 0)
            self._say_covers()
            if self._index.wants_flush:
                self._index.flush()
        elif self._index.has_chores:
            self._index.do_chore()

    def _begin_anew(self, why: str, code: int) -> NoReturn:
        """Throw the index away and end; the daemon starts another worker, which makes it from the log."""
        logger.warning(ANEW, why)
        self._index.close()
        throw_away(self._directory)
        raise SystemExit(code)

    def _next_search(self) -> _Search | None:
        """The first search that can go on."""
        for search in self._searches.values():
            if (search.texts is not None) if search.waits else search.after <= self._index.covers:
                return search
        return None

    def _advance(self, search: _Search) -> None:
        try:
            if search.steps is None:
                search.steps, search.covers = search.begin(), self._index.covers
                seqs = next(search.steps)
            else:
                texts, search.texts = search.texts, None
                seqs = search.steps.send(texts or [])
            search.waits = True
            self._send({"need": search.id, "seqs": seqs})
        except StopIteration as stop:
            del self._searches[search.id]
            self._send({"found": search.id, "covers": search.covers, "page": stop.value})
        except EngramError as error:
            if error.code == "storage":
                raise
            del self._searches[search.id]
            self._send({"failed": search.id, "error": error.to_wire()})
