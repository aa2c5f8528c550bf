"""A process that takes locks and writes under them until it is killed: `lock_worker.py SOCKET NAME SEED`.

It is careless on purpose: it forgets to renew, holds on to more than one lock, writes late, and comes back whenever the daemon is away.
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

from daemons import Blocking

from engramd.protocol.errors import EngramError

RESOURCES = ("/r/a", "/r/b", "/r/*", "@gpu")
TTL = 0.4  # seconds


def main() -> None:
    path, name, seed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    rng = random.Random(seed)
    while True:
        try:
            with Blocking(path, name) as client:
                while True:
                    work(client, rng)
        except EngramError as error:
            if error.code not in ("unavailable", "outcome_unknown"):
                raise
        except OSError:
            time.sleep(0.01)  # the daemon is being restarted


def work(client: Blocking, rng: random.Random) -> None:
    """Take a lock, perhaps a second one, write under both, and release them or not."""
    held: list[tuple[str, int]] = []
    for _ in range(rng.choice((1, 1, 2))):
        resource = rng.choice(RESOURCES)
        mode = "slots" if resource == "@gpu" else rng.choice(("exclusive", "exclusive", "shared"))
        slots = {"slots": 2} if mode == "slots" else {}
        try:
            lease = client.ask("lock", resources=[resource], mode=mode, ttl=round(TTL * 1e6), wait=True, timeout="1s", **slots)
        except EngramError as error:
            if error.code not in ("locked", "deadlock"):
                raise
            continue
        held.append((resource, lease["token"]))
    for resource, token in held:
        time.sleep(rng.choice((0, 0, 0.01, 1.5 * TTL)))
        try:
            if rng.random() < 0.3:
                client.ask("renew", token=token)
            fence = [{"resource": "/r/a" if resource == "/r/*" else resource, "token": token}]
            release = rng.random() < 0.3
            client.ask("put", context="work", text="held", meta={"token": str(token)}, fences=fence, release=release)
            if not release and rng.random() < 0.8:
                client.ask("unlock", token=token)
        except EngramError as error:
            if error.code != "stale":
                raise


if __name__ == "__main__":
    main()
