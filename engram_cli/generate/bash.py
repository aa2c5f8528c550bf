"""`completions/engram.bash`."""

from __future__ import annotations

from collections.abc import Iterable

from ..app import COMMANDS, GROUPS
from . import values
from .tree import Parameter, arguments, children, own_options, shared_options

# Calls nothing but builtins, apart from `engram __complete`; bash 3.2 and `set -u` are fine with it.
_RUNTIME = r"""# bash completion for engram, made from the tree of commands by `python -m engram_cli.generate`. Do not edit.

_engram() {
    local program=$1 typed=$2 IFS=$' \t\n'
    local -a words=() options=() arguments=()
    local word='' quote='' raw='' command='' head='' expected='' literal='' given=' ' positionals=0
    COMPREPLY=()
    _engram_split "${COMP_LINE:0:COMP_POINT}"
    local last=$((${#words[@]} - 1)) at=2
    word=${words[last]}
    if ((last > 1)) && [[ ${words[last - 1]} == [\<\>]* ]]; then
        _engram_values files
        return
    fi
    ((last < 1)) || ! _engram_is_group "${words[1]}" || at=3
    if ((last < at)); then
        if [[ $word == -* ]]; then
            _engram_offer -h --help
        else
            _engram_verbs "${words[last - 1]}"
        fi
        return
    fi
    command="${words[*]:1:at - 1}"
    _engram_declare "$command" || return
    while ((at < last)); do
        _engram_pass "${words[at]}"
        at=$((at + 1))
    done
    _engram_current
}

# Split a line at blanks into `words`, without their quotes. The last one is where the cursor is: `raw` is how it was typed, and `quote`
# the quote that is open there. COMP_WORDS would not do: it is split at : and = too, and keeps the quotes.
_engram_split() {
    local rest=$1 part='' whole='' begun=''
    words=() raw=$1 quote=''
    while [[ -n $rest ]]; do
        if [[ $quote == \' ]]; then
            part=${rest%%\'*}
            rest=${rest:${#part}}
            whole+=$part
            [[ -z $rest ]] || rest=${rest:1} quote=''
        elif [[ $quote == \" ]]; then
            part=${rest%%[\\\"]*}
            rest=${rest:${#part}}
            whole+=$part
            case $rest in
                \"*) rest=${rest:1} quote='' ;;
                \\[\$\`\"\\]*) whole+=${rest:1:1} rest=${rest:2} ;;
                \\*) whole+=\\ rest=${rest:1} ;;
            esac
        else
            case $rest in
                [[:space:]]*)
                    [[ -z $begun ]] || words+=("$whole")
                    whole='' begun='' rest=${rest:1}
                    raw=$rest
                    ;;
                [\'\"]*) quote=${rest:0:1} rest=${rest:1} begun=1 ;;
                \\*) whole+=${rest:1:1} rest=${rest:2} begun=1 ;;
                *)
                    part=${rest%%[[:space:]\\\'\"]*}
                    rest=${rest:${#part}} whole+=$part begun=1
                    ;;
            esac
        fi
    done
    words+=("$whole")
}

# Take in a word between the command and the cursor: an option, an option's value, or an argument.
_engram_pass() {
    local kind='' source=''
    if [[ -n $expected ]]; then
        expected=''
    elif [[ -n $literal || $1 == - || $1 != -* ]]; then
        positionals=$((positionals + 1))
    elif [[ $1 == -- ]]; then
        literal=1
    elif _engram_find "${1%%=*}"; then
        given+="${1%%=*} "
        [[ $kind == flag || $1 == --*=* ]] || expected=$source
    elif [[ $1 != --* ]]; then
        _engram_cluster "${1:1}"
    fi
}

# Take in short options in one word, such as -fn, the last of which may want a value.
_engram_cluster() {
    local letters=$1
    while [[ -n $letters ]]; do
        _engram_find "-${letters:0:1}" || return 0
        given+="-${letters:0:1} "
        letters=${letters:1}
        [[ $kind == flag ]] && continue
        [[ -n $letters ]] || expected=$source
        return 0
    done
}

# Find an option by one of its spellings, and set `kind` (flag, once, often) and `source`.
_engram_find() {
    local option
    for option in "${options[@]}"; do
        [[ " ${option%%|*} " == *" $1 "* ]] || continue
        option=${option#*|}
        kind=${option%%|*} source=${option#*|}
        return 0
    done
    return 1
}

# Offer what can stand where the cursor is.
_engram_current() {
    local kind='' source=''
    if [[ -n $expected ]]; then
        _engram_values "$expected"
    elif [[ -z $literal && $word == --*=* ]]; then
        _engram_find "${word%%=*}" || return 0
        [[ $kind == flag ]] && return
        head=${word%%=*}=
        _engram_values "$source"
    elif [[ -z $literal && $word == -* ]]; then
        _engram_options
    else
        local count=${#arguments[@]}
        if ((positionals < count)); then
            _engram_values "${arguments[positionals]}"
        elif ((count > 0)) && [[ ${arguments[count - 1]} == *'*' ]]; then
            _engram_values "${arguments[count - 1]}"
        elif [[ -z $literal ]]; then
            _engram_options
        fi
    fi
}

# Offer the options that may still be given.
_engram_options() {
    local option spelling again
    for option in "${options[@]}"; do
        again=1
        if [[ $option != *'|often|'* ]]; then
            for spelling in ${option%%|*}; do
                [[ $given != *" $spelling "* ]] || again=''
            done
        fi
        [[ -z $again ]] || _engram_offer ${option%%|*}
    done
}

# Offer those of the words that start as the one at the cursor does. A reply stands for what readline replaces: the end of the word as it
# was typed, from the last : or = on. It is quoted as the word is.
_engram_offer() {
    local candidate reply skip=0
    if [[ $raw == *"$typed" && $raw != "$typed" ]]; then
        _engram_length "${raw:0:${#raw}-${#typed}}"
    fi
    for candidate; do
        candidate=$head$candidate
        [[ $candidate == "$word"* ]] || continue
        reply=${candidate:skip}
        case $quote in
            \') reply=${reply//\'/\'\\\'\'} ;;
            \")
                reply=${reply//\\/\\\\}
                reply=${reply//\"/\\\"}
                reply=${reply//\$/\\\$}
                reply=${reply//\`/\\\`}
                ;;
            *) printf -v reply %q "$reply" ;;
        esac
        # readline closes a quote unless it stands before the cursor already, as the last of a name may do.
        [[ -z $quote || $reply != *"$quote" ]] || reply+=$quote
        COMPREPLY+=("$reply")
    done
}

# Set `skip` to how many characters a piece of the line stands for.
_engram_length() {
    local -a words=()
    local raw='' quote=''
    _engram_split "$1"
    skip=${#words[0]}
}

# Offer what `engram help` explains: one command, which is one word or two.
_engram_help() {
    if ((positionals == 0)); then
        _engram_verbs ''
    elif ((positionals == 1)) && _engram_is_group "${words[last - 1]}"; then
        _engram_verbs "${words[last - 1]}"
    fi
}

# Offer the names of contexts, agents or consumers.
_engram_names() {
    local name
    local -a names=()
    case $program in
        '~/'*) program=$HOME/${program:2} ;;
        */*) ;;
        *) program=engram ;;
    esac
    while IFS= read -r name; do
        [[ -z $literal && $name == -* ]] || names+=("$name")
    done < <("$program" __complete "$1" "${word:${#head}}" 2>/dev/null)
    ((${#names[@]} == 0)) || _engram_offer "${names[@]}"
}
"""

