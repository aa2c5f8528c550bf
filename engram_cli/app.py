"""The tree of commands: the only declaration of every verb and option. What they do is in `commands/`."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from engramd.protocol.messages import GRANTS, KINDS
from engramd.protocol.unit import RELATIONSHIPS, TYPES

from . import settings
from .common import Common, filters

SHARED = {
    "json": Annotated[bool, typer.Option("--json", help="Print one JSON object per line.", rich_help_panel="Everywhere")],
    "color": Annotated[
        str, typer.Option("--color", metavar="WHEN", help="auto, always or never. NO_COLOR counts too.", rich_help_panel="Everywhere")
    ],
    "socket": Annotated[
        str | None,
        typer.Option(
            "--socket",
            metavar="WHERE",
            help="The daemon's socket, or tcp://HOST:PORT or tls://HOST:PORT [ENGRAM_SOCKET].",
            rich_help_panel="Everywhere",
        ),
    ],
    "token_file": Annotated[
        str | None,
        typer.Option(
            "--token-file",
            metavar="F",
            help="A file with the token to show [ENGRAM_TOKEN_FILE, ENGRAM_TOKEN].",
            rich_help_panel="Everywhere",
        ),
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
    "token_file": None,
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
consumer_app = typer.Typer(
    name="consumer", help="Consumers: readers whose place the daemon keeps.", no_args_is_help=True, rich_markup_mode=None
)
token_app = typer.Typer(name="token", help="Tokens: who may connect, and what they may do.", no_args_is_help=True, rich_markup_mode=None)
GROUPS = {"context": context_app, "consumer": consumer_app, "daemon": daemon_app, "token": token_app}
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
            settings.verbose, settings.token_file = picked.pop("verbose"), picked.pop("token_file")
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
To = Annotated[str | None, typer.Option("--to", metavar="AGENT", help="Only units that are for this agent (label to); me stands for you.")]
RelatedTo = Annotated[str | None, typer.Option("--related-to", metavar="ID", help="Only units with a relationship to this one.")]


@leaf(
    app,
    "put",
    ("Put a message", "engram put work 'tests pass'"),
    ("Put a result, with a label", "engram put work '3 failed' --type tool_result --meta suite=unit"),
    ("Answer unit 2", "engram put work 'fixed' --reply-to 2"),
    ("Note a change of a file", "engram put work 'fixed' --type file_change --meta path=parser.py"),
    ("Put something for one agent", "engram put work 'ready?' --meta to=planner"),
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
    fence: Annotated[
        list[str] | None,
        typer.Option(
            "--fence", metavar="PATH:TOKEN", help="Fail (exit 3) unless this token's lease is held and covers the path. May be repeated."
        ),
    ] = None,
    release: Annotated[bool, typer.Option("--release", help="Release the leases of --fence in the same write.")] = False,
) -> None:
    """Append a unit to a context and print its id. It is on disk when this returns."""
    from .commands import put as command

    command.run(common, context, text, file, type, meta, rel, reply_to, dedupe, expect_seq, fence, release)


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
    "redact",
    ("Erase a unit that has a password in it", "engram redact 5 --reason 'a password'"),
)
def redact(
    common: Common,
    ids: Ids,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why. It is kept, and shown in the unit's place.")],
) -> None:
    """Erase units' payloads and labels for good, from every file of the store and from search.

    That the unit was there stays: its id, seq, time, context, agent, type and relationships. When this returns, no file of the store
    has the bytes any more.
    """
    from .commands import redact as command

    command.run(common, ids, reason)


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
    to: To = None,
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", min=1, max=MOST, help="At most N units.")] = None,
    reverse: Annotated[bool, typer.Option("--reverse", help="Newest first.")] = False,
) -> None:
    """List the units of a context, oldest first. For the next page: --after the last line's seq."""
    from .commands import list as command

    command.run(common, context, limit, reverse, filters(common, agent, type, meta, since, until, after, related_to, to))


