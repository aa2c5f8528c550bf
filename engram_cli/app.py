"""The tree of commands: the only declaration of every verb and option. What they do is in `commands/`."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from engramd.protocol.unit import RELATIONSHIPS, TYPES

from . import settings
from .common import Common, filters

SHARED = {
    "json": Annotated[bool, typer.Option("--json", help="Print one JSON object per line.", rich_help_panel="Everywhere")],
    "color": Annotated[
        str, typer.Option("--color", metavar="WHEN", help="auto, always or never. NO_COLOR counts too.", rich_help_panel="Everywhere")
    ],
    "socket": Annotated[
        str | None, typer.Option("--socket", metavar="PATH", help="The daemon's socket [ENGRAM_SOCKET].", rich_help_panel="Everywhere")
    ],
    "agent_name": Annotated[
        str | None,
        typer.Option("--as", metavar="AGENT", help="Who acts [ENGRAM_AGENT]; else your user name.", rich_help_panel="Everywhere"),
    ],
    "timeout": Annotated[
        str | None,
        typer.Option("--timeout", metavar="T", help="Give up after so long, such as 5s or 2m (exit 124).", rich_help_panel="Everywhere"),
    ],
    "no_autostart": Annotated[
        bool, typer.Option("--no-autostart", help="Fail (exit 69) rather than start a daemon.", rich_help_panel="Everywhere")
    ],
    "verbose": Annotated[
        bool, typer.Option("--verbose", "-v", help="Say more about an error: its code and details.", rich_help_panel="Everywhere")
    ],
}
_DEFAULTS: dict[str, Any] = {
    "json": False,
    "color": "auto",
    "socket": None,
    "agent_name": None,
    "timeout": None,
    "no_autostart": False,
    "verbose": False,
}

app = typer.Typer(
    name="engram",
    help="One durable, ordered log for several agents: work units are captured once and streamed to all.",
    epilog="Exit codes: 0 ok, 1 failure or absent, 2 usage, 3 precondition failed, 69 no daemon, 75 busy, 77 denied, 124 timeout.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
context_app = typer.Typer(name="context", help="Contexts: named groups of units and agents.", no_args_is_help=True, rich_markup_mode=None)
daemon_app = typer.Typer(name="daemon", help="The daemon: start it, stop it, look at it.", no_args_is_help=True, rich_markup_mode=None)
GROUPS = {"context": context_app, "daemon": daemon_app}
for group_app in GROUPS.values():
    app.add_typer(group_app)

Examples = tuple[tuple[str, str], ...]
COMMANDS: dict[str, Callable[..., None]] = {}  # full name: the function as Typer sees it, whose signature declares the command
EXAMPLES: dict[str, Examples] = {}  # full name: what a line does, and the line


def leaf(group: typer.Typer, name: str, *examples: tuple[str, str]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command whose first parameter is a Common, with the shared options after its own.

    Args:
        examples: what a command line does in a word or two, and the line; for --help and the manual page.
    """

    def register(command: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(command).parameters.values())[1:]
        shared = [
            inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, default=_DEFAULTS[option], annotation=annotation)
            for option, annotation in SHARED.items()
        ]

        @functools.wraps(command)
        def call(**given: Any) -> None:
            picked = {option: given.pop(option) for option in SHARED}
            picked["agent"] = picked.pop("agent_name")
            settings.verbose = picked.pop("verbose")
            command(Common(**picked), **given)

        call.__signature__ = inspect.Signature([p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + shared)  # type: ignore[attr-defined]
        call.__annotations__ = {p.name: p.annotation for p in own} | dict(SHARED)
        full_name = name if group is app else f"{group.info.name} {name}"
        COMMANDS[full_name], EXAMPLES[full_name] = call, examples
        return group.command(name, epilog=_epilog(examples))(call)

    return register


def _epilog(examples: Examples) -> str:
    """Examples under a command's help, whose lines must not be filled."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for comment, example in examples for line in (f"# {comment}", example))])


MOST = 10**18 - 1  # of any number on the command line

ContextArg = Annotated[str, typer.Argument(metavar="CONTEXT", help="The context; . stands for $ENGRAM_CONTEXT.")]
Ids = Annotated[list[str], typer.Argument(metavar="ID", help="Ids or seqs of units.")]
Meta = Annotated[list[str] | None, typer.Option("--meta", metavar="K=V", help="A label. May be repeated.")]
DisplayName = Annotated[str | None, typer.Option("--display-name", metavar="TEXT", help="A title for people.")]

ByAgent = Annotated[list[str] | None, typer.Option("--agent", metavar="AGENT", help="Only units of this agent. May be repeated.")]
ByType = Annotated[
    list[str] | None,
    typer.Option("--type", metavar="TYPE", help=f"Only units of this type. May be repeated. Types: {', '.join(TYPES)}."),
]
ByMeta = Annotated[list[str] | None, typer.Option("--meta", metavar="K=V", help="Only units with this label. Repeated: with all of them.")]
Since = Annotated[
    str | None, typer.Option("--since", metavar="TIME", help="From this time on: 10m (ago), 14:30, 2026-01-31, 2026-01-31T14:30:00Z.")
]
Until = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Before this time.")]
After = Annotated[str | None, typer.Option("--after", metavar="CURSOR", help="Beyond this cursor or seq.")]
RelatedTo = Annotated[str | None, typer.Option("--related-to", metavar="ID", help="Only units with a relationship to this one.")]


@leaf(
    app,
    "put",
    ("Put a message", "engram put work 'tests pass'"),
    ("Put a result, with a label", "engram put work '3 failed' --type tool_result --meta suite=unit"),
    ("Answer unit 2", "engram put work 'fixed' --reply-to 2"),
    ("Put what a command prints", "date | engram put work - --type system"),
    ("Put once, however often it is tried", "engram put work 'deployed 1.4' --dedupe deploy-1.4"),
    ("Put only if nobody was here before", "engram put plan 'I take the parser' --expect-seq 0"),
)
def put(
    common: Common,
    context: ContextArg,
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT|-", help="The payload; - reads standard input. After -- it is literal.")
    ] = None,
    type: Annotated[str, typer.Option("--type", metavar="TYPE", help=f"What kind of unit it is. One of {', '.join(TYPES)}.")] = "message",
    meta: Meta = None,
    rel: Annotated[
        list[str] | None,
        typer.Option(
            "--rel", metavar="TYPE:ID", help=f"A relationship to an earlier unit. May be repeated. Types: {', '.join(RELATIONSHIPS)}."
        ),
    ] = None,
    reply_to: Annotated[str | None, typer.Option("--reply-to", metavar="ID", help="Short for --rel responds_to:ID.")] = None,
    file: Annotated[str | None, typer.Option("--file", metavar="F", help="Take the payload from a file, byte for byte.")] = None,
    dedupe: Annotated[
        str | None, typer.Option("--dedupe", metavar="KEY", help="If this key was put in the context before, answer with that unit.")
    ] = None,
    expect_seq: Annotated[
        int | None,
        typer.Option(
            "--expect-seq", metavar="N", min=0, max=MOST, help="Fail (exit 3) unless the context's last entry is N; 0 means none."
        ),
    ] = None,
) -> None:
    """Append a unit to a context and print its id. It is on disk when this returns."""
    from .commands import put as command

    command.run(common, context, text, file, type, meta, rel, reply_to, dedupe, expect_seq)


@leaf(
    app,
    "get",
    ("Save a payload, byte for byte", "engram get 2 > payload"),
    ("Print whole units", "engram get 2 3 --json"),
)
def get(common: Common, ids: Ids) -> None:
    """Print units' payloads, byte for byte like cat; with --json the whole units."""
    from .commands import get as command

    command.run(common, ids)


@leaf(
    app,
    "list",
    ("List everything, oldest first", "engram list work"),
    ("Find the newest error of the last hour", "engram list work --type error --since 1h --reverse --limit 1"),
    ("Find what leads to unit 2", "engram list work --related-to 2 --json"),
    ("Read the page behind seq 4", "engram list work --after 4 --limit 100"),
)
def list_(
    common: Common,
    context: ContextArg,
    agent: ByAgent = None,
    type: ByType = None,
    meta: ByMeta = None,
    since: Since = None,
    until: Until = None,
    after: After = None,
    related_to: RelatedTo = None,
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", min=1, max=MOST, help="At most N units.")] = None,
    reverse: Annotated[bool, typer.Option("--reverse", help="Newest first.")] = False,
) -> None:
    """List the units of a context, oldest first. For the next page: --after the last line's seq."""
    from .commands import list as command

    command.run(common, context, limit, reverse, filters(agent, type, meta, since, until, after, related_to))


@leaf(
    app,
    "tail",
    ("Follow a context", "engram tail -f work"),
    ("Follow all contexts, from ten minutes ago on", "engram tail -f --since 10m"),
    ("Go on where a reader stopped, at seq 4", "engram tail -f work --after 4"),
    ("Print every event of the log so far", "engram tail --events --json --after 0"),
)
def tail(
    common: Common,
    contexts: Annotated[list[str] | None, typer.Argument(metavar="CONTEXT", help="The contexts; none means all.")] = None,
    number: Annotated[
        int | None, typer.Option("-n", metavar="N", min=0, max=MOST, help="Start with the last N units [10, unless --since or --after].")
    ] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with new units as they become durable.")] = False,
    agent: ByAgent = None,
    type: ByType = None,
    meta: ByMeta = None,
    since: Since = None,
    until: Until = None,
    after: After = None,
    related_to: RelatedTo = None,
    events: Annotated[bool, typer.Option("--events", help="Every event of the log, not only the units.")] = False,
) -> None:
    """Print the last units of contexts, and with -f what follows. A daemon that restarts is waited for; nothing is missed or repeated."""
    from .commands import tail as command

    command.run(common, contexts or [], number, follow, events, filters(agent, type, meta, since, until, after, related_to))


@leaf(
    app,
    "search",
    ("Find what fits best, by words and meaning", "engram search 'why did two fail'"),
    ("Find by words alone, in one context", "engram search three --context work --mode keyword"),
    ("Find a phrase among errors, without a word", "engram search '\"two\" -draft type:error'"),
    ("Find what is surely meant, of the last hour", "engram search one --since 1h --min-score 0.4 --json"),
)
def search(
    common: Common,
    query: Annotated[
        str,
        typer.Argument(metavar="QUERY", help='Words, "phrases", -exclusions, and type:TYPE, agent:AGENT, meta:KEY=VALUE.'),
    ],
    context: Annotated[
        list[str] | None,
        typer.Option("--context", metavar="CONTEXT", help="Only units in this context; . stands for $ENGRAM_CONTEXT. May be repeated."),
    ] = None,
    mode: Annotated[
        str | None, typer.Option("--mode", metavar="MODE", help="hybrid (words and meaning), keyword or semantic [hybrid].")
    ] = None,
    agent: ByAgent = None,
    type: ByType = None,
    meta: ByMeta = None,
    since: Since = None,
    until: Until = None,
    related_to: RelatedTo = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=MOST, help="At most N hits.")] = 20,
    after: Annotated[str | None, typer.Option("--after", metavar="CURSOR", help="Behind this hit: its cursor, from --json.")] = None,
    min_score: Annotated[
        float | None, typer.Option("--min-score", metavar="S", min=0, max=1, help="Only hits with at least this score, from 0 to 1.")
    ] = None,
) -> None:
    """Find the units that fit a query best, each with its score and the part of its text that shows why. No hit is exit code 1."""
    from .commands import search as command

    command.run(common, query, context or [], mode, limit, min_score, filters(agent, type, meta, since, until, after, related_to))


