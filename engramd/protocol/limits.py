"""What one agent may use at a time, unless the configuration says otherwise."""

from __future__ import annotations

from ..shapes import NamedTuple


class Limits(NamedTuple):
    """What one agent may have at a time.

    Attributes:
        requests: without an answer, over all of its connections, streams and waits included.
        searches: and packs.
        bytes_per_second: of requests; 0 means no limit.
    """

    connections: int = 512
    requests: int = 16384
    streams: int = 1024
    waits: int = 256
    searches: int = 32
    bytes_per_second: int = 64 * 1024 * 1024
