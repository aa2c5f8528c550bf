#!/bin/sh
# An agent in nothing but a shell: it runs what it is asked to count, and answers.
#
#     examples/shell_agent.sh CONTEXT [FILE]
#
#     engram ask work README.md --to counter        in another shell
#     engram ask work stop --to counter
#
# FILE remembers how far it has come, so that it goes on there when it is started anew.
set -eu
context=${1:?usage: shell_agent.sh CONTEXT [FILE]}
place=${2:-}
export ENGRAM_AGENT=counter

tab=$(printf '\t')
after=0
if [ -n "$place" ] && [ -s "$place" ]; then after=$(cat "$place"); fi

engram tail -f "$context" --to me --after "$after" | while IFS=$tab read -r seq _time agent _type text; do
    case $text in
        stop) answer='good bye' ;;
        *) answer=$(wc -l 2>/dev/null <"$text") || answer="I cannot read $text" ;;
    esac
    # The key keeps it from answering twice, should it be killed before it has noted its place.
    engram put "$context" "$answer" --reply-to "$seq" --dedupe "answer to $seq" >/dev/null
    if [ -n "$place" ]; then echo "$seq" >"$place"; fi
    echo "$agent: $text: $answer"
    if [ "$text" = stop ]; then break; fi
done
