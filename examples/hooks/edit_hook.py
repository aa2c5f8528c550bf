#!/usr/bin/env python3
"""A hook for agents that run a command around each use of a tool, with the call as JSON on its standard input.

    edit_hook.py before     exit code 2, with who and why on standard error, when another holds the file that is about to be edited
    edit_hook.py after      record what has changed, as a file_change unit with the diff, in $ENGRAM_CONTEXT, else in the context `edits`

A call names its file as `file_path` or `path` in `tool_input`. One that names none is nobody's business.
"""

import difflib
import hashlib
import json
import os
import subprocess
import sys
import tempfile

MOST = 512 * 1024  # bytes of a file that is compared, and of a diff


def edited(call):
    """The absolute path of the file that a call edits, or None."""
    given = call.get("tool_input") or call.get("arguments") or call
    path = given.get("file_path") or given.get("path") or given.get("notebook_path")
    return path and os.path.join(os.path.abspath(call.get("cwd") or "."), path)


def copy_of(path):
    """Where the file is kept as it was before the edit, for this agent."""
    directory = os.path.join(tempfile.gettempdir(), f"engram-edits-{os.getuid()}")
    os.makedirs(directory, mode=0o700, exist_ok=True)
    if os.lstat(directory).st_uid != os.getuid():
        sys.exit(f"edit_hook: {directory} belongs to another user")
    who = os.environ.get("ENGRAM_SESSION") or os.environ.get("ENGRAM_AGENT", "")
    return os.path.join(directory, hashlib.sha256(os.fsencode(f"{who}\0{path}")).hexdigest())


def content(path):
    """The file's bytes; none if there is no such file."""
    try:
        with open(path, "rb") as file:
            return file.read(MOST + 1)
    except OSError:
        return b""


def before(path):
    """Refuse, or keep the file as it is now."""
    held = subprocess.run(["engram", "guard", "--", path], stdin=subprocess.DEVNULL, stdout=sys.stderr)
    if held.returncode:
        sys.exit(2)
    with open(copy_of(path), "wb") as file:
        file.write(content(path))


def after(path, call):
    """Put the difference to what was kept."""
    kept = copy_of(path)
    old, new = content(kept), content(path)
    if old == new:
        return
    try:
        if max(len(old), len(new)) > MOST:
            raise ValueError
        lines = difflib.unified_diff(old.decode().splitlines(True), new.decode().splitlines(True), f"a{path}", f"b{path}")
        diff = "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)
    except ValueError:
        diff = f"{path} has changed: it is binary, or over {MOST} bytes\n"
    context = os.environ.get("ENGRAM_CONTEXT") or "edits"
    labels = ["--meta", f"path={path}", "--meta", f"tool={call.get('tool_name', 'unknown')}"]
    once = ["--dedupe", f"edit:{call['tool_use_id']}"] if "tool_use_id" in call else []
    command = ["engram", "put", context, "-", "--type", "file_change", *labels, *once]
    subprocess.run(command, input=diff.encode()[:MOST], stdout=subprocess.DEVNULL, check=True)
    if os.path.exists(kept):
        os.remove(kept)


def main():
    """Do what the one argument says."""
    when = sys.argv[1] if len(sys.argv) == 2 else ""
    if when not in ("before", "after"):
        sys.exit(__doc__)
    failure = 2 if when == "before" else 1  # what cannot be looked at is refused
    try:
        call = json.load(sys.stdin)
        path = edited(call)
        if path:
            before(path) if when == "before" else after(path, call)
    except (ValueError, AttributeError, TypeError, OSError, subprocess.CalledProcessError) as error:
        print(f"edit_hook: {error}", file=sys.stderr)
        sys.exit(failure)


if __name__ == "__main__":
    main()
