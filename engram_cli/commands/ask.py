"""`engram ask`: a question to an agent, and its answer."""

from __future__ import annotations

from .. import common as c
from .put import payload


def run(common: c.Common, context: str, text: str, to: str, type: str, meta: list[str] | None) -> None:
    """Put the question, wait, print the answer."""
    name, labels, data = c.context(context), c.labels(meta), payload(text)
    with common.client() as client:
        common.output().payload(client.ask_raw(name, data, to=to, type=type, meta=labels))
