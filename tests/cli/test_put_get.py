"""`put` and `get`: what goes in comes out, byte for byte, and what must be refused is."""

from __future__ import annotations

from pathlib import Path

import pytest
from commandline import AGENT, Shell

from engram_cli.client import Client

EVERY_BYTE = bytes(range(256)) + b"\r\n\0 tail \xc3"


def test_put_prints_the_id_by_which_and_by_whose_seq_get_finds_the_bytes(shell: Shell, name: str) -> None:
    made = shell.put(name, "héllo\nworld\t")
    unit = shell.ok("get", made, "--json").objects[0]
    assert shell.ok("get", made).raw == shell.ok("get", str(unit["seq"])).raw == "héllo\nworld\t".encode()
    assert (unit["id"], unit["context"], unit["agent"], unit["type"], unit["meta"], unit["text"], unit["relationships"]) == (
        made, name, AGENT, "message", {}, "héllo\nworld\t", [],
    )  # fmt: skip


@pytest.mark.parametrize("payload", [EVERY_BYTE, b"", b"no newline", b"\n\n", "\ufeff\u2028\u202e".encode()])
def test_stdin_is_taken_byte_for_byte(shell: Shell, client: Client, name: str, payload: bytes) -> None:
    made = shell.put(name, "-", input=payload)
    assert client.get(made)[0].payload == payload


def test_a_file_is_taken_byte_for_byte_and_get_gives_it_back(shell: Shell, name: str) -> None:
    path = shell.home / "payload"
    path.write_bytes(EVERY_BYTE)
    made = shell.put(name, "--file", path)
    assert shell.ok("get", made).raw == EVERY_BYTE
    assert "payload_base64" in shell.ok("get", made, "--json").objects[0]


def test_text_that_is_not_utf8_is_taken_as_it_was_typed(shell: Shell, client: Client, name: str) -> None:
    assert client.get(shell.put(name, b"caf\xe9 \xff"))[0].payload == b"caf\xe9 \xff"


def test_a_dash_after_two_dashes_is_text(shell: Shell, client: Client, name: str) -> None:
    for arguments in ([name, "--", "-"], ["--", name, "-"]):
        assert client.get(shell.put(*arguments, input=b"never read"))[0].payload == b"-"
    assert client.get(shell.put(name, "--", "--json"))[0].payload == b"--json"


def test_a_context_may_be_named_dash(shell: Shell) -> None:
    shell.put("-", "one")
    shell.put("--", "-", "two")
    assert shell.ok("list", "-").texts == shell.ok("list", "--", "-").texts == ["one", "two"]


def test_the_largest_payload_goes_through_and_one_byte_more_does_not(shell: Shell, client: Client, name: str) -> None:
    limit = client.status()["max_payload"]
    path = shell.home / "large"
    path.write_bytes(b"\0" * limit)
    assert shell.ok("get", shell.put(name, "--file", path)).raw == b"\0" * limit
    path.write_bytes(b"\0" * (limit + 1))
    assert str(limit) in shell.fails(2, "put", name, "--file", path)
    with path.open("wb") as sparse:
        sparse.truncate(64 * 1024 * 1024)
    assert "payload" in shell.fails(2, "put", name, "--file", path)
    assert len(list(client.list(name))) == 1


def test_labels_type_and_relationships_are_kept(shell: Shell, client: Client, name: str) -> None:
    first = shell.put(name, "first", "--type", "tool_call", "--meta", "a=b=c", "--meta", "empty=", "--meta", "ключ=значение")
    second = shell.put(name, "second", "--rel", f"causes:{first}", "--rel", f"depends_on:{client.get(first)[0].seq}", "--reply-to", first)
    one, two = client.get(first, second)
    assert (one.type, one.meta) == ("tool_call", {"a": "b=c", "empty": "", "ключ": "значение"})
    assert [(edge.type, edge.target) for edge in two.relationships] == [("causes", first), ("depends_on", first), ("responds_to", first)]


