"""`daemon install`, `uninstall` and `logs`: the units are valid and do what they say. No user manager runs where tests do."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from commandline import PATIENCE, Shell, until

from engram_cli import systemd

ANALYZE = shutil.which("systemd-analyze")
ACTIVATE = shutil.which("systemd-socket-activate")


def written(alone: Shell, *arguments: str, **env: str) -> dict[str, str]:
    """The units as `--dry-run` prints them, by name."""
    done = alone.ok("daemon", "install", "--dry-run", *arguments, env=env)
    parts = re.split(r"^# \S*/(engramd\.\w+)$", done.out, flags=re.M)
    return {name: text.strip("\n") + "\n" for name, text in zip(parts[1::2], parts[2::2], strict=True)}


@pytest.mark.skipif(ANALYZE is None, reason="needs systemd-analyze")
def test_systemd_finds_nothing_wrong_with_the_units(alone: Shell) -> None:
    units = written(alone)
    for name, text in units.items():
        (alone.home / name).write_text(text)
    runtime = alone.home / "run"
    runtime.mkdir(mode=0o700)
    env = {**alone.env, "XDG_RUNTIME_DIR": str(runtime)}
    command = [ANALYZE or "", "verify", "--user", "--man=no", *(str(alone.home / name) for name in units)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_the_units_say(alone: Shell) -> None:
    runtime = str(alone.home / "run")
    units = written(
        alone,
        XDG_RUNTIME_DIR=runtime,
        ENGRAM_SOCKET=f"{runtime}/engram/engramd.sock",
        ENGRAM_TOKEN="secret",
        ENGRAM_DATA_DIR="data %1",
        ENGRAM_TOKEN_FILE="secret.file",
        ENGRAM_LISTEN="tls://0.0.0.0:7412",
        ENGRAM_TLS_CERT="cert.pem",
        ENGRAM_DAEMON_USER="secret",
    )
    assert "ListenStream=%t/engram/engramd.sock\n" in units["engramd.socket"]
    service = units["engramd.service"]
    assert f'Environment="ENGRAM_DATA_DIR={alone.home}/data %%1"\n' in service
    assert "ENGRAM_LISTEN=tls://0.0.0.0:7412" in service
    assert f"ENGRAM_TLS_CERT={alone.home}/cert.pem" in service
    assert "secret" not in service
    assert "ENGRAM_AGENT" not in service
    assert "\nRuntimeDirectory" not in service
    assert "\nStateDirectory" not in service
    program = shlex.split(re.search(r"^ExecStart=(.*)$", service, re.M)[1])  # type: ignore[index]
    assert os.path.isabs(program[0])
    assert not systemd.directory({"HOME": str(alone.home), "XDG_CONFIG_HOME": str(alone.home / "none")}).exists(), "nothing is written"


def test_words_are_quoted_as_systemd_reads_them() -> None:
    units = systemd.units("/a b/100%/s", "/run/user/1", ["/opt/my python", "-P", "$x", 'a"b', ""], {"A": "it's"})
    assert "ListenStream=/a b/100%%/s\n" in units["engramd.socket"]
    assert 'ExecStart="/opt/my python" -P "$$x" "a\\"b" ""\n' in units["engramd.service"]
    assert 'Environment="A=it\'s"\n' in units["engramd.service"]


@pytest.mark.skipif(ACTIVATE is None, reason="needs systemd-socket-activate")
def test_the_service_s_command_serves_the_socket_it_is_given(alone: Shell) -> None:
    service = written(alone)["engramd.service"]
    program = shlex.split(re.search(r"^ExecStart=(.*)$", service, re.M)[1])  # type: ignore[index]
    variables = [f"--setenv={line.partition('=')[2].strip(chr(34))}" for line in service.splitlines() if line.startswith("Environment=")]
    command = [ACTIVATE or "", f"--listen={alone.socket}", f"--setenv=HOME={alone.home}", *variables, *program]
    with subprocess.Popen(command, env=alone.env, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            until(alone.socket.exists, "the socket")
            alone.put("c", "x", "--no-autostart")
            facts = alone.ok("status", "--json").objects[0]
            assert (facts["pid"], facts["data_dir"]) == (process.pid, str(alone.data))
        finally:
            process.terminate()


@pytest.mark.skipif(shutil.which("systemctl") is None, reason="needs systemctl")
def test_without_a_user_manager_it_says_so(alone: Shell) -> None:
    config = alone.home / "config"
    runtime = alone.home / "run"
    runtime.mkdir(mode=0o700)
    env = {"XDG_CONFIG_HOME": str(config), "XDG_RUNTIME_DIR": str(runtime), "DBUS_SESSION_BUS_ADDRESS": ""}
    done = alone.run("daemon", "install", env=env)
    assert done.code == 69
    assert "systemctl --user daemon-reload" in done.err
    assert sorted(path.name for path in (config / "systemd/user").iterdir()) == ["engramd.service", "engramd.socket"]
    assert "nothing is installed" in alone.run("daemon", "uninstall", env={**env, "XDG_CONFIG_HOME": str(alone.home / "other")}).err


def test_without_systemd_it_says_what_happens_instead(alone: Shell) -> None:
    path = alone.home / "bin"
    path.mkdir()
    for program in ("engram", "python", "env"):
        found = shutil.which(program, path=alone.env["PATH"])
        assert found
        (path / program).symlink_to(found)
    assert "commands start the daemon by themselves" in alone.fails(69, "daemon", "install", env={"PATH": str(path)})


def test_logs_shows_the_log_file(alone: Shell) -> None:
    config = {"XDG_CONFIG_HOME": str(alone.home / "config")}
    assert "no" in alone.fails(1, "daemon", "logs", env=config)
    alone.ok("daemon", "socket")
    alone.put("c", "x")
    lines = alone.ok("daemon", "logs", env=config).lines
    assert "listens at" in lines[-1]
    assert alone.ok("daemon", "logs", "-n", "0", env=config).lines == []
    assert Path(alone.data / "engramd.log").exists()
