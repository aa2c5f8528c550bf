"""Paths of files as the label `path` of a unit names them, and as somebody asks for them."""

from __future__ import annotations

import os
import posixpath

MAX_PATHS = 64  # ways to name one file, in one question


def normal(path: str) -> str:
    """A path without `.`, `..`, doubled and trailing slashes, worked out from its text alone. A relative one stays relative."""
    return posixpath.normpath(path).replace("//", "/", 1) if path else ""


def names(typed: str) -> list[str]:
    """Every way in which a unit may name the file that was typed, most telling first.

    These are its absolute path, what that is without symbolic links, and its path relative to the working directory or a directory above,
    at most MAX_PATHS in all.

    Raises:
        OSError: the working directory is gone.
    """
    here = os.getcwd()
    absolute = normal(os.path.join(here, typed))
    found = [absolute, normal(os.path.realpath(absolute))]
    parts = here.rstrip("/").split("/")
    above = ["/".join(parts[:count]) + "/" for count in range(len(parts), 0, -1)]
    found += [absolute[len(directory) :] for directory in above if absolute.startswith(directory)]
    return [name for name in dict.fromkeys(found) if name][:MAX_PATHS]
