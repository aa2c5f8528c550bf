"""`engram metrics`: what the daemon has counted and timed."""

from __future__ import annotations

from ..common import Common


def run(common: Common) -> None:
    """Print the metrics in Prometheus' text format, or as objects; never start a daemon to do it."""
    out = common.output()
    with common.client(autostart=False) as client:
        if out.json:
            for metric in client.metrics():
                out.object(metric)
        else:
            for line in client.request("metrics", {"form": "prometheus"})["text"].splitlines():
                out.line(line)
