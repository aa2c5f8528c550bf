"""The tools and resources as an MCP server: the SDK's words around `tools`."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from urllib.parse import quote, unquote

import mcp_types as types
import trio
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError

from engramd import __version__
from engramd.protocol.errors import EngramError
from engramd.protocol.render import plain

from ..trio_client import Client
from . import tools
from .budget import Answer
from .stdio import Incoming, Outgoing, Stdio
from .tools import Tool, Toolbox

logger = logging.getLogger("engram.mcp")

MAX_CALLS = 64  # under way at a time
LISTED = 50  # contexts in one page of resources, and units in one resource
CONTEXT, PACK = "engram://context/", "engram://pack/"  # resources: a context's name follows
INSTRUCTIONS = (
    "Engram is the shared log of the agents who work here: what is put is on disk, in one order, and seen by all. You are the agent "
    "{agent}. "
    "Read recent before you start, search before you decide, lock the files you change, and put what the others should know. "
    "Answers keep to {most} bytes; `cut` and `omitted` say what is missing and how to get it."
)
HINTS = {
    "locked": "work on something else, call lock again with wait, or ask the holder",
    "deadlock": "release a lock of yours that another waits for, then ask again",
    "conflict": "read what came since with recent, then decide again",
    "stale": "take the lock again and check what others did meanwhile",
    "not_found": "look for it with recent or search",
    "unavailable": "try again in a moment; if it stays so, tell your user to run: engram daemon status",
    "outcome_unknown": "look with recent whether it happened, or repeat it with the same dedupe key",
    "timeout": "try again, or with more time",
    "busy": "try again in a moment",
    "too_large": "ask for less, or put a reference to a file instead",
    "invalid": "mend the arguments",
    "denied": "do without, or tell your user what you may not do",
}

Context = ServerRequestContext[Any, Any]
P = TypeVar("P")
R = TypeVar("R")


async def serve(client: Client, context: str | None, most: int) -> None:
    """Serve on standard input and output until the input ends.

    Args:
        context: the one that is meant when none is given, if any.
        most: bytes that an answer may have.
    """
    stdio = Stdio()
    async with client, trio.open_nursery() as nursery:
        if not client.agent:  # only the token says who acts
            await client.connect()
        box = Toolbox(client, context, most, nursery)
        nursery.start_soon(box.watch)
        server = Door(box).server

        async def run(incoming: Incoming, outgoing: Outgoing) -> None:
            await server.run(incoming, outgoing, server.create_initialization_options())

        await stdio.run(run)
        nursery.cancel_scope.cancel()


class Door:
    """The handlers of one server."""

    def __init__(self, box: Toolbox) -> None:
        self._box = box
        self._tools = tools.tools(box.context)
        self._checks = {name: Draft202012Validator(tool.schema()) for name, tool in self._tools.items()}
        self._calls = 0
        self.server: Server[Any] = Server(
            "engram",
            version=__version__,
            instructions=INSTRUCTIONS.format(agent=box.client.agent, most=box.most),
            on_list_tools=self._list_tools,
            on_call_tool=self._limited(self._call_tool),
            on_list_resources=self._limited(self._list_resources),
            on_list_resource_templates=self._list_templates,
            on_read_resource=self._limited(self._read_resource),
        )

    def _limited(self, handler: Callable[[Context, P], Awaitable[R]]) -> Callable[[Context, P], Awaitable[R]]:
        """A handler that refuses to be the one too many."""

        async def limited(ctx: Context, params: P) -> R:
            if self._calls >= MAX_CALLS:
                raise MCPError(types.INTERNAL_ERROR, f"busy: {MAX_CALLS} calls are under way; wait for one to end")
            self._calls += 1
            try:
                return await handler(ctx, params)
            except EngramError as error:
                raise MCPError(types.INVALID_PARAMS, f"{error.code}: {error.message[: self._box.most]}") from None
            finally:
                self._calls -= 1

        return limited

    # Tools

    async def _list_tools(self, ctx: Context, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[_described(tool) for tool in self._tools.values()])

    async def _call_tool(self, ctx: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
        tool = self._tools.get(params.name)
        if tool is None:
            raise MCPError(types.INVALID_PARAMS, f"there is no tool {params.name[:60]!r}; there are {', '.join(self._tools)}")
        try:
            text = await self._box.call(tool, self._checked(tool, params.arguments or {}))
            is_error = False
        except EngramError as error:
            text, is_error = self._failed(error), True
        except Exception:
            logger.exception("the tool %s failed", tool.name)
            text, is_error = self._failed(EngramError("internal", f"{tool.name} failed at this; the server's stderr has the details")), True
        return types.CallToolResult(content=[types.TextContent(type="text", text=text)], is_error=is_error)

    def _failed(self, error: EngramError) -> str:
        """What went wrong, and what to do."""
        is_unknown = error.details.get("outcome") == "unknown"  # a write that was not answered in time
        hint = self._box.hint(error) or HINTS.get("outcome_unknown" if is_unknown else error.code)
        return Answer({"error": plain(error.to_wire()) | ({"hint": hint} if hint else {})}).fit(self._box.most)

    def _checked(self, tool: Tool, arguments: dict[str, Any]) -> dict[str, Any]:
        """The arguments, if they fit the tool's schema; a whole number may be written as 1.0, as JSON has it."""
        wrong = best_match(self._checks[tool.name].iter_errors(arguments))
        if wrong is not None:
            where = ".".join(map(str, wrong.absolute_path)) or "arguments"
            raise EngramError("invalid", f"{tool.name}: {where[:200]}: {wrong.message[:500]}")
        return {name: _with_whole_numbers(f"{tool.name}: {name}", value) for name, value in arguments.items()}

    # Resources

    async def _list_resources(self, ctx: Context, params: types.PaginatedRequestParams | None) -> types.ListResourcesResult:
        after = {} if params is None or params.cursor is None else {"after": params.cursor}
        page = await self._box.client.request("context_list", {"limit": LISTED, **after})
        found: list[types.Resource] = []
        size, last = 0, None
        for context in page["contexts"]:
            resources = _resources(context)
            size += sum(len(resource.model_dump_json()) for resource in resources)
            if found and size > self._box.most:
                return types.ListResourcesResult(resources=found, next_cursor=last)
            found += resources
            last = context["id"]
        return types.ListResourcesResult(resources=found, next_cursor=page["next"])

    async def _list_templates(self, ctx: Context, params: types.PaginatedRequestParams | None) -> types.ListResourceTemplatesResult:
        context = types.ResourceTemplate(
            uri_template=CONTEXT + "{context}",
            name="context",
            title="A context",
            description="What a context is, its pinned units, and its last units",
            mime_type="application/json",
        )
        pack = types.ResourceTemplate(
            uri_template=PACK + "{context}",
            name="pack",
            title="A pack of a context",
            description=f"What matters of a context for the next step, in {tools.PACK_TOKENS} tokens",
            mime_type="text/markdown",
        )
        return types.ListResourceTemplatesResult(resource_templates=[context, pack])

    async def _read_resource(self, ctx: Context, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
        uri = str(params.uri)
        for prefix, mime_type, read in ((CONTEXT, "application/json", self._context), (PACK, "text/markdown", self._pack)):
            if uri.startswith(prefix):
                text = await read(unquote(uri.removeprefix(prefix)))
                return types.ReadResourceResult(contents=[types.TextResourceContents(uri=uri, mime_type=mime_type, text=text)])
        raise MCPError(types.INVALID_PARAMS, f"there is no resource {uri[:100]!r}; there are {CONTEXT}NAME and {PACK}NAME")

    async def _context(self, context: str) -> str:
        client = self._box.client
        described = plain(await client.context_show(context))
        units = [self._box.unit(unit) async for unit in client.list(context, reverse=True, limit=LISTED)][::-1]
        return Answer({"context": described, "units": units}, "units", "last").fit(self._box.most)

    async def _pack(self, context: str) -> str:
        await self._box.client.context_show(context)  # fails when there is none: its pack would be empty
        made = await self._box.packed([context], tools.PACK_TOKENS, lambda made: len(made.text))
        return made.text.decode()


def _resources(context: dict[str, Any]) -> list[types.Resource]:
    """What a context can be read as."""
    name, units = quote(context["id"], safe=""), context["units"]
    return [
        types.Resource(
            uri=CONTEXT + name,
            name=context["id"],
            title=context["display_name"],
            description=f"{units} units, the last ones of which this shows",
            mime_type="application/json",
        ),
        types.Resource(
            uri=PACK + name,
            name=f"{context['id']} (pack)",
            title=f"{context['display_name']} (pack)",
            description=f"what matters of {units} units, in {tools.PACK_TOKENS} tokens",
            mime_type="text/markdown",
        ),
    ]


def _with_whole_numbers(name: str, value: Any) -> Any:
    """An argument as it can be sent: numbers are whole where they are, in lists and maps too."""
    if isinstance(value, list):
        return [_with_whole_numbers(name, member) for member in value]
    if isinstance(value, dict):
        return {key: _with_whole_numbers(name, member) for key, member in value.items()}
    if not isinstance(value, float):
        return value
    if not math.isfinite(value):
        raise EngramError("invalid", f"{name}: must be a finite number")
    return int(value) if value.is_integer() else value


def _described(tool: Tool) -> types.Tool:
    hints = types.ToolAnnotations(title=tool.title, read_only_hint=tool.reads, destructive_hint=False, open_world_hint=False)
    return types.Tool(
        name=tool.name,
        title=tool.title,
        description=tool.description,
        input_schema=json.loads(json.dumps(tool.schema())),
        annotations=hints,
    )
