"""`engram mcp`: the operations as MCP tools on standard input and output."""

from __future__ import annotations

import sys

from engramd.protocol.errors import EngramError

from .. import settings
from ..common import Common
from ..output import note

MISSING = "the MCP server needs the mcp package, which is not installed; install it with: pip install 'engram[mcp]'"


def run(common: Common, most: int) -> None:
    """Serve until stdin ends."""
    try:
        from ..mcp import server
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("anyio", "jsonschema", "mcp", "mcp_types"):
            raise
        raise EngramError("unavailable", MISSING) from None
    if sys.stdin.isatty():
        note("engram: this speaks MCP on stdin and stdout, with a program that runs an agent (see: engram help mcp)")
    import trio

    from ..mcp.tools import SECONDS
    from ..trio_client import Client

    client = Client(
        common.socket,
        agent=common.agent,
        autostart=not common.no_autostart,
        timeout=common.seconds or SECONDS,
        presence=True,
    )
    trio.run(server.serve, client, settings.default("context"), most)
