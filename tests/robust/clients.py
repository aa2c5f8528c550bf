"""The clients of a robustness run, each a process of its own: `python -m robust.clients ROLE NAME LIFE SEED SOCKET RECORD`.

A client may be stopped or killed at any time; another of its name then goes on with its record. It ends when its standard input does.
Errors that a fault explains are part of the record; any other ends the process with a traceback, which fails the round.
"""

from __future__ import annotations

import itertools
import os
import random
import select
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio
from daemons import Blocking

from engram_cli.trio_client import Client
from engramd.protocol.connection import Answer, Id, Item
from engramd.protocol.errors import EngramError
from engramd.protocol.unit import parse_ref

from .record import Record, lines

CONTEXTS = ("a", "a:b", "b")
TYPES = ("message", "error")
LABELS = "xyz"
CREDITS = (1, 3000, 2**20)
RESOURCES = ("/r/a", "/r/b", "/r/*", "@gpu")
TTL = 0.4  # seconds
PAGE = 20
AWAY = frozenset({"unavailable", "outcome_unknown", "storage"})  # the daemon is gone, or about to go: its disk fails
FILTERS: dict[str, dict[str, Any]] = {
    "everything": {},
    "a": {"contexts": ["a"]},
    "a:b and b": {"contexts": ["a:b", "b"]},
    "labels": {"contexts": ["a", "b"], "meta": {"k": "x"}},
    "errors of one": {"agent": ["writer1"], "type": ["error"]},
    "what arrives from elsewhere": {"kinds": ["unit_added"]},
}
READERS = (*FILTERS, "follower")
KEPT = ("a", "b")  # contexts that do not keep everything
LIMITS: dict[str, tuple[int | str | None, ...]] = {"units": (30, 100, None), "bytes": ("10K", 40_000, None), "age": ("2s", 10**7, None)}
CONSUMERS: dict[str, dict[str, Any]] = {
    "all": {},
    "keyed": {"contexts": ["a", "b"], "key": "meta:k"},
}


class Noted(Blocking):
    """A connection whose traffic is noted. Of units that are read, only what they are.

    Attributes:
        cursor: that of the last item that was noted.
        refused: the code of the last error that was explained.
    """

    numbers = itertools.count(1)

    def __init__(self, path: Path, agent: str, record: Record) -> None:
        self.record = record
        self.number = f"{os.getpid()}.{next(self.numbers)}"
        self.asked: dict[Id, str] = {0: "hello"}
        self.cursor: str | None = None
        self.refused = ""
        super().__init__(path, agent)
        record.note("opened", c=self.number, pid=self.greeting["pid"], history=self.greeting["history"])

    def send(self, op: str, **fields: Any) -> Id:
        request_id, frame = self.connection.request(op, fields)
        self.asked[request_id] = op
        self.record.note("sent", c=self.number, id=request_id, op=op, fields=fields)
        self.socket.sendall(frame)
        return request_id

    def pay(self, request_id: Id, size: int) -> None:
        """Give a stream credit for an item that was used."""
        self.socket.sendall(self.connection.notice(request_id, "credit", bytes=size + 4))

    def keep(self, message: Answer | Item) -> None:
        if isinstance(message, Item):
            self.record.note("got", c=self.number, id=message.id, event=message.event)
            self.cursor = message.event["cursor"]
        elif message.error is not None:
            self.record.note("answered", c=self.number, id=message.id, error=message.error.to_wire())
        else:
            self.record.note("answered", c=self.number, id=message.id, result=_brief(self.asked.pop(message.id), message.result or {}))
        super().keep(message)

    def take_within(self, seconds: float) -> None:
        """Keep what arrives, if something does before so many seconds are over."""
        if select.select([self.socket], [], [], seconds)[0]:
            self.take()

    def close(self) -> None:
        """Hang up."""
        self.record.note("cut", c=self.number)
        self.socket.close()


