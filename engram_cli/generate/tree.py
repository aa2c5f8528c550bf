"""The tree of commands as the generators see it: what `app` declares, as plain values."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, get_args, get_origin

from typer.models import ArgumentInfo, OptionInfo

from ..app import COMMANDS, GROUPS, SHARED

HELP_TEXT = "Show this message and exit."


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
    def many(self) -> bool:
        """Whether it may be given more than once."""
        return self.kind == "list"

    @property
    def required(self) -> bool:
        """Whether a command line must have it."""
        return self.default is inspect.Parameter.empty

    @property
    def options(self) -> tuple[str, ...]:
        """The spellings of an option; none for an argument."""
        if not isinstance(self.info, OptionInfo):
            return ()
        # Inside Annotated, Typer keeps the first spelling where it otherwise keeps the default.
        return (str(self.info.default), *(self.info.param_decls or ()))

    @property
    def metavar(self) -> str:
        """What its value is called; nothing for a flag."""
        return "" if self.kind == "flag" else self.info.metavar or ""

    @property
    def help(self) -> str:
        """What it does, in a sentence or more."""
        return self.info.help or ""


HELP = Parameter("help", bool, OptionInfo(default="--help", param_decls=("-h",), help=HELP_TEXT), False)


def parameters(command: Callable[..., None]) -> list[Parameter]:
    """A command's declared parameters."""
    found = []
    for parameter in inspect.signature(command).parameters.values():
        kind, info = get_args(parameter.annotation)
        optional = [part for part in get_args(kind) if part is not type(None)]
        found.append(Parameter(parameter.name, optional[0] if type(None) in get_args(kind) else kind, info, parameter.default))
    return found


def arguments(name: str) -> list[Parameter]:
    """A command's arguments, in order."""
    return [parameter for parameter in parameters(COMMANDS[name]) if not parameter.options]


def own_options(name: str) -> list[Parameter]:
    """The options that a command does not share with all others."""
    return [parameter for parameter in parameters(COMMANDS[name]) if parameter.options and parameter.name not in SHARED]


def shared_options() -> list[Parameter]:
    """The options that stand on every command, --help included."""
    some = next(iter(COMMANDS.values()))
    return [*(parameter for parameter in parameters(some) if parameter.name in SHARED), HELP]


def children(group: str = "") -> dict[str, str]:
    """The words that may follow `engram` or a group, each with one line of help; groups come last, as in --help."""
    if group:
        return {name.split()[1]: summary(name) for name in COMMANDS if name.startswith(f"{group} ")}
    return {name: summary(name) for name in (*(name for name in COMMANDS if " " not in name), *GROUPS)}


def description(name: str) -> str:
    """What a command or group does: its docstring or help, with paragraphs apart."""
    return str(GROUPS[name].info.help) if name in GROUPS else inspect.cleandoc(COMMANDS[name].__doc__ or "")


def summary(name: str) -> str:
    """A command's or group's first sentence, without its full stop."""
    return _first_sentence(description(name))


def brief(option: Parameter) -> str:
    """What an option does, in a sentence without its full stop."""
    return _first_sentence(option.help)


def _first_sentence(text: str) -> str:
    return " ".join(text.split()).split(". ")[0].removesuffix(".")
