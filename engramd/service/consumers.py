"""Consumers: `consume`, `ack`, and what people do with consumers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..protocol.connection import Id
from ..protocol.cursor import format_cursor, parse_cursor
from ..protocol.errors import EngramError
from ..protocol.framing import encode, encode_array, encode_map
from ..protocol.messages import MAX_META_KEY, PAGE_BYTES
from ..protocol.times import parse_duration, parse_instant
from ..state.access import Access
from ..state.consumers import (
    Acknowledge,
    ConsumerRetried,
    CreateConsumer,
    DeleteConsumer,
    ResetConsumer,
    RetryParked,
    absent,
)
from ..state.filters import EVERYTHING, Filter
from ..state.outcome import Refused
from ..state.view import CONSUMERS, PARKED, PROGRESS, Consumer, Progress
from ..storage import trim
from ..storage.query import entry_of
from .access import Sight, sees_consumer
from .filters import read_filter
from .groups import Group, Member, error_of
from .peer import Peer

if TYPE_CHECKING:
    from .committer import Result
    from .engine import Engine

MAX_CONSUMERS = 256
MAX_VISIBILITY = 7 * 86_400_000_000  # microseconds
PAGE = 100


def consume(engine: Engine, peer: Peer, request_id: Id, fields: dict[str, Any]) -> None:
    """Start a member's stream; it runs as a task of its connection."""
    start = find_place(engine, fields.get("from", "start"), "from")
    member = Member(engine, peer, request_id, fields, read_settings(engine, peer, fields), start)
    peer.streams[request_id] = member
    engine.spawn(peer, request_id, member.run)


class Consumers:
    """The consumers of a daemon: their names, and the groups of those that have members.

    A group stays when its last member goes, as long as it knows of deliveries that failed.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._groups: dict[str, Group] = {}
        self._names = {key.decode() for key in engine.log.durable.keys(CONSUMERS)}

    def create(self, name: str, agent: str, asked: dict[str, Any], cursor: int) -> CreateConsumer:
        """The command that creates a consumer, if there is room for one more, or sees that it is as asked."""
        room = name in self._names or len(self._names) < MAX_CONSUMERS
        if room:
            self._names.add(name)
        return CreateConsumer(name, agent, asked, cursor, room)

    def interests(self, context: str) -> list[trim.Interest]:
        """What consumers want of a context."""
        rows, found = self._engine.log.pending, []
        for name in sorted(self._names):
            settings, progress = rows.get(CONSUMERS, name), rows.get(PROGRESS, name)
            if settings is not None and progress is not None and (not settings.contexts or context in settings.contexts):
                found.append(trim.Interest(name, progress.cursor, Filter.from_map(settings.filter)))
        return found

    def get(self, name: str) -> Group | None:
        """The group of a consumer that has one."""
        return self._groups.get(name)

    def open(self, name: str, access: Access) -> Group:
        """The group of a consumer. Raises EngramError("not_found"), also where it may not be seen."""
        settings, progress = self._engine.log.pending.get(CONSUMERS, name), self._engine.log.pending.get(PROGRESS, name)
        if settings is None or progress is None or not sees_consumer(access, settings):
            raise error_of(absent(name))
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = Group(self._engine, name, settings, progress)
        return group

    def drop(self, name: str) -> None:
        """Forget a group."""
        self._groups.pop(name, None)

    def deleted(self, name: str, agent: str) -> None:
        """A consumer is gone: so are its group's streams."""
        group = self._groups.pop(name, None)
        if group is not None:
            group.end(EngramError("not_found", f"the consumer {name!r} was deleted by {agent}", consumer=name))
        if self._engine.log.pending.get(CONSUMERS, name) is None:
            self._names.discard(name)


# Reading requests


def read_settings(engine: Engine, peer: Peer, fields: dict[str, Any]) -> dict[str, Any]:
    """The settings of a consumer that a request asks for, as the row has them.

    Raises:
        EngramError: `invalid` for a key or a time that cannot be read, `not_found` when `related_to` names no unit.
    """
    asked: dict[str, Any] = {name: fields[name] for name in ("key", "deliveries") if name in fields}
    if "contexts" in fields:
        asked["contexts"] = tuple(sorted(set(fields["contexts"])))
    if found := read_filter(Sight(engine.log, peer.access), fields).to_map():
        asked["filter"] = found
    if "visibility" in fields:
        asked["visibility"] = _duration(fields["visibility"])
    if "key" in asked:
        _check_key(asked["key"])
    return asked


