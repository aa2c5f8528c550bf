"""Named tuples that cost little to make: a daemon makes a hundred of them before it is ready.

`typing.NamedTuple` compiles the annotation of each field. Here they stay the text that they are in files that defer
them, as all of ours do. A class has no other base, and no field without a default behind one with: mypy takes it for
`typing.NamedTuple`, and refuses both.
"""

from __future__ import annotations

from collections import namedtuple
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import NamedTuple as NamedTuple
else:

    class _Maker(type):
        def __new__(cls, name: str, bases: tuple[type, ...], members: dict[str, Any]) -> type:
            if not bases:
                return super().__new__(cls, name, bases, members)
            fields = members["__annotations__"]
            defaults = [members.pop(field) for field in fields if field in members]
            made = namedtuple(name, fields, defaults=defaults, module=members.pop("__module__"))
            for member, value in members.items():
                setattr(made, member, value)
            return made

    class NamedTuple(metaclass=_Maker):
        """What `typing.NamedTuple` is."""
