"""Packs of one store whose every byte is known, made by an installed Engram: they must have the hashes below wherever they are made.

    python tests/golden_packs.py

Needs nothing but the program itself. Packs are made by two daemons one after the other, the second one with a search index made anew. An
exit code of 0 says that all hashes are as they should be; `--print` prints them instead.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engram_cli.client import Client
from engramd.state import contexts, machine, units
from engramd.storage.log import Log

START = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z, in microseconds
SECOND = 1_000_000
WORDS = (
    *("parser", "lock", "daemon", "socket", "timeout", "retry", "empty", "file", "list", "index", "vector", "budget", "token", "disk"),
    *("sync", "fsync", "wal", "replay", "cursor", "lease", "fence", "café", "日本語", "Straße", "log.py:42", "engramd/storage"),
    *("getUserName", "deadbeef1234567", "```fence```", "<xml>", "&", "\x1b[31m", "\u2028", "🎉"),
)
TYPES = ("message", "reasoning", "tool_call", "tool_result", "file_change", "task_status", "error", "system")

PACKS: dict[str, dict[str, Any]] = {
    "plain": {"budget": 4000},
    "small": {"budget": 700, "unit": "bytes"},
    "xml": {"budget": 3000, "unit": "chars", "format": "xml", "policy": "errors-first"},
    "json": {"budget": 2000, "format": "json", "at": 140},
    "query": {"budget": 3000, "query": "why did the daemon lose its lock?"},
    "words": {"budget": 2500, "query": "getUserName log.py:42 日本語 café", "format": "json"},
    "early": {"budget": 2500, "query": "vector index budget", "at": 100},
    "news": {"budget": 3000, "query": "empty file", "since": 130},
}
HASHES: dict[str, str] = {
    "plain": "fe444c68a5b1c882b0db37fa3006a33713c02a6d551170051f9af5478b9be1e0",
    "small": "c8d8549d0bce5aa5e87e283291306936189194aafab2dd2c5a2e04282e771f99",
    "xml": "16279477492dfad80de9d5d07ca14679fd5b1a70c40be752d81500866ef0e21e",
    "json": "f38151e788217dc67c0113825ab79c333c6c831c5454bbc5712005f49bd14505",
    "query": "d89213d06988acd6ed26dbee764bf6f0f34723cb0cb195134ed8c77448a49430",
    "words": "387d3ee074c1bc11e30e657944daa82693f2bab86d91df96a110c86357f817b1",
    "early": "7f2aea4e9c487e371259e6de3254127ae6dff2d896224d0f55a3e20e49890c20",
    "news": "c786a23e26f523c7c3fafd05f6185cf33b509e854147e8c1383973dc602d130a",
}


def numbers(seed: int) -> Iterator[int]:
    """Numbers that are the same everywhere: Lehmer's generator."""
    while True:
        seed = seed * 48271 % 2147483647
        yield seed


def unit_id(number: int) -> bytes:
    """An id of version 7 with a number in it."""
    return ((START // 1000 + number) << 80 | 7 << 76 | 0b10 << 62 | number).to_bytes(16)


def commands() -> Iterator[machine.Command]:
    """What the store is made of."""
    draw = numbers(42)
    made: list[bytes] = []
    for number in range(200):
        what, context, agent = next(draw) % 20, ("work", "review")[next(draw) % 4 == 0], ("me", "planner")[next(draw) % 3 == 0]
        if what < 14 or len(made) < 5:
            size = next(draw) % 40 if what else 1500
            text: str | bytes = " ".join(WORDS[next(draw) % len(WORDS)] for _ in range(size))
            edges: tuple[units.Edge, ...] = ()
            if made and what % 3 == 0:
                edges = (units.Edge(("responds_to", "causes", "references")[next(draw) % 3], made[next(draw) % len(made)], {}),)
            labels = {"path": f"src/{WORDS[next(draw) % 10]}.py"} if what % 4 == 0 else {}
            if what == 13:
                text = bytes(next(draw) % 256 for _ in range(20)) + b"\xff"
            made.append(unit_id(number))
            yield units.Put(context, agent, (units.Draft(made[-1], TYPES[next(draw) % 8], labels, text, edges),))
        elif what < 16:
            yield contexts.SetPins(context, agent, (made[next(draw) % len(made)],), next(draw) % 3 > 0)
        else:
            yield contexts.SetPlaces(context, agent, (made[next(draw) % len(made)],), next(draw) % 2 > 0)


def make_store(directory: Path) -> None:
    """Write the store."""
    log = Log(directory)
    for number, command in enumerate(commands()):
        batch = log.batch()
        decision = machine.decide(log.pending, command)
        for event in decision if isinstance(decision, list) else ():
            batch.append(START + number * SECOND, event)
        batch.seal()
        batch.commit()
        batch.settle()
    log.close()


@contextmanager
def daemon(place: Path) -> Iterator[Client]:
    """A daemon over the store, and a client of it."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "engramd", "--socket", str(place / "s"), "--data-dir", str(place), "--config", "/dev/null"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with Client(str(place / "s"), agent="golden", autostart=False, timeout=60) as client:
            client.resume()  # waits for it
            yield client
    finally:
        process.terminate()
        process.wait(30)


def hashes(client: Client) -> dict[str, str]:
    """The hash of every pack. The first are made before the search index is there, the later ones with it."""
    return {name: client.pack("work", "review", **options).manifest["hash"] for name, options in PACKS.items()}


def main() -> int:
    """Make the store and the packs, and compare."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--print", action="store_true", dest="shown")
    shown: bool = arguments.parse_args().shown
    place = Path(tempfile.mkdtemp(prefix="engram-", dir="/tmp"))
    try:
        make_store(place / "log")
        with daemon(place) as client:
            last = client.pack("work", budget=4000).manifest["inputs"]["at"]
            found = hashes(client)
            again = hashes(client)
        shutil.rmtree(place / "search")
        with daemon(place) as client:
            client.put("work", "what came later: getUserName, the daemon, its lock, a vector index of an empty file", type="error")
            later = {name: {"at": last, **options} for name, options in PACKS.items()}
            rebuilt = {name: client.pack("work", "review", **options).manifest["hash"] for name, options in later.items()}
    finally:
        shutil.rmtree(place)
    if shown:
        for name, known in found.items():
            print(f'    "{name}": "{known}",')
    wrong = [name for name in PACKS if not found[name] == again[name] == rebuilt[name] == (found if shown else HASHES)[name]]
    for name in wrong:
        print(f"{name}: {found[name]}, again {again[name]}, rebuilt {rebuilt[name]}; it should be {HASHES.get(name)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