@leaf(
    app,
    "agents",
    ("List everyone", "engram agents"),
    ("List a context's members", "engram agents work"),
)
def agents(
    common: Common, context: Annotated[str | None, typer.Argument(metavar="CONTEXT", help="Only this context's members.")] = None
) -> None:
    """List the agents that have put units."""
    from .commands import agents as command

    command.run(common, context)


@leaf(app, "status", ("Print the facts for a script", "engram status --json"))
def status(common: Common) -> None:
    """Describe the daemon. Never starts one."""
    from .commands import status as command

    command.run(common)


@leaf(app, "pipe", ("Ask for one thing", 'echo \'{"id": 1, "op": "get", "ids": [2]}\' | engram pipe'))
def pipe(common: Common) -> None:
    """Speak JSON lines: requests on stdin, answers and stream items on stdout, over one connection.

    {"id": 1, "op": "put", "context": "c", "text": "hi"} is answered by {"id": 1, "ok": true, "result": {...}}.
    """
    from .commands import pipe as command

    command.run(common)


@leaf(app, "help", ("Explain one command", "engram help context pin"))
def help_(
    common: Common,
    verb: Annotated[list[str] | None, typer.Argument(metavar="VERB", help="A command, such as put or context pin.")] = None,
) -> None:
    """Explain a command."""
    from .__main__ import tree

    tree([*(verb or ()), "--help"])


