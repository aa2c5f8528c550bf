"""Every operation of the wire: its permission, the members of its request and of its answer.

This table is the only declaration. Requests are validated with it, the CDDL and the JSON Schema of `engram pipe` are printed from it, and a
test holds the permission table to it. `tail` is a stream: items carry its id until its answer ends it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ..shapes import NamedTuple
from .paths import MAX_PATHS
from .schema import (
    JSON,
    NO_BOUND,
    Any_,
    Bool,
    Bytes,
    Choice,
    Const,
    Field,
    Int,
    ListOf,
    MapOf,
    Named,
    Null,
    Number,
    OneOf,
    Record,
    Resource,
    Text,
    Type,
)
from .unit import RELATIONSHIPS, TYPES

VERSION = (1, 0)  # major, minor: a major step breaks old peers, a minor one adds

MIB = 1024 * 1024
MAX_PAYLOAD = 16 * MIB  # the most that a configuration may allow
MAX_NAME = 256
MAX_META = 64
MAX_META_KEY = 128
MAX_META_VALUE = 4096
MAX_RELATIONSHIPS = 64
MAX_UNITS = 1000  # in one put, one get, or one page
MAX_CONTEXTS = 256  # in one tail
MAX_REDACTED = 100  # units in one request
MAX_RESOURCES = 1000  # of one lease
MAX_SLOTS = 10_000
MAX_PREFETCH = 1000  # units that a member of a consumer may have at a time
MAX_DELIVERIES = 1000  # of a unit to a consumer
MAX_CREDIT = 64 * MIB
DEFAULT_CREDIT = MIB
MAX_QUERY = 4096  # bytes of a search's query
MAX_WAIT = 3_600_000  # milliseconds
PAGE_BYTES = MIB // 2  # a page ends after the unit that passes this
MAX_TOKEN_GLOBS = 64  # contexts, and paths, of one token
MAX_DISTANCE = 1000  # edges between a unit and those that are related to it
MAX_BUDGET = 1_000_000  # of a pack, in its unit
FORMATS = ("md", "json", "xml")  # of packs

PERMISSIONS = ("read", "write", "lock", "admin")
GRANTS = (*PERMISSIONS, "act-as")  # what a token may have; the last lets its bearer act under any name


def frame_limit(max_payload: int) -> int:
    """The largest frame, in bytes, where payloads are at most `max_payload` bytes: room for a page and one more unit."""
    return max_payload + MIB


class Operation(NamedTuple):
    """One operation: who may ask for it, and what is asked and answered.

    Attributes:
        stream: whether items precede the answer.
        waits: the member that makes the request wait for others, as long as they take.
        also: a further permission that a member needs, if it is there and not false; under no name, one that is always needed.
    """

    permission: str
    doc: str
    request: Record
    result: Record
    stream: bool = False
    waits: str = ""
    also: Mapping[str, str] = MappingProxyType({})

    def needs(self, request: Mapping[str, Any]) -> list[str]:
        """The permissions that a request needs."""
        return [self.permission, *(further for member, further in self.also.items() if not member or request.get(member))]

    def lasts(self, request: Mapping[str, Any]) -> bool:
        """Whether the request is under way until someone ends it; `cancel` does. A connection may have fewer of these."""
        return self.stream or (self.waits != "" and request.get(self.waits) is True)


ID = OneOf(((int, Int()), (str, Text(64, least=1))))  # of a request
NAME = Text(MAX_NAME, least=1, plain=True)
META = MapOf(Text(MAX_META_KEY, least=1, plain=True), Text(MAX_META_VALUE), MAX_META)
UNIT_ID = Bytes(16, least=16)
REF = OneOf(((str, Text(64, least=1)), (int, Int(1)), (bytes, UNIT_ID)))
CURSOR = OneOf(((str, Text(64, least=1)), (int, Int(0))))
TIME = OneOf(((str, Text(64, least=1)), (int, Int(0))))
DEDUPE = Text(MAX_NAME, least=1)
UNIT_TYPE = Choice(TYPES)


def _some(item: Type) -> OneOf:
    """One, or a list of them."""
    return OneOf(((str, item), (list, ListOf(item, 64, least=1))))


RELATIONSHIP = Record(
    {
        "type": Field(Choice(RELATIONSHIPS), "what the edge means", required=True),
        "target": Field(REF, "the earlier unit", required=True),
        "meta": Field(META, "notes on the edge"),
    }
)
DRAFT: Mapping[str, Field] = {
    "text": Field(Text(MAX_PAYLOAD), "the payload, as UTF-8 text"),
    "payload": Field(Bytes(MAX_PAYLOAD), "the payload, as bytes"),
    "type": Field(UNIT_TYPE, "message unless said otherwise"),
    "meta": Field(META, "labels"),
    "relationships": Field(ListOf(RELATIONSHIP, MAX_RELATIONSHIPS), "edges to earlier units"),
}
KNOWN_ID = OneOf(((str, Text(64, least=1)), (bytes, UNIT_ID)))
ONE_OF_SEVERAL: Mapping[str, Field] = {
    **DRAFT,
    "id": Field(KNOWN_ID, "the id that the unit has from elsewhere; a unit that is there already is not put again"),
}
FILTERS: Mapping[str, Field] = {
    "agent": Field(_some(NAME), "units of any of these agents"),
    "type": Field(_some(UNIT_TYPE), "units of any of these types"),
    "meta": Field(META, "units with all of these labels"),
    "related_to": Field(REF, "units with a relationship to this one"),
    "until": Field(TIME, "units put before this instant"),
}
MODES = ("exclusive", "shared", "slots")
TOKEN = Int(1)
DURATION = OneOf(((str, Text(64, least=1)), (int, Int(0))))
RESOURCES = ListOf(Resource(), MAX_RESOURCES, least=1)
FENCE = Record(
    {
        "resource": Field(Resource(), "what the write touches", required=True),
        "token": Field(TOKEN, "the token of the lease that covers it", required=True),
    }
)
CONTEXT = {"context": Field(NAME, "the context", required=True)}
UNITS = Any_("[* unit]")
SEARCH_MODES = ("hybrid", "keyword", "semantic")
ENTRY_KINDS = ("unit_put", "unit_added")
KINDS = (  # of events, in the order of their codes
    "unit_put",
    "context_created",
    "context_changed",
    "agent_joined",
    "agent_left",
    "unit_pinned",
    "unit_unpinned",
    "unit_added",
    "unit_removed",
    "lock_granted",
    "lock_released",
    "lock_expired",
    "lock_stolen",
    "consumer_created",
    "consumer_acked",
    "consumer_parked",
    "consumer_retried",
    "consumer_reset",
    "consumer_deleted",
    "agent_present",
    "agents_gone",
    "token_issued",
    "token_revoked",
    "retention_set",
    "units_trimmed",
    "events_trimmed",
    "unit_redacted",
    "erasures_finished",
    "log_restored",
    "consumer_missed",
)
DIRECTIONS = ("in", "out", "both")
UNITS_OF_SIZE = ("tokens", "chars", "bytes")
COUNTERS = ("estimate", "tokenizer")
POLICIES = ("default", "errors-first")  # that are built in
FORMS = ("json", "line", "raw")  # JSON objects; `seq⇥ts⇥agent⇥type⇥text`; payloads
FORM = Field(Choice(FORMS), "have the daemon write units out, for clients that only print", wire=True)
SHOWN = Field(Bytes(NO_BOUND), "with form: the units, written out", wire=True)
CONTEXT_INFO = Any_("context-info")
NAMED = ("contexts", "agents", "locks", "consumers")  # what `names` lists
CHANGED = Record({"changed": Field(Bool(), "false if it was so already", required=True)})
NOTHING = Record({})
CONSUMER = {"consumer": Field(NAME, "the consumer", required=True)}
CONSUMER_INFO = Any_("consumer-info")
TOKEN_INFO = Any_("token-info")
TOKEN_NAME = {"token": Field(NAME, "its name, as token_list shows it", required=True)}
PLACE = OneOf(((str, Text(64, least=1)), (int, Int(0))))  # in the log
ENTRIES = Field(ListOf(CURSOR, MAX_UNITS), "cursors or seqs of entries")

HELLO = Record(
    {
        "version": Field(ListOf(Int(0, 2**16), 2, least=2), "major and minor version of the protocol", required=True),
        "agent": Field(NAME, "who acts on this connection; with a token, its holder unless said otherwise"),
        "session": Field(NAME, "the session it belongs to"),
        "owner": Field(Bool(), "the session lasts as long as this connection, or another owner's"),
        "presence": Field(Bool(), "the agent counts as present while this connection lasts"),
        "token": Field(Text(1024, least=1), "proof of identity; needed but on the owner's Unix socket, and counts there too"),
        "client": Field(Text(MAX_NAME), "name and version of the program, for logs"),
    }
)
HELLO_RESULT = Record(
    {
        "version": Field(ListOf(Int(0), 2), "the daemon's version of the protocol", required=True),
        "server": Field(Text(MAX_NAME), "name and version of the daemon", required=True),
        "history": Field(Text(64), "the id of the log's history", required=True),
        "limits": Field(MapOf(Text(64), Int(), 64), "the daemon's limits: bytes, or counts", required=True),
        "pid": Field(Int(), "the daemon's process id", required=True),
        "agent": Field(NAME, "who acts on this connection, where hello did not say"),
    }
)
NOTICES: Mapping[str, Record] = {
    "credit": Record({"bytes": Field(Int(1, MAX_CREDIT), "how much more the stream may send", required=True)}),
    "cancel": Record({}),
}

LEASE = Record(
    {
        "token": Field(TOKEN, "the fencing token: the seq of the grant", required=True),
        "resources": Field(RESOURCES, "what it is on", required=True),
        "mode": Field(Choice(MODES), "how", required=True),
        "ttl": Field(Int(), "its time in microseconds", required=True),
        "expires_at": Field(
            OneOf(((int, Int()), (type(None), Null()))),
            "when it ends unless renewed, by the wall clock; null: with its session",
            required=True,
        ),
    }
)

_MEMBER = {**CONTEXT, "agent": Field(NAME, "the agent; the caller unless said otherwise")}
_UNITS_OF = {**CONTEXT, "ids": Field(ListOf(REF, MAX_UNITS, least=1), "the units", required=True)}
_LABELS = MapOf(Text(MAX_META_KEY, least=1, plain=True), OneOf(((str, Text(MAX_META_VALUE)), (type(None), Null()))), MAX_META)
_SETTINGS = {
    **CONSUMER,
    "contexts": Field(ListOf(NAME, MAX_CONTEXTS), "which contexts; none means all"),
    **{name: field for name, field in FILTERS.items() if name != "until"},
    "key": Field(Text(MAX_META_KEY + 5), "agent, or meta:K: units of one such key go out one at a time, in order"),
    "visibility": Field(DURATION, "how long a member may have a unit, 5m unless said otherwise; as an integer, microseconds"),
    "deliveries": Field(Int(1, MAX_DELIVERIES), "park a unit after so many, 5 unless said otherwise"),
    "from": Field(PLACE, "where a new consumer starts: start, now, a cursor, a seq, or a time; start unless said otherwise"),
}

_SHARE = Field(Int(0, 100), "percent of the budget that it may take first")
_RULE = Record(
    {
        "weight": Field(Int(0, 1000), "how soon the turn of such a unit comes; 0 leaves it out"),
        "max": Field(Int(1, 100), "percent of the budget that one may take"),
        "keep": Field(Choice(("start", "end", "ends", "whole")), "what is kept of one that is too large; whole: it is left out"),
    }
)
POLICY = Record(
    {
        "manifests": Field(Bool(), "whether recorded manifests go in, too"),
        "shares": Field(Record(dict.fromkeys(("pinned", "recent", "related", "query"), _SHARE)), "what each lane may take first"),
        "related": Field(
            Record(
                {
                    "types": Field(ListOf(Choice(RELATIONSHIPS), len(RELATIONSHIPS)), "relationships that count"),
                    "depth": Field(Int(1, 8), "how many of them between a unit and another"),
                }
            ),
            "what relates to a unit",
        ),
        "types": Field(Record(dict.fromkeys((*TYPES, "default"), Field(Named("policy-rule", _RULE), ""))), "rules for types of units"),
    }
)

OPERATIONS: Mapping[str, Operation] = {
    "put": Operation(
        "write",
        "Append one unit, or several as one batch; the context is created if need be.",
        Record(
            {
                **CONTEXT,
                "agent": Field(NAME, "who acts; the connection's agent unless said otherwise"),
                **DRAFT,
                "units": Field(ListOf(Record(ONE_OF_SEVERAL), MAX_UNITS, least=1), "several units, all or none"),
                "dedupe": Field(DEDUPE, "a key: a put seen before in this context answers with the first one's units"),
                "expect_seq": Field(Int(), "refuse unless this is the seq of the context's last entry (0: none)"),
                "fences": Field(ListOf(FENCE, 64), "refuse unless each token is that of a current lease which covers the resource"),
                "release": Field(Bool(), "release the leases of fences in the same batch"),
            }
        ),
        Record(
            {
                "id": Field(UNIT_ID, "the unit's id; of several, the last one's", required=True),
                "seq": Field(Int(1), "its seq", required=True),
                "ts": Field(Int(), "when, in microseconds since the epoch", required=True),
                "ids": Field(ListOf(UNIT_ID, MAX_UNITS), "of several, all ids in order"),
                "deduped": Field(Bool(), "whether an earlier put is answered", required=True),
                "fresh": Field(Int(), "with ids: how many units were not there yet"),
            }
        ),
        also={"release": "lock"},
    ),
    "get": Operation(
        "read",
        "Read units by id or seq.",
        Record({"ids": Field(ListOf(REF, MAX_UNITS, least=1), "ids or seqs", required=True), "form": FORM}),
        Record({"units": Field(UNITS, "the units, in the order asked"), "text": SHOWN}),
    ),
    "list": Operation(
        "read",
        "Read a page of a context's present units, oldest first.",
        Record(
            {
                **CONTEXT,
                **FILTERS,
                "since": Field(TIME, "units put at or after this instant"),
                "after": Field(CURSOR, "units beyond this cursor, in the order asked"),
                "limit": Field(Int(1, MAX_UNITS), "the most units in the page"),
                "reverse": Field(Bool(), "newest first"),
                "form": FORM,
            }
        ),
        Record(
            {
                "units": Field(UNITS, "the units"),
                "text": SHOWN,
                "next": Field(
                    OneOf(((str, Text(64)), (type(None), Null()))), "where the next page goes on; null at the end", required=True
                ),
            }
        ),
    ),
    "tail": Operation(
        "read",
        "Stream entries in order: replayed ones, a mark, then live ones.",
        Record(
            {
                "contexts": Field(ListOf(NAME, MAX_CONTEXTS), "which contexts; none means all"),
                **FILTERS,
                "last": Field(Int(0, 10**9), "start with the last so many"),
                "since": Field(TIME, "start at this instant"),
                "after": Field(CURSOR, "start beyond this cursor"),
                "follow": Field(Bool(), "go on with live entries"),
                "events": Field(Bool(), "every event, not only the entries"),
                "kinds": Field(ListOf(Choice(KINDS), len(KINDS), least=1), "only events of these kinds, whether entries or others"),
                "credit": Field(Int(0, MAX_CREDIT), f"how many bytes may be sent at first ({DEFAULT_CREDIT} unless said otherwise)"),
                "form": FORM,
            }
        ),
        Record({"cursor": Field(Text(64), "where the stream ended", required=True)}),
        stream=True,
    ),
    "search": Operation(
        "read",
        "Find a page of the units that fit a query best.",
        Record(
            {
                "query": Field(Text(MAX_QUERY, least=1), 'words, "phrases", -exclusions, type:, agent: and meta:', required=True),
                "mode": Field(Choice(SEARCH_MODES), "by words and meaning, unless said otherwise"),
                "contexts": Field(ListOf(NAME, MAX_CONTEXTS), "which contexts; none means all"),
                **FILTERS,
                "since": Field(TIME, "units put at or after this instant"),
                "after": Field(Text(64, least=1), "hits behind this cursor of the same search"),
                "limit": Field(Int(1, MAX_UNITS), "the most hits in the page; 20 unless said otherwise"),
                "min_score": Field(Number(0, 1), "hits with at least this score"),
                "wait": Field(Int(0, MAX_WAIT), "milliseconds to wait for an index that is behind; 5000 unless said otherwise"),
            }
        ),
        Record(
            {
                "hits": Field(Any_("[* hit]"), "the hits, best first", required=True),
                "next": Field(
                    OneOf(((str, Text(64)), (type(None), Null()))), "where the next page goes on; null at the end", required=True
                ),
                "behind": Field(Int(), "how many events the search did not see; 0 unless the wait was over first", required=True),
            }
        ),
    ),
    "pack": Operation(
        "read",
        "Assemble units for a prompt within a budget. What is answered depends on the log up to `at` and on this request alone.",
        Record(
            {
                "contexts": Field(ListOf(NAME, MAX_CONTEXTS, least=1), "which contexts", required=True),
                "budget": Field(Int(1, MAX_BUDGET), "the largest size of the whole", required=True),
                "unit": Field(Choice(UNITS_OF_SIZE), "what the budget counts; tokens unless said otherwise"),
                "counter": Field(Choice(COUNTERS), "how tokens are counted: by the built-in estimate, unless said otherwise"),
                "query": Field(Text(MAX_QUERY, least=1), "words; what fits them best goes in, too"),
                "policy": Field(
                    OneOf(((str, Text(64, least=1)), (dict, Named("policy", POLICY)))),
                    "a built-in one's name, or what differs from the default one",
                ),
                "at": Field(CURSOR, "the seq or cursor up to which the log counts; its end unless said otherwise"),
                "since": Field(CURSOR, "only what the same pack at this seq or cursor has not"),
                "format": Field(Choice(FORMATS), "md unless said otherwise"),
                "explain": Field(Bool(), "name every unit that was left out, not only the first"),
                "wait": Field(Int(0, MAX_WAIT), "milliseconds to wait for an index that is behind; 5000 unless said otherwise"),
            }
        ),
        Record(
            {
                "text": Field(Text(NO_BOUND), "the pack", required=True),
                "manifest": Field(Any_("manifest"), "what went in and why", required=True),
            }
        ),
    ),
    "related": Operation(
        "read",
        "Walk relationships from a unit, nearest first; each unit is come to once.",
        Record(
            {
                "of": Field(REF, "the unit to start from", required=True),
                "direction": Field(Choice(DIRECTIONS), "out: edges that a unit has; in: edges that lead to it; both unless said otherwise"),
                "type": Field(_some(Choice(RELATIONSHIPS)), "only edges of these types"),
                "depth": Field(Int(1, MAX_DISTANCE), "the most edges on the way; 1 unless said otherwise"),
                "limit": Field(Int(1, MAX_UNITS), "the most units"),
            }
        ),
        Record(
            {
                "related": Field(Any_("[* related]"), "the units, with the way to each", required=True),
                "more": Field(Bool(), "whether a limit ended the walk", required=True),
            }
        ),
    ),
    "why": Operation(
        "read",
        "Read a page of the changes of a file in all contexts, newest first, with what led to each.",
        Record(
            {
                "paths": Field(ListOf(Text(MAX_META_VALUE, least=1), MAX_PATHS, least=1), "every name the file may have", required=True),
                "depth": Field(Int(0, MAX_DISTANCE), "the most edges from a change to what led to it"),
                "after": Field(CURSOR, "changes before this cursor"),
                "limit": Field(Int(1, MAX_UNITS), "the most changes in the page"),
            }
        ),
        Record(
            {
                "changes": Field(Any_("[* change]"), "the changes", required=True),
                "next": Field(
                    OneOf(((str, Text(64)), (type(None), Null()))), "where the next page goes on; null at the end", required=True
                ),
            }
        ),
    ),
    "consumer_create": Operation(
        "write",
        "Create a consumer, or see that the one there is has the settings asked for.",
        Record(_SETTINGS),
        CHANGED,
    ),
    "consume": Operation(
        "write",
        "Take part in a consumer, which is created if need be: stream units that no other member gets, until they are acknowledged.",
        Record(
            {
                **_SETTINGS,
                "prefetch": Field(Int(1, MAX_PREFETCH), "units to have unacknowledged at a time, 1 unless said otherwise"),
                "follow": Field(Bool(), "go on with live entries"),
                "credit": Field(Int(0, MAX_CREDIT), "bytes of items that may be sent before more credit is given"),
            }
        ),
        Record({"cursor": Field(Text(64), "up to where the consumer is done", required=True)}),
        stream=True,
        also={"": "read"},
    ),
    "ack": Operation(
        "write",
        "Say that a consumer is done with units, delivered or parked. On disk when this is answered.",
        Record({**CONSUMER, "entries": Field(ENTRIES.type, ENTRIES.doc, required=True)}),
        CHANGED,
    ),
    "consumer_show": Operation(
        "read", "Describe a consumer.", Record(CONSUMER), Record({"consumer": Field(CONSUMER_INFO, "the consumer", required=True)})
    ),
    "consumer_list": Operation(
        "read",
        "Describe a page of the consumers, by name.",
        Record({"after": Field(NAME, "consumers whose name sorts after this")}),
        Record(
            {
                "consumers": Field(Any_("[* consumer-info]"), "the consumers", required=True),
                "next": Field(OneOf(((str, Text(MAX_NAME)), (type(None), Null()))), "where the next page goes on", required=True),
            }
        ),
    ),
    "consumer_parked": Operation(
        "read",
        "Read a page of a consumer's parked units.",
        Record({**CONSUMER, "after": Field(CURSOR, "those that were parked after this one")}),
        Record(
            {
                "parked": Field(Any_("[* parked]"), "the units, in the order in which they were parked", required=True),
                "next": Field(OneOf(((str, Text(64)), (type(None), Null()))), "where the next page goes on", required=True),
            }
        ),
    ),
    "consumer_retry": Operation("write", "Deliver parked units again.", Record({**CONSUMER, "entries": ENTRIES}), CHANGED),
    "consumer_reset": Operation(
        "write",
        "Have a consumer go on somewhere else. What its members have is delivered again.",
        Record({**CONSUMER, "to": Field(PLACE, "start, now, a cursor, a seq, or a time", required=True)}),
        Record({"cursor": Field(Text(64), "beyond which it goes on", required=True)}),
    ),
    "consumer_delete": Operation("write", "Forget a consumer. The streams of its members end.", Record(CONSUMER), NOTHING),
    "context_create": Operation(
        "write",
        "Create a context.",
        Record({**CONTEXT, "display_name": Field(Text(MAX_NAME), "a title for people"), "meta": Field(META, "labels")}),
        Record({"context": Field(CONTEXT_INFO, "the context", required=True)}),
    ),
    "context_show": Operation(
        "read",
        "Describe a context.",
        Record(CONTEXT),
        Record({"context": Field(CONTEXT_INFO, "the context", required=True)}),
    ),
    "context_list": Operation(
        "read",
        "Describe a page of the contexts, by name.",
        Record({"after": Field(NAME, "contexts whose name sorts after this"), "limit": Field(Int(1, MAX_UNITS), "the most of them")}),
        Record(
            {
                "contexts": Field(Any_("[* context-info]"), "the contexts", required=True),
                "next": Field(OneOf(((str, Text(MAX_NAME)), (type(None), Null()))), "where the next page goes on", required=True),
            }
        ),
    ),
    "context_set": Operation(
        "write",
        "Change a context's title or labels.",
        Record({**CONTEXT, "display_name": Field(Text(MAX_NAME), "the new title"), "meta": Field(_LABELS, "labels to set; null removes")}),
        Record({"context": Field(CONTEXT_INFO, "the context", required=True)}),
    ),
    "context_retain": Operation(
        "admin",
        "Set how much of a context is kept: its oldest entries beyond a limit are removed, but for pinned units.",
        Record(
            {
                **CONTEXT,
                "age": Field(OneOf(((str, Text(64, least=1)), (int, Int(1)), (type(None), Null()))), "how old entries may get"),
                "units": Field(OneOf(((int, Int(1)), (type(None), Null()))), "how many entries are kept"),
                "bytes": Field(
                    OneOf(((str, Text(64, least=1)), (int, Int(1)), (type(None), Null()))), "and bytes of their units; null: no limit"
                ),
            }
        ),
        Record({"context": Field(CONTEXT_INFO, "the context", required=True)}),
    ),
    "redact": Operation(
        "admin",
        "Erase the payload and labels of units, for good. On no file of the store when this is answered, unless it says so.",
        Record(
            {
                "ids": Field(ListOf(REF, MAX_REDACTED, least=1), "the units", required=True),
                "reason": Field(Text(1024, least=1), "why; it is kept, and shown in their place", required=True),
            }
        ),
        Record(
            {
                "redacted": Field(ListOf(Int(1), MAX_REDACTED), "the seqs of those that had not been", required=True),
                "erased": Field(Bool(), "whether the erasure from all files is complete; else it goes on", required=True),
            }
        ),
    ),
    "context_join": Operation("write", "Make an agent a member.", Record(_MEMBER), CHANGED),
    "context_leave": Operation("write", "End an agent's membership.", Record(_MEMBER), CHANGED),
    "context_pin": Operation("write", "Pin units.", Record(_UNITS_OF), CHANGED),
    "context_unpin": Operation("write", "Unpin units.", Record(_UNITS_OF), CHANGED),
    "context_add": Operation("write", "Add units of other contexts; they arrive as new entries.", Record(_UNITS_OF), CHANGED),
    "context_remove": Operation("write", "Remove units from the context; they stay in the log.", Record(_UNITS_OF), CHANGED),
    "lock": Operation(
        "lock",
        "Take a lease on resources, all or none.",
        Record(
            {
                "resources": Field(RESOURCES, "absolute, normalised paths, globs over them, or @names", required=True),
                "mode": Field(Choice(MODES), "exclusive unless said otherwise"),
                "slots": Field(Int(1, MAX_SLOTS), "with mode slots: how many may hold one of the resources at a time"),
                "ttl": Field(
                    DURATION, "how long it lasts unless it is renewed, as text such as 90s or in microseconds; a minute by default"
                ),
                "session": Field(Bool(), "it ends with the connection's session, and needs no renewal while that lasts"),
                "reason": Field(Text(1024), "what for; told to whoever it keeps waiting"),
                "key": Field(DEDUPE, "a key of the agent's: asked again while it holds that lease, it is answered with it"),
                "wait": Field(Bool(), "wait in the queue; without it, an error at once"),
                "timeout": Field(DURATION, "how long to wait at most"),
            }
        ),
        LEASE,
        waits="wait",
    ),
    "renew": Operation(
        "lock", "Let a lease last its full time from now on.", Record({"token": Field(TOKEN, "the lease", required=True)}), LEASE
    ),
    "unlock": Operation(
        "lock",
        "Release a lease; or, with force, take leases from those who hold them.",
        Record(
            {
                "token": Field(TOKEN, "the lease"),
                "resources": Field(RESOURCES, "with force: every lease that keeps one of these locked"),
                "force": Field(Bool(), "take it away from whoever holds it"),
            }
        ),
        Record({"released": Field(ListOf(Int(1), 100_000), "the tokens of the leases that ended", required=True)}),
        also={"force": "admin"},
    ),
    "locks": Operation(
        "read",
        "List the leases that are held, by token, and on the last page those who wait, in order.",
        Record(
            {
                "resources": Field(RESOURCES, "only what has to do with these"),
                "explain": Field(Bool(), "with the last units of each holder; needs resources"),
                "after": Field(TOKEN, "leases with a higher token"),
                "limit": Field(Int(1, MAX_UNITS), "the most leases"),
            }
        ),
        Record(
            {
                "locks": Field(Any_("[* lock-info]"), "the leases", required=True),
                "waiters": Field(Any_("[* waiter-info]"), "the first of those who wait", required=True),
                "next": Field(OneOf(((int, TOKEN), (type(None), Null()))), "where the next page goes on", required=True),
            }
        ),
    ),
    "agents": Operation(
        "read",
        "List the agents that have put units or been present, or a context's members.",
        Record({"context": Field(NAME, "only its members"), "after": Field(NAME, "agents whose name sorts after this")}),
        Record(
            {
                "agents": Field(Any_("[* agent-info]"), "the agents, by name", required=True),
                "next": Field(OneOf(((str, Text(MAX_NAME)), (type(None), Null()))), "where the next page goes on", required=True),
            }
        ),
    ),
    "names": Operation(
        "read",
        "List the names that start with a prefix, in order: what completion offers.",
        Record(
            {
                "kind": Field(Choice(NAMED), "whose names", required=True),
                "prefix": Field(Text(MAX_NAME), "what they start with; all of them unless said otherwise"),
                "limit": Field(Int(1, MAX_UNITS), "the most names"),
            }
        ),
        Record({"names": Field(ListOf(NAME, MAX_UNITS), "the names", required=True)}),
    ),
    "status": Operation(
        "read", "Describe the daemon.", NOTHING, Record({"status": Field(Any_("{ * tstr => any }"), "the facts", required=True)})
    ),
    "metrics": Operation(
        "read",
        "Tell what the daemon has counted and timed since its start.",
        Record({"form": Field(Choice(("prometheus",)), "written out in Prometheus' text format")}),
        Record(
            {
                "metrics": Field(ListOf(Any_("{ * tstr => any }"), 10_000), "one for each metric and set of labels, without a form"),
                "text": Field(Text(MIB), "with the form"),
            }
        ),
    ),
    "token_issue": Operation(
        "admin",
        "Issue a token. Its text is in this answer and nowhere else.",
        Record(
            {
                "agent": Field(NAME, "the agent that it is for", required=True),
                "permissions": Field(ListOf(Choice(GRANTS), len(GRANTS), least=1), "what it allows", required=True),
                "contexts": Field(ListOf(NAME, MAX_TOKEN_GLOBS), "globs (* and ?) over names of contexts that it is limited to"),
                "paths": Field(ListOf(Resource(), MAX_TOKEN_GLOBS), "resources that cover what it may lock"),
                "expires": Field(DURATION, "how long it lasts, as text such as 30d or in microseconds; for ever if nothing is said"),
                "note": Field(Text(MAX_NAME, plain=True), "what it is for"),
            }
        ),
        Record({"token": Field(Text(1024), "the token", required=True), "info": Field(TOKEN_INFO, "what it is", required=True)}),
    ),
    "token_list": Operation(
        "admin",
        "List a page of the tokens, by name. None shows its secret.",
        Record({"after": Field(NAME, "tokens whose name sorts after this")}),
        Record(
            {
                "tokens": Field(Any_("[* token-info]"), "the tokens", required=True),
                "next": Field(OneOf(((str, Text(MAX_NAME)), (type(None), Null()))), "where the next page goes on", required=True),
            }
        ),
    ),
    "token_revoke": Operation(
        "admin",
        "End a token, and the connections that greeted with it.",
        Record(TOKEN_NAME),
        Record({"connections": Field(Int(), "how many ended", required=True)}),
    ),
    "token_inspect": Operation(
        "admin", "Describe a token.", Record(TOKEN_NAME), Record({"info": Field(TOKEN_INFO, "what it is", required=True)})
    ),
    "shutdown": Operation("admin", "Stop the daemon after what is in flight.", NOTHING, NOTHING),
    "backup": Operation(
        "admin",
        "Read a page of the log's records as they stand on disk.",
        Record(
            {
                "after": Field(Int(), "records behind this seq", required=True),
                "last": Field(Int(), "records up to this seq; the end of the log unless said otherwise"),
            }
        ),
        Record(
            {
                "frames": Field(Bytes(2**32 - 1), "the records, in frames as a segment of a backup has them", required=True),
                "reached": Field(Int(), "up to this seq, these are all there are", required=True),
                "last": Field(Int(), "up to where to ask on", required=True),
                "changed": Field(ListOf(Int(1), 1_000_000), "earlier seqs that a later event changed: read them anew", required=True),
                "history": Field(Text(64), "the id of the log's history", required=True),
                "whole": Field(Int(), "a log that ends before may lack records that an event up to here has removed", required=True),
                "gone": Field(Int(), "the last seq of an event, no entry, that was removed: what it said of changes, too", required=True),
            }
        ),
    ),
    "check": Operation(
        "admin",
        "Check the store: every block, every event, and all that is derived from them.",
        NOTHING,
        Record(
            {
                "events": Field(Int(), "how many events the log has", required=True),
                "last_seq": Field(Int(), "the seq of the last one", required=True),
                "checks": Field(Any_("[* check-info]"), "what was looked at: ok, wrong or skipped", required=True),
                "findings": Field(Any_("[* finding]"), "the first of what is wrong", required=True),
            }
        ),
    ),
}

# What answers and items are made of

TEXT = Text(NO_BOUND)
COUNT = Int()
TS = Int()
MICROSECONDS = Int()
LABELS = MapOf(TEXT, TEXT, NO_BOUND)
ANYTHING = Any_("{ * tstr => any }")


def _must(kind: Type, doc: str = "") -> Field:
    return Field(kind, doc, required=True)


def _may(kind: Type, doc: str = "") -> Field:
    return Field(kind, doc)


def _or_null(kind: Int) -> OneOf:
    return OneOf(((int, kind), (type(None), Null())))


def _all(kind: Type) -> ListOf:
    return ListOf(kind, NO_BOUND)


_EDGE = {"type": _must(Choice(RELATIONSHIPS)), "target": _must(UNIT_ID), "meta": _must(LABELS)}
_CLAIM = {"resources": _must(_all(TEXT)), "mode": _must(TEXT), "slots": _may(COUNT), "session": _may(TEXT), "reason": _must(TEXT)}

# name: what it is made of. The first member of each pair is a comment for all of them.
SHAPES: tuple[tuple[str, Mapping[str, Record]], ...] = (
    (
        "",
        {
            "answer": Record({"id": _must(Any_("id")), "ok": _must(Const(True)), "result": _must(Any_("result"))}),
            "failure": Record(
                {
                    "id": _must(
                        Any_("id / nil"), "nil: the fault is the connection's, which then ends; of pipe, that of a line without one"
                    ),
                    "ok": _must(Const(False)),
                    "error": _must(Any_("error")),
                }
            ),
            "error": Record({"code": _must(TEXT), "message": _must(TEXT), "details": _must(ANYTHING)}),
            "item": Record({"id": _must(Any_("id")), "event": _must(Any_("event"))}),
        },
    ),
    (
        'A stream\'s items. "live" marks the end of what is replayed; "heartbeat" says that nothing matched for a while. Clients ignore\n'
        "; members and kinds they do not know.",
        {
            "entry": Record(
                {
                    "cursor": _must(TEXT, "resume behind it to get what follows"),
                    "kind": _must(Choice(ENTRY_KINDS)),
                    "unit": _must(Any_("unit")),
                    "deliveries": _may(COUNT, "of a consumer, this one included"),
                    "missed": _may(COUNT, "of a consumer: as consumer-info has it, unless it is 0"),
                }
            ),
            "written": Record({"cursor": _must(TEXT), "kind": _must(TEXT, "whatever it is"), "text": _must(SHOWN.type, SHOWN.doc)}),
            "mark": Record({"cursor": _must(TEXT), "kind": _must(Choice(("live", "heartbeat")))}),
            "other": Record({"cursor": _must(TEXT), "kind": _must(TEXT), "seq": _must(COUNT), "ts": _must(TS), "data": _must(ANYTHING)}),
        },
    ),
    (
        "",
        {
            "unit": Record(
                {
                    "id": _must(UNIT_ID, "UUIDv7"),
                    "seq": _must(COUNT),
                    "ts": _must(TS, "microseconds since the Unix epoch"),
                    "context": _must(TEXT),
                    "agent": _must(TEXT),
                    "type": _must(UNIT_TYPE),
                    "meta": _must(LABELS),
                    "text": _may(TEXT),
                    "payload": _may(Bytes(NO_BOUND)),
                    "relationships": _must(_all(Record(_EDGE))),
                    "redacted": _may(
                        Record({"seq": _must(COUNT), "ts": _must(TS), "agent": _must(TEXT), "reason": _must(TEXT)}),
                        "the event that erased it; text, labels and notes are empty then",
                    ),
                    "entry": _may(COUNT, "where it arrived, if it was added there later"),
                    "entry_context": _may(TEXT, "and in which context"),
                },
                one_of=("text", "payload"),
            ),
        },
    ),
    (
        "A search's hit. The score is that of the mode; the parts are 0 where they were not asked. Marks are characters of the snippet.",
        {
            "hit": Record(
                {
                    "unit": _must(Any_("unit")),
                    "score": _must(Number(0, 1)),
                    "parts": _must(Record({"keyword": _must(Number(0, 1)), "semantic": _must(Number(0, 1))})),
                    "snippet": _must(Record({"text": _must(TEXT), "marks": _must(_all(ListOf(COUNT, 2, least=2)), "from and to")})),
                    "cursor": _must(TEXT),
                }
            ),
        },
    ),
    (
        'What a pack was made of. Seqs are those of entries. Sizes are in the unit of the budget; "kept" is of so many characters "of".',
        {
            "manifest": Record(
                {
                    **{"version": _must(Int(1, 1)), "inputs": _must(ANYTHING), "hash": _must(TEXT), "used": _must(COUNT)},
                    "units": _must(
                        _all(
                            Record(
                                {
                                    **{"seq": _must(COUNT), "id": _must(TEXT), "lane": _must(TEXT), "why": _must(TEXT)},
                                    **{"size": _must(COUNT), "digest": _must(TEXT), "kept": _may(COUNT), "of": _may(COUNT)},
                                }
                            )
                        )
                    ),
                    "left_out": _must(
                        Record(
                            {
                                **{"count": _must(COUNT), "before": _must(COUNT)},
                                "units": _must(_all(Record({"seq": _must(COUNT), "lane": _must(TEXT), "why": _must(TEXT)}))),
                            }
                        )
                    ),
                }
            ),
        },
    ),
    (
        "",
        {
            "context-info": Record(
                {
                    **{"id": _must(TEXT), "display_name": _must(TEXT), "meta": _must(LABELS), "agents": _must(_all(TEXT))},
                    **{"pinned": _must(_all(UNIT_ID)), "units": _must(COUNT), "last_seq": _must(COUNT)},
                    **{"created_at": _must(TS), "updated_at": _must(TS)},
                    "bytes": _must(COUNT, "of its units"),
                    "keep": _must(
                        Record({"age": _may(MICROSECONDS), "units": _may(COUNT), "bytes": _may(COUNT)}),
                        "how much of it is kept; age in microseconds",
                    ),
                    "more": _may(Const(True), "there are more agents or pinned units than are shown"),
                }
            ),
            "consumer-info": Record(
                {
                    **{"id": _must(TEXT), "contexts": _must(_all(TEXT)), "filter": _must(ANYTHING), "key": _must(TEXT)},
                    "visibility": _must(MICROSECONDS, "microseconds"),
                    **{"deliveries": _must(COUNT), "cursor": _must(TEXT)},
                    "lag": _must(COUNT, "in events of the log"),
                    **{"waiting": _must(COUNT), "held": _must(COUNT), "parked": _must(COUNT)},
                    "missed": _must(COUNT, "entries that retention took before they were done, since its creation or last reset"),
                    "members": _must(_all(Record({"agent": _must(TEXT), "held": _must(COUNT), "prefetch": _must(COUNT)}))),
                    **{"created_at": _must(TS), "updated_at": _must(TS)},
                }
            ),
            "parked": Record(
                {
                    **{"cursor": _must(TEXT), "deliveries": _must(COUNT), "parked_at": _must(TS), "again": _must(Bool())},
                    "unit": _must(Any_("unit / nil")),
                }
            ),
            "token-info": Record(
                {
                    "token": _must(TEXT, "its name"),
                    **{"agent": _must(TEXT), "permissions": _must(_all(Choice(GRANTS)))},
                    "contexts": _must(_all(TEXT), "globs; none: all contexts"),
                    "paths": _must(_all(TEXT), "none: all resources"),
                    **{"issued_at": _must(TS), "expires_at": _must(_or_null(TS), "null: never"), "expired": _must(Bool())},
                    **{"note": _must(TEXT), "connections": _must(COUNT)},
                }
            ),
            "agent-info": Record(
                {
                    **{"id": _must(TEXT), "units": _must(COUNT)},
                    "first_seen": _must(_or_null(TS), "null: never"),
                    "last_seen": _must(_or_null(TS), "null: never"),
                    "present_since": _must(_or_null(TS), "null: not there now"),
                    "holds": _must(_all(TEXT), "resources that it has locked, not all of very many"),
                    "since": _may(TS, "since when it is a member"),
                }
            ),
            "related": Record(
                {
                    **{"unit": _must(Any_("unit")), "distance": _must(COUNT)},
                    "edge": _must(Record({**_EDGE, "source": _must(UNIT_ID, "the unit that has it")}), "the last one on the way"),
                }
            ),
            "change": Record(
                {
                    "unit": _must(Any_("unit")),
                    "chain": _must(Any_("[* related]"), "what led to it"),
                    "more": _must(Bool(), "whether there is more of that"),
                    "leases": _must(_all(Any_("change-lease")), "held for it"),
                }
            ),
            "change-lease": Record(
                {
                    **{"token": _must(COUNT), "holder": _may(TEXT), "resources": _may(_all(TEXT)), "mode": _may(TEXT)},
                    **{"reason": _may(TEXT), "granted_at": _may(TS)},
                }
            ),
            "lock-info": Record(
                {
                    **{"token": _must(COUNT), **_CLAIM, "holder": _must(TEXT), "ttl": _must(MICROSECONDS), "granted_at": _must(TS)},
                    "age": _must(MICROSECONDS, "microseconds"),
                    "remaining": _must(_or_null(MICROSECONDS), "microseconds; null: as long as its session"),
                    "renewals": _must(COUNT),
                    "units": _may(Any_("[* unit]"), 'with "explain": the holder\'s last units'),
                }
            ),
            "waiter-info": Record(
                {
                    **{"number": _must(COUNT), **_CLAIM, "agent": _must(TEXT), "waited": _must(MICROSECONDS, "microseconds")},
                    "behind": _must(_all(COUNT), "tokens of leases in the way, at most 16; none: earlier waiters are"),
                }
            ),
            "check-info": Record({"check": _must(TEXT), "result": _must(Choice(("ok", "wrong", "skipped"))), "wrong": _must(COUNT)}),
            "finding": Record({"check": _must(TEXT), "message": _must(TEXT)}),
        },
    ),
)
EVENTS = ("entry", "written", "mark", "other")

_PREAMBLE = """\
; The wire of Engram, protocol version {major}.{minor}, in CDDL (RFC 8610).
; Printed from engramd/protocol/messages.py; a test keeps it current and validates real frames against it.
;
; A connection carries frames both ways. A frame is a uint32 big-endian length, then that many bytes: one map of this file.
; Lengths are definite, keys are unique, nesting is at most 16 deep, tags are not used.

