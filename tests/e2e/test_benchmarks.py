"""What benchmarks do with options that cannot be, when they are interrupted, and what they print. Figures are nobody's here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from benchmarks import figures, live, scale
from benchmarks.figures import BenchmarkError, Row
from benchmarks.options import run_main
from benchmarks.processes import Helper
from benchmarks.scale import Cost
from benchmarks.versus import __main__ as versus

ROOT = Path(__file__).parents[2]
Main = Callable[[Sequence[str]], int]


@pytest.mark.parametrize(
    ("main", "option", "value"),
    [
        *((versus.main, option, "/nonexistent/x") for option in ("--json", "--plot", "--table", "--dir", "--redis", "--etcd", "--nats")),
        (versus.main, "--table", "README.md"),
        (versus.main, "--table", "nonexistent.md"),
        (versus.main, "--json", "tests"),
        *((scale.main, option, "/nonexistent/x") for option in ("--json", "--plot", "--table", "--dir")),
        *((scale.main, "--sizes", sizes) for sizes in ("abc", "", "0", "-1000", "500", "2000,1000", "1000,1000", "1000,")),
        (live.main, "--redis", "/nonexistent"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_measured(
    main: Main, option: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as ended:
        main([f"{option}={value}"])
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (2, "")
    assert f"error: argument {option}: " in said.err.splitlines()[-1]


def test_a_peer_that_was_asked_for_must_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        versus.main(["--peers", "redis,nats,file"])
    assert ended.value.code == 2
    assert "--peers needs redis-server and nats-server, not found on PATH" in capsys.readouterr().err


def test_an_interrupted_benchmark_says_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.versus", "--peers", "file", "--dir", str(tmp_path)]
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0) as run:
        deadline = time.monotonic() + 60
        while not [*tmp_path.glob("*/small-units.jsonl")] and time.monotonic() < deadline:
            time.sleep(0.01)
        os.killpg(run.pid, signal.SIGINT)  # as a terminal does
        said = run.communicate(timeout=60)
    assert (run.returncode, said) == (130, (b"", b""))
    assert not [*tmp_path.iterdir()]


def test_what_fails_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> int:
        raise BenchmarkError("no figures today")

    with pytest.raises(SystemExit) as ended:
        run_main("benchmarks.it", main)
    assert ended.value.code == 1
    assert capsys.readouterr().err == "benchmarks.it: no figures today\n"


def _fails(pipe: Connection, why: str) -> None:
    raise OSError(why)


def _answers(pipe: Connection, word: str) -> None:
    pipe.send(word)


def test_a_helper_says_why_it_failed_and_goes_on() -> None:
    with Helper() as helper:
        with pytest.raises(BenchmarkError, match="the helper for _fails failed: so it is"):
            helper.run(_fails, "so it is")
        assert helper.run(_answers, "yes") == "yes"


def test_columns_that_no_row_fills_are_left_out() -> None:
    assert figures.table([Row("a", p50=1e6), Row("bc", p50=2e6, ratio=2.0)]) == "\n".join(
        ["what      p50  ratio", "--------------------", "a     1.00 ms", "bc    2.00 ms   2.00"]
    )
    assert figures.table([Row("a", ratio=2.0, most=1, against="b")]).startswith("what  ratio  goal        held against\n")


@pytest.mark.parametrize(
    ("sizes", "values", "expected", "grows"),
    [
        ([10_000, 1_000_000], [1e6, 4e6], scale.FLAT, True),
        ([10_000, 1_000_000], [1e6, 2e6], scale.FLAT, False),
        ([1000, 2000], [1e6, 1.4e6], scale.FLAT, False),  # the exponent is 0.49, of what may be noise
        ([1000, 2000], [1e6, 2e6], scale.FLAT, True),
        ([10_000, 1_000_000], [1e6, 100e6], scale.LINEAR, False),
        ([10_000, 1_000_000], [1e6, 400e6], scale.LINEAR, True),
        ([10_000], [1e6], scale.FLAT, False),
    ],
)
def test_what_grows_is_told_from_noise(sizes: list[int], values: list[float], expected: int, grows: bool) -> None:
    assert Cost("it", expected, values).grows_too_fast(sizes) is grows
