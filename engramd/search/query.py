"""The language of queries: words, "phrases", -exclusions and field:value.

    parse config            texts with any of the words, those with more and rarer ones first
    "broken pipe"           only texts with these words in this order
    -draft  -"not found"    no text with these
    type:error agent:bob    only units of this type, of this agent
    meta:suite=unit         only units with this label
    -type:system            and the reverse of each

Anything else with a colon, such as `log.py:42`, is a word.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ..protocol.errors import EngramError
from ..protocol.unit import TYPES
from . import tokens

_FIELD = re.compile(r"(type|agent|meta):")
MAX_TERMS = 64  # of one query


@dataclass
class Query:
    """A query that was read.

    Attributes:
        words: the text to rank by: words and phrases, without exclusions and fields.
        phrases: sequences of atoms that a text must have.
        not_phrases: sequences of atoms that it must not have; a single excluded word is one of these.
        fields: `(field, value)` that a unit must have; `not_fields`: that it must not have. A label is `key=value`.
    """

    words: str = ""
    phrases: list[tuple[str, ...]] = field(default_factory=list)
    not_phrases: list[tuple[str, ...]] = field(default_factory=list)
    fields: list[tuple[str, str]] = field(default_factory=list)
    not_fields: list[tuple[str, str]] = field(default_factory=list)


def parse(text: str) -> Query:
    """Read a query.

    Raises:
        EngramError: `invalid`, with the position of the fault in characters from 0.
    """
    query, at = Query(), 0
    words: list[str] = []
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        start, negative = at, False
        if text[at] == "-" and at + 1 < len(text) and not text[at + 1].isspace():
            negative, at = True, at + 1
        match = _FIELD.match(text, at)
        name = match[1] if match else None
        at = match.end() if match else at
        if text[at : at + 1] == '"':
            value, at = _quoted(text, at)
            quoted = True
        else:
            end = at
            while end < len(text) and not text[end].isspace():
                end += 1
            value, at, quoted = text[at:end], end, False
        if name is not None:
            (query.not_fields if negative else query.fields).append((name, _value(name, value, start)))
        else:
            _add(query, words, value, negative, quoted, start)
    query.words = " ".join(words)
    if not tokens.atoms(query.words):
        raise EngramError(
            "invalid", "the query has no word to look for; to find units by type, agent or label alone use list", field="query", position=0
        )
    if len(tokens.atoms(query.words)) > MAX_TERMS * 4:
        raise EngramError("invalid", f"the query has more than {MAX_TERMS * 4} words; ask with fewer", field="query", position=0)
    return query


def _quoted(text: str, at: int) -> tuple[str, int]:
    end = text.find('"', at + 1)
    if end < 0:
        raise EngramError(
            "invalid", f'the quote that begins at character {at + 1} of the query has no end; close it with a "', field="query", position=at
        )
    return text[at + 1 : end], end + 1


def _value(name: str, value: str, at: int) -> str:
    if name == "type" and value not in TYPES:
        raise EngramError(
            "invalid",
            f"type:{value[:60]} at character {at + 1} of the query: must be one of {', '.join(TYPES)}",
            field="query",
            position=at,
        )
    if not value:
        raise EngramError("invalid", f"{name}: at character {at + 1} of the query has no value", field="query", position=at)
    if name == "meta" and value.find("=") < 1:
        raise EngramError(
            "invalid", f"meta:{value[:60]} at character {at + 1} of the query: write it as meta:KEY=VALUE", field="query", position=at
        )
    return value


def _add(query: Query, words: list[str], value: str, negative: bool, quoted: bool, at: int) -> None:
    sequence = tuple(tokens.atoms(value))
    if not sequence:
        if quoted or negative:
            raise EngramError("invalid", f"nothing to look for at character {at + 1} of the query", field="query", position=at)
        return
    if negative:
        query.not_phrases.append(sequence)
        return
    words.append(value)
    if quoted:
        query.phrases.append(sequence)