@leaf(
    app,
    "tail",
    ("Follow a context", "engram tail -f work"),
    ("Follow all contexts, from ten minutes ago on", "engram tail -f --since 10m"),
    ("Go on where a reader stopped, at seq 4", "engram tail -f work --after 4"),
    ("Read what is for one agent", "engram tail -f --to planner"),
    ("Print every event of the log so far", "engram tail --events --json --after 0"),
    ("Print how the last contexts came to be", "engram tail --kind context_created --json"),
    ("Take part in a consumer, as one of several", "engram tail -f work --consumer reviews"),
    ("Print what this consumer has not had yet", "engram tail work --consumer mine"),
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
    to: To = None,
    events: Annotated[bool, typer.Option("--events", help="Every event of the log, not only the units.")] = False,
    kind: Annotated[
        list[str] | None,
        typer.Option("--kind", metavar="KIND", help=f"Only events of this kind. May be repeated. Kinds: {', '.join(KINDS)}."),
    ] = None,
    consumer: Annotated[
        str | None,
        typer.Option(
            "--consumer",
            metavar="CONSUMER",
            help="Only what no other member of this consumer gets; the daemon keeps its place.",
        ),
    ] = None,
    ack: Annotated[
        str | None,
        typer.Option("--ack", metavar="MODE", help="When a unit is done: auto, once it is printed [auto], or manual, by consumer ack."),
    ] = None,
    prefetch: Annotated[
        int | None,
        typer.Option("--prefetch", metavar="N", min=1, max=MOST, help="Units to have at a time that are not done [64; manual: 1]."),
    ] = None,
) -> None:
    """Print the last units of contexts, and with -f what follows. A daemon that restarts is waited for; nothing is missed or repeated.

    With --consumer, print each unit that no other member of the consumer gets. It counts as done once it is printed; until then it may come
    again, here or elsewhere.
    """
    from .commands import tail as command

    wanted = filters(common, agent, type, meta, since, until, after, related_to, to)
    if consumer is None:
        command.run(common, contexts or [], number, follow, events, kind, wanted, ack, prefetch)
    else:
        command.consume(common, consumer, contexts or [], number, follow, events, kind, wanted, ack, prefetch)


@leaf(
    app,
    "ask",
    ("Ask another agent, and wait a minute at most", "engram ask work 'Is it safe to merge?' --to reviewer --timeout 1m"),
)
def ask(
    common: Common,
    context: ContextArg,
    text: Annotated[str, typer.Argument(metavar="TEXT|-", help="The question; - reads standard input. After -- it is literal.")],
    to: Annotated[str, typer.Option("--to", metavar="AGENT", help="Who is asked.")],
    type: Annotated[str, typer.Option("--type", metavar="TYPE", help=f"What kind of unit it is. One of {', '.join(TYPES)}.")] = "message",
    meta: Meta = None,
) -> None:
    """Put a question to an agent, wait for the first unit that responds to it, and print that as get does.

    The question is a unit with the label to. Who is asked finds it with engram tail -f --to me, and answers with engram put --reply-to ID.
    With --timeout, exit 124 says that no answer came in time; the question stands, and its answer can be looked for later. A daemon that
    restarts meanwhile is waited for.
    """
    from .commands import ask as command

    command.run(common, context, text, to, type, meta)


@leaf(
    app,
    "related",
    ("See what a unit leads to, and what leads to it", "engram related 2"),
    ("See all that came of it, for a script", "engram related 2 --direction in --depth 10 --json"),
)
def related(
    common: Common,
    id: Annotated[str, typer.Argument(metavar="ID", help="The unit's id or seq.")],
    direction: Annotated[
        str,
        typer.Option("--direction", metavar="DIRECTION", help="out: edges that a unit has; in: edges that lead to it; or both."),
    ] = "both",
    type: Annotated[
        list[str] | None,
        typer.Option(
            "--type", metavar="RELATIONSHIP", help=f"Only edges of this type. May be repeated. Types: {', '.join(RELATIONSHIPS)}."
        ),
    ] = None,
    depth: Annotated[int, typer.Option("--depth", metavar="N", min=1, max=MOST, help="At most N edges away.")] = 1,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=1000, help="At most N units.")] = 100,
) -> None:
    """Walk relationships from a unit, nearest first. Each unit is shown once, with its distance and the edge that led there.

    In a pipe: distance, direction and type of the edge, then the unit as list shows it.
    """
    from .commands import related as command

    command.run(common, id, direction, type, depth, limit)


