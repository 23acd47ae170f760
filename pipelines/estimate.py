"""What curating a source will take: hours of footage, machine hours and cost, from headers and a small sample really worked on.

The sample runs through the real stages in a store of its own that is thrown away: the user's store is neither read nor
written. Cost per file is what the workers took; what starts once (imports, models) is not multiplied by a million.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from pipelines.config import Config, ConfigError
from pipelines.dag.engine import InlineEngine
from pipelines.dag.graph import Node, Pipeline
from pipelines.dag.nodes import Worker
from pipelines.dag.runner import Job, run
from pipelines.dag.runs import NodeRecord, RunRecord
from pipelines.dag.store import Store
from pipelines.extrapolate import LEVEL, Estimate, Stratum, constant, stratify, total
from pipelines.stored_run import StoredRun
from stages.contract import StageError

PROBES = 400  # headers read, about 10 ms each: enough that they add a tenth of the sample's own error
PHOTOGRAPHS = 3
MEASURED = (
    "ingest",
    "analyze",
    "preselect",
    "caption",
    "embed",
    "score_keyframes",
    "clips",
    "select",
    "dedupe",
    "export",
)
UNKNOWN = (
    "Core hours are CPU time of one worker on this machine; another processor changes them in proportion.",
    "A sample sees few copies and no quotas, and nobody rejects its clips: export is the most it can be.",
    "Not in it: starting up, people's time and the proxies they watch, storage, transfer, and training.",
)


@dataclass(frozen=True)
class Forecast:
    """The estimate. ``cpu`` and ``gpu`` are hours of one core and one GPU, by stage."""

    videos: int
    images: int
    bytes: int
    probed: int
    sampled: int
    sampled_images: int
    sample_seconds: float
    hours: Estimate
    cpu: dict[str, Estimate]
    gpu: dict[str, Estimate]
    clips: Estimate
    kept: Estimate
    notes: list[str] = field(default_factory=list)

    def as_dict(self, core_price: float | None, gpu_price: float | None) -> dict[str, Any]:
        cost = self.cost(core_price, gpu_price)
        return {
            "videos": self.videos,
            "images": self.images,
            "bytes": self.bytes,
            "headers_read": self.probed,
            "sampled_videos": self.sampled,
            "sampled_images": self.sampled_images,
            "sample_seconds": round(self.sample_seconds, 1),
            "level": LEVEL,
            "hours": _plain(self.hours),
            "clips": _plain(self.clips),
            "kept_clips": _plain(self.kept),
            "cpu_hours": _plain(_sum(self.cpu)),
            "gpu_hours": _plain(_sum(self.gpu)),
            "cpu_hours_by_stage": {name: _plain(value) for name, value in self.cpu.items()},
            "gpu_hours_by_stage": {name: _plain(value) for name, value in self.gpu.items()},
            "cost": None if cost is None else _plain(cost),
            "notes": self.notes,
        }

    def cost(self, core_price: float | None, gpu_price: float | None) -> Estimate | None:
        """In the currency of the prices; None without the price of what is needed."""
        if core_price is None or (self.gpu and gpu_price is None):
            return None
        return _sum(self.cpu).times(core_price).plus(_sum(self.gpu).times(gpu_price or 0.0))


def _plain(value: Estimate) -> dict[str, float]:
    return {"estimate": value.value, "low": value.low, "high": value.high}


def _sum(parts: Mapping[str, Estimate]) -> Estimate:
    whole = constant(0.0)
    for part in parts.values():
        whole = whole.plus(part)
    return whole


def estimate(pipeline: Pipeline, config: Config, sample: int, say: Callable[[str], None]) -> Forecast:
    """List the source, read headers, work through a seeded sample, extrapolate. ``say`` is told what goes on."""
    nodes = curation_nodes(pipeline)
    seed = config.settings.seed
    with tempfile.TemporaryDirectory(prefix="fulcrum-estimate-") as folder:
        scratch = Path(folder)
        sources = _list(nodes, config, scratch)
        videos = sources.filter(pc.equal(sources.column("media_type"), "video"))
        images = sources.filter(pc.equal(sources.column("media_type"), "image"))
        if not videos.num_rows:
            raise StageError(
                f"the source holds no video, only {images.num_rows} photographs: there is nothing to estimate."
            )
        frame = _Frame.of(videos, seed, say)
        drawn = stratify(frame.seconds, sample, seed)
        rows = frame.rows[np.sort(np.concatenate([stratum.sampled for stratum in drawn]))]
        pictures = np.sort(np.random.default_rng(seed).permutation(images.num_rows)[:PHOTOGRAPHS])
        listed = scratch / "sample.parquet"
        chosen = pa.concat_tables([videos.take(pa.array(rows)), images.take(pa.array(pictures))])
        pq.write_table(chosen.select(["path", "uri", "caption", "licence"]), listed)
        say(f"working through {len(rows)} videos and {len(pictures)} photographs")
        started = time.monotonic()
        measured = _work_off(nodes, config, listed, scratch / "store", say)
        seconds = time.monotonic() - started
        return _extrapolate(videos, images, frame, drawn, measured, len(pictures), seconds, seed)


def curation_nodes(pipeline: Pipeline) -> tuple[Node, ...]:
    """The nodes that work on the source's files, without gates and quotas, rewired to do without them."""
    kept = {n.name for n in pipeline.nodes if n.stage.name in MEASURED}
    if not {"ingest", "analyze"} <= {n.stage.name for n in pipeline.nodes}:
        raise ConfigError(
            [f"--estimate: pipeline {pipeline.name} analyses no footage; it can estimate curate and libragen"]
        )
    nodes = []
    for node in pipeline.order():
        lost = {key for key, output in node.inputs.items() if output.node not in kept}
        if node.name not in kept:
            continue
        if lost - node.stage.optional:
            kept.discard(node.name)
            continue
        nodes.append(replace(node, inputs={k: o for k, o in node.inputs.items() if k not in lost}))
    return tuple(nodes)


