"""The manual pages, and the examples that they and `--help` show."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator

import pytest
import typer
from commandline import PATIENCE, Shell

from engram_cli import fast, generate
from engram_cli.__main__ import _literal
from engram_cli.app import COMMANDS, EXAMPLES, GROUPS, app
from engram_cli.generate import man
from engram_cli.generate.tree import own_options, shared_options
from engramd import config

PAGES = generate.ROOT / "man"
NAMES = sorted(path.stem for path in PAGES.glob("*.1"))
SECTIONS = ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "ENVIRONMENT", "FILES", "EXIT STATUS", "EXAMPLES", "SEE ALSO"]
EXITS = ["0", "1", "2", "3", "69", "75", "77", "124", "128+n"]


def needs(tool: str) -> pytest.MarkDecorator:
    """Skips a test where a program is not installed."""
    return pytest.mark.skipif(shutil.which(tool) is None, reason=f"{tool} is not installed")


def page(name: str) -> str:
    """The source of a page."""
    return (PAGES / f"{name}.1").read_text()


def page_of(command: str) -> str:
    """The name of a command's page."""
    return f"engram-{command.replace(' ', '-')}"


# The pages


def test_every_command_group_and_program_has_a_page() -> None:
    assert sorted(["engram", "engramd", *map(page_of, COMMANDS), *map(page_of, GROUPS)]) == NAMES
    assert {PAGES / name: text for name, text in man.files().items()} == {path: path.read_text() for path in PAGES.glob("*")}


