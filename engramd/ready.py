"""How a daemon tells whoever started it that it is ready, or why it is not."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

logger = logging.getLogger("engramd")


class Ready:
    """Tells whoever started the daemon how the start went, once: over the ready pipe, if there is one."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd

    @classmethod
    def of(cls, arguments: Sequence[str]) -> Ready:
        """The pipe that a command line names, found without the configuration, which may be what is wrong."""
        for word, value in zip(arguments, [*arguments[1:], ""], strict=False):
            name, _, inline = word.partition("=")
            if name == "--ready-fd" and (inline or value).isdecimal():
                return cls(int(inline or value))
        return cls(None)

    def say(self, line: str) -> None:
        """Write a line and close the pipe; does nothing the second time."""
        fd, self._fd = self._fd, None
        if fd is not None:
            try:
                os.write(fd, line.encode() + b"\n")
                os.close(fd)
            except OSError as error:
                logger.warning("the ready pipe broke: %s", error)
