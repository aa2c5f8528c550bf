"""`engram import`: put units that were exported, with their ids."""

from __future__ import annotations

import itertools
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import IO, Any, NamedTuple

from engramd.protocol.connection import Answer
from engramd.protocol.errors import EngramError
from engramd.protocol.framing import MAX_DEPTH, decode
from engramd.protocol.messages import CONTEXT, KNOWN_ID, MAX_NAME, MAX_PAYLOAD, META, NAME, ONE_OF_SEVERAL
from engramd.protocol.schema import Field, ListOf, Record, Text
from engramd.protocol.unit import is_id, parse_ref

from .. import common as c
from .. import settings
from ..client import Client
from ..output import note
from ..progress import bar
from .pipe import from_json, read_json

BATCH_UNITS = 500
BATCH_BYTES = 256 * 1024
IN_DOUBT = "what was sent last may or may not be there; an import that is repeated puts nothing twice"
WINDOW = 32  # requests that are not answered yet
MAX_ITEM = 8 * MAX_PAYLOAD  # bytes: JSON may take six for one
NOT_TAKEN = ("seq", "ts", "entry", "entry_context", "redacted")  # of a unit as it is listed or exported
PLACES = ListOf(NAME, 100_000)
MAPS = frozenset(bytes((head,)) for head in range(0xA0, 0xC0))  # what a map in CBOR begins with

UNIT = Record(
    {
        **CONTEXT,
        **ONE_OF_SEVERAL,
        "id": Field(KNOWN_ID, "the unit's id", required=True),
        "agent": Field(NAME, "who put it", required=True),
        "contexts": Field(PLACES, "where it is, unless that is the context alone that it was born in"),
        "pinned": Field(PLACES, "where it is pinned"),
    }
)
CONTEXT_ITEM = Record(
    {
        "context": Field(
            Record(
                {
                    "id": Field(NAME, "its name", required=True),
                    "display_name": Field(Text(MAX_NAME), "its title", required=True),
                    "meta": Field(META, "its labels", required=True),
                }
            ),
            "a context",
            required=True,
        )
    }
)


class Item(NamedTuple):
    """One line, or one item of a CBOR sequence: a unit or a context.

    Attributes:
        number: from 1.
        size: bytes it took.
    """

    number: int
    size: int
    fields: dict[str, Any]


class Tally:
    """What was done so far."""

    def __init__(self) -> None:
        self.put = self.there = self.contexts = self.moves = 0

    def facts(self) -> dict[str, int]:
        """For programs."""
        return {"put": self.put, "there": self.there, "contexts": self.contexts, "moves": self.moves}

    def words(self, would: str = "were") -> str:
        """For people."""
        also = f", {self.contexts} contexts made" if self.contexts else ""
        moves = f", {self.moves} changes of places and pins" if self.moves else ""
        return f"{self.put} units {would} put, {self.there} were there already{also}{moves}"


def run(common: c.Common, file: str, format: str | None, dry_run: bool) -> None:
    """Import a file; what was done is said, also when a line ends it."""
    if format not in (None, "jsonl", "cbor"):
        raise EngramError("invalid", f"--format {format!r}: must be one of jsonl, cbor")
    out, tally = common.output(), Tally()
    with ExitStack() as stack:
        source = _open(stack, file)
        size = os.fstat(source.fileno()).st_size
        client = stack.enter_context(common.client())
        told = stack.enter_context(bar("import"))
        items = _read(source, format, lambda done: told(done, size))
        try:
            if dry_run:
                _look(client, items, tally)
            else:
                _Importing(client, tally).run(items)
        except EngramError as error:
            been = not dry_run and any(tally.facts().values())
            mend = "Repeat the import" if "outcome" in error.details else "Mend it and repeat"
            done = f". Until then {tally.words()}; they stay. {mend}: what is there is left as it is" if been else ""
            raise EngramError(error.code, f"{error.message}{done}", **error.details, **tally.facts()) from None
    settings.done = "" if dry_run else tally.words()
    if out.json:
        out.object(tally.facts())
    else:
        note(tally.words("would be" if dry_run else "were"))


def _open(stack: ExitStack, file: str) -> IO[bytes]:
    if file == "-":
        return sys.stdin.buffer
    try:
        return stack.enter_context(open(file, "rb"))
    except OSError as error:
        raise EngramError("invalid", f"{file!r}: {error.strerror}") from None


# Reading


def _wrong(number: int, error: EngramError) -> EngramError:
    return EngramError(error.code, f"item {number}: {error.message}", **{**error.details, "item": number})


