"""The language of searches: against a plain reader of it, and with what is large or odd in it."""

from __future__ import annotations

import re

import pytest
from fuzzing import SURROGATES, fuzz, nasty_text, outcome
from hypothesis import example, given
from hypothesis import strategies as st

from engramd.protocol.messages import MAX_QUERY
from engramd.protocol.unit import TYPES
from engramd.search import tokens
from engramd.search.query import Query, parse
from engramd.search.snippets import WIDTH, snippet

pytestmark = pytest.mark.fuzz

WORDS = (
    "a",
    "b c",
    "log.py:42",
    "type",
    "type:",
    "type:error",
    "agent:bob",
    "agent:",
    "meta:k=v",
    "meta:=",
    "meta:k",
    'meta:"a b=c"',
    "-",
    "--",
)
WORDS += ('"', '""', '"a b"', "-a", '-"a b"', "-type:error", ":", "=", "…", "日本語", "ﬁle", "\u00a0", "\u2028", "-\u3000", 'agent:"x')
pieces = st.sampled_from((*WORDS, " ", " ", "  ", "\t", "\n")) | nasty_text()
queries = st.lists(pieces, max_size=8).map("".join)

_PIECE = re.compile(r'\s*(?P<not>-(?=\S))?(?:(?P<field>type|agent|meta):)?(?:"(?P<quoted>[^"]*)"|(?P<open>")|(?P<plain>\S*))')


def plainly(text: str) -> Query | None:
    """The query by one regular expression; None for one that is refused."""
    query, words, at = Query(), list[str](), 0
    text = text.rstrip()
    while at < len(text):
        match = _PIECE.match(text, at)
        assert match is not None
        assert match.end() > at
        at = match.end()
        if match["open"]:
            return None
        quoted = match["quoted"] is not None
        value = match["quoted"] if quoted else match["plain"]
        field = match["field"]
        if field:
            wrong = (field == "type" and value not in TYPES) or not value or (field == "meta" and (value[0] == "=" or "=" not in value))
            if wrong:
                return None
            (query.not_fields if match["not"] else query.fields).append((field, value))
            continue
        sequence = tuple(tokens.atoms(value))
        if not sequence:
            if quoted or match["not"]:
                return None
        elif match["not"]:
            query.not_phrases.append(sequence)
        else:
            words.append(value)
            if quoted:
                query.phrases.append(sequence)
    query.words = " ".join(words)
    return query if 0 < len(tokens.atoms(query.words)) <= 256 else None


@given(queries)
@fuzz(200)
def test_a_query_is_read_as_the_plain_reader_reads_it(text: str) -> None:
    expected = plainly(text)
    found, code = outcome(lambda: parse(text))
    assert (found, code) == (expected, "invalid" if expected is None else "")


HEAVY = {
    "one word": "a" * MAX_QUERY,
    "a path": "a0/" * (MAX_QUERY // 3),
    "words": "a " * (MAX_QUERY // 2),
    "exclusions": "x " + "-a " * (MAX_QUERY // 3 - 1),
    "quotes": 'x "a" ' * (MAX_QUERY // 6),
    "open quotes": '"' * MAX_QUERY,
    "dashes": "-" * MAX_QUERY,
    "colons": "type:" * (MAX_QUERY // 5),
    "digits": "1a" * (MAX_QUERY // 2),
    "hashes": "abc1def" * (MAX_QUERY // 7) + "g",
    "marks": "e" + "\u0301" * (MAX_QUERY // 2 - 1),
    "no spaces": "日" * (MAX_QUERY // 3),
}


@given(st.sampled_from(sorted(HEAVY)), nasty_text(SURROGATES, 2))
@fuzz(15)
@example("a path", "")
def test_long_queries_are_read_or_refused(kind: str, end: str) -> None:
    assert outcome(lambda: parse((HEAVY[kind] + end)[:MAX_QUERY]))[1] in ("", "invalid")


def test_a_text_that_is_one_long_path_is_read_in_one_go() -> None:
    """As large as a payload may be by default: this would not end if each part were looked for among all others."""
    path = "/".join(f"b{number}" for number in range(150_000))
    counts, length = tokens.count(path)
    assert length == 250_000
    assert counts["b149999"] == 1


@given(
    st.lists(
        st.sampled_from(("a0", "b1", "A", "aB", "x_y", "1", "é", "日本", "/", "/", ".", ":", "-", "\\", " ", "İ", "ﬁ", "e\u0301")),
        max_size=60,
    ).map("".join)
)
@fuzz(40)
def test_the_terms_of_any_path_are_found_in_it(text: str) -> None:
    counts, _ = tokens.count(text)
    again = tokens.count(text.replace("\n", " "))[0]
    assert counts == again
    shown = snippet(text, dict.fromkeys(counts, 1.0))
    assert len(shown.text) <= WIDTH + 5
    for chunk in tokens.chunks(text):
        read = tokens.read(chunk)
        assert len(set(read.more)) == len(read.more)
        assert set(read.more).isdisjoint(read.atoms)