def _check_key(key: str) -> None:
    kind, colon, label = key.partition(":")
    if key not in ("", "agent") and not (kind == "meta" and colon and 0 < len(label.encode()) <= MAX_META_KEY):
        raise EngramError("invalid", f"key: must be agent or meta:K, not {key!r}", field="key")


def _duration(value: str | int) -> int:
    micros = value if isinstance(value, int) else parse_duration(value)
    if not 0 < micros <= MAX_VISIBILITY:
        raise EngramError("invalid", "visibility: must be more than nothing, and at most 7 days", field="visibility", limit=MAX_VISIBILITY)
    return micros


def find_place(engine: Engine, value: str | int, field: str) -> int:
    """The seq to go on beyond: `start`, `now`, a cursor, a seq, or a time.

    Raises:
        EngramError: `invalid` for what is none of these, `cursor` for a cursor of another history or beyond the end of the log.
    """
    last = engine.fanout.durable_seq
    if value == "start":
        return 0
    if value == "now":
        return last
    try:
        seq = parse_cursor(value, engine.log.history)
    except EngramError as error:
        if error.code != "invalid" or isinstance(value, int):
            raise
        try:
            return engine.log.first_at(parse_instant(value, engine.committer.now())) - 1
        except EngramError:
            raise EngramError("invalid", f"{field}: {value[:60]!r} is not start, now, a cursor, a seq or a time", field=field) from None
    if seq > last:
        raise EngramError("cursor", f"the log ends at {last}; nothing stands at {seq}", last=last)
    return seq


def _entries(engine: Engine, fields: dict[str, Any]) -> tuple[int, ...]:
    last, found = engine.fanout.durable_seq, []
    for cursor in fields.get("entries", ()):
        found.append(parse_cursor(cursor, engine.log.history))
        if not 0 < found[-1] <= last:
            raise EngramError("cursor", f"the log ends at {last}; no unit stands at {found[-1]}", last=last)
    return tuple(found)


# Operations


def create(engine: Engine, peer: Peer, request_id: Id, fields: dict[str, Any]) -> None:
    """Create a consumer, or see that it is as asked."""
    start, asked = find_place(engine, fields.get("from", "start"), "from"), read_settings(engine, peer, fields)
    command = engine.consumers.create(fields["consumer"], peer.agent, asked, start)
    engine.submit(peer, request_id, command, engine.committer.now(), lambda result: peer.answer(request_id, {"changed": bool(result)}))


def ack(engine: Engine, peer: Peer, request_id: Id, fields: dict[str, Any]) -> None:
    """Note that entries are done; answered when that is on disk."""
    name, entries = fields["consumer"], _entries(engine, fields)

    def answer(result: Result | EngramError, changed: bool) -> None:
        if isinstance(result, EngramError):
            engine.fail(peer, request_id, result)
        elif isinstance(result, Refused):
            peer.fail(request_id, error_of(result))
        else:
            peer.answer(request_id, {"changed": changed})

    group = engine.consumers.get(name)
    if group is not None:
        group.ack(entries, answer)
        return
    progress = engine.log.pending.get(PROGRESS, name)
    if progress is None:
        raise error_of(absent(name))
    command = Acknowledge(name, progress.epoch, tuple((entry, entry) for entry in sorted(set(entries))), entries)
    engine.submit(peer, request_id, command, engine.committer.now(), lambda result: answer(result, bool(result)))


def retry(engine: Engine, peer: Peer, request_id: Id, fields: dict[str, Any]) -> None:
    """Deliver parked units again."""

    def answer(result: Result) -> None:
        group = engine.consumers.get(fields["consumer"])
        assert isinstance(result, Sequence), "refusals are answered for us"
        for appended in result if group else ():
            if group and isinstance(appended.event, ConsumerRetried):
                group.retry(appended.event.entries)
        peer.answer(request_id, {"changed": bool(result)})

    command = RetryParked(fields["consumer"], peer.agent, _entries(engine, fields))
    engine.submit(peer, request_id, command, engine.committer.now(), answer)


