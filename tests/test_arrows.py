"""The import arrows: which room may know which. An import that is not in the table fails, also one for type checkers only."""

from __future__ import annotations

import ast
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]


class Arrows(NamedTuple):
    """What the files of a room may import, besides the standard library, their own room and the version."""

    rooms: frozenset[str]
    packages: frozenset[str]


def _arrows(rooms: str = "", packages: str = "") -> Arrows:
    return Arrows(frozenset(rooms.split()), frozenset(packages.split()))


TABLE = {
    "protocol": _arrows("shapes", packages="cbor2"),
    "state": _arrows("shapes"),
    "storage": _arrows("shapes state protocol", "cbor2 plyvel plyvel_next"),
    "service": _arrows("allocator shapes storage state protocol", "cbor2 prometheus_client trio"),
    "search": _arrows(
        "allocator storage state protocol", "cbor2 faiss httpx numpy onnxruntime rapidfuzz sentence_transformers tiktoken tokenizers"
    ),
    "transport": _arrows("service protocol", "h11 trio"),
    # Files at the top of the daemon: helpers, and what composes the rooms.
    "allocator": _arrows(),
    "config": _arrows("protocol"),
    "logs": _arrows("protocol"),
    "ready": _arrows(),
    "shapes": _arrows(),
    "supervisor": _arrows("protocol"),
    "daemon": _arrows("config logs ready supervisor transport service storage protocol", "trio"),
    "offline": _arrows("config storage protocol"),
    "__main__": _arrows("daemon config logs ready supervisor protocol"),
    "embedded": _arrows("config transport service storage protocol engram_cli", "trio"),  # the engine, and the client of `engram_cli`
    "__init__": _arrows("embedded config"),  # within functions, and for type checkers: every command imports it
    "engram_cli": _arrows("protocol", "anyio cbor2 jsonschema mcp mcp_types pydantic rich trio typer"),
    # Not part of the program: they make files from both command lines. Nothing may import them.
    "generate": _arrows("protocol config engram_cli"),
}
FILES = sorted(path for package in ("engramd", "engram_cli") for path in (ROOT / package).rglob("*.py"))


def _room(module: str) -> str:
    """The room of a module of ours: `engramd.state.view` is in `state`, of `engram_cli` only the makers of files are apart."""
    package, *inner = module.split(".")
    if module.startswith(("engram_cli.generate.man", "engram_cli.generate.__main__")):
        return "generate"
    return package if package == "engram_cli" else inner[0] if inner else "__init__"


