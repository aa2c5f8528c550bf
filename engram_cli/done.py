"""What a command has done, in the words for when its output cannot be written: who reads an error tries again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def words(op: str, result: Mapping[str, Any]) -> str:
    """What an operation that was answered with `result` has changed."""
    if op == "put":
        from engramd.protocol.unit import format_id  # which the quick commands do without as long as all is well

        of = "the unit is put" if "ids" not in result else "the units are put, the last of them"
        return f"{of}: id {format_id(result['id'])}, seq {result['seq']}"
    if op == "lock":
        return f"the lock is held; to release: engram unlock {result['token']}"
    if op == "token_issue":
        return f"a token is issued whose text is lost; to end it: engram token revoke {result['info']['token']}"
    return f"{op.replace('_', ' ')} is done"


def unwritten(error: OSError, done: str) -> str:
    """The message for output that cannot be written."""
    return f"engram: cannot write the output: {error.strerror}" + (f"; but {done}" if done else "")
