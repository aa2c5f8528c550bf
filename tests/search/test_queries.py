"""The language of queries."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engramd.protocol.errors import EngramError
from engramd.search.query import Query, parse


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("parse config", Query("parse config")),
        ('a "broken pipe" b', Query("a broken pipe b", [("broken", "pipe")])),
        ('"log.py"', Query("log.py", [("log", "py")])),
        ("fix -draft", Query("fix", not_phrases=[("draft",)])),
        ('fix -"not found"', Query("fix", not_phrases=[("not", "found")])),
        ("fix -log.py", Query("fix", not_phrases=[("log", "py")])),
        ("x type:error agent:bob", Query("x", fields=[("type", "error"), ("agent", "bob")])),
        ('x meta:suite=unit -meta:"a b=c d"', Query("x", fields=[("meta", "suite=unit")], not_fields=[("meta", "a b=c d")])),
        ("x -type:system", Query("x", not_fields=[("type", "system")])),
        ("log.py:42 http://a", Query("log.py:42 http://a")),
        ("well-known a - b", Query("well-known a b")),
        ("… word", Query("word")),
    ],
)
def test_what_queries_mean(text: str, query: Query) -> None:
    assert parse(text) == query


@pytest.mark.parametrize(
    ("text", "position", "word"),
    [
        ('say "hello', 4, "character 5"),
        ("x type:shout", 2, "must be one of"),
        ("x agent:", 2, "no value"),
        ('x -agent:""', 2, "no value"),
        ("x meta:suite", 2, "KEY=VALUE"),
        ('x "..."', 2, "nothing to look for"),
        ("x -…", 2, "nothing to look for"),
        ("-only", 0, "no word"),
        ("type:error", 0, "list"),
        ("   ", 0, "no word"),
        ("a " * 300, 0, "fewer"),
    ],
)
def test_a_bad_query_says_where(text: str, position: int, word: str) -> None:
    with pytest.raises(EngramError, match=word) as caught:
        parse(text)
    assert (caught.value.code, caught.value.details["position"]) == ("invalid", position)


@given(st.text(alphabet='ab "-:=typeagntm', max_size=30))
def test_any_text_is_a_query_or_a_clear_error(text: str) -> None:
    try:
        words = parse(text).words
    except EngramError as error:
        words, position = "", error.details["position"]
    assert words or 0 <= position <= len(text)
