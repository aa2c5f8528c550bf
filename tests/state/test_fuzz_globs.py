"""Globs and resources: long and odd ones, against matchers that are as plain as can be."""

from __future__ import annotations

from functools import cache

import pytest
from fuzzing import NASTY, fuzz, nasty_text, outcome
from hypothesis import given
from hypothesis import strategies as st

from engramd.protocol.messages import NAME
from engramd.protocol.resources import MAX_BYTES, MAX_GLOB_BYTES, MAX_GLOB_PARTS, MAX_PART_BYTES, problem
from engramd.protocol.schema import Resource
from engramd.state import resources
from engramd.state.access import matches
from engramd.state.resources import covers, overlap, parse

pytestmark = pytest.mark.fuzz

# Many repeats of few letters make the many ways in which a star can be read.
runs = st.lists(st.sampled_from(("a", "aa", "ab", "b", "*", "**", "?", "*a", "a*", "é", "[", "\\", ".")), max_size=14).map("".join)
texts = st.lists(st.sampled_from(("a", "aa", "ab", "b", "é", "[", "\\", ".", "aaaaaaaa")), max_size=14).map("".join)
long_runs = st.builds(lambda piece, times, end: (piece * times + end)[:MAX_PART_BYTES], runs, st.integers(1, 60), runs)


def fits(glob: str, text: str) -> bool:
    """Whether a text fits a glob: which of its beginnings fit the glob's, one character after the other."""
    reached = [True] + [False] * len(text)
    for char in glob:
        if char == "*":
            reached = [any(reached[: at + 1]) for at in range(len(reached))]
        else:
            reached = [False] + [before and char in ("?", letter) for before, letter in zip(reached, text, strict=False)]
    return reached[-1]


@given(runs | long_runs, texts | runs)
@fuzz(100)
def test_a_name_fits_a_glob_as_the_plain_matcher_says(glob: str, name: str) -> None:
    assert matches(glob, name) is fits(glob, name)


@given(nasty_text(("*", "?", "**")), nasty_text())
@fuzz(50)
def test_odd_names_too(glob: str, name: str) -> None:
    assert matches(glob, name) is fits(glob, name)
    assert matches(name, name) or not ("*" in name or "?" in name) or fits(name, name) is matches(name, name)


def meet(a: str, b: str) -> bool:
    """Whether some text fits both components: by what is left of each."""

    @cache
    def rest(i: int, j: int) -> bool:
        if i < len(a) and a[i] == "*":
            return rest(i + 1, j) or (j < len(b) and (rest(i, j + 1)))
        if j < len(b) and b[j] == "*":
            return rest(i, j + 1) or (i < len(a) and rest(i + 1, j))
        if i == len(a) or j == len(b):
            return i == len(a) and j == len(b)
        return (a[i] == b[j] or "?" in (a[i], b[j])) and rest(i + 1, j + 1)

    return rest(0, 0)


@given(runs, runs)
@fuzz(100)
def test_components_meet_as_the_plain_walk_says(a: str, b: str) -> None:
    a, b = resources._squeezed(a), resources._squeezed(b)
    assert resources._meets(a, b) is resources._meets(b, a) is meet(a, b)


components = st.sampled_from(("a", "b", "ab", "*", "**", "?", "a*", "*b", "*a*", "é?", "**a", "[a]")) | runs.filter(bool)
written = st.lists(components, max_size=8).map(lambda parts: "/" + "/".join(parts)) | nasty_text().map("@".__add__)


def plainly_overlap(a: str, b: str) -> bool:
    """Whether two resources overlap: by what is left of each path; one that has come to its end has everything beneath."""
    if a.startswith("@") or b.startswith("@"):
        return a == b
    first, second = [part for part in a.split("/") if part], [part for part in b.split("/") if part]

    @cache
    def rest(i: int, j: int) -> bool:
        if i == len(first) or j == len(second):
            return True
        if first[i] == "**":
            return rest(i + 1, j) or rest(i, j + 1)
        if second[j] == "**":
            return rest(i, j + 1) or rest(i + 1, j)
        return meet(first[i], second[j]) and rest(i + 1, j + 1)

    return rest(0, 0)


@given(written, written)
@fuzz(100)
def test_resources_overlap_as_the_plain_walk_says(a: str, b: str) -> None:
    if problem(a) is None and problem(b) is None:
        assert overlap(a, b) is overlap(b, a) is plainly_overlap(a, b)
        assert not covers(a, b) or overlap(a, b)


@given(st.lists(components | st.sampled_from(("", ".", "..")), max_size=40).map("/".join) | nasty_text(("/", "/..", "@"), 12))
@fuzz(100)
def test_what_is_taken_for_a_resource_is_one(text: str) -> None:
    _, code = outcome(lambda: Resource().check(text, "it"))
    if code:
        assert code in ("invalid", "too_large")
        return
    is_glob = not text.startswith("@") and ("*" in text or "?" in text)
    assert len(text.encode()) <= (MAX_GLOB_BYTES if is_glob else MAX_BYTES)
    assert not is_glob or text.count("/") <= MAX_GLOB_PARTS
    assert text.startswith("@") or all(part not in (".", "..") for part in text.split("/"))
    assert overlap(text, text)
    assert covers(text, text)
    assert "/".join(parse(text).parts).count("**") <= text.count("**")


def test_the_worst_globs_cost_no_more_than_their_sizes_multiplied() -> None:
    """Counted, not timed: how often two components are held against each other."""
    seen: list[tuple[str, str]] = []
    meets = resources._meets
    worst = "/" + "/".join(("**", "*a*" * 9 + "b") * (MAX_GLOB_PARTS // 2))
    other = "/" + "/".join(("**", "*b*" * 9 + "c") * (MAX_GLOB_PARTS // 2))
    assert problem(worst) is problem(other) is None
    try:
        resources._meets = lambda a, b: seen.append((a, b)) or meets(a, b)  # type: ignore[assignment, func-returns-value]
        overlap(worst, other)
        covers(worst, other)
    finally:
        resources._meets = meets
    assert len(seen) <= 2 * (MAX_GLOB_PARTS + 1) ** 2


@given(st.sampled_from(NASTY), st.sampled_from(NASTY))
@fuzz(25)
def test_a_context_that_may_be_has_a_name_that_globs_can_match(before: str, behind: str) -> None:
    name = f"{before}x{behind}"
    if outcome(lambda: NAME.check(name, "it"))[1]:
        return
    assert matches("*x*", name)
    assert matches(name.replace("*", "?"), name)
