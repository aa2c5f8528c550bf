"""`engram put`: append a unit."""

from __future__ import annotations

from engramd.protocol.errors import EngramError
from engramd.protocol.messages import MAX_PAYLOAD
from engramd.protocol.unit import Relationship

from .. import LITERAL_DASH
from .. import common as c
from ..lease import fence as parse_fence


def run(
    common: c.Common,
    context: str,
    text: str | bytes | None,
    file: str | None,
    type: str,
    meta: list[str] | None,
    rel: list[str] | None,
    reply_to: str | None,
    dedupe: str | None,
    expect_seq: int | None,
    fence: list[str] | None,
    release: bool,
) -> None:
    """Put one unit and print its id. Text that is bytes has been read already, from a file or standard input."""
    data = payload(text, file)
    edges = [_relationship(edge) for edge in rel or ()]
    if reply_to is not None:
        edges.append(Relationship("responds_to", reply_to))
    name, label_map, fences = c.context(context), c.labels(meta), [parse_fence(one) for one in fence or ()]
    if release and not fences:
        raise EngramError("invalid", "--release needs --fence: it names the leases")
    with common.client() as client:
        made = client.put(
            name,
            data,
            type=type,
            meta=label_map,
            relationships=edges,
            dedupe=dedupe,
            expect_seq=expect_seq,
            fences=fences,
            release=release,
        )
    out = common.output()
    if out.json:
        out.object({"id": made.id, "seq": made.seq, "ts": made.ts, "deduped": made.deduped})
    else:
        out.line(made.id)


def payload(text: str | bytes | None, file: str | None = None) -> bytes:
    """The payload that TEXT or --file stands for.

    Raises:
        EngramError: `invalid` when it is neither or both, or cannot be read; `too_large`.
    """
    if (text is None) == (file is None):
        raise EngramError("invalid", "put needs TEXT, or - for standard input, or --file FILE" + (", not both" if file is not None else ""))
    if file is not None:
        try:
            with open(file, "rb") as source:
                return _bounded(source.read(MAX_PAYLOAD + 1))
        except OSError as error:
            raise EngramError("invalid", f"--file {file!r}: {error.strerror or error}") from None
    if isinstance(text, bytes):
        return _bounded(text)
    if text == "-":
        try:
            with open(0, "rb", closefd=False) as source:
                return _bounded(source.read(MAX_PAYLOAD + 1))
        except OSError as error:
            raise EngramError("invalid", f"standard input: {error.strerror or error}") from None
    return c.payload_of("-" if text == LITERAL_DASH else text or "")


def _bounded(data: bytes) -> bytes:
    if len(data) > MAX_PAYLOAD:
        raise EngramError(
            "too_large", f"the payload is over {MAX_PAYLOAD} bytes, the most that any daemon takes; put a reference to a file instead"
        )
    return data


def _relationship(edge: str) -> Relationship:
    kind, colon, target = edge.partition(":")
    if not colon or not target:
        raise EngramError("invalid", f"--rel {edge!r}: write it as TYPE:ID, such as depends_on:42")
    return Relationship(kind, target)
