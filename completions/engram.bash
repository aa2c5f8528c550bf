# bash completion for engram, made from the tree of commands by `python -m engram_cli.generate`. Do not edit.

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

# Offer the values of a source.
_engram_values() {
    case $1 in
        types*) _engram_offer message reasoning tool_call tool_result file_change task_status error system unknown ;;
        kinds*) _engram_offer unit_put context_created context_changed agent_joined agent_left unit_pinned unit_unpinned unit_added unit_removed lock_granted lock_released lock_expired lock_stolen consumer_created consumer_acked consumer_parked consumer_retried consumer_reset consumer_deleted agent_present agents_gone token_issued token_revoked retention_set units_trimmed events_trimmed unit_redacted erasures_finished log_restored consumer_missed ;;
        directions*) _engram_offer in out both ;;
        edges*) _engram_offer sequential causes depends_on references responds_to modifies replaces ;;
        relationships*) compopt -o nospace 2>/dev/null; _engram_offer sequential: causes: depends_on: references: responds_to: modifies: replaces: ;;
        modes*) _engram_offer hybrid keyword semantic ;;
        colors*) _engram_offer auto always never ;;
        acks*) _engram_offer auto manual ;;
        forms*) _engram_offer text jsonl ;;
        places*) _engram_offer start now ;;
        shells*) _engram_offer bash zsh fish ;;
        sizes*) _engram_offer tokens chars bytes ;;
        counters*) _engram_offer estimate tokenizer ;;
        formats*) _engram_offer md json xml ;;
        policies*) _engram_offer default errors-first ;;
        codings*) _engram_offer jsonl cbor ;;
        grants*) _engram_offer read write lock admin act-as ;;
        contexts*) _engram_names contexts ;;
        agents*) _engram_names agents ;;
        locks*) _engram_names locks ;;
        consumers*) _engram_names consumers ;;
        verbs*) _engram_help ;;
        files*) compopt -o default 2>/dev/null ;;
    esac
}

# Whether a word is a group of commands.
_engram_is_group() {
    case $1 in
        context | consumer | daemon | token) return 0 ;;
        *) return 1 ;;
    esac
}

# Offer the commands of a group, or the first words of all.
_engram_verbs() {
    case $1 in
        context) _engram_offer create show list set retain join leave pin unpin add remove ;;
        consumer) _engram_offer create list show ack parked retry reset delete ;;
        daemon) _engram_offer run start stop restart status install uninstall logs socket ;;
        token) _engram_offer issue list inspect revoke ;;
        *) _engram_offer put get redact list tail ask related why search pack agents status metrics top lock unlock renew locks guard pipe mcp run help demo completion backup restore export import doctor context consumer daemon token ;;
    esac
}