frame = client-frame / server-frame

client-frame = hello / request / notice
server-frame = answer / failure / item

id = {id}   ; chosen by the client, unique among what is under way

; An answer or item with "text" may be up to eight times as large as the frame limit, since escapes take room.

; A policy of packs.
policy = {policy}
policy-rule = {rule}


hello = {{ id: id, op: "hello", {hello} }}
"""


def cddl() -> str:
    """The whole schema as one CDDL document."""
    lines = [
        _PREAMBLE.format(
            major=VERSION[0],
            minor=VERSION[1],
            id=ID.cddl(),
            hello=", ".join(HELLO.members()),
            policy=POLICY.cddl(),
            rule=_RULE.cddl(),
        )
    ]
    for comment, shapes in SHAPES:
        lines.append(f"; {comment}" if comment else "")
        lines += [_rule(name, "", record, []) for name, record in shapes.items()] + [""]
    lines.append(f"event = {' / '.join(EVENTS)}")
    rules = {name: _hyphened(name) for name in OPERATIONS}
    lines.append("request = " + " / ".join(f"{rule}-request" for rule in rules.values()))
    lines.append("notice = " + " / ".join(NOTICES))
    lines.append("result = hello-result / " + " / ".join(f"{rule}-result" for rule in rules.values()) + "\n")
    for name, record in NOTICES.items():
        lines.append(f'{name} = {{ {", ".join(["id: id", f"""op: "{name}" """.strip(), *record.members()])} }}')
    lines.append(_rule("hello-result", "", HELLO_RESULT, []))
    for name, operation in OPERATIONS.items():
        lines.append(f"\n; {operation.doc} (permission: {_permissions(operation)})")
        lines.append(_rule(f"{rules[name]}-request", "", operation.request, ["  id: id,", f'  op: "{name}",']))
        lines.append(_rule(f"{rules[name]}-result", "", operation.result, []))
    return "\n".join(lines) + "\n"


def _permissions(operation: Operation) -> str:
    further = [f"; with {member}, {right}" if member else f" and {right}" for member, right in operation.also.items()]
    return operation.permission + "".join(further)


def _rule(name: str, indent: str, record: Record, first: list[str]) -> str:
    docs = [field.doc for member, field in record.fields.items() if member not in record.one_of] + [""]
    members = [f"  {member},  ; {doc}".removesuffix("  ; ") for member, doc in zip(record.members(), docs, strict=False)]
    return "\n".join([f"{indent}{name} = {{", *first, *members, f"{indent}}}"])


def json_schema() -> JSON:
    """The lines of `engram pipe` as one JSON Schema (draft 2020-12)."""
    requests = {_hyphened(name): _line(name, operation.request) for name, operation in OPERATIONS.items()}
    notices = {name: _line(name, record) for name, record in NOTICES.items()}
    results = {_hyphened(name): operation.result.json(True) for name, operation in OPERATIONS.items()}
    shapes = {name: record.json(True) for _, records in SHAPES for name, record in records.items() if name != "written"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A line of engram pipe",
        "description": "On standard input requests and notices, on standard output answers, failures and items of streams. "
        "The result of an operation NAME is #/$defs/NAME-result.",
        "anyOf": _references(["request", "notice", "answer", "failure", "item"]),
        "$defs": {
            "request": {"oneOf": _references([f"{name}-request" for name in requests])},
            "notice": {"oneOf": _references(list(notices))},
            "id": ID.json(True),
            **shapes,
            "event": {"anyOf": _references([name for name in EVENTS if name in shapes])},
            "result": {"anyOf": _references([f"{name}-result" for name in results])},
            **notices,
            **{f"{name}-request": {**schema, "description": OPERATIONS[name.replace("-", "_")].doc} for name, schema in requests.items()},
            **{f"{name}-result": schema for name, schema in results.items()},
        },
    }


def _line(op: str, record: Record) -> JSON:
    return Record({"id": _must(Any_("id")), "op": _must(Const(op)), **record.fields}).json(False)


def _hyphened(op: str) -> str:
    return op.replace("_", "-")


def _references(names: list[str]) -> list[JSON]:
    return [{"$ref": f"#/$defs/{name}"} for name in names]


if __name__ == "__main__":
    print(cddl(), end="")
