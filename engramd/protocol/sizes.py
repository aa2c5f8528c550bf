"""Sizes in bytes, as people write them."""

from __future__ import annotations

from .errors import EngramError

_UNITS = {"": 1, "K": 2**10, "KiB": 2**10, "M": 2**20, "MiB": 2**20, "G": 2**30, "GiB": 2**30, "T": 2**40, "TiB": 2**40}
MOST = 2**62


def parse_size(value: str | int, field: str, least: int = 1) -> int:
    """Bytes, from a number or a text with a binary suffix: 4096, 64KiB, 1M.

    Raises:
        EngramError: `invalid`, naming the field, for what is neither, or less than `least`.
    """
    if isinstance(value, str):
        number = value.rstrip("KMGTiB")
        unit = _UNITS.get(value[len(number) :].strip())
        value = int(number) * unit if unit and number.strip().isascii() and number.strip().isdigit() and len(number) < 20 else -1
    if not least <= value <= MOST:
        raise EngramError("invalid", f"{field}: must be a size such as 4096, 64KiB, 10M or 1G", field=field)
    return value
