"""Packs whose hashes are known: see golden_packs.py, which is also run with every Python that the program is installed on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_packs_have_the_hashes_that_they_have_everywhere() -> None:
    program = Path(__file__).parents[1] / "golden_packs.py"
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
