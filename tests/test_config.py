"""The daemon's flags are read in two ways, which must not differ: quickly where a line is plain, else by argparse."""

from __future__ import annotations

from dataclasses import fields
from typing import Any
from unittest import mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engramd import config

FLAGS = ["--config", "--check-config", *(f"--{option.name.replace('_', '-')}" for option in fields(config.Config))]
VALUES = st.sampled_from(["", "auto", "1", "-1", "-", "--", "a b", "-a b", "=", "a=b", "--listen", "--listen=off", "--nothing"]) | st.text()
WORDS = st.sampled_from(FLAGS) | VALUES | st.builds("{}={}".format, st.sampled_from(FLAGS), VALUES)
PLAIN = st.tuples(st.sampled_from(FLAGS), st.text().filter(lambda text: not text.startswith("-")))


def _of_argparse(arguments: list[str]) -> dict[str, Any] | int | str | None:
    """What argparse finds, or the code with which it ends."""
    try:
        found = vars(config.parser().parse_args(arguments))
    except SystemExit as end:
        return end.code
    return {name: value for name, value in found.items() if value is not None and value is not False}


def _read(arguments: list[str]) -> object:
    try:
        return dict(config.read_flags(arguments))
    except SystemExit as end:
        return end.code


@given(st.lists(WORDS, max_size=6))
@example(["--config=--"])  # of which argparse of some versions takes the value away
def test_flags_are_what_argparse_says(arguments: list[str]) -> None:
    assert _read(arguments) == _of_argparse(arguments)


@given(st.lists(PLAIN, max_size=4))
def test_plain_flags_are_what_argparse_says(pairs: list[tuple[str, str]]) -> None:
    arguments = [word for pair in pairs for word in pair]
    assert _read(arguments) == _of_argparse(arguments)


@pytest.mark.parametrize("arguments", [[], ["--socket", "/s", "--listen=off", "--ready-fd", "3"]])
def test_plain_flags_need_no_argparse(arguments: list[str]) -> None:
    with mock.patch.object(config, "parser", side_effect=AssertionError):
        config.load(arguments, {"HOME": "/nowhere", "XDG_CONFIG_HOME": "/nowhere"})
