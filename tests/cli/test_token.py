"""`engram token`, and every way in which a command shows a token: over the Unix socket, TCP and TLS."""

from __future__ import annotations

import json
import os
import pwd
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from commandline import Done, Shell, until

from engram_cli import trio_client
from engram_cli.client import Client, EngramError


def done(shell: Shell, *arguments: str, **options: Any) -> Done:
    """A command that has words for people beside its output."""
    found = shell.run(*arguments, **options)
    assert found.code == 0, found.err
    return found


@pytest.fixture
def networked(alone: Shell) -> Shell:
    """Surroundings with a daemon that also listens on TCP, on any port that is free, and the builder's token in `token`."""
    alone.daemon("--listen", "tcp://127.0.0.1:0")
    (alone.home / "token").write_text(done(alone, "token", "issue", "builder").out)
    return alone


def address(shell: Shell) -> str:
    """Where the daemon listens besides."""
    found: str = json.loads(shell.ok("status", "--json").out)["listening"][0]
    return found


def away(shell: Shell) -> dict[str, str]:
    """The environment of an agent that has nothing but an address and a token."""
    return {"ENGRAM_SOCKET": address(shell), "ENGRAM_TOKEN_FILE": str(shell.home / "token"), "ENGRAM_AGENT": ""}


def test_issue_prints_the_token_alone_and_once(networked: Shell) -> None:
    issued = done(networked, "token", "issue", "bob", "--may", "read", "--context", "a*", "--expires", "1h", "--note", "for bob")
    assert re.fullmatch(r"egt_[0-9A-Za-z]{59}\n", issued.out)
    name = issued.out[4:14]
    assert "bob may read in a*" in issued.err
    assert name in issued.err
    assert (
        issued.out[14:].strip() not in issued.err + networked.ok("token", "list").out + networked.ok("token", "inspect", name, "--json").out
    )
    shown = json.loads(networked.ok("token", "inspect", issued.out.strip(), "--json").out)
    assert (shown["agent"], shown["permissions"], shown["contexts"], shown["note"]) == ("bob", ["read"], ["a*"], "for bob")
    assert sorted(row.split("\t")[1] for row in networked.ok("token", "list").lines) == ["bob", "builder"]
    assert "1 connection" not in done(networked, "token", "revoke", name).err
    assert "there is no token" in networked.fails(1, "token", "revoke", name)
    assert networked.fails(2, "token", "issue", "bob", "--may", "fly")
    assert "admin" in networked.fails(2, "token", "issue", "bob", "--may", "admin", "--context", "a")
    assert "empty" in networked.fails(2, "token", "issue", "bob", "--path", "")
    assert "locking no more than /src @b*" in done(networked, "token", "issue", "bob", "--path", "/src", "--path", "@b*").err


def test_the_verbs_over_tcp(networked: Shell) -> None:
    env = away(networked)
    seq = json.loads(networked.ok("put", "work", "hello", "--json", env=env).out)["seq"]
    assert networked.ok("get", str(seq), env=env).out == "hello"
    assert networked.ok("list", "work", env=env).lines[0].split("\t")[2:] == ["builder", "message", "hello"]
    assert networked.ok("tail", "work", env=env).texts == ["hello"]
    token = done(networked, "lock", "@x", env=env).out.strip()
    networked.ok("renew", token, env=env)
    networked.ok("unlock", token, env=env)
    assert networked.ok("lock", "@x", "--", "echo", "under it", env=env).out == "under it\n"
    piped = networked.ok("pipe", input=b'{"id": 1, "op": "list", "context": "work"}\n', env=env)
    assert json.loads(piped.out)["result"]["units"][0]["text"] == "hello"
    assert networked.fails(77, "token", "list", env=env)
    assert networked.ok("daemon", "status", env=env).out
    networked.ok("put", "work", "for me", "--meta", "to=builder", env=env)
    assert networked.ok("list", "work", "--to", "me", env=env).texts == ["for me"], "who me is, the daemon says"


def test_where_a_token_comes_from(networked: Shell) -> None:
    env, text = away(networked), (networked.home / "token").read_text()
    del env["ENGRAM_TOKEN_FILE"]
    for how in ({"ENGRAM_TOKEN": text}, {"ENGRAM_TOKEN_FILE": str(networked.home / "token")}):
        networked.ok("put", "c", "x", env={**env, **how})
    networked.ok("put", "c", "x", "--token-file", str(networked.home / "token"), env={**env, "ENGRAM_TOKEN": "wrong"})
    config = networked.home / "config.toml"
    config.write_text(f'[client]\ntoken_file = "{networked.home}/token"\n')
    networked.ok("put", "c", "x", env={**env, "ENGRAM_CONFIG": str(config)})
    assert "ENGRAM_TOKEN" in networked.fails(77, "put", "c", "x", env=env)
    assert networked.fails(77, "put", "c", "x", env={**env, "ENGRAM_TOKEN": "secret"})
    assert "cannot be read" in networked.fails(2, "put", "c", "x", "--token-file", "/none", env=env)
    assert networked.fails(77, "put", "c", "x", "--as", "root", env={**env, "ENGRAM_TOKEN": text})