@needs("mandoc")
def test_mandoc_has_nothing_to_say() -> None:
    command = ["mandoc", "-T", "lint", "-W", "all", *(f"{name}.1" for name in NAMES)]
    done = subprocess.run(command, cwd=PAGES, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


@needs("man")
def test_man_has_no_warnings() -> None:
    command = ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", *(f"{PAGES}/{name}.1" for name in NAMES)]
    env = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "MANROFFSEQ": "", "MANWIDTH": "80"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.stdout
    assert (done.stderr, done.returncode) == ("", 0)


@needs("mandoc")
def test_no_line_is_wider_than_a_terminal() -> None:
    for name in NAMES:
        command = ["mandoc", "-T", "ascii", "-O", "width=78", f"{PAGES}/{name}.1"]
        shown = re.sub(".\b", "", subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout)
        assert max(map(len, shown.splitlines())) <= 80, name


@pytest.mark.parametrize("name", NAMES)
def test_a_page_has_every_section_and_a_date_that_stays(name: str) -> None:
    text = page(name)
    assert re.findall(r"^\.Sh (.*)$", text, re.MULTILINE) == SECTIONS
    assert f".Dd {man.DATE}\n.Dt {name.upper()} 1\n" in text
    assert f".Sh NAME\n.Nm {name}\n.Nd " in text


def test_every_page_that_is_referred_to_exists_and_every_page_is_referred_to() -> None:
    referred = {name: set(re.findall(r"^\.(?:It )?Xr (\S+) 1", page(name), re.MULTILINE)) for name in NAMES}
    assert set().union(*referred.values()) == set(NAMES)
    assert [name for name, others in referred.items() if name in others] == []


def section(name: str, title: str) -> str:
    """A section of a page."""
    return page(name).split(f".Sh {title}\n")[1].split("\n.Sh ")[0]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_page_has_each_option_of_its_command(command: str) -> None:
    shown = re.findall(r"^\.It (Fl .*)$", section(page_of(command), "OPTIONS"), re.MULTILINE)
    spelled = [set(re.findall(r"Fl (\S+)", item.replace("\\&", "").replace("\\-", "-"))) for item in shown]
    assert spelled == [{option[1:] for option in parameter.options} for parameter in (*own_options(command), *shared_options())]


@pytest.mark.parametrize("name", sorted({*NAMES} - {"engramd"}))
def test_a_page_has_each_exit_status(name: str) -> None:
    assert re.findall(r"^\.It (.*)$", section(name, "EXIT STATUS"), re.MULTILINE) == EXITS


def test_the_daemons_page_has_each_of_its_options_and_variables() -> None:
    options = section("engramd", "OPTIONS")
    for action in config.parser()._actions:
        for option in action.option_strings:
            assert f"Fl {option[1:]}".replace("-", r"\-") in options.replace("\\&", "")
    variables = re.findall(r"^\.It Ev (.*)$", section("engramd", "ENVIRONMENT"), re.MULTILINE)
    known = set(re.findall(r"environment (ENGRAM_\w+)", config.example())) | {"ENGRAM_CONFIG"}
    assert set(variables) == known


def test_what_is_typed_is_written_so_that_it_can_be_copied() -> None:
    for command, examples in EXAMPLES.items():
        for _, line in examples:
            escaped = f"$ {line}".replace("-", r"\-").replace("'", r"\(aq").replace("~", r"\(ti")
            assert f".Bd -literal -offset indent\n{escaped}\n.Ed\n" in page(page_of(command))


# Examples


def lines() -> Iterator[tuple[str, str]]:
    """Every example: the command it belongs to, and the line."""
    for name, examples in EXAMPLES.items():
        for _, line in examples:
            yield name, line


def calls(line: str) -> list[list[str]]:
    """The commands of a line of the shell, without redirections."""
    found: list[list[str]] = [[]]
    tokens = iter(list(shlex.shlex(line, posix=True, punctuation_chars=True)))
    for token in tokens:
        if set(token) <= set("<>") and token:
            next(tokens)
        elif set(token) <= set("();<>|&") and token:
            found.append([])
        else:
            found[-1].append(token)
    return [words for words in found if words]


def parses(words: list[str]) -> bool:
    """Whether a command line of `engram` is understood; nothing is carried out. Raises what Typer does for one that is not."""
    if fast.read(words) is not None:
        return True
    command = typer.main.get_command(app)
    rest = list(_literal(words))
    while rest and rest[0] in getattr(command, "commands", {}):
        command = command.commands[rest.pop(0)]  # type: ignore[attr-defined]
    command.make_context("engram", rest)
    return not getattr(command, "commands", {})


def test_every_command_has_an_example_of_its_own() -> None:
    assert EXAMPLES.keys() == COMMANDS.keys()
    for name, examples in EXAMPLES.items():
        assert examples, name
        for comment, line in examples:
            assert comment[0].isupper()
            assert not comment.endswith(".")
            assert len(line) <= 65, f"{line} is too wide for a page"
            assert any(words[: 1 + len(name.split())] == ["engram", *name.split()] for words in calls(line)), line


@pytest.mark.parametrize(("name", "line"), list(lines()))
def test_an_example_is_a_line_that_is_understood(name: str, line: str) -> None:
    ours = [words[1:] for words in calls(line) if words[0] == "engram"]
    assert ours
    assert all(parses(words) for words in ours)


def test_a_line_that_is_wrong_would_be_noticed() -> None:
    assert not parses(["nonsense"])
    for words in (["put"], ["list", "c", "--nonsense"], ["context", "pin", "c"]):
        with pytest.raises(Exception, match=r"Missing|No such"):
            parses(words)


def test_help_shows_the_examples(alone: Shell) -> None:
    for name in ("put", "context set", "daemon run"):
        said = alone.ok(*name.split(), "--help").lines
        for comment, line in EXAMPLES[name]:
            assert f"    # {comment}" in said
            assert f"    {line}" in said


WITHOUT_END = 1.5  # seconds for a command that goes on: enough to print what there is, on a busy machine too
ELSEWHERE = ("demo", "daemon run", "completion", "ask", "guard", "restore")  # tried by other tests: they last, or belong elsewhere
# Commands that say something on stderr when all is well.
WITH_WORDS = ("daemon", "pack", "lock", "unlock", "renew", "consumer", "backup", "import", "doctor", "token")
# And that have nothing to print.
QUIET = ("daemon", "mcp", "context", "consumer", "unlock", "locks", "redact", "backup", "import", "doctor", "token")


def test_every_example_does_what_it_says(alone: Shell) -> None:
    """Every line in its turn, in one store with a few units, and a daemon that the first line has started."""
    alone.script("for word in one two three four; do engram put work $word --type error; done")
    assert alone.ok("list", "work").seqs == [2, 3, 4, 5]
    for name, line in lines():
        if name in ELSEWHERE or ("socat" in line and shutil.which("socat") is None):
            continue
        endless = " -f" in line
        done = alone.script(line.replace("engram tail -f", f"timeout -s INT {WITHOUT_END} engram tail -f"))
        assert done.code == (124 if endless else 0), f"{line}: exit {done.code}, {done.err}"
        if name.split()[0] not in WITH_WORDS:
            assert done.err == "", line
        assert done.out or name.split()[0] in QUIET or ">" in line, line
    assert (alone.home / "payload").read_text() == "one"
