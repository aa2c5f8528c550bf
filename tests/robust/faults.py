"""The faults of a robustness run, each a function that brings it about and takes it away again; clients go on meanwhile."""

from __future__ import annotations

import json
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from validators import BrokenError, Damaged, Outage, Restored

from .history import Era
from .world import World, audit_store

DAY = 86_400  # seconds
LOOK = 1.0  # seconds after which a daemon looks for free space again


def kill_daemon(world: World) -> None:
    """The daemon is killed; another is started."""
    world.kill()
    world.start()


def cut_power(world: World) -> None:
    """The power is cut: the daemon and its worker end, and what they have not synced is lost; another is started."""
    world.cut_power()
    world.start()


def kill_starting_daemon(world: World) -> None:
    """The daemon is killed, and the next one too, while it starts."""
    world.kill()
    shot = threading.Timer(world.rng.uniform(0, 0.5), lambda: world.daemon.process and world.daemon.process.kill())
    shot.start()
    world.try_start()
    shot.join()
    world.kill()  # which the shot may have missed
    world.start()


def stop_daemon(world: World) -> None:
    """The daemon is told to stop, with clients in the middle of what they do; another is started."""
    world.daemon.signal(signal.SIGTERM)
    world.ended("SIGTERM", 0)
    world.start()


def freeze_daemon(world: World) -> None:
    """The daemon stands still for a time, mostly longer than leases last."""
    world.daemon.signal(signal.SIGSTOP)
    time.sleep(world.rng.uniform(0.2, 1.2))
    world.daemon.signal(signal.SIGCONT)


def kill_worker(world: World) -> None:
    """The search worker is killed."""
    world.signal_worker(world.worker(), signal.SIGKILL)


def freeze_worker(world: World) -> None:
    """The search worker stands still for a time; at times its daemon is killed meanwhile."""
    pid = world.worker()
    world.signal_worker(pid, signal.SIGSTOP)
    time.sleep(world.rng.uniform(0.2, 1))
    if world.rng.random() < 0.5:
        kill_daemon(world)
    world.signal_worker(pid, signal.SIGCONT)


def kill_clients(world: World) -> None:
    """Some clients are killed; others go on where they were."""
    for _ in range(world.rng.choice((1, 2, 4))):
        world.player().replace()


def freeze_client(world: World) -> None:
    """A client stands still for a time, mostly longer than its leases last."""
    _freeze(world)


def stall_readers(world: World) -> None:
    """Two readers take nothing for a time."""
    _freeze(world, "reader", "follower")
    _freeze(world, "member")


def _freeze(world: World, *roles: str) -> None:
    player = world.player(*roles)
    player.process.send_signal(signal.SIGSTOP)
    time.sleep(world.rng.uniform(0.3, 1))
    player.process.send_signal(signal.SIGCONT)


# The disk


def fail_syncs(world: World) -> None:
    """The disk refuses to sync. The daemon ends; where nothing can be synced, none starts."""
    _break_disk(world, "FAIL_SYNC_WHEN", "a failing fsync", "the disk refused a write")


def fill_disk(world: World) -> None:
    """The disk is full, all of a sudden."""
    _break_disk(world, "FULL_DISK_WHEN", "a full disk", "No space left on device")


def _break_disk(world: World, name: str, by: str, words: str) -> None:
    trigger = world.trigger(name)
    trigger.touch()
    began = time.monotonic_ns()
    world.ended(by, 1, words)
    world.past.outages.append(Outage(began, time.monotonic_ns()))
    trigger.unlink()
    world.start()


def leave_little_room(world: World) -> None:
    """Less is free on the disk than the daemon is to leave: puts are refused, and after a while taken again."""
    trigger = world.trigger("LITTLE_ROOM_WHEN")
    trigger.touch()
    time.sleep(LOOK)
    began = time.monotonic_ns()
    time.sleep(world.rng.uniform(0.2, 0.8))
    world.past.outages.append(Outage(began, time.monotonic_ns()))
    trigger.unlink()


# The clock


