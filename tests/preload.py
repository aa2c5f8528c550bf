"""Libraries that a test has a daemon preload, to stand between it and the C library."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def preloadable(directory: Path, name: str, source: str) -> Path:
    """The library made of C source; skips the test where none can be made."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler, and a system that preloads libraries")
    written, made = directory / f"{name}.c", directory / f"{name}.so"
    written.write_text(source)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(made), str(written), "-ldl"], check=True)
    return made
