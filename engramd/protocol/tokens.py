"""Tokens as text: `egt_`, ten characters that name the token, its secret, and a checksum, so that a typing mistake is told from a forgery.

    egt_ NNNNNNNNNN SSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSS CCCCCC

All but the prefix is letters and digits: 59 bits of name, 256 bits of secret, 32 bits of CRC. The prefix is what secret scanners look for.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import zlib

from .errors import EngramError

PREFIX = "egt_"
NAME, SECRET, CHECK = 10, 43, 6  # characters; 43 of 62 are 256 bits
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SHAPE = re.compile(rf"{PREFIX}[0-9A-Za-z]{{{NAME + SECRET + CHECK}}}", re.ASCII)


def new_token() -> str:
    """A token that nobody can guess."""
    drawn = PREFIX + "".join(secrets.choice(_DIGITS) for _ in range(NAME + SECRET))
    return drawn + _check(drawn)


def read_token(text: str) -> tuple[str, bytes]:
    """The name in a token, and the digest by which its secret is known.

    Raises:
        EngramError: `denied` for a text that is no token, or was not copied whole.
    """
    if not _SHAPE.fullmatch(text):
        raise EngramError("denied", f"this is no token of Engram's: one is {PREFIX} and {NAME + SECRET + CHECK} letters and digits")
    if _check(text[:-CHECK]) != text[-CHECK:]:
        raise EngramError("denied", "the token is mistyped or cut: its checksum does not fit")
    return text[len(PREFIX) : len(PREFIX) + NAME], hashlib.sha256(text.encode()).digest()


def _check(text: str) -> str:
    left, digits = zlib.crc32(text.encode()), ""
    for _ in range(CHECK):
        left, digit = divmod(left, 62)
        digits = _DIGITS[digit] + digits
    return digits