def test_who_acts_is_a_flag_then_the_environment_then_the_file_then_the_user(shell: Shell, client: Client, name: str) -> None:
    config = shell.home / "with agent.toml"
    config.write_text('[client]\nagent = "from file"\ncontext = "ignored"\n')
    without = {"ENGRAM_AGENT": "", "ENGRAM_CONFIG": str(config)}
    shell.put(name, "x", "--as", "from flag")
    shell.put(name, "x")
    shell.put(name, "x", env=without)
    shell.put(name, "x", env={"ENGRAM_AGENT": "", "LOGNAME": "from login"})
    assert [unit.agent for unit in client.list(name)] == ["from flag", AGENT, "from file", "from login"]


def test_json_says_what_was_made(shell: Shell, name: str) -> None:
    made = shell.ok("put", name, "x", "--json", "--dedupe", "k").objects
    again = shell.ok("put", name, "other", "--json", "--dedupe", "k").objects
    assert [sorted(answer) for answer in made + again] == [["deduped", "id", "seq", "ts"]] * 2
    assert again == [made[0] | {"deduped": True}]
    assert made[0]["deduped"] is False


def test_a_dedupe_key_stands_for_one_unit_of_its_context(shell: Shell, client: Client, name: str) -> None:
    first = shell.put(name, "first", "--dedupe", "key")
    assert shell.put(name, "second", "--dedupe", "key") == first
    assert client.put(name + "'s other", "elsewhere", dedupe="key").id != first
    assert [unit.text for unit in client.list(name)] == ["first"]


def test_expect_seq_is_compared_with_the_last_entry_and_a_conflict_names_it(shell: Shell, client: Client, name: str) -> None:
    shell.put(name, "one", "--expect-seq", "0")
    last = next(client.list(name)).seq
    assert f" {last}," in shell.fails(3, "put", name, "two", "--expect-seq", "0")
    client.context_join(name, "someone")
    client.context_pin(name, last)
    client.context_set(name, display_name="a title")
    shell.put(name, "two", "--expect-seq", str(last))
    assert [unit.text for unit in client.list(name)] == ["one", "two"]


def test_what_is_refused_is_refused_with_a_word_on_it(shell: Shell, client: Client, name: str) -> None:
    client.put(name, "the only one")
    missing = "01900000-0000-7000-8000-000000000000"
    for code, arguments, word in (
        (2, ["", "x"], "context"),
        (2, ["   ", "x"], "context"),
        (2, ["a\nb", "x"], "context"),
        (2, ["n" * 257, "x"], "257"),
        (2, [name, "x", "--as", ""], "agent"),
        (2, [name, "x", "--type", "shout"], "type"),
        (2, [name, "x", "--meta", "novalue"], "novalue"),
        (2, [name, "x", "--meta", "=v"], "--meta"),
        (2, [name, "x", "--rel", "causes"], "--rel"),
        (2, [name, "x", "--rel", "admires:1"], "admires"),
        (1, [name, "x", "--rel", f"causes:{missing}"], "relationship"),
        (1, [name, "x", "--reply-to", "999999999"], "999999999"),
        (2, [name, "x", "--reply-to", "not an id"], "not an id"),
        (2, [name], "TEXT"),
        (2, [name, "x", "--file", "/dev/null"], "TEXT"),
        (2, [name, "--file", "no such file"], "no such file"),
        (2, [name, "--file", "."], "'.'"),
        (2, [name, "x", "--dedupe", ""], "dedupe"),
        (2, [name, "x", "--expect-seq", "-1"], "expect-seq"),
    ):
        assert word in shell.fails(code, "put", *arguments), arguments
    assert [unit.text for unit in client.list(name)] == ["the only one"]


def test_a_refused_put_creates_no_context(shell: Shell, client: Client, name: str) -> None:
    shell.fails(1, "put", name, "x", "--rel", "causes:01900000-0000-7000-8000-000000000000")
    shell.fails(3, "put", name, "x", "--expect-seq", "7")
    assert name not in [context["id"] for context in client.context_list()]


