"""How large a text is, in characters, bytes, or tokens by a built-in estimate.

The estimate counts what tokenizers split at (starts of words, digits, punctuation, newlines, scripts) and weighs it. The weights are
fitted to real tokenizers; docs/pack.md says how far it is off. It needs no tables of Unicode, so every Python counts alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

TOKENS, CHARS, BYTES = "tokens", "chars", "bytes"
LEAST = 16  # characters that a token has at most: what is longer than a budget times this cannot fit
_ONE = 64  # weights are in parts of a token


def _table() -> bytes:
    """From bytes of UTF-8 to classes. A character of several bytes is its first one's; `_MORE` takes the others away."""
    table = bytearray(b"." * 256)
    for first, last, kind in (
        (0x00, 0x1F, b"p"),
        (0x7F, 0x7F, b"p"),
        (ord("a"), ord("z"), b"a"),
        (ord("A"), ord("Z"), b"A"),
        (ord("0"), ord("9"), b"0"),
        (0xC0, 0xCB, b"l"),  # accented letters
        (0xCC, 0xDF, b"c"),  # Greek, Cyrillic, Hebrew, Arabic
        (0xE0, 0xE1, b"i"),  # the scripts of India and South-East Asia
        (0xE2, 0xE2, b"p"),  # dashes, quotes, symbols
        (0xE3, 0xED, b"k"),  # Chinese, Japanese, Korean
        (0xEE, 0xEF, b"p"),
        (0xF0, 0xFF, b"e"),  # emoji
    ):
        table[first : last + 1] = kind * (last + 1 - first)
    table[ord("\t")] = table[ord("\r")] = table[ord(" ")] = ord(" ")
    table[ord("\n")] = ord("\n")
    return bytes(table)


_TABLE = _table()
_MORE = bytes(range(0x80, 0xC0))
_SMALL = bytes.maketrans(b"A", b"a")
_CASES = ((b"aA", 129), (b"aaaaaaaa", 42), (b"A", 9))  # what is counted where the case of letters matters, and its weight
_PAIRS = (
    (b" a", 72),
    (b"\na", 28),
    (b".a", 88),
    (b"0a", 66),
    (b"a0", 66),
    (b" 0", 82),
    (b".0", 82),
    (b"\n0", 82),
    (b"  ", 8),
    (b"000", 19),
)
_SINGLE = ((b"0", 8), (b".", 30), (b"\n", 21), (b"p", 64))
_ASCII = _PAIRS + _SINGLE
_ALL = (*_ASCII, (b"l", 126), (b"c", 31), (b"i", 48), (b"k", 64), (b"e", 212))
_NEWLINE = dict(_SINGLE)[b"\n"]


def estimate(text: str) -> int:
    """About how many tokens a text is.

    Texts that end with a newline, followed by one that begins with no space or newline, are together at most the sum of their counts:
    each is counted as if it stood behind a newline.
    """
    classes = (b"\n" + text.encode("utf-8", "surrogatepass")).translate(_TABLE, _MORE)
    count, count_small = classes.count, classes.translate(_SMALL).count
    weight = sum([each * count(what) for what, each in _CASES])
    weight += sum([each * count_small(what) for what, each in (_ASCII if text.isascii() else _ALL)])
    return max((weight - _NEWLINE + _ONE - 1) // _ONE, -(-len(text) // LEAST))


class Counter:
    """A way to measure texts.

    Attributes:
        name: as a manifest names it.
        count: of a text. None where somebody else counts, who must be asked.
        most: characters that one of its units has at most.
    """

    __slots__ = ("count", "most", "name")

    def __init__(self, name: str, count: Callable[[str], int] | None, most: int) -> None:
        self.name = name
        self.count = count
        self.most = most


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


COUNTERS: Mapping[str, Counter] = {
    TOKENS: Counter("engram-estimate-1", estimate, LEAST),
    CHARS: Counter("chars", len, 1),
    BYTES: Counter("bytes", _bytes, 1),
}
