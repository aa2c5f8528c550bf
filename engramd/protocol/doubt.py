"""What to do when nobody knows whether something has happened: its answer was lost or did not come in time, or the disk has failed."""

from __future__ import annotations

from collections.abc import Mapping

_AGAIN = "Repeat it: what is done already stays as it is"
_LOCKS = "Look with engram locks before you repeat it"

# operation: what its caller should do. Those that are not here change nothing, and may be asked again.
ADVICE: Mapping[str, str] = {
    "put": "Repeat it with the same dedupe key; if it had none, look first, with engram tail CONTEXT, or it may be there twice",
    "consumer_create": _AGAIN,
    "consume": _AGAIN,
    "ack": _AGAIN,
    "consumer_retry": _AGAIN,
    "consumer_reset": "Look with engram consumer show before you repeat it",
    "consumer_delete": "Repeat it: if it has happened, there is no such consumer",
    "context_create": "Repeat it: if it has happened, the context exists",
    "context_set": _AGAIN,
    "context_retain": _AGAIN,
    "redact": _AGAIN,
    "context_join": _AGAIN,
    "context_leave": _AGAIN,
    "context_pin": _AGAIN,
    "context_unpin": _AGAIN,
    "context_add": _AGAIN,
    "context_remove": _AGAIN,
    "lock": f"{_LOCKS}; a lock of which nobody knows ends by itself",
    "renew": "Repeat it before the lock ends",
    "unlock": _LOCKS,
    "token_issue": "Look with engram token list, and revoke one whose text nobody has",
    "token_revoke": "Look with engram token list before you repeat it",
    "shutdown": "Look with engram daemon status",
}


def in_doubt(op: str, why: str) -> str:
    """The message for an operation of `ADVICE` that may or may not have happened."""
    return f"{why}: {op.replace('_', ' ')} may or may not have happened. {ADVICE[op]}"
