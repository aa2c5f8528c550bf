"""Text as terms: words, identifiers whole and in parts, paths and their parts, numbers, hashes, and scripts without spaces.

Every text is read as **chunks**: words joined by single `- . / \\ : @`, such as `engramd/storage/log.py:42` or `read-your-writes`. A chunk
gives its **atoms** (`engramd`, `storage`, `log`, `py`, `42`), which come apart at separators, underscores, digits and changes of case, its
**components** (`log.py`), and itself as a whole. Atoms alone make up a text's length and its order of words, which phrases compare.

Terms are case-folded, and accents are taken off. Han, kana, Hangul, Thai, Lao, Khmer and Burmese, which have no spaces (or whose
spaces say little), give pairs of neighbouring characters.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Set
from typing import NamedTuple

MAX_TERM = 128  # characters: a longer chunk is found by its parts alone
MAX_WORDS = 50_000  # chunks remembered with their terms; the memory is emptied when it is full

# Letters and digits; beyond what `\w` takes, the vowel signs and points of scripts that write them as marks.
_W = "\\w\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u0900-\u0eff\u1000-\u109f\u1780-\u17ff"
_CHUNK = re.compile(f"[{_W}]+(?:[-./\\\\:@][{_W}]+)*")
_SPLIT = re.compile(r"[/\\:@]")
_ASCII_ATOM = re.compile(  # a hash stays whole
    r"(?<![0-9A-Za-z])(?=[a-f]*\d)(?=\d*[a-f])[0-9a-f]{7,}(?![0-9A-Za-z])|[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+"
)
_ATOM = re.compile(rf"\d+|(?:(?![\d_])[{_W}])+")
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]+"
)
_HASH = re.compile(r"[0-9a-f]{7,128}")


class Terms(NamedTuple):
    """What one chunk gives: the atoms in order, and further terms by which it is found."""

    atoms: tuple[str, ...]
    more: tuple[str, ...]


class Place(NamedTuple):
    """A term and the characters of the text that it stands for."""

    start: int
    end: int
    term: str


_known: dict[str, Terms] = {}


def chunks(text: str) -> list[str]:
    """The chunks of a text, in order."""
    return _CHUNK.findall(text)


def read(chunk: str) -> Terms:
    """The terms of a chunk."""
    found = _known.get(chunk)
    if found is None:
        if len(_known) >= MAX_WORDS:
            _known.clear()
        found = _known[chunk] = _read(chunk)
    return found


def count(text: str) -> tuple[dict[str, int], int]:
    """How often each term occurs in a text, and the text's length in atoms."""
    counts: dict[str, int] = {}
    length = 0
    known = _known
    for chunk in _CHUNK.findall(text):
        atoms, more = known.get(chunk) or read(chunk)
        length += len(atoms)
        for term in atoms:
            counts[term] = counts.get(term, 0) + 1
        for term in more:
            counts[term] = counts.get(term, 0) + 1
    return counts, length


def atoms(text: str) -> list[str]:
    """The atoms of a text in order, of which phrases are made."""
    return [atom for chunk in _CHUNK.findall(text) for atom in read(chunk).atoms]


def places(text: str, wanted: Set[str]) -> Iterator[Place]:
    """Where a text has the wanted terms. Those of one chunk may overlap."""
    for match in _CHUNK.finditer(text):
        start, chunk = match.start(), match[0]
        atoms, more = read(chunk)
        if wanted.isdisjoint(atoms) and wanted.isdisjoint(more):
            continue
        for at, atom in _spans(chunk):
            for term in wanted & set(_terms_of(atom)):
                yield Place(start + at, start + at + len(atom), term)
        for term in wanted & set(more):
            at = _folded_find(chunk, term)
            yield Place(start + at, start + at + len(term), term) if at >= 0 else Place(start, match.end(), term)


def is_hash(term: str) -> bool:
    """Whether a term may be a hash or the start of one, which is searched by its first characters too; it may as well be a word."""
    return _HASH.fullmatch(term) is not None


def is_word(term: str) -> bool:
    """Whether a term is a word that somebody could mistype: letters of a script that has words, not too short and not too long."""
    return 4 <= len(term) <= 24 and term.isalpha() and _UNSPACED.search(term) is None


def _read(chunk: str) -> Terms:
    found = tuple(term for _, atom in _spans(chunk) for term in _terms_of(atom))
    more = dict.fromkeys(_fold(part) for part in (*_SPLIT.split(chunk), chunk))
    for term in ("", *found):  # a text may be one chunk of a megabyte, so none of them is looked for in a list
        more.pop(term, None)
    return Terms(found, tuple(term for term in more if len(term) <= MAX_TERM))


def _spans(chunk: str) -> Iterator[tuple[int, str]]:
    """The pieces of a chunk that atoms are made of, as they stand in it."""
    if chunk.isascii():
        for match in _ASCII_ATOM.finditer(chunk):
            yield match.start(), match[0]
        return
    for match in _ATOM.finditer(chunk):
        start, run = match.start(), match[0]
        cut = 0
        for at in range(1, len(run)):
            if run[at].isupper() and run[at - 1].islower():
                yield start + cut, run[cut:at]
                cut = at
        yield start + cut, run[cut:]


def _terms_of(atom: str) -> tuple[str, ...]:
    """The terms of one piece: itself, or the pairs of its characters where a script has no spaces."""
    if atom.isascii():
        return (atom.lower(),)
    found: list[str] = []
    cut = 0
    for match in _UNSPACED.finditer(atom):
        found += [_fold(piece) for piece in (atom[cut : match.start()],) if piece]
        run = unicodedata.normalize("NFKC", match[0])
        found += [run[at : at + 2] for at in range(len(run) - 1)] or [run]
        cut = match.end()
    found += [_fold(piece) for piece in (atom[cut:],) if piece]
    return tuple(term for term in found if term)


def _fold(text: str) -> str:
    """Without case, accents and differences of presentation."""
    if text.isascii():
        return text.lower()
    plain = unicodedata.normalize("NFKD", text.casefold())
    return unicodedata.normalize("NFC", "".join(char for char in plain if not "\u0300" <= char <= "\u036f"))


def _folded_find(chunk: str, term: str) -> int:
    """Where a component stands in its chunk, or -1 where folding has moved the characters."""
    folded = _fold(chunk)
    return folded.rfind(term) if len(folded) == len(chunk) else -1
