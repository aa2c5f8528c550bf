"""`man/`: a page for each command and group of commands, and one for the daemon."""

from __future__ import annotations

import argparse
from dataclasses import fields

from engramd import config
from engramd.protocol.errors import CODES

from .. import WITH_COMMAND
from ..app import COMMANDS, EXAMPLES, GROUPS, app
from .mdoc import Page, word
from .tree import Parameter, arguments, children, description, own_options, shared_options, summary

DATE = "November 22, 2026"  # when the pages last changed in more than what the tree says; not the day they are made

_EXITS = {0: "Success.", 1: "Failure, or absent.", 2: "Usage.", 3: "", 69: "No daemon.", 75: "Busy.", 77: "", 124: ""}
_SIGNALS = "A signal ended it: 130 is Ctrl-C, 141 that nobody reads its output any more."

_ENVIRONMENT = {
    "ENGRAM_CONTEXT": "The context that a single dot stands for.",
    "ENGRAM_AGENT": "Who acts, unless --as says otherwise.",
    "ENGRAM_SESSION": "The session that the agent is in.",
    "ENGRAM_LOCK_TOKEN": "The token of the lock that a command runs under; set by engram lock for the command.",
    "ENGRAM_SOCKET": "Path of the daemon's socket, or tcp://HOST:PORT or tls://HOST:PORT, unless --socket says otherwise.",
    "ENGRAM_TOKEN": "The token to show, unless --token-file names another.",
    "ENGRAM_TOKEN_FILE": "A file with the token to show.",
    "ENGRAM_CA_FILE": "Over tls://, a PEM file of the authority to trust; by default those of the system.",
    "ENGRAM_CERT_FILE": "Over tls://, a PEM file of the certificate to show, if the daemon asks for one.",
    "ENGRAM_KEY_FILE": "A PEM file of its key.",
    "ENGRAM_DAEMON_USER": "The user whose daemon may be talked to on a Unix socket, besides one's own.",
    "ENGRAM_DATA_DIR": "Directory of the log, for a daemon that a command starts.",
    "ENGRAM_CONFIG": "Path of the configuration file.",
    "NO_COLOR": "If not empty, no colors unless --color says otherwise.",
}
_FILES = {
    "~/.config/engram/config.toml": "Defaults: context and agent in the table [client], and the daemon's options.",
    "~/.local/share/engram": "The log. With XDG_DATA_HOME, it is in the directory engram there.",
    "$XDG_RUNTIME_DIR/engram/engramd.sock": "The daemon's socket. Without that variable: in /run/user/UID/engram or /tmp/engram-UID.",
}
_ENGRAM = """\
{help}
Each unit is on disk before the command that puts it returns, in one order for all readers.
A reader that comes back goes on where it was.

Units belong to contexts, which are created by the first put.
Wherever the id of a unit is asked for, its seq will do: its position in the log.

The work is done by engramd, a daemon.
The first command that needs it starts it, unless --no-autostart is given.

On a terminal, output is laid out for people.
In a pipe, a unit is one line: seq, time, agent, type and text with tabs between them, with escapes for control characters in the text.
With --json, it is one JSON object a line."""


def files() -> dict[str, str]:
    """The name and the text of each page."""
    pages = {"engram": _main(), "engramd": _daemon()}
    pages |= {_page_name(group): _group(group) for group in GROUPS}
    pages |= {_page_name(name): _command(name) for name in COMMANDS}
    return {f"{name}.1": str(page) for name, page in pages.items()}


def _page_name(command: str) -> str:
    return f"engram-{command.replace(' ', '-')}"


def _page(command: str) -> Page:
    about = summary(command)
    return Page(_page_name(command), about[0].lower() + about[1:], DATE)


def _main() -> Page:
    page = Page("engram", "one durable, ordered log for several agents", DATE)
    page.section("SYNOPSIS")
    page.macro(".Nm", ".Ar COMMAND", ".Op Ar OPTION ...", ".Op Ar ARGUMENT ...", ".Nm", ".Fl h | \\-help")
    page.section("DESCRIPTION")
    page.text(_ENGRAM.format(help=app.info.help))
    page.macro(".Pp")
    page.text("The commands are:")
    _list_commands(page, "")
    _shared(page, own=False)
    _ending(page, "", [EXAMPLES[name][0] for name in COMMANDS if " " not in name])
    return page


def _group(group: str) -> Page:
    page = _page(group)
    page.section("SYNOPSIS")
    page.macro(f".Nm engram {group}", ".Ar COMMAND", ".Op Ar OPTION ...", ".Op Ar ARGUMENT ...")
    page.section("DESCRIPTION")
    page.text(description(group))
    page.macro(".Pp")
    page.text("The commands are:")
    _list_commands(page, group)
    _shared(page, own=False)
    _ending(page, group, [EXAMPLES[name][0] for name in COMMANDS if name.startswith(f"{group} ")])
    return page


def _list_commands(page: Page, group: str) -> None:
    page.list((f"Xr {_page_name(f'{group} {name}'.strip())} 1", f"{about}.") for name, about in children(group).items())


def _command(name: str) -> Page:
    page = _page(name)
    page.section("SYNOPSIS")
    page.macro(f".Nm engram {name}", *(_optional(option) for option in own_options(name)), ".Op Ar OPTION ...")
    page.macro(*(_placed(argument) for argument in arguments(name)))
    if name in WITH_COMMAND and not any(argument.metavar.startswith("-- ") for argument in arguments(name)):
        page.macro(".Op \\-\\- Ar COMMAND Op Ar ARGUMENT ...")
    page.section("DESCRIPTION")
    page.text(description(name))
    explained = [(f"Ar {_called(argument)}", argument.help) for argument in arguments(name) if argument.help]
    if explained:
        page.macro(".Pp")
        page.text("The arguments are:")
        page.list(explained)
    page.section("OPTIONS")
    own = [(_option(option), _with_default(option)) for option in own_options(name)]
    if own:
        page.list(own)
        page.macro(".Pp")
    _shared(page, own=True)
    _ending(page, name, EXAMPLES[name])
    return page