def _brief(op: str, result: dict[str, Any]) -> dict[str, Any]:
    units = {"get": "units", "list": "units", "search": "hits"}.get(op)
    if units is None:
        return result
    found = [one["unit"] if op == "search" else one for one in result[units]]
    shown = [bool(unit["text"] or unit["meta"]) for unit in found]
    kept = [{name: unit[name] for name in ("id", "seq", "entry") if name in unit} for unit in found]
    return {**result, units: [{**unit, "shown": is_shown} for unit, is_shown in zip(kept, shown, strict=True)]}


@dataclass
class Me:
    """The client that this process is.

    Attributes:
        todo: puts whose outcome is still to be found out.
        written: ids of units that were put.
        cursor: where a reader stands.
    """

    name: str
    label: str
    rng: random.Random
    socket: Path
    record: Record
    cursor: str | None = None
    numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    todo: list[dict[str, Any]] = field(default_factory=list)
    written: list[bytes] = field(default_factory=list)
    is_done: bool = False

    def is_to_end(self) -> bool:
        """Whether whoever started this has had enough."""
        return bool(select.select([sys.stdin], [], [], 0)[0])

    def pause(self, *seconds: float) -> None:
        """Let one of these times pass."""
        time.sleep(self.rng.choice(seconds))

    def text(self) -> str:
        """A payload whose first word is in no other."""
        return f"{self.label}n{next(self.numbers)}z {'and more ' * self.rng.choice((0, 0, 5, 100))}".strip()

    def draft(self) -> dict[str, Any]:
        """A unit to be put."""
        return {"text": self.text(), "type": self.rng.choice(TYPES), "meta": {"k": self.rng.choice(LABELS)}}


Work = Callable[[Me, Noted], None]


# Writers


def write(me: Me, client: Noted) -> None:
    """Put units, one by one, pipelined and several in one; with a key or without. What has a key is put until it is answered."""
    while me.todo or not me.is_to_end():
        puts = me.todo or [_draw(me) for _ in range(me.rng.choice((1, 1, 1, 4)))]
        me.todo = [put for put in puts if "dedupe" in put]
        for put, request in [(put, client.send("put", **put)) for put in puts]:
            made = _answer(client, request, "busy", "trimmed")  # damage may have taken the rest of a put that is known
            if (made is not None or client.refused == "trimmed") and put in me.todo:
                me.todo.remove(put)
            me.written += [] if made is None else made.get("ids", [made["id"]])
        if me.written and me.rng.random() < 0.1:
            add = client.send("context_add", context=me.rng.choice(CONTEXTS), ids=[me.rng.choice(me.written)])
            _answer(client, add, "not_found")  # a restored log may not have it
        if me.rng.random() < 0.1:  # as one does who has not heard the answer
            me.todo += [put for put in puts if "dedupe" in put]
        me.pause(0, 0.01, 0.03)
    me.is_done = True


def _draw(me: Me) -> dict[str, Any]:
    context, key = me.rng.choice(CONTEXTS), {"dedupe": f"{me.label}k{next(me.numbers)}"} if me.rng.random() < 0.7 else {}
    if me.rng.random() < 0.25:
        return {"context": context, "units": [me.draft() for _ in range(me.rng.randrange(2, 5))], **key}
    return {"context": context, **me.draft(), **key}


def _answer(client: Noted, request: Id, *explained: str) -> dict[str, Any] | None:
    """The answer to a request; None where it is one of these errors."""
    try:
        return client.answer(request)
    except EngramError as error:
        if error.code not in explained:
            raise
        client.refused = error.code
        time.sleep(0.05 if error.code == "busy" else 0)
        return None


async def hurry(me: Me) -> None:
    """Put with the client for trio, which asks again by itself; and give up some of it while it is under way, to try once more."""
    while me.todo or not me.is_to_end():
        async with Client(str(me.socket), agent=me.name, autostart=False, timeout=5) as client:
            for number in range(me.rng.randrange(1, 30)):
                if not me.todo and me.is_to_end():
                    break
                me.todo = me.todo or [{"context": me.rng.choice(CONTEXTS), **me.draft(), "dedupe": f"{me.label}k{next(me.numbers)}"}]
                with trio.move_on_after(me.rng.choice((0.0005, 0.005, 5))):
                    await _put_once(me, client, f"{os.getpid()}.{id(client)}.{number}")
                await trio.sleep(me.rng.choice((0, 0.01, 0.03)))