def test_a_token_counts_on_the_unix_socket(networked: Shell) -> None:
    env = {"ENGRAM_TOKEN_FILE": str(networked.home / "token"), "ENGRAM_AGENT": ""}
    networked.ok("put", "c", "x", env=env)
    assert networked.ok("list", "c").lines[0].split("\t")[2] == "builder"
    assert networked.fails(77, "token", "list", env=env)


def test_a_command_that_is_started_shows_the_same_token(networked: Shell) -> None:
    """Whether the environment names it, or --token-file, which goes before ENGRAM_TOKEN."""
    env, text = away(networked), (networked.home / "token").read_text().strip()
    del env["ENGRAM_TOKEN_FILE"]
    relative = "token"
    inner = 'cd / && engram put nested "$1" && engram lock "@$1" -- engram put nested "$1, under a lock"'
    for number, (options, more) in enumerate([([], {"ENGRAM_TOKEN": text}), (["--token-file", relative], {"ENGRAM_TOKEN": "wrong"})]):
        done(networked, "run", "--context", "runs", *options, "--", "sh", "-c", inner, "sh", str(number), env={**env, **more})
    networked.ok("lock", "@x", "--token-file", relative, "--", "engram", "put", "nested", "2", env={**env, "ENGRAM_TOKEN": "wrong"})
    rows = [line.split("\t") for line in networked.ok("list", "nested").lines]
    assert [(row[2], row[4]) for row in rows] == [("builder", text) for text in ("0", "0, under a lock", "1", "1, under a lock", "2")]
    recorded = networked.ok("list", "runs").lines
    assert {line.split("\t")[2] for line in recorded} == {"builder"}
    assert text not in networked.ok("list", "runs", "--json").out


def test_a_follower_ends_when_its_token_is_revoked(networked: Shell) -> None:
    tail = networked.start("tail", "-f", **away(networked))
    name = (networked.home / "token").read_text()[4:14]

    def connections() -> int:
        return int(json.loads(networked.ok("token", "inspect", name, "--json").out)["connections"])

    until(lambda: connections() == 1, "the follower")
    assert "1 connection ended" in done(networked, "token", "revoke", name).err
    assert tail.wait() == 77
    assert "revoked" in tail.errors[0]


def test_tcp_is_for_this_machine(networked: Shell) -> None:
    env = {**away(networked), "ENGRAM_SOCKET": "tcp://192.0.2.1:7411"}
    assert "tls://" in networked.fails(77, "put", "c", "x", env=env)
    for nonsense in ("tcp://", "tcp://host:port", "tls://[::1", "tcp://a b:1", "http://127.0.0.1:7411"):
        assert nonsense in networked.fails(2, "put", "c", "x", "--socket", nonsense)
    env["ENGRAM_SOCKET"] = "tcp://127.0.0.1:1"
    assert "cannot connect" in networked.fails(69, "put", "c", "x", env=env)


def test_a_daemon_refuses_to_be_heard_by_everybody(alone: Shell) -> None:
    assert "tls.cert" in alone.run("--listen", "tcp://0.0.0.0:0", program="engramd").err
    ended = alone.run("--listen", "tls://0.0.0.0:0", program="engramd")
    assert (ended.code, "tls.cert" in ended.err) == (2, True)


def test_the_usual_port_is_never_fatal_and_one_that_was_asked_for_is(alone: Shell) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        url = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        ended = alone.run("--listen", url, program="engramd")
        assert (ended.code, "another program has the port" in ended.err) == (75, True)


class Pems:
    """What a machine and a client have."""

    def __init__(self, directory: Path) -> None:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(directory / "ca.pem"))
        for name, cert in (("server", authority.issue_cert("localhost", "127.0.0.1")), ("client", authority.issue_cert("c@example.org"))):
            cert.private_key_and_cert_chain_pem.write_to_path(str(directory / f"{name}.pem"))


def tls(alone: Shell, *options: str) -> dict[str, str]:
    """A daemon over TLS, and the environment of an agent that may use it."""
    Pems(alone.home)
    pem = str(alone.home / "server.pem")
    alone.daemon("--listen", "tls://127.0.0.1:0", "--tls-cert", pem, "--tls-key", pem, *options)
    (alone.home / "token").write_text(done(alone, "token", "issue", "builder").out)
    return {**away(alone), "ENGRAM_CA_FILE": str(alone.home / "ca.pem")}


def test_the_verbs_over_tls(alone: Shell) -> None:
    env = tls(alone)
    payload = b"x" * 900_000
    alone.ok("put", "work", "-", input=payload, env=env)
    assert alone.run("get", "1", env=env).code == 1, "the token's event is no unit"
    assert alone.ok("tail", "work", "--json", env=env).raw.count(payload) == 1
    assert alone.ok("lock", "@x", "--", "echo", "under it", env=env).out == "under it\n"
    lines = "".join(f'{{"id": {number}, "op": "put", "context": "p", "text": "{number}"}}\n' for number in range(300))
    assert len(alone.ok("pipe", input=lines.encode(), env=env).lines) == 300
    assert "ENGRAM_CA_FILE" in alone.fails(77, "list", "work", env={**env, "ENGRAM_CA_FILE": ""})
    assert alone.fails(2, "list", "work", env={**env, "ENGRAM_CA_FILE": "/none"})


