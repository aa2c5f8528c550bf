# A prompt that shows how many units of $ENGRAM_CONTEXT you have not read. In ~/.bashrc or ~/.zshrc:
#
#     export ENGRAM_CONTEXT=work
#     . examples/hooks/prompt.sh
#
# `unread` prints them, and remembers up to where. The prompt waits for nobody: it shows what was counted in the background after the last one.

_engram_file=${XDG_STATE_HOME:-$HOME/.local/state}/engram
mkdir -p "$_engram_file"
_engram_file=$_engram_file/read-$(printf %s "${ENGRAM_CONTEXT:?}" | tr -c 'A-Za-z0-9.\n-' _)
[ -s "$_engram_file" ] || echo 0 >"$_engram_file"
ENGRAM_UNREAD=

_engram_look() {
    local seen= count=
    read -r count 2>/dev/null <"$_engram_file.count"
    ENGRAM_UNREAD=${count:+"($count unread) "}
    read -r seen <"$_engram_file"
    (_engram_count "$seen" </dev/null >/dev/null 2>&1 &)
}

_engram_count() {
    local count
    count=$(engram list . --after "$1" --limit 100 --no-autostart --timeout 5s | wc -l)
    case $((count)) in 0) count= ;; 100) count=100+ ;; *) count=$((count)) ;; esac
    echo "$count" >"$_engram_file.$$" && mv "$_engram_file.$$" "$_engram_file.count"
}

unread() {
    local seen lines tab newline
    tab=$(printf '\t')
    newline='
'
    read -r seen <"$_engram_file"
    lines=$(engram list . --after "$seen" --limit 100) || return
    echo >"$_engram_file.count"
    [ -n "$lines" ] || return 0
    printf '%s\n' "$lines"
    lines=${lines##*"$newline"}
    echo "${lines%%"$tab"*}" >"$_engram_file"
}

if [ -n "${ZSH_VERSION-}" ]; then
    setopt prompt_subst
    precmd_functions+=(_engram_look)
else
    PROMPT_COMMAND="_engram_look${PROMPT_COMMAND:+;$PROMPT_COMMAND}"
fi
case $PS1 in *ENGRAM_UNREAD*) ;; *) PS1='${ENGRAM_UNREAD}'$PS1 ;; esac
