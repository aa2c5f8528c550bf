"""Two agents that know nothing of Engram but JSON lines: each is a process of its own and talks to an `engram pipe` that it has started.

    python examples/two_agents.py [CONTEXT]

The planner hands out tasks and waits for what comes of each; the builder reads what is for it, works, and answers. Only the standard
library is used: an agent in any other language would do the same.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

TASKS = ("fix the parser", "write its test", "update the docs")


class Pipe:
    """JSON lines to and from `engram pipe`, as one agent."""

    def __init__(self, agent: str) -> None:
        self._agent = agent
        self._process = subprocess.Popen(
            ["engram", "pipe"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "ENGRAM_AGENT": agent}
        )
        self._last_id = 0
        self._items: list[tuple[int, dict[str, Any]]] = []  # of streams, that came while something else was awaited

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        """Send a request and wait for its result."""
        request_id = self._send(op, fields)
        while True:
            message = self._receive()
            if message["id"] != request_id:
                continue
            if not message["ok"]:
                raise SystemExit(f"{self._agent}: {message['error']['message']}")
            return dict(message["result"])

    def follow(self, **fields: Any) -> Iterator[dict[str, Any]]:
        """The units of a stream, for ever."""
        request_id = self._send("tail", {"follow": True, **fields})
        while True:
            while self._items:
                _, event = self._items.pop(0)
                if "unit" in event:
                    yield event["unit"]
            message = self._receive()
            if message["id"] == request_id and "ok" in message:
                raise SystemExit(f"{self._agent}: the stream ended: {message}")

    def close(self) -> None:
        """Say goodbye: the end of its input ends the pipe."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _send(self, op: str, fields: dict[str, Any]) -> int:
        assert self._process.stdin is not None
        self._last_id += 1
        self._process.stdin.write(json.dumps({"id": self._last_id, "op": op, **fields}) + "\n")
        self._process.stdin.flush()
        return self._last_id

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self._agent}: engram pipe has ended")
        message: dict[str, Any] = json.loads(line)
        if "event" in message:
            self._items.append((message["id"], message["event"]))
        return message


def planner(context: str) -> None:
    """Hand out every task, then print what came of each."""
    pipe = Pipe("planner")
    tasks = {}
    for text in TASKS:
        made = pipe.ask("put", context=context, text=text, type="task_status", meta={"to": "builder"}, dedupe=text)
        tasks[made["id"]] = text
    for unit in pipe.follow(contexts=[context], agent="builder", after=0):
        for edge in unit["relationships"]:
            if edge["type"] == "responds_to" and edge["target"] in tasks:
                print(f"{tasks.pop(edge['target'])}: {unit['text']}", flush=True)
        if not tasks:
            break
    pipe.ask("put", context=context, text="that is all", meta={"to": "builder"}, dedupe="end")
    pipe.close()


def builder(context: str) -> None:
    """Do what is asked of it until there is no more. It reads from the start, so it matters not who comes first."""
    pipe = Pipe("builder")
    for unit in pipe.follow(contexts=[context], meta={"to": "builder"}, after=0):
        if unit["type"] != "task_status":
            break
        answer = {"type": "responds_to", "target": unit["id"]}
        # With the key, a builder that is started anew answers nothing twice.
        key = f"answer to {unit['id']}"
        pipe.ask("put", context=context, text=f"done, {len(unit['text'])} lines changed", relationships=[answer], dedupe=key)
    pipe.close()


def main() -> int:
    """Start both agents as processes, and wait for them."""
    if len(sys.argv) > 2:
        {"planner": planner, "builder": builder}[sys.argv[1]](sys.argv[2])
        return 0
    context = sys.argv[1] if len(sys.argv) > 1 else "two-agents"
    agents = [subprocess.Popen([sys.executable, __file__, role, context]) for role in ("planner", "builder")]
    return max(abs(agent.wait()) for agent in agents)


if __name__ == "__main__":
    sys.exit(main())
