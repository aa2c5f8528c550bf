"""`metrics`: what was counted and timed, and what can be looked up, as Prometheus names it.

Names and units follow Prometheus: `_total` for what only grows,
seconds and bytes, and histograms with cumulative buckets (https://prometheus.io/docs/instrumenting/exposition_formats/).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from .. import __version__
from ..protocol.connection import Id
from ..shapes import NamedTuple
from .counters import Counters, Histogram
from .peer import Peer
from .status import memory

if TYPE_CHECKING:
    from .engine import Engine

Kind = Literal["counter", "gauge", "histogram"]
Labels = tuple[tuple[str, str], ...]


class Metric(NamedTuple):
    """A metric as it is told: its samples are numbers, or histograms."""

    name: str
    kind: Kind
    help: str
    samples: Sequence[tuple[Labels, float | Histogram]]


def collect(engine: Engine) -> Iterator[Metric]:
    """All metrics of an engine as they are now, sorted into what is counted and what is looked up."""
    yield from _counted(engine.counters)
    met = [((("limit", kind),), times) for kind, times in sorted(engine.accounts.refused.items())]
    yield Metric("engram_limits_met_total", "counter", "What was refused, at the door or since an agent has its fill.", met)
    yield from _looked_up(engine)


def _counted(counters: Counters) -> Iterator[Metric]:
    outcomes = sorted(counters.requests.items())
    yield Metric(
        "engram_requests_total",
        "counter",
        "Requests answered, by operation and outcome.",
        [((("op", op), ("outcome", outcome)), times) for (op, outcome), times in outcomes],
    )
    yield Metric(
        "engram_request_seconds",
        "histogram",
        "From a request's arrival to its answer; failures, streams and waits for locks are left out.",
        [((("op", op),), times) for op, times in sorted(counters.seconds.items())],
    )
    refused = [((("reason", code),), times) for code, times in sorted(counters.refused.items())]
    yield Metric("engram_connections_refused_total", "counter", "Connections that were not served.", refused)
    yield Metric("engram_commit_events", "histogram", "Events of a batch: what shares one sync.", [((), counters.commit_events)])
    yield Metric("engram_commit_seconds", "histogram", "The synced write of a batch.", [((), counters.commit_seconds)])
    yield Metric("engram_commit_failures_total", "counter", "Batches that the disk refused.", [((), counters.commit_failures)])
    yield Metric("engram_lock_wait_seconds", "histogram", "Waits for locks that ended with the lock.", [((), counters.lock_waits)])
    missed = [((), counters.consumers_missed)]
    yield Metric("engram_consumer_missed_total", "counter", "Entries that retention took before a consumer had done them.", missed)
    yield Metric("engram_loop_late_seconds", "histogram", "How late the loop was, looked at once a second.", [((), counters.loop_late)])
    yield Metric("engram_sockets_renewed_total", "counter", "Socket files that were gone and made anew.", [((), counters.sockets_renewed)])


def _looked_up(engine: Engine) -> Iterator[Metric]:
    subscribers = list(engine.fanout.subscribers())
    search = engine.search.status()
    yield Metric(
        "engram_search_restarts_total", "counter", "Search workers that ended and were followed by another.", [((), engine.search.restarts)]
    )
    yield Metric("engram_build_info", "gauge", "Always 1; the version is a label.", [((("version", __version__),), 1)])
    for name, value, text in (
        ("engram_uptime_seconds", time.monotonic() - engine.started, "Since the engine was made."),
        ("engram_last_seq", engine.fanout.durable_seq, "The last durable seq: the events of the log."),
        ("engram_writable", int(engine.problem() is None), "1 while puts are taken."),
        ("engram_clock_behind_seconds", engine.committer.ahead / 1e6, "The wall clock against the log's last event; 0 where it is not."),
        ("engram_connections", len(engine.peers), "Clients that have greeted."),
        ("engram_subscriptions", len(subscribers), "Streams under way."),
        ("engram_subscriber_lag_events", max((one.lag for one in subscribers), default=0), "Of the stream that is farthest behind."),
        ("engram_leases", len(engine.log.pending.held.leases), "Locks that are held."),
        ("engram_lock_waiters", engine.leases.waiting, "Requests that wait for a lock."),
        ("engram_store_bytes", engine.log.size(), "The store on disk."),
        ("engram_free_bytes", engine.space.left(), "Free on the store's disk; below min_free puts are refused."),
        ("engram_memory_bytes", memory(), "Resident memory of the daemon."),
        ("engram_search_running", int("pid" in search), "1 while there is a search worker."),
        ("engram_search_lag_events", engine.search.lag, "Events that the search worker has not absorbed."),
        ("engram_search_units", search.get("units", 0), "Units in the search index."),
        ("engram_search_memory_bytes", search.get("memory_bytes", 0), "Resident memory of the search worker."),
    ):
        yield Metric(name, "gauge", text, [((), value)])


def exposition(found: Iterable[Metric]) -> str:
    """Metrics in Prometheus' text format."""
    from prometheus_client import core, exposition  # 2 MB that most daemons never need

    return exposition.generate_latest(_Families(core, found)).decode()


class _Families:
    """What prometheus_client collects from, in its own classes."""

    def __init__(self, core: Any, found: Iterable[Metric]) -> None:
        self._core = core
        self._found = found

    def collect(self) -> Iterator[Any]:
        kinds = {
            "counter": self._core.CounterMetricFamily,
            "gauge": self._core.GaugeMetricFamily,
            "histogram": self._core.HistogramMetricFamily,
        }
        for metric in self._found:
            names = [name for name, _ in metric.samples[0][0]] if metric.samples else []
            family = kinds[metric.kind](metric.name, metric.help, labels=names)
            for labels, value in metric.samples:
                values = [text for _, text in labels]
                if isinstance(value, Histogram):
                    family.add_metric(values, [(_le(bound), count) for bound, count in value.buckets()], value.sum)
                else:
                    family.add_metric(values, value)
            yield family


def _le(bound: float) -> str:
    return "+Inf" if bound == float("inf") else repr(float(bound))


def described(found: Iterable[Metric]) -> list[dict[str, Any]]:
    """Metrics as plain values, one for each set of labels. The counts of buckets are cumulative; the last bound is null."""
    told: list[dict[str, Any]] = []
    for metric in found:
        for labels, value in metric.samples:
            sample: dict[str, Any] = {"name": metric.name, "kind": metric.kind, "labels": dict(labels)}
            if isinstance(value, Histogram):
                buckets = [[None if bound == float("inf") else bound, count] for bound, count in value.buckets()]
                sample |= {"count": buckets[-1][1], "sum": value.sum, "buckets": buckets}
            else:
                sample["value"] = value
            told.append(sample)
    return told


def metrics(engine: Engine, peer: Peer, request_id: Id, fields: Mapping[str, Any]) -> None:
    """Tell what the daemon has counted."""
    found = collect(engine)
    if fields.get("form") == "prometheus":
        peer.answer(request_id, {"text": exposition(found)})
    else:
        peer.answer(request_id, {"metrics": described(found)})