def _read(source: IO[bytes], format: str | None, told: Callable[[int], None]) -> Iterator[Item]:
    """The items of a file, checked.

    Raises:
        EngramError: `invalid` or `too_large`, with the number of the item.
    """
    start = source.read(1)
    cbor = format == "cbor" or (format is None and start[:1] in MAPS)
    raw = _cbor_items(source, start) if cbor else _json_lines(source, start)
    done = 0
    for number in itertools.count(1):
        try:
            found = next(raw, None)
            if found is None:
                return
            size, fields = found
            done += size
            if fields is not None:
                yield Item(number, size, _checked(fields))
        except EngramError as error:
            raise _wrong(number, error) from None
        told(done)


def _json_lines(source: IO[bytes], start: bytes) -> Iterator[tuple[int, Any]]:
    while line := start + source.readline(MAX_ITEM + 1):
        start = b""
        if len(line) > MAX_ITEM:
            raise EngramError("too_large", f"the line is over {MAX_ITEM} bytes", limit=MAX_ITEM)
        if not line.strip():
            yield len(line), None
            continue
        try:
            value = from_json(read_json(line))
        except RecursionError:
            raise EngramError("invalid", "nested too deep") from None
        yield len(line), value


def _cbor_items(source: IO[bytes], start: bytes) -> Iterator[tuple[int, Any]]:
    reader = _Cbor(source, start)
    while reader.has_more():
        data = reader.item()
        yield len(data), decode(data)