def test_empty_text_is_text(shell: Shell, client: Client, name: str) -> None:
    assert client.get(shell.put(name, ""))[0].payload == b""


def test_get_prints_several_like_cat_and_goes_on_after_one_that_is_missing(shell: Shell, client: Client, name: str) -> None:
    ids = [client.put(name, text).id for text in ("one\n", "two", "three\n")]
    assert shell.ok("get", ids[2], ids[0], ids[1], ids[0]).raw == b"three\none\ntwoone\n"
    assert [unit["id"] for unit in shell.ok("get", "--json", *ids).objects] == ids
    done = shell.run("get", ids[0], "999999999", ids[2])
    assert (done.code, done.raw) == (1, b"one\nthree\n")
    assert "999999999" in done.err


def test_get_of_what_is_not_there(shell: Shell) -> None:
    assert "01900000-0000-7000-8000-000000000000" in shell.fails(1, "get", "01900000-0000-7000-8000-000000000000")
    assert "neither" in shell.fails(2, "get", "x\x1b[31m")
    shell.fails(1, "get", "0")
    shell.fails(2, "get")


def test_the_context_dot_is_the_configured_one(shell: Shell, name: str) -> None:
    config = shell.home / "with context.toml"
    config.write_text(f'[client]\ncontext = "{name}"\n')
    shell.put(".", "by environment", env={"ENGRAM_CONTEXT": name})
    shell.put(".", "by file", env={"ENGRAM_CONFIG": str(config)})
    assert shell.ok("list", ".", env={"ENGRAM_CONTEXT": name}).texts == ["by environment", "by file"]
    assert "ENGRAM_CONTEXT" in shell.fails(2, "put", ".", "x")


def test_where_the_daemon_is_is_a_flag_then_the_environment_then_the_file(shell: Shell, name: str) -> None:
    config = shell.home / "with socket.toml"
    config.write_text(f'socket = "{shell.socket}"\n')
    away = str(shell.home / "nobody")
    shell.put(name, "flag", "--socket", shell.socket, env={"ENGRAM_SOCKET": away})
    shell.put(name, "file", env={"ENGRAM_SOCKET": "", "ENGRAM_CONFIG": str(config)})
    assert away in shell.fails(69, "put", name, "x", "--no-autostart", env={"ENGRAM_SOCKET": away, "ENGRAM_CONFIG": str(config)})
    assert shell.ok("daemon", "socket", env={"ENGRAM_SOCKET": "", "ENGRAM_CONFIG": str(config)}).out == f"{shell.socket}\n"
    assert Path(shell.ok("daemon", "socket", "--socket", "relative").out.strip()) == shell.home / "relative"


def test_a_configuration_that_is_wrong_is_named(shell: Shell, client: Client, name: str) -> None:
    config = shell.home / "wrong.toml"
    client.put(name, "x")
    for text, word in (
        ("[client]\ncontxt = 'x'", "contxt"),
        ("[client]\ncontext = 5", "client.context"),
        ("[client", "cannot be read"),
        ("client = 1", "must be a table"),
    ):
        config.write_text(text)
        error = shell.fails(2, "list", ".", env={"ENGRAM_CONFIG": str(config)})
        assert str(config) in error
        assert word in error
    config.unlink()
    assert "does not exist" in shell.fails(2, "list", ".", env={"ENGRAM_CONFIG": str(config)})
    # Relative, it does not count, on either side.
    (shell.home / "relative" / "engram").mkdir(parents=True)
    (shell.home / "relative" / "engram" / "config.toml").write_text("socket = '/wrong'")
    env = {"XDG_CONFIG_HOME": "relative", "ENGRAM_SOCKET": "", "XDG_RUNTIME_DIR": str(shell.home)}
    assert shell.ok("daemon", "socket", env=env).out == f"{shell.home}/engram/engramd.sock\n"
    assert f"{shell.home}/engram/engramd.sock" in shell.ok("--check-config", program="engramd", env=env).out


