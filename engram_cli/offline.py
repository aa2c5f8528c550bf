"""Work on a store that no daemon has, done by a process of its own: `engramd.offline`, whose words are JSON, one object a line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from engramd.protocol.errors import EngramError


def run(*arguments: str) -> Iterator[dict[str, Any]]:
    """Start it, and give what it says; the last is `done`. It is ended when nobody listens any more.

    Raises:
        EngramError: what it failed with.
    """
    command = [sys.executable, "-P", "-m", "engramd.offline", *arguments]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        try:
            for line in worker.stdout:
                said = json.loads(line)
                if "error" in said:
                    raise EngramError.from_wire(said["error"])
                yield said
        finally:
            if worker.poll() is None and sys.exc_info()[0] is not None:
                worker.terminate()
    if worker.returncode:
        raise EngramError("internal", f"the work on the store ended with code {worker.returncode}; what it was about to do is not done")
