"""The systemd user units of a daemon, as texts, and where they stand. See systemd.socket(5), systemd.service(5), systemd.exec(5).

There is no `RuntimeDirectory=`, which would remove the socket's directory with the service, and no `StateDirectory=`, since systemd and
the command line would then keep two different stores.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

SOCKET, SERVICE = "engramd.socket", "engramd.service"

_SOCKET_UNIT = """\
[Unit]
Description=Engram: the socket of its daemon
Documentation=man:engramd(1)

[Socket]
ListenStream={listen}
SocketMode=0600
DirectoryMode=0700

[Install]
WantedBy=sockets.target
"""

_SERVICE_UNIT = """\
[Unit]
Description=Engram: one durable, ordered log of work units for several agents
Documentation=man:engramd(1)
Requires={socket}
After={socket}

[Service]
Type=notify
ExecStart={command}
{environment}Restart=on-failure
RestartSec=1
WatchdogSec=60
TimeoutStopSec=30
LimitNOFILE=65536
UMask=0077
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM

[Install]
Also={socket}
WantedBy=default.target
"""


def units(socket: str, runtime_dir: str | None, command: Sequence[str], environment: Mapping[str, str]) -> dict[str, str]:
    """The units by file name.

    Args:
        socket: the socket's path; one inside `runtime_dir` is written as `%t/…`, so that it holds wherever that is.
        command: the daemon's command line; its program must be an absolute path.
        environment: variables that the daemon needs.
    """
    inside = runtime_dir and os.path.isabs(runtime_dir) and socket.startswith(f"{runtime_dir.rstrip('/')}/")
    listen = "%t" + _plain(socket[len(runtime_dir.rstrip("/")) :]) if inside and runtime_dir else _plain(socket)
    variables = "".join(f"Environment={_quoted(f'{name}={value}')}\n" for name, value in sorted(environment.items()))
    return {
        SOCKET: _SOCKET_UNIT.format(listen=listen),
        SERVICE: _SERVICE_UNIT.format(socket=SOCKET, command=" ".join(map(_quoted, command)), environment=variables),
    }


def directory(env: Mapping[str, str] = os.environ) -> Path:
    """Where a user's own units stand (systemd.unit(5))."""
    home = env.get("XDG_CONFIG_HOME")
    base = Path(home) if home and os.path.isabs(home) else Path.home() / ".config"
    return base / "systemd" / "user"


def _plain(value: str) -> str:
    return value.replace("%", "%%")


def _quoted(value: str) -> str:
    """A word of a command line or an assignment: specifiers, variables and quotes are taken literally."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$").replace("\n", "\\n")
    return f'"{escaped}"' if escaped != value or " " in value or "'" in value or not value else value
