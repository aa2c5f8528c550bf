"""How much is fuzzed, what valid things are broken with, and the plain models that more than one target is held to.

`HYPOTHESIS_PROFILE=long python -m pytest -m fuzz` runs every target a hundred times as long as the checks do.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from engramd.protocol.errors import EngramError
from engramd.protocol.framing import encode

T = TypeVar("T")

LONG = 100  # times as many examples
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "engram")

settings.register_profile("engram", deadline=None)  # a busy machine is no failure
settings.register_profile("long", deadline=None, print_blob=True)

# What names, texts and words are made of that somebody wants to go wrong: NULs, controls, what reorders or hides text, what is no
# character of its own, blanks, and what means something to a parser.
NASTY = (
    *("\0", "\x1b[2J", "\x7f", "\x9b", "\r", "\n", "\t", " ", "\u00a0", "\u200b", "\u202e", "\u2028", "\u2066", "\ufeff", "\uffff"),
    *("é", "e\u0301", "ß", "İ", "日", "\U0001f9d3\u200d\U0001f33e", "\U0010ffff", "٣", "②", "\u115f"),
    *("-", "--", "=", ":", "/", "//", "..", "*", "**", "?", "[a]", "\\", "'", '"', "%00", "0", "-1", "+1", "1_0", "1e9", "nan", "{", "]"),
)
SURROGATES = ("\ud800", "\udc80", "\udfff")  # which no UTF-8 holds; command lines and JSON do
NUMBERS = tuple(sign * (2**bits + off) for bits in (0, 7, 8, 31, 32, 53, 62, 63, 64) for off in (-1, 0, 1) for sign in (1, -1))


def fuzz(examples: int) -> settings:
    """Settings of a target: so many examples in the checks, and LONG times as many in a long run."""
    return settings(
        max_examples=examples * (LONG if PROFILE == "long" else 1),
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
    )


def nasty_text(more: tuple[str, ...] = (), most: int = 6) -> st.SearchStrategy[str]:
    """Texts made of what is nasty, of a few plain letters, and of anything."""
    piece = st.sampled_from((*NASTY, *more, "a", "b", "ab")) | st.text(max_size=3)
    return st.lists(piece, max_size=most).map("".join)


LIES = (  # heads that claim more than follows, or what may not be there, and beginnings of other things
    *(b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff", b"\xbb\x7f\xff\xff\xff\xff\xff\xff\xff", b"\x5b\x00\x00\x00\xff\xff\xff\xff\xff"),
    *(b"\x7a\xff\xff\xff\xff", b"\x9a\x00\xff\xff\xff", b"\x1b\xff\xff\xff\xff\xff\xff\xff\xff", b"\x3b\xff\xff\xff\xff\xff\xff\xff\xff"),
    *(b"\x81" * 17, b"\xa1\x61a" * 17, b"\x9f", b"\xbf", b"\xff", b"\xc2\x41\x01", b"\xd8\x1c", b"\xf7", b"\xf8\xff", b"\xe0"),
    *(
        b"\xf9\x7e\x00",
        b"\xfb\x7f\xf0\x00\x00\x00\x00\x00\x00",
        b"\x63\xed\xa0\x80",
        b"\x62\xc0\x80",
        b"\x00\x00\x00\x00",
        b"\xff\xff\xff\xff",
    ),
)


@st.composite
def mutated(draw: st.DrawFn, valid: st.SearchStrategy[bytes], more: tuple[bytes, ...] = LIES) -> bytes:
    """Bytes that were valid, with up to four faults: one byte changed, something put in or over, a part cut out, doubled, or moved; or
    all behind a place cut off."""
    data = draw(valid)
    for _ in range(draw(st.integers(1, 4))):
        at, end = sorted(draw(st.tuples(st.integers(0, len(data)), st.integers(0, len(data)))))
        match draw(st.sampled_from(("byte", "insert", "over", "cut", "double", "move", "end"))):
            case "byte":
                data = data[:at] + bytes((draw(st.integers(0, 255)),)) + data[at + 1 :]
            case "insert":
                data = data[:at] + draw(st.sampled_from(more) | st.binary(max_size=8)) + data[at:]
            case "over":
                piece = draw(st.sampled_from(more) | st.binary(max_size=8))
                data = data[:at] + piece + data[at + len(piece) :]
            case "cut":
                data = data[:at] + data[end:]
            case "double":
                data = data[:end] + data[at:]
            case "move":
                data = data[:at] + data[end:] + data[at:end]
            case "end":
                data = data[:at]
    return data


def chunked(draw: Callable[[st.SearchStrategy[Any]], Any], data: bytes) -> list[bytes]:
    """Bytes as they might arrive: in pieces of any size."""
    cuts = sorted({0, len(data), *(cut % (len(data) + 1) for cut in draw(st.lists(st.integers(0, 2**16), max_size=8)))})
    return [data[start:end] for start, end in itertools.pairwise(cuts)]


def outcome(call: Callable[[], T]) -> tuple[T | None, str]:
    """What a call gives, and the code of the error with which it refused, if it did: one that can be sent, and that somebody can read."""
    try:
        return call(), ""
    except EngramError as error:
        refused = error
    encode(refused.to_wire())
    assert 0 < len(refused.message) < 2000
    return None, refused.code
