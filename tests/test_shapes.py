"""Named tuples that are made quickly are what `typing` makes."""

from __future__ import annotations

import pickle
import typing
from typing import Any

import pytest

from engramd.shapes import NamedTuple


class Quick(NamedTuple):
    """A place."""

    x: int
    y: list[str]
    z: int | None = None

    @property
    def double(self) -> int:
        return self.x * 2

    def moved(self, by: int) -> Quick:
        return self._replace(x=self.x + by)

    @classmethod
    def origin(cls) -> Quick:
        return cls(0, [])


class Usual(typing.NamedTuple):
    """A place."""

    x: int
    y: list[str]
    z: int | None = None


def test_it_is_a_named_tuple() -> None:
    made = Quick(1, y=["a"])
    assert made == (1, ["a"], None) == Usual(1, ["a"])
    assert repr(made) == repr(Usual(1, ["a"])).replace("Usual", "Quick")
    assert (made.double, made.moved(2).x, Quick.origin()) == (2, 3, (0, [], None))
    assert made._asdict() == {"x": 1, "y": ["a"], "z": None}
    assert pickle.loads(pickle.dumps(made)) == made


@pytest.mark.parametrize("name", ["_fields", "_field_defaults", "__doc__", "__module__", "__match_args__", "__slots__"])
def test_it_has_what_those_of_typing_have(name: str) -> None:
    assert getattr(Quick, name) == getattr(Usual, name)


def test_its_annotations_can_be_looked_at() -> None:
    assert typing.get_type_hints(Quick) == typing.get_type_hints(Usual)


def test_fields_must_be_given() -> None:
    make: Any = Quick
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'y'"):
        make(1)
    with pytest.raises(AttributeError):
        make(1, []).x = 2