async def _put_once(me: Me, client: Client, number: str) -> None:
    [put] = me.todo
    me.record.note("sent", c=number, id=1, op="put", fields=put)
    try:
        made = await client.put(put["context"], put["text"], type=put["type"], meta=put["meta"], dedupe=put["dedupe"])
    except EngramError as error:
        me.record.note("answered", c=number, id=1, error=error.to_wire())
        if error.code not in AWAY | {"busy", "timeout"}:
            raise
        await trio.sleep(0.05)
    else:
        result = {"id": parse_ref(made.id), "seq": made.seq, "deduped": made.deduped}
        me.record.note("answered", c=number, id=1, result=result, history=client.server.get("history", ""))
        me.todo = []


# Readers


def read(me: Me, client: Noted) -> None:
    """Follow for a while, with stalls and little credit, and hang up; at the end, read on to the end of the log."""
    last = me.is_to_end()
    asked = FILTERS[me.name] | {"after": me.cursor or 0, "follow": not last, "credit": me.rng.choice(CREDITS)}
    request, patience = client.send("tail", **asked), me.rng.randrange(1, 400)
    while last or (patience > 0 and not me.is_to_end()):
        client.take_within(0.2)
        items = client.items.pop(request, [])
        patience -= len(items)
        for item in items:
            client.pay(request, item.size)
        if request in client.answers:
            _end_of_stream(me, client, request, last)
            return
        if items and me.rng.random() < 0.02:
            me.pause(0.1, 0.5)


def _end_of_stream(me: Me, client: Noted, request: Id, last: bool) -> None:
    try:
        client.answer(request)
    except EngramError as error:
        if error.code not in ("cursor", "trimmed"):
            raise
        me.cursor = client.cursor = next_place(error.code, error.details)
    else:
        me.is_done = last


def next_place(code: str, details: dict[str, Any]) -> str | None:
    """Where to read on: behind what retention has removed; or from the start, of another history, where the log was restored."""
    return details.get("cursor") if code == "trimmed" else None


async def follow(me: Me) -> None:
    """The same with the client for trio, which finds its way back by itself."""
    for number in itertools.count(1):
        if me.is_done:
            return
        last = me.is_to_end()
        async with Client(str(me.socket), agent=me.name, autostart=False, timeout=30) as client:
            with trio.move_on_after(30 if last else me.rng.uniform(0.2, 3)):
                await _follow_for_now(me, client, f"{os.getpid()}.{number}", last)


async def _follow_for_now(me: Me, client: Client, number: str, last: bool) -> None:
    asked: dict[str, Any] = {"after": me.cursor or 0, "follow": not last, "credit": me.rng.choice(CREDITS)}
    me.record.note("sent", c=number, id=1, op="tail", fields=asked)
    try:
        async for event in client.tail(**asked).events():
            me.record.note("got", c=number, id=1, event=event.fields)
            me.cursor = event.cursor
            if me.rng.random() < 0.005:
                await trio.sleep(me.rng.uniform(0, 0.4))
        me.is_done = last
    except EngramError as error:
        me.record.note("answered", c=number, id=1, error=error.to_wire())
        if error.code in ("cursor", "trimmed"):
            me.cursor = next_place(error.code, error.details)
        elif error.code not in AWAY:
            raise
        await trio.sleep(0.1)


# Members of consumers


def consume(me: Me, client: Noted) -> None:
    """Get units and acknowledge them, most of them, for a while."""
    name = me.name.partition(" ")[0]
    settings = CONSUMERS[name] | {"deliveries": 1000, "visibility": "1h"}
    prefetch, credit = me.rng.choice((1, 3, 20)), me.rng.choice((500, *CREDITS))
    request = client.send("consume", consumer=name, follow=True, prefetch=prefetch, credit=credit, **settings)
    until = time.monotonic() + me.rng.uniform(0.1, 3)  # what was not acknowledged then goes to another
    while time.monotonic() < until and not me.is_to_end():
        client.take_within(0.2)
        for item in client.items.pop(request, []):
            client.pay(request, item.size)
            if "unit" in item.event and me.rng.random() < 0.97:
                client.send("ack", consumer=name, entries=[item.event["cursor"]])
        for answered in list(client.answers):
            client.answer(answered)
    me.is_done = me.is_to_end()