@leaf(
    app,
    "why",
    ("See why a file is as it is", "engram why parser.py"),
    ("See its last change only, for a script", "engram why parser.py --limit 1 --json"),
)
def why(
    common: Common,
    path: Annotated[str, typer.Argument(metavar="PATH", help="The file; it need not exist any more.")],
    depth: Annotated[int, typer.Option("--depth", metavar="N", min=0, max=1000, help="Follow what led to a change N edges far.")] = 8,
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", min=1, max=MOST, help="At most N changes.")] = None,
) -> None:
    """List the changes of a file, newest first: the file_change units whose label path names it, in any context.

    Under each stand the leases it was made under, and what led to it (causes, responds_to, depends_on). A unit's path may be absolute, or
    relative to where you stand or a directory above.
    """
    from .commands import why as command

    command.run(common, path, depth, limit)


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
        str | None, typer.Option("--mode", metavar="SEARCH", help="hybrid (words and meaning), keyword or semantic [hybrid].")
    ] = None,
    agent: ByAgent = None,
    type: ByType = None,
    meta: ByMeta = None,
    since: Since = None,
    until: Until = None,
    related_to: RelatedTo = None,
    to: To = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=MOST, help="At most N hits.")] = 20,
    after: Annotated[str | None, typer.Option("--after", metavar="CURSOR", help="Behind this hit: its cursor, from --json.")] = None,
    min_score: Annotated[
        float | None, typer.Option("--min-score", metavar="S", min=0, max=1, help="Only hits with at least this score, from 0 to 1.")
    ] = None,
) -> None:
    """Find the units that fit a query best, each with its score and the part of its text that shows why. No hit is exit code 1."""
    from .commands import search as command

    command.run(
        common, query, context or [], mode, limit, min_score, filters(common, agent, type, meta, since, until, after, related_to, to)
    )


