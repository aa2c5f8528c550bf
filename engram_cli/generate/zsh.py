"""`completions/_engram` for zsh."""

from __future__ import annotations

from collections.abc import Iterable

from ..app import COMMANDS, GROUPS
from . import values
from .tree import Parameter, arguments, brief, children, own_options, shared_options

_RUNTIME = r"""#compdef engram
# zsh completion for engram, made from the tree of commands by `python -m engram_cli.generate`. Do not edit.

_engram() {
  local curcontext="$curcontext" context state state_descr line program=engram ret=1
  local -A opt_args
  # A path to some engram is asked for names itself; an alias or another word would lead elsewhere.
  [[ $words[1] == */* ]] && program=${(Q)~words[1]}
  _arguments -C '(- : *)'{-h,--help}'[Show this message and exit.]' '1: :_engram_verbs' '*:: :->more' && ret=0
  [[ $state == more ]] && _engram_command $words[1] && ret=0
  return ret
}

# The names of a kind. Those that start otherwise are asked for only when nothing fits: they are for approximate matching.
_engram_names() {
  local kind=$1 ret=1
  local -a names
  shift
  names=(${(f)"$(command $program __complete $kind "${(Q)PREFIX}" 2>/dev/null)"})
  (( $#names )) || names=(${(f)"$(command $program __complete $kind '' 2>/dev/null)"})
  (( ${words[(I)--]} )) || names=(${names:#-*})
  (( $#names )) && compadd "$@" -a names && ret=0
  return ret
}

# What `engram help` explains: one command, which is one word or two.
_engram_help() {
  if (( CURRENT == 2 )); then
    _engram_verbs
  elif (( CURRENT == 3 && $+functions[_engram_verbs_$words[2]] )); then
    _engram_verbs_$words[2]
  else
    return 1
  fi
}
"""

_END = r"""
if [[ $funcstack[1] == _engram ]]; then
  _engram "$@"
elif (( $+functions[compdef] )); then
  compdef _engram engram
fi
"""


def source() -> str:
    """The file: what it does, then the tables."""
    return "\n".join([_RUNTIME, _values(), _verbs(), _commands()]) + _END


def _function(comment: str, name: str, body: Iterable[str]) -> str:
    return "\n".join([f"# {comment}", f"{name}() {{", *(f"  {line}" for line in body), "}", ""])


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _values() -> str:
    made = []
    for source, words in values.WORDS.items():
        no_space = "-S '' " if words[0].endswith(":") else ""
        made.append(_function(f"The {source}.", f"_engram_{source}", [f'compadd "$@" {no_space}- {" ".join(words)}']))
    made += [_function(f"The names of {source}.", f"_engram_{source}", [f'_engram_names {source} "$@"']) for source in values.NAMES]
    return "\n".join(made)


def _verbs() -> str:
    made = []
    for group in ("", *GROUPS):
        name = f"_engram_verbs_{group}" if group else "_engram_verbs"
        pairs = [f"  {_quoted(f'{word}:{summary}')}" for word, summary in children(group).items()]
        what = f"engram {group} command" if group else "engram command"
        comment = f"The commands of the group {group}." if group else "The first words of all commands."
        made.append(_function(comment, name, ["local -a verbs=(", *pairs, ")", f"_describe -t commands '{what}' verbs"]))
    return "\n".join(made)


def _commands() -> str:
    shared = ["local -a shared=(", *(f"  {_option(parameter)}" for parameter in shared_options()), ")"]
    body = [*shared, "case $1 in"]
    for name in COMMANDS:
        if " " not in name:
            body += [f"  {name})", *_arguments(name), "    ;;"]
    for group in GROUPS:
        body += [f"  {group})", f"    _engram_group {group}", "    ;;"]
    group_body = [
        "local context state state_descr line ret=1",
        "_arguments -C '(- : *)'{-h,--help}'[Show this message and exit.]' \"1: :_engram_verbs_$1\" '*:: :->more' && ret=0",
        '[[ $state == more ]] && _engram_command "$1 $words[1]" && ret=0',
        "return ret",
    ]
    for name in COMMANDS:
        if " " in name:
            body += [f"  {_quoted(name)})", *_arguments(name), "    ;;"]
    body += ["  *) return 1 ;;", "esac"]
    return (
        _function("A group: its commands, then theirs.", "_engram_group", group_body)
        + "\n"
        + _function("The options and arguments of a command.", "_engram_command", body)
    )


def _arguments(name: str) -> list[str]:
    specs = [_option(parameter) for parameter in own_options(name)]
    specs += [_argument(index, parameter) for index, parameter in enumerate(arguments(name), 1)]
    return ["    _arguments -s -S : $shared" + "".join(f" \\\n      {spec}" for spec in specs)]


def _argument(index: int, parameter: Parameter) -> str:
    place = "*:" if parameter.many else f"{index}:" if parameter.required else f"{index}::"
    return _quoted(f"{place}{_value(parameter)}")


def _option(parameter: Parameter) -> str:
    about = f"[{_escaped(brief(parameter))}]"
    short = [option for option in parameter.options if not option.startswith("--")]
    takes = "" if parameter.kind == "flag" else f":{_value(parameter)}"
    if parameter.name == "help":
        return f"'(- : *)'{{{','.join(parameter.options)}}}{_quoted(about)}"
    spellings = [option if not takes else f"{option}+" if option in short else f"{option}=" for option in parameter.options]
    if len(spellings) == 1:
        return _quoted(f"{'*' * parameter.many}{spellings[0]}{about}{takes}")
    others = "'*'" if parameter.many else f"'({' '.join(parameter.options)})'"
    return f"{others}{{{','.join(spellings)}}}{_quoted(f'{about}{takes}')}"


def _value(parameter: Parameter) -> str:
    """What a value is called, and what offers it."""
    source = values.source_of(parameter)
    called = _escaped(parameter.metavar)
    if source == "verbs":
        return f"{called}:_engram_help"
    return f"{called}:{'_files' if source == 'files' else ' ' if source == values.ANYTHING else f'_engram_{source}'}"


def _escaped(text: str) -> str:
    r"""Text inside a specification of `_arguments`, where `\`, `[`, `]` and `:` mean something."""
    return "".join(f"\\{char}" if char in "\\[]:" else char for char in text)
