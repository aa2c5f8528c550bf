"""`search`: keeps the search worker running and fed, and puts clients' questions to it.

The worker is a process of its own, started by the first search; until then there is none. It is fed from the log, a few events at a time
and never more than it has room for, so that neither writers nor other readers wait for it. When it dies, it is started again, goes on where
its index ends, and is asked again what it had not answered.
"""

from __future__ import annotations

import itertools
import logging
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cbor2
import trio

from ..protocol.connection import Id
from ..protocol.cursor import Place, format_place, parse_place
from ..protocol.errors import EngramError
from ..protocol.framing import FrameDecoder, encode, encode_array, encode_map, frame
from ..protocol.messages import MIB, PAGE_BYTES
from ..protocol.times import format_ts
from ..shapes import NamedTuple
from ..state.view import TRIMMED
from ..storage.log import Log
from ..storage.query import present_entry
from ..storage.records import ENTRIES, UNIT_ADDED, UNIT_PUT, UNIT_REDACTED, UNIT_REMOVED, UNITS_TRIMMED, Record, is_trimmed
from .access import Sight
from .filters import read_filter, read_instant
from .peer import Peer
from .status import memory

if TYPE_CHECKING:
    from .engine import Engine

logger = logging.getLogger("engramd.search")

LIMIT = 20  # hits of a page, unless it says otherwise
WAIT_MILLISECONDS = 5000  # that a search waits for the index, unless it says otherwise
FEED_EVENTS = 128  # events looked at for one feed
FEED_BYTES = 128 * 1024  # and about how many bytes it has
FEEDS = 2  # feeds under way
NAP = 0.05  # seconds that a few new events wait for more, unless somebody searches: a feed for every put would cost the writers
TEXT_BYTES = 256 * 1024  # of a payload that the worker is given; of a text, characters
TEXTS_CHARACTERS = 1024 * 1024  # in one answer to the worker, about
MAX_FRAME = 64 * MIB
MAX_ASKED = 64  # searches under way
MAX_TRIES = 3  # workers that a search may cost
MAX_WORDS = 4096  # bytes of a line that the worker says
STARTING = 30.0  # seconds a worker may take to be there
ENDING = 2.0  # seconds it may take to end
QUICK = 10.0  # seconds: a worker that ends sooner is started again later and later
SLOWEST = 10.0  # seconds
SILENT = 180.0  # seconds of silence after which a worker that owes an answer is taken for stuck: longer than an embedder may take
SEARCHED = frozenset({UNIT_PUT, UNIT_ADDED, UNIT_REMOVED, UNITS_TRIMMED, UNIT_REDACTED})


class Settings(NamedTuple):
    """Where the index is, the embedder's option, and the file of the tokenizer, if there is one."""

    directory: Path
    embedder: str = "builtin"
    tokenizer: str = ""


class Asked:
    """A search under way: what the worker is asked, and what came of it.

    Attributes:
        done: set when there is an answer, an error, or no worker any more.
    """

    def __init__(self, fields: dict[str, Any]) -> None:
        self.fields = fields
        self.found: dict[str, Any] | None = None
        self.error: EngramError | None = None
        self.done = trio.Event()