@leaf(
    app,
    "pack",
    ("Assemble what matters for the next step, in 8000 tokens", "engram pack work --budget 8000"),
    ("Have what fits a question in it, too", "engram pack work --budget 8000 --query 'why did two fail'"),
    ("See why each unit is in or out", "engram pack work --budget 500 --explain"),
    ("See what is new since a pack at seq 4", "engram pack work --budget 8000 --diff 4"),
    ("Write down what was shown, to make it again later", "engram pack work --budget 8000 --record > prompt.md"),
)
def pack(
    common: Common,
    contexts: Annotated[
        list[str] | None,
        typer.Argument(metavar="CONTEXT", help="The contexts; . stands for $ENGRAM_CONTEXT. With --verify, where to look."),
    ] = None,
    budget: Annotated[int | None, typer.Option("--budget", metavar="N", min=1, max=MOST, help="The largest size of the whole.")] = None,
    unit: Annotated[str | None, typer.Option("--unit", metavar="SIZE", help="What N counts: tokens, chars or bytes [tokens].")] = None,
    counter: Annotated[
        str | None,
        typer.Option("--counter", metavar="COUNTER", help="What counts tokens: estimate, or tokenizer, the daemon's own [estimate]."),
    ] = None,
    query: Annotated[str | None, typer.Option("--query", metavar="TEXT", help="Words; what fits them best goes in, too.")] = None,
    policy: Annotated[
        str | None,
        typer.Option("--policy", metavar="POLICY", help="default, errors-first, or a file (X.toml, or with a slash) [default]."),
    ] = None,
    at: Annotated[str | None, typer.Option("--at", metavar="SEQ", help="As the log stood at this seq or cursor [its end].")] = None,
    format: Annotated[str | None, typer.Option("--format", metavar="FORMAT", help="md, json or xml [md].")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Print why each unit is in or out, instead of the pack.")] = False,
    diff: Annotated[
        str | None, typer.Option("--diff", metavar="SEQ", help="Print only what a reader of the same pack at this seq has not seen.")
    ] = None,
    record: Annotated[bool, typer.Option("--record", help="Put the manifest into the first context, for --verify.")] = False,
    manifest: Annotated[str | None, typer.Option("--manifest", metavar="F", help="Write the manifest to a file, too.")] = None,
    verify: Annotated[
        str | None,
        typer.Option("--verify", metavar="HASH", help="Make a recorded pack again, and say whether it is identical (else exit 1)."),
    ] = None,
) -> None:
    """Assemble units for a prompt: the pinned ones, the recent ones, what relates to those, what a query finds. Never over the budget.

    The same log up to a seq, options and policy give the same bytes, at any later time. With --json, print the manifest instead: what went
    in, why, what was left out, and the hash by which the pack is known.
    """
    from .commands import pack as command

    given = {"unit": unit, "counter": counter, "query": query, "at": at, "since": diff, "format": format, "explain": explain or None}
    if verify is None:
        command.run(common, contexts or [], budget, given, policy, record, manifest)
    else:
        command.verify(
            common, contexts or [], verify, {**given, "budget": budget, "policy": policy, "record": record, "manifest": manifest}
        )


@leaf(
    app,
    "agents",
    ("List everyone", "engram agents"),
    ("List a context's members", "engram agents work"),
)
def agents(
    common: Common, context: Annotated[str | None, typer.Argument(metavar="CONTEXT", help="Only this context's members.")] = None
) -> None:
    """List the agents: who is there and since when, who has been, what they have locked.

    Present is who follows (tail -f), pipes, or is connected by a program that says so.
    """
    from .commands import agents as command

    command.run(common, context)


@leaf(app, "status", ("Print the facts for a script", "engram status --json"))
def status(common: Common) -> None:
    """Describe the daemon. Never starts one."""
    from .commands import status as command

    command.run(common)


@leaf(
    app,
    "metrics",
    ("Have them scraped from a file", "engram metrics > engram.prom"),
    ("Look at one of them", "engram metrics | grep engram_requests"),
)
def metrics(common: Common) -> None:
    """Print what the daemon has counted and timed since its start, as Prometheus reads it. Never starts one."""
    from .commands import metrics as command

    command.run(common)


@leaf(app, "top", ("Take one look, for a script", "engram top --json"))
def top(common: Common) -> None:
    """Watch contexts, rates, subscribers and their lag, locks, waiters and agents, live. Never starts a daemon.

    Keys: r, n, u and t sort by rate, name, units and time; q quits. Elsewhere than on a terminal it prints what there is once, a line each,
    starting with the name of its section.
    """
    from .commands import top as command

    command.run(common)


Paths = Annotated[list[str], typer.Argument(metavar="PATH", help="Paths, globs with *, ** and ?, or abstract @names.")]
PathsIfAny = Annotated[list[str] | None, typer.Argument(metavar="PATH", help="Paths, globs with *, ** and ?, or abstract @names.")]


@leaf(
    app,
    "lock",
    ("Run a command under a lock", "engram lock payload -- cat payload"),
    ("Wait for it, half a minute at most", "engram lock src docs --wait --timeout 30s -- date"),
    ("Be one of three at a time", "engram lock @deploy --slots 3 --wait -- date"),
    ("Take it for five minutes, and say what for", "engram lock src --ttl 5m --reason refactoring"),
)
def lock(
    common: Common,
    paths: Paths,
    ttl: Annotated[str | None, typer.Option("--ttl", metavar="T", help="How long it lasts unless renewed: 60s, 5m.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for it, in order; --timeout bounds the wait (exit 75).")] = False,
    shared: Annotated[bool, typer.Option("--shared", help="Share it with others who do.")] = False,
    slots: Annotated[int | None, typer.Option("--slots", metavar="N", min=1, max=MOST, help="Be one of at most N holders.")] = None,
    session: Annotated[
        bool, typer.Option("--session", help="Hold it as long as the session [ENGRAM_SESSION] lasts, without renewals.")
    ] = False,
    reason: Annotated[str | None, typer.Option("--reason", metavar="TEXT", help="What for; told to whoever it keeps waiting.")] = None,
    busy_code: Annotated[
        int | None, typer.Option("-E", metavar="CODE", min=0, max=MOST, help="Exit with this rather than 75 when it cannot be had.")
    ] = None,
    grace: Annotated[
        str | None,
        typer.Option("--grace", metavar="T", help="With a command: how long before the lock's end it is told to end, 5s or less."),
    ] = None,
) -> None:
    """Lock paths, all or none, and print the token; or run a command under the lock.

    A lock on a path keeps others from what is beneath it and above it too. Without --wait, one that is held is exit 75 at once.

    Alone, the lock lasts for its time, a minute by default, unless it is renewed or released with the token.

    A command after -- runs with the token as ENGRAM_LOCK_TOKEN, and the exit code is its own. The lock is renewed while it runs and
    released when it ends. If the lock is lost, all of the command's process group is ended before another can have it, and the exit
    code is 75.
    """
    from .commands import lock as command

    command.run(common, paths, ttl, wait, shared, slots, session, reason, busy_code, grace)


@leaf(
    app,
    "unlock",
    ("Take a path away from whoever holds it", "engram unlock --force src/app.rs"),
    ("Release a lock that was taken before", 'token=$(engram lock tests) && engram unlock "$token"'),
)
def unlock(
    common: Common,
    tokens: Annotated[list[str], typer.Argument(metavar="TOKEN", help="Tokens of locks; with --force also paths.")],
    force: Annotated[bool, typer.Option("--force", help="Take locks away from whoever holds them, and say from whom.")] = False,
) -> None:
    """Release locks. One that was over already is exit 3: others may have held it meanwhile."""
    from .commands import unlock as command

    command.run(common, tokens, force)


@leaf(app, "renew", ("Go on for as long again", 'token=$(engram lock tests) && engram renew "$token"'))
def renew(common: Common, token: Annotated[str, typer.Argument(metavar="TOKEN", help="The token of a lock.")]) -> None:
    """Have a lock last its full time from now on, and print when it ends. One that is over is exit 3."""
    from .commands import renew as command

    command.run(common, token)


@leaf(app, "locks", ("See who holds what, and who waits", "engram locks"), ("See what is in the way of a file", "engram locks src/app.rs"))
def locks(common: Common, paths: PathsIfAny = None) -> None:
    """List the locks that are held, by token, then those who wait, in order.

    In a pipe: state, token, mode, holder, age, remaining time, paths and reason, with tabs between them.
    """
    from .commands import locks as command

    command.run(common, paths or [])


@leaf(
    app,
    "guard",
    ("Look before you edit", "engram guard src/app.rs && vi src/app.rs"),
    ("Look before a commit, in .git/hooks/pre-commit", "engram guard --staged"),
)
def guard(
    common: Common,
    paths: PathsIfAny = None,
    staged: Annotated[bool, typer.Option("--staged", help="The files that git is about to commit.")] = False,
) -> None:
    """Exit 75 when another holds a lock on any of the paths, and say who, since when, why, and what they did last.

    A lock is yours by $ENGRAM_LOCK_TOKEN, by its session, or by the agent where neither has a session. Shared ones of others count too.
    """
    from .commands import guard as command

    command.run(common, paths or [], staged)


@leaf(
    app,
    "pipe",
    ("Ask for one thing", 'echo \'{"id": 1, "op": "get", "ids": [2]}\' | engram pipe'),
    ("See what may be asked, and what comes back", "engram pipe --schema > schema.json"),
)
def pipe(
    common: Common,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of all lines, and do nothing else.")] = False,
) -> None:
    """Speak JSON lines: requests on stdin, answers and stream items on stdout, over one connection.

    A daemon that restarts is waited for: streams go on without a gap or a repeat, and what can do no harm is asked again.

    {"id": 1, "op": "put", "context": "c", "text": "hi"} is answered by {"id": 1, "ok": true, "result": {...}}.
    """
    from .commands import pipe as command

    command.run(common, schema)


@leaf(app, "mcp", ("Serve the tools to an agent called builder", "engram mcp --as builder"))
def mcp(
    common: Common,
    max_bytes: Annotated[
        int, typer.Option("--max-bytes", metavar="N", min=1024, max=16_777_216, help="The most bytes of text in one answer.")
    ] = 50_000,
) -> None:
    """Serve the operations as tools of the Model Context Protocol, on stdin and stdout.

    A program that runs an agent starts this. It needs the mcp package: pip install 'engram[mcp]'. $ENGRAM_CONTEXT is the context that is
    meant where a tool is given none.
    """
    from .commands import mcp as command

    command.run(common, max_bytes)


@leaf(
    app,
    "run",
    ("Run an agent under a name, and keep what it prints", "engram run --agent builder --context work -- date"),
    ("Run one that speaks JSON lines", "engram run --stdio jsonl -- cat payload"),
)
def run(
    common: Common,
    command: Annotated[list[str] | None, typer.Argument(metavar="-- COMMAND", help="The command and its arguments, after --.")] = None,
    context: Annotated[
        str | None, typer.Option("--context", metavar="CONTEXT", help="Where its output goes [ENGRAM_CONTEXT, else runs].")
    ] = None,
    agent: Annotated[str | None, typer.Option("--agent", metavar="AGENT", help="Who it is [ENGRAM_AGENT, else your user name].")] = None,
    stdio: Annotated[
        str, typer.Option("--stdio", metavar="FORM", help="text, or jsonl: each JSON line of its output is a unit, by its type.")
    ] = "text",
) -> None:
    """Run an agent with an identity, a session and presence, and record what it prints, which is passed on unchanged.

    ENGRAM_AGENT, ENGRAM_CONTEXT, ENGRAM_SESSION and ENGRAM_SOCKET are set for it: what it puts and locks is its own, and locks taken with
    --session end with it. On a terminal it has one; else its output goes through pipes. Its start, its end and its output are units, in
    chunks of up to 64 KiB or 0.2 s. Signals and its exit code are passed on.

    It runs whether or not a daemon takes the output. What was not recorded is told at the end, when a daemon was waited for in vain for
    --timeout [5s].
    """
    from .commands import run as of_run

    of_run.run(common, command or [], context, agent, stdio)


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


BackupArg = Annotated[str, typer.Argument(metavar="DIR", help="The backup's directory.")]
DataDir = Annotated[str | None, typer.Option("--data-dir", metavar="DIR", help="The data directory [ENGRAM_DATA_DIR].")]


@leaf(
    app,
    "backup",
    ("Back up, and later add what has come since", "engram backup ~/backups/engram"),
    ("Back up, and read it all once more", "engram backup ~/backups/engram --check"),
    ("Look whether a backup is sound", "engram backup ~/backups/engram --check-only"),
)
def backup(
    common: Common,
    directory: BackupArg,
    verify: Annotated[bool, typer.Option("--check", help="Read the backup whole afterwards, every event of it.")] = False,
    verify_only: Annotated[
        bool, typer.Option("--check-only", help="Read the backup whole, and back nothing up. No daemon is asked.")
    ] = False,
) -> None:
    """Keep the log in a directory, while the daemon goes on. Repeated, it adds what has come since.

    Interrupted, it holds the log up to some point; repeated, it goes on from there. A directory that has anything else in it, or the
    backup of another log, is refused.
    """
    from .commands import backup as command

    if verify_only:
        command.run_verify(common, directory)
    else:
        command.run(common, directory, verify)


@leaf(
    app,
    "restore",
    ("Make the store from a backup", "engram restore ~/backups/engram"),
    ("Make another one, to look at", "engram restore ~/backups/engram --data-dir ~/look"),
)
def restore(common: Common, directory: BackupArg, data_dir: DataDir = None) -> None:
    """Make a store from a backup, where there is none: no daemon may run. Every event has its seq again.

    It is a new history: cursors from before are refused, and all locks have ended. A backup that is damaged or incomplete is refused, and
    leaves nothing.
    """
    from .commands import restore as command

    command.run(common, directory, data_dir)


CODINGS = "jsonl: one JSON object a line; cbor: a CBOR sequence (RFC 8742)"


@leaf(
    app,
    "export",
    ("Export everything", "engram export > units.jsonl"),
    ("Export the errors of a context, in CBOR", "engram export work --type error --format cbor > errors.cbor"),
)
def export(
    common: Common,
    contexts: Annotated[list[str] | None, typer.Argument(metavar="CONTEXT", help="The contexts; none means all.")] = None,
    agent: ByAgent = None,
    type: ByType = None,
    meta: ByMeta = None,
    since: Since = None,
    until: Until = None,
    after: After = None,
    related_to: RelatedTo = None,
    to: To = None,
    format: Annotated[str, typer.Option("--format", metavar="CODING", help=f"{CODINGS}.")] = "jsonl",
) -> None:
    """Print the units that are in contexts, in the order of the log, for engram import.

    Each unit is there once, with all its contexts and pins; contexts come first, with titles and labels. Locks, consumers, members and the
    history of contexts are left out: a backup has them.
    """
    from .commands import export as command

    command.run(common, contexts or [], format, filters(common, agent, type, meta, since, until, after, related_to, to))


@leaf(
    app,
    "import",
    ("Import what was exported", "engram import units.jsonl"),
    ("See first what it would do", "engram import units.jsonl --dry-run"),
    ("Import a CBOR sequence", "engram import - < errors.cbor"),
)
def import_(
    common: Common,
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="What was exported; - reads standard input.")],
    format: Annotated[str | None, typer.Option("--format", metavar="CODING", help=f"{CODINGS} [as it begins].")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and check everything, say what would be done, and do nothing.")] = False,
) -> None:
    """Put units that were exported. They keep their ids, and get new seqs and times; those that are there already are left as they are.

    So repeating it changes nothing. The first line that is wrong ends it: what was put until then is said, and stays. An id tells when its
    unit was first put.
    """
    from .commands import import_ as command

    command.run(common, file, format, dry_run)


