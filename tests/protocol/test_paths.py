"""Paths in normal form, and every name that a file may have."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engramd.protocol.paths import MAX_PATHS, names, normal

PARTS = st.lists(st.sampled_from(["a", "b.c", ".", "..", "", "é"]), max_size=6)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/a/b", "/a/b"),
        ("//a///b/", "/a/b"),
        ("/a/./b/../c", "/a/c"),
        ("/../a", "/a"),
        ("a/b/", "a/b"),
        ("./a", "a"),
        ("../a", "../a"),
        ("", ""),
        (".", "."),
        ("/", "/"),
        ("//", "/"),
    ],
)
def test_normal_form(path: str, expected: str) -> None:
    assert normal(path) == expected


@given(PARTS, st.booleans())
def test_normal_form_is_normal(parts: list[str], absolute: bool) -> None:
    path = "/" * absolute + "/".join(parts)
    once = normal(path)
    assert normal(once) == once
    assert once.startswith("/") == path.startswith("/")
    assert "//" not in once


def test_a_file_has_names_from_every_directory_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "project" / "src"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    found = names("x.py")
    assert found[:3] == [str(here / "x.py"), "x.py", "src/x.py"]
    assert "project/src/x.py" in found
    assert str(here / "x.py")[1:] in found
    assert names("./y/../x.py") == names(str(here / "x.py")) == found
    above = names("../x.py")
    assert above[:3] == [str(tmp_path / "project" / "x.py"), "x.py", "project/x.py"]
    assert "src/x.py" not in above


def test_symbolic_links_are_seen_through_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    found = names("link/x.py")
    assert {f"{tmp_path}/link/x.py", os.path.realpath(f"{tmp_path}/real/x.py"), "link/x.py"} <= set(found)


def test_there_are_never_too_many_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getcwd", lambda: "/" + "/".join("a" * 100))
    assert len(names("x")) == MAX_PATHS
