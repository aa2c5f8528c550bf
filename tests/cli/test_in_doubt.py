"""Where nobody knows whether something has happened: what the commands say then."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from commandline import Shell

from engramd.protocol.connection import Hello, ServerConnection, answer_frame
from engramd.protocol.doubt import ADVICE
from engramd.protocol.framing import encode
from engramd.protocol.messages import MIB, OPERATIONS, frame_limit

UNIT = "01890000-0000-7000-8000-000000000000"
READS = {"token_list", "token_inspect", "backup", "check"}  # that need a permission to change things


@contextmanager
def deaf(shell: Shell, hangs_up: bool) -> Iterator[None]:
    """A daemon that greets and answers nothing else: it says nothing, or hangs up."""
    limits = {"max_payload": MIB, "max_frame": frame_limit(MIB), "max_batch": 1000, "max_meta": 64}
    greeting = {"version": [1, 0], "server": "x", "pid": 1, "history": "0" * 12, "limits": limits, "features": [], "agent": "tester"}
    accepted: list[socket.socket] = []

    def serve(one: socket.socket) -> None:
        connection = ServerConnection(frame_limit(MIB))
        with suppress(OSError):
            while data := one.recv(65536):
                for message in connection.receive(data):
                    if isinstance(message, Hello):
                        one.sendall(answer_frame(message.id, encode(greeting)))
                    elif hangs_up:
                        return one.shutdown(socket.SHUT_RDWR)
        return None

    def accept() -> None:
        with suppress(OSError):
            while True:
                accepted.append(listening.accept()[0])
                threading.Thread(target=serve, args=[accepted[-1]], daemon=True).start()

    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as listening:
        listening.bind(str(shell.socket))
        listening.listen()
        threading.Thread(target=accept, daemon=True).start()
        yield
        listening.shutdown(socket.SHUT_RDWR)
    for one in accepted:
        one.close()


@pytest.fixture
def silent(alone: Shell) -> Iterator[Shell]:
    """Surroundings whose daemon greets and then says nothing."""
    with deaf(alone, False):
        yield alone


def test_what_changes_something_has_advice() -> None:
    changing = {name for name, operation in OPERATIONS.items() if operation.permission != "read"}
    assert set(ADVICE) == changing - READS


@pytest.mark.parametrize(
    ("line", "advice"),
    [
        (["put", "c", "x"], "same dedupe key"),
        (["ask", "c", "x", "--to", "ann"], "same dedupe key"),
        (["redact", "1", "--reason", "r"], "Repeat it"),
        (["context", "create", "c"], "the context exists"),
        (["context", "set", "c", "--display-name", "C"], "Repeat it"),
        (["context", "retain", "c", "--units", "5"], "Repeat it"),
        (["context", "pin", "c", "1"], "Repeat it"),
        (["context", "join", "c"], "Repeat it"),
        (["lock", "/x"], "engram locks"),
        (["unlock", "1"], "engram locks"),
        (["renew", "1"], "Repeat it"),
        (["consumer", "create", "n", "c"], "Repeat it"),
        (["consumer", "ack", "n", "1"], "Repeat it"),
        (["consumer", "reset", "n", "--to", "now"], "engram consumer show"),
        (["consumer", "delete", "n"], "no such consumer"),
        (["token", "issue", "ann"], "engram token list"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_a_write_without_an_answer_says_that_it_may_have_happened(silent: Shell, line: list[str], advice: str) -> None:
    said, details = silent.fails(124, *line, "--timeout", "200ms", "--verbose").splitlines()
    assert "no answer came in time" in said
    assert "may or may not have happened" in said
    assert advice in said
    assert json.loads(details.removeprefix("engram: ")) == {"code": "timeout", "details": {"outcome": "unknown"}}


@pytest.mark.parametrize("line", [["get", "1"], ["list", "c"], ["locks"], ["token", "list"]], ids=" ".join)
def test_a_read_without_an_answer_is_only_late(silent: Shell, line: list[str]) -> None:
    assert silent.fails(124, *line, "--timeout", "200ms").splitlines()[-1] == "engram: no answer came in time"


def test_an_import_without_an_answer_may_be_repeated(silent: Shell, tmp_path: Path) -> None:
    unit = {"id": UNIT, "context": "c", "agent": "a", "text": "x"}
    (tmp_path / "units").write_text(json.dumps(unit))
    said = silent.fails(124, "import", tmp_path / "units", "--timeout", "200ms")
    assert "may or may not be there" in said
    assert "puts nothing twice" in said


@pytest.mark.parametrize("way", [[], ["--timeout", "20s"]], ids=["quick", "full"])
def test_a_connection_that_is_lost_says_what_to_do(alone: Shell, way: list[str]) -> None:
    with deaf(alone, True):
        for line, advice in ((["put", "c", "x"], "same dedupe key"), (["context", "set", "c", "--display-name", "C"], "Repeat it")):
            said = alone.fails(1, *line, *way)
            assert "the connection was lost before the answer" in said
            assert "may or may not have happened" in said
            assert advice in said
