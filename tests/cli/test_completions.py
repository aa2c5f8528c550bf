"""What a TAB offers, in the real shells, and `engram __complete`, which they ask for names."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import cbor2
import pytest
from commandline import PATIENCE, Shell

from engram_cli import generate
from engram_cli.app import COMMANDS
from engram_cli.generate import values
from engram_cli.generate.completions import SHELLS
from engram_cli.generate.tree import parameters
from engramd.protocol.unit import RELATIONSHIPS, TYPES

FILES = generate.ROOT / "completions"

# Whatever a name may hold. The first characters differ, so that one of them and a TAB give the name.
HOSTILE = (
    "a b:c",
    'it\'s "x"',
    "back\\slash",
    "*glob?[x]",
    "é ü",
    "#hash",
    "~tilde",
    "x=y",
    "me@host",
    "$HOME `id`",
    "(p)&;|<>",
    "{1,2}",
    "the end'",
    '""',
)
PLAIN = ("work", "worker")
AGENTS = ("al ice", "bob")
TOKEN = "1"


def needs(tool: str) -> pytest.MarkDecorator:
    """Skips a test where a program is not installed."""
    return pytest.mark.skipif(shutil.which(tool) is None, reason=f"{tool} is not installed")


@pytest.fixture(scope="module")
def named(shell: Shell) -> Shell:
    """Surroundings whose daemon knows names of every kind, with two files to complete."""
    client = shell.client(AGENTS[0])
    assert client.lock("@held", ttl=86400).token == int(TOKEN), "the first event of the log"
    for context in (*HOSTILE, *PLAIN, "-dash"):
        client.put(context, "x")
    shell.client(AGENTS[1]).put("work", "x")
    client.consumer_create("reviews")
    (shell.home / "some file").write_text("payload")
    (shell.home / "other.txt").write_text("payload")
    return shell


# The files


def test_what_is_made_is_current() -> None:
    assert list(generate.stale()) == [], "run: python -m engram_cli.generate"
    assert generate.main(["--check"]) == 0


def test_what_is_stale_is_named_and_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    assert generate.main(["--check"]) == 1
    assert not list(tmp_path.iterdir()), "--check only looks"
    assert generate.main([]) == 0
    changed, left = tmp_path / "completions" / "_engram", tmp_path / "man" / "engram-gone.1"
    changed.write_text("stale")
    left.write_text("a page of a command that there is no more")
    capsys.readouterr()
    assert generate.main(["--check"]) == 1
    assert capsys.readouterr().out == "completions/_engram is stale\nman/engram-gone.1 is stale\n"
    assert generate.main([]) == 0
    assert not left.exists()
    assert generate.main(["--check"]) == 0


def test_every_value_has_a_source_or_none() -> None:
    """A new kind of value must be given its completion, or said to have none."""
    called = {parameter.metavar for command in COMMANDS.values() for parameter in parameters(command)} - {""}
    assert called == set(values.SOURCES) | values.FREE
    assert not set(values.SOURCES) & values.FREE


# `engram __complete`


def test_names_are_printed_one_a_line(named: Shell) -> None:
    assert named.ok("__complete", "contexts", "").lines == sorted([*HOSTILE, *PLAIN, "-dash"], key=str.encode)
    assert named.ok("__complete", "contexts", "wor").lines == ["work", "worker"]
    assert named.ok("__complete", "contexts", "é").lines == ["é ü"]
    assert named.ok("__complete", "agents", "").lines == sorted(AGENTS)
    assert named.ok("__complete", "locks", "").lines == [TOKEN]
    assert named.ok("__complete", "consumers", "re").lines == ["reviews"]


@pytest.mark.parametrize(
    "arguments", [(), ("contexts",), ("cars", ""), ("", ""), ("contexts", b"\xff"), ("contexts", "w", "x"), ("--help",)]
)
def test_what_cannot_be_completed_is_nothing(named: Shell, arguments: tuple[str | bytes, ...]) -> None:
    assert named.ok("__complete", *arguments).raw == b""


def test_no_daemon_is_started_to_complete(alone: Shell) -> None:
    done = alone.ok("__complete", "contexts", "")
    assert done.raw == b""
    assert not alone.socket.exists()
    assert not alone.data.exists()


@pytest.mark.parametrize("config", ["[client]\nagent = 5\n", "client = 'agent", "socket = []"])
def test_a_configuration_that_is_broken_is_not_reported_at_a_tab(alone: Shell, config: str) -> None:
    (alone.home / "config.toml").write_text(config)
    changed = {
        "ENGRAM_CONFIG": str(alone.home / "config.toml"),
        "ENGRAM_SOCKET": "",
        "ENGRAM_AGENT": "",
        "XDG_RUNTIME_DIR": str(alone.home),
    }
    assert alone.ok("__complete", "contexts", "", env=changed).raw == b""


GREETING = {
    "version": [1, 0],
    "server": "a fake",
    "history": "0",
    "limits": {"max_payload": 1024, "max_frame": 4096, "max_units": 1000},
    "pid": 1,
}


class FakeDaemon:
    """Listens where a daemon would, and answers each request with what it is given; with nothing given, it never answers."""

    def __init__(self, path: Path, results: Sequence[dict[str, Any]]) -> None:
        self._results = results
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(PATIENCE)

    def _serve(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        with connection, connection.makefile("rwb") as stream:
            for result in self._results:
                request: dict[str, Any] = cbor2.loads(stream.read(int.from_bytes(stream.read(4), "big")))
                answer = cbor2.dumps({"id": request["id"], "ok": True, "result": result})
                stream.write(len(answer).to_bytes(4, "big") + answer)
                stream.flush()
            connection.recv(1)


def test_a_daemon_that_hangs_is_not_waited_for(alone: Shell) -> None:
    for results in ([], [GREETING]):
        alone.socket.unlink(missing_ok=True)
        with FakeDaemon(alone.socket, results):
            done = alone.ok("__complete", "contexts", "")
        assert done.raw == b""
        assert done.seconds < 5, "one second, and what a busy machine adds"


def test_names_that_no_daemon_can_have_are_never_printed(alone: Shell) -> None:
    names = ["good", "two\nlines", "\x1b[31mred", "bell\x07", "left\u202eright", "zero\u200bwidth", "fine é"]
    with FakeDaemon(alone.socket, [GREETING, {"names": names}]):
        assert alone.ok("__complete", "contexts", "").lines == ["good", "fine é"]


def test_typer_is_not_loaded_to_complete(named: Shell) -> None:
    program = (
        "import sys; sys.modules.update(typer=None, rich=None, cbor2=None, socket=None, json=None, re=None); import engram_cli.fast as f"
    )
    command = [sys.executable, "-c", f"{program}; f.main()", "__complete", "contexts", "worke"]
    done = subprocess.run(command, env=named.env, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("worker\n", "")


# `engram completion`


def test_completion_prints_the_file_of_each_shell(alone: Shell) -> None:
    for name, path in {"bash": "engram.bash", "zsh": "_engram", "fish": "engram.fish"}.items():
        assert alone.ok("completion", name).out == (FILES / path).read_text()
    assert not alone.data.exists(), "that takes no daemon"


def test_nothing_of_the_daemon_is_loaded_to_print_completions(alone: Shell) -> None:
    program = "import sys; from engram_cli.generate.completions import SHELLS; SHELLS['bash'](); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], env=alone.env, capture_output=True, text=True, check=True)
    daemon = {"engramd.config", "engramd.daemon", "engramd.service", "engramd.storage", "engramd.state", "trio"}
    assert not daemon & set(done.stdout.split())


def test_another_shell_is_a_usage_error_that_names_the_three(alone: Shell) -> None:
    said = alone.fails(2, "completion", "tcsh")
    assert "tcsh" in said
    assert all(name in said for name in SHELLS)
    assert len(said.splitlines()) == 1
    alone.fails(2, "completion")


def test_its_help_says_how_to_load_it(alone: Shell) -> None:
    said = alone.ok("completion", "--help").out
    for line in ("source <(engram completion bash)", "source <(engram completion zsh)", "engram completion fish | source"):
        assert line in said.splitlines() or f"    {line}" in said.splitlines()


@pytest.mark.parametrize(
    ("tool", "script", "printed"),
    [
        ("bash", "source <(engram completion bash); complete -p engram", "complete -F _engram engram"),
        ("zsh", "autoload -Uz compinit; compinit -D; source <(engram completion zsh); print $_comps[engram]", "_engram"),
        ("fish", "engram completion fish | source; complete -C 'engram demo --js'", "--json\tPrint one JSON object per line"),
    ],
)
def test_each_shell_loads_what_is_printed(alone: Shell, tool: str, script: str, printed: str) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    clean = {"bash": "--norc", "zsh": "-f", "fish": "--no-config"}[tool]
    done = subprocess.run([tool, clean, "-c", script], env=alone.env, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.stdout.strip(), done.stderr) == (printed, "")


# What every shell must offer: a line, and the words. Names of contexts and agents are in CONTEXTS and AGENTS.

OPTIONS_OF_ALL = {"--json", "--color", "--socket", "--as", "--timeout", "--no-autostart", "--verbose", "--help", "--token-file"}
OFFERED: dict[str, set[str]] = {
    "engram co": {"completion", "consumer", "context"},
    "engram context s": {"set", "show"},
    "engram daemon sto": {"stop"},
    "engram help con": {"consumer", "context"},
    "engram help context un": {"unpin"},
    "engram help daemon s": {"start", "stop", "status", "socket"},
    "engram completion ": set(SHELLS),
    "engram list work --r": {"--related-to", "--reverse"},
    "engram list --t": {"--timeout", "--to", "--token-file", "--type"},
    "engram put work --type tool": {"tool_call", "tool_result"},
    "engram put work --type ": set(TYPES),
    "engram put work hi --rel ": {f"{kind}:" for kind in RELATIONSHIPS},
    "engram status --color a": {"auto", "always"},
    "engram status --": OPTIONS_OF_ALL,
    "engram context pin work --a": {"--as"},
    "engram put wor": set(PLAIN),
    "engram put --meta x=y --json wor": set(PLAIN),
    "engram list --agent nobody wor": set(PLAIN),
    "engram tail -f work wor": set(PLAIN),
    "engram tail -fn 5 wor": set(PLAIN),
    "engram list work --agent ": set(AGENTS),
    "engram list work --as b": {"bob"},
    "engram context join work ": set(AGENTS),
    "engram agents wor": set(PLAIN),
    "engram lo": {"lock", "locks"},
    "engram unlock ": {TOKEN},
    "engram unlock --force 9 ": {TOKEN},
    "engram renew --as bob ": {TOKEN},
    "engram consumer show re": {"reviews"},
}
# Where a line ends in `=`, the shells differ in what they show, so only what they make of a line with one answer is compared.
COMPLETED: dict[str, str] = {
    "engram pu": "engram put ",
    "engram daemon rest": "engram daemon restart ",
    "engram list worke": "engram list worker ",
    "engram list --rev": "engram list --reverse ",
    "engram list worker --type=mess": "engram list worker --type=message ",
    "engram list worker --agent=bo": "engram list worker --agent=bob ",
    "engram put worker hi --rel dep": "engram put worker hi --rel depends_on:",
    "engram put worker hi --rel=dep": "engram put worker hi --rel=depends_on:",
    "engram put worker --file oth": "engram put worker --file other.txt ",
    "engram put worker --file=oth": "engram put worker --file=other.txt ",
    "engram put worker --file so": "engram put worker --file some\\ file ",
    "engram put worker --file some\\ file worke": "engram put worker --file some\\ file worke",
    "engram list --socket oth": "engram list --socket other.txt ",
    "engram lock oth": "engram lock other.txt ",
    "engram lock -E 9 other.txt oth": "engram lock -E 9 other.txt other.txt ",
    "engram guard --sta": "engram guard --staged ",
    "engram list -- worke": "engram list -- worker ",
    "engram list work worke": "engram list work worke",
    "engram get worke": "engram get worke",
    "engram put work worke": "engram put work worke",
    "engram put worker --meta worke": "engram put worker --meta worke",
    "engram nonsense --js": "engram nonsense --js",
}
GIVEN = "engram list --json --type error --agent bob --reverse --"
"""A line with options: those that may be repeated stay on offer, and those that may not need not."""


# bash

_BASH_DRIVER = r"""
source "$1"; shift
while (($# > 0)); do
    COMP_LINE=$1 COMP_POINT=${#1} COMP_WORDS=()
    IFS=' ' read -r -a COMP_WORDS <<<"$1"
    [[ $1 != *' ' ]] || COMP_WORDS+=('')
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    _engram engram "${1##*[ :=]}" "${COMP_WORDS[COMP_CWORD - 1]}"
    ((${#COMPREPLY[@]} == 0)) || printf '%s\n' "${COMPREPLY[@]}"
    printf '\0'
    shift
done
"""
BASH = shutil.which("bash") or ""
LEFT = "\x1b[D"  # the key that moves the cursor


def bash_replies(shell: Shell, lines: Sequence[str], before: str = "", **env: str) -> list[list[str]]:
    """What the function replies at the end of each line, called as bash would call it."""
    command = [BASH, "--norc", "-c", before + _BASH_DRIVER, "bash", str(FILES / "engram.bash"), *lines]
    done = subprocess.run(command, env={**shell.env, **env}, cwd=shell.home, capture_output=True, timeout=PATIENCE, check=False)
    assert done.stderr == b""
    return [reply.splitlines() for reply in done.stdout.decode().split("\0")[:-1]]


def arguments_of(shell: str, lines: Sequence[str]) -> list[list[str]]:
    """What a shell makes of command lines: their words."""
    script = r"""show() { printf '%s\n' "$@"; printf '\0'; }; for line; do eval "show $line"; done"""
    clean = {"bash": "--norc", "zsh": "-f"}[shell]
    done = subprocess.run([shell, clean, "-c", script, shell, *lines], capture_output=True, text=True, timeout=PATIENCE, check=True)
    return [words.splitlines() for words in done.stdout.split("\0")[:-1]]


def test_bash_replies_with_what_fits(named: Shell) -> None:
    found = bash_replies(named, list(OFFERED))
    assert [{reply.replace("\\ ", " ") for reply in replies} for replies in found] == list(OFFERED.values())


def test_bash_offers_again_what_may_be_repeated(named: Shell) -> None:
    [replies, short, long] = bash_replies(named, [GIVEN, "engram tail -f --fol", "engram tail --follow -"])
    assert {"--agent", "--type", "--meta", "--color", "--limit"} <= set(replies)
    assert not {"--json", "--reverse"} & set(replies)
    assert len(set(replies)) == len(replies)
    assert (short, "-f" in long, "-n" in long) == ([], False, True), "two spellings are one option"


@pytest.mark.parametrize("before", ["set -u\n", "IFS=:x\n", "shopt -s nullglob failglob\n", "shopt -u extglob\n", "set -o noclobber -f\n"])
def test_what_the_user_has_set_in_bash_does_no_harm(named: Shell, before: str) -> None:
    lines = ["engram co", "engram list --reverse --rel", "engram put wor", "engram status ", "engram tail --type=mes", "engram get "]
    assert bash_replies(named, lines, before) == bash_replies(named, lines)


def test_bash_starts_no_process_for_words_that_are_known(named: Shell) -> None:
    code = re.sub(r"(?m)^ *#.*$", "", (FILES / "engram.bash").read_text())
    assert re.findall(r"\$\((?!\()|(?<!\\)`(?!\))|<\(.*", code) == ['<("$program" __complete "$1" "${word:${#head}}" 2>/dev/null)'], (
        "builtins alone"
    )
    lines = ["engram list work --type error --agent bob --re"] * 100
    began = time.monotonic()
    assert bash_replies(named, lines, PATH="/nonexistent") == [["--related-to", "--reverse"]] * 100
    assert time.monotonic() - began < 100 * 0.02, "one takes about a millisecond"


def test_bash_asks_the_engram_that_is_typed(named: Shell) -> None:
    program = shutil.which("engram", path=named.env["PATH"])
    assert program is not None
    driver = _BASH_DRIVER.replace("_engram engram", f"_engram {program}")
    command = [BASH, "--norc", "-c", driver, "bash", str(FILES / "engram.bash"), f"{program} list worke"]
    done = subprocess.run(command, env={**named.env, "PATH": "/nonexistent"}, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert done.stdout == "worker\n\0"


class Terminal:
    """An interactive bash in a terminal of its own, without the package bash-completion."""

    def __init__(self, shell: Shell) -> None:
        self._fd, theirs = pty.openpty()
        env = {**shell.env, "TERM": "dumb", "INPUTRC": "/dev/null", "PS1": "", "HISTFILE": ""}
        command = [BASH, "--noprofile", "--norc", "-i"]
        self._process = subprocess.Popen(
            command, env=env, cwd=shell.home, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
        os.close(theirs)
        # A key that says what stands on the line, and empties it.
        self._say(rf"""source {FILES}/engram.bash; show() {{ printf 'AT<%s>END\n' "$READLINE_LINE"; READLINE_LINE=; }}""" + "\n")
        self._say("""bind -x '"\\C-xb": show'; bind 'set bell-style none'; bind 'set enable-bracketed-paste off'; echo REA''DY\n""")
        self._hear(rb"READY")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._fd)

    def _say(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def _hear(self, wanted: bytes) -> bytes:
        heard, deadline = b"", time.monotonic() + PATIENCE
        while (found := re.search(wanted, heard, re.DOTALL)) is None:
            ready = select.select([self._fd], [], [], max(0.0, deadline - time.monotonic()))[0]
            assert ready, f"waited for {wanted!r}; got {heard!r}"
            heard += os.read(self._fd, 65536)
        return found[found.lastindex or 0]

    def tab(self, line: str) -> str:
        """Type a line and a TAB; returns what stands there then."""
        self._say(f"{line}\t\x18b")
        return self._hear(rb"AT<(.*?)>END").decode()


@pytest.fixture(scope="module")
def terminal(named: Shell) -> Iterator[Terminal]:
    """A bash in which to press TAB."""
    with Terminal(named) as made:
        yield made


def quoted_starts(name: str) -> dict[str, str]:
    """The first character of a name, as it can be typed: bare, and in either quotes."""
    first = name[0]
    return {
        "bare": first if first.isalpha() else f"\\{first}",
        "single": f"'{first}",
        "double": '"' + (f"\\{first}" if first in '$`"\\' else first),
    }


@pytest.mark.parametrize("quotes", ["bare", "single", "double"])
def test_bash_completes_any_name_at_a_tab(terminal: Terminal, quotes: str) -> None:
    lines = [terminal.tab(f"engram list {quoted_starts(name)[quotes]}") for name in HOSTILE]
    assert [words[-1] for words in arguments_of("bash", lines)] == list(HOSTILE), lines
    assert all(line.endswith(" ") for line in lines)


def test_bash_goes_on_behind_a_colon_and_a_space(terminal: Terminal) -> None:
    for line in ("engram list a\\ b:", "engram list 'a b:", 'engram list "a b":', "engram list 'a b':", "engram list a\\ b\\:"):
        assert arguments_of("bash", [terminal.tab(line)]) == [["engram", "list", "a b:c"]], line
    for line in ("engram list --agent=al\\ ", "engram list --agent 'al i", 'engram list --agent "al ', "engram list --agent='al "):
        assert arguments_of("bash", [terminal.tab(line)])[0][-1].removeprefix("--agent=") == "al ice", line


def test_bash_completes_lines_at_a_tab(terminal: Terminal) -> None:
    assert {line: terminal.tab(line) for line in COMPLETED} == COMPLETED
    assert terminal.tab("engram list worker > oth") == "engram list worker > other.txt "
    assert terminal.tab("true; X=1 engram list worke") == "true; X=1 engram list worker "
    assert terminal.tab("engram list -da") == "engram list -da"
    assert terminal.tab("engram list -- -da") == "engram list -- -dash "
    assert terminal.tab(f"engram list worke --reverse{LEFT * 10}") == "engram list worker --reverse"
    assert terminal.tab("engram put worker --file some\\ file --reply") == "engram put worker --file some\\ file --reply-to "


# zsh

_ZSH_DRIVER = r"""
zmodload zsh/zpty
zpty -b shell "zsh -f -i"
heard=
hear() { local text; heard=; while [[ $heard != *$1* ]]; do zpty -r -t shell text && heard+=$text || sleep 0.005; done }
zpty -w shell "PROMPT= RPROMPT=; unset zle_bracketed_paste; stty -echo cols 150; fpath=(${(q)1} \$fpath)"
zpty -w shell 'autoload -Uz compinit; compinit -D -u; zstyle ":completion:*" verbose no'
zpty -w shell 'show() { zle -I; print -r -- "AT<$BUFFER>END"; BUFFER= }; zle -N show; bindkey -e; bindkey "^Xb" show'
zpty -w shell 'setopt no_list_beep no_beep no_auto_menu no_list_ambiguous; print REA""DY'
hear READY
shift
for line; do
  zpty -w -n shell "$line"$'\t\C-xb'
  hear '>END'
  print -rn -- "$heard"$'\0'
done
zpty -d shell
"""


def zsh_tabs(shell: Shell, lines: Sequence[str]) -> list[tuple[set[str], str]]:
    """Type lines and a TAB each in an interactive zsh; returns the words it lists, and what stands on the line then."""
    env = {**shell.env, "TERM": "dumb"}
    command = ["zsh", "-f", "-c", _ZSH_DRIVER, "zsh", str(FILES), *lines]
    done = subprocess.run(command, env=env, cwd=shell.home, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert done.stderr == ""
    found = []
    for heard in done.stdout.replace("\r", "").split("\0")[:-1]:
        shown, _, line = heard.rpartition("AT<")
        listed = [row for row in shown.splitlines()[1:] if not row.startswith("engram ")]
        found.append(({word for row in listed for word in re.split(r" {2,}", row.strip()) if word}, line.split(">END")[0]))
    return found


@needs("zsh")
def test_zsh_lists_what_fits(named: Shell) -> None:
    found = {}
    for line, (listed, after) in zip(OFFERED, zsh_tabs(named, list(OFFERED)), strict=True):
        words = listed or {arguments_of("zsh", [after])[0][-1]}
        found[line] = {word.replace("\\ ", " ") for word in words}
    assert found == OFFERED


@needs("zsh")
def test_zsh_offers_again_what_may_be_repeated(named: Shell) -> None:
    [(listed, _)] = zsh_tabs(named, [GIVEN])
    assert {"--agent", "--type", "--meta", "--color", "--limit"} <= listed
    assert not {"--json", "--reverse"} & listed


@needs("zsh")
def test_zsh_completes_any_name_at_a_tab(named: Shell) -> None:
    starts = [quoted_starts(name)[quotes] for name in HOSTILE for quotes in ("bare", "single", "double")]
    lines = [after for _, after in zsh_tabs(named, [f"engram list {start}" for start in starts])]
    assert [words[-1] for words in arguments_of("zsh", lines)] == [name for name in HOSTILE for _ in range(3)], lines
    assert all(line.endswith(" ") for line in lines)


@needs("zsh")
def test_zsh_completes_lines_at_a_tab(named: Shell) -> None:
    more = {
        "engram list -da": "engram list -da",
        "engram list -- -da": "engram list -- -dash ",
        "engram list a\\ b:": "engram list a\\ b:c ",
    }
    lines = {**COMPLETED, **more}
    assert dict(zip(lines, (after for _, after in zsh_tabs(named, list(lines))), strict=True)) == lines


# fish

_FISH_DRIVER = r"""
source $argv[1]
for line in $argv[2..-1]
    complete -C $line
    printf '\0'
end
"""


def fish_offers(shell: Shell, lines: Sequence[str], driver: str = _FISH_DRIVER) -> list[dict[str, str]]:
    """What fish offers at the end of each line, with its descriptions."""
    command = ["fish", "--no-config", "-c", driver, str(FILES / "engram.fish"), *lines]
    done = subprocess.run(command, env=shell.env, cwd=shell.home, capture_output=True, timeout=PATIENCE, check=False)
    assert done.stderr == b""
    offers = [offer.splitlines() for offer in done.stdout.decode().split("\0")[:-1]]
    return [{line.partition("\t")[0]: line.partition("\t")[2] for line in offer} for offer in offers]


@needs("fish")
def test_fish_offers_what_fits(named: Shell) -> None:
    assert dict(zip(OFFERED, (set(offer) for offer in fish_offers(named, list(OFFERED))), strict=True)) == OFFERED


@needs("fish")
def test_fish_describes_verbs_and_options(named: Shell) -> None:
    verbs, options, names = fish_offers(named, ["engram d", "engram tail --foll", "engram put "])
    assert verbs["daemon"] == "The daemon: start it, stop it, look at it"
    assert options == {"--follow": "Go on with new units as they become durable"}
    assert set(names) == {*HOSTILE, *PLAIN}


@needs("fish")
def test_fish_offers_files_and_what_may_be_repeated(named: Shell) -> None:
    given, files, inside, nothing, dash = fish_offers(
        named, [GIVEN, "engram put worker --file so", "engram put worker --file=oth", "engram put worker some", "engram list -- -d"]
    )
    assert {"--agent", "--type", "--meta"} <= set(given)
    assert (set(files), set(inside), set(nothing), set(dash)) == ({"some file"}, {"--file=other.txt"}, set(), {"-dash"})


@needs("fish")
def test_fish_completes_any_name(named: Shell) -> None:
    quoted = [quoted_starts(name)[quotes] for name in HOSTILE for quotes in ("bare", "single", "double")]
    more = [f"{start}glob" if start.endswith("*") else start for start in quoted]  # a star alone means something to fish, even quoted
    assert [set(offer) for offer in fish_offers(named, [f"engram list {start}" for start in more])] == [
        {name} for name in HOSTILE for _ in range(3)
    ]
