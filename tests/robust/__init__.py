"""The robustness run: real processes under faults, and what they saw held against every guarantee. How to use it: docs/robustness.md."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # as pytest does, for what tests share
