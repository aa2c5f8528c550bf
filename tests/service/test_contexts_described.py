"""What describes a context stays within a frame, however many belong to it."""

from __future__ import annotations

from trio.testing import MockClock
from wire import Server

from engramd.service.contexts import SHOWN


async def test_a_crowded_context_is_described_in_part_and_says_so(server: Server, autojump_clock: MockClock) -> None:
    client = await server.connect()
    await client.ask("context_create", context="c")
    for number in range(SHOWN):
        await client.ask("context_join", context="c", agent=f"{number:05}")
    assert "more" not in (await client.ask("context_show", context="c"))["context"]
    await client.ask("context_join", context="c", agent="one more")
    described = (await client.ask("context_show", context="c"))["context"]
    assert (len(described["agents"]), described["more"]) == (SHOWN, True)
    found: list[str] = []
    after: str | None = ""
    while after is not None:
        page = await client.ask("agents", context="c", **({"after": after} if after else {}))
        found += [agent["id"] for agent in page["agents"]]
        after = page["next"]
    assert len(found) == len(set(found)) == SHOWN + 1