class _Cbor:
    """Finds where the items of a CBOR sequence end (RFC 8742), without decoding them: that is left to the strict decoder."""

    def __init__(self, source: IO[bytes], start: bytes) -> None:
        self._source = source
        self._ahead = start
        self._taken = bytearray()

    def has_more(self) -> bool:
        """Whether another item begins."""
        self._ahead = self._ahead or self._source.read(1)
        return bool(self._ahead)

    def item(self) -> bytes:
        """The bytes of the next item."""
        self._taken = bytearray()
        self._walk(0)
        return bytes(self._taken)

    def _take(self, size: int) -> bytes:
        if len(self._taken) + size > MAX_ITEM:
            raise EngramError("too_large", f"it is over {MAX_ITEM} bytes", limit=MAX_ITEM)
        data = self._ahead[:size]
        self._ahead = self._ahead[size:]
        data += self._source.read(size - len(data)) if size > len(data) else b""
        if len(data) < size:
            raise EngramError("invalid", "the file ends inside it")
        self._taken += data
        return bytes(data)

    def _walk(self, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise EngramError("invalid", "nested too deep")
        head = self._take(1)[0]
        major, low = head >> 5, head & 31
        if low >= 28:
            raise EngramError("invalid", "not CBOR, or of indefinite length")
        count = low if low < 24 else int.from_bytes(self._take(1 << (low - 24)))
        if major in (2, 3):
            self._take(count)
        elif major in (4, 5):
            if count > MAX_ITEM:
                raise EngramError("too_large", f"it claims {count} members")
            for _ in range(count * (major - 3)):
                self._walk(depth + 1)
        elif major == 6:
            raise EngramError("invalid", "semantic tags are not allowed")


def _checked(fields: Any) -> dict[str, Any]:
    """The item as what it is, a unit or a context, or why it is neither."""
    if not isinstance(fields, dict):
        raise EngramError("invalid", "must be a map")
    if isinstance(fields.get("context"), dict):
        CONTEXT_ITEM.check(fields, "item")
        return fields
    kept = {name: value for name, value in fields.items() if name not in NOT_TAKEN}
    UNIT.check(kept, "unit")
    if "text" not in kept and "payload" not in kept:
        raise EngramError("invalid", "it has neither text nor payload")
    known = parse_ref(kept["id"])
    if not isinstance(known, bytes) or not is_id(known):
        raise EngramError("invalid", "id: must be a UUID of version 7", field="id")
    kept["id"] = known
    for index, edge in enumerate(kept.get("relationships", ())):
        target = parse_ref(edge["target"])
        if not isinstance(target, bytes):
            raise EngramError("invalid", f"relationships[{index}].target: must be an id; a seq is another unit's here")
        edge["target"] = target
    return kept


# Writing


class _Importing:
    """Sends units in batches of one context and agent, several requests at a time."""

    def __init__(self, client: Client, tally: Tally) -> None:
        self._client = client
        self._tally = tally
        self._batch: list[Item] = []
        self._bytes = 0
        self._under_way: dict[Any, tuple[int, int, Callable[[dict[str, Any]], None]]] = {}
        self._moves: deque[tuple[Item, list[str], list[str]]] = deque()
        self._failed: EngramError | None = None

    def run(self, items: Iterator[Item]) -> None:
        """Import all items.

        Raises:
            EngramError: for the first one that is wrong or refused; the tally says what was done.
        """
        try:
            for item in items:
                if "id" in item.fields:
                    self._unit(item)
                else:
                    self._flush()
                    self._context(item)
            self._flush()
        except EngramError as error:
            with suppress(EngramError):
                self._flush()  # what came before the item that is wrong
            self._failed = self._failed or error
        self._settle(0)
        if self._failed is None:
            self._move()
        if self._failed is not None:
            raise self._failed

    def _unit(self, item: Item) -> None:
        if self._batch and (
            any(self._batch[0].fields[name] != item.fields[name] for name in ("context", "agent"))
            or len(self._batch) >= BATCH_UNITS
            or self._bytes + item.size > BATCH_BYTES
        ):
            self._flush()
        self._batch.append(item)
        self._bytes += item.size
        contexts, pinned = item.fields.get("contexts"), item.fields.get("pinned", [])
        if contexts is not None or pinned:
            self._moves.append((item, contexts or [item.fields["context"]], pinned))

    def _context(self, item: Item) -> None:
        described = item.fields["context"]
        fields = {"context": described["id"], "display_name": described["display_name"], "meta": described["meta"]}
        try:
            self._client.request("context_create", fields)
            self._tally.contexts += 1
        except EngramError as error:
            if error.code != "exists":
                raise _wrong(item.number, error) from None

    def _flush(self) -> None:
        batch, self._batch, self._bytes = self._batch, [], 0
        if not batch:
            return
        units = [{name: value for name, value in item.fields.items() if name in ONE_OF_SEVERAL} for item in batch]
        fields = {"context": batch[0].fields["context"], "agent": batch[0].fields["agent"], "units": units}

        def count(result: dict[str, Any]) -> None:
            self._tally.put += result["fresh"]
            self._tally.there += len(batch) - result["fresh"]

        self._send("put", fields, batch[0].number, batch[-1].number, count)

    def _move(self) -> None:
        """Have the units where they were, and pinned: when all are there."""

        def count(result: dict[str, Any]) -> None:
            self._tally.moves += result["changed"]

        for item, contexts, pinned in self._moves:
            born, ids = item.fields["context"], [item.fields["id"]]
            steps = [("context_add", context) for context in contexts if context != born]
            steps += [("context_remove", born)] if born not in contexts else []
            for op, context in [*steps, *(("context_pin", context) for context in pinned)]:
                self._send(op, {"context": context, "ids": ids}, item.number, item.number, count)
        self._settle(0)

    def _send(self, op: str, fields: dict[str, Any], first: int, last: int, then: Callable[[dict[str, Any]], None]) -> None:
        self._settle(WINDOW - 1)
        if self._failed is not None:
            raise self._failed
        self._under_way[self._client.send(op, fields)] = first, last, then

    def _settle(self, most: int) -> None:
        """Take answers until at most so many requests are under way."""
        while len(self._under_way) > most:
            try:
                arrived = self._client.receive(self._client.timeout)
            except EngramError as error:
                details = {**error.details, "outcome": "unknown"}
                self._failed = self._failed or EngramError(error.code, f"{error.message}: {IN_DOUBT}", **details)
                self._under_way.clear()
                return
            for answer in arrived:
                assert isinstance(answer, Answer), "no stream was asked for"
                first, last, then = self._under_way.pop(answer.id)
                if answer.error is not None:
                    where = f"item {first}" if first == last else f"items {first} to {last}"
                    self._failed = self._failed or EngramError(
                        answer.error.code, f"{where}: {answer.error.message}", **answer.error.details
                    )
                elif answer.result is not None:
                    then(answer.result)


def _look(client: Client, items: Iterator[Item], tally: Tally) -> None:
    """Count what an import would do, and look whether each relationship leads somewhere."""
    seen: set[bytes] = set()
    for item in items:
        if "id" not in item.fields:
            continue
        for edge in item.fields.get("relationships", ()):
            if edge["target"] not in seen and not _is_there(client, edge["target"]):
                raise _wrong(
                    item.number, EngramError("not_found", "a relationship leads to a unit that is neither here nor before it in the file")
                )
        if item.fields["id"] in seen or _is_there(client, item.fields["id"]):
            tally.there += 1
        else:
            tally.put += 1
        seen.add(item.fields["id"])


def _is_there(client: Client, unit: bytes) -> bool:
    try:
        client.request("get", {"ids": [unit]})
    except EngramError as error:
        if error.code != "not_found":
            raise
        return False
    return True
