"""A daemon under attack: others go on with their work, its memory goes back, and nothing is lost.

`benchmarks/attacks.py` has the attacks; `python -m benchmarks.attacks` runs them with large numbers and prints figures.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commandline import Shell

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import attacks
from benchmarks.attacks import Bystander, Target, check_nothing_lost, report, settle

SIZES = {attacks.dribble: 20, attacks.crowd: 300, attacks.forged: 18, attacks.greedy: 10, attacks.flood: 40}
GROWTH = 16 * 2**20  # bytes that a crowd may leave behind, in pieces that Python keeps for the next one


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    """A daemon that takes few connections, so that a small crowd is too large for it."""
    with Shell() as shell:
        shell.daemon("--listen", "tcp://127.0.0.1:0", "--max-connections", "120", "--limits-streams", "50")
        yield Target.prepare(str(shell.socket))


@pytest.mark.parametrize("attack", dict.fromkeys(attacks.ATTACKS), ids=lambda attack: str(attack.__name__))
def test_nobody_else_is_harmed(target: Target, attack: Callable[[Target, int], None]) -> None:
    context = f"calm {attack.__name__}"
    bystander = Bystander(target, context)
    while len(bystander.seqs) < 30:
        assert bystander.failure is None, bystander.failure
    calm, facts = bystander.take(), target.status()
    attack(target, SIZES.get(attack, 24))
    done = len(bystander.seqs)
    while len(bystander.seqs) < done + 10:
        assert bystander.failure is None, bystander.failure
    after = settle(target, facts["memory_bytes"] + GROWTH, facts["connections"])
    print(report(attack.__name__, calm, bystander.take(), after, facts["memory_bytes"]))
    bystander.stop()
    assert after["connections"] <= facts["connections"], "what the attack left is gone"
    assert after["memory_bytes"] <= facts["memory_bytes"] + GROWTH
    assert after["pid"] == facts["pid"]
    check_nothing_lost(target, context, bystander.seqs)


def test_what_was_refused_is_counted(target: Target) -> None:
    attacks.crowd(target, 300)
    attacks.forged(target, 6)
    attacks.greedy(target, 10)
    refused = target.status()["limits"]["refused"]
    assert {"connections", "strangers", "streams"} <= refused.keys()


def test_text_cannot_reach_a_terminal(alone: Shell) -> None:
    """Escapes in payloads, labels and names come out as text, but for a payload that was asked for byte by byte."""
    evil = "\x1b]0;owned\x07\x1b[2J\u202egpj.exe\x9b31m"
    seq = json.loads(alone.ok("put", "c", evil, "--meta", f"k={evil}", "--json").out)["seq"]
    assert "control" in alone.fails(2, "put", evil, "x")
    assert "control" in alone.fails(2, "put", "c", "x", "--as", evil)
    alone.run("lock", "@x", "--reason", evil)
    for command in (
        ("list", "c"),
        ("tail", "c"),
        ("list", "c", "--color", "always"),
        ("locks",),
        ("locks", "--color", "always"),
        ("search", "owned"),
    ):
        out = alone.ok(*command).out
        assert not any(mark in out for mark in ("\x1b]", "\x1b[2J", "\x07", "\u202e", "\x9b")), command
    assert alone.ok("get", str(seq)).out == evil
    assert "\x1b" not in alone.run("lock", "@x").err
    assert "\x1b" not in alone.run("token", "revoke", evil).err
