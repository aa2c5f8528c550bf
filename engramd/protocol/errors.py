"""The one table of error codes, shared by the daemon, the command line's exit codes and the docs."""

from __future__ import annotations

from typing import Any

# code: (exit code of the command line, meaning)
CODES: dict[str, tuple[int, str]] = {
    "invalid": (2, "a value is missing, malformed, of the wrong type, or unknown"),
    "too_large": (2, "a frame, payload, batch or answer is over its limit"),
    "unknown_op": (2, "the daemon has no operation of that name"),
    "version": (69, "client and daemon speak different major versions of the protocol"),
    "not_found": (1, "the unit, context or member does not exist"),
    "exists": (1, "the context exists already"),
    "conflict": (3, "a precondition does not hold: another write came first"),
    "cursor": (1, "the cursor is of another history, or past the end of the log"),
    "trimmed": (1, "retention removed what the cursor points at"),
    "redacted": (1, "the unit was redacted; its payload is gone"),
    "stale": (3, "the token is not that of a current lease, or its lease does not cover the path"),
    "locked": (75, "another holder has the lock"),
    "deadlock": (75, "the wait would never end: those who are waited for wait for the caller"),
    "busy": (75, "a limit is reached for now; try again later"),
    "denied": (77, "the caller may not do this"),
    "timeout": (124, "the time allowed has passed; a write that was sent may or may not exist"),
    "cancelled": (1, "the caller cancelled the operation"),
    "unavailable": (69, "no daemon answers, or it is stopping"),
    "outcome_unknown": (1, "the connection or the disk failed before the answer; the write may or may not exist"),
    "storage": (1, "the store is damaged or cannot be written"),
    "protocol": (1, "the peer broke the wire protocol"),
    "internal": (1, "a bug in Engram"),
}


class EngramError(Exception):
    """A failure with a code from `CODES`, a sentence for people, and details for programs.

    Args:
        code: a key of `CODES`; one that this version does not know is kept as it is.
        message: what happened, why, and what to do; one sentence or two, no trailing newline.
        details: plain CBOR values (text, numbers, bytes, lists, maps).
    """

    def __init__(self, code: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details

    @property
    def exit_code(self) -> int:
        """The exit code of a command that ends with this error (1 for an unknown code)."""
        return CODES.get(self.code, (1, ""))[0]

    def to_wire(self) -> dict[str, Any]:
        """The error as the map that travels: `{code, message, details}`."""
        return {"code": self.code, "message": self.message, "details": self.details}

    @classmethod
    def from_wire(cls, error: object) -> EngramError:
        """Read an error map; one that is malformed becomes a `protocol` error."""
        if not isinstance(error, dict):
            return cls("protocol", "the daemon sent an error that is not a map")
        details = error.get("details")
        known = {str(k): v for k, v in details.items()} if isinstance(details, dict) else {}
        made = cls(str(error.get("code", "internal")), str(error.get("message", "")))
        made.details = known
        return made
