"""Everything that is made from the tree of commands and checked in. Run `python -m engram_cli.generate`; `--check` only looks.

- `engram_cli/table.py`: the hot verbs as plain literals, which `fast` reads without loading Typer.
- `completions/`: what bash, zsh and fish offer at a TAB.
- `man/`: one manual page for each command, and one for the daemon.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from . import completions, table
from .table import HOT

__all__ = ["HOT", "ROOT", "files", "main", "stale"]

ROOT = Path(__file__).parent.parent.parent
_ONLY_MADE = ("completions", "man")  # directories that hold nothing else


def files() -> dict[Path, str]:
    """Every generated file and what it must hold."""
    from . import man  # knows the daemon's options, which `engram completion` must not load

    made = {Path("engram_cli/table.py"): table.source()}
    made |= {Path("completions") / name: text for name, text in completions.files().items()}
    made |= {Path("man") / name: text for name, text in man.files().items()}
    return {ROOT / path: text for path, text in made.items()}


def stale() -> dict[Path, str | None]:
    """The files that are not as they must be, with what they must hold; None where they must not be."""
    wanted = files()
    found = {path: text for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text}
    left = [path for directory in _ONLY_MADE for path in (ROOT / directory).glob("*") if path not in wanted]
    return {**found, **dict.fromkeys(left)}


def main(arguments: Sequence[str] = ()) -> int:
    """Write what is stale, or with --check only name it and return 1."""
    check = "--check" in arguments
    found = stale()
    for path, text in found.items():
        name = path.relative_to(ROOT)
        print(f"{name} is stale" if check else f"removing {name}" if text is None else f"writing {name}")
        if check:
            continue
        if text is None:
            path.unlink()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return 1 if found and check else 0
