"""The vocabulary of mistyped words, and the part of a text that is shown."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engramd.search import tokens
from engramd.search.fuzzy import Vocabulary
from engramd.search.snippets import WIDTH, snippet

WORDS = ["daemon", "directory", "connection", "configuration", "parser", "retry", "lock", "socket", "sockets"]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("deamon", "daemon"),
        ("dirctory", "directory"),
        ("directroy", "directory"),
        ("conection", "connection"),
        ("confguraton", "configuration"),
        ("lokc", "lock"),
        ("soccket", "socket"),
    ],
)
def test_a_mistyped_word_is_found(typed: str, meant: str) -> None:
    vocabulary = Vocabulary()
    vocabulary.add(WORDS)
    assert vocabulary.variants(typed)[0].word == meant


def test_what_is_no_word_is_not_in_the_vocabulary() -> None:
    vocabulary = Vocabulary()
    assert vocabulary.add(["daemon", "daemon", "a1b2c3d4", "42", "abc", "日本語日本語", "x" * 30]) == ["daemon"]
    assert (len(vocabulary), vocabulary.variants("a1b2c3d5"), vocabulary.variants("zzzzzz")) == (1, [], [])


def test_the_signatures_leave_nothing_out() -> None:
    rng = random.Random(1)
    vocabulary = Vocabulary()
    words = ["".join(rng.choices("abcdefgh", k=rng.randint(4, 12))) for _ in range(3000)]
    vocabulary.add(words)
    for word in words[:300]:
        at = rng.randrange(1, len(word) - 1)
        typed = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
        assert typed in words or word in {variant.word for variant in vocabulary.variants(typed)} or len(vocabulary.variants(typed)) == 4


def test_the_best_part_is_shown_and_marked() -> None:
    text = "filler words " * 100 + "the daemon\nlost  its logFile in engramd/storage/log.py:42 " + "and more words " * 100
    shown = snippet(text, {"daemon": 3.0, "storage": 2.0, "file": 1.0})
    assert [shown.text[start:end] for start, end in shown.marks] == ["daemon", "File", "storage"]
    assert shown.text.startswith("… ")
    assert shown.text.endswith(" …")
    assert len(shown.text) <= WIDTH + 5
    assert snippet("short daemon", {"daemon": 1.0}) == ("short daemon", [[6, 12]])
    assert snippet("nothing here", {}) == ("nothing here", [])


@given(st.text(alphabet="ab é日\n_./A", max_size=500), st.integers(0, 5))
def test_marks_lie_within_the_snippet_in_order_and_apart(text: str, seed: int) -> None:
    terms = sorted(tokens.count(text)[0])
    weights = dict.fromkeys(random.Random(seed).sample(terms, min(3, len(terms))), 1.0)
    shown = snippet(text, weights)
    assert len(shown.text) <= WIDTH + 5
    ends = [0]
    for start, end in shown.marks:
        assert ends[-1] <= start < end <= len(shown.text)
        ends.append(end)
    assert bool(shown.marks) == bool(weights) or len(text) > WIDTH