def test_clients_with_certificates(alone: Shell) -> None:
    env = tls(alone, "--tls-client-ca", str(alone.home / "ca.pem"))
    cert = str(alone.home / "client.pem")
    alone.ok("put", "work", "x", env={**env, "ENGRAM_CERT_FILE": cert, "ENGRAM_KEY_FILE": cert})
    refused = alone.run("put", "work", "x", env=env)
    assert (refused.code, "certificate required" in refused.err, "ENGRAM_CERT_FILE" in refused.err) == (77, True, True)
    assert refused.seconds < 4, "it is not tried again"
    token = (alone.home / "token").read_text().strip()

    async def main() -> None:
        with pytest.raises(EngramError, match="certificate required") as refused:
            async with trio_client.Client(env["ENGRAM_SOCKET"], token=token, ca_file=env["ENGRAM_CA_FILE"]) as client:
                await client.connect()
        assert refused.value.code == "denied"

    trio.run(main)


def test_the_python_clients_over_tls(alone: Shell) -> None:
    env = tls(alone)
    options = {"socket": env["ENGRAM_SOCKET"], "token": (alone.home / "token").read_text().strip(), "ca_file": env["ENGRAM_CA_FILE"]}
    with Client(**options) as client:  # type: ignore[arg-type]
        made = client.put("work", "y" * 600_000)
        assert client.agent == "builder"
        assert client.get(made.id)[0].agent == "builder"
        with pytest.raises(EngramError, match="permission admin"):
            list(client.token_list())

    async def main() -> None:
        async with trio_client.Client(**options) as client:  # type: ignore[arg-type]
            assert [unit.seq async for unit in client.tail("work", last=5, follow=False)] == [made.seq]
            assert client.agent == "builder"
        with pytest.raises(EngramError) as refused:
            async with trio_client.Client(**{**options, "ca_file": None}) as client:  # type: ignore[arg-type]
                await client.connect()
        assert refused.value.code == "denied"

    trio.run(main)


def test_a_search_ranks_only_what_may_be_seen(networked: Shell) -> None:
    for context, text in (("open", "the parser fails on empty files"), ("secret", "the parser key is under the mat")):
        networked.put(context, text)
    for globs, found in ((["o*"], 1), (["open"], 1), (["none*"], 0), (["*"], 2)):
        (networked.home / "limited").write_text(done(networked, "token", "issue", "bob", *[f"--context={glob}" for glob in globs]).out)
        env = {**away(networked), "ENGRAM_TOKEN_FILE": str(networked.home / "limited")}
        searched = networked.run("search", "parser", "--json", "--timeout", "25s", env=env)
        assert len(searched.lines) == found, searched
        assert searched.code == (0 if found else 1)
        assert "mat" not in searched.out or found == 2


def as_user(user: pwd.struct_passwd, work: Callable[[], str]) -> str:
    """What a piece of work says that is done as another user, in a process of its own."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.setgroups([])
            os.setgid(user.pw_gid)
            os.setuid(user.pw_uid)
            os.write(writing, work().encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as said:
        found = said.read()
    os.waitpid(pid, 0)
    return found


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
@pytest.mark.parametrize("named", [True, False])
def test_another_user_is_let_in_by_name_alone(alone: Shell, monkeypatch: pytest.MonkeyPatch, named: bool) -> None:
    user = pwd.getpwuid(1)
    alone.daemon("--auth-users", user.pw_name if named else "somebody-else")
    os.chmod(alone.home, 0o755)
    monkeypatch.setenv("ENGRAM_DAEMON_USER", "root")
    monkeypatch.setenv("HOME", "/")

    def work() -> str:
        said = []
        for agent in (user.pw_name, "root"):
            with Client(str(alone.socket), agent=agent, autostart=False) as client:
                for ask in (lambda: client.put("shared", "x"), client.shutdown):
                    try:
                        ask()
                        said.append("done")
                    except EngramError as error:
                        said.append(error.code)
        return " ".join(said)

    assert as_user(user, work) == ("done denied denied denied" if named else "denied denied denied denied")
    monkeypatch.delenv("ENGRAM_DAEMON_USER")
    assert as_user(user, work) == "denied denied denied denied", "nor does a client trust just anybody's daemon"


def test_the_unix_socket_asks_for_tokens_where_it_is_told_to(networked: Shell) -> None:
    done(networked, "daemon", "stop")
    networked.start("--auth-require-token", "true", program="engramd")
    env = {"ENGRAM_TOKEN_FILE": str(networked.home / "token"), "ENGRAM_AGENT": "", "ENGRAM_AUTH_REQUIRE_TOKEN": "true"}
    until(lambda: networked.run("put", "c", "x", "--no-autostart", env=env).code == 0, "the daemon")
    assert "auth.require_token" in networked.fails(77, "put", "c", "x")
    said = networked.fails(77, "daemon", "start").splitlines()
    assert ("runs at" in said[0], "auth.require_token" in said[1]) == (True, True)