@leaf(
    app,
    "doctor",
    ("Look whether all is well", "engram doctor"),
    ("Rebuild what is derived from the log", "engram daemon stop; engram doctor --repair"),
    ("Save what can be read of a damaged store", "engram doctor --salvage ~/saved"),
)
def doctor(
    common: Common,
    data_dir: DataDir = None,
    repair: Annotated[bool, typer.Option("--repair", help="Write anew what is derived from the log and wrong. No daemon may run.")] = False,
    salvage: Annotated[
        str | None, typer.Option("--salvage", metavar="OUT", help="Save what can be read as a backup in OUT. No daemon may run.")
    ] = None,
) -> None:
    """Check everything: socket, versions, units of systemd, search; the store's blocks, seqs, events, and all that is derived from them.

    A daemon that runs checks its store itself, while it goes on; else the store is opened here. No daemon is started. Exit code 0: all is
    well; 1: something is wrong.
    """
    from .commands import doctor as command

    command.run(common, data_dir, repair, salvage)


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


@leaf(
    context_app,
    "retain",
    ("Keep a month of a context, and at most a gigabyte", "engram context retain work --age 30d --bytes 1G"),
    ("Keep everything again", "engram context retain work --age none --bytes none"),
)
def context_retain(
    common: Common,
    context: ContextArg,
    age: Annotated[str | None, typer.Option("--age", metavar="T", help="Keep entries so long, such as 12h or 30d.")] = None,
    units: Annotated[str | None, typer.Option("--units", metavar="N", help="Keep the last N entries.")] = None,
    size: Annotated[
        str | None,
        typer.Option("--bytes", metavar="BYTES", help="Keep so many bytes of units: 64M, 1G; none takes a limit away."),
    ] = None,
) -> None:
    """Have a context keep no more than this. What is older is removed for good, in the background; pinned units stay.

    A limit that is not given stays as it is; none takes it away. A unit is removed when no context keeps it. engram context show says what
    is kept.
    """
    from .commands import context as command

    command.retain(common, context, age, units, size)


