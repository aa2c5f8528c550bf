"""The prefix map: every key of the store, as docs/storage.md describes it.

Lower-case prefixes hold the log and what finds entries in it, upper-case ones hold state rows. Seqs are 8 bytes big-endian, so key order
is log order. Names end with a NUL, which no name can contain, so the keys of `a` never run into those of `ab`.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from hashlib import blake2b

FORMAT = b"!format"  # -> decimal text
HISTORY = b"!history"  # -> 12 hexadecimal digits

LOG = b"l"  # seq -> record
ENTRY = b"e"  # context NUL seq -> entry
GONE = b"x"  # context NUL seq -> seq of the removal
BY_AGENT = b"a"  # context NUL agent NUL seq -> pointer
BY_TYPE = b"t"  # context NUL type NUL seq -> pointer
BY_META = b"m"  # context NUL digest(16) seq -> pointer
BY_TARGET = b"r"  # target id(16) context NUL seq -> pointer
BY_PATH = b"f"  # digest(16) seq -> nothing
ADDED = b"w"  # unit's seq, seq of the addition -> context

CONTEXTS = b"C"  # context -> row
AGENTS = b"A"  # agent -> row
UNITS = b"U"  # id(16) -> row
MEMBERS = b"M"  # context NUL agent -> row
PINS = b"P"  # context NUL seq -> row
PLACES = b"W"  # context NUL seq -> row
PAST_MEMBERS = b"X"  # context NUL seq of the end -> row
PAST_PINS = b"V"  # context NUL seq of the end -> row
DEDUPE = b"D"  # context NUL digest(16) -> row
LEASES = b"L"  # seq of the grant -> row
CONSUMERS = b"K"  # consumer -> row
PROGRESS = b"J"  # consumer -> row
PRESENCE = b"N"  # agent -> row
PARKED = b"Q"  # consumer -> row
RETENTION = b"R"  # context -> row
TRIMMED = b"Z"  # nothing -> row
ERASURES = b"Y"  # unit's seq -> row
TOKENS = b"T"  # name of a token -> row

_SEQ = struct.Struct(">Q")
pack_seq = _SEQ.pack
LAST_SEQ = 2**63 - 1


def seq_of(key: bytes) -> int:
    """The seq that ends a key, or fills a value."""
    seq: int = _SEQ.unpack_from(key, len(key) - 8)[0]
    return seq


@lru_cache(4096)
def name(text: str) -> bytes:
    """A name inside a key."""
    return text.encode() + b"\0"


def meta_digest(key: str, value: str) -> bytes:
    """One label in 16 bytes, so that long values make no long keys; readers check the unit itself."""
    raw = key.encode()
    return blake2b(b"%c%c%b%b" % (len(raw) >> 8, len(raw) & 255, raw, value.encode()), digest_size=16).digest()


def by_path(path: str) -> bytes:
    """The prefix of the changes of a file, in every context; the path is in normal form, and readers check the unit itself."""
    return BY_PATH + blake2b(path.encode(), digest_size=16).digest()


@lru_cache(1024)
def entries(context: str) -> bytes:
    """The prefix of a context's entries."""
    return ENTRY + name(context)


def gone(context: str) -> bytes:
    """The prefix of a context's removed entries."""
    return GONE + name(context)


@lru_cache(4096)
def by_agent(context: str, agent: str) -> bytes:
    """The prefix of an agent's entries in a context."""
    return BY_AGENT + name(context) + name(agent)


@lru_cache(4096)
def by_type(context: str, type: str) -> bytes:
    """The prefix of the entries of a type in a context."""
    return BY_TYPE + name(context) + name(type)


@lru_cache(1024)
def by_meta(context: str, key: str, value: str) -> bytes:
    """The prefix of the entries with a label in a context."""
    return BY_META + name(context) + meta_digest(key, value)


def by_labels(context: str) -> bytes:
    """The prefix of the entries with any label in a context."""
    return BY_META + name(context)


def by_target(context: str, target: bytes) -> bytes:
    """The prefix of the entries in a context that have a relationship to a unit."""
    return BY_TARGET + target + name(context)
