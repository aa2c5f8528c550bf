"""Log messages: structured lines, for people on a terminal and as JSON objects otherwise."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import TextIO

from .protocol.render import for_terminal
from .protocol.times import format_ts


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        shown = {
            "ts": format_ts(int(record.created * 1e6)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            shown["exception"] = self.formatException(record.exc_info)
        return json.dumps(shown, ensure_ascii=False)


class _Human(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")
        self.converter = time.localtime

    def formatMessage(self, record: logging.LogRecord) -> str:
        """One line that is safe for a terminal, whatever others said that stands in it."""
        record.message = for_terminal(record.message).replace("\n", "\\n")
        return super().formatMessage(record)


def set_up(level: str, form: str, file: Path | None) -> None:
    """Send the messages of `engramd` to a file or stderr.

    Args:
        form: human, json or auto (human on a terminal).

    Raises:
        OSError: the file cannot be opened.
    """
    stream: TextIO = sys.stderr
    if file is not None:
        stream = os.fdopen(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600), "w", encoding="utf-8")
    handler = logging.StreamHandler(stream)
    human = form == "human" or (form == "auto" and stream.isatty())
    handler.setFormatter(_Human() if human else _Json())
    logger = logging.getLogger("engramd")
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False
