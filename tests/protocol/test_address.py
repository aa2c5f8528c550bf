"""Where the daemon is: the order of the places, the limit of a socket's path, and directories that are private."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from engramd.protocol import address
from engramd.protocol.address import MAX_SOCKET_PATH, data_dir, private_dir, socket_dir, socket_path
from engramd.protocol.errors import EngramError

UNUSED_UID = 4_000_000_123  # nobody's, so it has no directory under /run/user


def _env(**names: str) -> dict[str, str]:
    return {name.upper(): value for name, value in names.items()}


def test_the_flag_comes_first() -> None:
    assert socket_path("/flag/s", _env(engram_socket="/env/s", xdg_runtime_dir="/xdg")) == "/flag/s"


def test_then_the_environments_socket() -> None:
    assert socket_path(None, _env(engram_socket="/env/s", xdg_runtime_dir="/xdg")) == "/env/s"


def test_then_the_runtime_directory() -> None:
    assert socket_path(None, _env(xdg_runtime_dir="/xdg")) == "/xdg/engram/engramd.sock"


def test_then_the_users_directory_under_run(monkeypatch: pytest.MonkeyPatch) -> None:
    run = f"/run/user/{os.getuid()}"
    isdir = os.path.isdir
    monkeypatch.setattr(address.os.path, "isdir", lambda path: path == run or isdir(path))  # not every machine has one
    assert socket_path(None, {}) == f"{run}/engram/engramd.sock"


def test_then_a_directory_under_tmp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address.os, "getuid", lambda: UNUSED_UID)
    assert socket_path(None, {}) == f"/tmp/engram-{UNUSED_UID}/engramd.sock"


@pytest.mark.parametrize(
    "empty", [{"engram_socket": ""}, {"engram_socket": "", "xdg_runtime_dir": ""}, {"xdg_runtime_dir": "relative/dir"}]
)
def test_what_is_empty_or_relative_does_not_count(monkeypatch: pytest.MonkeyPatch, empty: dict[str, str]) -> None:
    monkeypatch.setattr(address.os, "getuid", lambda: UNUSED_UID)
    assert socket_path("", _env(**empty)) == f"/tmp/engram-{UNUSED_UID}/engramd.sock"


def test_a_relative_path_is_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ENGRAM_SOCKET", "env/s")
    assert socket_path("x/../s", {}) == str(tmp_path / "s")
    assert socket_path() == str(tmp_path / "env" / "s")


@pytest.mark.parametrize("letter", ["x", "é"])
def test_a_socket_path_has_at_most_107_bytes(letter: str) -> None:
    room = MAX_SOCKET_PATH - 1
    fits = "/" + (letter * room)[: room // len(letter.encode())]
    assert socket_path(fits, {}) == fits
    over = "/" + "x" * (room + 1) if letter == "x" else fits + "é"
    assert len(over.encode()) > MAX_SOCKET_PATH
    for flag, env in ((over, {}), (None, {"ENGRAM_SOCKET": over})):
        with pytest.raises(EngramError, match="107 bytes") as caught:
            socket_path(flag, env)
        assert caught.value.code == "invalid"


def test_108_bytes_are_one_too_many() -> None:
    assert len(socket_path("/" + "x" * 106, {})) == 107
    with pytest.raises(EngramError, match="107 bytes"):
        socket_path("/" + "x" * 107, {})


def test_the_data_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    env = _env(engram_data_dir="/env/data", xdg_data_home="/xdg")
    assert data_dir("/flag/data", env) == Path("/flag/data")
    assert data_dir(None, env) == Path("/env/data")
    assert data_dir(None, _env(xdg_data_home="/xdg")) == Path("/xdg/engram")
    assert data_dir(None, _env(xdg_data_home="relative")) == tmp_path / ".local/share/engram"
    assert data_dir("", _env(engram_data_dir="")) == tmp_path / ".local/share/engram"
    monkeypatch.chdir(tmp_path)
    assert data_dir("data", {}) == tmp_path / "data"


# Private directories


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_private_directory_is_made(tmp_path: Path) -> None:
    private_dir(tmp_path / "a" / "b")
    assert _mode(tmp_path / "a" / "b") == 0o700
    private_dir(str(tmp_path / "a" / "b"))
    assert _mode(tmp_path / "a" / "b") == 0o700


@pytest.mark.parametrize("mode", [0o777, 0o755, 0o710, 0o701])
def test_an_open_directory_is_closed_and_keeps_its_files(tmp_path: Path, mode: int) -> None:
    place = tmp_path / "d"
    place.mkdir()
    (place / "file").write_text("kept")
    place.chmod(mode)
    private_dir(place)
    assert _mode(place) == 0o700
    assert (place / "file").read_text() == "kept"


def test_a_link_to_ones_own_directory_is_fine(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "link").symlink_to("d")
    private_dir(tmp_path / "link")
    assert _mode(tmp_path / "d") == 0o700


def test_what_is_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("nowhere")
    for place in (tmp_path / "file", tmp_path / "file" / "d", tmp_path / "link"):
        with pytest.raises(EngramError, match="cannot be used") as caught:
            private_dir(place)
        assert caught.value.code == "denied"


def _another_users(tmp_path: Path) -> list[Path]:
    """A directory of another user, and a way to it; only root can make one, and for anyone else the root directory is one."""
    if os.getuid() != 0:
        link = tmp_path / "link"
        link.symlink_to("/")
        return [Path("/"), link]
    theirs, mine, link = tmp_path / "theirs", tmp_path / "mine", tmp_path / "link"
    theirs.mkdir(mode=0o777)
    mine.mkdir(mode=0o777)
    os.chown(theirs, UNUSED_UID, -1)
    link.symlink_to("mine")
    os.lchown(link, UNUSED_UID, -1)
    return [theirs, link]


def test_another_users_directory_or_link_is_refused(tmp_path: Path) -> None:
    for place in _another_users(tmp_path):
        before = _mode(place)
        with pytest.raises(EngramError, match="belongs to another user") as caught:
            private_dir(place)
        assert caught.value.code == "denied"
        assert _mode(place) == before


def test_the_usual_directory_of_a_socket_is_private(tmp_path: Path) -> None:
    env = _env(xdg_runtime_dir=str(tmp_path))
    for _ in range(2):
        socket_dir(socket_path(None, env), env)
        assert _mode(tmp_path / "engram") == 0o700
        (tmp_path / "engram").chmod(0o755)


def test_a_chosen_directory_is_made_private_but_not_changed(tmp_path: Path) -> None:
    env = _env(xdg_runtime_dir="/nowhere")
    socket_dir(str(tmp_path / "new" / "s"), env)
    assert _mode(tmp_path / "new") == 0o700
    (tmp_path / "new").chmod(0o755)
    socket_dir(str(tmp_path / "new" / "s"), env)
    assert _mode(tmp_path / "new") == 0o755


def test_a_place_that_cannot_be_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EngramError) as caught:
        socket_dir(str(tmp_path / "file" / "s"), {})
    assert caught.value.code == "denied"
