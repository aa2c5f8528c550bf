"""Everything that is made from the tree of commands and checked in. Run `python -m engram_cli.generate`; `--check` only looks.

- `engram_cli/table.py`: the hot verbs as plain literals, which `fast` reads without loading Typer.
"""

from __future__ import annotations

import inspect
import pprint
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin

from typer.models import ArgumentInfo, OptionInfo

from .app import COMMANDS

HOT = ("put", "get", "list", "tail")
ROOT = Path(__file__).parent.parent

_TABLE = '''\
"""The hot verbs, made from the tree in `app` by `python -m engram_cli.generate`. Do not edit.

verb: (options, positionals, defaults). An option is (parameter, kind, least): kind is flag, text, int or list. A positional is (parameter,
required, many).
"""

# fmt: off
Verb = tuple[dict[str, tuple[str, str, int]], tuple[tuple[str, bool, bool], ...], dict[str, object]]
VERBS: dict[str, Verb] = \\
'''


class Parameter(NamedTuple):
    """One option or argument as it is declared. `default` is inspect.Parameter.empty where it is required."""

    name: str
    type: Any
    info: OptionInfo | ArgumentInfo
    default: Any

    @property
    def kind(self) -> str:
        """flag, int, list or text."""
        kinds = {bool: "flag", int: "int", list: "list"}
        return kinds.get(get_origin(self.type) or self.type, "text")

    @property
    def options(self) -> tuple[str, ...]:
        """The spellings of an option; none for an argument."""
        if not isinstance(self.info, OptionInfo):
            return ()
        # Inside Annotated, Typer keeps the first spelling where it otherwise keeps the default.
        return (str(self.info.default), *(self.info.param_decls or ()))


def parameters(command: Callable[..., None]) -> list[Parameter]:
    """A command's declared parameters."""
    found = []
    for parameter in inspect.signature(command).parameters.values():
        kind, info = get_args(parameter.annotation)
        optional = [part for part in get_args(kind) if part is not type(None)]
        found.append(Parameter(parameter.name, optional[0] if type(None) in get_args(kind) else kind, info, parameter.default))
    return found


def table() -> str:
    """The source of `table.py`."""
    verbs = {name: _verb(COMMANDS[name]) for name in HOT}
    return _TABLE + pprint.pformat(verbs, width=120, sort_dicts=False, compact=True) + "\n"


def _verb(command: Callable[..., None]) -> tuple[dict[str, tuple[str, str, int]], tuple[tuple[str, bool, bool], ...], dict[str, Any]]:
    options: dict[str, tuple[str, str, int]] = {}
    positionals: list[tuple[str, bool, bool]] = []
    defaults: dict[str, Any] = {}
    for parameter in parameters(command):
        required = parameter.default is inspect.Parameter.empty
        defaults[parameter.name] = None if required else parameter.default
        if parameter.options:
            for option in parameter.options:
                options[option] = (parameter.name, parameter.kind, int(parameter.info.min or 0))
        else:
            positionals.append((parameter.name, required, parameter.kind == "list"))
    return options, tuple(positionals), defaults


def files() -> dict[Path, str]:
    """Every generated file and what it must hold."""
    return {ROOT / "engram_cli" / "table.py": table()}


def main() -> int:
    """Write what is stale, or with --check only name it and return 1."""
    stale = [path for path, text in files().items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        print(f"{path.relative_to(ROOT)} is stale" if "--check" in sys.argv else f"writing {path.relative_to(ROOT)}")
        if "--check" not in sys.argv:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(files()[path], encoding="utf-8")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
