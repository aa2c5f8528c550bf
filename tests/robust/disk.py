"""A disk whose power can be cut: of each file, what was not synced may be gone."""

from __future__ import annotations

import random
from pathlib import Path

SECTOR = 512  # bytes that are written whole or not


class Disk:
    """The files below a directory, of a daemon that has `preload.SYNCED` note its syncs and renames in a file.

    What is not tried: a torn manifest of LevelDB, which is refused (docs/adr/0097); that an earlier part of a file, a new name, or a
    removal is lost. Nothing but the search index overwrites what it has written, and file systems that keep a journal have the name of a
    file on disk when it was synced.
    """

    def __init__(self, directory: Path, notes: Path) -> None:
        self._directory, self._notes = directory, notes
        self._before: dict[str, int] = {}

    def begin(self) -> None:
        """A process is about to start, and what there is is on disk."""
        self._notes.unlink(missing_ok=True)
        self._before = {str(path): path.stat().st_size for path in self._files()}

    def cut(self, rng: random.Random) -> None:
        """Take from each file some of what was not synced, or all. Nobody may have the files."""
        synced = self._synced()
        for path in self._files():
            kept = synced.get(str(path), 0)
            if kept < path.stat().st_size:
                rng.choice((_cut_off, _cut_off if path.name.startswith("MANIFEST") else _tear))(path, kept, rng)

    def _files(self) -> list[Path]:
        return sorted(path for path in self._directory.rglob("*") if path.is_file())

    def _synced(self) -> dict[str, int]:
        """Of each file, by its path, how many bytes are on disk."""
        sizes = dict(self._before)
        for line in self._notes.read_text().splitlines() if self._notes.exists() else ():
            what, one, other = line.split("\t")
            if what == "synced":
                sizes[other] = int(one)
            else:
                below = {path: size for path, size in sizes.items() if path == one or path.startswith(f"{one}/")}
                gone = [path for path in sizes if path == other or path.startswith(f"{other}/")]
                for path in [*below, *gone]:
                    sizes.pop(path, None)
                sizes |= {other + path.removeprefix(one): size for path, size in below.items()}
        return sizes


def _cut_off(path: Path, kept: int, rng: random.Random) -> None:
    """Leave the beginning of what was not synced, or nothing."""
    with path.open("r+b") as file:
        file.truncate(rng.choice((kept, rng.randint(kept, path.stat().st_size))))


def _tear(path: Path, kept: int, rng: random.Random) -> None:
    """Leave the size, and of what was not synced any of the sectors, or none: the others are zeros, as what nobody has written there."""
    size, chance = path.stat().st_size, rng.choice((0.0, 0.5, 0.9))
    with path.open("r+b") as file:
        start = kept
        while start < size:
            end = min(size, (start // SECTOR + 1) * SECTOR)
            if rng.random() >= chance:
                file.seek(start)
                file.write(bytes(end - start))
            start = end
