"""The container's recipe: nothing that a linter of such recipes would say, and what it relies on is so."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RECIPE = (ROOT / "Dockerfile").read_text()


def test_a_linter_has_nothing_to_say() -> None:
    linter = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if linter is None:
        pytest.skip("needs hadolint")
    done = subprocess.run([linter, str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_it_runs_as_a_user_whose_data_is_in_a_volume() -> None:
    user = re.search(r"^USER (\d+)$", RECIPE, re.M)
    assert user
    assert f"--uid {user[1]} " in RECIPE
    assert "\nVOLUME /data\n" in RECIPE
    assert "ENGRAM_DATA_DIR=/data" in RECIPE
