"""`engram daemon install`, `uninstall` and `logs`: the daemon as a systemd user service, and what it has to say."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from engramd.protocol.address import data_dir, socket_path
from engramd.protocol.errors import EngramError

from .. import autostart, settings, systemd
from ..common import Common
from ..output import note
from . import daemon

# Variables that are a command's business, or a secret, and have no place in a unit that anybody may read.
NOT_KEPT = (
    *("ENGRAM_SOCKET", "ENGRAM_AGENT", "ENGRAM_CONTEXT", "ENGRAM_SESSION", "ENGRAM_LOG_FILE", "ENGRAM_TOKEN", "ENGRAM_EMBEDDER_KEY"),
    *("ENGRAM_LOCK_TOKEN", "ENGRAM_TOKEN_FILE", "ENGRAM_CA_FILE", "ENGRAM_CERT_FILE", "ENGRAM_KEY_FILE", "ENGRAM_DAEMON_USER"),
)


def install(common: Common, dry_run: bool) -> None:
    """Write the units and enable the socket; a daemon that runs is stopped first, and comes back with the next command."""
    socket = socket_path(common.socket or settings.socket())
    kept = {name: value for name, value in autostart.environment().items() if name.startswith("ENGRAM_") and name not in NOT_KEPT}
    command = [sys.executable, "-P", "-m", "engramd"]
    made = systemd.units(socket, os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}", command, kept)
    if dry_run:
        for name, text in made.items():
            common.output().line(f"# {systemd.directory() / name}\n{text}")
        return
    _needs("systemctl")
    for name, text in made.items():
        _write(systemd.directory() / name, text)
    _systemctl("daemon-reload")
    if autostart.listening(socket) and not _enabled():
        daemon.stop(common)
    _systemctl("enable", "--now", systemd.SOCKET)
    _systemctl("try-restart", systemd.SERVICE)
    note(f"{systemd.SOCKET} listens at {socket}; the first command starts the daemon")
    note("to have it run from boot on, without a login: loginctl enable-linger")


def uninstall(common: Common) -> None:
    """Stop the service, disable it and remove the units. What is stored stays."""
    found = [path for name in (systemd.SOCKET, systemd.SERVICE) if (path := systemd.directory() / name).exists()]
    if not found:
        note(f"nothing is installed in {systemd.directory()}")
        return
    _needs("systemctl")
    _systemctl("disable", "--now", systemd.SOCKET, systemd.SERVICE)
    for path in found:
        path.unlink()
    _systemctl("daemon-reload")
    note(f"removed {' and '.join(map(str, found))}; the log stays in {data_dir()}")


def logs(common: Common, lines: int, follow: bool) -> None:
    """Become what shows the daemon's messages: journalctl for a service, else tail on the log file."""
    sys.stdout.flush()
    if (systemd.directory() / systemd.SERVICE).exists() and shutil.which("journalctl"):
        arguments = ["journalctl", "--user-unit", systemd.SERVICE, "-n", str(lines), *(["-f"] if follow else [])]
    else:
        file = os.environ.get("ENGRAM_LOG_FILE", "auto")
        file = str(data_dir() / "engramd.log") if file == "auto" else file
        if not os.path.exists(file):
            raise EngramError("not_found", f"there is no {file}: only a daemon that a command has started writes one")
        arguments = ["tail", "-n", str(lines), *(["-F"] if follow else []), file]
    os.execvp(arguments[0], arguments)


def _write(path: os.PathLike[str], text: str) -> None:
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as unit:
            unit.write(text)
    except OSError as error:
        raise EngramError("denied", f"{path} cannot be written: {error.strerror}") from error
    note(f"wrote {os.fspath(path)}")


def _needs(program: str) -> None:
    if shutil.which(program) is None:
        raise EngramError("unavailable", f"there is no {program} here; commands start the daemon by themselves")


def _enabled() -> bool:
    """Whether the socket is systemd's already."""
    asked = subprocess.run(["systemctl", "--user", "is-active", systemd.SOCKET], capture_output=True, check=False)
    return asked.returncode == 0


def _systemctl(*arguments: str) -> None:
    done = subprocess.run(["systemctl", "--user", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or f"exit code {done.returncode}").replace("\n", "; ")
        raise EngramError("unavailable", f"systemctl --user {' '.join(arguments)}: {said}. Run it again in a session of yours")