def _imports(tree: ast.AST, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """Every import of a file as a line and the full name of what is imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                base = ".".join([*parts[: len(parts) - node.level + is_package], *base.split(".")]).rstrip(".")
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}" if base in ("engramd", "engram_cli") else base
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield node.lineno, f"an import that nobody can see: {ast.unparse(node)}"


def broken(source: str, path: Path) -> list[str]:
    """Every import of a file that no arrow allows, with its line."""
    is_package = path.name == "__init__.py"
    module = ".".join((path.parent if is_package else path.with_suffix("")).parts)
    room = _room(module)
    if room not in TABLE:
        return [f"{path}: the room {room} is not in the table"]
    found = []
    for line, name in _imports(ast.parse(source), module, is_package):
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names or name == "engramd.__version__":
            continue
        ours = top in ("engramd", "engram_cli")
        if (_room(name) not in TABLE[room].rooms | {room}) if ours else (top not in TABLE[room].packages):
            found.append(f"{path}:{line}: {room} must not import {name}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_arrows(path: Path) -> None:
    assert broken(path.read_text(), path.relative_to(ROOT)) == []


def test_every_room_has_files() -> None:
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES}
    assert {_room(module) for module in modules} == TABLE.keys()


def test_no_room_knows_a_room_that_knows_it() -> None:
    for room, arrows in TABLE.items():
        seen, ahead = set(), set(arrows.rooms)
        while ahead:
            seen |= ahead
            ahead = set().union(*(TABLE[name].rooms for name in ahead)) - seen
        assert room not in seen


def test_trio_stays_above_the_storage() -> None:
    assert {room for room, arrows in TABLE.items() if "trio" in arrows.packages} == {
        "service", "transport", "daemon", "embedded", "engram_cli",
    }  # fmt: skip


def test_only_main_imports_the_daemon() -> None:
    assert {room for room, arrows in TABLE.items() if "daemon" in arrows.rooms} == {"__main__"}


def test_only_the_embedded_engine_knows_the_client() -> None:
    assert {room for room, arrows in TABLE.items() if "engram_cli" in arrows.rooms} == {"embedded", "generate"}
    assert {room for room, arrows in TABLE.items() if "embedded" in arrows.rooms} == {"__init__"}


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("engramd/state/view.py", "import cbor2"),
        ("engramd/state/view.py", "import trio"),
        ("engramd/state/view.py", "from ..protocol.errors import EngramError"),
        ("engramd/state/view.py", "from ..protocol import errors"),
        ("engramd/state/view.py", "from .. import protocol"),
        ("engramd/state/view.py", "import engramd.protocol.errors"),
        ("engramd/state/view.py", "from engramd import protocol"),
        ("engramd/state/view.py", "def late():\n    from ..storage.log import Log"),
        ("engramd/state/view.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..storage.log import Log"),
        ("engramd/state/__init__.py", "from ..protocol import errors"),
        ("engramd/protocol/unit.py", "import trio"),
        ("engramd/protocol/unit.py", "import plyvel"),
        ("engramd/protocol/unit.py", "from ..state.view import View"),
        ("engramd/storage/log.py", "import trio.lowlevel"),
        ("engramd/storage/log.py", "from ..service.engine import Engine"),
        ("engramd/service/engine.py", "from ..transport.session import Session"),
        ("engramd/service/engine.py", "from ..config import Config"),
        ("engramd/service/engine.py", "from .. import daemon"),
        ("engramd/service/search.py", "from ..search.index import Index"),
        ("engramd/search/index.py", "from ..service.search import Search"),
        ("engramd/search/worker.py", "import trio"),
        ("engramd/daemon.py", "from .search import worker"),
        ("engramd/service/engine.py", "import numpy as np"),
        ("engramd/transport/session.py", "from ..storage.log import Log"),
        ("engramd/transport/session.py", "from ..state.view import View"),
        ("engramd/transport/session.py", "import importlib\nimportlib.import_module('engramd.state')"),
        ("engramd/config.py", "from . import daemon"),
        ("engramd/daemon.py", "from . import __main__"),
        ("engramd/daemon.py", "import engram_cli"),
        ("engramd/__init__.py", "from .protocol import errors"),
        ("engramd/embedded.py", "from . import daemon"),
        ("engramd/embedded.py", "from .state.view import View"),
        ("engramd/transport/session.py", "from engram_cli.trio_client import Client"),
        ("engramd/service/engine.py", "from .. import embedded"),
        ("engramd/attic/old.py", "import os"),
        ("engram_cli/client.py", "import engramd"),
        ("engram_cli/client.py", "from engramd import daemon"),
        ("engram_cli/client.py", "from engramd.state.view import View"),
        ("engram_cli/commands/put.py", "import engramd.config"),
        ("engram_cli/commands/put.py", "import plyvel"),
    ],
)
def test_an_import_against_the_arrows_is_found(path: str, source: str) -> None:
    assert len(broken(source, Path(path))) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("engramd/state/view.py", "import os.path\nfrom . import units\nfrom .units import Put\nfrom __future__ import annotations"),
        ("engramd/state/__init__.py", "from . import view\nfrom .view import View"),
        ("engramd/service/engine.py", "from .. import __version__\nfrom ..storage.log import Log\nimport trio"),
        ("engramd/__main__.py", "from . import config, daemon, logs"),
        ("engram_cli/client.py", "from engramd import __version__\nfrom engramd.protocol.unit import Unit\nimport typer"),
        ("engram_cli/commands/put.py", "from ..common import Common\nfrom . import get\nfrom .. import common\nimport engram_cli.app"),
    ],
)
def test_an_import_along_the_arrows_is_fine(path: str, source: str) -> None:
    assert broken(source, Path(path)) == []


def _loaded_by(statement: str) -> set[str]:
    """The top-level modules of a fresh interpreter that has run a statement."""
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_the_version_costs_nothing() -> None:
    assert _loaded_by("import engramd").isdisjoint({"contextlib", "typing", "trio", "engram_cli"})


@pytest.mark.parametrize("module", ["engram_cli", "engram_cli.__main__", "engram_cli.client", "engram_cli.app"])
def test_the_command_line_loads_nothing_heavy(module: str) -> None:
    loaded = _loaded_by(f"import {module}")
    assert "engram_cli" in loaded
    assert loaded.isdisjoint({"trio", "mcp", "numpy", "faiss", "plyvel", "plyvel_next"})


def test_the_daemon_loads_no_search() -> None:
    loaded = _loaded_by("import engramd.daemon")
    assert {"engramd", "trio"} <= loaded
    assert loaded.isdisjoint({"numpy", "faiss", "rapidfuzz"})


def test_a_daemon_is_ready_before_it_has_loaded_what_few_need() -> None:
    code = """
import os, sys
from engramd import __main__, ready
ready.Ready.say = lambda self, line: (print(line, *sys.modules, flush=True), os._exit(0))
__main__.main(sys.argv[1:])
"""
    with tempfile.TemporaryDirectory(prefix="egr-") as place:
        options = ["--config", "/dev/null", "--socket", f"{place}/s", "--data-dir", f"{place}/d", "--listen", "off"]
        done = subprocess.run([sys.executable, "-c", code, *options], capture_output=True, text=True, check=True, cwd=ROOT)
    said, *loaded = done.stdout.split()
    assert said == "ready", done.stderr
    few = {"protocol.packs", "protocol.backup", "service.assembly", "state.packs", "storage.backup", "storage.check", "transport.http"}
    assert {"engramd.transport.session", "trio"} <= set(loaded)
    assert {f"engramd.{name}" for name in few}.isdisjoint(loaded)
    assert {"argparse", "tomllib", "h11", "prometheus_client", "numpy", "faiss", "rapidfuzz"}.isdisjoint(loaded)