_END = r"""
complete -F _engram engram
"""


def source() -> str:
    """The file: what it does, then the tables."""
    return "\n".join([_RUNTIME, _values(), _groups(), _verbs(), _declare()]) + _END


def _case(lines: Iterable[str], indent: str = "    ") -> list[str]:
    return [f"{indent}case $1 in", *(f"{indent}    {line}" for line in lines), f"{indent}esac"]


def _function(comment: str, name: str, body: Iterable[str]) -> str:
    return "\n".join([f"# {comment}", f"{name}() {{", *body, "}", ""])


def _values() -> str:
    lines = []
    for source, words in values.WORDS.items():
        no_space = "compopt -o nospace 2>/dev/null; " if words[0].endswith(":") else ""
        lines.append(f"{source}*) {no_space}_engram_offer {' '.join(words)} ;;")
    lines += [f"{source}*) _engram_names {source} ;;" for source in values.NAMES]
    lines += ["verbs*) _engram_help ;;", "files*) compopt -o default 2>/dev/null ;;"]
    return _function("Offer the values of a source.", "_engram_values", _case(lines))


def _groups() -> str:
    lines = [f"{' | '.join(GROUPS)}) return 0 ;;", "*) return 1 ;;"]
    return _function("Whether a word is a group of commands.", "_engram_is_group", _case(lines))


def _verbs() -> str:
    lines = [f"{group}) _engram_offer {' '.join(children(group))} ;;" for group in GROUPS]
    lines.append(f"*) _engram_offer {' '.join(children())} ;;")
    return _function("Offer the commands of a group, or the first words of all.", "_engram_verbs", _case(lines))


def _declare() -> str:
    lines = []
    for name in COMMANDS:
        lines.append(f"'{name}')")
        own = [f"        '{_option(parameter)}'" for parameter in own_options(name)]
        lines += ["    options=(", *own, "    )"] if own else []
        taken = [f"'{values.source_of(parameter)}{'*' * parameter.many}'" for parameter in arguments(name)]
        lines += [f"    arguments=({' '.join(taken)})"] if taken else []
        lines.append("    ;;")
    lines += ["*) return 1 ;;"]
    shared = ["    options+=(", *(f"        '{_option(parameter)}'" for parameter in shared_options()), "    )"]
    comment = "Set the `options` of a command, as `spellings|kind|source`, and the sources of its `arguments`."
    return _function(comment, "_engram_declare", [*_case(lines), *shared])


def _option(parameter: Parameter) -> str:
    kind = "flag" if parameter.kind == "flag" else "often" if parameter.many else "once"
    return f"{' '.join(parameter.options)}|{kind}|{values.source_of(parameter)}"
