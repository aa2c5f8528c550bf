"""Text as terms."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engramd.search import tokens


@pytest.mark.parametrize(
    ("text", "atoms", "more"),
    [
        ("The daemon lost it", "the daemon lost it", ""),
        ("getUserName", "get user name", "getusername"),
        ("HTTPServer", "http server", "httpserver"),
        ("foo_bar2", "foo bar 2", "foo_bar2"),
        ("__init__", "init", "__init__"),
        ("engramd/storage/log.py:42", "engramd storage log py 42", "log.py engramd/storage/log.py:42"),
        ("/usr/lib/", "usr lib", "usr/lib"),
        ("read-your-writes", "read your writes", "read-your-writes"),
        ("10.0.0.1", "10 0 0 1", "10.0.0.1"),
        ("v3.14", "v 3 14", "v3.14"),
        ("deadbeef1234567", "deadbeef1234567", ""),
        ("Straße ÉCOLE naïve", "strasse ecole naive", ""),
        ("日本語", "日本 本語", "日本語"),
        ("日", "日", ""),
        ("한국어 말", "한국 국어 말", "한국어"),
        ("हिन्दी भाषा", "हिन्दी भाषा", ""),
        ("русский ТЕКСТ", "русскии текст", ""),
        ("ﬁle", "file", ""),
        ("", "", ""),
        ("— … \N{GRINNING FACE} \x00 ...", "", ""),
    ],
)
def test_what_texts_come_to(text: str, atoms: str, more: str) -> None:
    assert tokens.atoms(text) == atoms.split()
    found = [term for chunk in tokens.chunks(text) for term in tokens.read(chunk).more]
    assert sorted(found) == sorted(more.split())


def test_counts_and_lengths() -> None:
    counts, length = tokens.count("log.py logs the log")
    assert counts == {"log": 2, "py": 1, "log.py": 1, "logs": 1, "the": 1}
    assert length == 5, "wholes are found, and do not make a text longer"


def test_a_very_long_chunk_is_found_by_its_parts_alone() -> None:
    counts, _ = tokens.count("/".join(["part"] * 100))
    assert counts == {"part": 100}


@given(st.text(max_size=60))
def test_any_text_can_be_read_and_its_terms_stand_in_it(text: str) -> None:
    counts, length = tokens.count(text)
    assert length == len(tokens.atoms(text)) <= sum(counts.values())
    assert all(term and len(term) <= tokens.MAX_TERM * 4 for term in counts)
    placed = list(tokens.places(text, counts.keys()))
    assert {place.term for place in placed} == counts.keys()
    assert all(0 <= place.start < place.end <= len(text) for place in placed)


@pytest.mark.parametrize(
    ("term", "is_word", "is_hash"), [("daemon", True, False), ("abc", False, False), ("deadbeef", True, True), ("accede", True, False)]
)
def test_kinds(term: str, is_word: bool, is_hash: bool) -> None:
    assert (tokens.is_word(term), tokens.is_hash(term)) == (is_word, is_hash)
    assert tokens.is_hash("dead1beef")
    assert not tokens.is_word("日本語日本語")
    assert not tokens.is_word("a" * 25)
