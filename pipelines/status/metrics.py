"""What Prometheus reads: the newest run of every pipeline, its stages, the campaigns, and the machine's disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pipelines.status.page import WORDS
from pipelines.status.snapshot import Snapshot, Watcher

RUN_STATES = ("running", "done", "waiting", "failed", "interrupted", "killed")


def exposition(watcher: Watcher) -> tuple[bytes, str]:
    """The metrics as text, and its media type."""
    registry = CollectorRegistry()
    registry.register(_Store(watcher))
    return generate_latest(registry), CONTENT_TYPE_LATEST


class _Store(Collector):
    """Reads the store when it is asked; nothing is counted in this process."""

    def __init__(self, watcher: Watcher) -> None:
        self.watcher = watcher

    def collect(self) -> Iterator[Metric]:
        last = self.watcher.look()
        names = dict.fromkeys(run.pipeline for run, _ in last.runs) if last else {}
        newest = [next(run.run_id for run, _ in last.runs if run.pipeline == name) for name in names] if last else []
        snapshots = [found for run_id in newest if (found := self.watcher.look(run_id))]
        live = GaugeMetricFamily("fulcrum_live_runs", "runs whose heart beats")
        live.add_metric([], last.live if last else 0)
        yield live
        yield from _runs(snapshots)
        yield from _stages(snapshots)
        yield from _progress(snapshots)
        yield from _campaigns(last)
        if self.watcher.store.is_local:
            usage = shutil.disk_usage(self.watcher.store.root)
            free = GaugeMetricFamily("fulcrum_store_disk_free_bytes", "room on the store's disk", unit="bytes")
            free.add_metric([], usage.free)
            yield free


def _runs(snapshots: list[Snapshot]) -> Iterator[Metric]:
    state = GaugeMetricFamily(
        "fulcrum_run_state", "1 for the state of a pipeline's newest run", labels=["pipeline", "state"]
    )
    seconds = GaugeMetricFamily(
        "fulcrum_run_stage_seconds", "seconds that its stages took in all", labels=["pipeline"], unit="seconds"
    )
    for one in snapshots:
        for name in RUN_STATES:
            state.add_metric([one.run.pipeline, name], float(one.state == name))
        seconds.add_metric([one.run.pipeline], one.seconds)
    yield from (state, seconds)


def _stages(snapshots: list[Snapshot]) -> Iterator[Metric]:
    labels = ["pipeline", "stage"]
    state = GaugeMetricFamily("fulcrum_stage_state", "1 for the state of a stage", labels=[*labels, "state"])
    seconds = GaugeMetricFamily(
        "fulcrum_stage_seconds", "how long it took, or takes so far", labels=labels, unit="seconds"
    )
    records = GaugeMetricFamily("fulcrum_stage_records", "records of its ledger", labels=[*labels, "status"])
    rows = GaugeMetricFamily("fulcrum_stage_rows", "rows of its tables", labels=[*labels, "output"])
    for one in snapshots:
        for node in one.nodes:
            named = [one.run.pipeline, node.name]
            for name in WORDS:
                state.add_metric([*named, name], float(node.state == name))
            seconds.add_metric(named, node.seconds)
            for status, count in node.counts.items():
                records.add_metric([*named, status], count)
            for output, count in node.rows.items():
                rows.add_metric([*named, output], count)
    yield from (state, seconds, records, rows)


def _progress(snapshots: list[Snapshot]) -> Iterator[Metric]:
    labels = ["pipeline", "stage", "unit"]
    done = CounterMetricFamily("fulcrum_stage_items_done", "items done of the step that is at work", labels=labels)
    failed = CounterMetricFamily("fulcrum_stage_items_failed", "of those, failed", labels=labels)
    footage = CounterMetricFamily(
        "fulcrum_stage_footage_seconds", "footage worked through", labels=labels, unit="seconds"
    )
    total = GaugeMetricFamily("fulcrum_stage_items", "items of the step in all", labels=labels)
    rate = GaugeMetricFamily("fulcrum_stage_items_per_second", "items a second since the step began", labels=labels)
    for one in snapshots:
        for node in one.nodes:
            if node.progress:
                named = [one.run.pipeline, node.name, node.progress["unit"]]
                done.add_metric(named, node.progress["done"])
                failed.add_metric(named, node.progress["failed"])
                footage.add_metric(named, node.progress["footage_s"])
                total.add_metric(named, node.progress["total"])
                rate.add_metric(named, node.progress["per_second"])
    yield from (done, failed, footage, total, rate)


def _campaigns(last: Snapshot | None) -> Iterator[Metric]:
    items = GaugeMetricFamily("fulcrum_review_items", "items of a campaign", labels=["campaign", "state"])
    done = GaugeMetricFamily("fulcrum_review_items_judged", "of those, judged", labels=["campaign", "state"])
    for campaign in last.campaigns if last else ():
        items.add_metric([campaign.id, campaign.state], campaign.items)
        done.add_metric([campaign.id, campaign.state], campaign.done)
    yield from (items, done)
