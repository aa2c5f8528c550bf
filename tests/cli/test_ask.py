"""`ask`, its answer, and inboxes: what is for whom."""

from __future__ import annotations

import re
import threading
import time

import pytest
from commandline import AGENT, Shell, until

from engram_cli.client import Client, EngramError, Relationship


def question(client: Client, to: str) -> int:
    """Wait for a question to an agent; returns its seq."""
    return next(iter(client.tail(last=1, meta={"to": to}))).seq


def test_a_question_is_answered(shell: Shell, client: Client, name: str) -> None:
    asking = shell.start("ask", name, "is it safe?", "--to", f"{name} bob", "--meta", "k=v")
    seq = question(client, f"{name} bob")
    (asked,) = client.get(seq)
    assert (asked.text, asked.agent, asked.meta) == ("is it safe?", AGENT, {"to": f"{name} bob", "k": "v"})
    client.put(name, "a note on it", relationships=[Relationship("references", str(seq))])
    client.put(name, "unrelated")
    shell.ok("put", f"{name} elsewhere", "yes\n", "--reply-to", str(seq), env={"ENGRAM_AGENT": "bob"})
    client.put(name, "too late", relationships=[Relationship("responds_to", str(seq))])
    assert asking.wait() == 0
    assert (asking.lines, asking.errors) == (["yes"], [])


def test_the_whole_answer_as_json(shell: Shell, client: Client, name: str) -> None:
    asking = shell.start("ask", name, "?", "--to", f"{name} bob", "--json", "--timeout", "30s")
    seq = question(client, f"{name} bob")
    client.put(name, b"\xff", relationships=[Relationship("responds_to", str(seq))])
    assert asking.wait() == 0
    (answer,) = asking.objects
    assert (answer["payload_base64"], answer["relationships"][0]["type"]) == ("/w==", "responds_to")


def test_no_answer_in_time_is_124_and_says_how_to_look_later(shell: Shell, client: Client, name: str) -> None:
    began = time.monotonic()
    error = shell.fails(124, "ask", name, "?", "--to", "nobody", "--timeout", "300ms")
    assert 0.3 <= time.monotonic() - began < 5
    (asked,) = client.list(name)
    assert f"unit {asked.seq} ({asked.id})" in error
    advice = re.search(r"engram (related .*)$", error)
    assert advice is not None
    client.put(name, "at last", relationships=[Relationship("responds_to", asked.id)])

    assert "at last" in shell.ok(*advice[1].split()).out


def test_the_words_may_come_from_standard_input(shell: Shell, client: Client, name: str) -> None:
    shell.fails(124, "ask", name, "-", "--to", "nobody", "--timeout", "100ms", input=b"from\nstdin")
    assert [unit.text for unit in client.list(name)] == ["from\nstdin"]
    assert "--to" in shell.fails(2, "ask", name, "x")
    shell.fails(2, "ask", name, "x", "--to", "", "--timeout", "100ms", "--type", "lunch")


def test_an_answer_that_is_there_before_anyone_waits_is_found(
    client: Client, shell: Shell, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The put and the wait are two requests; whatever happens between them counts."""
    from engram_cli import client as module

    other = shell.client("bob")

    class Late(module.Tail):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)  # type: ignore[arg-type]
            (asked,) = other.list(name)
            other.put(name, "quick", relationships=[Relationship("responds_to", asked.id)])

    monkeypatch.setattr(module, "Tail", Late)
    assert client.ask(name, "?", to="bob").text == "quick"


def test_a_restart_of_the_daemon_is_waited_for(alone: Shell) -> None:
    alone.daemon()
    asking = alone.start("ask", "c", "?", "--to", "bob", "--timeout", "60s")
    seq = question(alone.client(), "bob")
    until(lambda: alone.client().status()["subscriptions"] > 0, "the asker to wait")
    alone.kill_daemon()
    alone.daemon()
    alone.client("bob").put("c", "still here", relationships=[Relationship("responds_to", str(seq))])
    assert asking.wait() == 0
    assert asking.lines == ["still here"]


def test_the_client_asks_with_a_timeout_of_its_own(shell: Shell, client: Client, name: str) -> None:
    with pytest.raises(EngramError) as caught:
        client.ask(name, "?", to="nobody", timeout=0.1)
    (asked,) = client.list(name)
    assert (caught.value.code, caught.value.details) == ("timeout", {"id": asked.id, "seq": asked.seq})
    answers: list[str] = []
    asking = threading.Thread(target=lambda: answers.append(shell.client().ask(name, "??", to=f"{name} bob").text))
    asking.start()
    client.put(name, "yes", relationships=[Relationship("responds_to", str(question(client, f"{name} bob")))])
    asking.join(10)
    assert answers == ["yes"]


def test_an_inbox_is_a_filter(shell: Shell, client: Client, name: str) -> None:
    for to in ("tester", "me", "bob"):
        client.put(name, f"for {to}", meta={"to": to, "k": to[0]})
    client.put(name, "for all")
    for form in ([], ["--json"]):
        for verb in ("list", "tail"):
            for options, expected in (
                (["--to", "me"], ["for tester"]),
                (["--to", "bob"], ["for bob"]),
                (["--to", "bob", "--meta", "k=b"], ["for bob"]),
                (["--to", "bob", "--meta", "k=x"], []),
                (["--to", "me", "--as", "bob"], ["for bob"]),
                (["--to", "me", "--color", "never"], ["for tester"]),
            ):
                done = shell.ok(verb, name, *options, *form)
                assert (done.texts if not form else [unit["text"] for unit in done.objects]) == expected, (verb, options, form)
            assert "--to" in shell.fails(2, verb, name, "--to", "x", "--meta", "to=y", *form)
    assert shell.ok("list", name, "--to", "me", env={"ENGRAM_AGENT": "bob"}).texts == ["for bob"]
