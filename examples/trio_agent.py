"""An agent on trio: it answers every question that is put to it, several at a time, over one connection.

    python examples/trio_agent.py CONTEXT [AGENT]

    engram ask work 'a plan' --to reviewer         in another shell
    engram ask work stop --to reviewer

It remembers nothing itself: where it stands is in the log. The answers it has given say which questions are still open when it is started
anew, and the dedupe key keeps a question from being answered twice.
"""

from __future__ import annotations

import sys

import trio

from engram_cli.trio_client import Client, Relationship, Unit


async def review(text: str) -> str:
    """What the agent is good for; a real one would ask a model."""
    await trio.sleep(0.01)
    return f"{text}: {len(text.split())} words, looks good"


async def answer(engram: Client, question: Unit) -> None:
    """Answer one question."""
    verdict = await review(question.text)
    edge = Relationship("responds_to", question.id)
    await engram.put(question.context, verdict, relationships=[edge], dedupe=f"answer to {question.id}")
    print(f"{question.agent} asked: {question.text}", flush=True)


async def serve(context: str, agent: str) -> None:
    """Answer until somebody asks it to stop."""
    async with Client(agent=agent) as engram, trio.open_nursery() as tasks:
        answered = {edge.target async for unit in engram.list(context, agent=agent) for edge in unit.relationships}
        async for question in engram.tail(context, meta={"to": agent}, after=0, follow=True):
            if question.id in answered:
                continue
            tasks.start_soon(answer, engram, question)
            if question.text == "stop":
                break


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python examples/trio_agent.py CONTEXT [AGENT]")
    trio.run(serve, sys.argv[1], sys.argv[2] if len(sys.argv) == 3 else "reviewer")