class Search:
    """The daemon's side of the search worker.

    Args:
        settings: None where there is nothing to search with.
        heed: told of what kept the log from being read.

    Attributes:
        covers: the seq up to which the worker's index covers the log.
        restarts: how many workers have ended.
    """

    def __init__(self, log: Log, settings: Settings | None, heed: Callable[[EngramError], None] = lambda error: None) -> None:
        self._log = log
        self._settings = settings
        self._heed = heed
        self._needed = trio.Event()
        self._progress = trio.Event()
        self._hurry = trio.Event()  # set while somebody searches
        self._numbers = itertools.count(1)
        self._asked: dict[int, Asked] = {}
        self._stream: trio.SocketStream | None = None
        self._sending = trio.Lock()
        self._sent = 0
        self._feeds = 0
        self._heard = 0  # how often the worker has said anything
        self._process: trio.Process | None = None
        self._said = ""  # the worker's last words
        self._failure = ""  # when the last worker that has ended did so, and why
        self.restarts = 0
        self._quick = 0  # how many workers in a row have ended soon
        self._facts: dict[str, Any] = {}
        self.covers = 0

    # For the engine

    def notice(self) -> None:
        """The log has grown."""
        if self._stream is not None:
            self._tell()

    @property
    def embedder(self) -> str:
        """The embedder's option; nothing where there is no searching."""
        return "" if self._settings is None else self._settings.embedder

    @property
    def lag(self) -> int:
        """Events that the index has not absorbed, also while no worker runs; 0 before the first one has said how far it is."""
        return self._log.last_seq - self.covers if self._facts else 0

    def status(self) -> dict[str, Any]:
        """What `status` tells of searching."""
        if not self._needed.is_set():
            return {"state": "off"}
        failed = {"restarts": self.restarts, "last_failure": self._failure} if self._failure else {}
        if self._stream is None or self._process is None:
            return {"state": "starting", **failed}
        behind, pid = self._log.last_seq - self.covers, self._process.pid
        state = {"state": "behind" if behind else "ready", "behind": behind, "covers": self.covers, "pid": pid}
        return {**state, "memory_bytes": memory(pid), **self._facts, **failed}

    async def ask(self, fields: dict[str, Any], wait: float, upto: int | None = None) -> dict[str, Any]:
        """Have the worker search, once it was told all that is on disk now or `wait` seconds are over.

        Args:
            upto: the seq up to which it must have been told the log, or there is no answer.

        Returns:
            `covers`, the seq up to which it saw the log, and `page`.

        Raises:
            EngramError: `invalid` for a query that cannot be read, `busy` when too many searches are under way, `timeout` when it was not
                told enough in time, `unavailable` when there is no worker to be had.
        """
        if self._settings is None:
            raise EngramError("unavailable", "this daemon cannot search: it was given no place for an index")
        if len(self._asked) >= MAX_ASKED:
            raise EngramError("busy", f"{MAX_ASKED} searches are under way; try again in 1 s", limit=MAX_ASKED, retry_after=1.0)
        self._needed.set()
        self._hurry.set()
        target, number, asked = self._log.last_seq if upto is None else upto, next(self._numbers), Asked(fields)
        self._asked[number] = asked
        try:
            for _ in range(MAX_TRIES):
                await self._caught_up(target, wait)
                if upto is not None and self._sent < upto:
                    raise EngramError(
                        "timeout",
                        f"the search index covers the log up to {self.covers}, and {upto} is asked for; ask again, or allow more time",
                        covers=self.covers,
                    )
                asked.done = trio.Event()
                await self._send({"search": number, "after": min(target, self._sent), **fields})
                await self._answered(asked)
                if asked.error is not None:
                    raise asked.error
                if asked.found is not None:
                    return asked.found
            said = f"the search worker ended {MAX_TRIES} times before it had an answer, the last at {self._failure}"
            raise EngramError("internal", said)
        finally:
            del self._asked[number]
            if asked.found is None and asked.error is None:
                with trio.move_on_after(ENDING, shield=True):
                    await self._send({"drop": number})
            if not self._asked:
                self._hurry = trio.Event()

    async def absorbed(self, seq: int) -> None:
        """Wait until the worker's index, if there is one, covers the log up to `seq`; a worker is started for it."""
        if self._settings is None or not (self._settings.directory / "index").exists():
            return
        self._needed.set()
        while self.covers < seq:
            await self._progress.wait()

    async def _caught_up(self, target: int, wait: float) -> None:
        """Wait until the worker was told the log up to `target`, or is there and the wait is over."""
        began = trio.current_time()
        while self._stream is None or self._sent < target:
            starting = self._stream is None and self._quick < MAX_TRIES
            left = (max(wait, STARTING) if starting else wait) - (trio.current_time() - began)
            if left <= 0 and self._stream is not None:
                return
            if left <= 0:
                raise EngramError("unavailable", f"the search worker does not start: {self._failure or 'it takes too long'}")
            with trio.move_on_after(left):
                await self._progress.wait()

    async def _answered(self, asked: Asked) -> None:
        """Wait until the worker has answered or ended. One that is stuck, or stopped by a signal, is ended."""
        while True:
            heard = self._heard
            with trio.move_on_after(SILENT):
                await asked.done.wait()
                return
            if self._heard == heard and self._process is not None:
                logger.error("the search worker has said nothing for %g s, and is ended", SILENT)
                self._process.kill()

    def _tell(self) -> None:
        """Wake whoever waits for the worker or the log to get on."""
        self._progress.set()
        self._progress = trio.Event()

    # The worker

    async def run(self) -> None:
        """Keep a worker, until cancelled: from the first search on, or at once where an index is left, lest it fall far behind."""
        if self._settings is not None and (self._settings.directory / "index").exists():
            self._needed.set()
        await self._needed.wait()
        assert self._settings is not None
        while True:
            began = trio.current_time()
            try:
                why = await self._serve(self._settings)
            except (OSError, EngramError) as error:
                why = str(error)
            except ExceptionGroup as failures:  # of the tasks around it: what goes wrong with a worker is no reason to end the daemon
                logger.error("what serves the search worker has failed", exc_info=failures)
                why = repr(failures.exceptions[0])
            self.restarts += 1
            self._failure = f"{format_ts(time.time_ns() // 1000)} {why}"
            self._quick = self._quick + 1 if trio.current_time() - began < QUICK else 0
            logger.warning("the search worker has ended: %s; it is started again", why)
            self._tell()
            await trio.sleep(min(SLOWEST, 0.05 * 2**self._quick) if self._quick > 1 else 0)

    async def _serve(self, settings: Settings) -> str:
        """Start a worker, and feed it and listen to it until it ends; gives what ended it."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = await trio.lowlevel.open_process(
                [
                    *(sys.executable, "-P", "-m", "engramd.search", "--fd", str(theirs.fileno()), "--dir", str(settings.directory)),
                    *("--embedder", settings.embedder, "--history", self._log.history, "--last-seq", str(self._log.last_seq)),
                    *(("--tokenizer", settings.tokenizer) if settings.tokenizer else ()),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(theirs.fileno(),),
            )
        self._process, self._said = process, ""
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        try:
            async with trio.open_nursery() as nursery:
                assert process.stderr is not None
                nursery.start_soon(self._hear, process.stderr)
                await self._listen(stream, nursery)
                with trio.move_on_after(ENDING):
                    await process.wait()
                nursery.cancel_scope.cancel()
        finally:
            self._stream = None
            for asked in self._asked.values():
                asked.done.set()
            with trio.CancelScope(shield=True):
                await stream.aclose()  # which ends the worker
                with trio.move_on_after(ENDING):
                    await process.wait()
                if process.returncode is None:
                    process.kill()  # stuck, or stopped by a signal: its index is written so that this costs nothing
                    await process.wait()
        return f"{_ending(process.returncode or 0)}{': ' if self._said else ''}{self._said}"

    async def _hear(self, words: trio.abc.ReceiveStream) -> None:
        """Hand on what the worker says to our own log."""
        rest = b""
        async for data in words:
            *lines, rest = (rest + data)[-MAX_WORDS:].split(b"\n")
            for line in lines:
                logger.info("%s", line.decode(errors="replace"))
                self._said = line.decode(errors="replace")

    async def _listen(self, stream: trio.SocketStream, nursery: trio.Nursery) -> None:
        """Take what the worker sends, to its end."""
        decoder = FrameDecoder(MAX_FRAME)
        with suppress(trio.BrokenResourceError):
            async for data in stream:
                self._heard += 1
                for body in decoder.feed(bytes(data)):
                    message = cbor2.loads(body)
                    if "facts" in message:
                        self._take_covers(message, stream, nursery)
                    elif "need" in message:
                        nursery.start_soon(self._give_texts, message)
                    elif (asked := self._asked.get(message.get("found", message.get("failed", 0)))) is not None:
                        asked.found = message if "found" in message else None
                        asked.error = EngramError.from_wire(message["error"]) if "failed" in message else None
                        asked.done.set()

    def _take_covers(self, message: dict[str, Any], stream: trio.SocketStream, nursery: trio.Nursery) -> None:
        self.covers, self._facts = message["covers"], message["facts"]
        if self._stream is None:
            self._stream, self._sent, self._feeds = stream, self.covers, 0
            nursery.start_soon(self._feed)
        else:
            self._feeds -= 1
        self._tell()

    async def _send(self, message: dict[str, Any]) -> None:
        """Send to the worker, if there is one; where there is none any more, whoever waits for an answer is told."""
        async with self._sending:
            if self._stream is not None:
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await self._stream.send_all(frame(encode(message)))

    async def _feed(self) -> None:
        """Tell the worker what is on disk, as it has room. Ends where the log is damaged: searches say that they are behind."""
        while True:
            if self._sent < self._log.last_seq and self._feeds < FEEDS:
                try:
                    events, upto = self._next_events()
                except EngramError as error:
                    logger.error("the search index ends at %d, since the log cannot be read on: %s", self._sent, error.message)
                    self._heed(error)
                    return
                self._feeds += 1
                await self._send({"feed": events, "upto": upto})
                self._sent = upto
                self._tell()
                await trio.lowlevel.checkpoint()
            else:
                await self._progress.wait()
                if self._sent + FEED_EVENTS > self._log.last_seq:
                    with trio.move_on_after(NAP):
                        await self._hurry.wait()

    def _next_events(self) -> tuple[list[tuple[int, int, bytes]], int]:
        """What the index needs of the next events, and the last seq that was looked at."""
        found: list[tuple[int, int, bytes]] = []
        upto, size = self._sent, 0
        last = self._log.last_seq
        for looked, (seq, record) in enumerate(self._log.records(self._sent + 1, last), 1):
            if record.code in SEARCHED:
                hidden = record.code in ENTRIES and self._is_hidden(seq, record)
                body = record.body if len(record.body) <= TEXT_BYTES else _cut(record.body)
                found.append((seq, record.code, body))
                if hidden:
                    found.append((seq, UNIT_REMOVED, encode({"entry": seq})))
                size += len(body)
            upto = seq
            if looked == FEED_EVENTS or size >= FEED_BYTES:
                return found, upto
        return found, last  # which may have been removed

    def _is_hidden(self, seq: int, record: Record) -> bool:
        """Whether an entry was taken out of its context by an event that retention may have removed since."""
        if is_trimmed(record):
            return True
        trimmed = self._log.pending.get(TRIMMED, "")
        return trimmed is not None and seq <= trimmed.gone and self._log.is_gone(cbor2.loads(record.body)["context"], seq)

    async def _give_texts(self, message: dict[str, Any]) -> None:
        """Send the worker the texts that it needs; where they are large only the first of them, and it asks again."""
        texts: list[str | None] = []
        size = 0
        for seq in message["seqs"]:
            try:
                texts.append(self._text(seq))
            except EngramError as error:  # without the text, it might do without the hit
                self._heed(error)
                await self._fail(error)
                return
            size += len(texts[-1] or "")
            if size > TEXTS_CHARACTERS:
                break
            await trio.lowlevel.checkpoint()
        await self._send({"texts": texts, "id": message["need"]})

    async def _fail(self, error: EngramError) -> None:
        """End all searches under way."""
        under_way = list(self._asked.items())
        for _, asked in under_way:
            asked.error = error
            asked.done.set()
        for number, _ in under_way:
            await self._send({"drop": number})

    def _text(self, seq: int) -> str | None:
        """The text of the unit whose entry stands at `seq`; None if it was removed from that context since, or erased."""
        entry = present_entry(self._log, seq)
        if entry is None or _is_redacted(entry.unit):
            return None
        text: str = cbor2.loads(entry.unit).get("text", "")
        return text[:TEXT_BYTES]


def _is_redacted(unit: bytes) -> bool:
    return "redacted" in cbor2.loads(unit)


def _ending(code: int) -> str:
    """What ended a process, in words."""
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name if -code in signal.valid_signals() else "unknown"
    return f"signal {-code} ({name}{', perhaps because memory was short' if -code == signal.SIGKILL else ''})"


def _cut(body: bytes) -> bytes:
    """An encoded unit without most of its payload."""
    unit = cbor2.loads(body)
    if "text" in unit:
        unit["text"] = unit["text"][:TEXT_BYTES]
    else:
        unit["payload"] = b""
    return encode(unit)


def search(engine: Engine, peer: Peer, request_id: Id, fields: dict[str, Any]) -> None:
    """Answer with a page of hits."""
    asked, asked_at = _read(engine, Sight(engine.log, peer.access), fields), engine.log.last_seq

    async def find() -> None:
        found = await engine.search.ask(asked, fields.get("wait", WAIT_MILLISECONDS) / 1000)
        covers = found["covers"]
        upto = min(covers, asked["wanted"].get("upto", covers))
        peer.answer_encoded(request_id, _answer(engine.log, found["page"], upto, max(0, asked_at - covers)))

    engine.spawn(peer, request_id, find)


def _answer(log: Log, page: list[Any], upto: int, behind: int) -> bytes:
    """A page as it travels. It ends early where units are large."""
    hits, reached, more, depth = page
    encoded: list[bytes] = []
    size = 0
    for nth, (seq, rank, score, keyword, semantic, (text, marks)) in enumerate(hits):
        entry = present_entry(log, seq)
        if entry is None or _is_redacted(entry.unit):
            continue
        cursor = format_place(log.history, Place(upto, depth, rank))
        rest = {
            "score": score,
            "parts": {"keyword": keyword, "semantic": semantic},
            "snippet": {"text": text, "marks": marks},
            "cursor": cursor,
        }
        encoded.append(encode_map({"unit": entry.unit, **{name: encode(value) for name, value in rest.items()}}))
        size += len(encoded[-1])
        if size > PAGE_BYTES:
            more, reached = more or nth + 1 < len(hits), rank
            break
    following = format_place(log.history, Place(upto, depth, reached)) if more else None
    return encode_map({"hits": encode_array(encoded), "next": encode(following), "behind": encode(behind)})


def _read(engine: Engine, sight: Sight, fields: dict[str, Any]) -> dict[str, Any]:
    """A request as the worker is asked."""
    log = engine.log
    want = read_filter(sight, fields)
    wanted: dict[str, Any] = {
        "contexts": fields.get("contexts", []),
        "agents": list(want.agents),
        "types": list(want.types),
        "meta": list(want.meta),
        "related_to": want.related_to,
    }
    asked = {"query": fields["query"], "mode": fields.get("mode", "hybrid"), "limit": fields.get("limit", LIMIT), "wanted": wanted}
    if (since := read_instant(engine, fields, "since")) is not None:
        wanted["first"] = log.first_at(since)
    if (until := read_instant(engine, fields, "until")) is not None:
        wanted["last"] = log.first_at(until) - 1
    if "after" in fields:
        place = parse_place(fields["after"], log.history)
        wanted["upto"], asked["depth"], asked["start"] = place.seq, place.depth, place.rank
    if "min_score" in fields:
        asked["min_score"] = fields["min_score"]
    return asked