def jump(world: World) -> None:
    """The wall clock jumps, back and forth."""
    for seconds in world.rng.sample((-400 * DAY, -DAY, -60, 0, 60, DAY), 3):
        world.trigger("CLOCK_IS_OFF_BY").write_text(str(seconds))
        time.sleep(world.rng.uniform(0.1, 0.4))


# The store


def truncate(world: World) -> None:
    """A file of the store loses its end while no daemon runs; an operator sees to it."""
    _damage(world, lambda path: _cut(world, path))


def flip(world: World) -> None:
    """A bit of the store is turned while no daemon runs; an operator sees to it."""
    _damage(world, lambda path: _turn(world, path))


def _cut(world: World, path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(world.rng.randrange(path.stat().st_size))


def _turn(world: World, path: Path) -> None:
    place = world.rng.randrange(path.stat().st_size)
    with path.open("r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 1 << world.rng.randrange(8)]))


def _damage(world: World, harm: Callable[[Path], None]) -> None:
    """Clients write on behind a backup; then the store is damaged, looked at, and made anew from what was saved of it, or the backup."""
    number = len(world.past.eras)
    backup, data = world.home / f"backup{number}", world.daemon.data_dir
    world.engram("backup", backup)
    world.goes_on()
    world.past.eras[-1].ended = time.monotonic_ns()
    world.kill()
    sound = world.home / f"sound{number}"
    shutil.copytree(data / "log", sound / "log")
    said, before = audit_store(sound)
    if said != "ready":
        raise BrokenError(f"what a killed daemon left cannot be used: {said}")
    world.past.eras[-1].events = before
    harm(_file(world, data / "log"))
    _look_at(world, before)
    restored = _restore(world, backup, before)
    world.start()
    world.past.eras.append(Era(world.history(), restored=restored))


def _file(world: World, log: Path) -> Path:
    """One of the files that have data, the larger the likelier."""
    files = sorted(path for path in log.iterdir() if path.suffix in (".log", ".ldb") and path.stat().st_size)
    return world.rng.choices(files, [path.stat().st_size for path in files])[0]


def _look_at(world: World, before: list[dict[str, Any]]) -> None:
    """A damaged store is refused, or gives nothing that is wrong."""
    copy = world.home / f"copy{len(world.past.eras)}"
    shutil.copytree(world.daemon.data_dir / "log", copy / "log")
    said, read = audit_store(copy)
    if said != "ready" and "cannot be used" not in said:
        raise BrokenError(f"a daemon on a damaged store says: {said}")
    world.past.damaged.append(Damaged(before, read))


def _restore(world: World, backup: Path, before: list[dict[str, Any]]) -> Restored:
    """Make the store anew, as an operator would; gives what it then has to hold."""
    number, data = len(world.past.eras), world.daemon.data_dir
    world.try_engram("doctor")
    source = backup
    if world.rng.random() < 0.6:
        source = world.home / f"salvaged{number}"
        world.engram("doctor", "--salvage", source)
    data.rename(world.home / f"damaged{number}")
    made = json.loads(world.engram("restore", source, "--json"))
    lost = {seq for first, last in made["lost"] for seq in range(first, last + 1)}
    earlier = world.past.eras[-1].restored
    return Restored(before, made["last"], frozenset(lost | (earlier.lost if earlier else set())))


FAULTS: dict[str, Callable[[World], None]] = {
    "the daemon is killed": kill_daemon,
    "a starting daemon is killed": kill_starting_daemon,
    "the power is cut": cut_power,
    "the daemon is told to stop": stop_daemon,
    "the daemon is frozen": freeze_daemon,
    "the search worker is killed": kill_worker,
    "the search worker is frozen": freeze_worker,
    "clients are killed": kill_clients,
    "a client is frozen": freeze_client,
    "readers stall": stall_readers,
    "fsync fails": fail_syncs,
    "the disk is full": fill_disk,
    "the disk is almost full": leave_little_room,
    "the clock jumps": jump,
    "the store is truncated": truncate,
    "a bit of the store is flipped": flip,
}