# Holders of locks


def lock(me: Me, client: Noted) -> None:
    """Take locks and write under them, carelessly: forget to renew, hold on to more than one, write late."""
    while not me.is_to_end():
        held = [lease for _ in range(me.rng.choice((1, 1, 2))) if (lease := _acquire(me, client)) is not None]
        for resource, token in held:
            me.pause(0, 0, 0.01, 1.5 * TTL)
            _use(me, client, resource, token)
    me.is_done = True


def _acquire(me: Me, client: Noted) -> tuple[str, int] | None:
    resource = me.rng.choice(RESOURCES)
    mode = "slots" if resource == "@gpu" else me.rng.choice(("exclusive", "exclusive", "shared"))
    slots = {"slots": 2} if mode == "slots" else {}
    request = client.send("lock", resources=[resource], mode=mode, ttl=round(TTL * 1e6), wait=True, timeout="1s", **slots)
    made = _answer(client, request, "locked", "deadlock", "timeout")
    return None if made is None else (resource, made["token"])


def _use(me: Me, client: Noted, resource: str, token: int) -> None:
    if me.rng.random() < 0.3:
        _answer(client, client.send("renew", token=token), "stale")
    release = me.rng.random() < 0.3
    fence = {"resource": "/r/a" if resource == "/r/*" else resource, "token": token}
    put = {"context": "work", "text": me.text(), "meta": {"token": str(token)}, "fences": [fence], "release": release}
    made = _answer(client, client.send("put", **put), "stale", "busy")
    if not (release and made) and me.rng.random() < 0.8:
        _answer(client, client.send("unlock", token=token), "stale")


# Who looks for what was written


def look(me: Me, client: Noted) -> None:
    """Put a unit; then get it, list its context, and search for its first word."""
    while not me.is_to_end():
        context, draft = me.rng.choice(CONTEXTS), me.draft()
        made = _answer(client, client.send("put", context=context, **draft), "busy")
        if made is not None:
            _answer(client, client.send("get", ids=[made["id"]]), "not_found")
            client.ask("list", context=context, reverse=True, limit=PAGE)
            word, wait = draft["text"].split()[0], me.rng.choice((0, 5000))
            search = client.send("search", query=word, mode="keyword", limit=PAGE, wait=wait)
            _answer(client, search, "unavailable", "timeout", "internal")  # a worker is killed sooner than it can answer
        me.pause(0, 0.05, 0.2)
    me.is_done = True


# Who has things removed


def keep(me: Me, client: Noted) -> None:
    """Have contexts keep little, now this, now that; and pin and unpin some of what is next to go. In the end they keep what there is."""
    pinned: list[tuple[str, bytes]] = []
    while not me.is_to_end():
        context = me.rng.choice(KEPT)
        limits = {name: me.rng.choice(LIMITS[name]) for name in me.rng.sample([*LIMITS], me.rng.choice((1, 1, 2)))}
        _answer(client, client.send("context_retain", context=context, **limits), "not_found")  # nothing was put there yet
        for unit in client.ask("list", context=context, limit=PAGE)["units"][:: me.rng.randrange(5, PAGE)]:
            pinned.append((context, unit["id"]))
            _answer(client, client.send("context_pin", context=context, ids=[unit["id"]]), "not_found")
        if pinned and me.rng.random() < 0.5:
            context, unit_id = pinned.pop(me.rng.randrange(len(pinned)))
            _answer(client, client.send("context_unpin", context=context, ids=[unit_id]), "not_found")
        me.pause(0.1, 0.5, 2)
    for context in KEPT:
        _answer(client, client.send("context_retain", context=context, **dict.fromkeys(LIMITS)), "not_found")
    me.is_done = True


