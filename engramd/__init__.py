"""Engram's daemon: a durable, ordered log of work units, streamed to every agent. `engramd.open` runs it inside a trio program."""

__version__ = "0.1.0"

TYPE_CHECKING = False  # every command imports this file
if TYPE_CHECKING:
    import os
    from contextlib import AbstractAsyncContextManager

    from .config import Config
    from .embedded import Engram


def open(
    config: "Config | str | os.PathLike[str] | None" = None,
    *,
    agent: "str | None" = None,
    timeout: "float | None" = None,
    presence: bool = False,
) -> "AbstractAsyncContextManager[Engram]":
    """Run the engine inside this trio program, without a daemon or a socket: `async with engramd.open("log.engram") as engram: ...`

    What it gives is a client with the methods of `engram_cli.trio_client.Client`, and `client`, which makes more of them for other agents.
    The engine is open as long as the block lasts. It blocks the loop while the store is opened, which is short (LevelDB replays at most
    about 8 MiB), and while a sync is shorter than handing it to a thread.

    Args:
        config: the options of a daemon, of which the data directory, `max_payload`, `min_free` and the embedder count; or just a data
            directory; or None for those of the user's daemon.
        agent: who acts; by default ENGRAM_AGENT, else the user's name.
        timeout: seconds that one operation may take; None means no limit.
        presence: whether the agent counts as present meanwhile.

    Raises:
        EngramError: on entering, `busy` when a daemon or another program has the data directory, `storage` when the store is damaged,
            `denied` when the directory cannot be used. At any time, `storage` when the disk refuses a write: requests in flight fail with
            `outcome_unknown`, the block is cancelled, and the error is raised at its end, unless the block raises another. What was
            acknowledged is on disk.

    Cancelling the block loses nothing that was acknowledged. `shutdown()` ends the block.
    """
    from .embedded import opened

    return opened(config, agent, timeout, presence)
