"""`python -m engramd.search`: the worker's process. The daemon starts it; nobody else needs to."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
import time
from pathlib import Path

from ..protocol.errors import EngramError
from ..storage.lockfile import DataLock

LOCK_SECONDS = 20.0
NICE = 5  # writers come first


def main() -> int:
    """Serve the daemon at the other end of a socket; 0 when it hangs up."""
    flags = argparse.ArgumentParser(prog="python -m engramd.search", description=__doc__, allow_abbrev=False)
    flags.add_argument("--fd", type=int, required=True, help="the connected socket")
    flags.add_argument("--dir", type=Path, required=True, help="where the index is")
    flags.add_argument("--history", required=True, help="the log's history id")
    flags.add_argument("--last-seq", type=int, required=True, help="the log's last seq")
    flags.add_argument("--embedder", default="builtin", help="see the daemon's option")
    flags.add_argument("--tokenizer", type=Path, help="see the daemon's option")
    given = flags.parse_args()
    logging.basicConfig(format="engramd.search: %(message)s", level="INFO")
    logging.getLogger("faiss").setLevel("WARNING")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is the daemon's to obey; its end is ours
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # one core is the most that searching may take from the agents
    os.nice(NICE)
    ours = socket.socket(fileno=given.fd)
    try:
        lock = _lock(given.dir)
        from .embedders import made
        from .worker import Worker

        Worker(ours, given.dir, made(given.embedder), given.history, given.last_seq, given.tokenizer).run()
        lock.release()
    except EngramError as error:
        logging.getLogger("engramd.search").error("%s", error.message)
        return error.exit_code
    except (BrokenPipeError, ConnectionResetError):
        return 0
    except OSError as error:
        logging.getLogger("engramd.search").error("%s", error)
        return 1
    return 0


def _lock(directory: Path) -> DataLock:
    """The index's lock, when the worker of a daemon that has just ended has left it."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            return DataLock(directory)
        except EngramError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.02)


if __name__ == "__main__":
    sys.exit(main())
