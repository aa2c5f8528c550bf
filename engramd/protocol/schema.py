"""Types of wire values: each checks a value, and prints itself as CDDL (RFC 8610) and, for `engram pipe`, as JSON Schema (draft 2020-12).

Operations are declared with these in `messages`, so that validation and the documented schemas cannot disagree. In JSON a request is as
`pipe` reads it, and what comes back as it prints it: bytes and instants have another form there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ..shapes import NamedTuple
from .errors import EngramError
from .render import TIMES
from .resources import MAX_BYTES, problem

JSON = dict[str, Any]  # a JSON Schema
NO_BOUND = 2**32 - 1  # of what only answers hold


class Type(Protocol):
    """What a value must be."""

    def check(self, value: object, name: str) -> None:
        """Return if `value` fits, else raise EngramError("invalid") that starts with `name`."""

    def cddl(self) -> str:
        """The type as a CDDL expression."""

    def json(self, shown: bool) -> JSON:
        """The type as JSON Schema: of a value that is `shown`, else of one that is asked with. What no JSON can say is an empty enum."""


def invalid(name: str, problem: str) -> EngramError:
    """The error for a bad value; `field` in the details names it."""
    return EngramError("invalid", f"{name}: {problem}", field=name)


def beyond(name: str, size: int, most: int, unit: str) -> EngramError:
    """The error for a value that is more than `most`."""
    return EngramError("too_large", f"{name}: {size} {unit} are over the limit of {most}", field=name, limit=most, size=size)


def _kind(value: object) -> str:
    names = {str: "text", bytes: "bytes", bool: "a boolean", int: "an integer", float: "a float", dict: "a map", list: "a list"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def _number(value: float) -> str:
    """A number in words that are short, however many digits it has: in JSON and CBOR there is no end to them."""
    return f"{value:g}" if isinstance(value, float) else str(value) if -(2**64) <= value < 2**64 else "one of more than 64 bits"


def _most(keyword: str, most: int) -> JSON:
    return {} if most == NO_BOUND else {keyword: most}


class Text(NamedTuple):
    """UTF-8 text of `least` to `most` bytes; `plain` forbids control characters, as names must not hold any."""

    most: int
    least: int = 0
    plain: bool = False

    def check(self, value: object, name: str) -> None:
        if type(value) is not str:
            raise invalid(name, f"must be text, not {_kind(value)}")
        size = len(value) if value.isascii() else self._size(value, name)
        if size < self.least:
            raise invalid(name, "must not be empty")
        if size > self.most:
            raise beyond(name, size, self.most, "bytes")
        if self.plain:
            if not value.isprintable():
                raise invalid(name, "must not contain control or invisible characters")
            if not value.strip():
                raise invalid(name, "must not be blank")

    @staticmethod
    def _size(value: str, name: str) -> int:
        try:
            return len(value.encode())
        except UnicodeEncodeError:
            raise invalid(name, "is not valid UTF-8") from None

    def cddl(self) -> str:
        return "tstr" if self.most == NO_BOUND else f"tstr .size ({self.least}..{self.most})"

    def json(self, shown: bool) -> JSON:
        return {"type": "string", **({"minLength": 1} if self.least else {}), **_most("maxLength", self.most)}


class Resource:
    """A resource in normal form: an absolute path, a glob over such paths, or `@name`."""

    def check(self, value: object, name: str) -> None:
        Text(MAX_BYTES, least=1).check(value, name)
        wrong = problem(str(value))
        if wrong is not None:
            raise invalid(name, wrong)

    def cddl(self) -> str:
        return f"tstr .size (1..{MAX_BYTES})"

    def json(self, shown: bool) -> JSON:
        return {"type": "string", "minLength": 1, "maxLength": MAX_BYTES}


class Bytes(NamedTuple):
    """A byte string of `least` to `most` bytes."""

    most: int
    least: int = 0

    def check(self, value: object, name: str) -> None:
        if type(value) is not bytes:
            raise invalid(name, f"must be bytes, not {_kind(value)}")
        if len(value) < self.least:
            raise invalid(name, f"must be at least {self.least} bytes")
        if len(value) > self.most:
            raise beyond(name, len(value), self.most, "bytes")

    def cddl(self) -> str:
        return "bstr" if self.most == NO_BOUND else f"bstr .size ({self.least}..{self.most})"

    def json(self, shown: bool) -> JSON:
        if self.least == self.most == 16:  # a unit's id, which is asked for by its text
            return {"type": "string", "format": "uuid"} if shown else {"enum": []}
        return {"type": "string", "contentEncoding": "base64"}


class Int(NamedTuple):
    """An integer from `least` to `most`."""

    least: int = 0
    most: int = 2**63 - 1

    def check(self, value: object, name: str) -> None:
        if type(value) is not int:
            raise invalid(name, f"must be an integer, not {_kind(value)}")
        if not self.least <= value <= self.most:
            raise invalid(name, f"must be from {self.least} to {self.most}, not {_number(value)}")

    def cddl(self) -> str:
        return f"{self.least}..{self.most}"

    def json(self, shown: bool) -> JSON:
        return {"type": "integer", "minimum": self.least, "maximum": self.most}


class Number(NamedTuple):
    """An integer or a float from `least` to `most`."""

    least: float
    most: float

    def check(self, value: object, name: str) -> None:
        if type(value) is not float and type(value) is not int:
            raise invalid(name, f"must be a number, not {_kind(value)}")
        if not self.least <= value <= self.most:
            raise invalid(name, f"must be from {self.least:g} to {self.most:g}, not {_number(value)}")

    def cddl(self) -> str:
        return "int / float"

    def json(self, shown: bool) -> JSON:
        return {"type": "number", "minimum": self.least, "maximum": self.most}


class Bool:
    """True or false."""

    def check(self, value: object, name: str) -> None:
        if type(value) is not bool:
            raise invalid(name, f"must be true or false, not {_kind(value)}")

    def cddl(self) -> str:
        return "bool"

    def json(self, shown: bool) -> JSON:
        return {"type": "boolean"}


class Null:
    """Nothing; in a request, the wish to clear a value."""

    def check(self, value: object, name: str) -> None:
        if value is not None:
            raise invalid(name, f"must be null, not {_kind(value)}")

    def cddl(self) -> str:
        return "nil"

    def json(self, shown: bool) -> JSON:
        return {"type": "null"}


class Const(NamedTuple):
    """One value: true, false or a text."""

    value: bool | str

    def check(self, value: object, name: str) -> None:
        if value is not self.value and value != self.value:
            raise invalid(name, f"must be {self.cddl()}")

    def cddl(self) -> str:
        return f'"{self.value}"' if isinstance(self.value, str) else str(self.value).lower()

    def json(self, shown: bool) -> JSON:
        return {"const": self.value}


class Any_(NamedTuple):
    """Any value; only in answers, whose shape another rule gives: `name`, `name / nil`, a list of such (`[* name]`), or a map."""

    rule: str

    def check(self, value: object, name: str) -> None:
        return None

    def cddl(self) -> str:
        return self.rule

    def json(self, shown: bool) -> JSON:
        if self.rule.startswith("{"):
            return {"type": "object"}
        if self.rule.endswith(" / nil"):
            return {"anyOf": [Any_(self.rule.removesuffix(" / nil")).json(shown), {"type": "null"}]}
        reference = {"$ref": f"#/$defs/{re.sub(r'[^a-z-]', '', self.rule)}"}
        return {"type": "array", "items": reference} if self.rule.startswith("[") else reference


class Named(NamedTuple):
    """A type that has a rule of its own in the CDDL."""

    rule: str
    type: Type

    def check(self, value: object, name: str) -> None:
        self.type.check(value, name)

    def cddl(self) -> str:
        return self.rule

    def json(self, shown: bool) -> JSON:
        return self.type.json(shown)


class Choice(NamedTuple):
    """One of some texts."""

    options: tuple[str, ...]

    def check(self, value: object, name: str) -> None:
        if type(value) is not str or value not in self.options:
            shown = repr(value[:40]) if isinstance(value, str) else _kind(value)
            raise invalid(name, f"must be one of {', '.join(self.options)}; not {shown}")

    def cddl(self) -> str:
        return " / ".join(f'"{option}"' for option in self.options)

    def json(self, shown: bool) -> JSON:
        return {"enum": list(self.options)}


class ListOf(NamedTuple):
    """A list of `least` to `most` items."""

    item: Type
    most: int
    least: int = 0

    def check(self, value: object, name: str) -> None:
        if type(value) is not list:
            raise invalid(name, f"must be a list, not {_kind(value)}")
        if len(value) < self.least:
            raise invalid(name, "must not be empty")
        if len(value) > self.most:
            raise beyond(name, len(value), self.most, "items")
        for index, item in enumerate(value):
            self.item.check(item, f"{name}[{index}]")

    def cddl(self) -> str:
        times = "*" if self.most == NO_BOUND else f"{self.least}*{self.most}"
        return f"[{times} ({self.item.cddl()})]"

    def json(self, shown: bool) -> JSON:
        return {"type": "array", "items": self.item.json(shown), "minItems": self.least, **_most("maxItems", self.most)}


class MapOf(NamedTuple):
    """A map from text to some type, of at most `most` entries."""

    key: Type
    value: Type
    most: int

    def check(self, value: object, name: str) -> None:
        if type(value) is not dict:
            raise invalid(name, f"must be a map, not {_kind(value)}")
        if len(value) > self.most:
            raise beyond(name, len(value), self.most, "entries")
        try:
            for key, item in value.items():
                self.key.check(key, name)
                self.value.check(item, name)
        except EngramError:  # only now is it worth its while to say which
            for key, item in value.items():
                self.key.check(key, f"{name}, a key")
                self.value.check(item, f"{name}.{key}")

    def cddl(self) -> str:
        times = "*" if self.most == NO_BOUND else f"0*{self.most}"
        return f"{{ {times} ({self.key.cddl()}) => ({self.value.cddl()}) }}"

    def json(self, shown: bool) -> JSON:
        keys, values = self.key.json(shown), self.value.json(shown)
        return {"type": "object", "propertyNames": keys, "additionalProperties": values, **_most("maxProperties", self.most)}


class OneOf(NamedTuple):
    """A value that fits at least one of some types, which are told apart by their CBOR type."""

    options: tuple[tuple[type, Type], ...]

    def check(self, value: object, name: str) -> None:
        for python_type, option in self.options:
            if type(value) is python_type:
                return option.check(value, name)
        wanted = " or ".join(_kind(python_type()) for python_type, _ in self.options)
        raise invalid(name, f"must be {wanted}, not {_kind(value)}")

    def cddl(self) -> str:
        return " / ".join(f"({option.cddl()})" for _, option in self.options)

    def json(self, shown: bool) -> JSON:
        options = [option.json(shown) for _, option in self.options]
        return {"anyOf": [option for option in options if option != {"enum": []}]}


class Field(NamedTuple):
    """A named member of a map: its type, a sentence for the docs, whether it must be there, and whether only the wire has it, not JSON."""

    type: Type
    doc: str
    required: bool = False
    wire: bool = False


class Record:
    """A map with known members. An unknown member is an error: what a peer asks for must never be ignored silently.

    Args:
        one_of: of these members there is exactly one.
    """

    def __init__(self, fields: Mapping[str, Field], one_of: Sequence[str] = ()) -> None:
        self.fields = fields
        self.one_of = tuple(one_of)
        self._checks = {name: field.type.check for name, field in fields.items()}
        self._required = tuple(name for name, field in fields.items() if field.required)

    def check(self, value: object, name: str = "") -> None:
        """Check a map; with a `name`, errors carry it as a prefix (`units[3].meta`)."""
        if type(value) is not dict:
            raise invalid(name or "request", f"must be a map, not {_kind(value)}")
        checks = self._checks
        prefix = f"{name}." if name else ""
        for key, item in value.items():
            check = checks.get(key)
            if check is None:
                shown = f"{prefix}{key!s}"[:100].encode(errors="backslashreplace").decode()  # JSON can hold what UTF-8 cannot
                raise invalid(shown, f"unknown field; known are {', '.join(checks) or 'none'}")
            check(item, prefix + key)
        for key in self._required:
            if key not in value:
                raise invalid(prefix + key, "is required")

    def cddl(self) -> str:
        return "{ " + ", ".join(self.members()) + " }"

    def members(self) -> Sequence[str]:
        """Each member as a CDDL group entry."""
        choice = " // ".join(f"{name}: {self.fields[name].type.cddl()}" for name in self.one_of)
        single = [f"{'' if f.required else '? '}{name}: {f.type.cddl()}" for name, f in self.fields.items() if name not in self.one_of]
        return [*single, *([f"({choice})"] if choice else [])]

    def json(self, shown: bool) -> JSON:
        """As of a Type. Clients ignore members that they do not know; a request must not have any."""
        fields = {_in_json(name): (name, field) for name, field in self.fields.items() if not field.wire}
        properties = {name: _member(wired, field, shown) for name, (wired, field) in fields.items()}
        choice = {"oneOf": [{"required": [_in_json(name)]} for name in self.one_of]} if self.one_of else {}
        return {
            "type": "object",
            "properties": properties,
            "required": [name for name, (_, field) in fields.items() if field.required],
            **choice,
            **({} if shown else {"additionalProperties": False}),
        }


def _in_json(name: str) -> str:
    """What a member is called in JSON."""
    return "payload_base64" if name == "payload" else name


def _member(name: str, field: Field, shown: bool) -> JSON:
    schema = field.type.json(shown)
    if shown and name in TIMES:
        schema = _instant(schema)
    return {**schema, "description": field.doc} if field.doc else schema


def _instant(schema: JSON) -> JSON:
    """A time that is shown: text in place of a number."""
    if "anyOf" in schema:
        return {"anyOf": [_instant(option) for option in schema["anyOf"]]}
    return {"type": "string", "format": "date-time"} if schema.get("type") == "integer" else schema


def require_one(request: Mapping[str, Any], *names: str) -> None:
    """Raise unless exactly one of the members is there."""
    given = [name for name in names if name in request]
    if len(given) != 1:
        raise invalid(" or ".join(names), "exactly one of these is needed" if not given else "only one of these may be given")