def reset(engine: Engine, peer: Peer, request_id: Id, fields: dict[str, Any]) -> None:
    """Have a consumer go on somewhere else."""
    name, cursor = fields["consumer"], find_place(engine, fields["to"], "to")

    def answer(_: Result) -> None:
        group = engine.consumers.get(name)
        if group is not None:
            group.restart()
        peer.answer(request_id, {"cursor": format_cursor(engine.log.history, cursor)})

    engine.submit(peer, request_id, ResetConsumer(name, peer.agent, cursor), engine.committer.now(), answer)


def delete(engine: Engine, peer: Peer, request_id: Id, fields: dict[str, Any]) -> None:
    """Forget a consumer."""
    name = fields["consumer"]

    def answer(_: Result) -> None:
        engine.consumers.deleted(name, peer.agent)
        peer.answer(request_id, {})

    engine.submit(peer, request_id, DeleteConsumer(name, peer.agent), engine.committer.now(), answer)


def show(engine: Engine, peer: Peer, request_id: Id, fields: dict[str, Any]) -> None:
    """Describe a consumer."""
    row = engine.log.durable.get(CONSUMERS, fields["consumer"])
    if row is None:
        raise error_of(absent(fields["consumer"]))
    peer.answer(request_id, {"consumer": _describe(engine, fields["consumer"], row)})


def list_(engine: Engine, peer: Peer, request_id: Id, fields: dict[str, Any]) -> None:
    """Describe a page of consumers, by name."""
    found: list[bytes] = []
    name, after, size = "", fields.get("after"), 0
    for key, row in engine.log.durable.scan(CONSUMERS, after=None if after is None else after.encode()):
        if len(found) == PAGE or size > PAGE_BYTES:
            peer.answer_encoded(request_id, encode_map({"consumers": encode_array(found), "next": encode(name)}))
            return
        if not sees_consumer(peer.access, row):
            continue
        name = key.decode()
        found.append(encode(_describe(engine, name, row)))
        size += len(found[-1])
    peer.answer_encoded(request_id, encode_map({"consumers": encode_array(found), "next": encode(None)}))


def _describe(engine: Engine, name: str, row: Consumer) -> dict[str, Any]:
    rows, group = engine.log.durable, engine.consumers.get(name)
    progress = rows.get(PROGRESS, name) or Progress(0, 0, (), 0)
    held = group.claims.held if group else 0
    return {
        "id": name,
        "contexts": list(row.contexts),
        "filter": row.filter,
        "key": row.key,
        "visibility": row.visibility,
        "deliveries": row.deliveries,
        "cursor": format_cursor(engine.log.history, progress.cursor),
        "lag": engine.fanout.durable_seq - progress.cursor,
        "waiting": len(group.claims) - held if group else 0,
        "held": held,
        "parked": sum(not parked.again for parked in rows.get(PARKED, name) or ()),
        "missed": progress.missed,
        "members": group.members() if group else [],
        "created_at": row.created_at,
        "updated_at": progress.updated_at,
    }


def parked(engine: Engine, peer: Peer, request_id: Id, fields: dict[str, Any]) -> None:
    """Read a page of a consumer's parked units."""
    name, log = fields["consumer"], engine.log
    if log.durable.get(CONSUMERS, name) is None:
        raise error_of(absent(name))
    rows = log.durable.get(PARKED, name) or ()
    if "after" in fields:
        after = parse_cursor(fields["after"], log.history)
        at = next((at for at, row in enumerate(rows, 1) if row.entry == after), len(rows))
        rows = rows[at:]
    found: list[bytes] = []
    size, more = 0, encode(None)
    for at, row in enumerate(rows, 1):
        record = log.record(row.entry)
        entry = None if record is None else entry_of(log, row.entry, record, EVERYTHING)
        cursor = encode(format_cursor(log.history, row.entry))
        members = {"cursor": cursor, "deliveries": encode(row.deliveries), "parked_at": encode(row.parked_at), "again": encode(row.again)}
        found.append(encode_map({**members, "unit": encode(None) if entry is None else entry.unit}))
        size += len(found[-1])
        if (len(found) == PAGE or size > PAGE_BYTES) and at < len(rows):
            more = cursor
            break
    peer.answer_encoded(request_id, encode_map({"parked": encode_array(found), "next": more}))
