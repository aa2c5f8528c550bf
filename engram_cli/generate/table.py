"""`engram_cli/table.py`: the hot verbs as plain literals, which `fast` reads without loading Typer."""

from __future__ import annotations

import pprint
from collections.abc import Callable
from typing import Any

from ..app import COMMANDS
from .tree import parameters

HOT = ("put", "get", "list", "tail", "lock", "unlock", "renew")

_TABLE = '''\
"""The hot verbs, made from the tree in `app` by `python -m engram_cli.generate`. Do not edit.

verb: (options, positionals, defaults). An option is (parameter, kind, least): kind is flag, text, int or list. A positional is (parameter,
required, many).
"""

# fmt: off
Verb = tuple[dict[str, tuple[str, str, int]], tuple[tuple[str, bool, bool], ...], dict[str, object]]
VERBS: dict[str, Verb] = \\
'''


def source() -> str:
    """The source of `table.py`."""
    verbs = {name: _verb(COMMANDS[name]) for name in HOT}
    return _TABLE + pprint.pformat(verbs, width=120, sort_dicts=False, compact=True) + "\n"


def _verb(command: Callable[..., None]) -> tuple[dict[str, tuple[str, str, int]], tuple[tuple[str, bool, bool], ...], dict[str, Any]]:
    options: dict[str, tuple[str, str, int]] = {}
    positionals: list[tuple[str, bool, bool]] = []
    defaults: dict[str, Any] = {}
    for parameter in parameters(command):
        defaults[parameter.name] = None if parameter.required else parameter.default
        if parameter.options:
            for option in parameter.options:
                options[option] = (parameter.name, parameter.kind, int(parameter.info.min or 0))
        else:
            positionals.append((parameter.name, parameter.required, parameter.many))
    return options, tuple(positionals), defaults