# -- what there is -----------------------------------------------------------------------------------------------------


def _list(nodes: Sequence[Node], config: Config, scratch: Path) -> pa.Table:
    """The source as ``ingest`` lists it: path, uri, media_type, bytes, caption, licence; sorted by path."""
    first = next(n for n in nodes if n.stage.name == "ingest")
    store = Store(str(scratch / "listing"))
    record = _run((first,), config, config.settings.source, store, _Quiet(), _TimedEngine())
    node = record.nodes[0]
    if node.state != "SUCCEEDED":
        raise StageError(node.message or "the source cannot be listed")
    columns = ["path", "uri", "media_type", "bytes", "caption", "licence"]
    return pads.dataset(node.outputs["sources"], format="parquet").to_table(columns=columns).sort_by("path")


@dataclass(frozen=True)
class _Frame:
    """The videos whose headers were read: ``rows`` among all videos, claimed ``seconds`` and ``work`` of each, and what
    the totals of all videos are, as multiples of theirs."""

    rows: np.ndarray
    seconds: np.ndarray
    work: np.ndarray
    all_seconds: Estimate
    all_work: Estimate
    local: bool

    @staticmethod
    def of(videos: pa.Table, seed: int, say: Callable[[str], None]) -> _Frame:
        size = videos.column("bytes").to_numpy().astype(float) + 1.0
        if "://" in videos.column("uri")[0].as_py():
            everything = np.arange(len(size))
            return _Frame(everything, size, size, constant(1.0), constant(1.0), local=False)
        strata = stratify(size, PROBES, seed)
        rows = np.sort(np.concatenate([stratum.sampled for stratum in strata]))
        say(f"reading {len(rows)} headers")
        seconds, work = np.zeros(len(size)), np.zeros(len(size))
        seconds[rows], work[rows] = claims(videos.column("uri").take(pa.array(rows)).to_pylist(), size[rows])
        return _Frame(
            rows,
            seconds[rows],
            work[rows],
            total(strata, size, seconds, seed).times(1 / seconds[rows].sum()),
            total(strata, size, work, seed).times(1 / work[rows].sum()),
            local=True,
        )


