"""Writing mdoc(7), the language of manual pages: what must be escaped, and how lines are laid."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable

WIDTH = 78  # of a line of the source; mandoc asks for less than 80

_SENTENCE = re.compile(r"(?<=[.!?])(\)?) +(?=[A-Z(])")
_ESCAPES = {"\\": r"\e", "`": r"\(ga", "~": r"\(ti", "^": r"\(ha"}
_NAME = re.compile(r"(?<!\S)(?=\S*[$/_=])")  # a word that may be broken at the end of a line, but must not be hyphenated


class Page:
    """One manual page as it grows."""

    def __init__(self, name: str, about: str, date: str) -> None:
        self._lines = [
            r".\" Made from the tree of commands by python -m engram_cli.generate. Do not edit.",
            f".Dd {date}",
            f".Dt {name.upper()} 1",
            ".Os",
            ".Sh NAME",
            f".Nm {name}",
            f".Nd {escaped(about)}",  # no page's first sentence has a quote, which would mean something here
        ]

    def __str__(self) -> str:
        return "\n".join([*self._lines, ""])

    def section(self, title: str) -> None:
        """Begin a section."""
        self._lines.append(f".Sh {title}")

    def macro(self, *lines: str) -> None:
        """Lines that are mdoc already."""
        self._lines += lines

    def text(self, text: str) -> None:
        """Prose; a blank line parts paragraphs."""
        for index, paragraph in enumerate(text.split("\n\n")):
            self._lines += [".Pp"] * (index > 0) + prose(paragraph)

    def list(self, items: Iterable[tuple[str, str]], compact: bool = False) -> None:
        """A list of what is explained, as mdoc, and its explanation, as prose."""
        self._lines.append(".Bl -tag -width Ds" + " -compact" * compact)
        for head, text in items:
            self._lines += [f".It {head}", *prose(text)]
        self._lines.append(".El")

    def examples(self, examples: Iterable[tuple[str, str]]) -> None:
        """Comments, and the command lines that they are about."""
        for index, (comment, line) in enumerate(examples):
            self._lines += [".Pp"] * (index > 0) + prose(f"{comment}:")
            self.literal(f"$ {line}")

    def literal(self, text: str) -> None:
        """Lines as they are."""
        self._lines += [".Bd -literal -offset indent", *(_guarded(literal(line)) for line in text.splitlines()), ".Ed"]


def prose(text: str) -> list[str]:
    """A paragraph as lines of the source, each sentence on its own, as mdoc wants it."""
    sentences = _SENTENCE.sub(r"\1\n", " ".join(text.split())).splitlines()
    wrapped = [
        line for sentence in sentences for line in textwrap.wrap(sentence, WIDTH - 8, break_long_words=False, break_on_hyphens=False)
    ]
    return [_guarded(escaped(line)) for line in wrapped]


def escaped(text: str) -> str:
    """Words of prose: every character stands for itself, and a dash that begins a word is the one of an option."""
    return _NAME.sub(r"\\%", re.sub(r"(?<![\w\\])-|(?<=-)-", r"\\-", _characters(text)))


def literal(text: str) -> str:
    """What is typed or printed just so: no dash or quote may become a nicer one."""
    return _characters(text).replace("-", r"\-").replace("'", r"\(aq")


def _characters(text: str) -> str:
    return "".join(_ESCAPES.get(char) or (char if char.isascii() else f"\\[u{ord(char):04X}]") for char in text)


def word(text: str) -> str:
    """One argument of a macro, which must not be taken for another macro or for punctuation."""
    shown = literal(text).replace(" ", r"\ ").replace('"', r"\(dq")
    return rf"\&{shown}" if len(text) < 4 else shown


def _guarded(line: str) -> str:
    """A line that is text, whatever it starts with."""
    return rf"\&{line}" if line[:1] in (".", "'") else line