ConsumerArg = Annotated[str, typer.Argument(metavar="CONSUMER", help="The consumer.")]


@leaf(
    consumer_app,
    "create",
    ("Share out the errors of a context, from now on", "engram consumer create fixes work --type error --from now"),
    ("Keep the units of each agent in order", "engram consumer create digest --key agent"),
)
def consumer_create(
    common: Common,
    consumer: ConsumerArg,
    contexts: Annotated[list[str] | None, typer.Argument(metavar="CONTEXT", help="The contexts; none means all.")] = None,
    agent: ByAgent = None,
    type: ByType = None,
    meta: ByMeta = None,
    related_to: RelatedTo = None,
    to: To = None,
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="KEY", help="agent, or meta:K: units of one agent, or with one label K, one at a time, in order."),
    ] = None,
    visibility: Annotated[
        str | None, typer.Option("--visibility", metavar="T", help="How long a member may have a unit before another gets it [5m].")
    ] = None,
    deliveries: Annotated[
        int | None, typer.Option("--deliveries", metavar="N", min=1, max=MOST, help="Park a unit after so many deliveries [5].")
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", metavar="PLACE", help="Where to start: start, now, a cursor, a seq, or a time [start].")
    ] = None,
) -> None:
    """Create a consumer. (tail --consumer creates it too, with the defaults.)"""
    from .commands import consumer as command

    wanted = filters(common, agent, type, meta, None, None, None, related_to, to)
    command.create(common, consumer, contexts or [], wanted, key, visibility, deliveries, start)