def erase(me: Me, client: Noted) -> None:
    """Put units with secrets, and redact them later, and units of others; then look for what was redacted, in every way there is. One is
    put and redacted at the end."""
    secrets: list[tuple[str, bytes, str]] = []
    while not me.is_to_end():
        secrets += _put_secret(me, client)
        if len(secrets) > me.rng.randrange(4):
            _redact(me, client, *secrets.pop(me.rng.randrange(len(secrets))))
        me.pause(0, 0.02, 0.1)
    while not (last := _put_secret(me, client)):
        pass
    _redact(me, client, *last[0])
    me.is_done = True


def _put_secret(me: Me, client: Noted) -> list[tuple[str, bytes, str]]:
    """Put a unit whose last word and one label are in no other; gives its context, its id and its first word, if it was taken."""
    context, draft = me.rng.choice(CONTEXTS), me.draft()
    secret = {"text": f"{draft['text']} {me.rng.randbytes(8).hex()}", "meta": {**draft["meta"], "s": me.rng.randbytes(8).hex()}}
    made = _answer(client, client.send("put", context=context, **{**draft, **secret}), "busy")
    if made is None:
        return []
    if me.rng.random() < 0.3:
        _answer(client, client.send("context_add", context=me.rng.choice(CONTEXTS), ids=[made["id"]]), "not_found")
    return [(context, made["id"], draft["text"].split()[0])]


def _redact(me: Me, client: Noted, context: str, unit_id: bytes, word: str) -> None:
    others = client.ask("list", context=context, reverse=True, limit=PAGE)["units"]
    ids = [unit_id, *([me.rng.choice(others)["id"]] if others and me.rng.random() < 0.3 else [])]
    if _answer(client, client.send("redact", ids=ids, reason="a slip"), "not_found") is not None:
        _look_again(me, client, context, ids, word)


def _look_again(me: Me, client: Noted, context: str, ids: list[bytes], word: str) -> None:
    for unit_id in ids:
        _answer(client, client.send("get", ids=[unit_id]), "not_found")  # retention may take it
    client.ask("list", context=context, reverse=True, limit=PAGE)
    search = client.send("search", query=word, mode="keyword", limit=PAGE, wait=me.rng.choice((0, 5000)))
    _answer(client, search, "unavailable", "timeout", "internal")
    tail = client.send("tail", contexts=[context], agent=[me.name], after=0, credit=CREDITS[-1])
    _answer(client, tail, "trimmed")
    client.items.pop(tail, None)


ON_TRIO = {"hasty": hurry, "follower": follow}
ROLES: dict[str, Work] = {
    "writer": write,
    "reader": read,
    "member": consume,
    "holder": lock,
    "looker": look,
    "keeper": keep,
    "eraser": erase,
}


def work(me: Me, role: Work) -> None:
    """Work over one connection after the other, until told to end."""
    while not me.is_done:
        client = None
        try:
            client = Noted(me.socket, me.name, me.record)
            role(me, client)
        except EngramError as error:
            if error.code not in AWAY:
                raise
        except OSError:
            time.sleep(0.03)  # the daemon is being started again
        finally:
            if client is not None:
                client.close()
                me.cursor = client.cursor or me.cursor


def stands_at(record: Path) -> str | None:
    """The cursor up to which the readers before had noted what they got."""
    cursor = None
    for line in lines(record) if record.exists() else ():
        if line["did"] == "got":
            cursor = line["event"]["cursor"]
        elif line["did"] == "answered" and (error := line.get("error", {})).get("code") in ("cursor", "trimmed"):
            cursor = next_place(error["code"], error.get("details", {}))
    return cursor


def main() -> None:
    role, name, life, seed, socket, path = sys.argv[1:]
    record = Path(path)
    label = f"z{''.join(filter(str.isalnum, name))}l{life}"
    me = Me(name, label, random.Random(f"{seed}/{name}/{life}"), Path(socket), Record(record), stands_at(record))
    if role in ON_TRIO:
        trio.run(ON_TRIO[role], me)
    else:
        work(me, ROLES[role])


if __name__ == "__main__":
    main()
