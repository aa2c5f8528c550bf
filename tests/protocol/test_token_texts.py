"""The text of tokens."""

from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engramd.protocol.errors import EngramError
from engramd.protocol.tokens import NAME, PREFIX, new_token, read_token


def test_a_token_names_itself_and_is_known_by_its_digest() -> None:
    text = new_token()
    assert re.fullmatch(r"egt_[0-9A-Za-z]{59}", text)
    assert read_token(text) == (text[4 : 4 + NAME], hashlib.sha256(text.encode()).digest())


def test_no_two_are_alike() -> None:
    made = [new_token() for _ in range(200)]
    assert len({read_token(text)[0] for text in made}) == len({read_token(text)[1] for text in made}) == 200


@given(at=st.integers(len(PREFIX), 62), other=st.sampled_from("0aZ9"))
def test_one_wrong_character_is_noticed(at: int, other: str) -> None:
    text = new_token()
    wrong = text[:at] + other + text[at + 1 :]
    if wrong != text:
        with pytest.raises(EngramError, match="mistyped"):
            read_token(wrong)


@given(st.text(max_size=80) | st.text(st.characters(codec="ascii"), min_size=63, max_size=63).map(lambda text: "egt_" + text[4:]))
def test_other_text_is_no_token(text: str) -> None:
    with pytest.raises(EngramError) as refused:
        read_token(text)
    assert refused.value.code == "denied"


@pytest.mark.parametrize(
    "change", [lambda text: text[:-1], lambda text: text + "0", lambda text: text + "\n", lambda text: " " + text, str.upper]
)
def test_a_token_that_was_not_copied_whole(change: object) -> None:
    with pytest.raises(EngramError):
        read_token(change(new_token()))  # type: ignore[operator]


def test_the_checksum_is_a_crc() -> None:
    """Pinned, so that every client and scanner can check it."""
    assert read_token("egt_" + "0" * 53 + "4JoCrE")[0] == "0" * NAME
