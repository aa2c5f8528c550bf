"""The one place that names the LevelDB binding: `plyvel` where it has wheels (to CPython 3.12), its fork `plyvel-next` beyond."""

from __future__ import annotations

import sys

if sys.version_info >= (3, 13):
    from plyvel_next import DB, Error  # type: ignore[import-not-found, unused-ignore]
else:
    from plyvel import DB, Error  # type: ignore[import-untyped, import-not-found, unused-ignore]

__all__ = ["DB", "Error"]
