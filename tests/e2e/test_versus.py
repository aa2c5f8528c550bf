"""The comparison with other stores runs with what is at hand: a smoke test, and each server that is installed."""

from __future__ import annotations

import re
from argparse import Namespace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import figures, plots
from benchmarks.processes import Helper, Place
from benchmarks.versus import etcd, nats, redis
from benchmarks.versus.__main__ import REGION, measure, openers
from benchmarks.versus.rows import Loads, Plan, Table

PLAN = Plan(
    rounds=1, most=3, seconds=0.01, handed=1, fan_rounds=1, fan={2: (2, 0.001)}, commands=1, units=200, reads=1, restarts=1, limit=60
)
SERVERS = {"redis": redis, "etcd": etcd, "nats": nats}
LOADS = ("one", "several", "piped", "batch", "lease", "fan", "cli", "memory", "last", "start")


def chosen(peers: str) -> Namespace:
    return Namespace(peers=peers, redis=None, etcd=None, nats=None)


def test_the_table_has_a_cell_for_every_row_and_peer(tmp_path: Path) -> None:
    table = Table(PLAN)
    with Place(str(tmp_path)) as place:
        measure(PLAN, place, chosen("sqlite,file"), table)
    assert list(table.abouts) == ["Engram", "SQLite, WAL", "file + `flock`"]
    assert not table.missing
    document = tmp_path / "doc.md"
    document.write_text(f"before\n<!-- {REGION} -->\nold\n<!-- /{REGION} -->\nafter\n")
    figures.put_region(document, REGION, table.markdown())
    lines = document.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("before", "after")
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    assert [cell[0] for cell in cells[3:]] == [line.words for line in table.lines]
    for line in cells[3:]:
        assert re.match(r"[\d,.]+( [mµ]s|/s| MB)", line[1])
        assert all(line[2:])
    bars = ElementTree.fromstring(table.plot()).findall(".//{*}rect[@y]")
    measured = [row for row in table.rows() if row.ratio and not row.against]
    assert len(bars) == len(measured) + 2  # and the legend


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_takes_every_load(tmp_path: Path, name: str) -> None:
    if SERVERS[name].find(None) is None:
        pytest.skip(f"there is no {name} here")
    with Place(str(tmp_path)) as place, Helper() as load, Helper() as readers:
        found, missing = openers(place, load, chosen(name))
        assert (len(found), missing) == (3 if name == "redis" else 2, [])
        peer = list(found.values())[1]("here")
        loads = Loads(PLAN, readers)
        try:
            measured = {
                key: value for kind in LOADS if (name, kind) != ("nats", "cli") for key, value in getattr(loads, kind)(peer).items()
            }
        finally:
            peer.close()
    assert all(value > 0 for key, value in measured.items() if key != "memory.grown.value")


def test_a_peer_that_is_not_there_is_said(tmp_path: Path) -> None:
    options = chosen("nats")
    options.nats = "no-such-program"
    with Place(str(tmp_path)) as place, Helper() as load:
        found, missing = openers(place, load, options)
    assert list(found) == ["Engram"]
    assert missing == ["nats, as no program of it was found"]


def test_a_region_is_all_that_changes(tmp_path: Path) -> None:
    made = tmp_path / "made.md"
    made.write_text("0\n<!-- a -->\nold\n<!-- /a -->\n9\n")
    figures.put_region(made, "a", "one")
    figures.put_region(made, "a", "two")
    assert made.read_text() == "0\n<!-- a -->\n\ntwo\n\n<!-- /a -->\n9\n"
    with pytest.raises(figures.BenchmarkError, match="no lines <!-- b -->"):
        figures.put_region(made, "b", "three")


def test_bars_lead_away_from_one_and_lines_name_themselves() -> None:
    drawn = ElementTree.fromstring(plots.bars("t", ["x", "y"], {"p": [10.0, 0.1], "q": [None, 1.0]}, "less", "more"))
    right, left, none = drawn.findall(".//{*}rect[@y]")[2:]  # after the legend
    one = float(right.get("x", ""))
    assert float(left.get("x", "")) + float(left.get("width", "")) == pytest.approx(one, abs=0.2)
    assert float(none.get("width", "")) == 1
    line = ElementTree.fromstring(plots.lines("t", [10, 100], {"p & q": [1.0, None]}, "size", "cost"))
    assert "p & q" in [each.text for each in line.findall(".//{*}text")]