@leaf(consumer_app, "list", ("List all consumers, for a script", "engram consumer list --json"))
def consumer_list(common: Common) -> None:
    """List the consumers: where they are, and how much they have before them."""
    from .commands import consumer as command

    command.list_(common)


@leaf(consumer_app, "show", ("Describe a consumer", "engram consumer show reviews"))
def consumer_show(common: Common, consumer: ConsumerArg) -> None:
    """Describe a consumer: settings, place, members, counts."""
    from .commands import consumer as command

    command.show(common, consumer)


Entries = Annotated[list[str], typer.Argument(metavar="ENTRY", help="Seqs, as tail prints them first, or cursors.")]
SomeEntries = Annotated[list[str] | None, typer.Argument(metavar="ENTRY", help="Their seqs or cursors; none means all.")]


@leaf(consumer_app, "ack", ("Say that the unit at seq 4 is done", "engram consumer ack digest 4"))
def consumer_ack(common: Common, consumer: ConsumerArg, entries: Entries) -> None:
    """Say that units are done: what tail --ack manual printed, or parked ones to give up."""
    from .commands import consumer as command

    command.ack(common, consumer, entries)


@leaf(consumer_app, "parked", ("List what was delivered too often", "engram consumer parked reviews"))
def consumer_parked(common: Common, consumer: ConsumerArg) -> None:
    """List the units that were delivered too often and are set aside."""
    from .commands import consumer as command

    command.parked(common, consumer)


@leaf(consumer_app, "retry", ("Deliver all parked units again", "engram consumer retry reviews"))
def consumer_retry(common: Common, consumer: ConsumerArg, entries: SomeEntries = None) -> None:
    """Deliver parked units again."""
    from .commands import consumer as command

    command.retry(common, consumer, entries or [])