def _shared(page: Page, own: bool) -> None:
    """The options that stand on every command, below a command's own or alone."""
    if not own:
        page.section("OPTIONS")
    page.text("These options stand on every command, anywhere after its name:")
    page.list((_option(option), _with_default(option)) for option in shared_options())


def _optional(option: Parameter) -> str:
    again = " ..." * option.many
    return f".Op {_option(option).replace(' , ', ' | ')}{again}"


def _placed(argument: Parameter) -> str:
    named = f"Ar {_called(argument)}{' ...' * argument.many}"
    return f".{named}" if argument.required else f".Op {named}"


def _option(option: Parameter) -> str:
    """An option's spellings and its value, as arguments of a macro."""
    spelled = " , ".join(f"Fl {word(spelling[1:])}" for spelling in sorted(option.options, key=len))
    return f"{spelled} Ar {_called(option)}" if option.metavar else spelled


def _called(parameter: Parameter) -> str:
    return " | ".join(word(part) for part in parameter.metavar.split("|"))


def _with_default(option: Parameter) -> str:
    shown = "" if option.required or option.default in (None, False) else f" The default is {option.default}."
    return f"{option.help}{shown}"


def _ending(page: Page, name: str, examples: list[tuple[str, str]] | tuple[tuple[str, str], ...]) -> None:
    """What every page of the command line ends with."""
    page.section("ENVIRONMENT")
    page.list((f"Ev {variable}", about) for variable, about in _ENVIRONMENT.items())
    page.section("FILES")
    page.list((f"Pa {word(path)}", about) for path, about in _FILES.items())
    _exit_status(page, tuple(_EXITS), _SIGNALS)
    page.section("EXAMPLES")
    page.examples(examples)
    page.section("SEE ALSO")
    _see_also(page, name)


def _exit_status(page: Page, codes: tuple[int, ...], signals: str = "") -> None:
    page.section("EXIT STATUS")
    items = [(str(code), _meaning(code)) for code in codes]
    page.list(items + [("128+n", signals)] * bool(signals))


def _meaning(code: int) -> str:
    reasons = [meaning for exit_code, meaning in CODES.values() if exit_code == code]
    return " ".join([_EXITS[code], *(f"{reason[0].upper()}{reason[1:]}." for reason in reasons)])


def _see_also(page: Page, name: str) -> None:
    """The command line, the group, what is beside the command in it, and the daemon; in the order of the alphabet."""
    group = name if name in GROUPS or not name else " ".join(name.split()[:-1])
    near = {_page_name(f"{group} {child}".strip()) for child in children(group)}
    near |= {_page_name(group)} if group else set()
    others = sorted({"engram", *near} - {_page_name(name) if name else "engram"})
    page.macro(*(f".Xr {other} 1 ," for other in others), ".Xr engramd 1")


def _daemon() -> Page:
    """engramd(1), from its parser and the declaration of its options."""
    parser = config.parser()
    page = Page("engramd", "the daemon of Engram", DATE)
    page.section("SYNOPSIS")
    page.macro(".Nm", *(f".Op {_flag(action)}" for action in parser._actions))
    page.section("DESCRIPTION")
    page.text(f"{parser.description}\n\n{parser.epilog}")
    page.section("OPTIONS")
    page.list((_flag(action), _about(action)) for action in parser._actions)
    page.section("ENVIRONMENT")
    page.list(_variables())
    page.section("FILES")
    page.list((f"Pa {word(path)}", about) for path, about in _FILES.items())
    page.macro(".Pp")
    page.text("A configuration file has these lines, each without the mark in front where it is wanted:")
    page.literal("\n".join(line for line in config.example().splitlines() if line and not line.startswith("# ")))
    _exit_status(page, (0, 1, 2, 75, 77))
    page.section("EXAMPLES")
    page.examples(_DAEMON_EXAMPLES)
    page.section("SEE ALSO")
    page.macro(".Xr engram 1 ,", ".Xr engram-daemon 1")
    return page


_DAEMON_EXAMPLES = (
    ("A log of its own, beside the usual one", "engramd --data-dir ./data --socket ./socket"),
    ("What it would do, and why", "engramd --check-config"),
)


def _flag(action: argparse.Action) -> str:
    spelled = " , ".join(f"Fl {word(spelling[1:])}" for spelling in action.option_strings)
    return f"{spelled} Ar {action.metavar}" if action.metavar else spelled


def _about(action: argparse.Action) -> str:
    for option in fields(config.Config):
        if option.name == action.dest:
            default = str(option.metadata["example"]).strip('"')
            return f"{option.metadata['doc']}" + (f" The default is {default}." if option.default is not None else "")
    text = action.help or ""
    return f"{text[0].upper()}{text[1:].rstrip('.')}."


def _variables() -> list[tuple[str, str]]:
    """The environment variables of the options, as `config` names them."""
    named = [f"ENGRAM_{option.name.upper()}" for option in fields(config.Config) if not option.metadata["flag_only"]]
    return [(f"Ev {name}", f"The option --{name[7:].lower().replace('_', '-')}.") for name in ("ENGRAM_CONFIG", *named)]
