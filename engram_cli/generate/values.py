"""Where the shells find the values of options and arguments."""

from __future__ import annotations

from engramd.protocol.messages import COUNTERS, DIRECTIONS, FORMATS, GRANTS, KINDS, NAMED, POLICIES, SEARCH_MODES, UNITS_OF_SIZE
from engramd.protocol.unit import RELATIONSHIPS, TYPES

from ..commands.export import CODINGS
from ..common import COLORS
from .tree import Parameter

SHELLS = ("bash", "zsh", "fish")

# What a value is called in the tree: the source of what may stand there. A name that is in neither of these is an error.
SOURCES = {
    "CONTEXT": "contexts",
    "AGENT": "agents",
    "CONSUMER": "consumers",
    "MODE": "acks",
    "FORM": "forms",
    "PLACE": "places",
    "TYPE": "types",
    "SEARCH": "modes",
    "KIND": "kinds",
    "DIRECTION": "directions",
    "RELATIONSHIP": "edges",
    "TYPE:ID": "relationships",
    "WHEN": "colors",
    "F": "files",
    "PATH": "files",
    "FILE|-": "files",
    "DIR": "files",
    "OUT": "files",
    "CODING": "codings",
    "WHERE": "files",
    "GLOB": "contexts",
    "RIGHT": "grants",
    "TOKEN": "locks",
    "SHELL": "shells",
    "VERB": "verbs",
    "SIZE": "sizes",
    "COUNTER": "counters",
    "FORMAT": "formats",
    "POLICY": "policies",
}
FREE = frozenset(
    {
        "TEXT",
        "TEXT|-",
        "K=V",
        "K",
        "ID",
        "KEY",
        "N",
        "T",
        "TIME",
        "CURSOR",
        "QUERY",
        "S",
        "CODE",
        "ENTRY",
        "PATH:TOKEN",
        "SEQ",
        "HASH",
        "-- OPTION",
        "-- COMMAND",
        "BYTES",
        "NAME",
    }
)

WORDS: dict[str, tuple[str, ...]] = {
    "types": TYPES,
    "kinds": KINDS,
    "directions": DIRECTIONS,
    "edges": RELATIONSHIPS,
    "relationships": tuple(f"{kind}:" for kind in RELATIONSHIPS),
    "modes": SEARCH_MODES,
    "colors": COLORS,
    "acks": ("auto", "manual"),
    "forms": ("text", "jsonl"),
    "places": ("start", "now"),
    "shells": SHELLS,
    "sizes": UNITS_OF_SIZE,
    "counters": COUNTERS,
    "formats": FORMATS,
    "policies": POLICIES,
    "codings": CODINGS,
    "grants": GRANTS,
}
NAMES = NAMED  # what `engram __complete` is asked for
ANYTHING = "-"


def source_of(parameter: Parameter) -> str:
    """Where a parameter's values come from; ANYTHING for a flag and where there is nothing to offer.

    Raises:
        KeyError: nobody has said yet what completes a value of that name.
    """
    return ANYTHING if parameter.metavar in FREE or not parameter.metavar else SOURCES[parameter.metavar]