def test_the_command_line_says_what_is_wrong_with_it(shell: Shell, name: str) -> None:
    for arguments, word in (
        (["put", name, "x", "--colour", "always"], "--colour"),
        (["put", name, "x", "--color", "sometimes"], "sometimes"),
        (["put", name, "x", "--timeout", "soon"], "soon"),
        (["put", name, "x", "--socket", ""], "--socket"),
        (["status", "--socket", ""], "--socket"),
        (["put", name, "x", "stray"], "stray"),
        (["putt", name, "x"], "putt"),
        (["list"], "CONTEXT"),
    ):
        assert word in shell.fails(2, *arguments), arguments


@pytest.mark.parametrize("payload", [b"-", b"\0-", b"\xff\0", b""])
def test_what_can_be_read_only_once_is_kept_while_the_daemon_starts(alone: Shell, payload: bytes) -> None:
    path = alone.home / "payload"
    path.write_bytes(payload)
    done = alone.script(f"engram put c --file <(cat '{path}') && engram daemon stop 2>/dev/null && engram put c - < '{path}'")
    assert (done.code, done.err) == (0, "")
    assert [unit.payload for unit in alone.client().list("c")] == [payload] * 2


def test_a_put_that_waits_for_its_stdin_does_not_mind_a_restart(alone: Shell) -> None:
    alone.daemon()
    put = alone.start("put", "c", "-", pipe_stdin=True)
    put.say("half")
    alone.kill_daemon()
    alone.daemon()
    put.say("whole")
    put.hang_up()
    assert (put.wait(), put.errors) == (0, [])
    assert [unit.payload for unit in alone.client().list("c")] == [b"half\nwhole\n"]


@pytest.mark.parametrize(
    "line",
    [
        "put {} x",
        "ask {} x --to ann",
        "list {}",
        "tail {}",
        "search x --context {}",
        "export {}",
        "context create {}",
        "context set {}",
        "consumer create n {}",
    ],
)
@pytest.mark.parametrize("way", [(), ("--timeout", "20s")], ids=["quick", "full"])
def test_a_label_has_one_value(shell: Shell, line: str, way: tuple[str, ...]) -> None:
    """Of two, one would be lost without a word; and no unit has both."""
    words = [word.format("labelled") for word in line.split()]
    said = shell.fails(2, *words, "--meta", "a=1", "--meta", "b=1", "--meta", "a=2", *way)
    assert "--meta a=...: a label has one value, and two are given: '1' and '2'" in said


def test_a_label_may_be_given_twice_alike(shell: Shell, client: Client, name: str) -> None:
    shell.put(name, "x", "--meta", "a=1", "--meta", "a=1")
    assert [unit.meta for unit in client.list(name, meta={"a": "1"})] == [{"a": "1"}]
    assert "--meta a=... and --unset a" in shell.fails(2, "context", "set", name, "--meta", "a=1", "--unset", "a")


def test_a_closed_standard_stream_is_an_error_only_where_it_is_used(shell: Shell, client: Client, name: str) -> None:
    for command, code, word in (
        (f"engram put '{name}' - <&-", 2, "standard input: Bad file descriptor"),
        (f"engram put '{name}' one >&-", 1, "cannot write the output: Bad file descriptor"),
        (f"engram list '{name}' >&-", 1, "cannot write the output: Bad file descriptor"),
        ("engram status >&-", 1, "cannot write the output: Bad file descriptor"),
        (f"engram put '{name}' two <&- 2>&-", 0, ""),
    ):
        done = shell.script(command)
        assert (done.code, word in done.err, "Traceback" in done.err) == (code, True, False), (command, done)
    assert [unit.text for unit in client.list(name)] == ["one", "two"]


def test_a_daemon_starts_also_from_a_process_without_standard_streams(alone: Shell) -> None:
    assert alone.script("engram put c x <&- >&- 2>&-; engram put c y <&- 2>&-").code == 0
    assert [unit.text for unit in alone.client().list("c")] == ["x", "y"]
