# fish completion for engram, made from the tree of commands by `python -m engram_cli.generate`. Do not edit.

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

set -g __engram_groups context consumer daemon
set -g __engram_takes '^(--(ack|after|age|agent|as|at|budget|bytes|color|consumer|context|counter|dedupe|deliveries|depth|diff|direction|display-name|expect-seq|fence|file|format|from|grace|key|kind|limit|lines|manifest|max-bytes|meta|min-score|mode|policy|prefetch|query|reason|rel|related-to|reply-to|since|slots|socket|stdio|timeout|to|ttl|type|unit|units|unset|until|verify|visibility)|-[fhv]*[En])$'

complete -c engram -f
complete -c engram -n "__engram_at ''" -a put -d 'Append a unit to a context and print its id'
complete -c engram -n "__engram_at ''" -a get -d 'Print units\' payloads, byte for byte like cat; with --json the whole units'
complete -c engram -n "__engram_at ''" -a redact -d 'Erase units\' payloads and labels for good, from every file of the store and from search'
complete -c engram -n "__engram_at ''" -a list -d 'List the units of a context, oldest first'
complete -c engram -n "__engram_at ''" -a tail -d 'Print the last units of contexts, and with -f what follows'
complete -c engram -n "__engram_at ''" -a ask -d 'Put a question to an agent, wait for the first unit that responds to it, and print that as get does'
complete -c engram -n "__engram_at ''" -a related -d 'Walk relationships from a unit, nearest first'
complete -c engram -n "__engram_at ''" -a why -d 'List the changes of a file, newest first: the file_change units whose label path names it, in any context'
complete -c engram -n "__engram_at ''" -a search -d 'Find the units that fit a query best, each with its score and the part of its text that shows why'
complete -c engram -n "__engram_at ''" -a pack -d 'Assemble units for a prompt: the pinned ones, the recent ones, what relates to those, what a query finds'
complete -c engram -n "__engram_at ''" -a agents -d 'List the agents: who is there and since when, who has been, what they have locked'
complete -c engram -n "__engram_at ''" -a status -d 'Describe the daemon'
complete -c engram -n "__engram_at ''" -a metrics -d 'Print what the daemon has counted and timed since its start, as Prometheus reads it'
complete -c engram -n "__engram_at ''" -a top -d 'Watch contexts, rates, subscribers and their lag, locks, waiters and agents, live'
complete -c engram -n "__engram_at ''" -a lock -d 'Lock paths, all or none, and print the token; or run a command under the lock'
complete -c engram -n "__engram_at ''" -a unlock -d 'Release locks'
complete -c engram -n "__engram_at ''" -a renew -d 'Have a lock last its full time from now on, and print when it ends'
complete -c engram -n "__engram_at ''" -a locks -d 'List the locks that are held, by token, then those who wait, in order'
complete -c engram -n "__engram_at ''" -a guard -d 'Exit 75 when another holds a lock on any of the paths, and say who, since when, why, and what they did last'
complete -c engram -n "__engram_at ''" -a pipe -d 'Speak JSON lines: requests on stdin, answers and stream items on stdout, over one connection'
complete -c engram -n "__engram_at ''" -a mcp -d 'Serve the operations as tools of the Model Context Protocol, on stdin and stdout'
complete -c engram -n "__engram_at ''" -a run -d 'Run an agent with an identity, a session and presence, and record what it prints, which is passed on unchanged'
complete -c engram -n "__engram_at ''" -a help -d 'Explain a command'
complete -c engram -n "__engram_at ''" -a demo -d 'Show the product in 15 seconds, in a temporary directory: two agents, a live tail, a reader that comes back'
complete -c engram -n "__engram_at ''" -a completion -d 'Print a shell\'s completions'
complete -c engram -n "__engram_at ''" -a context -d 'Contexts: named groups of units and agents'
complete -c engram -n "__engram_at ''" -a consumer -d 'Consumers: readers whose place the daemon keeps'
complete -c engram -n "__engram_at ''" -a daemon -d 'The daemon: start it, stop it, look at it'
complete -c engram -n "__engram_at ''" -l help -s h -d 'Show this message and exit'
complete -c engram -n "__engram_at 'context'" -a create -d 'Create a context'
complete -c engram -n "__engram_at 'context'" -a show -d 'Describe a context: title, labels, members, pins, counts'
complete -c engram -n "__engram_at 'context'" -a list -d 'List the contexts'
complete -c engram -n "__engram_at 'context'" -a set -d 'Change a context\'s title and labels'
complete -c engram -n "__engram_at 'context'" -a retain -d 'Have a context keep no more than this'
complete -c engram -n "__engram_at 'context'" -a join -d 'Make an agent a member'
complete -c engram -n "__engram_at 'context'" -a leave -d 'End an agent\'s membership'
complete -c engram -n "__engram_at 'context'" -a pin -d 'Pin units, so that packs start with them'
complete -c engram -n "__engram_at 'context'" -a unpin -d 'Unpin units'
complete -c engram -n "__engram_at 'context'" -a add -d 'Add units of other contexts; they arrive as new entries'
complete -c engram -n "__engram_at 'context'" -a remove -d 'Remove units from a context; they stay in the log'
complete -c engram -n "__engram_at 'context'" -l help -s h -d 'Show this message and exit'
complete -c engram -n "__engram_at 'consumer'" -a create -d 'Create a consumer'
complete -c engram -n "__engram_at 'consumer'" -a list -d 'List the consumers: where they are, and how much they have before them'
complete -c engram -n "__engram_at 'consumer'" -a show -d 'Describe a consumer: settings, place, members, counts'
complete -c engram -n "__engram_at 'consumer'" -a ack -d 'Say that units are done: what tail --ack manual printed, or parked ones to give up'
complete -c engram -n "__engram_at 'consumer'" -a parked -d 'List the units that were delivered too often and are set aside'
complete -c engram -n "__engram_at 'consumer'" -a retry -d 'Deliver parked units again'
complete -c engram -n "__engram_at 'consumer'" -a reset -d 'Have a consumer go on somewhere else'
complete -c engram -n "__engram_at 'consumer'" -a delete -d 'Forget a consumer: its place, and what it has parked'
complete -c engram -n "__engram_at 'consumer'" -l help -s h -d 'Show this message and exit'
complete -c engram -n "__engram_at 'daemon'" -a run -d 'Run the daemon in the foreground'
complete -c engram -n "__engram_at 'daemon'" -a start -d 'Start the daemon in the background, unless it runs'
complete -c engram -n "__engram_at 'daemon'" -a stop -d 'Stop the daemon after what is in flight; return when it is gone'
complete -c engram -n "__engram_at 'daemon'" -a restart -d 'Stop the daemon and start it again'
complete -c engram -n "__engram_at 'daemon'" -a status -d 'Say whether the daemon runs: exit 0 when it does, 69 when not'
complete -c engram -n "__engram_at 'daemon'" -a install -d 'Have systemd keep the daemon, as a user service that the first connection starts'
complete -c engram -n "__engram_at 'daemon'" -a uninstall -d 'Stop the service and remove its units'
complete -c engram -n "__engram_at 'daemon'" -a logs -d 'Show the daemon\'s own messages: the journal of the service, else the log file'
complete -c engram -n "__engram_at 'daemon'" -a socket -d 'Print the path of the daemon\'s socket'
complete -c engram -n "__engram_at 'daemon'" -l help -s h -d 'Show this message and exit'
complete -c engram -n "__engram_in_command" -l json -d 'Print one JSON object per line'
complete -c engram -n "__engram_in_command" -l color -x -a 'auto always never' -d 'auto, always or never'
complete -c engram -n "__engram_in_command" -l socket -rF -d 'The daemon\'s socket [ENGRAM_SOCKET]'
complete -c engram -n "__engram_in_command" -l as -x -a '(__engram_names agents)' -d 'Who acts [ENGRAM_AGENT]; else your user name'
complete -c engram -n "__engram_in_command" -l timeout -x -d 'Give up after so long, such as 5s or 2m (exit 124)'
complete -c engram -n "__engram_in_command" -l no-autostart -d 'Fail (exit 69) rather than start a daemon'
complete -c engram -n "__engram_in_command" -l verbose -s v -d 'Say more about an error: its code and details'
complete -c engram -n "__engram_in_command" -l help -s h -d 'Show this message and exit'
complete -c engram -n "__engram_at 'put'" -l type -x -a 'message reasoning tool_call tool_result file_change task_status error system unknown' -d 'What kind of unit it is'
complete -c engram -n "__engram_at 'put'" -l meta -x -d 'A label'
complete -c engram -n "__engram_at 'put'" -l rel -x -a 'sequential: causes: depends_on: references: responds_to: modifies: replaces:' -d 'A relationship to an earlier unit'
complete -c engram -n "__engram_at 'put'" -l reply-to -x -d 'Short for --rel responds_to:ID'
complete -c engram -n "__engram_at 'put'" -l file -rF -d 'Take the payload from a file, byte for byte'
complete -c engram -n "__engram_at 'put'" -l dedupe -x -d 'If this key was put in the context before, answer with that unit'
complete -c engram -n "__engram_at 'put'" -l expect-seq -x -d 'Fail (exit 3) unless the context\'s last entry is N; 0 means none'
complete -c engram -n "__engram_at 'put'" -l fence -x -d 'Fail (exit 3) unless this token\'s lease is held and covers the path'
complete -c engram -n "__engram_at 'put'" -l release -d 'Release the leases of --fence in the same write'
complete -c engram -n "__engram_at 'put' 0" -a '(__engram_names contexts)'
complete -c engram -n "__engram_at 'redact'" -l reason -x -d 'Why'
complete -c engram -n "__engram_at 'list'" -l agent -x -a '(__engram_names agents)' -d 'Only units of this agent'
complete -c engram -n "__engram_at 'list'" -l type -x -a 'message reasoning tool_call tool_result file_change task_status error system unknown' -d 'Only units of this type'
complete -c engram -n "__engram_at 'list'" -l meta -x -d 'Only units with this label'
complete -c engram -n "__engram_at 'list'" -l since -x -d 'From this time on: 10m (ago), 14:30, 2026-01-31, 2026-01-31T14:30:00Z'
complete -c engram -n "__engram_at 'list'" -l until -x -d 'Before this time'
complete -c engram -n "__engram_at 'list'" -l after -x -d 'Beyond this cursor or seq'
complete -c engram -n "__engram_at 'list'" -l related-to -x -d 'Only units with a relationship to this one'
complete -c engram -n "__engram_at 'list'" -l to -x -a '(__engram_names agents)' -d 'Only units that are for this agent (label to); me stands for you'
complete -c engram -n "__engram_at 'list'" -l limit -x -d 'At most N units'
complete -c engram -n "__engram_at 'list'" -l reverse -d 'Newest first'
complete -c engram -n "__engram_at 'list' 0" -a '(__engram_names contexts)'
complete -c engram -n "__engram_at 'tail'" -s n -x -d 'Start with the last N units [10, unless --since or --after]'
complete -c engram -n "__engram_at 'tail'" -s f -l follow -d 'Go on with new units as they become durable'
complete -c engram -n "__engram_at 'tail'" -l agent -x -a '(__engram_names agents)' -d 'Only units of this agent'
complete -c engram -n "__engram_at 'tail'" -l type -x -a 'message reasoning tool_call tool_result file_change task_status error system unknown' -d 'Only units of this type'
complete -c engram -n "__engram_at 'tail'" -l meta -x -d 'Only units with this label'
complete -c engram -n "__engram_at 'tail'" -l since -x -d 'From this time on: 10m (ago), 14:30, 2026-01-31, 2026-01-31T14:30:00Z'
complete -c engram -n "__engram_at 'tail'" -l until -x -d 'Before this time'
complete -c engram -n "__engram_at 'tail'" -l after -x -d 'Beyond this cursor or seq'
complete -c engram -n "__engram_at 'tail'" -l related-to -x -d 'Only units with a relationship to this one'
complete -c engram -n "__engram_at 'tail'" -l to -x -a '(__engram_names agents)' -d 'Only units that are for this agent (label to); me stands for you'
complete -c engram -n "__engram_at 'tail'" -l events -d 'Every event of the log, not only the units'
complete -c engram -n "__engram_at 'tail'" -l kind -x -a 'unit_put context_created context_changed agent_joined agent_left unit_pinned unit_unpinned unit_added unit_removed lock_granted lock_released lock_expired lock_stolen consumer_created consumer_acked consumer_parked consumer_retried consumer_reset consumer_deleted agent_present agents_gone retention_set units_trimmed events_trimmed unit_redacted erasures_finished' -d 'Only events of this kind'
complete -c engram -n "__engram_at 'tail'" -l consumer -x -a '(__engram_names consumers)' -d 'Only what no other member of this consumer gets; the daemon keeps its place'
complete -c engram -n "__engram_at 'tail'" -l ack -x -a 'auto manual' -d 'When a unit is done: auto, once it is printed [auto], or manual, by consumer ack'
complete -c engram -n "__engram_at 'tail'" -l prefetch -x -d 'Units to have at a time that are not done [64; manual: 1]'
complete -c engram -n "__engram_at 'tail' 0 +" -a '(__engram_names contexts)'
complete -c engram -n "__engram_at 'ask'" -l to -x -a '(__engram_names agents)' -d 'Who is asked'
complete -c engram -n "__engram_at 'ask'" -l type -x -a 'message reasoning tool_call tool_result file_change task_status error system unknown' -d 'What kind of unit it is'
complete -c engram -n "__engram_at 'ask'" -l meta -x -d 'A label'
complete -c engram -n "__engram_at 'ask' 0" -a '(__engram_names contexts)'
complete -c engram -n "__engram_at 'related'" -l direction -x -a 'in out both' -d 'out: edges that a unit has; in: edges that lead to it; or both'
complete -c engram -n "__engram_at 'related'" -l type -x -a 'sequential causes depends_on references responds_to modifies replaces' -d 'Only edges of this type'
complete -c engram -n "__engram_at 'related'" -l depth -x -d 'At most N edges away'
complete -c engram -n "__engram_at 'related'" -l limit -x -d 'At most N units'
complete -c engram -n "__engram_at 'why'" -l depth -x -d 'Follow what led to a change N edges far'
complete -c engram -n "__engram_at 'why'" -l limit -x -d 'At most N changes'
complete -c engram -n "__engram_at 'why' 0" -F
complete -c engram -n "__engram_at 'search'" -l context -x -a '(__engram_names contexts)' -d 'Only units in this context; '
complete -c engram -n "__engram_at 'search'" -l mode -x -a 'hybrid keyword semantic' -d 'hybrid (words and meaning), keyword or semantic [hybrid]'
complete -c engram -n "__engram_at 'search'" -l agent -x -a '(__engram_names agents)' -d 'Only units of this agent'
complete -c engram -n "__engram_at 'search'" -l type -x -a 'message reasoning tool_call tool_result file_change task_status error system unknown' -d 'Only units of this type'
complete -c engram -n "__engram_at 'search'" -l meta -x -d 'Only units with this label'
complete -c engram -n "__engram_at 'search'" -l since -x -d 'From this time on: 10m (ago), 14:30, 2026-01-31, 2026-01-31T14:30:00Z'
complete -c engram -n "__engram_at 'search'" -l until -x -d 'Before this time'
complete -c engram -n "__engram_at 'search'" -l related-to -x -d 'Only units with a relationship to this one'
complete -c engram -n "__engram_at 'search'" -l to -x -a '(__engram_names agents)' -d 'Only units that are for this agent (label to); me stands for you'
complete -c engram -n "__engram_at 'search'" -l limit -x -d 'At most N hits'
complete -c engram -n "__engram_at 'search'" -l after -x -d 'Behind this hit: its cursor, from --json'
complete -c engram -n "__engram_at 'search'" -l min-score -x -d 'Only hits with at least this score, from 0 to 1'
complete -c engram -n "__engram_at 'pack'" -l budget -x -d 'The largest size of the whole'
complete -c engram -n "__engram_at 'pack'" -l unit -x -a 'tokens chars bytes' -d 'What N counts: tokens, chars or bytes [tokens]'
complete -c engram -n "__engram_at 'pack'" -l counter -x -a 'estimate tokenizer' -d 'What counts tokens: estimate, or tokenizer, the daemon\'s own [estimate]'
complete -c engram -n "__engram_at 'pack'" -l query -x -d 'Words; what fits them best goes in, too'
complete -c engram -n "__engram_at 'pack'" -l policy -x -a 'default errors-first' -d 'default, errors-first, or a file (X.toml, or with a slash) [default]'
complete -c engram -n "__engram_at 'pack'" -l at -x -d 'As the log stood at this seq or cursor [its end]'
complete -c engram -n "__engram_at 'pack'" -l format -x -a 'md json xml' -d 'md, json or xml [md]'
complete -c engram -n "__engram_at 'pack'" -l explain -d 'Print why each unit is in or out, instead of the pack'
complete -c engram -n "__engram_at 'pack'" -l diff -x -d 'Print only what a reader of the same pack at this seq has not seen'
complete -c engram -n "__engram_at 'pack'" -l record -d 'Put the manifest into the first context, for --verify'
complete -c engram -n "__engram_at 'pack'" -l manifest -rF -d 'Write the manifest to a file, too'
complete -c engram -n "__engram_at 'pack'" -l verify -x -d 'Make a recorded pack again, and say whether it is identical (else exit 1)'
complete -c engram -n "__engram_at 'pack' 0 +" -a '(__engram_names contexts)'
complete -c engram -n "__engram_at 'agents' 0" -a '(__engram_names contexts)'
complete -c engram -n "__engram_at 'lock'" -l ttl -x -d 'How long it lasts unless renewed: 60s, 5m'
complete -c engram -n "__engram_at 'lock'" -l wait -d 'Wait for it, in order; --timeout bounds the wait (exit 75)'
complete -c engram -n "__engram_at 'lock'" -l shared -d 'Share it with others who do'
complete -c engram -n "__engram_at 'lock'" -l slots -x -d 'Be one of at most N holders'
complete -c engram -n "__engram_at 'lock'" -l session -d 'Hold it as long as the session [ENGRAM_SESSION] lasts, without renewals'
complete -c engram -n "__engram_at 'lock'" -l reason -x -d 'What for; told to whoever it keeps waiting'
complete -c engram -n "__engram_at 'lock'" -s E -x -d 'Exit with this rather than 75 when it cannot be had'
complete -c engram -n "__engram_at 'lock'" -l grace -x -d 'With a command: how long before the lock\'s end it is told to end, 5s or less'
complete -c engram -n "__engram_at 'lock' 0 +" -F
complete -c engram -n "__engram_at 'unlock'" -l force -d 'Take locks away from whoever holds them, and say from whom'
complete -c engram -n "__engram_at 'unlock' 0 +" -a '(__engram_names locks)'
complete -c engram -n "__engram_at 'renew' 0" -a '(__engram_names locks)'
complete -c engram -n "__engram_at 'locks' 0 +" -F
complete -c engram -n "__engram_at 'guard'" -l staged -d 'The files that git is about to commit'
complete -c engram -n "__engram_at 'guard' 0 +" -F
complete -c engram -n "__engram_at 'pipe'" -l schema -d 'Print the JSON Schema of all lines, and do nothing else'
complete -c engram -n "__engram_at 'mcp'" -l max-bytes -x -d 'The most bytes of text in one answer'
complete -c engram -n "__engram_at 'run'" -l context -x -a '(__engram_names contexts)' -d 'Where its output goes [ENGRAM_CONTEXT, else runs]'
complete -c engram -n "__engram_at 'run'" -l agent -x -a '(__engram_names agents)' -d 'Who it is [ENGRAM_AGENT, else your user name]'
complete -c engram -n "__engram_at 'run'" -l stdio -x -a 'text jsonl' -d 'text, or jsonl: each JSON line of its output is a unit, by its type'
complete -c engram -n "__engram_at 'help' 0" -a put -d 'Append a unit to a context and print its id'
complete -c engram -n "__engram_at 'help' 0" -a get -d 'Print units\' payloads, byte for byte like cat; with --json the whole units'
complete -c engram -n "__engram_at 'help' 0" -a redact -d 'Erase units\' payloads and labels for good, from every file of the store and from search'
complete -c engram -n "__engram_at 'help' 0" -a list -d 'List the units of a context, oldest first'
complete -c engram -n "__engram_at 'help' 0" -a tail -d 'Print the last units of contexts, and with -f what follows'
complete -c engram -n "__engram_at 'help' 0" -a ask -d 'Put a question to an agent, wait for the first unit that responds to it, and print that as get does'
complete -c engram -n "__engram_at 'help' 0" -a related -d 'Walk relationships from a unit, nearest first'
complete -c engram -n "__engram_at 'help' 0" -a why -d 'List the changes of a file, newest first: the file_change units whose label path names it, in any context'
complete -c engram -n "__engram_at 'help' 0" -a search -d 'Find the units that fit a query best, each with its score and the part of its text that shows why'
complete -c engram -n "__engram_at 'help' 0" -a pack -d 'Assemble units for a prompt: the pinned ones, the recent ones, what relates to those, what a query finds'
complete -c engram -n "__engram_at 'help' 0" -a agents -d 'List the agents: who is there and since when, who has been, what they have locked'
complete -c engram -n "__engram_at 'help' 0" -a status -d 'Describe the daemon'
complete -c engram -n "__engram_at 'help' 0" -a metrics -d 'Print what the daemon has counted and timed since its start, as Prometheus reads it'
complete -c engram -n "__engram_at 'help' 0" -a top -d 'Watch contexts, rates, subscribers and their lag, locks, waiters and agents, live'
complete -c engram -n "__engram_at 'help' 0" -a lock -d 'Lock paths, all or none, and print the token; or run a command under the lock'
complete -c engram -n "__engram_at 'help' 0" -a unlock -d 'Release locks'
complete -c engram -n "__engram_at 'help' 0" -a renew -d 'Have a lock last its full time from now on, and print when it ends'
complete -c engram -n "__engram_at 'help' 0" -a locks -d 'List the locks that are held, by token, then those who wait, in order'
complete -c engram -n "__engram_at 'help' 0" -a guard -d 'Exit 75 when another holds a lock on any of the paths, and say who, since when, why, and what they did last'
complete -c engram -n "__engram_at 'help' 0" -a pipe -d 'Speak JSON lines: requests on stdin, answers and stream items on stdout, over one connection'
complete -c engram -n "__engram_at 'help' 0" -a mcp -d 'Serve the operations as tools of the Model Context Protocol, on stdin and stdout'
complete -c engram -n "__engram_at 'help' 0" -a run -d 'Run an agent with an identity, a session and presence, and record what it prints, which is passed on unchanged'
complete -c engram -n "__engram_at 'help' 0" -a help -d 'Explain a command'
complete -c engram -n "__engram_at 'help' 0" -a demo -d 'Show the product in 15 seconds, in a temporary directory: two agents, a live tail, a reader that comes back'
complete -c engram -n "__engram_at 'help' 0" -a completion -d 'Print a shell\'s completions'
complete -c engram -n "__engram_at 'help' 0" -a context -d 'Contexts: named groups of units and agents'
complete -c engram -n "__engram_at 'help' 0" -a consumer -d 'Consumers: readers whose place the daemon keeps'
complete -c engram -n "__engram_at 'help' 0" -a daemon -d 'The daemon: start it, stop it, look at it'
complete -c engram -n "__engram_at 'help' 1; and test (commandline -opc)[-1] = context" -a create -d 'Create a context'
complete -c engram -n "__engram_at 'help' 1; and test (commandline -opc)[-1] = context" -a show -d 'Describe a context: title, labels, members, pins, counts'
complete -c engram -n "__engram_at 'help' 1; and test (commandline -opc)[-1] = context" -a list -d 'List the contexts'
complete -c engram -n "__engram_at 'help' 1; and test (commandline -opc)[-1] = context" -a set -d 'Change a context\'s title and labels'
complete -c engram -n "__engram_at 'help' 1; and test (commandline -opc)[-1] = context" -a retain -d 'Have a context keep no more than this'
complete -c engram -n "__engram_at 'help' 1; and test (commandline -opc)[-1] = context" -a join -d 'Make an agent a member'
complete -c engram -n "__engram_at 'help' 1; and test (commandline -opc)[-1] = context" -a leave -d 'End an agent\'s membership'
complete -c engram -n "__engram_at 'help' 1; and test (commandline -opc)[-1] = context" -a pin -d 'Pin units, so that packs start with them'
complete -c engram -n "__engram_at 'help' 1; and test (commandline -opc)[-1] = context" -a unpin -d 'Unpin units'
complete -c engram -n "__engram_at 'help' 1; and test (commandline -opc)[-1] = context" -a add -d 'Add units of other contexts; they arrive as new entries'
complete -c engram -n "__engram_at 'help' 1; and test (commandline -opc)[-1] = context" -a remove -d 'Remove units from a context; they stay in the log'
complete -c engram -n "__engram_at 'help' 1; and test (commandline -opc)[-1] = consumer" -a create -d 'Create a consumer'
complete -c engram -n "__engram_at 'help' 1; and test (commandline -opc)[-1] = consumer" -a list -d 'List the consumers: where they are, and how much they have before them'
complete -c engram -n "__engram_at 'help' 1; and test (commandline -opc)[-1] = consumer" -a show -d 'Describe a consumer: settings, place, members, counts'
complete -c engram -n "__engram_at 'help' 1; and test (commandline -opc)[-1] = consumer" -a ack -d 'Say that units are done: what tail --ack manual printed, or parked ones to give up'
complete -c engram -n "__engram_at 'help' 1; and test (commandline -opc)[-1] = consumer" -a parked -d 'List the units that were delivered too often and are set aside'
complete -c engram -n "__engram_at 'help' 1; and test (commandline -opc)[-1] = consumer" -a retry -d 'Deliver parked units again'
complete -c engram -n "__engram_at 'help' 1; and test (commandline -opc)[-1] = consumer" -a reset -d 'Have a consumer go on somewhere else'
complete -c engram -n "__engram_at 'help' 1; and test (commandline -opc)[-1] = consumer" -a delete -d 'Forget a consumer: its place, and what it has parked'
complete -c engram -n "__engram_at 'help' 1; and test (commandline -opc)[-1] = daemon" -a run -d 'Run the daemon in the foreground'
complete -c engram -n "__engram_at 'help' 1; and test (commandline -opc)[-1] = daemon" -a start -d 'Start the daemon in the background, unless it runs'
complete -c engram -n "__engram_at 'help' 1; and test (commandline -opc)[-1] = daemon" -a stop -d 'Stop the daemon after what is in flight; return when it is gone'
complete -c engram -n "__engram_at 'help' 1; and test (commandline -opc)[-1] = daemon" -a restart -d 'Stop the daemon and start it again'
complete -c engram -n "__engram_at 'help' 1; and test (commandline -opc)[-1] = daemon" -a status -d 'Say whether the daemon runs: exit 0 when it does, 69 when not'
complete -c engram -n "__engram_at 'help' 1; and test (commandline -opc)[-1] = daemon" -a install -d 'Have systemd keep the daemon, as a user service that the first connection starts'
complete -c engram -n "__engram_at 'help' 1; and test (commandline -opc)[-1] = daemon" -a uninstall -d 'Stop the service and remove its units'
complete -c engram -n "__engram_at 'help' 1; and test (commandline -opc)[-1] = daemon" -a logs -d 'Show the daemon\'s own messages: the journal of the service, else the log file'
complete -c engram -n "__engram_at 'help' 1; and test (commandline -opc)[-1] = daemon" -a socket -d 'Print the path of the daemon\'s socket'
complete -c engram -n "__engram_at 'completion' 0" -a 'bash zsh fish'
complete -c engram -n "__engram_at 'context create'" -l display-name -x -d 'A title for people'
complete -c engram -n "__engram_at 'context create'" -l meta -x -d 'A label'
complete -c engram -n "__engram_at 'context create' 0" -a '(__engram_names contexts)'
complete -c engram -n "__engram_at 'context show' 0" -a '(__engram_names contexts)'
complete -c engram -n "__engram_at 'context set'" -l display-name -x -d 'A title for people'
complete -c engram -n "__engram_at 'context set'" -l meta -x -d 'A label'
complete -c engram -n "__engram_at 'context set'" -l unset -x -d 'Remove a label'
complete -c engram -n "__engram_at 'context set' 0" -a '(__engram_names contexts)'
complete -c engram -n "__engram_at 'context retain'" -l age -x -d 'Keep entries so long, such as 12h or 30d'
complete -c engram -n "__engram_at 'context retain'" -l units -x -d 'Keep the last N entries'
complete -c engram -n "__engram_at 'context retain'" -l bytes -x -d 'Keep so many bytes of units: 64M, 1G; none takes a limit away'
complete -c engram -n "__engram_at 'context retain' 0" -a '(__engram_names contexts)'
complete -c engram -n "__engram_at 'consumer create'" -l agent -x -a '(__engram_names agents)' -d 'Only units of this agent'
complete -c engram -n "__engram_at 'consumer create'" -l type -x -a 'message reasoning tool_call tool_result file_change task_status error system unknown' -d 'Only units of this type'
complete -c engram -n "__engram_at 'consumer create'" -l meta -x -d 'Only units with this label'
complete -c engram -n "__engram_at 'consumer create'" -l related-to -x -d 'Only units with a relationship to this one'
complete -c engram -n "__engram_at 'consumer create'" -l to -x -a '(__engram_names agents)' -d 'Only units that are for this agent (label to); me stands for you'
complete -c engram -n "__engram_at 'consumer create'" -l key -x -d 'agent, or meta:K: units of one agent, or with one label K, one at a time, in order'
complete -c engram -n "__engram_at 'consumer create'" -l visibility -x -d 'How long a member may have a unit before another gets it [5m]'
complete -c engram -n "__engram_at 'consumer create'" -l deliveries -x -d 'Park a unit after so many deliveries [5]'
complete -c engram -n "__engram_at 'consumer create'" -l from -x -a 'start now' -d 'Where to start: start, now, a cursor, a seq, or a time [start]'
complete -c engram -n "__engram_at 'consumer create' 0" -a '(__engram_names consumers)'
complete -c engram -n "__engram_at 'consumer create' 1 +" -a '(__engram_names contexts)'
complete -c engram -n "__engram_at 'consumer show' 0" -a '(__engram_names consumers)'
complete -c engram -n "__engram_at 'consumer ack' 0" -a '(__engram_names consumers)'
complete -c engram -n "__engram_at 'consumer parked' 0" -a '(__engram_names consumers)'
complete -c engram -n "__engram_at 'consumer retry' 0" -a '(__engram_names consumers)'
complete -c engram -n "__engram_at 'consumer reset'" -l to -x -a 'start now' -d 'Where to go on: start, now, a cursor, a seq, or a time'
complete -c engram -n "__engram_at 'consumer reset' 0" -a '(__engram_names consumers)'
complete -c engram -n "__engram_at 'consumer delete' 0" -a '(__engram_names consumers)'
complete -c engram -n "__engram_at 'context join' 0" -a '(__engram_names contexts)'
complete -c engram -n "__engram_at 'context join' 1" -a '(__engram_names agents)'
complete -c engram -n "__engram_at 'context leave' 0" -a '(__engram_names contexts)'
complete -c engram -n "__engram_at 'context leave' 1" -a '(__engram_names agents)'
complete -c engram -n "__engram_at 'context pin' 0" -a '(__engram_names contexts)'
complete -c engram -n "__engram_at 'context unpin' 0" -a '(__engram_names contexts)'
complete -c engram -n "__engram_at 'context add' 0" -a '(__engram_names contexts)'
complete -c engram -n "__engram_at 'context remove' 0" -a '(__engram_names contexts)'
complete -c engram -n "__engram_at 'daemon install'" -l dry-run -d 'Print the units, and do nothing'
complete -c engram -n "__engram_at 'daemon logs'" -s n -l lines -x -d 'The last N lines'
complete -c engram -n "__engram_at 'daemon logs'" -s f -l follow -d 'Go on with what comes'
