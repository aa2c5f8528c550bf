"""What a command that writes fast is slowed by under `engram run`, beside a bare pipe and `script`.

python -m benchmarks.run [--rounds N] [--bytes N] [--dir DIR]
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from . import figures
from .figures import BenchmarkError, Rounds, Row
from .loops import clock
from .options import add_dir, positive, run_main
from .processes import Daemon, Place, bounded

LIMIT = 300.0  # seconds for everything
ENGRAM = str(Path(sys.executable).parent / "engram")


def read_to_the_end(command: Sequence[str], environment: dict[str, str]) -> tuple[int, int, int]:
    """Run a command with a pipe for its output: bytes, nanoseconds until the last of them was read, and until it was over."""
    start = last = clock()
    size = 0
    with subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        while data := os.read(process.stdout.fileno(), 1 << 20):
            size += len(data)
            last = clock()
    return size, last - start, clock() - start


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--bytes", type=positive, default=100 * 1024 * 1024, help="what the command writes")
    add_dir(parser)
    options = parser.parse_args(arguments)
    command = f"yes | head -c {options.bytes}"
    rounds = Rounds()
    with bounded(LIMIT), Place(options.dir) as place, Daemon(place, place.store("run")) as daemon:
        environment = {**os.environ, "ENGRAM_SOCKET": daemon.socket, "ENGRAM_CONFIG": os.devnull}
        ways = {"bare": ["sh", "-c", command], "run": [ENGRAM, "run", "--no-autostart", "--", "sh", "-c", command]}
        if shutil.which("script"):
            ways["script"] = ["script", "-qec", command, os.devnull]
        for _ in range(options.rounds):
            each = {}
            for name, way in ways.items():
                size, read, over = read_to_the_end(way, environment)
                if size < options.bytes:
                    raise BenchmarkError(f"{name} passed on {size} of {options.bytes} bytes")
                each |= {f"{name}.p50": read, f"{name} over.p50": over}
            rounds.add(each)
    against = "the bare pipe"
    rows = [
        Row("until the last byte is read, bare pipe", p50=rounds.median("bare.p50")),
        Row("the same under script", p50=rounds.median("script.p50"), ratio=rounds.ratio("script.p50", "bare.p50"), against=against),
        Row("the same under engram run", p50=rounds.median("run.p50"), ratio=rounds.ratio("run.p50", "bare.p50"), against=against),
        Row("the same under engram run", ratio=rounds.ratio("run.p50", "script.p50"), against="script"),
        Row(
            "until engram run has recorded it and is over",
            p50=rounds.median("run over.p50"),
            ratio=rounds.ratio("run over.p50", "bare.p50"),
            against=against,
        ),
    ]
    print(figures.table(rows))
    return 0


if __name__ == "__main__":
    run_main("benchmarks.run", main)
