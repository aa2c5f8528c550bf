"""A lease as its holder sees it, and the requests for one."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from engramd.protocol.errors import EngramError
from engramd.protocol.resources import resource
from engramd.protocol.times import elapsed


def normal(typed: Iterable[str]) -> list[str]:
    """What was typed as resources in normal form, each once.

    Raises:
        EngramError: `invalid` for nothing at all, an empty text, or one that is not UTF-8.
    """
    found: dict[str, None] = {}
    for text in typed:
        if not text:
            raise EngramError("invalid", "a PATH must not be empty; write . for the directory you are in")
        try:
            made = resource(text)
            made.encode()
        except UnicodeEncodeError:
            raise EngramError("invalid", f"the path {text!r} is not UTF-8; locks are on UTF-8 paths, so lock its directory") from None
        except OSError as error:
            raise EngramError("invalid", f"the path {text!r} cannot be made absolute: {error.strerror}") from None
        except ValueError:
            raise EngramError("invalid", f"the path {text!r} has a NUL byte in it, which no path can have") from None
        found[made] = None
    if not found:
        raise EngramError("invalid", "at least one PATH is needed")
    return list(found)


def fence(typed: str) -> tuple[str, int]:
    """A PATH:TOKEN, split at the last colon, as a resource in normal form and a token.

    Raises:
        EngramError: `invalid` when it is none.
    """
    path, colon, token = typed.rpartition(":")
    if not (colon and path and token.isascii() and token.isdigit() and 0 < int(token[:20]) < 2**63):
        raise EngramError("invalid", f"--fence {typed!r}: write it as PATH:TOKEN, with the token that engram lock printed")
    return normal([path])[0], int(token)


class Term:
    """A lease that was granted, and how long it surely lasts.

    Attributes:
        token: the fencing token: higher than that of every lease before it.
        resources: what it is on, in normal form.
        mode: exclusive, shared or slots.
        ttl: seconds it lasts after a renewal.
        expires_at: when it ends unless it is renewed, in microseconds since the epoch by the daemon's clock; None: with its session.
        fields: what the daemon said of it, as it travels.
    """

    def __init__(self, granted: dict[str, Any], sent: float) -> None:
        self.token: int = granted["token"]
        self.resources = tuple(granted["resources"])
        self.mode: str = granted["mode"]
        self.ttl: float = granted["ttl"] / 1e6
        self.expires_at: int | None = granted["expires_at"]
        self.fields = granted
        self._sent = sent
        self._is_over = False

    @property
    def left(self) -> float:
        """Seconds for which it is surely held unless someone takes it away; infinite where it lasts as long as its session."""
        if self._is_over:
            return 0.0
        return math.inf if self.expires_at is None else max(0.0, self._sent + self.ttl - elapsed())

    @property
    def is_doubtful(self) -> bool:
        """Whether it has to be renewed before it is relied on: it may have been granted at any time of a long wait."""
        return self.left < self.ttl / 2

    def _renewed(self, renewed: dict[str, Any], sent: float) -> None:
        self.expires_at, self._sent = renewed["expires_at"], sent

    def _failed(self, error: EngramError) -> None:
        self._is_over = self._is_over or error.code == "stale"


def guard(fence: Term | tuple[str, int]) -> dict[str, Any]:
    """What a put says of a lease that it depends on: a path and the token. Any of its resources does, as it has all of them or none."""
    path, token = (fence.resources[0], fence.token) if isinstance(fence, Term) else (normal([fence[0]])[0], fence[1])
    return {"resource": path, "token": token}
