"""`engram metrics`, and the same over HTTP."""

from __future__ import annotations

import httpx
from commandline import Shell
from prometheus_client.parser import text_string_to_metric_families


def test_what_was_done_is_counted(alone: Shell) -> None:
    alone.daemon("--metrics-listen", "127.0.0.1:0")
    for text in ("a", "b"):
        alone.put("c", text)
    alone.fails(1, "get", "99")
    text = alone.ok("metrics").out
    samples = {(one.name, *one.labels.values()): one.value for family in text_string_to_metric_families(text) for one in family.samples}
    assert samples["engram_requests_total", "put", "ok"] == samples["engram_request_seconds_count", "put"] == 2
    assert samples["engram_requests_total", "get", "not_found"] == 1
    objects = alone.ok("metrics", "--json").objects
    assert {"name": "engram_last_seq", "kind": "gauge", "labels": {}, "value": 3} in objects
    address = alone.ok("status", "--json").objects[0]["metrics"]
    scraped = httpx.get(f"http://{address}/metrics").text
    assert 'engram_requests_total{op="put",outcome="ok"} 2.0\n' in scraped


def test_it_starts_no_daemon(alone: Shell) -> None:
    assert "no daemon runs" in alone.fails(69, "metrics")
    assert alone.daemon_pid() is None


def test_an_address_that_others_reach_is_refused(alone: Shell) -> None:
    done = alone.run("--metrics-listen", "0.0.0.0:9464", program="engramd")
    assert done.code == 2
    assert "loopback" in done.err