@leaf(
    consumer_app,
    "reset",
    ("Skip everything up to now", "engram consumer reset reviews --to now"),
    ("Deliver the last hour again", "engram consumer reset reviews --to 1h"),
)
def consumer_reset(
    common: Common,
    consumer: ConsumerArg,
    to: Annotated[str, typer.Option("--to", metavar="PLACE", help="Where to go on: start, now, a cursor, a seq, or a time.")],
) -> None:
    """Have a consumer go on somewhere else. What its members have just now is delivered again."""
    from .commands import consumer as command

    command.reset(common, consumer, to)


@leaf(consumer_app, "delete", ("Forget a consumer", "engram consumer delete reviews"))
def consumer_delete(common: Common, consumer: ConsumerArg) -> None:
    """Forget a consumer: its place, and what it has parked. The streams of its members end."""
    from .commands import consumer as command

    command.delete(common, consumer)


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


@leaf(daemon_app, "install", ("Read first what it would install", "engram daemon install --dry-run"))
def daemon_install(
    common: Common, dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the units, and do nothing.")] = False
) -> None:
    """Have systemd keep the daemon, as a user service that the first connection starts.

    What ENGRAM_ variables say of the daemon now is written into the service. Run it again after an upgrade or a move.
    """
    from .commands import service as command

    command.install(common, dry_run)


@leaf(daemon_app, "uninstall", ("Take it from systemd again", "engram daemon uninstall"))
def daemon_uninstall(common: Common) -> None:
    """Stop the service and remove its units. What is stored stays."""
    from .commands import service as command

    command.uninstall(common)


@leaf(daemon_app, "logs", ("Look at what it said last", "engram daemon logs -n 20"))
def daemon_logs(
    common: Common,
    lines: Annotated[int, typer.Option("-n", "--lines", metavar="N", min=0, max=MOST, help="The last N lines.")] = 50,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with what comes.")] = False,
) -> None:
    """Show the daemon's own messages: the journal of the service, else the log file."""
    from .commands import service as command

    command.logs(common, lines, follow)


@leaf(daemon_app, "socket", ("Connect a client of your own", "socat - UNIX-CONNECT:$(engram daemon socket)"))
def daemon_socket(common: Common) -> None:
    """Print the path of the daemon's socket."""
    from .commands import daemon as command

    command.socket(common)


TokenArg = Annotated[str, typer.Argument(metavar="NAME", help="The token's name, as list shows it.")]


@leaf(
    token_app,
    "issue",
    ("Let an agent do what agents do", "engram token issue builder > builder.token"),
    ("Let one read some contexts, for a day", "engram token issue eve --may read --context 'a*' --expires 1d"),
    ("Let one lock beneath a directory only", "engram token issue fixer --path /home/me/project/src"),
)
def token_issue(
    common: Common,
    agent: Annotated[str, typer.Argument(metavar="AGENT", help="The agent that it is for.")],
    may: Annotated[
        list[str] | None,
        typer.Option("--may", metavar="RIGHT", help=f"What it allows: {', '.join(GRANTS)} [read, write and lock]. May be repeated."),
    ] = None,
    context: Annotated[
        list[str] | None, typer.Option("--context", metavar="GLOB", help="Only contexts whose names fit (* and ?). May be repeated.")
    ] = None,
    path: Annotated[
        list[str] | None,
        typer.Option("--path", metavar="PATH", help="Only locks on this path, glob or @name, and beneath. May be repeated."),
    ] = None,
    expires: Annotated[str, typer.Option("--expires", metavar="T", help="How long it lasts, such as 12h or 30d; never.")] = "90d",
    note: Annotated[str | None, typer.Option("--note", metavar="TEXT", help="What it is for, for the list.")] = None,
) -> None:
    """Issue a token and print it. It is shown this once; the daemon keeps a hash."""
    from .commands import token as command

    command.issue(common, agent, may or [], context or [], path or [], expires, note)


@leaf(token_app, "list", ("See what was issued", "engram token list"))
def token_list(common: Common) -> None:
    """List the tokens, without their secrets."""
    from .commands import token as command

    command.list_(common)


@leaf(token_app, "inspect", ("See what a token allows", "engram token inspect $(cut -c5-14 builder.token)"))
def token_inspect(common: Common, token: TokenArg) -> None:
    """Say what a token allows, and who uses it."""
    from .commands import token as command

    command.inspect(common, token)


@leaf(token_app, "revoke", ("End a token", "engram token revoke $(cut -c5-14 builder.token)"))
def token_revoke(common: Common, token: TokenArg) -> None:
    """End a token. Connections that were made with it end at once."""
    from .commands import token as command

    command.revoke(common, token)