@leaf(app, "demo", ("Watch it work", "engram demo"))
def demo(common: Common) -> None:
    """Show the product in 15 seconds, in a temporary directory: two agents, a live tail, a reader that comes back."""
    from .commands import demo as command

    command.run(common)


@leaf(
    app,
    "completion",
    ("Load them in bash, from ~/.bashrc", "source <(engram completion bash)"),
    ("Load them in zsh, from ~/.zshrc, after compinit", "source <(engram completion zsh)"),
    ("Load them in fish, from ~/.config/fish/config.fish", "engram completion fish | source"),
)
def completion(common: Common, shell: Annotated[str, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")]) -> None:
    """Print a shell's completions. The examples load them, where no package put them in their place."""
    from .commands import completion as command

    command.run(common, shell)


@leaf(
    context_app,
    "create",
    ("Create a context with a title and a label", "engram context create review --display-name Review --meta team=a"),
)
def context_create(common: Common, context: ContextArg, display_name: DisplayName = None, meta: Meta = None) -> None:
    """Create a context. (A put creates it too.)"""
    from .commands import context as command

    command.create(common, context, display_name, meta)


@leaf(context_app, "show", ("Describe a context", "engram context show work"))
def context_show(common: Common, context: ContextArg) -> None:
    """Describe a context: title, labels, members, pins, counts."""
    from .commands import context as command

    command.show(common, context)


@leaf(context_app, "list", ("List all contexts, for a script", "engram context list --json"))
def context_list(common: Common) -> None:
    """List the contexts."""
    from .commands import context as command

    command.list_(common)


@leaf(context_app, "set", ("Change a title, and remove a label", "engram context set review --display-name Done --unset team"))
def context_set(
    common: Common,
    context: ContextArg,
    display_name: DisplayName = None,
    meta: Meta = None,
    unset: Annotated[list[str] | None, typer.Option("--unset", metavar="K", help="Remove a label. May be repeated.")] = None,
) -> None:
    """Change a context's title and labels."""
    from .commands import context as command

    command.set_(common, context, display_name, meta, unset)


AgentArg = Annotated[str | None, typer.Argument(metavar="AGENT", help="The agent; you unless said otherwise.")]


@leaf(
    context_app,
    "join",
    ("Join a context", "engram context join review"),
    ("Let another agent join", "engram context join work reviewer"),
)
def context_join(common: Common, context: ContextArg, agent: AgentArg = None) -> None:
    """Make an agent a member. (Putting a unit does it too.)"""
    from .commands import context as command

    command.member(common, context, agent, True)


@leaf(context_app, "leave", ("Let another agent leave", "engram context leave work reviewer"))
def context_leave(common: Common, context: ContextArg, agent: AgentArg = None) -> None:
    """End an agent's membership."""
    from .commands import context as command

    command.member(common, context, agent, False)


@leaf(context_app, "pin", ("Pin two units", "engram context pin work 2 3"))
def context_pin(common: Common, context: ContextArg, ids: Ids) -> None:
    """Pin units, so that packs start with them."""
    from .commands import context as command

    command.units(common, "pin", context, ids)


@leaf(context_app, "unpin", ("Unpin one of them", "engram context unpin work 3"))
def context_unpin(common: Common, context: ContextArg, ids: Ids) -> None:
    """Unpin units."""
    from .commands import context as command

    command.units(common, "unpin", context, ids)


@leaf(context_app, "add", ("Add units of another context", "engram context add review 2 3"))
def context_add(common: Common, context: ContextArg, ids: Ids) -> None:
    """Add units of other contexts; they arrive as new entries."""
    from .commands import context as command

    command.units(common, "add", context, ids)


@leaf(context_app, "remove", ("Remove one of them", "engram context remove review 2"))
def context_remove(common: Common, context: ContextArg, ids: Ids) -> None:
    """Remove units from a context; they stay in the log."""
    from .commands import context as command

    command.units(common, "remove", context, ids)


@leaf(
    daemon_app,
    "run",
    ("Run it here, with larger payloads and all that it logs", "engram daemon run -- --max-payload 4MiB --log-level debug"),
)
def daemon_run(
    common: Common,
    arguments: Annotated[list[str] | None, typer.Argument(metavar="-- OPTION", help="Options of engramd, after --.")] = None,
) -> None:
    """Run the daemon in the foreground."""
    from .commands import daemon as command

    command.run(common, arguments or [])


@leaf(daemon_app, "start", ("Start it in the background", "engram daemon start"))
def daemon_start(common: Common) -> None:
    """Start the daemon in the background, unless it runs. (Other commands do it when they need to.)"""
    from .commands import daemon as command

    command.start(common)


@leaf(daemon_app, "stop", ("Stop it, but wait two seconds at most", "engram daemon stop --timeout 2s"))
def daemon_stop(common: Common) -> None:
    """Stop the daemon after what is in flight; return when it is gone."""
    from .commands import daemon as command

    command.stop(common)


@leaf(daemon_app, "restart", ("Restart it, for a new version", "engram daemon restart"))
def daemon_restart(common: Common) -> None:
    """Stop the daemon and start it again. Readers with -f go on without a gap."""
    from .commands import daemon as command

    command.restart(common)


@leaf(daemon_app, "status", ("Ask whether it runs", "engram daemon status > /dev/null || echo 'no daemon'"))
def daemon_status(common: Common) -> None:
    """Say whether the daemon runs: exit 0 when it does, 69 when not."""
    from .commands import daemon as command

    command.status(common)


@leaf(daemon_app, "socket", ("Connect a client of your own", "socat - UNIX-CONNECT:$(engram daemon socket)"))
def daemon_socket(common: Common) -> None:
    """Print the path of the daemon's socket."""
    from .commands import daemon as command

    command.socket(common)
