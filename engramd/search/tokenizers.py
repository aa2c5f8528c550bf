"""Counting tokens with the tokenizer of a model, from a file of its own: nothing is fetched from anywhere."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..protocol.errors import EngramError

# How OpenAI's encodings cut a text before they look for tokens; a file of ranks does not say it, so it goes by the file's name.
_CUTS = {
    "cl100k_base": (
        r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"""
    ),
    "o200k_base": "|".join(
        [
            r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
            r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
            r"""\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+""",
        ]
    ),
}


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """What counts.

    Attributes:
        name: its kind, and the SHA-256 of its file.
        count: of a text, in tokens.
    """

    name: str
    count: Callable[[str], int]


def opened(path: Path) -> Tokenizer:
    """The tokenizer of a file: `tokenizer.json` for the library `tokenizers`, or `NAME.tiktoken` for `tiktoken`.

    Raises:
        EngramError: `invalid` when the file cannot be read, `unavailable` when the library is not installed.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise EngramError("invalid", f"tokenizer {path}: {error.strerror}") from error
    kind, load = ("tiktoken", _ranks) if path.suffix == ".tiktoken" else ("tokenizers", _library)
    try:
        count = load(path, raw)
    except ImportError:
        raise EngramError("unavailable", f"tokenizer {path} needs {kind}: pip install 'engram[tokens]'") from None
    except Exception as error:  # whatever a library says of a file that is none
        raise EngramError("invalid", f"tokenizer {path} cannot be read by {kind}: {str(error)[:200]}") from error
    return Tokenizer(f"{kind}:{hashlib.sha256(raw).hexdigest()}", count)


def _library(path: Path, raw: bytes) -> Callable[[str], int]:
    from tokenizers import Tokenizer as Library  # type: ignore[import-not-found,unused-ignore]

    made: Any = Library.from_buffer(raw)
    made.no_truncation()
    made.no_padding()
    return lambda text: len(made.encode(text, add_special_tokens=False).ids)


def _ranks(path: Path, raw: bytes) -> Callable[[str], int]:
    import tiktoken  # type: ignore[import-not-found,unused-ignore]

    if path.stem not in _CUTS:
        raise ValueError(f"its name must be one of {', '.join(f'{name}.tiktoken' for name in _CUTS)}")
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in raw.splitlines() if line)}
    made: Any = tiktoken.Encoding(path.stem, pat_str=_CUTS[path.stem], mergeable_ranks=ranks, special_tokens={})
    return lambda text: len(made.encode_ordinary(text))
