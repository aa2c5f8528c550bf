"""The text of resources: what leases are on. Nothing here touches the disk but `resource`, which resolves what a person typed."""

from __future__ import annotations

import os

MAX_BYTES = 4096
MAX_PARTS = 128  # components of a path
MAX_PART_BYTES = 255  # of each, as file systems have it
MAX_GLOBS = 32  # of one request: globs are compared with each other
MAX_GLOB_PARTS, MAX_GLOB_BYTES = 32, 1024


def resource(typed: str) -> str:
    """What was typed as a resource in normal form.

    A path becomes absolute, and loses `.`, `..` and what its symbolic links hide; of a glob, the components before the first wildcard do.
    `@name` stays as it is.

    Raises:
        OSError: the working directory is gone.
    """
    if typed.startswith("@"):
        return typed
    parts = typed.split("/")
    fixed = next((at for at, part in enumerate(parts) if "*" in part or "?" in part), len(parts))
    if fixed == len(parts):
        return os.path.realpath(typed)
    head = os.path.realpath("/".join(parts[:fixed]) or ("/" if fixed else "."))
    return os.path.normpath(f"{head}/{'/'.join(parts[fixed:])}").replace("//", "/", 1)


def problem(text: str) -> str | None:
    """Why a text is no resource in normal form, or None."""
    if text.startswith("@"):
        return None if len(text) > 1 and text.isprintable() else "a name is @ and at least one printable character"
    if not text.startswith("/"):
        return "a path must be absolute; an abstract resource is written @name"
    parts = text[1:].split("/") if text != "/" else []
    if not {"", ".", ".."}.isdisjoint(parts):
        return "a path must be normalised: no //, no . or .., no / at its end"
    if "\0" in text:
        return "a path cannot hold a NUL"
    if any(len(part.encode()) > MAX_PART_BYTES for part in parts):
        return f"a component of a path may have {MAX_PART_BYTES} bytes"
    is_glob = "*" in text or "?" in text
    what, most = ("glob", MAX_GLOB_PARTS) if is_glob else ("path", MAX_PARTS)
    if len(parts) > most:
        return f"a {what} may have {most} components, not {len(parts)}"
    if is_glob and len(text.encode()) > MAX_GLOB_BYTES:
        return f"a glob may have {MAX_GLOB_BYTES} bytes, not {len(text.encode())}"
    return None