def claims(paths: Sequence[str], sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Claimed seconds of each file, and its work in seconds x frames x pixels; by bytes where a header does not say."""
    from models.video.guard import Guard, GuardedFailure, Limits

    claims = []
    with Guard(Limits(limit_s=20.0, stall_s=20.0, memory_bytes=1 << 30)) as guard:
        for path in paths:
            try:
                claims.append(guard.call("models.video.claims:claim", {"path": path}))
            except GuardedFailure:
                claims.append(None)
    seconds = np.array([c.seconds if c is not None and c.seconds else np.nan for c in claims])
    told = ~np.isnan(seconds)
    rate = seconds[told].sum() / sizes[told].sum() if told.any() else 1e-6
    seconds = np.maximum(np.where(told, seconds, sizes * rate), 0.01)
    # a frame costs something whatever its size: the scores are taken on a small plane
    per_second = [(c.fps or 25.0) * ((c.pixels or 0) / 1e6 + 0.2) if c is not None else 5.0 for c in claims]
    return seconds, seconds * np.clip(per_second, 1.0, 1e4)


# -- the sample --------------------------------------------------------------------------------------------------------


class _TimedEngine(InlineEngine):
    """Works in this process and counts what each stage's workers take per batch, without what they take to start: CPU
    seconds of this process and its children, so that a busy machine does not look like dear work; GPU seconds by the clock."""

    def __init__(self) -> None:
        self.stage = ""
        self.cpu_s: dict[str, float] = defaultdict(float)
        self.gpu_s: dict[str, float] = defaultdict(float)

    def map(
        self, actor: Callable[..., Any], batches: Sequence[Any], init: Mapping[str, Any], worker: Worker, size: int = 1
    ) -> Iterator[Any]:
        if not batches:
            return
        working = actor(**init)
        try:
            for batch in batches:
                cpu, started = _cpu_seconds(), time.monotonic()
                result = working(batch)
                self.cpu_s[self.stage] += _cpu_seconds() - cpu
                if worker.gpus:
                    self.gpu_s[self.stage] += (time.monotonic() - started) * worker.gpus
                yield result
        finally:
            close = getattr(working, "close", None)
            if close:
                close()


def _cpu_seconds() -> float:
    """CPU time of this process and all its children so far, those that have ended included."""
    import psutil

    me = psutil.Process()
    own = me.cpu_times()
    spent = own.user + own.system + own.children_user + own.children_system
    for child in me.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = child.cpu_times()
            spent += times.user + times.system
    return float(spent)


class _Quiet:
    """A reporter that says nothing but notes, and tells the engine whose work it times."""

    def __init__(self, engine: _TimedEngine | None = None) -> None:
        self.engine = engine

    def run_started(self, run: RunRecord) -> None:
        return

    def node_started(self, node: NodeRecord) -> None:
        if self.engine is not None:
            self.engine.stage = node.name

    def node_ended(self, node: NodeRecord) -> None:
        return

    def note(self, text: str) -> None:
        return

    def run_ended(self, run: RunRecord) -> None:
        return


def _run(
    nodes: tuple[Node, ...], config: Config, source: str | None, store: Store, reporter: _Quiet, engine: _TimedEngine
) -> RunRecord:
    limit = config.settings.limit if len(nodes) == 1 else None
    job = Job(
        pipeline=Pipeline("estimate", nodes),
        store=store,
        params=config.params,
        world=replace(config.world(), source=source, limit=limit),
        seed=config.settings.seed,
        engine=engine,
        local=Path(store.full("local")),
    )
    return run(job, reporter)


@dataclass(frozen=True)
class _Measured:
    """What the sample took and gave, by URI: seconds of footage, of analysis, clips, clips that pass the rules."""

    footage_s: dict[str, float]
    analysis_s: dict[str, float]
    clips: dict[str, int]
    kept: dict[str, int]
    cpu_s: dict[str, float]
    gpu_s: dict[str, float]
    notes: list[str]


def _work_off(
    nodes: tuple[Node, ...], config: Config, listed: Path, place: Path, say: Callable[[str], None]
) -> _Measured:
    engine = _TimedEngine()
    store = Store(str(place))
    record = _run(nodes, config, str(listed), store, _Quiet(engine), engine)
    notes = [
        f"{n.name} is not in it: {(n.message or '').partition(' The full traceback')[0]}"
        for n in record.nodes
        if n.state != "SUCCEEDED"
    ]
    found = StoredRun(store, record)
    if not found.has("videos"):
        raise StageError(f"the sample could not be analysed: {' '.join(notes)}")
    videos = found.dataset("videos").to_table(columns=["video_id", "uri", "duration_s", "media_type"]).to_pylist()
    uri = {row["video_id"]: row["uri"] for row in videos}
    footage = {row["uri"]: row["duration_s"] or 0.0 for row in videos if row["media_type"] == "video"}
    ledger = found.ledger()
    spent: dict[str, float] = {}
    if ledger is not None:
        analyzed = pc.field("stage") == found.manifests["analyze"].node
        for row in ledger.to_table(columns=["record_id", "seconds"], filter=analyzed).to_pylist():
            spent[uri[row["record_id"]]] = row["seconds"] or 0.0
    shots: dict[str, int] = defaultdict(int)
    kept: dict[str, int] = defaultdict(int)
    if found.has("clips") and found.has("selection"):
        passing = set(found.dataset("selection").to_table(filter=pc.field("kept")).column("clip_id").to_pylist())
        for row in found.dataset("clips").to_table(columns=["clip_id", "video_id"]).to_pylist():
            shots[uri[row["video_id"]]] += 1
            kept[uri[row["video_id"]]] += row["clip_id"] in passing
    say("")
    return _Measured(footage, spent, shots, kept, dict(engine.cpu_s), dict(engine.gpu_s), notes)


# -- the whole ---------------------------------------------------------------------------------------------------------


def _extrapolate(
    videos: pa.Table,
    images: pa.Table,
    frame: _Frame,
    drawn: Sequence[Stratum],
    measured: _Measured,
    pictures: int,
    seconds: float,
    seed: int,
) -> Forecast:
    uris = videos.column("uri").take(pa.array(frame.rows)).to_pylist()

    def by_seconds(values: Mapping[str, float]) -> Estimate:
        column = np.array([values.get(uri, 0.0) for uri in uris])
        return total(drawn, frame.seconds, column, seed).times(frame.all_seconds)

    def by_work(values: Mapping[str, float]) -> Estimate:
        column = np.array([values.get(uri, 0.0) for uri in uris])
        return total(drawn, frame.work, column, seed).times(frame.all_work)

    cpu: dict[str, Estimate] = {}
    gpu: dict[str, Estimate] = {}
    of_images = {uri: s for uri, s in measured.analysis_s.items() if uri not in measured.footage_s}
    spent = sum(measured.analysis_s.values())
    for costs, into in ((measured.cpu_s, cpu), (measured.gpu_s, gpu)):
        for stage, took in costs.items():
            if stage == "analyze":
                scale = took / spent if spent else 0.0  # with what committing the rows took
                part = by_work({uri: s * scale for uri, s in measured.analysis_s.items()})
                if of_images:
                    part = part.plus(constant(sum(of_images.values()) * scale / max(1, pictures) * images.num_rows))
            else:
                part = by_seconds(_shared(took, measured))
            into[stage] = part.times(1 / 3600)
    notes = [*measured.notes]
    if not frame.local:
        notes.append(
            "A remote source: no headers were read, so footage is taken as proportional to bytes; the interval is wide."
        )
    elif len(frame.rows) < videos.num_rows:
        notes.append(
            f"Headers of {len(frame.rows):,} of {videos.num_rows:,} videos were read; the others are taken to be like them."
        )
    return Forecast(
        videos=videos.num_rows,
        images=images.num_rows,
        bytes=int(pc.sum(videos.column("bytes")).as_py() + (pc.sum(images.column("bytes")).as_py() or 0)),
        probed=len(frame.rows) if frame.local else 0,
        sampled=sum(len(stratum.sampled) for stratum in drawn),
        sampled_images=pictures,
        sample_seconds=seconds,
        hours=by_seconds(measured.footage_s).times(1 / 3600),
        cpu=cpu,
        gpu=gpu,
        clips=by_seconds(measured.clips),
        kept=by_seconds(measured.kept),
        notes=[*notes, *UNKNOWN],
    )


def _shared(took: float, measured: _Measured) -> dict[str, float]:
    """A stage's seconds dealt out to files by their clips that pass the rules, else by footage."""
    parts: Mapping[str, float] = measured.kept if any(measured.kept.values()) else measured.footage_s
    whole = sum(parts.values()) or 1.0
    return {uri: took * part / whole for uri, part in parts.items()}
