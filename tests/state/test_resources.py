"""Resources: overlap and cover against a matcher that enumerates, and the index against a scan."""

from __future__ import annotations

import itertools
import re
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engramd.state import resources
from engramd.state.resources import Index, covers, overlap

EXAMPLES = [
    ("/a", "/a", True),
    ("/a", "/a/b", True),
    ("/a/b", "/a/c", False),
    ("/a", "/ab", False),
    ("/", "/a/b/c", True),
    ("/src/**", "/src/app.rs", True),
    ("/src/**", "/src", True),
    ("/src/*.rs", "/src/app.py", False),
    ("/src/*.rs", "/src", True),
    ("/src/*.rs", "/src/*app*", True),
    ("/src/*.rs", "/src/old/app.rs", False),
    ("/src/*", "/src/old/app.rs", True),  # src/old is one of them, and what is beneath belongs to it
    ("/src/**/*.rs", "/src/old/app.rs", True),
    ("/src/**/*.rs", "/src/app.rs", True),
    ("/**/test_*.py", "/src/tests", True),
    ("/**/test_*.py", "/src/app.rs", True),  # app.rs might be a directory
    ("/a/[id].tsx", "/a/i.tsx", False),
    ("/a/[id].tsx", "/a/[id].tsx", True),
    ("/a/?", "/a/xy", False),
    ("/a/?", "/a/x/y", True),
    ("@deploy", "@deploy", True),
    ("@deploy", "@deploy2", False),
    ("@a*", "@ab", False),  # a name is never a glob
    ("@a", "/@a", False),
    ("@a", "/", False),
]

COMPONENTS = ("a", "b", "ab", "a*", "*b", "?", "*", "**")
STRINGS = ("a", "b", "ab")
UNIVERSE = [path for depth in range(6) for path in itertools.product(STRINGS, repeat=depth)]

GLOBS = st.lists(st.sampled_from(COMPONENTS), max_size=3).map(lambda parts: "/" + "/".join(parts))
LITERALS = st.lists(st.sampled_from(STRINGS), max_size=3).map(lambda parts: "/" + "/".join(parts))
NAMES = st.sampled_from(["@x", "@y", "@*", "@?"])  # a name is never a glob
RESOURCES = st.one_of(GLOBS, LITERALS, NAMES)


@cache
def paths(resource: str) -> frozenset[tuple[str, ...]]:
    """The paths of the universe that a resource stands for, one by one."""
    if resource.startswith("@"):
        return frozenset({(resource,)})
    wanted = [part for part in resource.split("/") if part]
    return frozenset(path for path in UNIVERSE if any(_matches(wanted, list(path[:end])) for end in range(len(path) + 1)))


def _matches(wanted: list[str], path: list[str]) -> bool:
    if not wanted:
        return not path
    if wanted[0] == "**":
        return any(_matches(wanted[1:], path[skipped:]) for skipped in range(len(path) + 1))
    return bool(path) and _fits(wanted[0], path[0]) and _matches(wanted[1:], path[1:])


def _fits(pattern: str, text: str) -> bool:
    expression = "".join({"*": ".*", "?": "."}.get(char, re.escape(char)) for char in pattern)
    return re.fullmatch(expression, text) is not None


@pytest.mark.parametrize(("a", "b", "expected"), EXAMPLES)
def test_examples(a: str, b: str, expected: bool) -> None:
    assert overlap(a, b) is overlap(b, a) is expected


@given(RESOURCES, RESOURCES)
@settings(max_examples=400)
def test_two_resources_overlap_where_a_path_is_in_both(a: str, b: str) -> None:
    assert overlap(a, b) is overlap(b, a) is bool(paths(a) & paths(b))


@given(RESOURCES, RESOURCES)
@settings(max_examples=400)
def test_a_resource_that_covers_another_has_all_of_its_paths(a: str, b: str) -> None:
    if covers(a, b):
        assert paths(a) >= paths(b)
    elif b.startswith("@") or ("*" not in b and "?" not in b):
        assert not paths(a) >= paths(b)
    assert covers(a, a)


@given(st.text("ab*?", min_size=1, max_size=5), st.text("ab*?", min_size=1, max_size=5))
@settings(max_examples=400)
def test_two_components_meet_where_a_string_fits_both(a: str, b: str) -> None:
    strings = ("".join(chars) for length in range(1, 9) for chars in itertools.product("ab", repeat=length))
    expected = any(_fits(a, text) and _fits(b, text) for text in strings)
    squeezed = resources._squeezed(a), resources._squeezed(b)
    assert resources._meets(*squeezed) is resources._meets(*squeezed[::-1]) is expected


@given(st.lists(st.tuples(st.integers(0, 5), st.lists(RESOURCES, min_size=1, max_size=2, unique=True)), max_size=12), RESOURCES)
def test_the_index_finds_what_a_scan_finds(changes: list[tuple[int, list[str]]], asked: str) -> None:
    index: Index[int] = Index()
    held: dict[int, list[str]] = {}
    for key, on in changes:
        if key in held:
            index.remove(key, held.pop(key))
        else:
            index.add(key, on)
            held[key] = on
        assert set(index.overlapping(asked)) == {key for key, on in held.items() if any(overlap(one, asked) for one in on)}
    for key, on in held.items():
        index.remove(key, on)
    assert not index._root.children, "nothing is left behind"


def test_hostile_globs_take_no_time_to_speak_of() -> None:
    """The work is bounded by the sizes: this would not end if it tried one way after the other."""
    a, b = "/" + "/".join(["*a" * 8] * 30), "/" + "/".join(["a*" * 8 + "b"] * 30)
    assert not overlap(a, b)
    assert overlap("/" + "**/a/" * 25 + "b", "/" + "**/b/" * 25 + "a")
