"""`completions/engram.fish`."""

from __future__ import annotations

from ..app import COMMANDS, GROUPS
from . import values
from .tree import HELP, Parameter, arguments, brief, children, own_options, parameters, shared_options

_RUNTIME = r"""# fish completion for engram, made from the tree of commands by `python -m engram_cli.generate`. Do not edit.

# Whether the words before the cursor name this command, and so many arguments of it, or at least so many where "+" is said.
function __engram_at --argument-names command count more
    __engram_look
    test "$__engram_command" = "$command"; or return
    test -n "$count"; or return 0
    if test -n "$more"
        test $__engram_count -ge $count
    else
        test $__engram_count -eq $count
    end
end

# Whether the words before the cursor name a command that takes options.
function __engram_in_command
    __engram_look
    test -n "$__engram_command"; and not contains -- $__engram_command $__engram_groups
end

# Read the words before the cursor, once a TAB.
function __engram_look
    set -l line (commandline -cp | string collect)
    test "$line" = "$__engram_line"; and return
    set -g __engram_line $line
    set -g __engram_command ''
    set -g __engram_count 0
    set -g __engram_literal ''
    set -l words (commandline -opc)
    set -l expected ''
    for word in $words[2..-1]
        if test -n "$expected"
            set expected ''
        else if test -z "$__engram_literal"; and string match -qr -- '^-.' $word
            if test "$word" = --
                set __engram_literal 1
            else if string match -qr -- $__engram_takes $word
                set expected 1
            end
        else if test -z "$__engram_command"
            set __engram_command $word
        else if contains -- $__engram_command $__engram_groups
            set __engram_command "$__engram_command $word"
        else
            set __engram_count (math $__engram_count + 1)
        end
    end
end

# The names of a kind. Those that start otherwise are asked for only when nothing fits: fish also matches in the middle.
function __engram_names --argument-names kind
    set -l program (commandline -opc)[1]
    string match -q '*/*' -- $program; or set program engram
    set -l typed (commandline -ct | string replace -r -- '^--[a-z-]+=' '')
    set -l prefix (string unescape -- "$typed")
    set -l names (command $program __complete $kind "$prefix" 2>/dev/null)
    test -n "$names"; or set names (command $program __complete $kind '' 2>/dev/null)
    for name in $names
        test -z "$__engram_literal"; and string match -q -- '-*' $name; and continue
        echo $name
    end
end
"""


def source() -> str:
    """The file: what it does, then the tables."""
    groups = [f"set -g __engram_groups {' '.join(GROUPS)}", f"set -g __engram_takes {_quoted(_takes())}"]
    return "\n".join([_RUNTIME, *groups, "", "complete -c engram -f", *_verbs(), *_shared(), *_commands(), ""])


def _takes() -> str:
    """A regular expression for an option that is followed by its value. Fish reads all commands' lines with the same one.

    Raises:
        ValueError: a spelling takes a value with one command and none with another.
    """
    taking: set[str] = set()
    flags: set[str] = {"--help", "-h"}
    for command in COMMANDS.values():
        for parameter in parameters(command):
            (flags if parameter.kind == "flag" else taking).update(parameter.options)
    if taking & flags:
        raise ValueError(f"with and without a value: {taking & flags}")
    short = "".join(sorted(option[1:] for option in taking if not option.startswith("--")))
    plain = "".join(sorted(option[1:] for option in flags if not option.startswith("--")))
    long = "|".join(sorted(option[2:] for option in taking if option.startswith("--")))
    return f"^(--({long})|-[{plain}]*[{short}])$"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _verbs() -> list[str]:
    lines = []
    for group in ("", *GROUPS):
        lines += [*_words(f"__engram_at '{group}'", group), _option(f"__engram_at '{group}'", HELP)]
    return lines


def _words(condition: str, group: str) -> list[str]:
    return [f'complete -c engram -n "{condition}" -a {word} -d {_quoted(about)}' for word, about in children(group).items()]


def _shared() -> list[str]:
    return [_option("__engram_in_command", parameter) for parameter in shared_options()]


def _commands() -> list[str]:
    lines = []
    for name in COMMANDS:
        at = f"__engram_at '{name}'"
        lines += [_option(at, parameter) for parameter in own_options(name)]
        for index, parameter in enumerate(arguments(name)):
            lines += _argument(at, index, parameter)
    return lines


def _option(condition: str, parameter: Parameter) -> str:
    names = [f"-l {option[2:]}" if option.startswith("--") else f"-s {option[1:]}" for option in parameter.options]
    offered = _offered(parameter)
    takes = "" if parameter.kind == "flag" else " -rF" if offered == "files" else f" -x{offered}"
    return f'complete -c engram -n "{condition}" {" ".join(names)}{takes} -d {_quoted(brief(parameter))}'


def _argument(command: str, index: int, parameter: Parameter) -> list[str]:
    offered = _offered(parameter)
    if values.source_of(parameter) == "verbs":
        second = [(f"{command} 1; and test (commandline -opc)[-1] = {group}", group) for group in GROUPS]
        return [line for condition, group in ((f"{command} 0", ""), *second) for line in _words(condition, group)]
    condition = f"{command} {index}{' +' * parameter.many}"
    if offered == "files":
        return [f'complete -c engram -n "{condition}" -F']
    return [f'complete -c engram -n "{condition}"{offered}'] if offered else []


def _offered(parameter: Parameter) -> str:
    source = values.source_of(parameter)
    if source == "files":
        return source
    if source in values.NAMES:
        return f" -a '(__engram_names {source})'"
    return f" -a '{' '.join(values.WORDS[source])}'" if source in values.WORDS else ""