# Set the `options` of a command, as `spellings|kind|source`, and the sources of its `arguments`.
_engram_declare() {
    case $1 in
        'put')
            options=(
                '--type|once|types'
                '--meta|often|-'
                '--rel|often|relationships'
                '--reply-to|once|-'
                '--file|once|files'
                '--dedupe|once|-'
                '--expect-seq|once|-'
                '--fence|often|-'
                '--release|flag|-'
            )
            arguments=('contexts' '-')
            ;;
        'get')
            arguments=('-*')
            ;;
        'redact')
            options=(
                '--reason|once|-'
            )
            arguments=('-*')
            ;;
        'list')
            options=(
                '--agent|often|agents'
                '--type|often|types'
                '--meta|often|-'
                '--since|once|-'
                '--until|once|-'
                '--after|once|-'
                '--related-to|once|-'
                '--to|once|agents'
                '--limit|once|-'
                '--reverse|flag|-'
            )
            arguments=('contexts')
            ;;
        'tail')
            options=(
                '-n|once|-'
                '-f --follow|flag|-'
                '--agent|often|agents'
                '--type|often|types'
                '--meta|often|-'
                '--since|once|-'
                '--until|once|-'
                '--after|once|-'
                '--related-to|once|-'
                '--to|once|agents'
                '--events|flag|-'
                '--kind|often|kinds'
                '--consumer|once|consumers'
                '--ack|once|acks'
                '--prefetch|once|-'
            )
            arguments=('contexts*')
            ;;
        'ask')
            options=(
                '--to|once|agents'
                '--type|once|types'
                '--meta|often|-'
            )
            arguments=('contexts' '-')
            ;;
        'related')
            options=(
                '--direction|once|directions'
                '--type|often|edges'
                '--depth|once|-'
                '--limit|once|-'
            )
            arguments=('-')
            ;;
        'why')
            options=(
                '--depth|once|-'
                '--limit|once|-'
            )
            arguments=('files')
            ;;
        'search')
            options=(
                '--context|often|contexts'
                '--mode|once|modes'
                '--agent|often|agents'
                '--type|often|types'
                '--meta|often|-'
                '--since|once|-'
                '--until|once|-'
                '--related-to|once|-'
                '--to|once|agents'
                '--limit|once|-'
                '--after|once|-'
                '--min-score|once|-'
            )
            arguments=('-')
            ;;
        'pack')
            options=(
                '--budget|once|-'
                '--unit|once|sizes'
                '--counter|once|counters'
                '--query|once|-'
                '--policy|once|policies'
                '--at|once|-'
                '--format|once|formats'
                '--explain|flag|-'
                '--diff|once|-'
                '--record|flag|-'
                '--manifest|once|files'
                '--verify|once|-'
            )
            arguments=('contexts*')
            ;;
        'agents')
            arguments=('contexts')
            ;;
        'status')
            ;;
        'metrics')
            ;;
        'top')
            ;;
        'lock')
            options=(
                '--ttl|once|-'
                '--wait|flag|-'
                '--shared|flag|-'
                '--slots|once|-'
                '--session|flag|-'
                '--reason|once|-'
                '-E|once|-'
                '--grace|once|-'
            )
            arguments=('files*')
            ;;
        'unlock')
            options=(
                '--force|flag|-'
            )
            arguments=('locks*')
            ;;
        'renew')
            arguments=('locks')
            ;;
        'locks')
            arguments=('files*')
            ;;
        'guard')
            options=(
                '--staged|flag|-'
            )
            arguments=('files*')
            ;;
        'pipe')
            options=(
                '--schema|flag|-'
            )
            ;;
        'mcp')
            options=(
                '--max-bytes|once|-'
            )
            ;;
        'run')
            options=(
                '--context|once|contexts'
                '--agent|once|agents'
                '--stdio|once|forms'
            )
            arguments=('-*')
            ;;
        'help')
            arguments=('verbs*')
            ;;
        'demo')
            ;;
        'completion')
            arguments=('shells')
            ;;
        'backup')
            options=(
                '--check|flag|-'
                '--check-only|flag|-'
            )
            arguments=('files')
            ;;
        'restore')
            options=(
                '--data-dir|once|files'
            )
            arguments=('files')
            ;;
        'export')
            options=(
                '--agent|often|agents'
                '--type|often|types'
                '--meta|often|-'
                '--since|once|-'
                '--until|once|-'
                '--after|once|-'
                '--related-to|once|-'
                '--to|once|agents'
                '--format|once|codings'
            )
            arguments=('contexts*')
            ;;
        'import')
            options=(
                '--format|once|codings'
                '--dry-run|flag|-'
            )
            arguments=('files')
            ;;
        'doctor')
            options=(
                '--data-dir|once|files'
                '--repair|flag|-'
                '--salvage|once|files'
            )
            ;;
        'context create')
            options=(
                '--display-name|once|-'
                '--meta|often|-'
            )
            arguments=('contexts')
            ;;
        'context show')
            arguments=('contexts')
            ;;
        'context list')
            ;;
        'context set')
            options=(
                '--display-name|once|-'
                '--meta|often|-'
                '--unset|often|-'
            )
            arguments=('contexts')
            ;;
        'context retain')
            options=(
                '--age|once|-'
                '--units|once|-'
                '--bytes|once|-'
            )
            arguments=('contexts')
            ;;
        'consumer create')
            options=(
                '--agent|often|agents'
                '--type|often|types'
                '--meta|often|-'
                '--related-to|once|-'
                '--to|once|agents'
                '--key|once|-'
                '--visibility|once|-'
                '--deliveries|once|-'
                '--from|once|places'
            )
            arguments=('consumers' 'contexts*')
            ;;
        'consumer list')
            ;;
        'consumer show')
            arguments=('consumers')
            ;;
        'consumer ack')
            arguments=('consumers' '-*')
            ;;
        'consumer parked')
            arguments=('consumers')
            ;;
        'consumer retry')
            arguments=('consumers' '-*')
            ;;
        'consumer reset')
            options=(
                '--to|once|places'
            )
            arguments=('consumers')
            ;;
        'consumer delete')
            arguments=('consumers')
            ;;
        'context join')
            arguments=('contexts' 'agents')
            ;;
        'context leave')
            arguments=('contexts' 'agents')
            ;;
        'context pin')
            arguments=('contexts' '-*')
            ;;
        'context unpin')
            arguments=('contexts' '-*')
            ;;
        'context add')
            arguments=('contexts' '-*')
            ;;
        'context remove')
            arguments=('contexts' '-*')
            ;;
        'daemon run')
            arguments=('-*')
            ;;
        'daemon start')
            ;;
        'daemon stop')
            ;;
        'daemon restart')
            ;;
        'daemon status')
            ;;
        'daemon install')
            options=(
                '--dry-run|flag|-'
            )
            ;;
        'daemon uninstall')
            ;;
        'daemon logs')
            options=(
                '-n --lines|once|-'
                '-f --follow|flag|-'
            )
            ;;
        'daemon socket')
            ;;
        'token issue')
            options=(
                '--may|often|grants'
                '--context|often|contexts'
                '--path|often|files'
                '--expires|once|-'
                '--note|once|-'
            )
            arguments=('agents')
            ;;
        'token list')
            ;;
        'token inspect')
            arguments=('-')
            ;;
        'token revoke')
            arguments=('-')
            ;;
        *) return 1 ;;
    esac
    options+=(
        '--json|flag|-'
        '--color|once|colors'
        '--socket|once|files'
        '--token-file|once|files'
        '--as|once|agents'
        '--timeout|once|-'
        '--no-autostart|flag|-'
        '--verbose -v|flag|-'
        '--help -h|flag|-'
    )
}

complete -F _engram engram
