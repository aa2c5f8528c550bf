"""Records: what one client sent, was answered and received, line by line, as JSON with the moment of each.

A record outlives its client: who is killed leaves at most a torn last line, and the next of its name goes on with it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Line = dict[str, Any]


class Record:
    """A record that is written. A line is in the system's hands when `note` returns."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(self._fd, b"\n")  # behind whatever the one before left torn

    def note(self, did: str, **what: Any) -> None:
        """Note what is about to be sent, or has been received."""
        os.write(self._fd, (json.dumps({"t": time.monotonic_ns(), "did": did, **what}, default=_to_json) + "\n").encode())


def lines(path: Path) -> Iterator[Line]:
    """The lines of a record, without torn ones."""
    with path.open("rb") as file:
        for line in file:
            try:
                yield json.loads(line, object_hook=_from_json)
            except ValueError:
                continue


def _to_json(value: bytes) -> dict[str, str]:
    return {"hex": value.hex()}


def _from_json(value: dict[str, Any]) -> Any:
    return bytes.fromhex(value["hex"]) if value.keys() == {"hex"} else value
