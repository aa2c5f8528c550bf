"""The daemon as a process: starting, stopping, saying how it stands, and its options."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from commandline import Shell, until


def test_nothing_runs_and_nobody_starts_it_to_ask(alone: Shell) -> None:
    for arguments in (["status"], ["daemon", "status"]):
        assert str(alone.socket) in alone.fails(69, *arguments)
    stopped = alone.run("daemon", "stop")
    assert (stopped.code, stopped.raw, stopped.err) == (0, b"", "engramd does not run\n")
    assert alone.ok("daemon", "socket").out == f"{alone.socket}\n"
    for arguments in (["put", "c", "x"], ["list", "c"], ["tail", "-f"], ["context", "list"], ["pipe"]):
        assert "engram daemon start" in alone.fails(69, *arguments, "--no-autostart")
    assert not alone.data.exists()
    assert not alone.socket.exists()


def test_start_status_restart_stop(alone: Shell) -> None:
    started = alone.run("daemon", "start")
    assert (started.code, started.raw, started.err) == (0, b"", f"engramd started at {alone.socket}\n")
    first = alone.daemon_pid()
    assert f"pid {first}" in alone.ok("daemon", "status").out
    facts = alone.ok("daemon", "status", "--json").objects[0]
    assert (facts["pid"], facts["socket"], facts["data_dir"], facts["last_seq"]) == (first, str(alone.socket), str(alone.data), 0)
    status = dict(line.split("\t") for line in alone.ok("status").lines)
    assert (status["pid"], status["subscriptions"]) == (str(first), "0")
    assert alone.run("daemon", "start").err == f"engramd runs at {alone.socket}\n"
    assert alone.daemon_pid() == first

    restarted = alone.run("daemon", "restart")
    assert (restarted.code, restarted.raw) == (0, b"")
    second = alone.daemon_pid()
    assert second not in (None, first)

    stopped = alone.run("daemon", "stop")
    assert (stopped.code, stopped.raw, stopped.err) == (0, b"", f"engramd (pid {second}) stopped\n")
    assert alone.daemon_pid() is None
    assert not alone.socket.exists()
    assert not Path(f"/proc/{second}").exists() or "Z" in Path(f"/proc/{second}/stat").read_text()

    assert alone.run("daemon", "restart").code == 0
    assert alone.daemon_pid() is not None
    messages = [json.loads(line) for line in (alone.data / "engramd.log").read_text().splitlines()]
    assert all({"ts", "level", "logger", "message"} <= message.keys() for message in messages)


@pytest.mark.parametrize(("number", "command"), [(signal.SIGTERM, ["engramd"]), (signal.SIGINT, ["engram", "daemon", "run"])])
def test_in_the_foreground_a_signal_ends_it_cleanly(alone: Shell, number: signal.Signals, command: list[str]) -> None:
    daemon = alone.start(*command[1:], program=command[0])
    until(lambda: bool(daemon.errors), "the daemon to say that it listens")
    assert json.loads(daemon.errors[0])["message"].endswith(f"(pid {daemon.pid}) listens at {alone.socket}, log at seq 0")
    client = alone.client()
    client.put("c", "kept")
    reader = alone.start("tail", "-f", "--timeout", "0.2", "c")
    assert reader.expect_lines(1)[0].endswith("\tkept")
    daemon.signal(number)
    assert daemon.wait() == 0
    assert (daemon.lines, json.loads(daemon.errors[-1])["message"]) == ([], "stopped")
    assert not alone.socket.exists()
    assert reader.wait() == 124


def test_run_passes_options_on(alone: Shell) -> None:
    daemon = alone.start("daemon", "run", "--", "--log-format", "human", "--data-dir", str(alone.home / "elsewhere"))
    until(lambda: bool(daemon.errors), "the daemon to say that it listens")
    assert " INFO " in daemon.errors[0]
    assert alone.client().status()["data_dir"] == str(alone.home / "elsewhere")
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0


def test_a_data_directory_has_one_daemon(alone: Shell) -> None:
    first = alone.daemon()
    error = alone.fails(75, "--socket", str(alone.home / "t"), program="engramd")
    assert f"pid {first.pid}" in error
    assert str(alone.data) in error
    error = alone.fails(75, "--data-dir", str(alone.home / "elsewhere"), program="engramd")
    assert str(alone.socket) in error
    assert alone.client().status()["pid"] == first.pid
    assert not (alone.home / "t").exists()


def test_a_stale_socket_is_replaced(alone: Shell) -> None:
    alone.daemon()
    alone.client().put("c", "kept")
    alone.kill_daemon()
    assert alone.socket.exists()
    assert str(alone.socket) in alone.fails(69, "status")
    alone.daemon()
    assert alone.ok("list", "c").texts == ["kept"]


def test_only_the_owner_gets_near(alone: Shell) -> None:
    nested = alone.home / "made" / "here"
    alone.ok("put", "c", "x", env={"ENGRAM_SOCKET": str(nested / "s"), "ENGRAM_DATA_DIR": str(alone.data)})
    for path, mode in ((nested, 0o700), (alone.data, 0o700), (nested / "s", 0o600)):
        assert path.stat().st_mode & 0o777 == mode, path


def test_check_config_tells_every_option_and_where_it_comes_from(alone: Shell) -> None:
    config = alone.home / "engram.toml"
    config.write_text('max_connections = 7\nlog_level = "debug"\nmax_payload = "2MiB"\n[client]\ncontext = "c"\n')
    env = {"ENGRAM_CONFIG": str(config), "ENGRAM_LOG_LEVEL": "warning", "ENGRAM_LOG_FORMAT": "human"}
    shown = alone.ok("--check-config", "--log-format", "json", program="engramd", env=env).lines
    assert f"max_connections = 7  # file {config}" in shown
    assert f"max_payload = 2097152  # file {config}" in shown
    assert "log_level = 'warning'  # environment variable ENGRAM_LOG_LEVEL" in shown
    assert "log_format = 'json'  # flag --log-format" in shown
    assert f"socket = '{alone.socket}'  # environment variable ENGRAM_SOCKET" in shown
    assert f"data_dir = '{alone.data}'  # environment variable ENGRAM_DATA_DIR" in shown
    assert "log_file = None  # default" in shown
    assert not alone.data.exists()


def test_the_usual_places(alone: Shell) -> None:
    env = {"ENGRAM_SOCKET": "", "ENGRAM_DATA_DIR": "", "XDG_RUNTIME_DIR": "/run/x", "XDG_DATA_HOME": "/data/x"}
    shown = alone.ok("--check-config", program="engramd", env=env).out
    assert "socket = '/run/x/engram/engramd.sock'  # default" in shown
    assert "data_dir = '/data/x/engram'  # default" in shown
    assert alone.ok("daemon", "socket", env=env).out == "/run/x/engram/engramd.sock\n"


def test_a_bad_option_is_named_with_its_source(alone: Shell) -> None:
    config = alone.home / "engram.toml"
    for text, flags, env, words in (
        ("", ["--max-payload", "17MiB"], {}, ["flag --max-payload", "17MiB"]),
        ("", ["--lock-wait", "ages"], {}, ["flag --lock-wait", "ages"]),
        ("", [], {"ENGRAM_MAX_CONNECTIONS": "many"}, ["environment variable ENGRAM_MAX_CONNECTIONS", "many"]),
        ('log_level = "loud"', [], {}, [f"file {config}", "log_level", "loud"]),
        ("max_connections = true", [], {}, [f"file {config}", "max_connections"]),
        ("max_conections = 1", [], {}, [str(config), "max_conections", "max_connections"]),
        ("ready_fd = 1", [], {}, [str(config), "ready_fd"]),
        ("not toml", [], {}, [str(config), "TOML"]),
        ("", ["--config", "not there.toml"], {}, ["not there.toml"]),
    ):
        config.write_text(text)
        error = alone.fails(2, "--check-config", *flags, program="engramd", env={"ENGRAM_CONFIG": str(config), **env})
        assert all(word in error for word in words), error
    assert "--nonsense" in alone.fails(2, "--nonsense", program="engramd")


def test_a_limit_of_the_configuration_holds(alone: Shell) -> None:
    alone.daemon(ENGRAM_MAX_PAYLOAD="1KiB", ENGRAM_MAX_CONNECTIONS="2")
    assert "1024" in alone.fails(2, "put", "c", "x" * 1025)
    alone.put("c", "x" * 1024)
    holders = [alone.client() for _ in range(2)]
    for holder in holders:
        holder.connect()
    assert "max_connections" in alone.fails(75, "list", "c")
    holders[0].close()
    until(lambda: alone.run("list", "c").code == 0, "the connection to be free again")


def test_a_daemon_that_does_not_answer_is_reported_soon_with_what_to_do(alone: Shell) -> None:
    daemon = alone.daemon()
    alone.client().put("c", "x")
    os.kill(daemon.pid, signal.SIGSTOP)
    verbs = (["put", "c", "y"], ["list", "c"], ["tail", "-f", "c"], ["status"], ["daemon", "stop"])
    commands = [alone.start(*verb) for verb in verbs]
    for verb, command in zip(verbs, commands, strict=True):
        assert command.process.wait(6) == 69, verb
        assert command.wait() == 69
        assert f"kill -CONT {daemon.pid}" in command.errors[0]
        assert (len(command.errors), command.lines) == (1, [])
    os.kill(daemon.pid, signal.SIGCONT)
    assert alone.ok("list", "c").texts == ["x"]


def test_a_daemon_that_cannot_start_says_why(alone: Shell) -> None:
    alone.data.write_text("in the way")
    assert str(alone.data) in alone.fails(69, "put", "c", "x")
    assert str(alone.data) in alone.fails(69, "tail", "-f", "c")
    assert str(alone.data) in alone.fails(69, "daemon", "start")


def test_a_path_too_long_for_a_socket_is_refused_with_its_limit(alone: Shell) -> None:
    longest = alone.home / ("x" * (107 - len(os.fsencode(alone.home)) - 1))
    assert "107" in alone.fails(2, "put", "c", "x", "--socket", f"{longest}x")
    assert "107" in alone.fails(2, "--check-config", "--socket", f"{longest}x", program="engramd")


def test_paths_may_be_relative(alone: Shell) -> None:
    (alone.home / "config.toml").write_text("max_connections = 7\n")
    alone.put("c", "x", env={"ENGRAM_DATA_DIR": "here", "ENGRAM_SOCKET": "sock", "ENGRAM_CONFIG": "config.toml"})
    assert (alone.home / "sock").is_socket()
    alone.data = alone.home / "here"
    assert alone.daemon_pid() is not None


def test_versions(alone: Shell) -> None:
    assert alone.ok("--version", program="engramd").out.startswith("engramd ")
